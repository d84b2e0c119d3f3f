// One server-sent event stream per tab, always opened again; the page shows while it is lost.
import { signal } from "./html.js";

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const EVENTS = ["hello", "fleet", "health", "rows", "live", "event", "snap", "command"];

/** connecting | open | lost */
export const link = signal("connecting");

const listeners = new Map(EVENTS.map((name) => [name, new Set()]));
let source = null;
let query = null;
let failures = 0;
let timer = 0;

/** Call `listener` with each parsed `name` event; returns the function that stops it. */
export function on(name, listener) {
  listeners.get(name).add(listener);
  return () => listeners.get(name).delete(listener);
}

/** Follow a page of the fleet, and one device where it is named. */
export function follow(params) {
  const wanted = `?${new URLSearchParams(params)}`;
  if (wanted === query && source) return;
  query = wanted;
  open();
}

function open() {
  clearTimeout(timer);
  source?.close();
  const mine = new EventSource(`api/v1/stream${query}`);
  source = mine;
  for (const name of EVENTS) {
    mine.addEventListener(name, (event) => {
      if (source === mine) deliver(name, event.data);
    });
  }
  mine.onerror = () => {
    if (source === mine) retry();
  };
}

function deliver(name, data) {
  let body;
  try {
    body = JSON.parse(data);
  } catch {
    return; // the connection ended within a frame: the next frame is whole
  }
  if (name === "hello") {
    failures = 0;
    link.value = "open";
  }
  for (const listener of listeners.get(name)) listener(body);
}

function retry() {
  // EventSource does not retry after an HTTP error, so every failure is handled here in the same way
  source.close();
  source = null;
  failures += 1;
  if (failures > 1 || link.value === "open") link.value = "lost";
  const wait = RETRY_MS[Math.min(failures, RETRY_MS.length) - 1];
  clearTimeout(timer);
  timer = setTimeout(open, wait);
}

addEventListener("online", () => link.value === "lost" && open());
document.addEventListener("visibilitychange", () => !document.hidden && link.value === "lost" && open());
