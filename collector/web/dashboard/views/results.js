// A model's results for a device: its verdict, its newest values, and the main ones over time.
import { HistoryChart } from "../charts/history.js";
import { unit as unitText, value } from "../format.js";
import { html } from "../html.js";
import { fieldWord, Model, Verdict, verdictOf } from "../parts.js";
import { isNumber } from "../quantities.js";
import { Why } from "../reason.js";
import { t } from "../text.js";
import { useSeries } from "./history.js";

const ASIDE = new Set(["alarm", "label", "frame"]); // shown by the verdict, or not a quantity
const HEIGHT = { number: 150, switch: 90 };

export function Results({ node, device, model, fields, newest, range, onRange }) {
  const values = newest.value[model.slot];
  const band = bandOf(fields);
  const charted = chartOf(fields, band);
  return html`
    <section class="card results" data-slot=${model.slot}>
      <div class="card-head">
        <h2>${t("models.of", { slot: model.slot })}</h2>
        <${Model} model=${model} />
        <span class="push"><${Verdict} ...${verdictOf(model, values)} /></span>
      </div>
      ${
        model.why &&
        html`
          <p class="problem"><${Why} reason=${model} /></p>
        `
      }
      ${
        values
          ? html`
              <${Newest} values=${values} fields=${fields} band=${band} />
            `
          : html`
              <p class="empty">${t("models.none")}</p>
            `
      }
      ${
        values &&
        charted &&
        html`
          <${band ? BandChart : Chart}
            key=${charted}
            node=${node}
            device=${device}
            stream=${model.slot}
            field=${charted}
            meta=${fields[charted]}
            band=${band}
            range=${range}
            onRange=${onRange}
          />
        `
      }
    </section>
  `;
}

function Newest({ values, fields, band }) {
  const names = Object.keys(fields).filter(
    (name) => !ASIDE.has(name) && !(band && (name === band.low || name === band.high)) && matters(name, values),
  );
  if (!names.length) return null;
  return html`
    <dl class="values">
      ${names.map(
        (name) => html`
          <div key=${name}>
            <dt title=${fields[name].desc || undefined}>${fieldWord(name, fields[name])}</dt>
            <dd>
              ${shown(values[name], fields[name])}${" "}
              <span class="muted small">
                ${unitText(fields[name].unit)}
                ${
                  name === band?.main &&
                  ` ${t("models.band", { low: shown(values[band.low], fields[band.low]), high: shown(values[band.high], fields[band.high]) })}`
                }
              </span>
            </dd>
          </div>
        `,
      )}
    </dl>
  `;
}

/** Whether the worst part is shown: not while it has no points. */
const matters = (name, values) => !(name.startsWith("part") && values.part_score === 0);

/** A whole number of points is shown without decimals. */
const shown = (newest, field) => value(newest, Number.isInteger(newest) && !field.unit ? 0 : field.dec);

/** {main, low, high} where a number has a band: `energy`, `energy_low`, `energy_high`. */
function bandOf(fields) {
  const low = Object.keys(fields).find((name) => name.endsWith("_low"));
  const stem = low?.slice(0, -"_low".length);
  const high = `${stem}_high`;
  if (!low || !fields[high]) return null;
  const main = Object.keys(fields).find((name) => name !== low && name !== high && name.startsWith(stem));
  return main ? { main, low, high } : null;
}

function chartOf(fields, band) {
  if (band) return band.main;
  if (fields.label && fields.alarm) return "alarm"; // the share of the best class means little
  if (fields.score) return "score";
  return Object.keys(fields).find((name) => isNumber(fields[name]) && name !== "infer_ms" && name !== "frame");
}

function Chart({ node, device, stream, field, meta, range, onRange }) {
  const { answer } = useSeries(node, device, stream, field, range);
  return html`
    <${Drawn} answer=${answer} field=${field} meta=${meta} onRange=${onRange} />
  `;
}

function BandChart({ node, device, stream, field, meta, band, range, onRange }) {
  const { answers } = useSeries(node, device, stream, field, range, [band.low, band.high]);
  return html`
    <${Drawn} answer=${answers.length > 2 ? within(...answers) : null} field=${field} meta=${meta} onRange=${onRange} />
  `;
}

/** The series with its band as min and max: rows of one stream have the same times. */
function within(answer, low, high) {
  const at = (other) => {
    const means = new Map(other.t.map((time, i) => [time, other.mean[i]]));
    return answer.t.map((time) => means.get(time) ?? null);
  };
  return { ...answer, min: at(low), max: at(high), banded: true };
}

function Drawn({ answer, field, meta, onRange }) {
  return html`
    <h3 class="muted">${t("models.overtime", { field: fieldWord(field, meta) })}</h3>
    <${HistoryChart}
      answer=${answer}
      name=${field}
      field=${meta}
      raised=${field === "alarm"}
      height=${meta.t === "bool" ? HEIGHT.switch : HEIGHT.number}
      onZoom=${(from, to) => onRange({ kind: "custom", from, to })}
      onReset=${() => onRange({ kind: "5min" })}
    />
  `;
}
