// The login: name and password, or the token of this release, or what is missing for a login.
import { ApiError, locked, post } from "../api.js";
import { html, useState } from "../html.js";
import { Failed } from "../parts.js";
import { t } from "../text.js";

export function LoginView() {
  const Form = { "login": Password, "session-ended": Password, "token": Token }[locked.value];
  return html`
    <section class="card welcome">
      <h1>${t("login.title")}</h1>
      ${
        Form
          ? html`
              <${Form} />
            `
          : html`
              <p>${t(locked.value === "no-tls" ? "login.notls" : "login.nouser")}</p>
              <code>
                ${locked.value === "no-tls" ? "http.cert_file, http.key_file" : "edgebed user add NAME --store FOLDER --role admin --prefix '*'"}
              </code>
            `
      }
    </section>
  `;
}

function Password() {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const enter = async (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    setBusy(true);
    try {
      await post("login", { name: form.get("name").trim().toLowerCase(), password: form.get("password") });
      location.reload(); // what another user saw must not stay on the page
    } catch (failed) {
      if (!(failed instanceof ApiError)) throw failed;
      setError(failed);
      setBusy(false);
    }
  };
  return html`
    ${
      locked.value === "session-ended" &&
      html`
        <p>${t("login.ended")}</p>
      `
    }
    <form class="token login" onSubmit=${enter}>
      <label>
        ${t("login.name")}
        <input name="name" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="64" required autofocus />
      </label>
      <label>
        ${t("login.password")}
        <input name="password" type="password" autocomplete="current-password" maxlength="200" required />
      </label>
      <button type="submit" class="button primary" disabled=${busy}>${t("login.enter")}</button>
    </form>
    ${
      error &&
      (error.status === 401
        ? html`
            <p class="problem" role="alert">${t("login.wrong")}</p>
          `
        : html`
            <${Failed} error=${error} />
          `)
    }
  `;
}

function Token() {
  const [wrong, setWrong] = useState(false);
  const enter = async (event) => {
    event.preventDefault();
    const token = new FormData(event.currentTarget).get("token").trim();
    const reply = await fetch("api/v1/health", { headers: { authorization: `Bearer ${token}` } }).catch(() => null);
    if (reply?.ok)
      // the answer sets the cookie and redirects without the token
      location.replace(`./?token=${encodeURIComponent(token)}`);
    else setWrong(true);
  };
  return html`
    <p>${t("token.text")}</p>
    <form class="token" onSubmit=${enter}>
      <label>
        ${t("token.label")}
        <input name="token" type="password" autocomplete="current-password" required autofocus />
      </label>
      <button type="submit" class="button primary">${t("token.enter")}</button>
    </form>
    ${
      wrong &&
      html`
        <p class="problem" role="alert">${t("token.wrong")}</p>
      `
    }
  `;
}
