// One device: what it sees, what it sends now, what its models say, what was kept, what happened.
import { loaded, nodeSignal, order } from "../fleet-state.js";
import { html, useState } from "../html.js";
import { Ago, Model, State, Trouble } from "../parts.js";
import { t } from "../text.js";
import { Events } from "./events.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { Results } from "./results.js";
import { Snapshot } from "./snapshot.js";

const NUMERIC = new Set(["f32", "f64", "i64", "bool", undefined]);
const COUNTERS = new Set(["frame"]); // which frame a result is about: a number, but no quantity

export function DeviceView({ node, device }) {
  const known = order.value.includes(node) ? nodeSignal(node).value : null;
  const found = known?.devices?.find((one) => one.id === device);
  if (!found) {
    const text = loaded.value ? t("device.unknown") : t("loading");
    return html`
      <section class="card">
        <a class="back" href="#/">← ${t("device.back")}</a>
        <p class="empty">${text}</p>
      </section>
    `;
  }
  return html`
    <${Page} node=${known} device=${found} />
  `;
}

function Page({ node, device }) {
  const models = (node.models ?? []).filter((model) => model.device === device.id);
  const slots = new Set(models.map((model) => model.slot));
  const streams = numericStreams(device, slots);
  const raw = streams.filter(([name]) => !slots.has(name));
  const frames = Object.entries(device.streams ?? {})
    .filter(([, stream]) => stream.kind === "frame")
    .map(([name]) => name);
  const [range, setRange] = useState({ kind: "5min" });
  const where = { node: node.node, device: device.id };
  const trouble = (node.trouble ?? []).filter((one) => !one.device || one.device === device.id);
  const shown = raw.length ? raw : streams;
  return html`
    <${Head} node=${node} device=${device} models=${models} trouble=${trouble} />
    <div class=${`deck ${frames.length ? "with-picture" : ""}`}>
      ${
        frames.length > 0 &&
        html`
          <${Snapshot} key=${frames[0]} ...${where} stream=${frames[0]} />
        `
      }
      ${
        shown.length > 0
          ? html`
              <${Live} ...${where} streams=${shown} height=${frames.length ? 200 : 260} />
            `
          : html`
              <section class="card">
                <h2>${t("live")}</h2>
                <p class="empty">${t("device.nosignals")}</p>
              </section>
            `
      }
      ${models.map(
        (model) => html`
          <${Results}
            key=${model.slot}
            ...${where}
            model=${model}
            fields=${device.streams?.[model.slot]?.fields ?? {}}
            range=${range}
            onRange=${setRange}
          />
        `,
      )}
      ${
        streams.length > 0 &&
        html`
          <${History}
            ...${where}
            streams=${[...raw, ...streams.filter(([name]) => slots.has(name))]}
            range=${range}
            onRange=${setRange}
          />
        `
      }
      <${Events} ...${where} />
    </div>
  `;
}

/** [[stream, {field: declaration}]] with the fields a chart can show. */
function numericStreams(device, slots) {
  const shown =
    (stream) =>
    ([name, field]) =>
      NUMERIC.has(field.t) && !(slots.has(stream) && COUNTERS.has(name));
  return Object.entries(device.streams ?? {})
    .filter(([, stream]) => stream.kind !== "frame")
    .map(([name, stream]) => [
      name,
      Object.fromEntries(Object.entries(stream.fields ?? {}).filter(shown(name))),
      stream,
    ])
    .filter(([, fields]) => Object.keys(fields).length);
}

function Head({ node, device, models, trouble }) {
  return html`
    <section class="device-head">
      <p class="crumbs">
        <a href="#/">${t("device.back")}</a>
        ${" "}
        <span aria-hidden="true">›</span>
        ${" "}
        <span>${node.node.replaceAll("/", " / ")}</span>
      </p>
      <div class="device-line">
        <h1>${device.id}</h1>
        ${
          device.type &&
          html`
            <span class="muted">${device.type}</span>
          `
        }
        <${State} state=${device.state} title=${device.why || undefined} />
        ${
          node.state !== "online" &&
          html`
            <span class="muted">
              ${t("col.node")}:${" "}
              <${State} state=${node.state} />
            </span>
          `
        }
        <span class="muted">
          ${t("col.seen")}${" "}
          <${Ago} at=${node.last_seen} calm=${45_000} late=${120_000} />
        </span>
        ${models.map(
          (model) => html`
            <${Model} key=${model.slot} model=${model} />
          `,
        )}
      </div>
      ${
        trouble.length > 0 &&
        html`
          <ul class="troubles card">
            ${trouble.map(
              (one, i) => html`
                <${Trouble} key=${i} trouble=${one} />
              `,
            )}
          </ul>
        `
      }
    </section>
  `;
}
