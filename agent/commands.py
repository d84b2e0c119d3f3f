"""Commands from operators: each id is executed once, not after its time, and always answered."""

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
from wire.topics import NODE_ITSELF

log = logging.getLogger(__name__)

Action = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""`await action(device, args)` gives the `result` of the answer; `device` is `_` for the node itself."""

REMEMBERED = 1_000  # ids, over restarts
_TIMEOUT_S = 60.0  # for one action, real time
_MAX_RESULT = MAX_BODY - 2_000  # bytes; room for what stands around it

_ids = msgspec.json.Decoder(list[str])


class Rejected(EdgebedError):
    """Raised by an action for a device or arguments it does not take: the answer is `rejected`."""


class Commands:
    """Runs `actions` by name; `ping` is always there.

    An action that raises `Rejected` is answered `rejected`, any other `EdgebedError` `failed`. The last
    ids are kept in `state`, on disk before their command runs: after a crash it is not run again.
    """

    def __init__(self, state: Path, clock: Clock, actions: Mapping[str, Action]) -> None:
        self._path = state / "commands.json"
        self._clock = clock
        self._actions: dict[str, Action] = {"ping": self._ping, **actions}
        self._seen: dict[str, None] | None = None  # in order of arrival; None until it is read
        self._saving = asyncio.Lock()
        self._unwritable = False  # and that was logged

    def declared(self) -> list[Command]:
        """For the birth."""
        return [Command(name=name, device="*" if name == "snapshot" else "_") for name in self._actions]

    async def handle(self, device: str, name: str, command: Cmd) -> Res:  # noqa: PLR0911 - one per state
        """Execute or refuse one command; never raises for what it holds."""
        action = self._actions.get(name)
        if action is None:
            return self._answer(command, "rejected", 404, f"unknown command {name!r}")
        if self._clock.now_ms() > command.ts + command.ttl_ms:
            return self._answer(command, "expired", 408, "arrived after its time")
        if not await self._is_new(command.id):
            return self._answer(command, "duplicate", 409, "this id was executed before")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return self._done(command, await action(device, command.args))
        except Rejected as error:
            return self._answer(command, "rejected", 400, str(error))
        except EdgebedError as error:
            return self._answer(command, "failed", 500, str(error))
        except TimeoutError:
            return self._answer(command, "failed", 504, f"not done after {_TIMEOUT_S:.0f} s")

    def _done(self, command: Cmd, result: dict[str, Any]) -> Res:
        if len(msgspec.json.encode(result)) > _MAX_RESULT:
            return self._answer(command, "failed", 413, "the result is too large to be sent")
        answer = self._answer(command, "done", 0)
        answer.result = result
        return answer

    def _answer(self, command: Cmd, state: Any, code: int, err: str = "") -> Res:
        return Res(id=command.id, state=state, code=code, err=err[:2_000], ts=self._clock.now_ms())

    async def _ping(self, device: str, _args: dict[str, Any]) -> dict[str, Any]:
        if device != NODE_ITSELF:
            raise Rejected("ping is answered by the node, device _")
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
                    "%s cannot be written (%s): a restart forgets what was done", self._path, error.strerror
                )
            self._unwritable = True
        else:
            self._unwritable = False
