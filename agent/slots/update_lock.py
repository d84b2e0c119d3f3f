"""The update lock of a node: a file, or a field of a device, states that no other version may begin now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from adapters.base import Reading, Value
from agent.pipeline.settings import SlotConfig
from agent.slots.model_store import HOLD
from agent.state_dir import keep
from wire.clock import Clock
from wire.printable import printable

_MAX_WHY = 200  # characters of the first line of the file


class UpdateLock:
    """What holds versions back, with its age. The file is `hold` in the folder of the models."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._file = folder / HOLD
        self._clock = clock
        self._fields: dict[str, Value] = {}  # device/stream/field to its newest value
        self._since_s: dict[str, float] = {}  # what holds, to when it was seen first

    def hold(self, why: str) -> None:
        """Hold back every version of the node from now on, over restarts; blocks. Raises OSError."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        keep(self._file, printable(why, _MAX_WHY).encode() + b"\n")

    def release(self) -> None:
        """End `hold`; blocks. Raises OSError."""
        self._file.unlink(missing_ok=True)

    def take(self, device: str, reading: Reading) -> None:
        """Note the values of a reading."""
        for field, value in reading.values.items():
            self._fields[f"{device}/{reading.stream}/{field}"] = value

    def held(self, slots: Mapping[str, SlotConfig]) -> dict[str, tuple[str, float]]:
        """The slots that are held back: by what, and for how many seconds; blocks for the disk."""
        by_file = self._text()
        now_s, found = self._clock.monotonic(), {}
        for name, slot in slots.items():
            if what := by_file or self._by_field(slot.hold):
                found[name] = (what, now_s - self._since_s.setdefault(f"{name} {what}", now_s))
        kept = {f"{name} {what}" for name, (what, _) in found.items()}
        self._since_s = {key: since_s for key, since_s in self._since_s.items() if key in kept}
        return found

    def _text(self) -> str:
        try:
            with self._file.open("rb") as file:
                lines = file.read(4 * _MAX_WHY).decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return ""
        except OSError as error:  # it is there, so it holds
            return f"{HOLD}: {error.strerror}"
        return printable(lines[0], _MAX_WHY) if lines and lines[0].strip() else f"file {HOLD}"

    def _by_field(self, field: str) -> str:
        if not field:
            return ""
        if field not in self._fields:
            return f"{field} is not known yet"
        value = self._fields[field]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return f"{field} has no value"
        return f"{field} is {printable(value, 40)}" if value else ""
