"""Which commands a node has started and what it answered, kept over restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from enum import Enum
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct

from agent.state_dir import keep
from wire.messages import Cmd, Res

log = logging.getLogger(__name__)

REMEMBERED = 1_000  # ids
ANSWERS = 100  # of the newest ids
MAX_RESULT = 4_000  # bytes of a result that is kept
_MAX_FILE = 4_000_000  # bytes


class Known(Enum):
    """What is known of an id that has no answer."""

    NEW = "new"  # it was not known, and is from now on
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # it was started, and the agent ended before its end
    FORGOTTEN = "forgotten"  # it was started, and its answer is not kept


class _Started(Struct):
    """A command that was started; `res` is its answer."""

    to: str  # device/name
    res: Res | None = None


class _File(Struct):
    """The content of the file. `ids` are those without an answer here."""

    ids: list[str] = []
    started: dict[str, _Started] = {}


_decoder = msgspec.json.Decoder(_File | list[str])  # releases before this one wrote the ids alone


class CommandMemory:
    """The newest ids and answers, in `commands.json` of the state folder.

    An id is on disk before its command runs, so that the command is not run again after a crash.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / "commands.json"
        self._ids: dict[str, None] = {}  # without an answer, in order of arrival
        self._started: dict[str, _Started] = {}  # in order of arrival
        self._running: set[str] = set()
        self._is_loaded = False
        self._saving = asyncio.Lock()
        self._unwritable = False  # true: this was logged

    async def find(self, command: Cmd, to: str) -> Res | Known | None:
        """What is known of the command `to` a device/name; None where its id is new."""
        async with self._saving:
            return await self._find(command.id, to)

    async def start(self, command: Cmd, to: str) -> Res | Known:
        """Note that a command starts, unless its id is known; on disk at the end."""
        async with self._saving:
            found = await self._find(command.id, to)
            if found is not None:
                return found
            self._running.add(command.id)
            self._started[command.id] = _Started(to)
            await self._save()
            return Known.NEW

    async def end(self, answer: Res) -> None:
        """Note how a command ended; on disk at the end."""
        kept = answer
        if answer.result is not UNSET and len(msgspec.json.encode(answer.result)) > MAX_RESULT:
            kept = msgspec.structs.replace(answer, result=UNSET)
        async with self._saving:
            self._running.discard(answer.id)
            if answer.id in self._started:
                self._started[answer.id].res = kept
                await self._save()

    async def _find(self, identity: str, to: str) -> Res | Known | None:
        if not self._is_loaded:
            self._ids, self._started = await asyncio.to_thread(self._load)
            self._is_loaded = True
        started = self._started.get(identity)
        if started is None:
            return Known.FORGOTTEN if identity in self._ids else None
        if started.to != to:
            return Known.FORGOTTEN
        if identity in self._running:
            return Known.RUNNING
        return started.res or Known.INTERRUPTED

    def _load(self) -> tuple[dict[str, None], dict[str, _Started]]:
        with contextlib.suppress(OSError, msgspec.MsgspecError), self._path.open("rb") as file:
            found = _decoder.decode(file.read(_MAX_FILE))
            saved = _File(ids=found) if isinstance(found, list) else found
            return dict.fromkeys(saved.ids[-REMEMBERED:]), saved.started
        return {}, {}

    async def _save(self) -> None:
        while len(self._started) > ANSWERS:
            oldest = next(iter(self._started))
            del self._started[oldest]
            self._ids[oldest] = None
        while len(self._ids) + len(self._started) > REMEMBERED:
            del self._ids[next(iter(self._ids))]
        content = msgspec.json.encode(_File(list(self._ids), self._started))
        await asyncio.to_thread(self._write, content)

    def _write(self, content: bytes) -> None:
        try:
            keep(self._path, content)
        except OSError as error:
            if not self._unwritable:
                log.warning(
                    "%s cannot be written (%s): a restart forgets what ran", self._path, error.strerror
                )
            self._unwritable = True
        else:
            self._unwritable = False
