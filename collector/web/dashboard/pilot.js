// The words of a pilot: its arms and phases, and the events of a node about them.
import { count, value, when } from "./format.js";
import { html } from "./html.js";
import { known, t } from "./text.js";

const word = (kind, name) => (known(`pilot.${kind}.${name}`) ? t(`pilot.${kind}.${name}`) : String(name ?? ""));

export const armText = (arm) => word("arm", arm);

export const phaseText = (phase) => word("phase", phase);

/** Where in the schedule a moment is: baseline, or the number of a period of the trial from 1. */
export const placeText = (phase, period) =>
  phase === "trial" && period >= 0 ? t("pilot.period", { n: count(period + 1) }) : phaseText(phase);

/** What was planned and what is the case. */
export function Arms({ planned, actual, number }) {
  const isPlanned = planned !== null && planned !== undefined; // it is not after the trial
  const differs = isPlanned && actual !== planned;
  return html`
    <span class=${differs ? "warn-text" : ""} data-arms=${differs ? "other" : "planned"}>
      ${
        isPlanned
          ? t("pilot.arms", { planned: armText(planned), actual: armText(actual) })
          : actual === "other"
            ? t("pilot.arms-safe")
            : t("pilot.is", { actual: armText(actual) })
      }
      ${Number.isFinite(number) && ` (${value(number)})`}
    </span>
  `;
}

/** An event `exposure`. */
export function switchEvent({ detail, value: number }) {
  const { pilot, phase, period, planned, actual, restart } = detail ?? {};
  return html`
    <b>${pilot}</b>
    ${" "}${placeText(phase, period)}:${" "}
    <${Arms} planned=${planned} actual=${actual} number=${number} />
    ${
      restart === true &&
      html`
        ${" "}
        <span class="tag">${t("pilot.restart")}</span>
      `
    }
  `;
}

/** An event `pilot`. */
export function planEvent({ detail }) {
  const { pilot, version, signed_by: keys, trial, hash, withdrawn } = detail ?? {};
  if (withdrawn) return t("pilot.ended", { plan: String(withdrawn).slice(0, 12) });
  const [from, to] = Array.isArray(trial) ? trial.map(when) : [];
  return html`
    <b>${pilot}</b>
    ${" "} ${t("pilot.followed", { version: count(version), plan: String(hash ?? "").slice(0, 12), from, to })}
    ${
      Array.isArray(keys) &&
      keys.length > 0 &&
      html`
        ${" "}
        <span class="tag">${t("signed", { key: keys.join(", ") })}</span>
      `
    }
  `;
}
