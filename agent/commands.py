"""Runs commands from operators: each id once, never after its time, always with an answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.state_dir import keep
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import MAX_BODY, Cmd, Command, Res
from wire.reasons import NO_REASON, Reason, because
from wire.topics import NODE_ITSELF

log = logging.getLogger(__name__)

Action = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""`await action(device, args)` gives the `result` of the answer; `device` is `_` for the node itself."""

REMEMBERED = 1_000  # ids kept over restarts
_TIMEOUT_S = 60.0  # for one action, real time
_MAX_RESULT = MAX_BODY - 2_000  # bytes; leaves room for the rest of the answer

_ids = msgspec.json.Decoder(list[str])


class Rejected(EdgebedError):
    """Raised by an action for a wrong device or wrong arguments: the answer is `rejected`."""

    reason_code = "command-rejected"


class Commands:
    """Runs `actions` by name; `ping` is built in.

    `Rejected` is answered with `rejected`, any other `EdgebedError` with `failed`. The last ids are kept in
    `state`. An id is on disk before its command runs, so that the command is not run again after a crash.
    """

    def __init__(self, state: Path, clock: Clock, actions: Mapping[str, Action]) -> None:
        self._path = state / "commands.json"
        self._clock = clock
        self._actions: dict[str, Action] = {"ping": self._ping, **actions}
        self._seen: dict[str, None] | None = None  # in order of arrival; None until the file is read
        self._saving = asyncio.Lock()
        self._unwritable = False  # true: this was logged

    def declared(self) -> list[Command]:
        """The commands for the birth."""
        return [Command(name=name, device="*" if name == "snapshot" else "_") for name in self._actions]

    async def handle(self, device: str, name: str, command: Cmd) -> Res:  # noqa: PLR0911 - one per state
        """Run or refuse one command; never raises for the command's content."""
        action = self._actions.get(name)
        if action is None:
            return self._answer(
                command, "rejected", 404, because(f"unknown command {name!r}", "command-unknown", name=name)
            )
        if self._clock.now_ms() > command.ts + command.ttl_ms:
            why = because("the command arrived after its time", "command-expired")
            return self._answer(command, "expired", 408, why)
        if not await self._is_new(command.id):
            why = because("a command with this id was executed before", "command-duplicate")
            return self._answer(command, "duplicate", 409, why)
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

    async def _is_new(self, identity: str) -> bool:
        async with self._saving:
            if self._seen is None:
                self._seen = await asyncio.to_thread(self._load)
            if identity in self._seen:
                return False
            self._seen[identity] = None
            while len(self._seen) > REMEMBERED:
                del self._seen[next(iter(self._seen))]
            await asyncio.to_thread(self._save, list(self._seen))
            return True

    def _load(self) -> dict[str, None]:
        with contextlib.suppress(OSError, msgspec.MsgspecError), self._path.open("rb") as file:
            return dict.fromkeys(_ids.decode(file.read(MAX_BODY))[-REMEMBERED:])
        return {}

    def _save(self, ids: list[str]) -> None:
        try:
            keep(self._path, msgspec.json.encode(ids))
        except OSError as error:
            if not self._unwritable:
                log.warning(
                    "%s cannot be written (%s): a restart forgets what ran",
                    self._path,
                    error.strerror,
                )
            self._unwritable = True
        else:
            self._unwritable = False
