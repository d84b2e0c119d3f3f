// What a model says about a device: newest values, and its score over time against the threshold.
import { HistoryChart } from "../charts/history.js";
import { unit as unitText, value } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { Model, State } from "../parts.js";
import { on } from "../stream.js";
import { t } from "../text.js";
import { useSeries } from "./history.js";

const NUMERIC = new Set(["f32", "f64", "i64", undefined]);

export function Results({ node, device, model, fields, range, onRange }) {
  const newest = useNewest(node, device, model.slot);
  const names = Object.keys(fields);
  const charted = names.includes("score")
    ? "score"
    : names.find((name) => NUMERIC.has(fields[name].t) && name !== "infer_ms" && name !== "frame");
  const alarm = newest?.alarm;
  return html`
    <section class="card results">
      <div class="card-head">
        <h2>${t("models")}</h2>
        <${Model} model=${model} />
        ${
          typeof alarm === "boolean" &&
          html`
            <span class="push verdict ${alarm ? "on" : ""}"><${State} state=${alarm ? "alarm" : "calm"} /></span>
          `
        }
      </div>
      ${
        model.why &&
        html`
          <p class="problem">${model.why}</p>
        `
      }
      <dl class="values">
        ${names
          .filter((name) => name !== "alarm" && name !== "frame")
          .map(
            (name) => html`
              <div key=${name}>
                <dt>${name === "infer_ms" ? t("models.latency") : name}</dt>
                <dd>
                  ${value(newest?.[name], fields[name].dec)}${" "}
                  <span class="muted small">${unitText(fields[name].unit)}</span>
                </dd>
              </div>
            `,
          )}
      </dl>
      ${
        !names.length &&
        html`
          <p class="empty">${t("models.none")}</p>
        `
      }
      ${
        charted &&
        html`
          <${Chart}
            key=${charted}
            node=${node}
            device=${device}
            stream=${model.slot}
            field=${charted}
            meta=${fields[charted]}
            range=${range}
            onRange=${onRange}
          />
        `
      }
    </section>
  `;
}

function Chart({ node, device, stream, field, meta, range, onRange }) {
  const { answer } = useSeries(node, device, stream, field, range);
  return html`
    <h3 class="muted">${field === "score" ? t("models.score") : meta.desc || field}</h3>
    <${HistoryChart}
      answer=${answer}
      name=${field}
      field=${meta}
      height=${150}
      onZoom=${(from, to) => onRange({ kind: "custom", from, to })}
      onReset=${() => onRange({ kind: "5min" })}
    />
  `;
}

function useNewest(node, device, slot) {
  const [newest, setNewest] = useState(null);
  useEffect(() => {
    let at = 0;
    return on("rows", (rows) => {
      if (rows.node !== node || rows.device !== device || rows.stream !== slot || rows.late || !rows.t?.length) return;
      if (performance.now() - at < 200) return; // no reader follows more than a few changes a second
      at = performance.now();
      setNewest(Object.fromEntries(Object.entries(rows.f).map(([name, column]) => [name, column.at(-1)])));
    });
  }, [node, device, slot]);
  return newest;
}
