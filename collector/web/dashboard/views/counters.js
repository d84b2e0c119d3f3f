// Counters of a device and its models since their agent started: read, dropped, repaired.
import { count } from "../format.js";
import { html } from "../html.js";
import { known, t } from "../text.js";

/** @param models the models that run on the device */
export function Counters({ device, models }) {
  const groups = [[device.id, device.counters], ...models.map((model) => [model.slot, model.counters])].filter(
    ([, counters]) => Object.keys(counters ?? {}).length,
  );
  if (!groups.length) return null;
  return html`
    <section class="card counters">
      <div class="card-head">
        <h2>${t("counters")}</h2>
        <span class="muted">${t("counters.since")}</span>
      </div>
      ${groups.map(
        ([name, counters]) => html`
          <h3 class="muted small">${name}</h3>
          <dl class="values">
            ${Object.entries(counters).map(
              ([what, n]) => html`
                <div key=${what}>
                  <dt>${word(what)}</dt>
                  <dd>${count(n)}</dd>
                </div>
              `,
            )}
          </dl>
        `,
      )}
    </section>
  `;
}

// names with a part that comes from the device: its exception number, its word
const PATTERNS = [
  [/^exception_(\d+)$/, "exception_N"],
  [/^refused_(.+)$/, "refused_WHY"],
  [/^(.+)_events$/, "WORD_events"],
];

function word(name) {
  if (known(`counter.${name}`)) return t(`counter.${name}`);
  for (const [pattern, key] of PATTERNS) {
    const found = pattern.exec(name);
    if (found) return t(`counter.${key}`, { what: found[1].replaceAll("_", " ") });
  }
  return name.replaceAll("_", " ");
}
