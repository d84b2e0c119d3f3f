"""Signed statements of what was taken, sent through the outbox like any event; the key that signs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.custody import ed25519
from agent.outbox import Message, Outbox
from agent.outbox.row_counter import Part
from agent.state_dir import keep
from wire.clock import Clock
from wire.custody import TYPE, Statement, digest, signed_form
from wire.messages import ClockState, Event
from wire.topics import NODE_ITSELF, Address

log = logging.getLogger(__name__)

KEY_FILE = "node.key"
EVERY_S = 60.0  # while something is taken
_LOOK_S = 1.0


class NodeKey:
    """The node's Ed25519 key pair; only its file and this object know the secret half."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._public = ed25519.public_key(seed)
        self.public = self._public.hex()

    def sign(self, message: bytes) -> str:
        """The signature in hexadecimal."""
        return ed25519.sign(self._seed, self._public, message).hex()

    @classmethod
    def open(cls, state: Path) -> NodeKey | None:
        """The key in a state folder, made on the first start; None while none can be kept there.

        A key that cannot be read is set aside and a new one made: the collector asks its people about it.
        """
        path = state / KEY_FILE
        try:
            seed = bytes.fromhex(path.read_text("ascii"))
            if len(seed) == 32:
                return cls(seed)
            raise ValueError(f"{len(seed)} bytes instead of 32")
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.error("%s is no key (%s): it is set aside and a new one is made", path, error)
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
        except OSError as error:
            log.error("%s cannot be read (%s): nothing is signed", path, error.strerror)
            return None
        seed = secrets.token_bytes(32)
        try:
            keep(path, f"{seed.hex()}\n".encode(), mode=0o600)
        except OSError as error:
            log.error("%s cannot be written (%s): nothing is signed", path, error.strerror)
            return None
        return cls(seed)


class Custody:
    """States what the outbox took: soon after a start, each minute and for each UTC day, if anything was.

    What is stated: see `wire.custody.Statement`. Nothing is written for an idle outbox.
    """

    def __init__(
        self,
        outbox: Outbox,
        address: Address,
        boot: str,
        key: NodeKey | None,
        clock: Clock,
        *,
        clock_state: Callable[[], ClockState],
        sent: Callable[[], int],
    ) -> None:
        self._outbox = outbox
        self._node = str(address)
        self._boot = boot
        self._key = key
        self._clock = clock
        self._clock_state = clock_state
        self._sent = sent
        self._lock = threading.Lock()  # one states
        self._count = 0
        self._before = ""
        self._due_s = 0.0

    def look(self) -> None:
        """State what is due; call it in a thread about once a second: signing takes milliseconds."""
        now_s = self._clock.monotonic()
        due = self._outbox.news and now_s >= self._due_s
        self._state(closed=not due)
        if due:
            self._due_s = now_s + EVERY_S

    def close(self) -> None:
        """State what no statement tells of yet; blocks as `look` does."""
        self._state(closed=False)

    def _state(self, *, closed: bool) -> None:
        if self._key is None:
            return
        with self._lock:
            for part in self._outbox.parts(closed=closed):
                event = self._event(part, self._key)
                self._outbox.append(Message("event", NODE_ITSELF, TYPE, event))

    def _event(self, part: Part, key: NodeKey) -> Event:
        stats, clk = self._outbox.stats(), self._clock_state()
        statement = Statement(
            n=self._count + 1,
            prev=self._before,
            key=key.public,
            boot=self._boot,
            run=part.run,
            day=part.day,
            first=part.first,
            upto=part.upto,
            streams=part.streams,
            stored=stats.head,
            acked=stats.acked,
            sent=self._sent(),
            dropped=self._outbox.drops(),
            clk=clk.value,
        )
        detail = msgspec.to_builtins(statement)
        form = signed_form(detail, self._node, self._outbox.ep)
        detail["sig"] = key.sign(form)
        self._count, self._before = statement.n, digest(form)
        return Event(ts=self._clock.now_ms(), type=TYPE, sev=0, clk=clk.value, detail=detail)


async def keep_stating(custody: Custody, clock: Clock) -> None:
    """The task that looks each second of `clock`, for ever."""
    while True:
        await clock.sleep(_LOOK_S)
        await asyncio.to_thread(custody.look)
