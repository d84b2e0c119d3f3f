// The first page, while no node has ever reported.
import { get } from "../api.js";
import { html, useEffect, useState } from "../html.js";
import { State } from "../parts.js";
import { t } from "../text.js";

const STEPS = [
  ["welcome.demo", "edgebed demo --port 0"],
  ["welcome.check", "edgebed init robot -o my.yaml"],
  ["welcome.run", "edgebed agent check my.yaml && edgebed agent run my.yaml"],
];

const EVERY_MS = 5000;

export function Welcome() {
  const [health, setHealth] = useState(null);
  useEffect(() => {
    const ask = () => get("health").then(setHealth, () => setHealth(null)); // shown where it can be fetched
    ask();
    const timer = setInterval(ask, EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  const broker = health && (health.broker?.state ?? health.broker);
  return html`
    <section class="card welcome">
      <h1>${t("welcome.title")}</h1>
      <p>${t("welcome.text")}</p>
      <ol>
        ${STEPS.map(
          ([key, command]) => html`
            <li key=${key}>
              <span>${t(key)}</span>
              <code>${command}</code>
            </li>
          `,
        )}
      </ol>
      ${
        broker !== null &&
        broker !== undefined &&
        html`
          <p class="muted">
            ${t("welcome.broker")}${" "}
            <${State} state=${brokerState(broker)} />
            ${
              brokerState(broker) === "lost" &&
              html`
                ${" "}${t("welcome.nobroker")}${" "}
                <code>edgebed broker</code>
              `
            }
          </p>
        `
      }
      <p class="muted">${t("welcome.wait")}</p>
    </section>
  `;
}

const brokerState = (broker) =>
  broker === true || broker === "connected" || broker === "ok" || broker === "online" ? "online" : "lost";
