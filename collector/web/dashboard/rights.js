// Who is logged in, and what this user may do; the collector checks each request again.
import { get, post } from "./api.js";
import { signal } from "./html.js";

const ROLES = ["viewer", "operator", "admin"];

/** {name, kind, ends, grants} of the collector, null until it has answered. */
export const me = signal(null);

export function ask() {
  return get("me").then(
    (answer) => {
      me.value = answer;
    },
    () => {}, // the page shows why nothing can be fetched
  );
}

/** The lowest role of its grants: what the user may do at most. */
export const role = () =>
  (me.value?.grants ?? []).map((grant) => grant.role).sort((a, b) => ROLES.indexOf(a) - ROLES.indexOf(b))[0];

/** Whether the user may send commands and configurations to the nodes that it sees. */
export const mayOperate = () => ROLES.indexOf(role()) >= ROLES.indexOf("operator");

export async function leave() {
  await post("logout", {}).catch(() => {}); // without the collector there is no session to end
  location.reload();
}
