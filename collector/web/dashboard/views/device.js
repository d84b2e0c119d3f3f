// One device: picture, live values, model results, history, events.
import { answeredFor, loaded, nodeSignal } from "../fleet-state.js";
import { html, useState } from "../html.js";
import { useNewest } from "../newest.js";
import { Ago, Crumbs, fieldWord, Model, modelsOn, State, Trouble, Verdict, verdictOf } from "../parts.js";
import { numbers } from "../quantities.js";
import { reasonText } from "../reason.js";
import { t } from "../text.js";
import { Commands } from "./commands.js";
import { Configuration } from "./configuration.js";
import { Counters } from "./counters.js";
import { Events } from "./events.js";
import { History } from "./history.js";
import { firstShown, Live } from "./live.js";
import { Results } from "./results.js";
import { Snapshot } from "./snapshot.js";
import { FormerDevices, StoredDevice } from "./stored.js";
import { placesOf, Track } from "./track.js";
import { Usage } from "./usage.js";
import { Values } from "./values.js";

const asItIs = (name) => name;
const COUNTERS = new Set(["frame"]); // the frame of a result: a number, but not a quantity

export function DeviceView({ node, device }) {
  const ready = loaded.value && answeredFor.value === node;
  const known = nodeSignal(node)?.value;
  const found = known?.devices?.find((one) => one.id === device);
  if (!found) {
    const text = ready ? t("device.unknown") : t("loading");
    const unknown = html`
      <section class="card">
        <a class="back" href="#/">← ${t("device.back")}</a>
        <p class="empty">${text}</p>
      </section>
    `;
    if (!ready) return unknown;
    return html`
      <${StoredDevice} node=${node} device=${device} unknown=${unknown} />
    `;
  }
  return html`
    <${Page} node=${known} device=${found} />
  `;
}

function Page({ node, device }) {
  const models = modelsOn(node, device);
  const slots = new Set(models.map((model) => model.slot));
  const streams = signalStreams(device, slots);
  const raw = streams.filter(([name]) => !slots.has(name));
  const results = streams.filter(([name]) => slots.has(name));
  const frames = Object.entries(device.streams ?? {})
    .filter(([, stream]) => stream.kind === "frame")
    .map(([name]) => name);
  const [range, setRange] = useState({ kind: "5min" });
  const [picked, setPicked] = useState(null);
  const newest = useNewest(node.node, device.id);
  const where = { node: node.node, device: device.id };
  const trouble = (node.trouble ?? []).filter((one) => !one.device || one.device === device.id);
  const drawn = charted(raw).length ? charted(raw) : charted(results);
  const shown = drawn.length ? (picked ?? firstShown(drawn)) : {};
  const places = placesOf(raw);
  const kept = [...raw, ...results].map(keepable).filter(([, fields]) => Object.keys(fields).length);
  const layout = [
    "deck",
    frames.length && "with-picture",
    places && !frames.length && "placed",
    models.length > 1 && "paired",
  ];
  return html`
    <${Head} node=${node} device=${device} models=${models} trouble=${trouble} newest=${newest} />
    <div class=${layout.filter(Boolean).join(" ")}>
      ${
        frames.length > 0 &&
        html`
          <${Snapshot} key=${frames[0]} ...${where} stream=${frames[0]} />
        `
      }
      ${
        drawn.length > 0
          ? html`
              <${Live}
                ...${where}
                streams=${drawn}
                word=${charted(raw).length ? asItIs : fieldWord}
                shown=${shown}
                onShow=${setPicked}
                height=${frames.length ? 200 : 260}
              />
            `
          : html`
              <section class="card">
                <h2>${t("live")}</h2>
                <p class="empty">${t("device.nosignals")}</p>
              </section>
            `
      }
      ${
        places &&
        html`
          <${Track} ...${where} places=${places} range=${range} />
        `
      }
      ${
        raw.length > 0 &&
        html`
          <${Values} streams=${raw} newest=${newest} shown=${shown} onShow=${setPicked} />
        `
      }
      ${models.map(
        (model) => html`
          <${Results}
            key=${model.slot}
            ...${where}
            model=${model}
            fields=${device.streams?.[model.slot]?.fields ?? {}}
            newest=${newest}
            range=${range}
            onRange=${setRange}
          />
        `,
      )}
      ${
        kept.length > 0 &&
        html`
          <${History} ...${where} streams=${kept} slots=${slots} range=${range} onRange=${setRange} />
        `
      }
      <${Events} ...${where} />
      <${Counters} device=${device} models=${models} />
      <${Commands} key=${`${node.node}/${device.id}`} node=${node.node} device=${device.id} />
      <${Configuration} key=${node.node} node=${node.node} />
      <${Usage} node=${node} />
    </div>
    <${FormerDevices} node=${node} />
  `;
}

/** [[stream, {field: declaration}, stream declaration]] of all streams without pictures. */
function signalStreams(device, slots) {
  const kept =
    (stream) =>
    ([name]) =>
      !(slots.has(stream) && COUNTERS.has(name));
  return Object.entries(device.streams ?? {})
    .filter(([, stream]) => stream.kind !== "frame")
    .map(([name, stream]) => [name, Object.fromEntries(Object.entries(stream.fields ?? {}).filter(kept(name))), stream])
    .filter(([, fields]) => Object.keys(fields).length);
}

/** The streams with numbers, and only their numbers. */
function charted(streams) {
  return streams
    .map(([name, fields, stream]) => [name, numbers(fields), stream])
    .filter(([, fields]) => Object.keys(fields).length);
}

/** The fields that the history can show: numbers, then yes and no. */
function keepable([name, fields, stream]) {
  const switches = Object.entries(fields).filter(([, field]) => field.t === "bool");
  return [name, { ...numbers(fields), ...Object.fromEntries(switches) }, stream];
}

function Head({ node, device, models, trouble, newest }) {
  return html`
    <section class="device-head">
      <${Crumbs} node=${node.node} />
      <div class="device-line">
        <h1>${device.id}</h1>
        ${
          device.type &&
          html`
            <span class="muted">${device.type}</span>
          `
        }
        <${State} state=${device.state} title=${reasonText(device) || undefined} />
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
            <span class="model-line" key=${model.slot}>
              <${Model} model=${model} />
              <${Verdict} ...${verdictOf(model, newest.value[model.slot])} />
            </span>
          `,
        )}
      </div>
      ${
        trouble.length > 0 &&
        html`
          <ul class="troubles card">
            ${trouble.map(
              (one, i) => html`
                <${Trouble} key=${i} trouble=${one} node=${node} />
              `,
            )}
          </ul>
        `
      }
    </section>
  `;
}
