// Colours, axes and marks of all charts; a canvas cannot read CSS variables by itself.
import uPlot from "../vendor/uplot.js";
import { clockTime, day, value } from "../format.js";

/** Resolve CSS colours such as `var(--s1)` in the theme of `element`. */
export function colours(element, names) {
  const probe = document.createElement("i");
  probe.hidden = true;
  element.append(probe);
  const found = {};
  for (const [name, css] of Object.entries(names)) {
    probe.style.color = css;
    found[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}

/** Steps for counts and yes/no: a slope would show values that never existed. */
export const steps = (field) =>
  field?.t === "i64" || field?.t === "bool" ? { paths: uPlot.paths.stepped({ align: 1 }) } : {};

const fade = (name, share) => `color-mix(in srgb, var(--${name}) ${share}%, transparent)`;

export const palette = (element) =>
  colours(element, {
    ink: "var(--ink)",
    muted: "var(--muted)",
    line: "var(--faint)",
    card: "var(--card)",
    late: "var(--late)",
    bad: "var(--bad)",
    warn: "var(--warn)",
    gapFill: fade("bad", 9),
    gapLine: fade("bad", 55),
    voidLine: fade("muted", 35),
    lateFill: fade("late", 13),
    band: fade("s1", 18),
    alarmFill: fade("bad", 10),
    ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8].map((n) => [`s${n}`, `var(--s${n})`])),
  });

/** Draw again when the element's size no longer `fit`s or the theme changes; returns the function that ends it. */
export function redrawn(element, draw, fits = () => false) {
  const again = () => requestAnimationFrame(draw);
  const resized = new ResizeObserver(() => fits() || again());
  resized.observe(element);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  addEventListener("themechange", again);
  scheme.addEventListener("change", again);
  return () => {
    resized.disconnect();
    removeEventListener("themechange", again);
    scheme.removeEventListener("change", again);
  };
}

export const FONT =
  '11px system-ui, -apple-system, "Segoe UI", Roboto, "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans CJK KR", sans-serif';

const WHOLE = [1, 2, 5]
  .flatMap((n) => [0, 1, 2, 3, 4, 5, 6, 7, 8].map((power) => n * 10 ** power))
  .sort((a, b) => a - b);

/** uPlot axes: local time below, `name` and its numbers at the left (`whole` ones only), or `words` for 0 and 1. */
export function axes(paint, name, { flat = false, narrow = false, words = null, whole = false } = {}) {
  const named = Boolean(name) && !narrow;
  const common = { font: FONT, stroke: paint.muted, grid: { stroke: paint.line, width: 1 }, ticks: { show: false } };
  return [
    {
      ...common,
      space: narrow ? (_, __, from, to, room) => (((to - from) / room) * NARROW_PX > 30 * SECOND ? NARROW_PX : 64) : 86,
      size: 30,
      gap: 8, // the lowest number at the left must not touch the first time
      values: (_, splits, __, ___, step) => splits.map((ms) => label(ms, step)),
    },
    {
      ...common,
      size: (_, labels) => Math.max(narrow ? 40 : 52, ...(labels ?? []).map((text) => text.length * LETTER_PX + 12)),
      gap: 6,
      space: flat ? 26 : 32,
      ...(whole && { incrs: WHOLE }),
      values: (_, splits, __, ___, step) => splits.map((y) => (words ? (words[y] ?? "") : value(y, decimals(step)))),
      label: named ? name : undefined,
      labelFont: FONT,
      labelSize: named ? 18 : 0,
      labelGap: 0,
    },
  ];
}

/** How many digits distinguish neighbours at a distance of `step`; undefined where four are enough. */
function decimals(step) {
  for (let n = 0; n <= 6; n += 1) if (Math.abs(step * 10 ** n - Math.round(step * 10 ** n)) < 1e-6) return n;
  return undefined;
}

/** Room for the last time label, and not more on a phone. */
export const PADDING = [8, 26, 0, 0];
export const NARROW = 520;

const LETTER_PX = 6.2;
const SECOND = 1000;
const NARROW_PX = 44; // between two times that are hours and minutes
const DAY_MS = 86_400_000;

function label(ms, step) {
  if (ms === null || ms === undefined) return "";
  if (step >= DAY_MS) return day(ms);
  return clockTime(ms, step < 60 * SECOND);
}

/** Hatch `[from, to]`, which is visible in any colour vision, and write the reason where it fits. */
export function hatch(u, from, to, { fill, line, text = "", ink, slope = 1 }) {
  const { left, top, width, height } = u.bbox;
  const ratio = devicePixelRatio;
  const x0 = Math.max(left, u.valToPos(from, "x", true));
  const x1 = Math.min(left + width, Math.max(u.valToPos(to, "x", true), x0 + 2 * ratio));
  if (x1 <= left || x0 >= left + width) return;
  const { ctx } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(x0, top, x1 - x0, height);
  ctx.clip();
  if (fill) {
    ctx.fillStyle = fill;
    ctx.fillRect(x0, top, x1 - x0, height);
  }
  ctx.strokeStyle = line;
  ctx.lineWidth = ratio;
  ctx.beginPath();
  const step = 9 * ratio;
  for (let x = Math.floor((x0 - height) / step) * step; x < x1 + height; x += step) {
    ctx.moveTo(x, slope > 0 ? top + height : top);
    ctx.lineTo(x + height, slope > 0 ? top : top + height);
  }
  ctx.stroke();
  if (text && x1 - x0 > 44 * ratio) write(ctx, text, x0 + 5 * ratio, top + 14 * ratio, x1 - x0 - 10 * ratio, ink);
  ctx.restore();
}

const SHORTEST = 10;

function write(ctx, text, x, y, room, ink) {
  ctx.font = `${11 * devicePixelRatio}px ${FONT.slice(5)}`;
  ctx.textAlign = "left"; // uPlot leaves its own setting
  ctx.textBaseline = "alphabetic";
  let shown = text;
  while (shown.length > 1 && ctx.measureText(shown).width > room) shown = `${shown.slice(0, -2).trimEnd()}…`;
  if (shown !== text && shown.length < SHORTEST) return; // a stump is unreadable: the legend explains the hatching
  ctx.fillStyle = ink;
  ctx.fillText(shown, x, y);
}

/** A strip along the bottom for points that arrived late. */
export function rug(u, spans, colour) {
  const { left, top, width, height } = u.bbox;
  const ratio = devicePixelRatio;
  u.ctx.save();
  u.ctx.fillStyle = colour;
  for (const [from, to] of spans) {
    const x0 = Math.max(left, u.valToPos(from, "x", true));
    const x1 = Math.min(left + width, Math.max(u.valToPos(to, "x", true), x0 + 3 * ratio));
    if (x1 > x0) u.ctx.fillRect(x0, top + height - 4 * ratio, x1 - x0, 4 * ratio);
  }
  u.ctx.restore();
}

/** A dashed line with its name at `y`, and a tint above it. */
export function threshold(u, y, { line, fill, text }) {
  const { left, top, width, height } = u.bbox;
  const at = u.valToPos(y, "y", true);
  if (!(at >= top && at <= top + height)) return;
  const ratio = devicePixelRatio;
  u.ctx.save();
  u.ctx.fillStyle = fill;
  u.ctx.fillRect(left, top, width, at - top);
  u.ctx.strokeStyle = line;
  u.ctx.lineWidth = 1.4 * ratio;
  u.ctx.setLineDash([6 * ratio, 4 * ratio]);
  u.ctx.beginPath();
  u.ctx.moveTo(left, at);
  u.ctx.lineTo(left + width, at);
  u.ctx.stroke();
  u.ctx.setLineDash([]);
  write(u.ctx, text, left + 5 * ratio, at - 5 * ratio, width, line);
  u.ctx.restore();
}
