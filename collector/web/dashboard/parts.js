// Small parts that all views share: icons, states in words, times that age.
import { now } from "./fleet-state.js";
import { count, NONE, share, span, utc, value, when } from "./format.js";
import { html } from "./html.js";
import { reasonText, Why } from "./reason.js";
import { known, t } from "./text.js";

const SHAPES = {
  ok: html`
    <circle cx="8" cy="8" r="6.5" />
    <path d="M5 8.2l2.1 2.1L11 6.2" />
  `,
  warn: html`
    <path d="M8 1.8l6.6 11.7H1.4z" />
    <path d="M8 6.2v3.4M8 11.6v.2" />
  `,
  bad: html`
    <path d="M5.3 1.5h5.4l3.8 3.8v5.4l-3.8 3.8H5.3L1.5 10.7V5.3z" />
    <path d="M5.7 5.7l4.6 4.6M10.3 5.7l-4.6 4.6" />
  `,
  off: html`
    <circle cx="8" cy="8" r="6.5" />
    <path d="M5 8h6" />
  `,
  sleep: html`
    <path d="M13.6 9.7A6 6 0 1 1 6.3 2.4a4.8 4.8 0 0 0 7.3 7.3z" />
  `,
  unknown: html`
    <circle cx="8" cy="8" r="6.5" />
    <path d="M6.2 6.3a1.9 1.9 0 1 1 2.6 1.8c-.6.3-.8.6-.8 1.3M8 11.6v.1" />
  `,
  hide: html`
    <path d="M2 8c1.6-2.7 3.6-4 6-4s4.4 1.3 6 4c-1.6 2.7-3.6 4-6 4s-4.4-1.3-6-4z" />
    <path d="M3 13L13 3" />
  `,
  wait: html`
    <circle cx="8" cy="8" r="6.5" />
    <path d="M8 4.5V8l2.4 1.6" />
  `,
  left: html`
    <path d="M10 3L5 8l5 5" />
  `,
  right: html`
    <path d="M6 3l5 5-5 5" />
  `,
  search: html`
    <circle cx="7" cy="7" r="4.5" />
    <path d="M10.5 10.5L14 14" />
  `,
  sun: html`
    <circle cx="8" cy="8" r="3" />
    <path
      d="M8 1.2v1.6M8 13.2v1.6M1.2 8h1.6M13.2 8h1.6M3.2 3.2l1.1 1.1M11.7 11.7l1.1 1.1M3.2 12.8l1.1-1.1M11.7 4.3l1.1-1.1"
    />
  `,
  moon: html`
    <path d="M13.6 9.7A6 6 0 1 1 6.3 2.4a4.8 4.8 0 0 0 7.3 7.3z" />
  `,
  auto: html`
    <circle cx="8" cy="8" r="6.5" />
    <path d="M8 1.5a6.5 6.5 0 0 1 0 13z" class="fill" />
  `,
  plug: html`
    <path d="M5.5 1.5v3M10.5 1.5v3M3.5 4.5h9v3a4.5 4.5 0 0 1-9 0zM8 12v2.5" />
  `,
};

export function Icon({ name }) {
  return html`
    <svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false">${SHAPES[name] ?? SHAPES.unknown}</svg>
  `;
}

// state -> [icon, tone]; a word is always beside it, so that colour is never the only sign
const STATES = {
  online: ["ok", "good"],
  ok: ["ok", "good"],
  starting: ["wait", "idle"],
  sleeping: ["sleep", "idle"],
  offline: ["off", "idle"],
  stopped: ["off", "idle"],
  unknown: ["unknown", "idle"],
  degraded: ["warn", "warn"],
  lost: ["bad", "bad"],
  failed: ["bad", "bad"],
  alarm: ["bad", "bad"],
  calm: ["ok", "good"],
};

export function State({ state, title }) {
  const [icon, tone] = STATES[state] ?? STATES.unknown;
  const word = known(`state.${state}`) ? t(`state.${state}`) : String(state);
  return html`
    <span class="state ${tone}" title=${title}>
      <${Icon} name=${icon} />
      <span>${word}</span>
    </span>
  `;
}

const LEVELS = ["idle", "note", "warn", "alarm", "bad"];
export const toneOf = (sev) => (sev >= 3 ? "bad" : sev >= 2 ? "warn" : sev >= 1 ? "note" : "idle");
const ICON_OF = { bad: "bad", warn: "warn", note: "wait", idle: "off" };

export function Severity({ sev }) {
  const tone = toneOf(sev);
  return html`
    <span class="state ${tone}">
      <${Icon} name=${ICON_OF[tone]} />
      <span>${t(`sev.${LEVELS[Math.max(0, Math.min(4, Math.floor(sev) || 0))]}`)}</span>
    </span>
  `;
}

/** The reason of a problem. A model's is that of its state: the text of the problem begins with its slot. */
function problemReason(trouble, node) {
  if (trouble.reason?.code === "clock-never-set") return {}; // the label states it
  const model = trouble.slot && node.models?.find((one) => one.slot === trouble.slot);
  return model ? { ...model, prefix: `${model.slot}: ` } : { why: trouble.why, ...trouble.reason };
}

export function Trouble({ trouble, node }) {
  const reason = problemReason(trouble, node);
  const tone = toneOf(trouble.sev);
  const label = known(`trouble.${trouble.code}`) ? t(`trouble.${trouble.code}`) : trouble.code;
  return html`
    <li class="trouble ${tone}">
      <${Icon} name=${ICON_OF[tone]} />
      <span class="trouble-text">
        <b>${label}</b>
        ${" "}
        ${
          trouble.device &&
          html`
            <span class="mono">${trouble.device}</span>
            ${" "}
          `
        }
        ${reason.prefix}
        <${Why} reason=${reason} />
      </span>
    </li>
  `;
}

/** How long ago, updated by itself; turns amber after `calm` and red after `late` milliseconds. */
export function Ago({ at, calm = Infinity, late = Infinity }) {
  if (!Number.isFinite(at) || at <= 0)
    return html`
      <span class="muted">${t("never")}</span>
    `;
  const age = Math.max(0, now.value - at);
  const tone = age > late ? "bad" : age > calm ? "warn" : "";
  return html`
    <time class="ago ${tone}" datetime=${new Date(at).toISOString()} title=${`${when(at)} · ${utc(at)}`}>
      ${t("ago", { span: span(age) })}
    </time>
  `;
}

/** Why an answer of the collector failed. */
export function Failed({ error }) {
  if (!error) return null;
  const key = `error.${error.status}`;
  return html`
    <p class="problem" role="alert" title=${error.message}>${known(key) ? t(key) : error.message}</p>
  `;
}

export function At({ ms }) {
  if (!(ms > 0)) return NONE;
  return html`
    <time datetime=${new Date(ms).toISOString()} title=${utc(ms)}>${when(ms)}</time>
  `;
}

export function Clock({ clk, skew }) {
  const word = t(clk === 2 ? "clock.ptp" : clk === 1 ? "clock.ntp" : clk === 0 ? "clock.unsynced" : "clock.unknown");
  const off = Math.abs(skew ?? 0) >= 1000 ? ` ${skew > 0 ? "+" : "−"}${span(Math.abs(skew))}` : "";
  return html`
    <span
      class=${clk === 0 ? "warn-text" : ""}
      title=${Number.isFinite(skew) ? t("clock.skew", { ms: count(skew) }) : undefined}
    >
      ${word}${off}
    </span>
  `;
}

const offerText = (offer) =>
  [
    `${(offer.offered ?? "").slice(0, 12)} (${count(offer.attempt ?? 0)})`,
    t("version.results", { n: count(offer.results ?? 0), of: count(offer.of ?? 0) }),
    reasonText(offer),
  ]
    .filter(Boolean)
    .join("\n");

/** What a second model gave beside the one of the slot, or in turns with it. */
const evidenceText = (found) =>
  [
    t(found.mode === "ab" ? "evidence.ab" : "evidence.shadow", {
      model: `${found.b?.name ?? ""}@${found.b?.ver ?? ""}`,
    }),
    found.n &&
      t("evidence.agreed", {
        share: share(found.agreed ?? 0, found.n),
        n: count(found.n),
        low: share(found.low ?? 0, 1),
        high: share(found.high ?? 1, 1),
      }),
    t("evidence.arms", {
      a: count(found.a?.alarms ?? 0),
      of_a: count(found.a?.n ?? 0),
      b: count(found.b?.alarms ?? 0),
      of_b: count(found.b?.n ?? 0),
    }),
    t("evidence.cost", {
      ms_a: found.a?.p99_ms ?? 0,
      ms_b: found.b?.p99_ms ?? 0,
      s_a: found.a?.cpu_s ?? 0,
      s_b: found.b?.cpu_s ?? 0,
    }),
    found.samples && t("evidence.samples", { n: count(found.samples) }),
    reasonText(found),
  ]
    .filter(Boolean)
    .join("\n");

function Evidence({ found }) {
  const agreed = found.mode !== "ab" && found.n ? ` ${share(found.agreed ?? 0, found.n)}` : "";
  return html`
    <span class=${found.state === "failed" ? "tag warn-text" : "tag"} title=${evidenceText(found)}>
      ${t(found.mode === "ab" ? "evidence.tag.ab" : "evidence.tag.shadow")}${agreed}
    </span>
  `;
}

export function Model({ model }) {
  const provider = String(model.provider ?? "").replace(/ExecutionProvider$/, "");
  return html`
    <span class="model" title=${reasonText(model) || undefined}>
      <span class="model-name">
        ${model.name}${" "}
        <span class="muted">${model.ver}</span>
      </span>
      ${
        model.state !== "ok" &&
        html`
          <${State} state=${model.state} />
        `
      }
      ${
        ["ok", "degraded"].includes(model.state) &&
        provider &&
        html`
          <span class="tag" title=${t("provider")}>${provider}</span>
          ${
            model.isolation === "process" &&
            html`
              <span class="tag" title=${t("isolation", { pid: model.pid, mb: count(model.mb) })}>
                ${t("process")}
              </span>
            `
          }
        `
      }
      ${
        model.signed_by &&
        html`
          <span class="tag" title=${t("signed", { key: model.signed_by })}>✓ ${model.signed_by}</span>
        `
      }
      ${
        (model.offer?.state ?? "idle") !== "idle" &&
        html`
          <span class="tag" title=${offerText(model.offer)}>${t(`version.${model.offer.state}`)}</span>
        `
      }
      ${
        model.evidence &&
        html`
          <${Evidence} found=${model.evidence} />
        `
      }
      ${Object.entries(model.tuned ?? {}).map(
        ([name, number]) => html`
          <span key=${name} class="tag" data-tuned=${name} title=${t("tuned")}>${name} = ${value(number)}</span>
        `,
      )}
    </span>
  `;
}

/** The models on a device. A lost node's status names no device: its results are a stream of the device. */
export const modelsOn = (node, device) =>
  (node.models ?? []).filter((model) =>
    model.device ? model.device === device.id : model.slot in (device.streams ?? {}),
  );

/** A model's verdict: from its newest values where the page has them, else from the fleet. */
export const verdictOf = (model, values) => values ?? model.verdict ?? {};

/** The class that a model names, and whether it is an alarm; nothing where it sends neither. */
export function Verdict({ label, alarm }) {
  const hasAlarm = typeof alarm === "boolean";
  if (typeof label !== "string" && !hasAlarm) return null;
  return html`
    <span class=${`verdict ${hasAlarm ? (alarm ? "on" : "") : "plain"}`}>
      ${
        label &&
        html`
          <b class="verdict-label">${label}</b>
        `
      }
      ${
        hasAlarm &&
        html`
          <${State} state=${alarm ? "alarm" : "calm"} />
        `
      }
    </span>
  `;
}

/** The label of a field of a model's results; `n` is a count, or a class with that name. */
export const fieldWord = (name, field) =>
  known(`field.${name}`) && (name !== "n" || field?.t === "i64") ? t(`field.${name}`) : name;

export const nodeHref = (node, device) => `#/device/${[...node.split("/"), device].map(encodeURIComponent).join("/")}`;

/** Where a device stands: a link to the fleet, then its node. */
export function Crumbs({ node }) {
  return html`
    <p class="crumbs">
      <a href="#/">${t("device.back")}</a>
      ${" "}
      <span aria-hidden="true">›</span>
      ${" "}
      <span>${node.replaceAll("/", " / ")}</span>
    </p>
  `;
}

export function NodeName({ node }) {
  const parts = node.split("/");
  const name = parts.pop();
  return html`
    <span class="node-name">
      <b>${name}</b>
      <span class="path">
        ${parts.map(
          (part, i) => html`
            <span class="nowrap" key=${i}>${part}${i < parts.length - 1 ? " /" : ""}</span>
            ${" "}
          `,
        )}
      </span>
    </span>
  `;
}

/** One choice of several, with arrow keys and one tab stop, like a native radio group. */
export function Choice({ label, options, value, onChange }) {
  const step = (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = (options.findIndex(([key]) => key === value) + by + options.length) % options.length;
    onChange(options[at][0]);
    event.currentTarget.children[at]?.focus();
  };
  return html`
    <div class="choice" role="radiogroup" aria-label=${label} onKeyDown=${step}>
      ${options.map(
        ([key, text]) => html`
          <button
            type="button"
            role="radio"
            key=${key}
            aria-checked=${key === value ? "true" : "false"}
            tabindex=${key === value || (value === null && key === options[0][0]) ? 0 : -1}
            onClick=${() => onChange(key)}
          >
            ${text}
          </button>
        `,
      )}
    </div>
  `;
}
