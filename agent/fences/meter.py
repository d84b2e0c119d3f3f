"""Meter: what one agent used on each UTC day, kept in its state folder over restarts."""

from __future__ import annotations

import datetime as dt
import logging
import resource
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.process_children import running_cpu_s
from agent.state_dir import keep
from wire.clock import Clock
from wire.messages import Live
from wire.usage import Day, DayUsage, MeterId, Usage

log = logging.getLogger(__name__)

USAGE_FILE = "usage.json"
KEPT_DAYS = 31
KEEP_S = 60.0  # between two writes
RECORD_S = 3_600.0  # between two records of the same day
_MAX_FILE = 65_536  # bytes
_MS_PER_DAY = 86_400_000


class _Book(Struct):
    """`unsent` are the days that changed since their last record."""

    v: int = 1
    meter: MeterId = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    days: Annotated[dict[Day, Usage], Meta(max_length=KEPT_DAYS + 1)] = {}
    unsent: Annotated[list[Day], Meta(max_length=KEPT_DAYS + 1)] = []


def cpu_s() -> float:
    """CPU seconds of this process, of its workers, and of its children that have ended, such as gates."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return running_cpu_s() + sum(each.ru_utime + each.ru_stime for each in used)


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
        self._record_s = self._kept_s + KEEP_S  # soon after a start the collector knows of this meter
        self._changed = False
        book = _read(self._path)
        self._id, self.days, self._unsent = book.meter, book.days, {*book.unsent}

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
        self._unsent.add(self.today)
        for old in sorted(self.days)[:-KEPT_DAYS]:
            del self.days[old]
        self._unsent &= self.days.keys()

    def records(self, *, closing: bool = False) -> list[DayUsage]:
        """What is to be sent now: days that ended, and each hour or when the daemon stops the one of today.

        A record that is lost with the process is made again after the next start.
        """
        now_s = self._clock.flowing_s()
        due = closing or now_s >= self._record_s
        if due:
            self._record_s = now_s + RECORD_S
        days = sorted(day for day in self._unsent if due or day != self.today)
        self._unsent.difference_update(days)
        return [DayUsage(day=day, meter=self._id, **msgspec.structs.asdict(self.days[day])) for day in days]

    def due(self) -> bytes | None:
        """The content of the file if it is time to `write` it; None otherwise."""
        if not self._changed or self._clock.flowing_s() - self._kept_s < KEEP_S:
            return None
        return self.content()

    def content(self) -> bytes:
        """The content of the file now; counts as written."""
        self._kept_s, self._changed = self._clock.flowing_s(), False
        return msgspec.json.encode(_Book(meter=self._id, days=self.days, unsent=sorted(self._unsent)))

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


def _read(path: Path) -> _Book:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_FILE), type=_Book)
    except FileNotFoundError:
        return _Book()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("%s cannot be read (%s): counting begins at 0", path, error)
        return _Book()
