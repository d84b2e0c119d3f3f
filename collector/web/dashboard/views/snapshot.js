// The newest picture with the model's boxes of that same picture, or the picture alone.
import { ApiError, devicePath, get } from "../api.js";
import { value, when } from "../format.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { At, Icon } from "../parts.js";
import { Why } from "../reason.js";
import { on } from "../stream.js";
import { t } from "../text.js";

// bright and the same in both themes: a picture has no dark mode
const COLOURS = ["#ffb000", "#22d3ff", "#8dff6b", "#ff7ad9", "#ffe45c", "#bda6ff", "#ff8463"];

const AREA = "#ffffff"; // zones and lines

export function Snapshot({ node, device, stream }) {
  const canvas = useRef(null);
  const [shown, setShown] = useState(null); // the snapshot whose picture is on the canvas
  useEffect(
    () =>
      follow(node, device, stream, (snap, picture) => {
        if (!canvas.current) return picture.close(); // the view was left; its effects end with the next frame
        paint(canvas.current, snap, picture);
        setShown(snap);
      }),
    [node, device, stream],
  );
  const boxes = shown?.boxes ?? [];
  const label =
    shown &&
    t("picture.label", {
      device,
      time: when(shown.ts),
      what:
        tally(boxes)
          .map(([name, n]) => `${name} ${n}`)
          .join(", ") || t("picture.nothing"),
    });
  return html`
    <section class="card picture">
      <div class="card-head">
        <h2>${t("picture")}</h2>
        ${
          shown &&
          html`
            <span class="muted small push">
              <${At} ms=${shown.ts} />
              ${
                Number.isFinite(shown.frame) &&
                html`
                  ${" · "}${t("picture.frame", { frame: shown.frame })}
                `
              }
            </span>
          `
        }
      </div>
      <canvas
        ref=${canvas}
        class="still"
        role="img"
        aria-label=${label ?? t("picture")}
        hidden=${!shown}
        data-frame=${shown?.frame}
        data-sha=${shown?.sha256}
        data-boxes=${boxes.length}
        data-areas=${shown?.areas?.length ?? 0}
      ></canvas>
      ${
        !shown &&
        html`
          <p class="empty">${t("picture.wait")}</p>
        `
      }
      ${
        shown &&
        html`
          <div class="found">
            ${
              shown.model &&
              html`
                <span class="muted small mono">${shown.model}</span>
              `
            }
            <ul aria-label=${t("picture.found")}>
              ${
                boxes.length
                  ? tally(boxes).map(
                      ([name, n]) => html`
                        <li key=${name} class="tag">
                          <b>${n}</b>
                          ${" "} ${name}
                        </li>
                      `,
                    )
                  : html`
                      <li class="muted small">${t("picture.nothing")}</li>
                    `
              }
            </ul>
          </div>
          <${Hidden} snap=${shown} />
        `
      }
    </section>
  `;
}

/** What was made unrecognisable at the device; nothing where the agent does not report it. */
function Hidden({ snap }) {
  const { blur, faces = 0, plates = 0 } = snap;
  if (!blur) return null;
  const text =
    blur === "whole"
      ? t("picture.whole")
      : blur === "none"
        ? t("picture.open")
        : faces || plates
          ? t("picture.parts", { faces: t("picture.faces", { n: faces }), plates: t("picture.plates", { n: plates }) })
          : t("picture.noparts");
  return html`
    <p class=${`hidden-parts small ${blur === "none" ? "warn-text" : "muted"}`} data-blur=${blur}>
      <${Icon} name=${blur === "none" ? "warn" : "hide"} />
      <span>
        ${text}
        ${" "}
        <${Why} reason=${snap} />
      </span>
    </p>
  `;
}

function tally(boxes) {
  const counts = new Map();
  for (const { label } of boxes) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts];
}

/** Fetch pictures one at a time, newest first; boxes are shown only on the picture they belong to. */
function follow(node, device, stream, show) {
  const abort = new AbortController();
  const base = `${devicePath(node, device)}/snapshot/${encodeURIComponent(stream)}`;
  let wanted = null;
  let busy = false;
  let drawn = "";
  const bring = async () => {
    while (wanted && !abort.signal.aborted) {
      const snap = wanted;
      wanted = null;
      if (snap.sha256 === drawn || document.hidden) continue;
      const got = await picture(`${base}.jpg`, snap.sha256, abort.signal);
      if (got && !abort.signal.aborted) {
        drawn = snap.sha256;
        show(snap, got);
      }
    }
  };
  const want = (snap) => {
    wanted = snap;
    if (busy) return;
    busy = true;
    bring().finally(() => {
      busy = false;
    });
  };
  const off = on(
    "snap",
    (snap) => snap.node === node && snap.device === device && snap.stream === stream && want(snap),
  );
  get(base, { signal: abort.signal }).then(
    (snap) => wanted ?? (snap.img && want(snap)), // no picture yet: wait for the first
    (error) => {
      if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
    },
  );
  return () => {
    off();
    abort.abort();
  };
}

/** The picture with this hash, or null where the collector has a newer one: its event is in flight. */
async function picture(path, sha256, signal) {
  try {
    const reply = await fetch(`api/v1/${path}?sha256=${sha256}`, { signal });
    if (!reply.ok || (reply.headers.get("etag") ?? "").replace(/^W\/|"/g, "") !== sha256) return null;
    return await createImageBitmap(await reply.blob());
  } catch (error) {
    const expected = error instanceof TypeError || ["AbortError", "InvalidStateError"].includes(error.name);
    if (expected) return null; // offline, the view was left, or no picture exists
    throw error;
  }
}

function paint(canvas, snap, picture) {
  const scale = Math.max(1, Math.min(2, 1280 / picture.width)); // sharp labels on small pictures
  canvas.width = Math.round(picture.width * scale);
  canvas.height = Math.round(picture.height * scale);
  const ctx = canvas.getContext("2d");
  ctx.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const shown = canvas.clientWidth || canvas.parentElement.clientWidth || canvas.width;
  const size = Math.round((canvas.width / shown) * Math.max(10, Math.min(15, shown / 44))); // the same size on a phone
  ctx.font = `600 ${size}px system-ui, "Noto Sans CJK KR", sans-serif`;
  ctx.lineWidth = (canvas.width / shown) * 1.8;
  ctx.textBaseline = "middle";
  const boxes = (snap.boxes ?? []).map(({ label, score, track, box: [x, y, w, h], points = [], polygon = [] }) => ({
    ...{ x: x * canvas.width, y: y * canvas.height, w: w * canvas.width, h: h * canvas.height, points, polygon },
    text: `${label} ${Number.isFinite(track) ? `#${track} ` : ""}${value(score, 2)}`,
    hue: COLOURS[hash(label) % COLOURS.length],
  }));
  const taken = [];
  for (const area of snap.areas ?? []) mark(ctx, area, size, taken);
  for (const { x, y, w, h, hue, points, polygon } of boxes) {
    ctx.strokeStyle = ctx.fillStyle = hue;
    if (polygon.length) {
      trace(ctx, polygon);
      ctx.globalAlpha = 0.3;
      ctx.fill();
      ctx.globalAlpha = 1;
      ctx.stroke();
    } else ctx.strokeRect(x, y, w, h);
    for (const [px, py, sure] of points) {
      if (sure < 0.3) continue; // a keypoint that the model does not see
      ctx.beginPath();
      ctx.arc(px * canvas.width, py * canvas.height, size / 4, 0, 2 * Math.PI);
      ctx.fill();
    }
  }
  for (const box of boxes) label(ctx, box, size, taken); // the highest score comes first and gets its place
}

/** The path of an outline, or of a line of two points. */
function trace(ctx, points) {
  ctx.beginPath();
  for (const [x, y] of points) ctx.lineTo(x * ctx.canvas.width, y * ctx.canvas.height);
  if (points.length > 2) ctx.closePath();
}

/** A zone or a line of the slot, dashed, with its name. */
function mark(ctx, { name, points }, size, taken) {
  ctx.strokeStyle = AREA;
  ctx.setLineDash([size * 0.6, size * 0.4]);
  trace(ctx, points);
  ctx.stroke();
  ctx.setLineDash([]);
  const [x, y] = points[0];
  label(ctx, { x: x * ctx.canvas.width, y: y * ctx.canvas.height, h: 0, text: name, hue: AREA }, size, taken);
}

/** Label a box above, below or inside it, where there is room; without room its colour has to do. */
function label(ctx, { x, y, h, text, hue }, size, taken) {
  const { width, height } = ctx.canvas;
  const [w, line] = [ctx.measureText(text).width + size * 0.7, size * 1.5];
  const left = Math.min(Math.max(0, x - ctx.lineWidth / 2), Math.max(0, width - w));
  const free = (top) =>
    top >= 0 &&
    top + line <= height &&
    !taken.some((one) => left < one.left + one.w && one.left < left + w && Math.abs(top - one.top) < line);
  const top = [y - line, y + h, y].find(free);
  if (top === undefined) return;
  taken.push({ left, top, w });
  ctx.fillStyle = hue;
  ctx.fillRect(left, top, w, line);
  ctx.fillStyle = "#000";
  ctx.fillText(text, left + size * 0.35, top + size * 0.78);
}

function hash(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return sum;
}
