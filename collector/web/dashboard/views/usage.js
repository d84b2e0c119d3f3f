// What a node used on the UTC day of its newest heartbeat, beside the limits of its fence.
import { bytes, count, NONE, span, value } from "../format.js";
import { html } from "../html.js";
import { t } from "../text.js";

/** @param node the node with `usage` and `fence` */
export function Usage({ node }) {
  const used = node.usage ?? {};
  const limits = node.fence ?? {};
  if (!used.day) return null;
  const rows = [
    ["cpu", finite(used.cpu_s, (s) => span(1000 * s)), limits.cpu_pct && `${value(limits.cpu_pct, 0)} %`],
    ["memory", finite(used.peak_mb, megabytes), limits.memory_mb && megabytes(limits.memory_mb)],
    ["disk", finite(used.disk_mb, megabytes)],
    ["sent", finite(used.sent_bytes, bytes), limits.uplink_kb_per_s && `${bytes(1000 * limits.uplink_kb_per_s)}/s`],
    ["inferences", finite(used.inferences, count), limits.inferences_per_s && `${value(limits.inferences_per_s)}/s`],
    ["skipped", finite(used.skipped, count)],
  ];
  return html`
    <section class="card usage">
      <div class="card-head">
        <h2>${t("usage")}</h2>
        <span class="muted">${t("usage.day", { day: used.day })}</span>
      </div>
      <dl class="values">
        ${rows.map(
          ([what, amount, limit]) => html`
            <div key=${what}>
              <dt>${t(`usage.${what}`)}</dt>
              <dd>${limit ? t("usage.limit", { used: amount, limit }) : amount}</dd>
            </div>
          `,
        )}
      </dl>
    </section>
  `;
}

const megabytes = (mb) => `${value(mb, 0)} MB`;

function finite(x, shown) {
  return Number.isFinite(x) ? shown(x) : NONE;
}
