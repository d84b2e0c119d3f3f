// The stored history of one signal, over a range that is chosen, dragged or stepped through.
import { ApiError, devicePath, get } from "../api.js";
import { HistoryChart } from "../charts/history.js";
import { serverNow } from "../fleet-state.js";
import { named } from "../format.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { At, Choice, Failed, fieldWord, Icon } from "../parts.js";
import { Why } from "../reason.js";
import { on } from "../stream.js";
import { t } from "../text.js";

const MIN = 60_000;
const SPANS = { "5min": 5 * MIN, "1h": 60 * MIN, "24h": 24 * 60 * MIN };
const REFRESH_MS = { "5min": 3000, "1h": 15_000, "24h": 60_000 };
const SHORTEST_MS = 1000;
const SHORTEST_FOLLOWED_MS = 30_000;
const LONGEST_MS = 31 * 24 * 60 * MIN;
const SOON_MS = 700; // after late rows or a gap, which the reader waits for

/**
 * {kind: "5min" | "1h" | "24h"} follows the clock, and does not start before the first data;
 * {kind: "custom", from, to} does not move.
 */
export function bounds(range, first = 0) {
  if (range.kind === "custom") return [range.from, range.to];
  const to = Math.round(serverNow());
  return [Math.min(Math.max(to - SPANS[range.kind], first), to - SHORTEST_FOLLOWED_MS), to];
}

export function History({ node, device, streams, slots, range, onRange }) {
  const options = streams.flatMap(([stream, fields]) =>
    Object.entries(fields).map(([field, meta]) => ({ key: `${stream}/${field}`, stream, field, meta })),
  );
  const [key, setKey] = useState(options[0].key);
  const chosen = options.find((option) => option.key === key) ?? options[0];
  const { answer, error } = useSeries(node, device, chosen.stream, chosen.field, range);
  const word = (stream, field, meta) => (slots.has(stream) ? fieldWord(field, meta) : field);
  const zoom = (from, to) => onRange(custom(from, to));
  return html`
    <section class="card history">
      <div class="card-head">
        <h2>${t("history")}</h2>
        <label class="pick">
          <span class="hidden">${t("history.signal")}</span>
          <select class="select" value=${chosen.key} onChange=${(event) => setKey(event.target.value)}>
            ${streams.map(
              ([stream, fields]) => html`
                <optgroup key=${stream} label=${stream}>
                  ${Object.keys(fields).map(
                    (field) => html`
                      <option key=${field} value=${`${stream}/${field}`}>
                        ${named(word(stream, field, fields[field]), fields[field].unit)}
                      </option>
                    `,
                  )}
                </optgroup>
              `,
            )}
          </select>
        </label>
        <${Choice}
          label=${t("history.range")}
          value=${range.kind === "custom" ? null : range.kind}
          options=${Object.keys(SPANS).map((kind) => [kind, t(`history.${kind}`)])}
          onChange=${(kind) => onRange({ kind })}
        />
        <${Steps} range=${range} onRange=${onRange} />
      </div>
      <${Failed} error=${error} />
      <${HistoryChart}
        answer=${answer}
        name=${named(word(chosen.stream, chosen.field, chosen.meta), chosen.meta.unit)}
        field=${chosen.meta}
        height=${280}
        onZoom=${zoom}
        onReset=${() => onRange({ kind: "5min" })}
      />
      <${Legend} answer=${answer} />
      ${
        answer?.gaps.length > 0 &&
        html`
          <details class="gaps">
            <summary>${t("history.gaps")} (${answer.gaps.length})</summary>
            <ul>
              ${answer.gaps.map(
                ([from, to, why], i) => html`
                  <li key=${i}>
                    <${At} ms=${from} />
                    ${" – "}
                    <${At} ms=${to} />
                    ${" "}
                    <${Why} reason=${{ why, ...answer.reasons?.[why] }} />
                  </li>
                `,
              )}
            </ul>
          </details>
        `
      }
    </section>
  `;
}

function Steps({ range, onRange }) {
  const move = (share, factor) => {
    const [from, to] = bounds(range);
    const middle = (from + to) / 2 + (to - from) * share;
    const half = ((to - from) * factor) / 2;
    onRange(custom(middle - half, middle + half));
  };
  return html`
    <span class="steps push" role="group" aria-label=${t("history.range")}>
      <button
        type="button"
        class="round"
        title=${t("history.earlier")}
        aria-label=${t("history.earlier")}
        onClick=${() => move(-0.5, 1)}
      >
        <${Icon} name="left" />
      </button>
      <button
        type="button"
        class="round"
        title=${t("history.in")}
        aria-label=${t("history.in")}
        onClick=${() => move(0, 0.5)}
      >
        +
      </button>
      <button
        type="button"
        class="round"
        title=${t("history.out")}
        aria-label=${t("history.out")}
        onClick=${() => move(0, 2)}
      >
        −
      </button>
      <button
        type="button"
        class="round"
        title=${t("history.later")}
        aria-label=${t("history.later")}
        disabled=${range.kind !== "custom"}
        onClick=${() => move(0.5, 1)}
      >
        <${Icon} name="right" />
      </button>
      <button
        type="button"
        class="button"
        disabled=${range.kind !== "custom"}
        onClick=${() => onRange({ kind: "5min" })}
      >
        ${t("history.now")}
      </button>
    </span>
  `;
}

export function custom(from, to) {
  const width = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, to - from));
  const end = Math.min((from + to) / 2 + width / 2, serverNow());
  return { kind: "custom", from: Math.max(0, Math.round(end - width)), to: Math.round(end) };
}

function Legend({ answer }) {
  return html`
    <p class="legend small muted">
      <span>
        <i class="key mean"></i>
        ${t("history.mean")}
      </span>
      <span>
        <i class="key spread"></i>
        ${t("history.spread")}
      </span>
      <span>
        <i class="key late"></i>
        ${t("history.late")}
      </span>
      <span>
        <i class="key gap"></i>
        ${t("history.gap")}
      </span>
      <span>
        <i class="key void"></i>
        ${t("history.void")}
      </span>
      ${
        answer &&
        html`
          <span class="push">
            ${t(answer.source === "rollup" ? "history.rollup" : "history.rows")} · ${t("history.hint")}
          </span>
        `
      }
    </p>
  `;
}

/**
 * The series of a range, fetched again while the range follows the clock, and soon after late rows arrived.
 * `others` are fields of the same stream, fetched for the same span: `answers` has them after the first.
 */
export function useSeries(node, device, stream, field, range, others = []) {
  const [state, setState] = useState({ answer: null, answers: [], error: null });
  const asked = useRef("");
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    let due = Infinity;
    const plan = (ms) => {
      if (performance.now() + ms >= due) return;
      due = performance.now() + ms;
      clearTimeout(timer);
      timer = setTimeout(load, ms);
    };
    const load = async () => {
      due = Infinity;
      if (!document.hidden) await ask();
      if (!abort.signal.aborted && range.kind !== "custom") plan(REFRESH_MS[range.kind]);
    };
    let first = 0;
    const begin = async () => {
      const to = Math.round(serverNow());
      const params = { stream, field, from: to - SPANS["24h"], to, points: 200 }; // one-minute summaries
      try {
        const answer = await get(`${devicePath(node, device)}/series`, { params, signal: abort.signal });
        first = answer.t.find((_, i) => answer.mean[i] !== null) ?? 0;
      } catch (failed) {
        if (failed.name !== "AbortError" && !(failed instanceof ApiError)) throw failed;
      }
      await load();
    };
    const ask = async () => {
      const [from, to] = bounds(range, first);
      try {
        const params = { stream, from, to, points: Math.max(150, Math.min(1000, Math.round(innerWidth * 0.8))) };
        const answers = await Promise.all(
          [field, ...others].map(async (name) => ({
            ...(await get(`${devicePath(node, device)}/series`, {
              params: { ...params, field: name },
              signal: abort.signal,
            })),
            from,
            to,
          })),
        );
        const [answer] = answers;
        first ||= answer.t.find((_, i) => answer.mean[i] !== null) ?? 0; // the data start after this page was opened
        setState({ answer, answers, error: null });
      } catch (failed) {
        if (failed.name === "AbortError") return;
        if (!(failed instanceof ApiError)) throw failed;
        if (failed.status) setState((old) => ({ ...old, error: failed })); // unreachable: the banner shows it
      }
    };
    const key = `${node}/${device}/${stream}/${field}`;
    if (asked.current !== key) setState({ answer: null, answers: [], error: null });
    asked.current = key;
    if (range.kind === "custom") load();
    else begin();
    const mine = (body) => body.node === node && body.device === device;
    const offRows = on("rows", (rows) => mine(rows) && rows.stream === stream && rows.late && plan(SOON_MS));
    const offEvent = on("event", (event) => event.type === "gap" && event.node === node && plan(SOON_MS));
    const offHello = on("hello", () => plan(SOON_MS));
    return () => {
      abort.abort();
      clearTimeout(timer);
      offRows();
      offEvent();
      offHello();
    };
  }, [node, device, stream, field, range]);
  return state;
}
