"""An agent's clock that a drill can step: what `edgebed agent run --clock-file` reads."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from wire.clock import NS_PER_S, Clock
from wire.errors import ConfigError
from wire.messages import ClockState

_READ_EVERY_NS = NS_PER_S // 10


class Setting(msgspec.Struct, kw_only=True):
    """How far the wall clock is off, and whether somebody is said to keep it right."""

    offset_s: float = 0.0
    synced: bool = True


class SteppedClock(Clock):
    """The machine's clock, off by what a file says; monotonic time is never touched.

    Raises:
        ConfigError: the file cannot be read when the clock is made. Later the last setting stands.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._setting = Setting()
        self._read_ns = time.monotonic_ns()
        try:
            self._read()
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"clock file {path} cannot be read: {error}") from error

    def now_ns(self) -> int:
        self._look()
        return super().now_ns() + round(self._setting.offset_s * NS_PER_S)

    def state(self) -> ClockState:
        """What the kernel would say."""
        self._look()
        return ClockState.NTP if self._setting.synced else ClockState.UNSYNCED

    def _look(self) -> None:
        if self.monotonic_ns() - self._read_ns >= _READ_EVERY_NS:
            try:
                self._read()
            except (OSError, msgspec.DecodeError):
                self._read_ns = self.monotonic_ns()  # it is being written: the next look finds it

    def _read(self) -> None:
        self._setting = msgspec.json.decode(self._path.read_bytes(), type=Setting)
        self._read_ns = self.monotonic_ns()


def step(path: Path, *, offset_s: float = 0.0, synced: bool = True) -> None:
    """Set the clock of the agent that reads `path`."""
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(Setting(offset_s=offset_s, synced=synced)))
    draft.replace(path)
