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
    ["cpu", finite(used.cpu_s, cpuTime), "cpu_pct"],
    ["memory", finite(used.peak_mb, megabytes), "memory_mb"],
    ["disk", finite(used.disk_mb, megabytes), "disk_mb"],
    ["sent", finite(used.sent_bytes, bytes), "uplink_kb_per_s"],
    ["inferences", finite(used.inferences, count), "inferences_per_s"],
    ["skipped", finite(used.skipped, count)],
  ];
  return html`
    <section class="card usage">
      <div class="card-head">
        <h2>${t("usage")}</h2>
        <span class="muted">
          ${t("usage.day", { day: used.day })}
          ${node.fence_by && ` · ${t(`fence.by.${node.fence_by}`)}`}
        </span>
      </div>
      <dl class="values">
        ${rows.map(
          ([what, amount, key]) => html`
            <div key=${what}>
              <dt>${t(`usage.${what}`)}</dt>
              <dd>${limits[key] ? t("usage.limit", { used: amount, limit: limitText(key, limits[key]) }) : amount}</dd>
            </div>
          `,
        )}
      </dl>
    </section>
  `;
}

const LIMITS = {
  cpu_pct: (limit) => `${value(limit, 0)} %`,
  memory_mb: (limit) => megabytes(limit),
  disk_mb: (limit) => megabytes(limit),
  uplink_kb_per_s: (limit) => `${bytes(1000 * limit)}/s`,
  inferences_per_s: (limit) => `${value(limit)}/s`,
};

/** A limit of the fence with its unit. */
export const limitText = (key, limit) => LIMITS[key](limit);

export const megabytes = (mb) => `${value(mb, mb < 10 ? 1 : 0)} MB`;

export const cpuTime = (s) => (s < 120 ? t("span.s", { s: value(s, 1) }) : span(1000 * s));

function finite(x, shown) {
  return Number.isFinite(x) ? shown(x) : NONE;
}
