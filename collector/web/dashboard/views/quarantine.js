// Messages that arrived and could not be read, with the reason.
import { ApiError, get } from "../api.js";
import { bytes, count } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { At, Failed } from "../parts.js";
import { Why } from "../reason.js";
import { t } from "../text.js";

export function QuarantineView() {
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  const load = () =>
    get("quarantine", { params: { limit: 200 } }).then(setAnswer, (failed) => {
      if (!(failed instanceof ApiError)) throw failed;
      setError(failed);
    });
  useEffect(() => {
    load();
  }, []);
  return html`
    <section class="card">
      <div class="card-head">
        <h1>${t("nav.quarantine")}</h1>
        <button type="button" class="button" onClick=${load}>${t("reload")}</button>
      </div>
      <p class="muted lead">${t("quarantine.text")}</p>
      <${Failed} error=${error} />
      ${
        answer &&
        (answer.total
          ? html`
              <${Items} answer=${answer} />
            `
          : html`
              <p class="empty">${t("quarantine.empty")}</p>
            `)
      }
    </section>
  `;
}

function Items({ answer }) {
  return html`
    <p>${t("quarantine.total", { n: answer.total, count: count(answer.total) })}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${t("nav.quarantine")}>
      <table>
        <thead>
          <tr>
            <th>${t("col.received")}</th>
            <th>${t("col.topic")}</th>
            <th>${t("col.why")}</th>
            <th class="n">${t("col.size")}</th>
          </tr>
        </thead>
        <tbody>
          ${answer.items.map(
            (item, i) => html`
              <tr key=${i}>
                <td class="nowrap"><${At} ms=${item.recv} /></td>
                <td class="mono break">${item.topic}</td>
                <td class="break"><${Why} reason=${item} /></td>
                <td class="n nowrap">${bytes(item.size)}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}
