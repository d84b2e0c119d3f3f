"""A clock for an agent that a drill can step, read from the file of `edgebed agent run --clock-file`."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from wire.clock import NS_PER_S, Clock
from wire.errors import ConfigError
from wire.messages import ClockState

_READ_EVERY_NS = NS_PER_S // 10


class Setting(msgspec.Struct, kw_only=True):
    """The offset of the wall clock, and whether it counts as synchronised."""

    offset_s: float = 0.0
    synced: bool = True


class SteppedClock(Clock):
    """The machine's clock plus an offset from a file; monotonic time is not changed.

    Raises:
        ConfigError: the file cannot be read when the clock is made. Later the last setting stays in force.
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
        """Return the state of the clock, as the kernel reports it elsewhere."""
        self._look()
        return ClockState.NTP if self._setting.synced else ClockState.UNSYNCED

    def _look(self) -> None:
        if self.monotonic_ns() - self._read_ns >= _READ_EVERY_NS:
            try:
                self._read()
            except (OSError, msgspec.DecodeError):
                self._read_ns = self.monotonic_ns()  # the file is being written: read it the next time

    def _read(self) -> None:
        self._setting = msgspec.json.decode(self._path.read_bytes(), type=Setting)
        self._read_ns = self.monotonic_ns()


def step(path: Path, *, offset_s: float = 0.0, synced: bool = True) -> None:
    """Step the clock of the agent that reads `path`."""
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(Setting(offset_s=offset_s, synced=synced)))
    draft.replace(path)
