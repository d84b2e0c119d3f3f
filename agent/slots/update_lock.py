"""The update lock of a node: a file, a field of a device or a time window: no other version may begin now."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from adapters.base import Reading, Value
from agent.inference import package_files
from agent.inference.decoders import ModelError
from agent.pipeline.settings import SlotConfig
from agent.slots.model_store import HOLD
from agent.slots.update_window import UpdateWindow
from agent.state_dir import keep
from wire.clock import Clock
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because

_MAX_FILE = 1_000_000  # bytes
_MAX_WHY = 200  # characters of the first line of the file


class UpdateLock:
    """What holds versions back, with its age. The file is `hold` in the folder of the models."""

    def __init__(self, folder: Path, clock: Clock, window: UpdateWindow | None = None) -> None:
        self.window = window or UpdateWindow()
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

    def held(self, slots: Mapping[str, SlotConfig]) -> dict[str, Reason]:
        """The slots that are held back: by what, and for how long, or until when; blocks for the disk."""
        by_file, outside = self._text(), self._outside()
        now_s, found, kept = self._clock.monotonic(), {}, set[str]()
        for name, slot in slots.items():
            if what := by_file or self._by_field(slot.hold):
                kept.add(key := f"{name} {what}")
                seconds = round(now_s - self._since_s.setdefault(key, now_s))
                found[name] = because(f"held back: {what}", "slot-held", what=what, seconds=seconds)
            elif outside.why:
                found[name] = outside
        self._since_s = {key: since_s for key, since_s in self._since_s.items() if key in kept}
        return found

    def _outside(self) -> Reason:
        opens = self.window.opens(self._clock.now_ms())
        if opens is None:
            return NO_REASON
        until = f"{opens:%Y-%m-%d %H:%M} {self.window.timezone}"
        return because(f"outside of the time window for versions until {until}", "slot-window", until=until)

    def _text(self) -> str:
        if not os.path.lexists(self._file):
            return ""
        try:
            lines = package_files.read_file(self._file, _MAX_FILE).decode("utf-8", "replace").splitlines()
        except ModelError as error:  # it is there, so it holds
            return printable(error, _MAX_WHY)
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
