// Asks the collector: JSON, one error type with a sentence.
import { signal } from "./html.js";

/** Why the collector asks for a login: its code, "" while it does not. */
export const locked = signal("");

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
  if (!reply.ok) {
    const { text, code } = await fault(reply);
    if (reply.status === 401 || code === "no-tls") locked.value = code || "login";
    throw new ApiError(reply.status, text);
  }
  return reply.json();
}

/** Change something; a refused one leaves the page as it is. */
export function post(path, body) {
  return change(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
}

/** Take something back; a refused one leaves the page as it is. */
export const remove = (path) => change(path, { method: "DELETE" });

async function change(path, request) {
  let reply;
  try {
    reply = await fetch(`api/v1/${path}`, request);
  } catch {
    throw new ApiError(0, "unreachable");
  }
  if (!reply.ok) throw new ApiError(reply.status, (await fault(reply)).text);
  return reply.json();
}

async function fault(reply) {
  try {
    const body = await reply.json();
    return { text: String(body.error ?? reply.status), code: String(body.code ?? "") };
  } catch {
    return { text: String(reply.status), code: "" }; // not JSON: a proxy in between answered
  }
}

export const nodePath = (node) => `nodes/${node.split("/").map(encodeURIComponent).join("/")}`;
export const devicePath = (node, device) => `${nodePath(node)}/devices/${encodeURIComponent(device)}`;
