// The language of the page and its texts.
import { signal } from "./html.js";
import { remember } from "./remember.js";

export const LANGUAGES = { en: "English", ko: "한국어" };

export const lang = signal(document.documentElement.lang === "ko" ? "ko" : "en");
const words = signal({});
const plural = new Intl.PluralRules("en");

export async function speak(code) {
  const table = (await import(`./i18n/${code}.js`)).default;
  document.documentElement.lang = code;
  words.value = table;
  lang.value = code;
}

export async function choose(code) {
  remember("edgebed.lang", code);
  const url = new URL(location.href);
  if (url.searchParams.has("lang")) {
    url.searchParams.set("lang", code);
    history.replaceState(null, "", url);
  }
  await speak(code);
}

/** The text for `key`; {name} is replaced from `values`; `key_one` is used where `n` is one. */
export function t(key, values, n = values?.n) {
  const table = words.value;
  const one = typeof n === "number" && plural.select(n) === "one" && table[`${key}_one`];
  const text = one || table[key];
  if (text === undefined) return key;
  return values ? text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "") : text;
}

/** Whether there is a text for `key`: a code of a newer agent may have none yet. */
export const known = (key) => words.value[key] !== undefined;

/** The names that the text for `key` replaces. */
export const holes = (key) => [...words.value[key].matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
