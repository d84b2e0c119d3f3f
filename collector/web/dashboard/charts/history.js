// The history of one signal: mean line, min-max band, holes, back-filled points, reasons.
import uPlot from "../vendor/uplot.js";
import { serverNow } from "../fleet-state.js";
import { count, unit as unitText, utc, value, when } from "../format.js";
import { html, useEffect, useLayoutEffect, useRef } from "../html.js";
import { reasonText } from "../reason.js";
import { lang, t } from "../text.js";
import { axes, hatch, NARROW, PADDING, palette, redrawn, rug, steps, threshold } from "./paint.js";
import { shape } from "./series.js";

const LEAST_PX = 200;
const FLAT_PX = 180; // a lower chart has its name above it, and room for a unit only
const widthOf = (box) => Math.max(LEAST_PX, box.clientWidth);

/**
 * @param answer series answer of the API, or null while it is loading; `banded` where min and max are a band
 *               that came with each value, not the span of a bucket
 * @param field  its declaration: unit, dec, alarm
 * @param raised whether a yes is an alarm
 * @param onZoom called with (fromMs, toMs) after a drag across the chart
 */
export function HistoryChart({ answer, name, field = {}, raised = false, height, onZoom, onReset }) {
  const box = useRef(null);
  const chart = useRef(null);
  const latest = useRef({});
  const dragged = useRef(false);
  const make = () => {
    if (dragged.current) return; // the selection would be lost: draw when the button is released
    chart.current?.destroy();
    if (!box.current) return; // the view was left before this frame
    chart.current = answer && draw(box.current, answer, { name, field, raised, height, latest: latest.current });
  };
  latest.current = { onZoom, onReset, make };
  useLayoutEffect(make, [answer, name, height, lang.value]);
  useEffect(() => {
    const begin = () => {
      dragged.current = true;
    };
    const end = () => {
      if (!dragged.current) return;
      dragged.current = false;
      requestAnimationFrame(() => latest.current.make());
    };
    box.current.addEventListener("mousedown", begin);
    addEventListener("mouseup", end);
    return () => removeEventListener("mouseup", end);
  }, []);
  useEffect(() => {
    const fits = () => !(box.current && chart.current) || chart.current.width === widthOf(box.current);
    return redrawn(box.current, make, fits);
  }, [answer, name, height]);
  useEffect(
    () => () => {
      chart.current?.destroy();
      chart.current = null;
    },
    [],
  );
  return html`
    <div
      class="chart"
      ref=${box}
      role="img"
      aria-label=${answer ? summary(answer, name) : name}
      data-height=${height}
    ></div>
  `;
}

function summary(answer, name) {
  const low = answer.min.filter((x) => x !== null);
  const high = answer.max.filter((x) => x !== null);
  const least = low.length ? value(low.reduce((a, b) => Math.min(a, b))) : "–";
  const most = high.length ? value(high.reduce((a, b) => Math.max(a, b))) : "–";
  const late = answer.late.reduce((a, b) => a + b, 0);
  return t("history.label", {
    field: name,
    from: when(answer.from),
    to: when(answer.to),
    min: least,
    max: most,
    gaps: answer.gaps.length,
    late,
  });
}

function draw(box, answer, { name, field, raised, height, latest }) {
  const paint = palette(box);
  const turned = field.t === "bool";
  const data = shape(answer, serverNow());
  const limit = Number.isFinite(field.alarm) ? field.alarm : null;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const options = {
    width: widthOf(box),
    height,
    ms: 1,
    padding: PADDING,
    legend: { show: false },
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      points: { size: 7 },
      bind: { dblclick: () => () => latest.onReset?.() },
    },
    scales: {
      x: { time: true, range: () => [answer.from, answer.to] },
      y: { range: (_, low, high) => (turned ? [-0.15, 1.15] : room(low, high, limit)) },
    },
    axes: axes(paint, height < FLAT_PX ? unitText(answer.unit ?? field.unit) : name, {
      flat: height < FLAT_PX,
      whole: field.t === "i64",
      narrow: box.clientWidth < NARROW,
      words: turned ? [t("no"), t("yes")] : null,
    }),
    series: [
      {},
      { stroke: null, points: { show: false } },
      { stroke: null, points: { show: false } },
      {
        stroke: raised ? paint.bad : paint.s1,
        fill: raised ? paint.alarmFill : undefined,
        width: 1.6,
        points: { show: lonely(data) },
        ...steps(field),
      },
      {
        stroke: null,
        paths: () => null,
        points: { show: true, size: 5, width: 1.4, fill: paint.card, stroke: paint.late },
      },
    ],
    bands: [{ series: [1, 2], fill: paint.band }],
    hooks: {
      drawAxes: [(u) => marks(u, answer, data, paint, limit)],
      draw: [(u) => rug(u, data.lateSpans, paint.late)],
      setSelect: [
        (u) => {
          const from = u.posToVal(u.select.left, "x");
          const to = u.posToVal(u.select.left + u.select.width, "x");
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          if (to - from >= 100) latest.onZoom?.(Math.round(from), Math.round(to));
        },
      ],
      setCursor: [(u) => point(u, tip, answer, data, field)],
      ready: [(u) => u.over.append(tip)],
    },
  };
  Object.assign(box.dataset, { from: String(answer.from), to: String(answer.to) });
  box.dataset.late = String(data.late.filter((y) => y !== null).length); // what is drawn, for tests and screen readers
  box.dataset.voids = String(data.voids.length);
  box.dataset.gaps = String(answer.gaps.length);
  return new uPlot(options, [data.x, data.max, data.min, data.mean, data.late], box);
}

const lonely = (data) => data.mean.filter((y) => y !== null).length < 3;

function room(low, high, limit) {
  if (low === null || high === null) return [0, 1];
  if (limit !== null) {
    low = Math.min(low, 0, limit);
    high = Math.max(high, limit * 1.1);
  }
  const pad = (high - low || Math.abs(high) || 1) * 0.08;
  return [low < 0 || low - pad >= 0 ? low - pad : 0, high + pad];
}

function marks(u, answer, data, paint, limit) {
  if (limit !== null)
    threshold(u, limit, { line: paint.bad, fill: paint.alarmFill, text: `${t("models.threshold")} ${value(limit)}` });
  for (const [from, to] of data.voids)
    hatch(u, from, to, { line: paint.voidLine, text: t("history.void"), ink: paint.muted, slope: -1 });
  for (const [from, to] of data.lateSpans) hatch(u, from, to, { fill: paint.lateFill, line: "transparent" });
  for (const [from, to, why] of answer.gaps) {
    const text = reasonText({ why, ...answer.reasons?.[why] });
    hatch(u, from, to, { fill: paint.gapFill, line: paint.gapLine, text, ink: paint.bad });
  }
}

function point(u, tip, answer, data, field) {
  const i = u.cursor.idx;
  const at = u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null;
  const gap = at !== null && answer.gaps.find(([from, to]) => at >= from && at <= to);
  if (at === null || ((i === null || i === undefined || data.mean[i] === null) && !gap)) {
    tip.hidden = true;
    return;
  }
  const unit = unitText(answer.unit ?? field.unit);
  const lines = [];
  if (gap) lines.push([`${t("history.gap")}: ${gap[2]}`, "bad-text"]);
  if (i !== null && data.mean[i] !== null && !gap) {
    const show = (y) => `${value(field.t === "bool" && y % 1 === 0 ? y === 1 : y, field.dec)}${unit ? ` ${unit}` : ""}`;
    lines.push([when(data.x[i]), "muted"], [show(data.mean[i]), "strong"]);
    if (data.n[i] > 1 || answer.banded) lines.push([`${show(data.min[i])} – ${show(data.max[i])}`, ""]);
    if (data.n[i] > 1) lines.push([t("history.n", { n: data.n[i], count: count(data.n[i]) }), "muted"]);
    if (data.late[i] !== null) lines.push([t("history.late"), "late-text"]);
    tip.title = utc(data.x[i]);
  }
  tip.replaceChildren(
    ...lines.map(([text, tone]) => {
      const line = document.createElement("div");
      line.textContent = text;
      line.className = tone;
      return line;
    }),
  );
  tip.hidden = false;
  const right = u.cursor.left > u.over.clientWidth / 2;
  tip.style.left = right ? "auto" : `${u.cursor.left + 12}px`;
  tip.style.right = right ? `${u.over.clientWidth - u.cursor.left + 12}px` : "auto";
}
