"""Meter: what one agent used on each UTC day, kept in its state folder over restarts."""

from __future__ import annotations

import datetime as dt
import logging
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.state_dir import keep
from wire.clock import Clock
from wire.messages import Live

log = logging.getLogger(__name__)

USAGE_FILE = "usage.json"
KEPT_DAYS = 31
KEEP_S = 60.0  # between two writes
_MAX_FILE = 65_536  # bytes
_MS_PER_DAY = 86_400_000

_Count = Annotated[int, Meta(ge=0, le=2**60)]
_Amount = Annotated[float, Meta(ge=0, le=1e15)]
_Day = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d\Z")]


class Usage(Struct):
    """What was used on one day; `disk_mb` is the largest outbox, `peak_mb` the most resident memory."""

    cpu_s: _Amount = 0.0
    peak_mb: _Amount = 0.0
    disk_mb: _Amount = 0.0
    sent_bytes: _Count = 0
    inferences: _Count = 0
    skipped: _Count = 0


class _Book(Struct):
    v: int = 1
    days: Annotated[dict[_Day, Usage], Meta(max_length=KEPT_DAYS + 1)] = {}


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended, such as gates of models."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


class Meter:
    """Adds what grew between two calls of `sample` to the day of the clock.

    After a kill, the use of the last minute is not in the file.
    """

    def __init__(self, state: Path, clock: Clock, cpu: Callable[[], float] = cpu_s) -> None:
        self._path = state / USAGE_FILE
        self._clock = clock
        self._cpu = cpu
        self._seen = cpu(), 0, 0, 0
        self._kept_s = clock.flowing_s()
        self._changed = False
        self.days: dict[str, Usage] = _read(self._path)

    @property
    def today(self) -> str:
        """The UTC day of the clock."""
        day = dt.date(1970, 1, 1) + dt.timedelta(days=self._clock.now_ms() // _MS_PER_DAY)
        return day.isoformat()

    def sample(
        self, *, sent_bytes: int, inferences: int, skipped: int, rss_mb: float, disk_mb: float
    ) -> None:
        """Take the numbers of now; the first three count from the start of the daemon."""
        day = self.days.setdefault(self.today, Usage())
        now = self._cpu(), sent_bytes, inferences, skipped
        grown = [max(0, new - old) for new, old in zip(now, self._seen, strict=True)]
        self._seen = now
        day.cpu_s = round(day.cpu_s + grown[0], 3)
        day.sent_bytes += int(grown[1])
        day.inferences += int(grown[2])
        day.skipped += int(grown[3])
        day.peak_mb, day.disk_mb = max(day.peak_mb, rss_mb), max(day.disk_mb, disk_mb)
        self._changed = True
        for old in sorted(self.days)[:-KEPT_DAYS]:
            del self.days[old]

    def due(self) -> bytes | None:
        """The content of the file if it is time to `write` it; None otherwise."""
        if not self._changed or self._clock.flowing_s() - self._kept_s < KEEP_S:
            return None
        return self.content()

    def content(self) -> bytes:
        """The content of the file now; counts as written."""
        self._kept_s, self._changed = self._clock.flowing_s(), False
        return msgspec.json.encode(_Book(days=self.days))

    def write(self, content: bytes) -> None:
        """Replace the file in one step; blocks. A full disk does not stop the daemon."""
        try:
            keep(self._path, content)
        except OSError as error:
            log.warning("%s cannot be written (%s): the next minute tries again", self._path, error.strerror)

    def fields(self) -> Live:
        """The use of today, for the heartbeat."""
        day = self.days.get(self.today, Usage())
        used = {f"day_{name}": getattr(day, name) for name in Usage.__struct_fields__}
        return {"day": self.today, **used}


def _read(path: Path) -> dict[str, Usage]:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_FILE), type=_Book).days
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read (%s): counting begins at 0", path, error)
        return {}
