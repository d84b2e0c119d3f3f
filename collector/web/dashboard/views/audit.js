// Who did what, when, from where, with which result.
import { ApiError, get } from "../api.js";
import { html, useEffect, useState } from "../html.js";
import { At, Failed } from "../parts.js";
import { known, t } from "../text.js";

const PAGE = 100;

export function AuditView() {
  const [entries, setEntries] = useState(null);
  const [next, setNext] = useState(null);
  const [error, setError] = useState(null);
  const load = (before) =>
    get("audit", { params: { limit: PAGE, ...(before && { before }) } }).then(
      (answer) => {
        setEntries((shown) => (before ? [...shown, ...answer.entries] : answer.entries));
        setNext(answer.next);
        setError(null);
      },
      (failed) => {
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
      },
    );
  useEffect(() => {
    load();
  }, []);
  return html`
    <section class="card">
      <div class="card-head">
        <h1>${t("nav.audit")}</h1>
        <button type="button" class="button" onClick=${() => load()}>${t("reload")}</button>
      </div>
      <p class="muted lead">${t("audit.text")}</p>
      <${Failed} error=${error} />
      ${
        entries &&
        (entries.length
          ? html`
              <${Acts} entries=${entries} />
            `
          : html`
              <p class="empty">${t("audit.empty")}</p>
            `)
      }
      ${
        next &&
        html`
          <button type="button" class="button" onClick=${() => load(next)}>${t("audit.earlier")}</button>
        `
      }
    </section>
  `;
}

function Acts({ entries }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${t("nav.audit")}>
      <table class="audit">
        <thead>
          <tr>
            ${["time", "who", "act", "subject", "origin", "result"].map(
              (name) => html`
                <th key=${name}>${t(`col.${name}`)}</th>
              `,
            )}
          </tr>
        </thead>
        <tbody>
          ${entries.map(
            (one) => html`
              <tr key=${one.id}>
                <td class="nowrap"><${At} ms=${one.at_ms} /></td>
                <td class="break">${one.who}</td>
                <td class="nowrap">${known(`act.${one.what}`) ? t(`act.${one.what}`) : one.what}</td>
                <td class="mono break">${one.subject}</td>
                <td class="mono break">${one.origin}</td>
                <td class=${`break ${one.result === "done" ? "" : "warn-text"}`}>
                  ${one.result === "done" ? t("audit.done") : one.result}
                </td>
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}
