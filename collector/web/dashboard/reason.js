// The text of a reason: translated by its code, or as it was sent where the page does not know the code.
import { count, NONE, span, value } from "./format.js";
import { html } from "./html.js";
import { holes, known, t } from "./text.js";

/** The text of {why, code, args}, as an API answer has them. */
export function reasonText({ why, code, args }) {
  const key = `reason.${code}`;
  if (!code || !known(key)) return why ?? "";
  const values = { why, ...args };
  if (args?.cause && known(`reason.${args.cause}`))
    values.detail = `${args.sender}: ${reasonText({ code: args.cause, args: { share: args.share } })}`;
  if (holes(key).some((name) => values[name] === undefined)) return why ?? "";
  const shown = Object.entries(values).map(([name, arg]) => [name, argText(name, arg)]);
  return t(key, Object.fromEntries(shown), args?.n);
}

/** A reason on the page; the text that was sent is its tooltip where it is translated. */
export function Why({ reason }) {
  const text = reasonText(reason);
  if (!text) return null;
  return html`
    <span class="why" title=${text === reason.why ? undefined : reason.why || undefined}>${text}</span>
  `;
}

function argText(name, arg) {
  if (name === "was" && known(`rollout.${arg}`)) return t(`rollout.${arg}`);
  if (typeof arg === "number" && (name === "seconds" || name.endsWith("_s")))
    return arg < 120 ? t("span.s", { s: value(arg) }) : span(arg * 1000);
  if (Number.isInteger(arg)) return count(arg);
  return arg === null ? NONE : value(arg);
}
