// Devices that a node no longer declares, such as renamed ones: what is stored of them stays reachable.
import { ApiError, get, nodePath } from "../api.js";
import { html, useEffect, useState } from "../html.js";
import { At, Crumbs, nodeHref } from "../parts.js";
import { t } from "../text.js";
import { Events } from "./events.js";
import { custom, History } from "./history.js";

const HOUR_MS = 3_600_000;

/** The stored devices of a node; null until they are known. */
function useStored(node) {
  const [devices, setDevices] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    get(`${nodePath(node)}/stored`, { signal: abort.signal })
      .then((answer) => setDevices(answer.devices))
      .catch((error) => {
        if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
      });
    return () => abort.abort();
  }, [node]);
  return devices;
}

/** The page of a device that its node does not declare. */
export function StoredDevice({ node, device, unknown }) {
  const found = useStored(node)?.find((one) => one.id === device && one.last);
  if (!found) return unknown;
  return html`
    <${Stored} key=${device} node=${node} device=${found} />
  `;
}

function Stored({ node, device }) {
  const [range, setRange] = useState(custom(device.last - HOUR_MS, device.last + 1));
  const streams = Object.entries(device.streams)
    .map(([name, stream]) => [name, Object.fromEntries(Object.entries(stream.fields).filter(([, f]) => f.t !== "str"))])
    .filter(([, fields]) => Object.keys(fields).length);
  const where = { node, device: device.id };
  return html`
    <section class="device-head">
      <${Crumbs} node=${node} />
      <div class="device-line">
        <h1>${device.id}</h1>
        <span class="muted">${t("device.former")}${" "}<${At} ms=${device.last} /></span>
      </div>
    </section>
    <div class="deck">
      ${
        streams.length > 0 &&
        html`
          <${History} ...${where} streams=${streams} slots=${new Set()} range=${range} onRange=${setRange} />
        `
      }
      <${Events} ...${where} />
    </div>
  `;
}

/** Links to the stored devices that the node does not declare. */
export function FormerDevices({ node }) {
  const declared = new Set(node.devices.map((one) => one.id));
  const former = (useStored(node.node) ?? []).filter((one) => one.last && !declared.has(one.id));
  if (!former.length) return null;
  return html`
    <p class="former muted">
      ${t("device.formers")}${" "}
      ${former.map(
        (one) => html`
          <a key=${one.id} href=${nodeHref(node.node, one.id)}>${one.id}</a>
          ${" "}
        `,
      )}
    </p>
  `;
}
