// Formats numbers, times and units for people.
import { lang, t } from "./text.js";

const cache = new Map();

function formatter(kind, options) {
  const key = `${lang.value}${kind.name}${JSON.stringify(options)}`;
  if (!cache.has(key)) cache.set(key, new kind(lang.value, options));
  return cache.get(key);
}

export const NONE = "–";

export function count(n) {
  return Number.isFinite(n) ? formatter(Intl.NumberFormat, { maximumFractionDigits: 0 }).format(n) : NONE;
}

/** A measured value: `dec` decimals where its field declares them, else four significant digits. */
export function value(x, dec) {
  if (typeof x === "boolean") return t(x ? "yes" : "no");
  if (typeof x === "string") return x;
  if (!Number.isFinite(x)) return NONE;
  const options =
    Number.isInteger(dec) && dec >= 0 && dec <= 12
      ? { minimumFractionDigits: Math.min(dec, 6), maximumFractionDigits: Math.min(dec, 6) }
      : { maximumSignificantDigits: 4 };
  // rounded first, because a value that rounds to zero has no sign
  const shown = Number.isInteger(dec) && dec >= 0 ? Number(x.toFixed(Math.min(dec, 6))) + 0 : x;
  return formatter(Intl.NumberFormat, options).format(shown);
}

export function percent(share) {
  return Number.isFinite(share)
    ? formatter(Intl.NumberFormat, { style: "percent", maximumFractionDigits: 0 }).format(share)
    : NONE;
}

/** `99.999 %` of a whole, cut and not rounded: 100 is shown only when nothing is missing. */
export function share(part, whole) {
  if (!(whole > 0) || !Number.isFinite(part)) return NONE;
  const cut = Math.floor((part * 100_000) / whole) / 100_000;
  const options = { style: "percent", minimumFractionDigits: 3, maximumFractionDigits: 3 };
  return formatter(Intl.NumberFormat, options).format(cut);
}

export function bytes(n) {
  if (!Number.isFinite(n)) return NONE;
  const steps = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (n >= 1000 && step < steps.length - 1) {
    n /= 1000;
    step += 1;
  }
  return `${value(n, n < 10 && step ? 1 : 0)} ${steps[step]}`;
}

/** A span of time in at most two units. */
export function span(ms) {
  if (!Number.isFinite(ms)) return NONE;
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return t("span.s", { s });
  const m = Math.floor(s / 60);
  if (m < 60) return t("span.min", { m });
  const h = Math.floor(m / 60);
  if (h < 24) return m % 60 ? t("span.hmin", { h, m: m % 60 }) : t("span.h", { h });
  const d = Math.floor(h / 24);
  return h % 24 ? t("span.dh", { d, h: h % 24 }) : t("span.d", { d });
}

const DAY = { month: "short", day: "numeric" };
const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };

/** Local clock time; with the date where it is not today. */
export function when(ms) {
  if (!Number.isFinite(ms)) return NONE;
  const at = new Date(ms);
  const today = at.toDateString() === new Date().toDateString();
  return formatter(Intl.DateTimeFormat, today ? TIME : { ...DAY, ...TIME }).format(at);
}

export function clockTime(ms, seconds = true) {
  const { second, ...minutes } = TIME;
  return formatter(Intl.DateTimeFormat, seconds ? { second, ...minutes } : minutes).format(new Date(ms));
}

export function day(ms) {
  return formatter(Intl.DateTimeFormat, DAY).format(new Date(ms));
}

export function utc(ms) {
  return Number.isFinite(ms) ? `${new Date(ms).toISOString().replace("T", " ").replace("Z", "")} UTC` : "";
}

// UCUM codes are for machines; a chart shows these
const UNITS = {
  1: "",
  Cel: "°C",
  "[degF]": "°F",
  deg: "°",
  "{beats}/min": "bpm",
  "[lb_av]": "lb",
  "[in_i]": "in",
  "[ft_i]": "ft",
  "[mi_i]": "mi",
  "10*-6": "ppm",
  "10*-9": "ppb",
  "[ppth]": "‰",
  "[car_Au]": "kt",
};
const POWERS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const ATOMS = [
  [/\{#?([^}]*)\}/g, "$1"], // an annotation, {frames}/s
  [/m\[Hg\]/g, "mHg"],
  [/m\[H2O\]/g, "mH₂O"],
  [/\[([^\]_]*)[^\]]*\]/g, " $1"], // dB[SPL]
  [/\bCel\b/g, "°C"],
  [/\bdeg\b/g, "°"],
  [/\bu(?=(?:g|m|s|l|L|V|A|W|S|Sv|Pa|mol|T)\b)/g, "µ"],
  [/\b(k?W|A|VA)\.h\b/g, "$1h"],
  [/10\*(\d)/g, (_, n) => `10${POWERS[n]}`],
  [/([a-zµ])(-?)([123])\b/gi, (_, letter, sign, n) => `${letter}${sign && "⁻"}${POWERS[n]}`],
  [/\./g, "·"],
];

/** A UCUM code as people write it: `ug/m3` is µg/m³, `mm[Hg]` mmHg, `W.h` Wh. */
export function unit(code) {
  if (!code) return "";
  return UNITS[code] ?? ATOMS.reduce((text, [pattern, shown]) => text.replace(pattern, shown), code).trim();
}

/** The name of a field with its unit. */
export function named(field, code) {
  const text = unit(code);
  return text ? `${field} [${text}]` : field;
}
