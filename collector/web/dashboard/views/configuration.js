// The configuration that was requested from a node, beside what the node reports of it.
import { ApiError, get, nodePath, remove } from "../api.js";
import { html, useEffect, useState } from "../html.js";
import { At, Failed } from "../parts.js";
import { Why } from "../reason.js";
import { mayOperate } from "../rights.js";
import { known, t } from "../text.js";

const EVERY_MS = 5_000;

/** What the collector answers; null until then. */
function useDesired(node) {
  const [answer, setAnswer] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    const ask = () =>
      get(`${nodePath(node)}/desired`, { signal: abort.signal }).then(setAnswer, (error) => {
        if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
      });
    ask();
    const timer = setInterval(ask, EVERY_MS);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }, [node]);
  return [answer, setAnswer];
}

export function Configuration({ node }) {
  const [answer, setAnswer] = useDesired(node);
  const [error, setError] = useState(null);
  const withdraw = () =>
    remove(`${nodePath(node)}/desired`).then(
      (found) => {
        setAnswer(found);
        setError(null);
      },
      (failed) => {
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
      },
    );
  const { desired, reported } = answer ?? {};
  if (!desired && !reported?.ver) return null;
  return html`
    <section class="card configuration">
      <div class="card-head">
        <h2>${t("config")}</h2>
        <span class="muted">${t("config.text")}</span>
      </div>
      <dl class="values">
        <div>
          <dt>${t("config.requested")}</dt>
          <dd>${desired ? html`<${Requested} desired=${desired} />` : t("config.none")}</dd>
        </div>
        <div>
          <dt>${t("config.reported")}</dt>
          <dd>${reported ? html`<${Report} reported=${reported} />` : t("config.none")}</dd>
        </div>
      </dl>
      ${
        desired &&
        Object.keys(desired.doc).length > 0 &&
        html`
          <details>
            <summary>${t("config.document")}</summary>
            <pre class="scroll" tabindex="0">${JSON.stringify(desired.doc, null, 2)}</pre>
          </details>
          ${
            mayOperate() &&
            html`
              <button type="button" class="button" onClick=${withdraw}>${t("withdraw")}</button>
            `
          }
        `
      }
      <${Failed} error=${error} />
    </section>
  `;
}

function Requested({ desired }) {
  const sections = Object.entries(desired.doc).map(([name, found]) => `${name}: ${Object.keys(found).join(", ")}`);
  return html`
    ${t("config.version", { ver: desired.ver })}
    <div class="muted small">${sections.length ? sections.join("; ") : t("config.own")}</div>
    <div class="muted small">${desired.by}${" "}<${At} ms=${desired.ts} /></div>
  `;
}

function Report({ reported }) {
  const key = `config.${reported.state}`;
  return html`
    ${t("config.version", { ver: reported.ver })}: ${known(key) ? t(key) : reported.state}
    <div class="muted small"><${At} ms=${reported.ts} /></div>
    <div class="small"><${Why} reason=${{ why: reported.err, code: reported.code, args: reported.args }} /></div>
  `;
}
