// The rollouts of model versions: the list of them, and one with its stages, gates and nodes.
import { post } from "../api.js";
import { Acting, Refused, Table, useAct, useAnswer } from "../asking.js";
import { count, NONE, percent, span, value } from "../format.js";
import { html, useMemo, useState } from "../html.js";
import { At, Failed, Icon, NodeName } from "../parts.js";
import { Why } from "../reason.js";
import { mayOperate } from "../rights.js";
import { known, t } from "../text.js";

const PAGE = 100; // nodes at once
const SHOWN = 20; // rollouts at first, and more with each press
// state of a rollout or of one of its nodes -> [icon, tone]
const STATES = {
  running: ["wait", "note"],
  paused: ["warn", "warn"],
  "rolling-back": ["wait", "warn"],
  "rolled-back": ["off", "idle"],
  aborted: ["off", "idle"],
  done: ["ok", "good"],
  waiting: ["wait", "idle"],
  offered: ["wait", "note"],
  confirmed: ["ok", "good"],
  failed: ["bad", "bad"],
  undoing: ["wait", "warn"],
  undone: ["off", "idle"],
  "left-out": ["off", "idle"],
  passed: ["ok", "good"],
  stopped: ["warn", "warn"],
  later: ["wait", "idle"],
};
// act -> the states in which the collector takes it
const ACTS = {
  pause: ["running"],
  resume: ["paused"],
  abort: ["running", "paused"],
  rollback: ["running", "paused", "done", "aborted"],
};
const takes = (one, act) =>
  ACTS[act].includes(one.state) &&
  !(act === "resume" && one.is_restored && !["running", "paused"].includes(one.was));

export function RolloutsView({ tenant, id }) {
  return id
    ? html`
        <${One} path=${`rollouts/${encodeURIComponent(tenant)}/${encodeURIComponent(id)}`} tenant=${tenant} />
      `
    : html`
        <div class="deck"><${List} /><${Candidates} /></div>
      `;
}

function RolloutState({ state, word = `rollout.${state}` }) {
  const [icon, tone] = STATES[state] ?? ["unknown", "idle"];
  return html`
    <span class="state ${tone}" data-state=${state}>
      <${Icon} name=${icon} />
      <span>${known(word) ? t(word) : state}</span>
    </span>
  `;
}

const countsText = (counts) =>
  Object.entries(counts)
    .map(([state, n]) => `${known(`rollout.${state}`) ? t(`rollout.${state}`) : state} ${count(n)}`)
    .join(", ");

const href = (one) => `#/rollouts/${encodeURIComponent(one.tenant)}/${encodeURIComponent(one.id)}`;

const stageText = (one) => t("rollout.stage.of", { stage: one.stage + 1, stages: one.stages.length });

// -- the list ---------------------------------------------------------------------------------------------

function List() {
  const [shown, setShown] = useState(SHOWN);
  const [answer, error] = useAnswer("rollouts", { limit: shown });
  const rollouts = answer?.rollouts ?? [];
  return html`
    <section class="card rollouts">
      <div class="card-head"><h1>${t("nav.rollouts")}</h1></div>
      <p class="muted lead">${t("rollout.text")}</p>
      <${Failed} error=${error} />
      ${
        answer &&
        !rollouts.length &&
        html`
          <p class="empty">${t("rollout.empty")}</p>
        `
      }
      ${
        rollouts.length > 0 &&
        html`
          <${Table} name=${t("nav.rollouts")} columns=${["version", "state", "stage", "nodes", "who", "time"]}>
            ${rollouts.map(
              (one) => html`
                <tr key=${one.id} data-rollout=${one.id}>
                  <th scope="row">
                    <a href=${href(one)}>${one.ref}</a>
                    <div class="muted small">${one.tenant} / ${one.slot}</div>
                  </th>
                  <td data-label=${t("col.state")}><${RolloutState} state=${one.state} /></td>
                  <td data-label=${t("col.stage")}>${stageText(one)}</td>
                  <td data-label=${t("col.nodes")}>${countsText(one.counts)}</td>
                  <td data-label=${t("col.who")} class="break">${one.by}</td>
                  <td data-label=${t("col.time")} class="nowrap"><${At} ms=${one.ts} /></td>
                </tr>
              `,
            )}
          <//>
          ${
            rollouts.length === shown &&
            shown < 500 &&
            html`
              <button type="button" class="button" onClick=${() => setShown(shown + SHOWN)}>
                ${t("more", { n: SHOWN })}
              </button>
            `
          }
        `
      }
    </section>
  `;
}

// -- candidates in shadow ---------------------------------------------------------------------------------

/** Nodes that lack something and are not named. */
const left = (one) => one.nodes.length - one.ready - one.lacks.length;

function Candidates() {
  const [answer, error, load] = useAnswer("candidates");
  const [act, refused] = useAct((made) => {
    location.hash = href(made);
  });
  const found = answer?.candidates ?? [];
  if (!found.length)
    return html`
      <${Failed} error=${error} />
    `;
  const promote = (one) =>
    act(() =>
      post(`rollouts/${encodeURIComponent(one.tenant)}/promote`, {
        model: `sha256:${one.digest}`,
        slot: one.slot,
        nodes: one.nodes,
      }),
    ).then(() => load());
  return html`
    <section class="card candidates">
      <div class="card-head"><h2>${t("candidates")}</h2></div>
      <p class="muted lead">
        ${t("candidates.text", { n: count(answer.min_n), share: percent(answer.min_agreement) })}
      </p>
      <${Refused} error=${refused} />
      <${Table} name=${t("candidates")} columns=${["version", "ready", "lacks"]}>
        ${found.map(
          (one) => html`
            <tr key=${`${one.tenant} ${one.slot} ${one.onnx}`} data-candidate=${one.ref}>
              <th scope="row">
                ${one.ref}
                <div class="muted small">${one.tenant} / ${one.slot}</div>
              </th>
              <td data-label=${t("col.ready")}>
                ${t("candidates.ready", { n: count(one.ready), of: count(one.nodes.length) })}
                ${
                  mayOperate() &&
                  html`
                    <div>
                      <${Acting}
                        name="promote"
                        label=${t("rollout.act.promote")}
                        sure=${t("rollout.sure.promote", { model: one.ref, n: count(one.nodes.length) })}
                        disabled=${!one.digest || one.ready < one.nodes.length}
                        onAct=${() => promote(one)}
                      />
                    </div>
                  `
                }
              </td>
              <td data-label=${t("col.lacks")} class="break span">
                ${!one.digest && t("candidates.push")}
                ${one.lacks.map(
                  (each) => html`
                    <div key=${each.node} class="small">
                      <span class="mono">${each.node}</span>: <${Why} reason=${each} />
                    </div>
                  `,
                )}
                ${left(one) > 0 && t("candidates.more", { n: count(left(one)) })}
              </td>
            </tr>
          `,
        )}
      <//>
    </section>
  `;
}

// -- one rollout ------------------------------------------------------------------------------------------

function One({ path, tenant }) {
  const [only, setOnly] = useState("");
  const [from, setFrom] = useState(0);
  const [answer, error, load] = useAnswer(path, { limit: PAGE, from, ...(only && { state: only }) });
  const [act, refused] = useAct(() => load());
  const choose = (state) => {
    setOnly(state);
    setFrom(0);
  };
  return html`
    <p class="crumbs">
      <a href="#/rollouts">${t("nav.rollouts")}</a>
      ${" "}
      <span aria-hidden="true">›</span>
      ${" "}
      <span>${tenant}</span>
    </p>
    <div class="deck">
    <section class="card rollout">
      <${Failed} error=${error} />
      ${
        answer &&
        html`
          <${Head} one=${answer} />
          ${mayOperate() && html`<${Acts} one=${answer} onAct=${(name) => act(() => post(`${path}/${name}`, {}))} />`}
          <${Refused} error=${refused} />
        `
      }
    </section>
    ${
      answer &&
      html`
        <${Stages} one=${answer} />
        <${Devices} one=${answer} only=${only} from=${from} onChoose=${choose} onTurn=${setFrom} />
      `
    }
    </div>
  `;
}

function Head({ one }) {
  return html`
    <div class="card-head">
      <h1>${t("rollout.title", { model: one.ref, slot: one.slot })}</h1>
      <${RolloutState} state=${one.state} />
      <span class="muted">${stageText(one)}</span>
    </div>
    ${
      one.why &&
      html`
        <p class=${one.code === "rollout-failed" ? "problem" : "muted"}><${Why} reason=${one} /></p>
      `
    }
    <p class="muted small">
      ${t("rollout.started", { by: one.by })}${" "}<${At} ms=${one.ts} />${" · "}
      <span class="mono" title=${`sha256:${one.digest}`}>${one.digest.slice(0, 12)}</span>
    </p>
  `;
}

function Acts({ one, onAct }) {
  const names = Object.keys(ACTS).filter((name) => takes(one, name));
  const n = count(Object.values(one.counts).reduce((sum, each) => sum + each, 0));
  return html`
    <div class="command-buttons">
      ${names.map(
        (name) => html`
          <${Acting}
            key=${name}
            name=${name}
            label=${t(`rollout.act.${name}`)}
            sure=${t(`rollout.sure.${name}`, { model: one.ref, n })}
            onAct=${() => onAct(name)}
          />
        `,
      )}
    </div>
  `;
}

function stageState(one, index) {
  if (index < one.stage || one.state === "done") return "passed";
  if (index > one.stage) return "later";
  return one.state === "running" ? "running" : one.state === "paused" ? "stopped" : one.state;
}

function Stages({ one }) {
  const failed = one.counts.failed ?? 0;
  const limit = one.confirm.p99_ms;
  return html`
    <section class="card stages">
      <div class="card-head"><h2>${t("rollout.stages")}</h2></div>
      <p class="muted lead">${t("rollout.stages.text")}</p>
      <${Table}
        name=${t("rollout.stages")}
        columns=${["stage", "state", "confirmed", "failed", "results", "nan", "errors", "p99", "waited"]}
      >
        ${one.gates.map(
          (stage, index) => html`
            <tr key=${index} data-stage=${index + 1}>
              <th scope="row">${t("rollout.stage.nodes", { stage: index + 1, n: count(one.stages[index]) })}</th>
              <td data-label=${t("col.state")}><${RolloutState} state=${stageState(one, index)} /></td>
              <td data-label=${t("col.confirmed")} data-gate="confirmed">
                ${t("rollout.of", { n: count(stage.counts.confirmed ?? 0), of: count(stage.nodes) })}
              </td>
              <${Gate}
                name="failed"
                shown=${count(stage.counts.failed ?? 0)}
                limit=${`≤ ${count(one.max_failed)}`}
                bad=${stage.counts.failed > 0 && failed > one.max_failed}
              />
              <${Gate}
                name="results"
                shown=${stage.results === null ? NONE : count(stage.results)}
                limit=${`≥ ${count(one.confirm.results)}`}
              />
              <${Gate}
                name="nan"
                shown=${shareText(stage.nan)}
                limit=${`≤ ${shareText(one.confirm.nan)}`}
                bad=${stage.nan > one.confirm.nan}
              />
              <${Gate}
                name="errors"
                shown=${shareText(stage.errors)}
                limit=${`≤ ${shareText(one.confirm.errors)}`}
                bad=${stage.errors > one.confirm.errors}
              />
              <${Gate}
                name="p99"
                shown=${stage.p99_ms === null ? NONE : `${value(stage.p99_ms)} ms`}
                limit=${limit ? `≤ ${value(limit)} ms` : t("rollout.budget")}
                bad=${limit > 0 && stage.p99_ms > limit}
              />
              <${Gate}
                name="waited"
                shown=${stage.waited_s === null ? NONE : span(1000 * stage.waited_s)}
                limit=${`≤ ${span(one.timeout_ms)}`}
              />
            </tr>
          `,
        )}
      <//>
    </section>
  `;
}

function Gate({ name, shown, limit, bad = false }) {
  return html`
    <td data-label=${t(`col.${name}`)} data-gate=${name} class="nowrap">
      <span class=${bad ? "bad-text" : ""}>${shown}</span>
      <div class="muted small">${limit}</div>
    </td>
  `;
}

const shareText = (x) => (Number.isFinite(x) ? `${value(100 * x)} %` : NONE);

function Devices({ one, only, from, onChoose, onTurn }) {
  const all = Object.values(one.counts).reduce((sum, each) => sum + each, 0);
  const last = from + one.devices.length;
  const rows = useMemo(
    () =>
      one.devices.map(
        (device) => html`
          <${Row} key=${device.node} one=${one} device=${device} />
        `,
      ),
    [JSON.stringify(one.devices)], // the waiting time above changes with each answer
  );
  return html`
    <section class="card rollout-nodes">
      <div class="card-head">
        <h2>${t("rollout.nodes")}</h2>
        <label class="pick">
          <span class="hidden">${t("col.state")}</span>
          <select value=${only} onChange=${(event) => onChoose(event.target.value)}>
            <option value="">${t("rollout.all", { n: count(all) })}</option>
            ${Object.entries(one.counts).map(
              ([state, n]) => html`
                <option key=${state} value=${state}>
                  ${t(`rollout.${state}`)} (${count(n)})
                </option>
              `,
            )}
          </select>
        </label>
        ${
          one.total > PAGE &&
          html`
            <span class="muted">${t("rollout.range", { from: count(from + 1), to: count(last), of: count(one.total) })}</span>
            <span class="steps">
              <${Turn} name="left" label="rollout.before" to=${from - PAGE} off=${from === 0} onTurn=${onTurn} />
              <${Turn} name="right" label="rollout.after" to=${from + PAGE} off=${last >= one.total} onTurn=${onTurn} />
            </span>
          `
        }
      </div>
      <${Table}
        name=${t("rollout.nodes")}
        columns=${["node", "state", "runs", "attempt", "results", "nan", "p99", "reason"]}
      >
        ${rows}
      <//>
    </section>
  `;
}

function Turn({ name, label, to, off, onTurn }) {
  return html`
    <button type="button" class="round" aria-label=${t(label)} title=${t(label)} disabled=${off} onClick=${() => onTurn(to)}>
      <${Icon} name=${name} />
    </button>
  `;
}

function Row({ one, device }) {
  const { now } = device;
  const slot = device.slot ?? {};
  const { n = 0, nan = 0, p99_ms: p99 = 0 } = slot.ran ?? {};
  const good = Math.max(slot.results ?? 0, n - nan);
  const runs = now?.slot?.digest ?? "";
  return html`
    <tr data-node=${device.node}>
      <th scope="row"><${NodeName} node=${device.node} /></th>
      <td data-label=${t("col.state")}>
        <${RolloutState} state=${device.state} />
        <div class="muted small nowrap">
          ${(device.offline || now?.online === false) && `${t("state.offline")} · `}
          ${device.since > 0 && html`<${At} ms=${device.since} />`}
        </div>
        ${
          device.state === "offered" &&
          now?.slot?.offered === one.digest &&
          html`
            <div class="small">${t(`version.${now.slot.state}`)}</div>
          `
        }
      </td>
      <td data-label=${t("col.runs")}>
        ${now?.ref ?? NONE}
        <div class="muted small nowrap">
          ${runs ? html`<span class="mono" title=${`sha256:${runs}`}>${runs.slice(0, 12)}</span>` : t("rollout.own")}
          ${now?.slot?.since > 0 && html`${" · "}<${At} ms=${now.slot.since} />`}
        </div>
      </td>
      <td data-label=${t("col.attempt")}>
        ${device.attempt ? count(device.attempt) : NONE}
        <div class="muted small mono" title=${t("rollout.offer")}>${(now?.slot?.offered ?? "").slice(0, 12)}</div>
      </td>
      <td data-label=${t("col.results")} class="nowrap">
        ${slot.of ? count(good) : NONE}
        ${slot.of > 0 && html`<div class="muted small">≥ ${count(slot.of)}</div>`}
      </td>
      <td data-label=${t("col.nan")} class="nowrap">${n ? shareText(nan / n) : NONE}</td>
      <td data-label=${t("col.p99")} class="nowrap">${n ? `${value(p99)} ms` : NONE}</td>
      <td data-label=${t("col.reason")} class="break span">
        <${Why} reason=${device.why ? device : slot.why ? slot : {}} />
        ${device.signed_by && html`${" "}<span class="tag" title=${t("signed", { key: device.signed_by })}>✓ ${device.signed_by}</span>`}
      </td>
    </tr>
  `;
}
