// The pilots that the user may see: each with where it is now and what its nodes do, and the page of one.
import { ApiError, devicePath, get, remove } from "../api.js";
import { Acting, Refused, Table, useAct, useAnswer } from "../asking.js";
import { count, span, when } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { At, Failed, Icon, NodeName } from "../parts.js";
import { Arms, armText, placeText } from "../pilot.js";
import { Why } from "../reason.js";
import { mayOperate } from "../rights.js";
import { lang, t } from "../text.js";
import { EventTable } from "./events.js";
import { Report, reportPath, Verdict } from "./report.js";

const COMMANDS = `edgebed key signing acme.key
edgebed pilot freeze pilot.yaml --key acme.key --url ${location.origin}`;
const SHOWN = 5; // nodes of a pilot in the list
const EVENTS = 10; // of a node at first, and then the most that one answer has
const MOST_EVENTS = 500;
// state of a pilot, or of its node -> [icon, tone]
const STATES = {
  planned: ["wait", "idle"],
  baseline: ["wait", "note"],
  trial: ["wait", "note"],
  over: ["off", "idle"],
  withdrawn: ["off", "idle"],
  damaged: ["bad", "bad"],
  follows: ["ok", "good"],
  refuses: ["bad", "bad"],
  other: ["warn", "warn"],
  silent: ["unknown", "idle"],
};

export function PilotsView({ tenant, id }) {
  const [answer, error, load] = useAnswer("pilots");
  const plans = usePlans(answer);
  const found = pilotsOf(answer?.pilots ?? [], plans);
  if (!id)
    return html`
      <${List} answer=${answer} error=${error} pilots=${found} />
    `;
  const pilot = found.find((one) => one.owner === tenant && one.pilot === id);
  return html`
    <${One} pilot=${pilot} answer=${answer} error=${error} owner=${tenant} onChange=${() => load()} />
  `;
}

/** Every plan that was sent, also of pilots that no node has any more; asked for with each new answer. */
function usePlans(answer) {
  const [plans, setPlans] = useState([]);
  useEffect(() => {
    if (!answer) return undefined;
    const abort = new AbortController();
    get("pilots/plans", { signal: abort.signal }).then(
      (found) => setPlans(found.plans),
      (failed) => {
        if (failed.name !== "AbortError" && !(failed instanceof ApiError)) throw failed;
      },
    );
    return () => abort.abort();
  }, [answer]);
  return plans;
}

/**
 * The entries of the nodes by pilot, as the newest version of its plan has it, and the plans that no node has; what
 * runs comes first.
 */
function pilotsOf(entries, plans) {
  const found = new Map();
  for (const one of entries) {
    const key = `${one.owner}/${one.pilot}`;
    found.set(key, [...(found.get(key) ?? []), one]);
  }
  for (const one of plans) {
    const key = `${one.owner}/${one.pilot}`;
    if (!found.has(key)) found.set(key, [{ ...one, until: one.trial[1], isEnded: true }]); // the newest comes first
  }
  const order = ["damaged", "trial", "baseline", "planned", "over", "withdrawn"];
  return [...found.values()]
    .map((each) => {
      const head = each.reduce((newest, one) => (one.version > newest.version ? one : newest));
      return { ...head, entries: head.isEnded ? [] : each };
    })
    .sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state) || b.trial[0] - a.trial[0]);
}

const href = (one) => `#/pilots/${encodeURIComponent(one.owner)}/${encodeURIComponent(one.pilot)}`;
const titleOf = (one) => one.title[lang.value] ?? one.title.en;

function Stated({ state }) {
  const [icon, tone] = STATES[state] ?? ["unknown", "idle"];
  return html`
    <span class="state ${tone}" data-state=${state}>
      <${Icon} name=${icon} />
      <span>${t(`pilot.${state}`)}</span>
    </span>
  `;
}

// -- the list ---------------------------------------------------------------------------------------------

function List({ answer, error, pilots }) {
  return html`
    <div class="deck pilots">
      <section class="card">
        <div class="card-head"><h1>${t("nav.pilots")}</h1></div>
        <p class="muted lead">${t("pilot.text")}</p>
        <${Failed} error=${error} />
        ${
          answer &&
          !pilots.length &&
          html`
            <div class="empty">
              <p>${t("pilot.empty")}</p>
              <pre class="commands-to-run">${COMMANDS}</pre>
            </div>
          `
        }
      </section>
      ${pilots.map(
        (one) => html`
          <section key=${href(one)} class="card" data-pilot=${`${one.owner}/${one.pilot}`}>
            <${Head} one=${one} />
            ${
              one.entries.length > 0 &&
              html`
                <${Nodes} one=${one} most=${SHOWN} />
              `
            }
          </section>
        `,
      )}
    </div>
  `;
}

function Head({ one, isPage = false }) {
  return html`
    <div class="card-head">
      ${
        isPage
          ? html`
              <h1>${titleOf(one)}</h1>
            `
          : html`
              <h2><a href=${href(one)}>${titleOf(one)}</a></h2>
            `
      }
      <${Stated} state=${one.state} />
      ${
        !isPage &&
        one.state === "over" &&
        html`
          <${Verdict} pilot=${one} />
        `
      }
      ${
        one.version > 1 &&
        html`
          <span class="tag">${t("pilot.version", { n: count(one.version) })}</span>
        `
      }
    </div>
    <dl class="facts">
      <${Fact} name="owner">${one.owner} / ${one.pilot}<//>
      ${
        one.design &&
        html`
          <${Fact} name="design">${designText(one.design)}<//>
        `
      }
      ${
        one.state !== "damaged" &&
        html`
          <${Fact} name="window">
            <${At} ms=${one.trial[0]} />
            ${" – "}
            <${At} ms=${one.trial[1]} />
          <//>
        `
      }
      ${
        one.design &&
        html`
          <${Fact} name="done">
            ${t("pilot.of", { n: count(one.done), of: count(one.design.periods) })}
            <progress max=${one.design.periods} value=${one.done} aria-label=${t("pilot.done")} />
          <//>
        `
      }
      ${
        one.period &&
        html`
          <${Fact} name="now"><${Now} one=${one} /><//>
        `
      }
    </dl>
  `;
}

function Fact({ name, children }) {
  return html`
    <div data-fact=${name}>
      <dt>${t(`pilot.${name}`)}</dt>
      <dd>${children}</dd>
    </div>
  `;
}

/** The period of now, and what the schedule says for it. */
function Now({ one }) {
  const { number, arm, to } = one.period;
  return html`
    ${placeText(number < 0 ? "baseline" : "trial", number)}${": "}
    <b>${armText(arm)}</b>
    ${" "}
    <span class="muted">${t("pilot.until", { time: when(to) })}</span>
  `;
}

function designText({ kind, unit, periods }) {
  const [, n, step] = /^(\d+)(s|min|h)$/.exec(unit) ?? [];
  const length = n ? span(n * { s: 1_000, min: 60_000, h: 3_600_000 }[step]) : t(`pilot.unit.${unit}`);
  return `${t(`pilot.kind.${kind}`)}, ${t("pilot.periods", { n: count(periods), unit: length })}`;
}

// -- its nodes --------------------------------------------------------------------------------------------

/** Whether a node follows the plan that it was sent. */
function answerOf({ reported, hash }) {
  if (reported?.active === hash) return "follows";
  if (["rejected", "failed"].includes(reported?.state)) return "refuses";
  return reported?.active ? "other" : "silent";
}

function Nodes({ one, most = Infinity }) {
  const shown = one.entries.slice(0, most);
  const more = one.entries.length - shown.length;
  return html`
    <${Table} name=${t("pilot.nodes")} columns=${["node", "follows", "frozen", "switched"]}>
      ${shown.map(
        (each) => html`
          <${Row} key=${each.node} entry=${each} />
        `,
      )}
    <//>
    ${
      (more > 0 || one.entries.length < one.nodes) &&
      html`
        <p class="muted small">
          ${
            more > 0 &&
            html`
              <a href=${href(one)}>${t("pilot.more", { n: count(more) }, more)}</a>
              ${" "}
            `
          }
          ${one.entries.length < one.nodes && t("pilot.sent", { n: count(one.entries.length), of: count(one.nodes) })}
        </p>
      `
    }
  `;
}

function Row({ entry }) {
  const { node, online, reported, version, switched, period } = entry;
  const state = answerOf(entry);
  return html`
    <tr data-node=${node}>
      <th scope="row">
        <${NodeName} node=${node} />
        ${
          !online &&
          html`
            <span class="muted small">${t("state.offline")}</span>
          `
        }
      </th>
      <td data-label=${t("col.follows")} class="break">
        <${Stated} state=${state} />
        ${" "}
        <span class="muted small">${t("pilot.version", { n: count(version) })}</span>
        ${
          state === "silent" &&
          html`
            <div class="muted small">${t("pilot.silent.text")}</div>
          `
        }
        ${
          state !== "follows" &&
          reported?.err &&
          html`
            <div class="small">
              <${Why} reason=${{ why: reported.err, code: reported.code, args: reported.args }} />
            </div>
          `
        }
      </td>
      <td data-label=${t("col.frozen")}><${Frozen} entry=${entry} /></td>
      <td data-label=${t("col.switched")} class="break span">
        ${
          switched
            ? html`
                <${Arms} planned=${switched.planned} actual=${switched.actual} number=${switched.value} />
                <div class="muted small">
                  ${placeText(switched.phase, switched.period)}, ${t("pilot.since", { time: when(switched.from) })}
                </div>
                ${
                  period &&
                  switched.period !== period.number &&
                  html`
                    <div class="warn-text small">${t("pilot.behind")}</div>
                  `
                }
                <div class="small"><${Why} reason=${switched} /></div>
              `
            : html`
                <span class="muted">${t("pilot.unswitched")}</span>
              `
        }
      </td>
    </tr>
  `;
}

/** When the node recorded the plan, and whether that was before the trial. */
function Frozen({ entry }) {
  if (!entry.began)
    return html`
      <span class="muted">${t("pilot.unrecorded")}</span>
    `;
  return html`
    <span class=${entry.in_time ? "good-text" : "bad-text"} data-frozen=${entry.in_time ? "before" : "late"}>
      ${t(entry.in_time ? "pilot.before" : "pilot.late")}
    </span>
    <div class="muted small nowrap"><${At} ms=${entry.began} /></div>
  `;
}

// -- one pilot --------------------------------------------------------------------------------------------

function One({ pilot, answer, error, owner, onChange }) {
  const [ended, setEnded] = useState(null);
  const [act, refused] = useAct((answer) => {
    setEnded(answer);
    onChange();
  });
  const withdraw = () => act(() => remove(reportPath(pilot)));
  return html`
    <p class="crumbs">
      <a href="#/pilots">${t("nav.pilots")}</a>
      ${" "}
      <span aria-hidden="true">›</span>
      ${" "}
      <span>${owner}</span>
    </p>
    <div class="deck pilots">
      <section class="card" data-pilot=${pilot && `${pilot.owner}/${pilot.pilot}`}>
        <${Failed} error=${error} />
        ${
          pilot
            ? html`
                <${Head} one=${pilot} isPage=${true} />
                ${
                  mayOperate() &&
                  !pilot.isEnded &&
                  pilot.state !== "over" &&
                  html`
                    <div class="command-buttons">
                      <${Acting}
                        name="withdraw"
                        label=${t("pilot.withdraw")}
                        sure=${t("pilot.withdraw.sure", { pilot: titleOf(pilot), n: count(pilot.entries.length) })}
                        onAct=${withdraw}
                      />
                    </div>
                  `
                }
                ${
                  pilot.state === "damaged" &&
                  html`
                    <p class="problem" role="alert">${t("pilot.damaged.text", { plan: pilot.hash.slice(0, 12) })}</p>
                  `
                }
                <${Refused} error=${refused} />
                <${Ended} answer=${ended} />
                ${
                  !pilot.isEnded &&
                  html`
                    <h2>${t("pilot.nodes")}</h2>
                    <${Nodes} one=${pilot} />
                  `
                }
              `
            : answer &&
              html`
                <p class="empty">${t("pilot.none")}</p>
              `
        }
      </section>
      ${
        pilot &&
        pilot.state !== "damaged" &&
        html`
          <${Report} pilot=${pilot} />
          <${Recorded} entries=${pilot.isEnded ? pilot.nodes.map((node) => ({ node })) : pilot.entries} />
        `
      }
    </div>
  `;
}

/** Where a pilot that was withdrawn does not end now: nodes that are offline, and those that still have it. */
function Ended({ answer }) {
  if (!answer) return null;
  const { offline, refused, failed, hidden } = answer;
  const named = (key, nodes, n = nodes.length) =>
    n ? [t(`pilot.ended.${key}`, { n: count(n), nodes: nodes.join(", ") }, n)] : [];
  const lines = [
    ...named("offline", offline),
    ...named("refused", refused),
    ...Object.entries(failed).map(([node, why]) => `${node}: ${why}`),
    ...named("hidden", [], hidden),
  ];
  return lines.map(
    (line) => html`
      <p key=${line} class="hint break" role="status" data-left>${line}</p>
    `,
  );
}

/** What a node has recorded of its pilots, the newest first; asked again when it has recorded something. */
function useRecorded({ node, switched, began, reported }, most) {
  const [events, setEvents] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    const ask = (type) =>
      get(`${devicePath(node, "_")}/events`, { params: { type, limit: most }, signal: abort.signal });
    Promise.all([ask("exposure"), ask("pilot")]).then(
      (answers) => {
        const all = answers.flatMap((each) => each.events).sort((a, b) => b.ts - a.ts || b.seq - a.seq);
        setEvents(all.slice(0, most));
        setError(null);
      },
      (failed) => {
        if (failed.name === "AbortError") return;
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
      },
    );
    return () => abort.abort();
  }, [node, most, switched?.from, began, reported?.active]);
  return [events, error];
}

function Recorded({ entries }) {
  const [chosen, setChosen] = useState(entries[0].node);
  const [most, setMost] = useState(EVENTS);
  const entry = entries.find((one) => one.node === chosen) ?? entries[0];
  const [events, error] = useRecorded(entry, most);
  return html`
    <section class="card recorded">
      <div class="card-head">
        <h2>${t("pilot.recorded")}</h2>
        ${
          entries.length > 1 &&
          html`
            <label class="pick">
              <span class="hidden">${t("col.node")}</span>
              <select value=${entry.node} onChange=${(event) => setChosen(event.target.value)}>
                ${entries.map(
                  ({ node }) => html`
                    <option key=${node} value=${node}>${node}</option>
                  `,
                )}
              </select>
            </label>
          `
        }
      </div>
      <${Failed} error=${error} />
      ${
        events?.length > 0 &&
        html`
          <${EventTable} events=${events} />
        `
      }
      ${
        events?.length === 0 &&
        html`
          <p class="empty">${t("events.empty")}</p>
        `
      }
      ${
        events?.length === most &&
        most < MOST_EVENTS &&
        html`
          <p class="center">
            <button type="button" class="button" onClick=${() => setMost(MOST_EVENTS)}>${t("events.more")}</button>
          </p>
        `
      }
    </section>
  `;
}
