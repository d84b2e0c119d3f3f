"""Notes on disk which messages are being decoded, so that one that ends the process is found and left out.

A crash names the group that was in hand. Its messages are then decoded alone, and one that ends the process a
second time is set aside: its bytes are kept in a file, and it is quarantined without being decoded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct

from collector.mqtt.received import Received

log = logging.getLogger(__name__)

FILE, STATE, FOLDER = "in-hand", "in-hand.json", "set-aside"
SET_ASIDE = "set aside: it ended the collector"
DEATHS = 2  # a message that ended the process this often is not decoded again
LARGE = 4_096  # bytes; a smaller body that is not a pack is not noted by the link's thread
MAX_NOTED = 5_000
MAX_KEPT = 100  # files with the bytes of messages that were set aside
_SLOT, _WRITER = 16, 16  # the link's slot, and where the writer's starts


class _State(Struct):
    suspects: list[int] = []  # crc32 of bodies that were in hand, with others, when the process ended
    deaths: dict[str, int] = {}  # digest of a message: how often the process ended with it alone in hand


class InHand:
    """The writer's thread calls `parts` and `holding`, the link's thread `receiving`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = _read_state(folder / STATE)
        self._descriptor = -1
        try:
            self._note_deaths(folder / FILE)
            self._descriptor = os.open(
                folder / FILE, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            log.warning(
                "%s cannot be used: %s; a message that ends the process is not noted", folder / FILE, error
            )
        self._suspects = set(self._state.suspects)

    def _note_deaths(self, path: Path) -> None:
        """Count what was in hand when the last process ended."""
        raw = path.read_bytes()[: _WRITER + 4 + 4 * MAX_NOTED] if path.exists() else b""
        link, writer = raw[:_SLOT], raw[_WRITER:]
        died = [link.hex()] if len(link) == _SLOT and any(link) else []
        count = int.from_bytes(writer[:4], "little")
        if count == 1 and len(writer) >= 24:
            name, crc = writer[4:20].hex(), int.from_bytes(writer[20:24], "little")
            died += [name] * (1 + (crc in self._state.suspects))  # it was in a group that died before
            self._state.suspects.append(crc)
        elif 1 < count <= MAX_NOTED and len(writer) >= 4 + 4 * count:
            self._state.suspects += struct.unpack(f"<{count}I", writer[4 : 4 + 4 * count])
        if not count and not died:
            return
        log.warning("the last process ended while it decoded %d messages; they are decoded alone", count or 1)
        for name in died:
            self._state.deaths[name] = self._state.deaths.get(name, 0) + 1
        self._state.suspects = self._state.suspects[-MAX_NOTED:]
        self._save()

    def parts(self, items: Sequence[Received]) -> list[Sequence[Received]]:
        """The items in their order; those that were in hand when the process ended stand alone."""
        if self._state.deaths:
            for one in items:
                if not one.fault.startswith(SET_ASIDE):
                    one.fault = self.why_set_aside(one) or one.fault
        if not self._suspects:
            return [items]
        found: list[list[Received]] = [[]]
        for one in items:
            if crc32(one.body) in self._suspects:
                found += [[one], []]
            else:
                found[-1].append(one)
        return [part for part in found if part] or [[]]

    def why_set_aside(self, message: Received) -> str:
        """Why this message is not decoded, "" when it is."""
        if self._state.deaths and self._state.deaths.get(name := _digest(message), 0) >= DEATHS:
            return self._set_aside(message, name)
        return ""

    def _set_aside(self, message: Received, name: str) -> str:
        """Keep the bytes of a message in a file; why it is quarantined."""
        path = self._folder / FOLDER / name
        try:
            path.parent.mkdir(exist_ok=True)
            if not path.exists() and len(list(path.parent.iterdir())) < MAX_KEPT:
                path.write_bytes(message.topic.encode() + b"\n" + message.body)
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error)
        return f"{SET_ASIDE} {self._state.deaths[name]} times, see {FOLDER}/{name} in the store"

    @contextmanager
    def holding(self, items: Sequence[Received]) -> Iterator[None]:
        """Note the items of a group while they are decoded and committed."""
        if len(items) == 1:
            message = items[0]
            crc = crc32(message.body)
            self._write(_WRITER, struct.pack("<I16sI", 1, bytes.fromhex(_digest(message)), crc))
        elif items:
            crcs = array("I", [crc32(one.body) for one in items[:MAX_NOTED]])
            self._write(_WRITER, len(crcs).to_bytes(4, "little") + crcs.tobytes())
        try:
            yield
        finally:
            if items:
                self._write(_WRITER, bytes(4))
        if self._suspects and len(items) == 1 and not items[0].fault and crc in self._suspects:
            self._suspects.discard(crc)
            self._state.suspects = list(self._suspects)
            self._state.deaths.pop(_digest(message), None)
            self._save()

    @contextmanager
    def receiving(self, message: Received, *, always: bool) -> Iterator[None]:
        """Note a message while the link's thread takes it apart."""
        if not always and len(message.body) < LARGE:
            yield
            return
        self._write(0, bytes.fromhex(_digest(message)))
        try:
            yield
        finally:
            self._write(0, bytes(_SLOT))

    def _write(self, at: int, raw: bytes) -> None:
        # The page cache outlives the process: no fsync. What a power cut leaves names nothing that arrives.
        if self._descriptor >= 0:
            try:
                os.pwrite(self._descriptor, raw, at)
            except OSError as error:
                log.warning("%s cannot be written: %s", self._folder / FILE, error)
                self.close()

    def _save(self) -> None:
        work = self._folder / f"{STATE}.new"
        try:
            work.write_bytes(msgspec.json.encode(self._state))
            work.replace(self._folder / STATE)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._folder / STATE, error)

    def close(self) -> None:
        """Release the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _digest(message: Received) -> str:
    return hashlib.blake2b(message.topic.encode() + b"\0" + message.body, digest_size=_SLOT).hexdigest()


def _read_state(path: Path) -> _State:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_State)
    except (OSError, msgspec.MsgspecError, ValueError):
        return _State()
