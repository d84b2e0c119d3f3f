// The fleet: totals that must add up, then every node, those with problems first.
import { failure, loaded, nodeSignal, now, order, severity, totals } from "../fleet-state.js";
import { bytes, count, percent, span, utc, value, when } from "../format.js";
import { computed, html, useState } from "../html.js";
import {
  Ago,
  Clock,
  Icon,
  Model,
  modelsOn,
  NodeName,
  nodeHref,
  State,
  toneOf,
  Trouble,
  Verdict,
  verdictOf,
} from "../parts.js";
import { reasonText } from "../reason.js";
import { t } from "../text.js";
import { Welcome } from "./welcome.js";

const PAGE = 200; // rows drawn at once: thousands would make each tick slow
const COLUMNS = ["node", "state", "devices", "seen", "outbox", "stored", "clock", "load"];

export function FleetView() {
  const [filter, setFilter] = useState("");
  const [limit, setLimit] = useState(PAGE);
  if (!loaded.value)
    return html`
      <p class="loading" role="status">${failure.value ? t("lost.title") : t("loading")}</p>
    `;
  if (!order.value.length)
    return html`
      <${Welcome} />
    `;
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length ? order.value.filter((id) => matches(nodeSignal(id).value, words)) : order.value;
  return html`
    <h1 class="hidden">${t("nav.fleet")}</h1>
    <${Totals} />
    <div class="toolbar">
      <${States} />
      <label class="search">
        <${Icon} name="search" />
        <span class="hidden">${t("fleet.filter")}</span>
        <input
          type="search"
          placeholder=${t("fleet.filter")}
          value=${filter}
          maxlength="100"
          onInput=${(event) => setFilter(event.target.value)}
        />
      </label>
    </div>
    <${Unset} />
    <div class="fleet card" role="table" aria-label=${t("nav.fleet")} aria-rowcount=${order.value.length + 1}>
      <div class="fleet-row fleet-head" role="row">
        ${COLUMNS.map(
          (name) => html`
            <span role="columnheader" key=${name} class=${`c-${name}`}>${t(`col.${name}`)}</span>
          `,
        )}
      </div>
      ${found.slice(0, limit).map(
        (id) => html`
          <${Row} key=${id} id=${id} />
        `,
      )}
    </div>
    ${
      !found.length &&
      html`
        <p class="muted center">${t("fleet.nothing")}</p>
      `
    }
    ${
      found.length > limit &&
      html`
        <p class="center">
          <button type="button" class="button" onClick=${() => setLimit(limit + PAGE)}>
            ${t("more", { n: found.length - limit })}
          </button>
        </p>
      `
    }
  `;
}

function matches(node, words) {
  const text = [
    node.node,
    node.state,
    ...(node.devices ?? []).flatMap((d) => [d.id, d.type, d.state]),
    ...(node.models ?? []).flatMap((m) => [m.name, m.verdict?.label, m.verdict?.alarm && "alarm"]),
    ...(node.trouble ?? []).map((x) => x.code),
  ]
    .join(" ")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

const isUnset = (trouble) => trouble.reason?.code === "clock-never-set";
const unset = computed(() =>
  order.value.filter((id) => (nodeSignal(id).value.trouble ?? []).some(isUnset)).map((id) => id.split("/").at(-1)),
);

// of its own, so that a row is drawn again when this changes, and not with each change of any node
const together = computed(() => unset.value.length > 1);

/** The nodes whose clock was never set, in one line where there are several. */
function Unset() {
  if (!together.value) return null;
  const names = unset.value;
  return html`
    <ul class="troubles card" data-unset title=${names.join(", ")}>
      <${Trouble} trouble=${{ code: "clock-unsynced", sev: 2, why: t("fleet.unset", { n: names.length, all: order.value.length }) }} />
    </ul>
  `;
}

function Totals() {
  const all = totals.value;
  const balanced = all.taken === all.stored + all.waiting + all.lost;
  return html`
    <section class="totals card" aria-label=${t("totals")}>
      <${Figure} name="taken" n=${all.taken} />
      <span class="sign" aria-hidden="true">=</span>
      <${Figure} name="stored" n=${all.stored} />
      <span class="sign" aria-hidden="true">+</span>
      <${Figure} name="waiting" n=${all.waiting} tone=${all.waiting ? "note" : ""} />
      <span class="sign" aria-hidden="true">+</span>
      <${Figure}
        name="lost"
        n=${all.lost}
        tone=${all.missing ? "bad" : all.declared ? "warn" : "good"}
        note=${all.lost ? t("totals.split", { declared: count(all.declared), missing: count(all.missing) }) : ""}
      />
      <span class="figure aside">
        <span class="figure-name">${t("totals.duplicates")}</span>
        <b class="figure-n" data-total="duplicates">${count(all.duplicates)}</b>
      </span>
      <a class="proof ${!balanced || all.lost ? "idle" : "good"}" href="#/ledger">
        <${Icon} name=${!balanced ? "wait" : all.lost ? "warn" : "ok"} />
        ${t(!balanced ? "totals.settling" : all.lost ? "totals.accounted" : "totals.balanced")}
      </a>
    </section>
  `;
}

function Figure({ name, n, tone = "", note = "" }) {
  return html`
    <span class="figure ${tone}">
      <span class="figure-name" title=${t(`totals.${name}.long`)}>${t(`totals.${name}`)}</span>
      <b class="figure-n" data-total=${name}>${count(n)}</b>
      ${
        note &&
        html`
          <span class="figure-note">${note}</span>
        `
      }
    </span>
  `;
}

function States() {
  const states = new Map();
  for (const id of order.value) {
    const { state } = nodeSignal(id).value;
    states.set(state, (states.get(state) ?? 0) + 1);
  }
  return html`
    <p class="census">
      ${[...states].map(
        ([state, n]) => html`
          <span key=${state} class="census-item">
            <b>${count(n)}</b>
            <${State} state=${state} />
          </span>
        `,
      )}
    </p>
  `;
}

function Row({ id }) {
  const node = nodeSignal(id)?.value;
  if (!node) return null;
  const trouble = (node.trouble ?? []).filter((one) => !together.value || !isUnset(one));
  return html`
    <div
      class="fleet-row ${trouble.length ? `has-trouble ${toneOf(severity(node))}` : ""}"
      role="row"
      data-node=${node.node}
    >
      <span role="rowheader" class="c-node"><${NodeName} node=${node.node} /></span>
      <span role="cell" class="c-state">
        <${State} state=${node.state} />
        <span class="muted small"><${Since} at=${since(node)} /></span>
      </span>
      <span role="cell" class="c-devices"><${Devices} node=${node} /></span>
      <${Cell} name="seen"><${Ago} at=${node.last_seen} calm=${45_000} late=${120_000} /><//>
      <${Cell} name="outbox"><${Outbox} outbox=${node.outbox} /><//>
      <${Cell} name="stored"><${Stored} ledger=${node.ledger} /><//>
      <${Cell} name="clock">
        <${Clock} clk=${node.clk} skew=${node.skew_ms} />
        <span class="muted small">${node.agent && t("agent", { ver: node.agent })}</span>
      <//>
      <${Cell} name="load"><${Load} health=${node.health} /><//>
      ${
        trouble.length > 0 &&
        html`
          <span role="cell" class="c-trouble">
            <ul class="troubles" aria-label=${t("trouble")}>
              ${trouble.map(
                (one, i) => html`
                  <${Trouble} key=${i} trouble=${one} node=${node} />
                `,
              )}
            </ul>
          </span>
        `
      }
    </div>
  `;
}

function Cell({ name, children }) {
  return html`
    <span role="cell" class=${`c-${name}`}>
      <span class="label" aria-hidden="true">${t(`col.${name}`)}</span>
      <span class="cell-body">${children}</span>
    </span>
  `;
}

/** Since when: for `lost`, whose status the node left at the broker when it connected, the last sign of life. */
const since = (node) => (node.state === "lost" ? Math.max(node.since, node.last_seen) : node.since);

function Since({ at }) {
  return at > 0
    ? html`
        <time datetime=${new Date(at).toISOString()} title=${`${when(at)} · ${utc(at)}`}>
          ${t("since", { span: span(now.value - at) })}
        </time>
      `
    : null;
}

function Devices({ node }) {
  const devices = node.devices ?? [];
  const placed = new Set(devices.flatMap((device) => modelsOn(node, device)));
  const loose = (node.models ?? []).filter((model) => !placed.has(model));
  if (!devices.length)
    return html`
      <span class="muted">${t("fleet.nodevices")}</span>
    `;
  return html`
    <ul class="devices">
      ${devices.map((device) => {
        const models = modelsOn(node, device);
        return html`
          <li key=${device.id}>
            <a class="device" href=${nodeHref(node.node, device.id)}>
              <b>${device.id}</b>
              ${" "}
              ${
                device.type &&
                html`
                  <span class="muted">${device.type}</span>
                `
              }
            </a>
            <${State} state=${device.state} title=${reasonText(device) || undefined} />
            ${models.map(
              (model) => html`
                <span class="model-line" key=${model.slot}>
                  <${Model} model=${model} />
                  <${Verdict} ...${verdictOf(model)} />
                </span>
              `,
            )}
          </li>
        `;
      })}
      ${loose.map(
        (model) => html`
          <li key=${`model ${model.slot}`}><${Model} model=${model} /></li>
        `,
      )}
    </ul>
  `;
}

function Outbox({ outbox }) {
  if (!outbox || !Number.isFinite(outbox.depth))
    return html`
      <span class="muted">–</span>
    `;
  if (!outbox.depth)
    return html`
      <span class="muted">${t("outbox.empty")}</span>
    `;
  return html`
    <b class="note-text" data-depth>${count(outbox.depth)}</b>
    <span class="muted small" title=${bytes(outbox.bytes)}>
      ${t("outbox.oldest", { span: span((outbox.oldest_s ?? 0) * 1000) })}
    </span>
  `;
}

function Stored({ ledger }) {
  if (!ledger)
    return html`
      <span class="muted">–</span>
    `;
  const lost = (ledger.gap_count ?? 0) + (ledger.missing_count ?? 0);
  return html`
    <span>${count(ledger.stored)}</span>
    ${
      lost > 0 &&
      html`
        <span class="bad-text small">${t("stored.lost", { n: count(lost) })}</span>
      `
    }
  `;
}

function Load({ health }) {
  if (!health || !Number.isFinite(health.rss_mb))
    return html`
      <span class="muted">–</span>
    `;
  return html`
    <span>${value(health.rss_mb, 0)} MB</span>
    <span class="muted small">
      ${percent((health.cpu_pct ?? NaN) / 100)}${Number.isFinite(health.temp_c) ? ` · ${value(health.temp_c, 0)} °C` : ""}
    </span>
  `;
}
