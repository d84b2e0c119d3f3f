// The newest value of every field that is readable as a number or a word; a number links to its chart.
import { unit as unitText, value } from "../format.js";
import { html, useState } from "../html.js";
import { decimalsOf, groupOf, isNumber } from "../quantities.js";
import { t } from "../text.js";

const READABLE_HZ = 20; // faster numbers are for a chart
const FIRST = 24;
const LONGEST = 80; // letters of a text

/**
 * @param streams [[stream, {field: declaration}, stream declaration]]
 * @param newest  signal of {stream: {field: value}}
 * @param shown   {stream, group} of the live chart
 */
export function Values({ streams, newest, shown, onShow }) {
  const [all, setAll] = useState(false);
  const cells = streams.flatMap(([stream, fields, declared]) =>
    Object.entries(fields)
      .filter(([, field]) => !isNumber(field) || !(declared.rate_hz > READABLE_HZ))
      .map(([name, field]) => ({ stream, name, field })),
  );
  const groups = new Set(cells.map(({ stream, name, field }) => `${stream}/${groupOf(name, field)}`));
  if (groups.size < 2 && cells.every(({ field }) => isNumber(field))) return null; // the chart shows all of it
  const named = new Set(cells.map(({ stream }) => stream)).size > 1;
  const first = all ? cells : cells.slice(0, FIRST);
  return html`
    <section class="card now">
      <div class="card-head"><h2>${t("values")}</h2></div>
      <dl class="cells">
        ${first.map(
          ({ stream, name, field }) => html`
            <${Cell}
              key=${`${stream}/${name}`}
              label=${named ? `${stream} · ${name}` : name}
              dec=${decimalsOf(name, field)}
              field=${field}
              newest=${newest.value[stream]?.[name]}
              chosen=${isNumber(field) && stream === shown.stream && groupOf(name, field) === shown.group}
              onShow=${isNumber(field) && (() => onShow({ stream, group: groupOf(name, field) }))}
            />
          `,
        )}
      </dl>
      ${
        first.length < cells.length &&
        html`
          <p class="center">
            <button type="button" class="button" onClick=${() => setAll(true)}>
              ${t("more", { n: cells.length - first.length })}
            </button>
          </p>
        `
      }
    </section>
  `;
}

function Cell({ label, dec, field, newest, chosen, onShow }) {
  const text = html`
    <b>${spoken(newest, dec)}</b>
    ${" "}
    <span class="muted small">${newest === null || newest === undefined ? "" : unitText(field.unit)}</span>
  `;
  return html`
    <div class=${chosen ? "cell chosen" : "cell"} title=${field.desc || undefined}>
      <dt>${breakable(label)}</dt>
      <dd>
        ${
          onShow
            ? html`
                <button type="button" class="plain" title=${t("values.show")} onClick=${onShow}>${text}</button>
              `
            : text
        }
      </dd>
    </div>
  `;
}

/** A long name breaks after its underscores. */
const breakable = (name) =>
  name.split("_").flatMap((part, i) =>
    i
      ? [
          html`
            <wbr />
          `,
          `_${part}`,
        ]
      : [part],
  );

function spoken(newest, dec) {
  if (newest !== null && typeof newest === "object") newest = JSON.stringify(newest);
  if (typeof newest === "string")
    return newest.length > LONGEST ? `${newest.slice(0, LONGEST - 1)}…` : newest || value(NaN);
  return value(newest, dec);
}
