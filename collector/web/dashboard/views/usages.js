// What each pilot used a UTC day, with the limits of its nodes.
import { useAnswer } from "../asking.js";
import { bytes, count, NONE } from "../format.js";
import { html, useState } from "../html.js";
import { Failed, NodeName } from "../parts.js";
import { Why } from "../reason.js";
import { t } from "../text.js";
import { cpuTime, limitText, megabytes } from "./usage.js";

const SHOWN = 5; // pilots at first, and more with each press
const COLUMNS = [
  ["cpu", (used) => cpuTime(used.cpu_s), "cpu_pct"],
  ["memory", (used) => megabytes(used.peak_mb), "memory_mb"],
  ["disk", (used) => megabytes(used.disk_mb), "disk_mb"],
  ["sent", (used) => bytes(used.sent_bytes), "uplink_kb_per_s"],
  ["inferences", (used) => count(used.inferences), "inferences_per_s"],
  ["skipped", (used) => count(used.skipped)],
];

export function UsagesView() {
  const [answer, error, load] = useAnswer("usage", {}, { everyMs: null });
  const [shown, setShown] = useState(SHOWN);
  const pilots = answer?.pilots ?? [];
  return html`
    <section class="card">
      <div class="card-head">
        <h1>${t("nav.usage")}</h1>
        <button type="button" class="button" onClick=${() => load()}>${t("reload")}</button>
      </div>
      <p class="muted lead">${t("pilots.text")}</p>
      <${Failed} error=${error} />
      ${
        answer &&
        !pilots.length &&
        html`
          <p class="empty">${t("pilots.empty")}</p>
        `
      }
    </section>
    ${pilots.slice(0, shown).map(
      (pilot) => html`
        <${Pilot} key=${pilot} pilot=${pilot} />
      `,
    )}
    ${
      pilots.length > shown &&
      html`
        <button type="button" class="button" onClick=${() => setShown(shown + SHOWN)}>
          ${t("pilots.more", { n: count(pilots.length - shown) })}
        </button>
      `
    }
  `;
}

function Pilot({ pilot }) {
  const [answer, error, load] = useAnswer("usage", { pilot }, { everyMs: null });
  return html`
    <section class="card pilot" data-pilot=${pilot}>
      <div class="card-head">
        <h2>${pilot}</h2>
        <button type="button" class="button" onClick=${() => load()}>${t("reload")}</button>
      </div>
      <${Failed} error=${error} />
      ${
        answer &&
        html`
          <${Table} name=${t("pilots.days")} first="day" rows=${answer.days.map((used) => [used.day, used.day, used])} />
          <${Table} name=${t("pilots.nodes")} first="node" rows=${answer.nodes.map(nodeRow)} />
        `
      }
    </section>
  `;
}

function nodeRow(node) {
  const name = html`
    <${NodeName} node=${node.node} />
    <${Limits} node=${node} />
  `;
  return [node.node, name, node.total];
}

/** The limits of a node, what keeps them, and the one that is reached now. */
function Limits({ node }) {
  const limits = COLUMNS.filter(([, , key]) => node.fence[key]).map(
    ([what, , key]) => `${t(`usage.${what}`)} ${limitText(key, node.fence[key])}`,
  );
  return html`
    <span class="muted small" data-limits>
      ${!node.metered && `${t("pilots.unmetered")} `}
      ${limits.length > 0 && t("pilots.limits", { limits: limits.join(", ") })}
      ${node.by && ` ${t(`fence.by.${node.by}`)}`}
      ${node.unread > 0 && ` ${t("pilots.unread", { n: count(node.unread) })}`}
    </span>
    ${node.trouble.map(
      (one, i) => html`
        <span key=${i} class="warn-text small" data-code=${one.reason?.code}>
          ${one.slot}${" "}<${Why} reason=${{ why: one.why, ...one.reason }} />
        </span>
      `,
    )}
  `;
}

function Table({ name, first, rows }) {
  if (!rows.length)
    return html`
      <p class="empty">${t("pilots.nodays")}</p>
    `;
  return html`
    <h3>${name}</h3>
    <div class="scroll" tabindex="0" role="region" aria-label=${name}>
      <table class="ledger">
        <thead>
          <tr>
            <th>${t(`col.${first}`)}</th>
            ${COLUMNS.map(
              ([what]) => html`
                <th key=${what} class="n">${t(`usage.${what}`)}</th>
              `,
            )}
          </tr>
        </thead>
        <tbody>
          ${rows.map(
            ([key, head, used]) => html`
              <tr key=${key} data-row=${key}>
                <th scope="row">${head}</th>
                ${COLUMNS.map(
                  ([what, shown]) => html`
                    <td key=${what} class="n" data-label=${t(`usage.${what}`)} data-what=${what}>
                      ${used ? shown(used) : NONE}
                    </td>
                  `,
                )}
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}
