// Turns the collector's buckets into what a chart draws: runs of late points, holes, and the line between.
const HOLE = 3; // usual distances without a point that make a hole
const SHORTEST_HOLE_MS = 1000;

/**
 * @param answer series answer of the API: t[], mean[], min[], max[], n[], late[], gaps[[a, b, why]], from, to
 * @param nowMs the collector's clock: data after it cannot be missing
 */
export function shape(answer, nowMs) {
  const filled = [];
  for (let i = 0; i < answer.t.length; i += 1) if (answer.mean[i] !== null) filled.push(i);
  const usual = distance(answer.t, filled);
  const limit = Math.max(usual * HOLE, SHORTEST_HOLE_MS);
  const columns = { x: [], max: [], min: [], mean: [], late: [], n: [] };
  const voids = [];
  const lateSpans = [];
  let previous = null;
  for (const i of filled) {
    const at = answer.t[i];
    if (previous !== null && at - previous > limit) {
      voids.push([previous + usual, at]);
      push(columns, Math.round((previous + at) / 2), null, null, null, null, 0); // a hole breaks the line
    }
    const late = answer.late[i] === 1;
    push(
      columns,
      at,
      answer.mean[i],
      answer.min[i] ?? answer.mean[i],
      answer.max[i] ?? answer.mean[i],
      late ? answer.mean[i] : null,
      answer.n[i],
    );
    if (late) extend(lateSpans, at, at + usual, limit);
    previous = at;
  }
  const end = Math.min(answer.to, nowMs);
  if (previous !== null && end - previous > Math.max(limit, 5000)) voids.push([previous + usual, end]);
  return { ...columns, voids: voids.flatMap((span) => without(span, answer.gaps)), lateSpans, usual };
}

/** The parts of a hole that are not declared: a reason is better than "no data". */
function without([from, to], gaps) {
  let rest = [[from, to]];
  for (const [a, b] of gaps)
    rest = rest.flatMap(([x, y]) =>
      b <= x || a >= y
        ? [[x, y]]
        : [
            [x, a],
            [b, y],
          ].filter(([p, q]) => q - p > SHORTEST_HOLE_MS),
    );
  return rest;
}

function push(columns, x, mean, min, max, late, n) {
  columns.x.push(x);
  columns.mean.push(mean);
  columns.min.push(min);
  columns.max.push(max);
  columns.late.push(late);
  columns.n.push(n);
}

function extend(spans, from, to, limit) {
  const last = spans.at(-1);
  if (last && from - last[1] <= limit) last[1] = to;
  else spans.push([from, to]);
}

/** The median distance between neighbours: holes do not change it. */
function distance(times, filled) {
  const steps = [];
  for (let i = 1; i < filled.length; i += 1) steps.push(times[filled[i]] - times[filled[i - 1]]);
  if (!steps.length) return 1000;
  steps.sort((a, b) => a - b);
  return steps[Math.floor(steps.length / 2)];
}
