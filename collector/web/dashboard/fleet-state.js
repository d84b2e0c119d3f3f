// The fleet as the page knows it: the nodes of one page of the list, one signal per node, so that a change of one
// node redraws one row. The collector sorts, filters and counts: it may have thousands of nodes.
import { ApiError, get } from "./api.js";
import { batch, computed, effect, signal } from "./html.js";
import { link, on } from "./stream.js";

export const PAGE = 200; // rows drawn at once: thousands would make each tick slow

const nodes = new Map(); // "tenant/pilot/site/node" -> signal(Node)

/** Node ids of the page, as the collector sorts them: those with a model alarm, then those with problems, first. */
export const order = signal([]);
/** How many nodes fit the filter, how many of them come before this page, and the place behind it. */
export const place = signal({ found: 0, first: 0, next: null });
/** Whether the first answer arrived. */
export const loaded = signal(false);
export const failure = signal("");
/** Counts over all nodes, whatever the page shows. */
export const totals = signal({ nodes: 0, states: {}, severities: {}, alarms: 0, clocks_never_set: 0, ledger: {} });
/** What is wrong with the collector itself. */
export const problems = signal([]);
/** The collector's clock, Unix milliseconds, ticking once a second in the browser. */
export const now = signal(Date.now());
/** The filter, and the places behind which this page and those before it begin. */
export const view = signal({ filter: "", trail: [] });
/** The node of a device page for which an answer arrived. */
export const answeredFor = signal("");

const only = signal(""); // the node of a device page
/** What the page asks for; the stream follows the same. */
export const asked = computed(() => {
  const { filter, trail } = view.value;
  if (only.value) return { limit: 1, node: only.value };
  return { limit: PAGE, ...(filter && { filter }), ...(trail.length && { after: trail.at(-1) }) };
});

let offset = 0;
let answered = 0; // server time of the newest answer to what is asked
let asking = null;

export const serverNow = () => Date.now() + offset;
export const nodeSignal = (id) => nodes.get(id);
export const troubled = computed(() => totals.value.nodes - (totals.value.severities["0"] ?? 0));

/** Show the fleet, or on a device page its node alone. */
export function look(node) {
  only.value = node ?? "";
}

export function start() {
  on("hello", (hello) => {
    setClock(hello.now);
    if (answered < hello.now) refresh(); // changes before the stream was open arrive with no event
  });
  on("health", (health) => {
    problems.value = health.problems;
  });
  on("fleet", merge);
  tick();
  effect(() => {
    if (link.value === "lost") refresh(); // a stream does not say why it is refused: this answer asks for a login
  });
  effect(() => {
    if (asked.value) answered = 0;
    refresh();
  });
}

export async function refresh() {
  const began = Date.now();
  const params = asked.peek();
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  try {
    const fleet = await get("fleet", { params, signal: mine.signal });
    setClock(fleet.now + (Date.now() - began) / 2);
    answered = fleet.now;
    batch(() => {
      merge(fleet);
      loaded.value = true;
      problems.value = fleet.problems ?? [];
      failure.value = "";
    });
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    failure.value = error.message;
    if (error.status !== 401 && link.value === "open") setTimeout(refresh, 3000);
  }
}

function setClock(serverMs) {
  offset = serverMs - Date.now();
  now.value = serverNow();
}

function tick() {
  now.value = serverNow();
  setTimeout(tick, 1000 - (Date.now() % 1000)); // on the second, so that all tabs and rows change together
}

function merge(page) {
  batch(() => {
    for (const node of page.nodes) {
      const known = nodes.get(node.node);
      if (known) known.value = node;
      else nodes.set(node.node, signal(node));
    }
    if (page.totals) totals.value = page.totals;
    if (!page.shown) return;
    const { node } = asked.peek();
    if (node) {
      if (!page.shown.length) nodes.delete(node);
      answeredFor.value = node;
      return;
    }
    answeredFor.value = "";
    const here = new Set(page.shown);
    for (const id of nodes.keys()) if (!here.has(id)) nodes.delete(id);
    order.value = page.shown;
    place.value = { found: page.found, first: page.first, next: page.next };
    const { filter, trail } = view.peek();
    if (trail.length && !page.shown.length) view.value = { filter, trail: [] }; // fewer nodes than there were
  });
}

export function severity(node) {
  return (node.trouble ?? []).reduce((worst, trouble) => Math.max(worst, trouble.sev ?? 0), 0);
}
