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
                  <dt>${known(`counter.${what}`) ? t(`counter.${what}`) : what.replaceAll("_", " ")}</dt>
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
