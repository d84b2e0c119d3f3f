// Events of a device, newest first: stored ones, and new ones as they arrive.
import { ApiError, devicePath, get } from "../api.js";
import { value } from "../format.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { At, Failed, Severity } from "../parts.js";
import { planEvent, switchEvent } from "../pilot.js";
import { Why } from "../reason.js";
import { on } from "../stream.js";
import { known, t } from "../text.js";

const PAGE = 15;
const MOST = 300;

export function Events({ node, device }) {
  const [events, setEvents] = useState(null);
  const [error, setError] = useState(null);
  const [next, setNext] = useState(null); // the cursor of the next older page
  const room = useRef(PAGE);
  const load = async (before, signal) => {
    try {
      const answer = await get(`${devicePath(node, device)}/events`, { params: before ?? { limit: PAGE }, signal });
      setEvents((old) => unique([...(before ? (old ?? []) : []), ...answer.events]).slice(0, MOST));
      if (before) room.current += PAGE;
      setNext(answer.next ? { before: answer.next, limit: PAGE } : null);
      setError(null);
    } catch (failed) {
      if (failed.name === "AbortError") return;
      if (!(failed instanceof ApiError)) throw failed;
      if (failed.status) setError(failed);
    }
  };
  useEffect(() => {
    const abort = new AbortController();
    load(null, abort.signal);
    const offEvent = on("event", (event) => {
      // an event of the node concerns all its devices
      const shown = event.device === device || (event.device === "_" && event.sev > 0);
      if (event.node !== node || !shown) return;
      setEvents((old) => {
        const all = unique([event, ...(old ?? [])]);
        if (all.length <= room.current) return all;
        const kept = all.slice(0, room.current); // at most what was asked for: a busy device would fill the page
        const { ts } = kept.at(-1); // events of the same millisecond arrive again; keep each once
        setNext({ before: ts + 1, limit: PAGE + kept.filter((one) => one.ts === ts).length });
        return kept;
      });
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
      <${Failed} error=${error} />
      ${
        events &&
        (events.length
          ? html`
              <${EventTable} events=${events} />
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

const keyOf = (event) => `${event.ts}/${event.ep}/${event.seq}/${event.type}`;
const unique = (events) => [...new Map(events.map((event) => [keyOf(event), event])).values()];

export function EventTable({ events }) {
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
              <tr key=${keyOf(event)}>
                <td class="nowrap"><${At} ms=${event.ts} /></td>
                <td><${Severity} sev=${event.sev ?? 0} /></td>
                <td class="nowrap" title=${event.type}>
                  ${known(`event.${event.type}`) ? t(`event.${event.type}`) : event.type}
                </td>
                <td class="break">${what(event)}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}

/** A share has two decimals, points of a rule have none. */
const points = (score) => value(score, Number.isInteger(score) && score > 1 ? 0 : 2);

function what(event) {
  const parts = [];
  if (event.type === "exposure") parts.push(switchEvent(event));
  if (event.type === "pilot") parts.push(planEvent(event));
  if (event.top)
    parts.push(html`
      <b>${event.top}</b>
    `);
  if (Number.isFinite(event.score)) parts.push(t("events.score", { score: points(event.score) }));
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
      <${Why} reason=${event.type === "gap" ? { why: event.why, code: event.why } : event} />
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
