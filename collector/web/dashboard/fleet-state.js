// The fleet as the page knows it: one signal per node, so that a change of one node redraws one row.
import { ApiError, get } from "./api.js";
import { batch, computed, signal } from "./html.js";
import { link, on } from "./stream.js";

const nodes = new Map(); // "tenant/pilot/site/node" -> signal(Node)

/** Node ids: those with a model alarm, then those with problems, first. */
export const order = signal([]);
/** Whether the first answer arrived. */
export const loaded = signal(false);
export const failure = signal("");
export const totals = signal({ taken: 0, stored: 0, lost: 0, declared: 0, missing: 0, waiting: 0, duplicates: 0 });
/** What is wrong with the collector itself. */
export const problems = signal([]);
/** The collector's clock, Unix milliseconds, ticking once a second in the browser. */
export const now = signal(Date.now());

let offset = 0;
let answered = 0; // server time of the newest whole fleet

export const serverNow = () => Date.now() + offset;
export const nodeSignal = (id) => nodes.get(id);
export const troubled = computed(() => order.value.filter((id) => severity(nodes.get(id).value) > 0).length);

export function start() {
  on("hello", (hello) => {
    setClock(hello.now);
    if (answered < hello.now) refresh(); // changes before the stream was open arrive with no event
  });
  on("health", (health) => {
    problems.value = health.problems;
  });
  on("fleet", (changed) => merge(Array.isArray(changed) ? changed : (changed.nodes ?? [])));
  tick();
  refresh();
}

export async function refresh() {
  const asked = Date.now();
  try {
    const fleet = await get("fleet");
    setClock(fleet.now + (Date.now() - asked) / 2);
    answered = fleet.now;
    const here = new Set(fleet.nodes.map((node) => node.node));
    for (const id of nodes.keys()) if (!here.has(id)) nodes.delete(id);
    merge(fleet.nodes);
    batch(() => {
      loaded.value = true;
      problems.value = fleet.problems ?? [];
      failure.value = "";
    });
  } catch (error) {
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

function merge(changed) {
  batch(() => {
    for (const node of changed) {
      const known = nodes.get(node.node);
      if (known) known.value = node;
      else nodes.set(node.node, signal(node));
    }
    const sorted = [...nodes.keys()].sort(byTrouble);
    if (sorted.length !== order.value.length || sorted.some((id, i) => id !== order.value[i])) order.value = sorted;
    totals.value = sum();
  });
}

export function severity(node) {
  return (node.trouble ?? []).reduce((worst, trouble) => Math.max(worst, trouble.sev ?? 0), 0);
}

const alarmed = (node) => Number((node.models ?? []).some((model) => model.verdict?.alarm === true));

function byTrouble(a, b) {
  const [left, right] = [nodes.get(a).value, nodes.get(b).value];
  return (
    alarmed(right) - alarmed(left) ||
    severity(right) - severity(left) || (right.trouble?.length ?? 0) - (left.trouble?.length ?? 0) || (a < b ? -1 : 1)
  );
}

function sum() {
  const all = { taken: 0, stored: 0, lost: 0, declared: 0, missing: 0, waiting: 0, duplicates: 0 };
  for (const node of nodes.values()) {
    const ledger = node.value.ledger ?? {};
    all.taken += ledger.taken ?? 0;
    all.stored += ledger.stored ?? 0;
    all.declared += ledger.gap_count ?? 0;
    all.missing += ledger.missing_count ?? 0;
    all.waiting += ledger.waiting ?? 0;
    all.duplicates += ledger.duplicates ?? 0;
  }
  all.lost = all.declared + all.missing;
  return all;
}
