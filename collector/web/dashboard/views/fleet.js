// The fleet: totals that must add up, then every node, those with problems first.
import { failure, loaded, nodeSignal, now, order, PAGE, place, severity, totals, view } from "../fleet-state.js";
import { bytes, count, percent, span, utc, value, when } from "../format.js";
import { computed, html, useEffect, useState } from "../html.js";
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

const TYPING_MS = 250; // the collector is asked when no letter follows for so long
const STATES = ["lost", "unknown", "offline", "sleeping", "online"];
const COLUMNS = ["node", "state", "devices", "seen", "outbox", "stored", "clock", "load"];

export function FleetView() {
  const [filter, setFilter] = useState(view.value.filter);
  useEffect(() => {
    const words = filter.trim();
    if (words === view.value.filter) return undefined;
    const timer = setTimeout(() => {
      view.value = { filter: words, trail: [] };
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }, [filter]);
  if (!loaded.value)
    return html`
      <p class="loading" role="status">${failure.value ? t("lost.title") : t("loading")}</p>
    `;
  if (!totals.value.nodes)
    return html`
      <${Welcome} />
    `;
  const { found, first } = place.value;
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
    <div class="fleet card" role="table" aria-label=${t("nav.fleet")} aria-rowcount=${found + 1}>
      <div class="fleet-row fleet-head" role="row">
        ${COLUMNS.map(
          (name) => html`
            <span role="columnheader" key=${name} class=${`c-${name}`}>${t(`col.${name}`)}</span>
          `,
        )}
      </div>
      ${order.value.map(
        (id, i) => html`
          <${Row} key=${id} id=${id} index=${first + i + 2} />
        `,
      )}
    </div>
    ${
      !order.value.length &&
      html`
        <p class="muted center">${t("fleet.nothing")}</p>
      `
    }
    <${Pages} />
  `;
}

/** Which part of the list this page shows, with buttons for the parts before and behind it. */
function Pages() {
  const { found, first, next } = place.value;
  const { filter, trail } = view.value;
  if (!next && !trail.length) return null;
  const go = (places) => {
    view.value = { filter, trail: places };
    scrollTo(0, 0);
  };
  const range = { from: count(first + 1), to: count(first + order.value.length), n: count(found) };
  return html`
    <nav class="pages" aria-label=${t("fleet.pages")}>
      <button type="button" class="button" disabled=${!trail.length} onClick=${() => go(trail.slice(0, -1))}>
        <${Icon} name="left" />
        ${t("fleet.before", { n: PAGE })}
      </button>
      <span class="muted" data-range>${t("fleet.range", range)}</span>
      <button type="button" class="button" disabled=${!next} onClick=${() => go([...trail, next])}>
        ${t("fleet.behind", { n: count(Math.min(PAGE, found - first - order.value.length)) })}
        <${Icon} name="right" />
      </button>
    </nav>
  `;
}

const isUnset = (trouble) => trouble.reason?.code === "clock-never-set";
// of its own, so that a row is drawn again when this changes, and not with each change of any node
const together = computed(() => totals.value.clocks_never_set > 1);

/** The nodes whose clock was never set, in one line where there are several. */
function Unset() {
  if (!together.value) return null;
  const counted = { n: count(totals.value.clocks_never_set), all: count(totals.value.nodes) };
  return html`
    <ul class="troubles card" data-unset>
      <${Trouble} trouble=${{ code: "clock-unsynced", sev: 2, why: t("fleet.unset", counted) }} />
    </ul>
  `;
}

const sums = computed(() => {
  const ledger = totals.value.ledger;
  const [declared, missing] = [ledger.gap_count ?? 0, ledger.missing_count ?? 0];
  return { taken: 0, stored: 0, waiting: 0, duplicates: 0, ...ledger, declared, missing, lost: declared + missing };
});

function Totals() {
  const all = sums.value;
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
  const states = Object.entries(totals.value.states).sort(([a], [b]) => STATES.indexOf(a) - STATES.indexOf(b));
  return html`
    <p class="census">
      ${states.map(
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

function Row({ id, index }) {
  const node = nodeSignal(id)?.value;
  if (!node) return null;
  const trouble = (node.trouble ?? []).filter((one) => !together.value || !isUnset(one));
  return html`
    <div
      class="fleet-row ${trouble.length ? `has-trouble ${toneOf(severity(node))}` : ""}"
      role="row"
      aria-rowindex=${index}
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
