// What views ask the collector again and again, acts that ask first, and the tables for the answers.
import { ApiError, get } from "./api.js";
import { html, useEffect, useState } from "./html.js";
import { t } from "./text.js";

const EVERY_MS = 5_000;

/** What the collector answers, asked again every few seconds or never; an answer that is the same changes nothing. */
export function useAnswer(path, params, { everyMs = EVERY_MS } = {}) {
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  const asked = JSON.stringify([path, params]);
  const load = (signal) =>
    get(path, { signal, params }).then(
      (found) => {
        setAnswer((shown) => (JSON.stringify(shown) === JSON.stringify(found) ? shown : found));
        setError(null);
      },
      (failed) => {
        if (failed.name === "AbortError") return;
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
      },
    );
  useEffect(() => {
    const abort = new AbortController();
    load(abort.signal);
    const timer = everyMs && setInterval(() => document.hidden || load(abort.signal), everyMs);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }, [asked]);
  return [answer, error, load];
}

/** What a button does; returns [act, error]: one that is refused leaves the page as it is. */
export function useAct(done) {
  const [error, setError] = useState(null);
  const act = (request) =>
    request().then(
      (answer) => {
        setError(null);
        done(answer);
      },
      (failed) => {
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
      },
    );
  return [act, error];
}

/** Why the collector refused an act. */
export function Refused({ error }) {
  if (!error) return null;
  return html`
    <p class="problem" role="alert">${error.status ? error.message : t("unreachable")}</p>
  `;
}

/** A button that asks before it acts. */
export function Acting({ name, sure, label, onAct, disabled }) {
  const [asks, setAsks] = useState(false);
  if (!asks)
    return html`
      <button type="button" class="button" data-act=${name} disabled=${disabled} onClick=${() => setAsks(true)}>
        ${label}
      </button>
    `;
  const act = () => {
    setAsks(false);
    onAct();
  };
  return html`
    <span class="sure" role="alertdialog" aria-label=${label}>
      <span>${sure}</span>
      <button type="button" class="button primary" data-sure=${name} onClick=${act}>${label}</button>
      <button type="button" class="button" ref=${focus} onClick=${() => setAsks(false)}>${t("cancel")}</button>
    </span>
  `;
}

const focus = (button) => button?.focus();

/** A table with the names of its columns; each row is a child. */
export function Table({ name, columns, children, of = "" }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${name}>
      <table class=${`ledger ${of}`}>
        <thead>
          <tr>
            ${columns.map(
              (each) => html`
                <th key=${each}>${t(`col.${each}`)}</th>
              `,
            )}
          </tr>
        </thead>
        <tbody>${children}</tbody>
      </table>
    </div>
  `;
}
