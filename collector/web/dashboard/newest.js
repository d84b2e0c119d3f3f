// The newest values of every stream of one device: fetched once, then as they arrive.
import { ApiError, get, nodePath } from "./api.js";
import { signal, useEffect, useMemo } from "./html.js";
import { on } from "./stream.js";

const LEAST_MS = 250; // a reader follows a few changes per second

/** A signal of {stream: {field: value}} while the component is mounted. */
export function useNewest(node, device) {
  const newest = useMemo(() => signal({}), [node, device]);
  useEffect(() => {
    const abort = new AbortController();
    const shownAt = new Map(); // stream -> when it was last shown
    const take = (stream, values) => {
      const at = performance.now();
      if (at - (shownAt.get(stream) ?? -Infinity) < LEAST_MS) return;
      shownAt.set(stream, at);
      newest.value = { ...newest.value, [stream]: values };
    };
    const mine = (body) => body.node === node && body.device === device;
    const offRows = on("rows", (rows) => {
      if (!mine(rows) || rows.late || !rows.t?.length) return;
      take(rows.stream, Object.fromEntries(Object.entries(rows.f).map(([name, column]) => [name, column.at(-1)])));
    });
    const offLive = on("live", (live) => mine(live) && take(live.stream, live.values ?? {}));
    get(nodePath(node), { signal: abort.signal }).then(
      (known) => {
        newest.value = { ...known.live?.[device], ...newest.value };
      },
      (error) => {
        if (!(error instanceof ApiError) && error.name !== "AbortError") throw error; // else it fills as values arrive
      },
    );
    return () => {
      abort.abort();
      offRows();
      offLive();
    };
  }, [newest]);
  return newest;
}
