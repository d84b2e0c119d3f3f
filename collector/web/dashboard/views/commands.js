// The commands for a node: buttons for operators, and what became of each command.
import { ApiError, get, nodePath, post, remove } from "../api.js";
import { html, useEffect, useState } from "../html.js";
import { At, Icon } from "../parts.js";
import { Why } from "../reason.js";
import { mayOperate } from "../rights.js";
import { on } from "../stream.js";
import { t } from "../text.js";

const SHOWN = 20;
const EVERY_MS = 5_000;
// state -> [icon, tone]
const STATES = {
  queued: ["wait", "idle"],
  delivered: ["wait", "note"],
  running: ["wait", "note"],
  done: ["ok", "good"],
  failed: ["bad", "bad"],
  rejected: ["bad", "bad"],
  expired: ["warn", "warn"],
  withdrawn: ["off", "idle"],
};

/** The newest commands of a node, and what it declares; each change arrives over the stream. */
function useCommands(node) {
  const [commands, setCommands] = useState([]);
  const [declared, setDeclared] = useState([]);
  const take = (...found) => setCommands((known) => merged(known, found));
  useEffect(() => {
    const abort = new AbortController();
    const ask = (path, params, use) =>
      get(path, { signal: abort.signal, params }).then(use, (error) => {
        if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
      });
    let declares = false;
    const askDeclared = () =>
      ask(nodePath(node), {}, (answer) => {
        const found = answer.birth?.cmds ?? [];
        declares = found.length > 0;
        setDeclared(found);
      });
    const askAll = () => {
      ask(`${nodePath(node)}/commands`, { limit: SHOWN }, (answer) => take(...answer.commands));
      askDeclared();
    };
    askAll();
    const timer = setInterval(() => declares || askDeclared(), EVERY_MS); // its birth may come after its status
    const stops = [on("hello", askAll), on("command", (one) => one.node === node && take(one))];
    return () => {
      clearInterval(timer);
      abort.abort();
      for (const stop of stops) stop();
    };
  }, [node]);
  return { commands, declared, take };
}

/** The newest form of each command: an answer may arrive after a later frame of the stream. */
function merged(known, found) {
  const newest = new Map(known.map((one) => [one.id, one]));
  for (const one of found) {
    const other = newest.get(one.id);
    if (!other || age(one) >= age(other)) newest.set(one.id, one);
  }
  return [...newest.values()].sort((a, b) => b.ts - a.ts).slice(0, SHOWN);
}

const age = (one) => 2 * one.changes.length + one.is_sent;

export function Commands({ node, device }) {
  const { commands, declared, take } = useCommands(node);
  const [error, setError] = useState(null);
  const operates = mayOperate();
  const act = (request) =>
    request.then(
      (answer) => {
        take(answer);
        setError(null);
      },
      (failed) => {
        if (!(failed instanceof ApiError)) throw failed;
        setError(failed);
      },
    );
  if (!commands.length && !(operates && declared.length)) return null;
  return html`
    <section class="card commands">
      <div class="card-head">
        <h2>${t("commands")}</h2>
        <span class="muted">${t("config.text")}</span>
      </div>
      ${
        operates &&
        declared.length > 0 &&
        html`
          <${Request}
            declared=${declared}
            device=${device}
            onSend=${(body) => act(post(`${nodePath(node)}/commands`, body))}
          />
        `
      }
      ${
        error &&
        html`
          <p class="problem" role="alert">${error.status ? error.message : t("commands.unreachable")}</p>
        `
      }
      ${
        commands.length > 0 &&
        html`
          <${List}
            commands=${commands}
            onWithdraw=${operates && ((one) => act(remove(`${nodePath(node)}/commands/${one.id}`)))}
          />
        `
      }
    </section>
  `;
}

/** One button for each declared command; the arguments are JSON, and most commands need none. */
function Request({ declared, device, onSend }) {
  const [text, setText] = useState("");
  const args = parsed(text);
  const send = (one) => onSend({ name: one.name, device: one.device === "*" ? device : "_", args });
  return html`
    <div class="command-buttons">
      ${declared.map(
        (one) => html`
          <button type="button" class="button" key=${one.name} disabled=${!args} onClick=${() => send(one)}>
            ${one.name}
            ${
              one.device === "*" &&
              html`
                <span class="muted"> ${device}</span>
              `
            }
          </button>
        `,
      )}
      <details>
        <summary>${t("commands.args")}</summary>
        <input
          class="mono"
          aria-label=${t("commands.args")}
          placeholder='{"stream": "frames"}'
          value=${text}
          onInput=${(event) => setText(event.currentTarget.value)}
        />
        ${
          !args &&
          html`
            <p class="problem">${t("commands.notjson")}</p>
          `
        }
      </details>
    </div>
  `;
}

/** The object in a text, {} where it is empty, null where it has none. */
function parsed(text) {
  if (!text.trim()) return {};
  try {
    const found = JSON.parse(text);
    return found && typeof found === "object" && !Array.isArray(found) ? found : null;
  } catch {
    return null;
  }
}

function List({ commands, onWithdraw }) {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${t("commands")}>
      <table>
        <thead>
          <tr>
            ${["time", "command", "who", "state", "result"].map(
              (name) => html`
                <th key=${name}>${t(`col.${name}`)}</th>
              `,
            )}
          </tr>
        </thead>
        <tbody>
          ${commands.map(
            (one) => html`
              <${Row} key=${one.id} command=${one} onWithdraw=${onWithdraw} />
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}

function Row({ command, onWithdraw }) {
  const { answer } = command;
  const [icon, tone] = STATES[command.state] ?? ["unknown", "idle"];
  const args = Object.keys(command.args).length ? JSON.stringify(command.args) : "";
  return html`
    <tr data-command=${command.id}>
      <td class="nowrap"><${At} ms=${command.ts} /></td>
      <td class="break">
        ${command.device !== "_" && `${command.device} / `}${command.name}
        ${
          args &&
          html`
            <div class="mono small muted">${args}</div>
          `
        }
      </td>
      <td>${command.by}</td>
      <td class="nowrap">
        <span class="state ${tone}">
          <${Icon} name=${icon} />
          <span>${t(`commands.${command.state}`)}</span>
        </span>
      </td>
      <td class="break">
        ${
          answer?.err
            ? html`
                <${Why} reason=${{ why: answer.err, code: answer.err_code, args: answer.args }} />
              `
            : html`
                <span class="mono small">${answer?.result && JSON.stringify(answer.result)}</span>
              `
        }
        ${
          onWithdraw &&
          command.state === "queued" &&
          !command.is_sent &&
          html`
            <button type="button" class="button" onClick=${() => onWithdraw(command)}>${t("withdraw")}</button>
          `
        }
      </td>
    </tr>
  `;
}
