// The newest rows of one stream, bounded in time and number, sorted by time.
const MOST_ROWS = 20_000;
const NEAR_MS = 100; // several buckets of a fast stream; the points of a slow one are its rows

export class LiveBuffer {
  constructor(windowMs) {
    this.windowMs = windowMs;
    this.clear();
  }

  clear() {
    this.t = [];
    this.late = [];
    this.columns = {};
    this.version = 0;
  }

  /** Add rows {t: [ms], f: {field: [value]}, late: 0|1 or one per row}; a row that is here already is added once. */
  push(rows) {
    const { t } = rows;
    if (!t?.length) return;
    for (const name of Object.keys(rows.f)) this.columns[name] ??= new Array(this.t.length).fill(null);
    const inOrder = !this.t.length || t[0] > this.t.at(-1);
    for (let i = 0; i < t.length; i += 1) {
      this.t.push(t[i]);
      this.late.push((Array.isArray(rows.late) ? rows.late[i] : rows.late) ? 1 : 0);
      for (const [name, column] of Object.entries(this.columns)) column.push(number(rows.f[name]?.[i]));
    }
    if (!inOrder) this.#sort();
    this.#trim();
    this.version += 1;
  }

  /** Add older rows, up to the first row that is here. */
  prepend(rows) {
    const first = this.t.find((_, i) => !this.late[i]) ?? Infinity;
    const kept = rows.t.map((_, i) => i).filter((i) => rows.t[i] < first);
    const pick = (column) => kept.map((i) => column[i]);
    this.push({
      t: pick(rows.t),
      late: pick(rows.late),
      f: Object.fromEntries(Object.entries(rows.f).map(([name, column]) => [name, pick(column)])),
    });
  }

  #sort() {
    const order = this.t.map((_, i) => i).sort((a, b) => this.t[a] - this.t[b]);
    const kept = order.filter((i, at) => at === 0 || this.t[i] !== this.t[order[at - 1]]);
    this.t = kept.map((i) => this.t[i]);
    this.late = kept.map((i) => this.late[i]);
    for (const name of Object.keys(this.columns)) {
      const column = this.columns[name];
      this.columns[name] = kept.map((i) => column[i]);
    }
  }

  #trim() {
    const oldest = this.t.at(-1) - this.windowMs * 1.5;
    let drop = Math.max(0, this.t.length - MOST_ROWS);
    while (drop < this.t.length && this.t[drop] < oldest) drop += 1;
    if (!drop) return;
    this.t.splice(0, drop);
    this.late.splice(0, drop);
    for (const column of Object.values(this.columns)) column.splice(0, drop);
  }

  /** Aligned columns for a chart, with an empty row where rows are missing, and the spans that arrived late. */
  aligned(names) {
    const x = [];
    const ys = names.map(() => []);
    const lateSpans = [];
    const limit = Math.max(this.usual() * 4, 400);
    for (let i = 0; i < this.t.length; i += 1) {
      if (i && this.t[i] - this.t[i - 1] > limit) {
        x.push(this.t[i - 1] + 1);
        for (const y of ys) y.push(null);
      }
      x.push(this.t[i]);
      names.forEach((name, k) => ys[k].push(this.columns[name]?.[i] ?? null));
      if (this.late[i]) {
        const last = lateSpans.at(-1);
        if (last && this.t[i] - last[1] <= limit) last[1] = this.t[i];
        else lateSpans.push([this.t[i], this.t[i]]);
      }
    }
    return { data: [x, ...ys], lateSpans };
  }

  /** The median distance of the newest rows, ms. */
  usual() {
    const from = Math.max(1, this.t.length - 200);
    const steps = [];
    for (let i = from; i < this.t.length; i += 1) steps.push(this.t[i] - this.t[i - 1]);
    steps.sort((a, b) => a - b);
    return steps.length ? steps[Math.floor(steps.length / 2)] : 1000;
  }

  newest(name) {
    return this.columns[name]?.at(-1);
  }
}

/**
 * The values of a series at `times`, each from its nearest point, null where no point is near. Two series of one
 * stream can have different points: rows that arrive between two requests change the buckets.
 */
export function sampled({ t, mean }, times) {
  let i = 0;
  return times.map((at) => {
    while (i + 1 < t.length && Math.abs(t[i + 1] - at) <= Math.abs(t[i] - at)) i += 1;
    return Math.abs(t[i] - at) <= NEAR_MS ? mean[i] : null;
  });
}

/**
 * Rows for a running chart from series answers of one stream: the rows themselves, or where a bucket has
 * several, their smallest and largest value, so that a vibration looks as it does when its rows arrive.
 */
export function prefilled(fields, answers) {
  const [lead] = answers;
  const kept = lead.t.map((_, i) => i).filter((i) => lead.mean[i] !== null);
  const times = kept.map((i) => lead.t[i]);
  const quarter = times.length > 1 ? (times.at(-1) - times[0]) / (times.length - 1) / 4 : 0;
  const band = (i) => lead.n[i] > 1 && quarter > 0;
  const each = (one, two = one) => kept.flatMap((i, at) => (band(i) ? [one(i, at), two(i, at)] : [two(i, at)]));
  const columns = fields.map((_, k) => {
    const low = sampled({ t: answers[k].t, mean: answers[k].min }, times);
    const high = sampled({ t: answers[k].t, mean: answers[k].max }, times);
    return each(
      (_i, at) => low[at],
      (_i, at) => high[at],
    );
  });
  return {
    t: each(
      (i) => lead.t[i] - quarter,
      (i) => (band(i) ? lead.t[i] + quarter : lead.t[i]),
    ),
    late: each((i) => lead.late[i]),
    f: Object.fromEntries(fields.map((field, k) => [field, columns[k]])),
  };
}

function number(x) {
  if (typeof x === "number") return x;
  if (typeof x === "boolean") return x ? 1 : 0;
  return null;
}

/**
 * The right edge of a smooth chart. Rows arrive in bursts, so the edge follows the data at the pace of the
 * clock, just far enough behind that it does not run out of rows while they keep arriving.
 */
export class Playhead {
  constructor() {
    this.delays = [];
    this.delay = null;
    this.end = null;
    this.heard = 0;
    this.stored = false; // whether `end` is that of rows which did not arrive here
  }

  /** A burst that ends at `newest` (ms, the device's clock) arrived at `at` (ms, this page's clock). */
  arrived(newest, at) {
    this.heard = at;
    if (this.stored || (this.end !== null && Math.abs(newest - this.end) > 5000)) {
      this.delays = []; // an outage, a stepped clock and stored rows are not the usual rhythm
      this.end = newest;
      this.stored = false;
    } else if (this.end !== null && newest > this.end) {
      this.delays.push(at - this.end);
      if (this.delays.length > 12) this.delays.shift();
    }
    this.end = Math.max(this.end ?? newest, newest);
  }

  /** Rows that were stored before this page was opened end at `newest`, which was `ago` ms ago. */
  began(newest, ago, at) {
    if (this.end !== null) return; // rows that arrive say more
    this.heard = at - ago;
    this.end = newest;
    this.stored = true;
  }

  /** The device time at the right edge, `step` ms after the last call. */
  edge(at, step) {
    if (this.end === null) return null;
    const wanted = this.delays.length ? Math.max(...this.delays) + 40 : at - this.end;
    if (this.delay === null || Math.abs(wanted - this.delay) > 3000) this.delay = wanted;
    else {
      // eased, so that the chart never jumps; bounded, so that it never runs backwards
      this.delay += Math.min(step, (wanted - this.delay) * Math.min(1, step / 600));
    }
    return at - this.delay;
  }
}
