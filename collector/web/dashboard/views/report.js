// The report of a pilot within its page. The collector makes it once; this page asks again only when a person does.
import { ApiError, get } from "../api.js";
import { Refused } from "../asking.js";
import { when } from "../format.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { lang, LANGUAGES, t } from "../text.js";

export const reportPath = (one) => `pilots/${encodeURIComponent(one.owner)}/${encodeURIComponent(one.pilot)}`;

/** What is shown: asked for once more with each press, not with each answer about the pilot. */
function useAsked({ hash, until }) {
  const [asked, setAsked] = useState({ hash, until, times: 0 });
  const isNewer = asked.hash !== hash || asked.until !== until;
  const again = () => setAsked(({ times }) => ({ hash, until, times: times + 1 }));
  return [asked, isNewer, again];
}

/** Whether the collector has made the report that is asked for; a refusal has its sentence. */
function useMade(path, asked) {
  const [made, setMade] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const abort = new AbortController();
    setError(null);
    const params = asked.until === undefined ? {} : { until: asked.until };
    get(`${path}/verdict`, { params, signal: abort.signal }).then(
      (answer) => setMade({ ...answer, of: asked }),
      (failed) => {
        if (failed.name === "AbortError") return;
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
      },
    );
    return () => abort.abort();
  }, [path, asked]);
  return [made, error, made?.of !== asked && !error];
}

export function Report({ pilot }) {
  const path = reportPath(pilot);
  const [asked, isNewer, again] = useAsked(pilot);
  const [made, error, isMaking] = useMade(path, asked);
  const [chosen, setChosen] = useState(null); // a language, else that of the page
  const [problem, setProblem] = useState(null);
  const frame = useRef(null);
  const code = chosen ?? lang.value;
  const from = (ending, more) =>
    `api/v1/${path}/report${ending}?${new URLSearchParams({ ...more, until: made.until })}`;
  const name = `${pilot.owner}-${pilot.pilot}`;
  return html`
    <section class="card report" data-until=${made?.until}>
      <div class="card-head">
        <h2>${t("report")}</h2>
        ${
          made &&
          html`
            <span class="muted small">${t("report.until", { time: when(made.until) })}</span>
          `
        }
        <button type="button" class="button" data-renew disabled=${isMaking} onClick=${again}>
          ${t("report.renew")}
        </button>
        <span role="status" class="muted">${isMaking && t("report.making")}</span>
      </div>
      ${
        isNewer &&
        html`
          <p class="hint" role="status">${t("report.newer")}</p>
        `
      }
      <${Refused} error=${error} />
      ${
        made &&
        html`
          <div class="command-buttons">
            <label class="pick">
              <span class="hidden">${t("report.language")}</span>
              <select value=${code} onChange=${(event) => setChosen(event.target.value)}>
                ${Object.entries(LANGUAGES).map(
                  ([each, word]) => html`
                    <option key=${each} value=${each} lang=${each}>${word}</option>
                  `,
                )}
              </select>
            </label>
            <a class="button" href=${from(".html", { lang: code })} target="_blank" rel="noopener">
              ${t("report.open")}
            </a>
            <button type="button" class="button" onClick=${() => frame.current?.contentWindow.print()}>
              ${t("report.print")}
            </button>
            <${Saved} name=${`${name}-${code}.html`} href=${from(".html", { lang: code })} onError=${setProblem} />
            <${Saved} name=${`${name}-${code}.pdf`} href=${from(".pdf", { lang: code })} onError=${setProblem} />
            <${Saved} name=${`${name}.json`} href=${from("", {})} onError=${setProblem} />
          </div>
          <${Refused} error=${problem} />
          <${Page} frame=${frame} src=${from(".html", { lang: code })} times=${made.of.times} />
        `
      }
    </section>
  `;
}

/** A button that saves a file; the collector may take seconds, and may refuse. */
function Saved({ name, href, onError }) {
  const [isBusy, setBusy] = useState(false);
  const ending = name.split(".").at(-1);
  const save = async () => {
    setBusy(true);
    onError(null);
    try {
      const reply = await fetch(href);
      if (!reply.ok) throw new ApiError(reply.status, (await reply.json()).error);
      const url = URL.createObjectURL(await reply.blob());
      Object.assign(document.createElement("a"), { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it after the click
    } catch (failed) {
      onError(failed instanceof ApiError ? failed : new ApiError(0, "unreachable"));
    } finally {
      setBusy(false);
    }
  };
  return html`
    <button type="button" class="button" data-save=${ending} disabled=${isBusy} onClick=${save}>
      ${t(isBusy ? "report.busy" : "report.save", { kind: ending.toUpperCase() })}
    </button>
  `;
}

/** The page of the report as high as its content. It runs no script: its own policy and the frame forbid it. */
function Page({ frame, src, times }) {
  const watch = useRef(null);
  const height = useRef(0); // kept, so that a renewed report does not make the page jump
  const place = (element) => {
    frame.current = element;
    if (element && height.current) element.style.height = `${height.current}px`;
  };
  const fit = () => {
    watch.current?.disconnect();
    const body = frame.current?.contentDocument?.body; // null after the view was left
    if (!body) return;
    const measure = () => {
      height.current = Math.ceil(body.getBoundingClientRect().height) + 2; // with the border
      if (frame.current) frame.current.style.height = `${height.current}px`;
    };
    watch.current = new ResizeObserver(measure);
    watch.current.observe(body);
  };
  useEffect(() => () => watch.current?.disconnect(), []);
  return html`
    <iframe
      key=${`${src} ${times}`}
      ref=${place}
      class="report-page"
      title=${t("report")}
      src=${src}
      sandbox="allow-same-origin allow-modals"
      onLoad=${fit}
    />
  `;
}

const WORDS = { met: "good-text", "not-met": "bad-text", "not-shown": "warn-text" };
let line = Promise.resolve(); // one after the other: the collector refuses many reports at once

/** The verdict of a pilot that is over, for the list. */
export function Verdict({ pilot }) {
  const [word, setWord] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    const ask = async () => {
      if (abort.signal.aborted) return;
      try {
        setWord((await get(`${reportPath(pilot)}/verdict`, { signal: abort.signal })).word);
      } catch (failed) {
        if (failed.name !== "AbortError" && !(failed instanceof ApiError)) throw failed;
      }
    };
    line = line.then(ask);
    return () => abort.abort();
  }, [pilot.hash]);
  if (!word) return null;
  return html`
    <b class=${WORDS[word]} data-verdict=${word}>${t(`verdict.${word}`)}</b>
  `;
}
