// The proof: per node and outbox, every taken message is stored, waiting, or declared lost with a reason.
import { ApiError, get } from "../api.js";
import { count, share, when } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { At, Failed, Icon, NodeName } from "../parts.js";
import { Why } from "../reason.js";
import { t } from "../text.js";

const EVERY_MS = 5000;
const SHOWN = 5; // ranges listed per entry

export function LedgerView() {
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    const load = async () => {
      try {
        if (!document.hidden) setAnswer(await get("ledger", { signal: abort.signal }));
        setError(null);
      } catch (failed) {
        if (failed.name === "AbortError") return;
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
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
      <${Failed} error=${error} />
      ${
        answer?.pilots?.length > 0 &&
        html`
          <${Proof} pilots=${answer.pilots} />
        `
      }
      ${(answer?.strangers ?? []).map(
        (one) => html`
          <p key=${one.node + one.key} class="problem">
            <${Icon} name="warn" />${" "}
            ${t("ledger.stranger", { node: one.node, key: one.key, n: count(one.statements), since: when(one.since) })}
          </p>
        `,
      )}
      ${
        answer &&
        (answer.entries.length
          ? html`
              <${Entries} entries=${answer.entries} reasons=${answer.reasons ?? {}} />
            `
          : html`
              <p class="empty">${t("ledger.empty")}</p>
            `)
      }
      <dl class="glossary">
        ${["taken", "stored", "waiting", "declared", "missing", "duplicates", "pruned"].map(
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

function Proof({ pilots }) {
  return html`
    <h2>${t("proof.title")}</h2>
    <p class="muted lead">${t("proof.text")}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("proof.title")}>
      <table class="ledger days">
        <thead>
          <tr>
            <th>${t("proof.pilot")}</th>
            <th class="n">${t("proof.messages")}</th>
            <th class="n">${t("col.rows")}</th>
            <th class="n">${t("proof.statements")}</th>
            <th>${t("proof.nodes")}</th>
          </tr>
        </thead>
        <tbody>
          ${pilots.map(
            (one) => html`
              <${Day} key=${one.pilot + one.day} one=${one} />
            `,
          )}
        </tbody>
      </table>
    </div>
    <h2>${t("proof.outboxes")}</h2>
  `;
}

function Day({ one }) {
  const sound = one.day !== "" && one.verified === one.nodes;
  const settled = !one.missing_count && !one.gap_count;
  return html`
    <tr data-pilot=${one.pilot} data-day=${one.day}>
      <th scope="row">
        ${one.pilot}${" "}<span class="mono muted small">${one.day || t("proof.undated")}</span>
      </th>
      <td class=${`n ${settled ? "" : "bad-text"}`} data-label=${t("proof.messages")}>
        ${t("proof.of", { share: share(one.stored, one.taken), n: count(one.taken) })}
      </td>
      <td class="n" data-label=${t("col.rows")}>
        ${
          one.rows_taken > 0 &&
          t("proof.of", { share: share(one.rows_stored, one.rows_taken), n: count(one.rows_taken) })
        }
      </td>
      <td class="n" data-label=${t("proof.statements")}>${count(one.statements)}</td>
      <td class=${sound ? "good-text" : "warn-text"} data-label=${t("proof.nodes")}>
        <${Icon} name=${sound ? "ok" : "warn"} />${" "}
        ${t(sound ? "proof.verified" : "proof.partly", {
          n: one.nodes,
          verified: count(one.verified),
          nodes: count(one.nodes),
        })}
      </td>
    </tr>
  `;
}

function Entries({ entries, reasons }) {
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
              <${Entry} key=${entry.node + entry.ep} entry=${entry} reasons=${reasons} />
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

function Entry({ entry, reasons }) {
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
      (entry.gaps?.length > 0 || entry.absent?.length > 0 || entry.pruned?.length > 0) &&
      html`
        <tr class="detail">
          <td colspan="9">
            <ul>
              ${(entry.pruned ?? []).map(
                (one) => html`
                  <li key=${`p${one.cls}`} class="muted">
                    ${t("ledger.pruned", {
                      cls: one.cls,
                      n: count(one.messages),
                      rows: count(one.rows),
                      first: count(one.first),
                      last: count(one.last),
                      from: one.first_day,
                      to: one.last_day,
                    })}
                  </li>
                `,
              )}
              ${(entry.gaps ?? []).slice(-SHOWN).map(
                ([first, last, why], i) => html`
                  <li key=${`g${i}`} class="warn-text">
                    ${t("ledger.gap", { first: count(first), last: count(last) })}${" "}
                    <${Why} reason=${{ why, ...reasons[why] }} />
                  </li>
                `,
              )}
              ${(entry.absent ?? []).slice(-SHOWN).map(
                ([first, last, since, why], i) => html`
                  <li key=${`m${i}`} class="bad-text">
                    ${t("ledger.missing", { first: count(first), last: count(last) })}
                    ${since > 0 && ` ${t("ledger.since", { since: when(since) })}`}:${" "}
                    <${Why} reason=${{ why, ...reasons[why] }} />
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
