// The proof: per node and outbox, what was taken must be stored, waiting, or declared lost with a reason.
import { ApiError, get } from "../api.js";
import { count } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { At, Icon, NodeName } from "../parts.js";
import { t } from "../text.js";

const EVERY_MS = 5000;
const SHOWN = 5; // ranges listed per entry

export function LedgerView() {
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    const load = async () => {
      try {
        if (!document.hidden) setAnswer(await get("ledger", { signal: abort.signal }));
        setError("");
      } catch (failed) {
        if (failed.name === "AbortError") return;
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed.message);
      }
    };
    load();
    const timer = setInterval(load, EVERY_MS);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }, []);
  return html`
    <section class="card">
      <div class="card-head"><h1>${t("nav.ledger")}</h1></div>
      <p class="muted lead">${t("ledger.text")}</p>
      ${
        error &&
        html`
          <p class="problem" role="alert">${error}</p>
        `
      }
      ${
        answer &&
        (answer.entries.length
          ? html`
              <${Entries} entries=${answer.entries} />
            `
          : html`
              <p class="empty">${t("ledger.empty")}</p>
            `)
      }
      <dl class="glossary">
        ${["taken", "stored", "waiting", "declared", "missing", "duplicates"].map(
          (name) => html`
            <div key=${name}>
              <dt>${t(`totals.${name}`)}</dt>
              <dd>${t(`totals.${name}.long`)}</dd>
            </div>
          `,
        )}
      </dl>
    </section>
  `;
}

function Entries({ entries }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${t("nav.ledger")}>
      <table class="ledger">
        <thead>
          <tr>
            <th>${t("col.node")}</th>
            ${["taken", "stored", "waiting", "declared", "missing", "duplicates"].map(
              (name) => html`
                <th key=${name} class="n" title=${t(`totals.${name}.long`)}>${t(`totals.${name}`)}</th>
              `,
            )}
            <th class="n">${t("col.rows")}</th>
            <th>${t("col.span")}</th>
          </tr>
        </thead>
        <tbody>
          ${entries.map(
            (entry) => html`
              <${Entry} key=${entry.node + entry.ep} entry=${entry} />
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}

function Count({ name, n, tone = "", icon = "" }) {
  return html`
    <td class=${`n ${tone}`} data-label=${t(name)}>
      ${
        icon &&
        html`
          <${Icon} name=${icon} />
        `
      }${icon && " "}${count(n)}
    </td>
  `;
}

function Entry({ entry }) {
  const missing = entry.missing_count ?? 0;
  return html`
    <tr>
      <th scope="row">
        <${NodeName} node=${entry.node} />
        <span class="mono muted small" title=${t("ledger.ep")}>${String(entry.ep).slice(0, 8)}</span>
      </th>
      <${Count} name="totals.taken" n=${entry.taken} />
      <${Count} name="totals.stored" n=${entry.stored} />
      <${Count} name="totals.waiting" n=${entry.waiting} tone=${entry.waiting ? "note-text" : ""} />
      <${Count} name="totals.declared" n=${entry.gap_count} tone=${entry.gap_count ? "warn-text" : ""} />
      <${Count} name="totals.missing" n=${missing} tone=${missing ? "bad-text" : ""} icon=${missing ? "bad" : "ok"} />
      <${Count} name="totals.duplicates" n=${entry.duplicates} />
      <${Count} name="col.rows" n=${entry.rows_stored} />
      <td class="small span" data-label=${t("col.span")}>
        <${At} ms=${entry.first} />
        ${
          entry.last > 0 &&
          html`
            ${" – "}
            <${At} ms=${entry.last} />
          `
        }
      </td>
    </tr>
    ${
      (entry.gaps?.length > 0 || entry.missing?.length > 0) &&
      html`
        <tr class="detail">
          <td colspan="9">
            <ul>
              ${(entry.gaps ?? []).slice(-SHOWN).map(
                ([first, last, why], i) => html`
                  <li key=${`g${i}`} class="warn-text">
                    ${t("ledger.gap", { first: count(first), last: count(last) })}${" "}
                    <span class="why">${why}</span>
                  </li>
                `,
              )}
              ${(entry.missing ?? []).slice(-SHOWN).map(
                ([first, last], i) => html`
                  <li key=${`m${i}`} class="bad-text">
                    ${t("ledger.missing", { first: count(first), last: count(last) })}
                  </li>
                `,
              )}
              ${
                entry.gaps?.length > SHOWN &&
                html`
                  <li class="muted">${t("ledger.moregaps", { n: count(entry.gaps.length - SHOWN) })}</li>
                `
              }
            </ul>
          </td>
        </tr>
      `
    }
  `;
}
