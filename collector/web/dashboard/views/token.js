// Asks for the token once; the server then sets a cookie that scripts cannot read.
import { html, useState } from "../html.js";
import { t } from "../text.js";

export function TokenView() {
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
    <section class="card welcome">
      <h1>${t("token.title")}</h1>
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
    </section>
  `;
}
