// What happened to a device, newest first: kept events, and new ones as they come.
import { ApiError, devicePath, get } from "../api.js";
import { value } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { At, Severity } from "../parts.js";
import { on } from "../stream.js";
import { t } from "../text.js";

const PAGE = 15;
const MOST = 300;

export function Events({ node, device }) {
  const [events, setEvents] = useState(null);
  const [error, setError] = useState("");
  const [next, setNext] = useState(null); // cursor of the page before
  const load = async (before, signal) => {
    try {
      const params = before ? { limit: PAGE, before } : { limit: PAGE };
      const answer = await get(`${devicePath(node, device)}/events`, { params, signal });
      const found = answer.events;
      setEvents((old) => [...(before ? (old ?? []) : []), ...found].slice(0, MOST));
      setNext(answer.next ?? null);
      setError("");
    } catch (failed) {
      if (failed.name === "AbortError") return;
      if (!(failed instanceof ApiError)) throw failed;
      if (failed.status) setError(failed.message);
    }
  };
  useEffect(() => {
    const abort = new AbortController();
    load(null, abort.signal);
    const offEvent = on("event", (event) => {
      if (event.node !== node || (event.device !== device && event.device !== "_")) return;
      setEvents((old) => [event, ...(old ?? [])].slice(0, MOST));
    });
    const offHello = on("hello", () => load(null, abort.signal));
    return () => {
      abort.abort();
      offEvent();
      offHello();
    };
  }, [node, device]);
  return html`
    <section class="card events">
      <div class="card-head"><h2>${t("events")}</h2></div>
      ${
        error &&
        html`
          <p class="problem" role="alert">${error}</p>
        `
      }
      ${
        events &&
        (events.length
          ? html`
              <${Table} events=${events} />
            `
          : html`
              <p class="empty">${t("events.empty")}</p>
            `)
      }
      ${
        next !== null &&
        events.length < MOST &&
        html`
          <p class="center">
            <button type="button" class="button" onClick=${() => load(next)}>${t("events.more")}</button>
          </p>
        `
      }
    </section>
  `;
}

function Table({ events }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${t("events")}>
      <table class="event-table">
        <thead>
          <tr>
            <th>${t("col.time")}</th>
            <th>${t("col.severity")}</th>
            <th>${t("col.type")}</th>
            <th>${t("col.what")}</th>
          </tr>
        </thead>
        <tbody>
          ${events.map(
            (event) => html`
              <tr key=${`${event.ts}/${event.ep}/${event.seq}/${event.type}`}>
                <td class="nowrap"><${At} ms=${event.ts} /></td>
                <td><${Severity} sev=${event.sev ?? 0} /></td>
                <td class="mono nowrap">${event.type}</td>
                <td class="break">${what(event)}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}

function what(event) {
  const parts = [];
  if (event.top)
    parts.push(html`
      <b>${event.top}</b>
    `);
  if (Number.isFinite(event.score)) parts.push(t("events.score", { score: value(event.score, 2) }));
  if (Number.isFinite(event.n)) parts.push(t("events.n", { n: event.n }));
  if (event.lost?.length)
    parts.push(
      t("events.lost", {
        ranges: event.lost
          .slice(0, 5)
          .map(([a, b]) => `${a}–${b}`)
          .join(", "),
      }),
    );
  if (event.why)
    parts.push(html`
      <span class="why">${event.why}</span>
    `);
  if (event.model)
    parts.push(html`
      <span class="muted mono small">${event.model}</span>
    `);
  return parts.map(
    (part, i) => html`
      ${i > 0 && " · "}${part}
    `,
  );
}
