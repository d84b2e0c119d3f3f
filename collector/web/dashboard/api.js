// Asks the collector: JSON over GET, one error type with a sentence.
import { signal } from "./html.js";

/** True after the collector asked for a token. */
export const locked = signal(false);

export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export async function get(path, { signal: abort, params } = {}) {
  const query = params ? `?${new URLSearchParams(params)}` : "";
  let reply;
  try {
    reply = await fetch(`api/v1/${path}${query}`, { signal: abort, headers: { accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable");
  }
  if (reply.status === 401) locked.value = true;
  if (!reply.ok) throw new ApiError(reply.status, await sentence(reply));
  return reply.json();
}

async function sentence(reply) {
  try {
    const body = await reply.json();
    return String(body.error ?? body.detail ?? reply.status);
  } catch {
    return String(reply.status); // not JSON: a proxy in between answered
  }
}

export const nodePath = (node) => `nodes/${node.split("/").map(encodeURIComponent).join("/")}`;
export const devicePath = (node, device) => `${nodePath(node)}/devices/${encodeURIComponent(device)}`;
