// A running chart: the newest rows of a stream, drawn at most 30 times a second and only while visible.
import uPlot from "../vendor/uplot.js";
import { span } from "../format.js";
import { html, useEffect, useRef } from "../html.js";
import { t } from "../text.js";
import { axes, hatch, NARROW, PADDING, palette, rug, steps, threshold } from "./paint.js";

const FRAME_MS = 33;
const CALM_MS = 1000; // for readers who prefer less motion
const STALL_MS = 3000;

/**
 * @param buffer   LiveBuffer of the stream
 * @param playhead Playhead of the stream
 * @param fields   names to draw, in order
 * @param meta     name -> declaration
 * @param colourOf name -> palette key s1..s8
 * @param name     the axis label, with its unit
 */
export function LiveChart({ buffer, playhead, fields, meta, colourOf, name, height, paused, onTick }) {
  const box = useRef(null);
  const overlay = useRef(null);
  const tick = useRef(null);
  tick.current = onTick;
  useEffect(() => {
    const runner = new Runner(box.current, overlay.current, {
      buffer,
      playhead,
      fields,
      meta,
      colourOf,
      name,
      height,
      paused,
      tick,
    });
    return () => runner.stop();
  }, [buffer, playhead, fields.join(), name, height, paused]);
  const label = t("live.label", { fields: fields.join(", "), span: span(buffer.windowMs) });
  return html`
    <div class="chart live-chart" ref=${box} role="img" aria-label=${label} data-height=${height}>
      <p class="overlay" ref=${overlay} hidden></p>
    </div>
  `;
}

class Runner {
  constructor(box, overlay, settings) {
    Object.assign(this, settings, {
      box,
      overlay,
      seen: true,
      drawn: 0,
      ticked: 0,
      version: -1,
      lateSpans: [],
      alive: true,
    });
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.observer = new IntersectionObserver(([entry]) => {
      this.seen = entry.isIntersecting;
    });
    this.observer.observe(box);
    this.resized = new ResizeObserver(() =>
      this.chart?.setSize({ width: Math.max(200, box.clientWidth), height: this.height }),
    );
    this.resized.observe(box);
    this.again = () => this.make();
    addEventListener("themechange", this.again);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.addEventListener("change", this.again);
    this.make();
    this.loop = (at) => {
      if (!this.alive) return;
      this.frame(at);
      requestAnimationFrame(this.loop);
    };
    requestAnimationFrame(this.loop);
  }

  stop() {
    this.alive = false;
    this.observer.disconnect();
    this.resized.disconnect();
    removeEventListener("themechange", this.again);
    this.scheme.removeEventListener("change", this.again);
    this.chart?.destroy();
  }

  make() {
    this.chart?.destroy();
    const paint = palette(this.box);
    const first = this.meta[this.fields[0]] ?? {};
    const limit = this.fields.length === 1 && Number.isFinite(first.alarm) ? first.alarm : null;
    this.range = null;
    this.chart = new uPlot(
      {
        width: Math.max(200, this.box.clientWidth),
        height: this.height,
        ms: 1,
        padding: PADDING,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: true, auto: false }, y: { range: (_, low, high) => this.steady(low, high, limit) } },
        axes: axes(paint, this.name, {
          narrow: this.box.clientWidth < NARROW,
          whole: this.fields.every((name) => this.meta[name]?.t === "i64"),
        }),
        series: [
          {},
          ...this.fields.map((name) => ({
            stroke: paint[this.colourOf(name)],
            width: 1.5,
            points: { show: false },
            ...steps(this.meta[name]),
          })),
        ],
        hooks: {
          drawAxes: [(u) => this.marks(u, paint, limit)],
          draw: [(u) => rug(u, this.lateSpans, paint.late)],
        },
      },
      [[], ...this.fields.map(() => [])],
      this.box,
    );
    this.version = -1;
  }

  marks(u, paint, limit) {
    if (limit !== null) threshold(u, limit, { line: paint.bad, fill: paint.alarmFill, text: t("models.threshold") });
    const [x] = u.data;
    for (let i = 1; i < x.length; i += 1) {
      if (u.data[1]?.[i] === null && x[i] - x[i - 1] === 1 && i + 1 < x.length) {
        hatch(u, x[i - 1], x[i + 1], { line: paint.voidLine, text: t("history.void"), ink: paint.muted, slope: -1 });
      }
    }
  }

  frame(at) {
    const every = this.calm.matches ? CALM_MS : FRAME_MS;
    if (at - this.drawn < every || !this.seen || document.hidden) return;
    const step = Math.min(1000, at - this.drawn);
    this.drawn = at;
    if (at - this.ticked > 250) {
      this.ticked = at;
      this.tick.current?.();
      this.say(at);
    }
    if (this.paused) return;
    const edge = this.playhead.edge(at, step);
    if (edge === null) return;
    if (this.version !== this.buffer.version) {
      const { data, lateSpans } = this.buffer.aligned(this.fields);
      this.lateSpans = lateSpans;
      this.chart.setData(data, false);
      this.version = this.buffer.version;
      this.box.dataset.rows = String(data[0].length);
    }
    this.chart.setScale("x", { min: edge - this.buffer.windowMs, max: edge });
    this.box.dataset.edge = String(Math.round(edge));
  }

  say(at) {
    const { end } = this.playhead;
    const silent = end === null ? null : at - this.playhead.heard;
    const text =
      end === null
        ? t("live.wait")
        : silent > Math.max(STALL_MS, this.buffer.usual() * 4)
          ? t("live.stall", { span: span(silent) })
          : "";
    this.overlay.hidden = !text;
    if (this.overlay.textContent !== text) this.overlay.textContent = text;
  }

  /** Grow at once, shrink only when the data fill less than 60 %: an axis that keeps changing is unreadable. */
  steady(low, high, limit) {
    if (low === null || high === null || !Number.isFinite(low)) return this.range ?? [0, 1];
    if (limit !== null) {
      low = Math.min(low, 0);
      high = Math.max(high, limit);
    }
    const pad = (high - low || Math.abs(high) || 1) * 0.1;
    const fits = this.range && low >= this.range[0] && high <= this.range[1];
    if (!fits || high - low + 2 * pad < (this.range[1] - this.range[0]) * 0.6) this.range = [low - pad, high + pad];
    return this.range;
  }
}
