// The shell: header, route, language, theme, and the banner while the stream is lost.
import { locked } from "./api.js";
import { asked, failure, loaded, look, problems, start, troubled } from "./fleet-state.js";
import { effect, html, render, signal, useEffect, useState } from "./html.js";
import { Icon, Trouble } from "./parts.js";
import { recall, remember } from "./remember.js";
import { ask, leave, me, role } from "./rights.js";
import { follow, link } from "./stream.js";
import { choose, lang, LANGUAGES, speak, t } from "./text.js";
import { FleetView } from "./views/fleet.js";

const LATER = {
  // fetched when first opened: the fleet page does not wait for chart code
  device: () =>
    Promise.all([import("./views/device.js"), style("vendor/uplot.css")]).then(([module]) => module.DeviceView),
  ledger: () => import("./views/ledger.js").then((module) => module.LedgerView),
  pilots: () => import("./views/pilots.js").then((module) => module.PilotsView),
  usage: () => import("./views/usages.js").then((module) => module.UsagesView),
  rollouts: () => import("./views/rollouts.js").then((module) => module.RolloutsView),
  quarantine: () => import("./views/quarantine.js").then((module) => module.QuarantineView),
  audit: () => import("./views/audit.js").then((module) => module.AuditView),
  login: () => import("./views/login.js").then((module) => module.LoginView),
};
const SHOWN = 5; // problems of the collector
const PLACES = ["fleet", "pilots", "rollouts", "ledger", "usage", "quarantine", "audit"];

/** Load a style sheet of one view, before the page's own so that the page's own wins. */
function style(path) {
  if (document.querySelector(`link[href="static/${path}"]`)) return null;
  return new Promise((resolve, reject) => {
    const sheet = document.createElement("link");
    Object.assign(sheet, { rel: "stylesheet", href: `static/${path}`, onload: resolve, onerror: reject });
    document.head.prepend(sheet);
  });
}

const route = signal(parse(location.hash));

function parse(hash) {
  let parts;
  try {
    parts = hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  } catch {
    parts = [""]; // a hand-written address with a broken escape
  }
  const [view, ...rest] = parts;
  if (view === "device" && rest.length === 5) return { view, node: rest.slice(0, 4).join("/"), device: rest[4] };
  if (["rollouts", "pilots"].includes(view) && rest.length === 2) return { view, tenant: rest[0], id: rest[1] };
  return { view: PLACES.includes(view) ? view : "fleet" };
}

function Shell() {
  const at = route.value;
  const view = locked.value ? "login" : at.view;
  return html`
    <a class="skip" href="#main" onClick=${skip}>${t("skip")}</a>
    <header class="top">
      <div class="bar">
        <a class="brand" href="#/">
          <${Mark} />
          edgebed
        </a>
        <nav aria-label=${t("nav")}>
          ${PLACES.map(
            (place) => html`
              <a
                key=${place}
                href=${place === "fleet" ? "#/" : `#/${place}`}
                aria-current=${at.view === place ? "page" : undefined}
              >
                ${t(`nav.${place}`)}
              </a>
            `,
          )}
        </nav>
        <div class="switches">
          <${LinkState} />
          <${Account} />
          <${LanguageSwitch} />
          <${ThemeSwitch} />
        </div>
      </div>
    </header>
    <${Banner} />
    <${Problems} />
    <main class="page" id="main" tabindex="-1">
      <${View} key=${JSON.stringify([view, at.node, at.device, at.id])} view=${view} at=${at} />
    </main>
  `;
}

function View({ view, at }) {
  const [Found, setFound] = useState(view === "fleet" ? () => FleetView : null);
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    if (view !== "fleet")
      LATER[view]().then(
        (component) => setFound(() => component),
        () => setBroken(true),
      );
  }, []);
  if (broken)
    return html`
      <p class="card problem" role="alert">${t("load.failed")}</p>
    `;
  if (!Found)
    return html`
      <p class="loading" role="status">${t("loading")}</p>
    `;
  return html`
    <${Found} node=${at.node} device=${at.device} tenant=${at.tenant} id=${at.id} />
  `;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Mark() {
  return html`
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect x="3" y="3" width="26" height="26" rx="7" class="mark-box" />
      <path class="mark-line" d="M7 17h4l2.5-7 4 13 3-9 1.5 3H25" />
    </svg>
  `;
}

function LinkState() {
  const state = link.value;
  const tone = { open: "good", lost: "bad", connecting: "idle" }[state];
  return html`
    <span class="link ${tone}" title=${t(`link.${state}.long`)}>
      <span class="dot" aria-hidden="true"></span>
      <span class="link-word">${t(`link.${state}`)}</span>
    </span>
  `;
}

function Account() {
  const user = me.value;
  if (locked.value || user?.kind !== "session") return null;
  const rights = user.grants.map((grant) => grant.prefixes.join(" ")).join(", ");
  return html`
    <span class="account" title=${`${t(`role.${role()}`)}: ${rights}`}>${user.name}</span>
    <button type="button" class="button" onClick=${leave}>${t("logout")}</button>
  `;
}

function Banner() {
  const lost = link.value === "lost" && !locked.value;
  const refused = !lost && failure.value && !locked.value && !loaded.value;
  return html`
    <div role="status" aria-live="polite">
      ${
        (lost || refused) &&
        html`
          <div class="banner">
            <div class="banner-in">
              <${Icon} name="plug" />
              <span>
                <b>${t("lost.title")}</b>
                ${" "} ${t("lost.text")}
              </span>
            </div>
          </div>
        `
      }
    </div>
  `;
}

/** What is wrong with the collector itself, on every view. */
function Problems() {
  return html`
    <div role="status" aria-live="polite">
      ${
        problems.value.length > 0 &&
        html`
          <div class="collector-problems">
            <ul class="banner-in troubles">
              ${problems.value.slice(0, SHOWN).map(
                (one) => html`
                  <${Trouble} key=${`${one.code} ${one.part}`} trouble=${{ code: "collector", sev: 3, why: one.why, reason: one }} />
                `,
              )}
            </ul>
          </div>
        `
      }
    </div>
  `;
}

function LanguageSwitch() {
  return html`
    <label class="pick">
      <span class="hidden">${t("language")}</span>
      <select value=${lang.value} onChange=${(event) => choose(event.target.value)}>
        ${Object.entries(LANGUAGES).map(
          ([code, name]) => html`
            <option key=${code} value=${code} lang=${code}>${name}</option>
          `,
        )}
      </select>
    </label>
  `;
}

const THEMES = ["auto", "light", "dark"];
export const theme = signal(recall("edgebed.theme") ?? "auto");

function ThemeSwitch() {
  const current = THEMES.includes(theme.value) ? theme.value : "auto";
  const icon = { auto: "auto", light: "sun", dark: "moon" }[current];
  const turn = () => {
    theme.value = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
  };
  const label = `${t("theme")}: ${t(`theme.${current}`)}`;
  return html`
    <button type="button" class="round" aria-label=${label} title=${label} onClick=${turn}>
      <${Icon} name=${icon} />
    </button>
  `;
}

effect(() => {
  const chosen = theme.value;
  remember("edgebed.theme", chosen === "auto" ? null : chosen);
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  dispatchEvent(new Event("themechange"));
});

effect(() => {
  const n = troubled.value;
  document.title = n ? `(${n}) edgebed` : "edgebed";
});

addEventListener("hashchange", () => {
  if (location.hash === "#main") return;
  route.value = parse(location.hash);
  document.getElementById("main")?.focus({ preventScroll: true });
  scrollTo(0, 0);
});

effect(() => look(route.value.node));
effect(() => {
  const { node, device } = route.value;
  follow({ ...asked.value, ...(node && { node, device }) });
});
effect(() => {
  if (link.value !== "open") ask(); // a stream that ended may be a session that ended
});
start();
await speak(lang.value);
const root = document.getElementById("app");
root.replaceChildren();
render(
  html`
    <${Shell} />
  `,
  root,
);
