// A device's places over the chosen range, drawn to scale, without a map of another server.
import { palette, redrawn } from "../charts/paint.js";
import { value } from "../format.js";
import { html, useEffect, useLayoutEffect, useRef } from "../html.js";
import { lang, t } from "../text.js";
import { useSeries } from "./history.js";

const HEIGHT = 280;
const MARGIN = 22;
const METRES_A_DEGREE = 111_320; // of latitude
const LEAST_M = 10; // a device that does not move is shown as a point, not as its noise
const JUMP = 20; // a longer time without a place, in usual steps, interrupts the line

/** {stream, x, y, globe} of the first stream with places, on the globe or in metres; else null. */
export function placesOf(streams) {
  for (const [stream, fields] of streams) {
    if (fields.latitude && fields.longitude) return { stream, x: "longitude", y: "latitude", globe: true };
    if (fields.x?.unit === "m" && fields.y?.unit === "m") return { stream, x: "x", y: "y", globe: false };
  }
  return null;
}

export function Track({ node, device, places, range }) {
  const canvas = useRef(null);
  const { answers } = useSeries(node, device, places.stream, places.x, range, [places.y]);
  const [x, y] = answers;
  const path = y ? pathOf(x, y, places.globe) : [];
  const draw = () => canvas.current && paint(canvas.current, path);
  useLayoutEffect(draw, [x, y, lang.value]);
  useEffect(() => redrawn(canvas.current, draw), [x, y]);
  const far = path.length ? lengthOf(path) : 0;
  return html`
    <section class="card track">
      <div class="card-head">
        <h2>${t("track")}</h2>
        <span class="muted small push">${path.length > 0 && t("track.length", { length: metres(far) })}</span>
      </div>
      <canvas
        ref=${canvas}
        class="plan"
        role="img"
        aria-label=${t("track.label", { n: path.length, length: metres(far) })}
        data-points=${path.length}
      ></canvas>
    </section>
  `;
}

const metres = (m) => (m < 1000 ? `${value(m, 0)} m` : `${value(m / 1000, 2)} km`);

/** Metres east and north of the middle, in order of time; `gap` where no line leads to a point. */
function pathOf(x, y, globe) {
  const norths = new Map(y.t.map((at, i) => [at, y.mean[i]]));
  const both = x.t
    .map((at, i) => ({ at, east: x.mean[i], north: norths.get(at) ?? null }))
    .filter(({ east, north }) => east !== null && north !== null);
  if (!both.length) return [];
  const middle = both[both.length >> 1];
  const north = globe ? METRES_A_DEGREE : 1;
  const east = globe ? METRES_A_DEGREE * Math.cos((middle.north * Math.PI) / 180) : 1;
  const steps = both
    .slice(1)
    .map(({ at }, i) => at - both[i].at)
    .sort((a, b) => a - b);
  const longest = (steps[steps.length >> 1] ?? 0) * JUMP;
  return both.map((one, i) => ({
    east: (globe ? ((one.east - middle.east + 540) % 360) - 180 : one.east - middle.east) * east,
    north: (one.north - middle.north) * north,
    gap: i > 0 && one.at - both[i - 1].at > longest,
  }));
}

const lengthOf = (path) =>
  path.reduce(
    (sum, one, i) =>
      i && !one.gap ? sum + Math.hypot(one.east - path[i - 1].east, one.north - path[i - 1].north) : sum,
    0,
  );

function paint(canvas, path) {
  const ratio = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, HEIGHT];
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const ctx = canvas.getContext("2d");
  ctx.scale(ratio, ratio);
  if (!path.length || !width) return;
  const colours = palette(canvas.parentElement);
  const [west, east] = ends(path.map((one) => one.east));
  const [south, north] = ends(path.map((one) => one.north));
  const scale = Math.min((width - 2 * MARGIN) / (east - west), (height - 2 * MARGIN) / (north - south)); // px a metre
  const at = (one) => [
    width / 2 + (one.east - (east + west) / 2) * scale,
    height / 2 - (one.north - (north + south) / 2) * scale,
  ];
  ctx.strokeStyle = colours.s1;
  ctx.lineWidth = 2;
  ctx.lineJoin = "round";
  ctx.beginPath();
  for (const one of path) one.gap || one === path[0] ? ctx.moveTo(...at(one)) : ctx.lineTo(...at(one));
  ctx.stroke();
  dot(ctx, at(path[0]), 4, colours.card, colours.s1);
  dot(ctx, at(path.at(-1)), 6, colours.s1, colours.card);
  bar(ctx, scale, height, colours.muted);
}

/** The lowest and highest, with a minimum distance so that noise does not fill the picture. */
function ends(all) {
  const [low, high] = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
  const more = Math.max(0, LEAST_M - (high - low)) / 2;
  return [low - more, high + more];
}

function dot(ctx, [x, y], radius, fill, stroke) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 2 * Math.PI);
  ctx.fillStyle = fill;
  ctx.fill();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = 2;
  ctx.stroke();
}

/** A length of 1, 2 or 5 times a power of ten metres, about 80 px long. */
function bar(ctx, scale, height, ink) {
  const wanted = 80 / scale;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const length = [5, 2, 1].map((n) => n * power).find((m) => m <= wanted) ?? power;
  ctx.strokeStyle = ink;
  ctx.fillStyle = ink;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  ctx.moveTo(4, height - 12);
  ctx.lineTo(4, height - 6);
  ctx.lineTo(4 + length * scale, height - 6);
  ctx.lineTo(4 + length * scale, height - 12);
  ctx.stroke();
  ctx.font = "11px system-ui, sans-serif";
  ctx.fillText(length < 1000 ? `${length} m` : `${length / 1000} km`, 9, height - 12);
}
