"""Runs commands from operators: each id once, never after its time, always with an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.command_memory import CommandMemory, Known
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import MAX_BODY, Cmd, Command, Res
from wire.reasons import NO_REASON, Reason, because
from wire.topics import NODE_ITSELF

Action = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""`await action(device, args)` gives the `result` of the answer; `device` is `_` for the node itself."""

Tell = Callable[[Res], None]
"""Sends an answer that is not the last one."""

LASTS_S = 1.0  # an action that takes longer is answered with `running`
_TIMEOUT_S = 60.0  # for one action, real time
_MAX_RESULT = MAX_BODY - 2_000  # bytes; leaves room for the rest of the answer


class Rejected(EdgebedError):
    """Raised by an action for a wrong device or wrong arguments: the answer is `rejected`."""

    reason_code = "command-rejected"


def _nobody(_answer: Res) -> None:
    """Send nothing."""


class Commands:
    """Runs `actions` by name; `ping` is built in.

    `Rejected` is answered with `rejected`, any other `EdgebedError` with `failed`. The last ids and answers
    are kept in `state`: a repeated id gets the first answer.
    """

    def __init__(self, state: Path, clock: Clock, actions: Mapping[str, Action]) -> None:
        self._clock = clock
        self._actions: dict[str, Action] = {"ping": self._ping, **actions}
        self._memory = CommandMemory(state)

    def declared(self) -> list[Command]:
        """The commands for the birth."""
        return [Command(name=name, device="*" if name == "snapshot" else "_") for name in self._actions]

    async def handle(self, device: str, name: str, command: Cmd, tell: Tell = _nobody) -> Res:
        """Run or refuse one command; never raises for the command's content."""
        to = f"{device}/{name}"
        known = await self._memory.find(command, to)
        if known is None:
            action = self._actions.get(name)
            if action is None:
                why = because(f"unknown command {name!r}", "command-unknown", name=name)
                return self._answer(command, "rejected", 404, why)
            if self._clock.now_ms() > command.ts + command.ttl_ms:
                why = because("the command arrived after its time", "command-expired")
                return self._answer(command, "expired", 408, why)
            known = await self._memory.start(command, to)
            if known is Known.NEW:
                answer = await self._run(device, command, action, tell if command.steps else _nobody)
                await self._memory.end(answer)
                return answer
        return known if isinstance(known, Res) else self._repeated(command, known)

    def _repeated(self, command: Cmd, known: Known) -> Res:
        """The answer to an id that was started before and has no answer."""
        if known is Known.RUNNING and command.steps:
            return self._answer(command, "running", 0)
        if known is Known.INTERRUPTED:
            text = "the agent ended while the command ran: it may have taken effect in part"
            return self._answer(command, "failed", 500, because(text, "command-interrupted"))
        why = because("a command with this id was executed before", "command-duplicate")
        return self._answer(command, "duplicate", 409, why)

    async def _run(self, device: str, command: Cmd, action: Action, tell: Tell) -> Res:
        tell(self._answer(command, "accepted", 0))
        loop = asyncio.get_running_loop()
        lasts = loop.call_later(LASTS_S, lambda: tell(self._answer(command, "running", 0)))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return self._done(command, await action(device, command.args))
        except Rejected as error:
            return self._answer(command, "rejected", 400, error.reason)
        except EdgebedError as error:
            why = error.reason if error.reason_code else because(str(error), "command-failed")
            return self._answer(command, "failed", 500, why)
        except TimeoutError:
            why = because(
                f"the command did not end within {_TIMEOUT_S:.0f} s", "command-timeout", seconds=_TIMEOUT_S
            )
            return self._answer(command, "failed", 504, why)
        finally:
            lasts.cancel()

    def _done(self, command: Cmd, result: dict[str, Any]) -> Res:
        if len(msgspec.json.encode(result)) > _MAX_RESULT:
            why = because(f"the result has more than {_MAX_RESULT} bytes", "command-failed")
            return self._answer(command, "failed", 413, why)
        answer = self._answer(command, "done", 0)
        answer.result = result
        return answer

    def _answer(self, command: Cmd, state: Any, code: int, reason: Reason = NO_REASON) -> Res:
        coded = reason.coded()
        return Res(
            id=command.id,
            state=state,
            code=code,
            err=reason.why[:2_000],
            err_code=coded["code"],
            args=coded["args"],
            ts=self._clock.now_ms(),
        )

    async def _ping(self, device: str, _args: dict[str, Any]) -> dict[str, Any]:
        if device != NODE_ITSELF:
            raise Rejected("ping has no device: send it to device _, the node")
        return {"pong": self._clock.now_ms()}
