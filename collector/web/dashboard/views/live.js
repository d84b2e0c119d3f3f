// What a device sends now: a running chart per quantity, with the newest value beside each name.
import { ApiError, devicePath, get } from "../api.js";
import { LiveBuffer, Playhead, prefilled } from "../charts/buffer.js";
import { LiveChart } from "../charts/live.js";
import { serverNow } from "../fleet-state.js";
import { value } from "../format.js";
import { html, useEffect, useMemo, useState } from "../html.js";
import { Choice } from "../parts.js";
import { decimalsOf, groupsOf, title } from "../quantities.js";
import { on } from "../stream.js";
import { t } from "../text.js";

const MOST_LINES = 8; // the number of colours
const FIRST_LINES = 6;
const SLOW_HZ = 5;
const WAVE_HZ = 100; // a waveform: single beats must be distinguishable
const SPAN_MS = { slow: 180_000, signal: 30_000, wave: 10_000 };
const MOST_PREFILLED = 24; // signals whose last seconds are fetched

/** What to show first: the fastest stream, because its newest number alone means little. */
export function firstShown(streams) {
  const [stream, fields] = streams.reduce((best, one) => ((one[2].rate_hz ?? 0) > (best[2].rate_hz ?? 0) ? one : best));
  return { stream, group: groupsOf(fields)[0][0] };
}

/** @param shown {stream, group} on the chart; the first ones where these do not exist */
export function Live({ node, device, streams, word, shown, onShow, height }) {
  const [name, fields, stream] = streams.find(([one]) => one === shown.stream) ?? streams[0];
  return html`
    <section class="card live">
      <${Running}
        key=${name}
        node=${node}
        device=${device}
        stream=${name}
        fields=${fields}
        rate=${stream?.rate_hz}
        streams=${streams}
        word=${word}
        wanted=${shown.group}
        onShow=${onShow}
        height=${height}
      />
    </section>
  `;
}

function Running({ node, device, stream, fields, rate, streams, word, wanted, onShow, height }) {
  const groups = useMemo(() => groupsOf(fields), [Object.keys(fields).join()]);
  const [group, names] = groups.find(([one]) => one === wanted) ?? groups[0];
  const [picked, setPicked] = useState({}); // group -> names
  const chosen = picked[group] ?? names.slice(0, FIRST_LINES);
  const [paused, setPaused] = useState(false);
  const [, redraw] = useState(0);
  const feed = useFeed(node, device, stream, rate, Object.keys(fields).slice(0, MOST_PREFILLED));
  const setChosen = (next) => setPicked({ ...picked, [group]: next });
  const toggle = (one) => {
    const rest = chosen.filter((other) => other !== one);
    const next = rest.length < chosen.length ? rest : [...chosen, one].slice(-MOST_LINES);
    if (next.length) setChosen(names.filter((other) => next.includes(other)));
  };
  const titleOf = (members) =>
    title(
      members.map((one) => word(one, fields[one])),
      fields[members[0]],
    );
  const colourOf = (one) => `s${(names.indexOf(one) % MOST_LINES) + 1}`;
  return html`
    <div class="card-head">
      <h2>${t("live")}</h2>
      ${
        streams.length > 1 &&
        html`
          <label class="pick">
            <span class="hidden">${t("live.stream")}</span>
            <select class="select" value=${stream} onChange=${(event) => onShow(first(streams, event.target.value))}>
              ${streams.map(
                ([one]) => html`
                  <option key=${one} value=${one}>${one}</option>
                `,
              )}
            </select>
          </label>
        `
      }
      ${
        groups.length > 1 &&
        html`
          <${Choice}
            label=${t("live.quantity")}
            value=${group}
            onChange=${(next) => onShow({ stream, group: next })}
            options=${groups.map(([one, members]) => [one, titleOf(members)])}
          />
        `
      }
      <button
        type="button"
        class="button push"
        aria-pressed=${paused ? "true" : "false"}
        onClick=${() => setPaused(!paused)}
      >
        ${t(paused ? "live.resume" : "live.pause")}
      </button>
    </div>
    <${LiveChart}
      buffer=${feed.buffer}
      playhead=${feed.playhead}
      fields=${chosen}
      meta=${fields}
      colourOf=${colourOf}
      name=${titleOf(names)}
      height=${height}
      paused=${paused}
      onTick=${() => redraw((n) => n + 1)}
    />
    <div class="chips" role="group" aria-label=${t("live.choose")}>
      ${names.map(
        (one) => html`
          <button
            type="button"
            key=${one}
            class=${`chip ${colourOf(one)}`}
            aria-pressed=${chosen.includes(one) ? "true" : "false"}
            title=${fields[one].desc || undefined}
            onClick=${() => toggle(one)}
          >
            <span class="swatch" aria-hidden="true"></span>
            ${word(one, fields[one])}${" "}
            <b>${value(feed.buffer.newest(one), decimalsOf(one, fields[one]))}</b>
          </button>
        `,
      )}
    </div>
  `;
}

const first = (streams, name) => firstShown(streams.filter(([one]) => one === name));

/** Gathers the rows of one stream in a bounded buffer while the component is mounted. */
function useFeed(node, device, stream, rate, fields) {
  const feed = useMemo(
    () => ({
      buffer: new LiveBuffer(spanOf(rate)),
      playhead: new Playhead(),
      batches: false,
    }),
    [node, device, stream],
  );
  useEffect(() => {
    const abort = new AbortController();
    recent(node, device, stream, fields, feed.buffer.windowMs, abort.signal).then((rows) => {
      if (!rows?.t.length) return;
      feed.buffer.prepend(rows);
      feed.playhead.began(rows.t.at(-1), Math.max(0, serverNow() - rows.t.at(-1)), performance.now());
    });
    const mine = (body) => body.node === node && body.device === device && body.stream === stream;
    const offRows = on("rows", (rows) => {
      if (!mine(rows) || !rows.t?.length) return;
      feed.batches = true;
      feed.buffer.push(rows);
      if (!rate) feed.buffer.windowMs = spanOf(1000 / feed.buffer.usual());
      if (!rows.late) feed.playhead.arrived(rows.t.at(-1), performance.now());
    });
    const offLive = on("live", (live) => {
      // newest values at 1 Hz: the only data where raw rows stay on the machine
      if (!mine(live) || feed.batches) return;
      feed.buffer.push({
        t: [live.ts],
        late: 0,
        f: Object.fromEntries(Object.entries(live.values ?? {}).map(([name, x]) => [name, [x]])),
      });
      feed.playhead.arrived(live.ts, performance.now());
    });
    return () => {
      abort.abort();
      offRows();
      offLive();
    };
  }, [feed]);
  return feed;
}

function spanOf(rate) {
  if (!rate || rate < SLOW_HZ) return SPAN_MS.slow;
  return rate < WAVE_HZ ? SPAN_MS.signal : SPAN_MS.wave;
}

/** The last stored rows, so that a chart does not start empty; null without rows. */
async function recent(node, device, stream, fields, windowMs, signal) {
  const to = Math.round(serverNow());
  const params = { stream, from: to - windowMs, to, points: 2000 };
  try {
    const answers = await Promise.all(
      fields.map((field) => get(`${devicePath(node, device)}/series`, { params: { ...params, field }, signal })),
    );
    return prefilled(fields, answers);
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") return null; // it fills as rows arrive
    throw error;
  }
}
