"""Makes reports for those who ask a running collector: one at a time, in a process, and each only once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from collector.ledger.ledger import Ledger
from collector.pilots.report.document import Report
from collector.pilots.report.process import ReportProcess
from collector.pilots.report.process_wire import MAX_MADE
from wire.clock import Clock
from wire.errors import TryAgain
from wire.pilot.frozen import Opened

MAX_WAITING = 8  # reports that are being made or wait
MAX_EACH = 3  # of them for one user
LONGEST_S = 600.0
KEEP_S = 60.0  # for so long a report answers, although rows came since
MAX_KEEP_S = 600.0  # and for so long if none came: those that are stored may have been removed or changed
_KEPT = 8

_Key = tuple[str, int]  # hashes of the versions, since not everybody may see all; moment


@dataclass(frozen=True, slots=True)
class MadeReport:
    """A report, and its canonical JSON."""

    report: Report
    body: bytes
    stored: int  # messages of the plan's nodes when it was made
    at_s: float


class ReportMaker:
    """Reports of pilots from the store of a running collector.

    A report is kept until messages of the pilot's nodes come, for 1 to 10 minutes: clients that ask again
    and again get the same one.
    """

    def __init__(self, store: Path, ledger: Ledger, clock: Clock) -> None:
        self.process = ReportProcess(store)
        self._ledger = ledger
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "pilot-report")
        self._values_process = ReportProcess(store)
        self._values_thread = ThreadPoolExecutor(1, "pilot-values")
        self._making: dict[_Key, tuple[asyncio.Future[MadeReport], str]] = {}  # with who asked first
        self._kept: OrderedDict[_Key, MadeReport] = OrderedDict()
        self._is_closed = False

    async def report(self, versions: Sequence[Opened], until_ms: int, *, user: str = "") -> MadeReport:
        """The report of a pilot as of the last switch or end of a period before `until_ms`, for this user.

        Raises:
            TryAgain: too many are being made, for this user or in all, or it took too long.
            EdgebedError: it cannot be made; the sentence says why.
        """
        newest = versions[-1]
        key = " ".join(each.hash for each in versions), moment(newest, min(until_ms, self._clock.now_ms()))
        known = self._kept.get(key)
        if known is not None and self._is_fresh(known, newest):
            self._kept.move_to_end(key)
            return known
        if key not in self._making:
            own = sum(who == user for _, who in self._making.values())
            if own >= MAX_EACH:
                raise TryAgain(f"{own} reports are being made for you: try again later")
            if len(self._making) >= MAX_WAITING or self._is_closed:
                raise TryAgain(f"{len(self._making)} reports are being made: try again later")
            loop = asyncio.get_running_loop()
            making = loop.run_in_executor(self._thread, self._make, tuple(versions), key)
            self._making[key] = making, user
            making.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(self._making[key][0])  # who asks may leave; the next one gets it

    async def values(self, plan: str, longest_s: float) -> bytes:
        """The values of the baseline of a plan, the text of a `pilot.yaml`, as JSON; one plan at a time.

        Raises:
            TryAgain: it took too long.
            EdgebedError: they cannot be made; the sentence says why.
        """
        if self._is_closed:
            raise TryAgain("the collector stops: ask again when it runs")
        loop, now_ms = asyncio.get_running_loop(), self._clock.now_ms()
        ask = self._values_process.values
        return await loop.run_in_executor(self._values_thread, ask, plan, now_ms, longest_s)

    def stop(self) -> None:
        """End the processes, and make no more: who waits gets an answer at once. Does not block."""
        self._is_closed = True
        self.process.close()
        self._values_process.close()

    def close(self) -> None:
        """Stop, and wait for the threads. Blocks for a moment."""
        self.stop()
        self._values_thread.shutdown(wait=True, cancel_futures=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _end(self, key: _Key, done: asyncio.Future[MadeReport]) -> None:
        self._making.pop(key, None)
        if done.cancelled() or done.exception() is not None:  # who asked for it may have left
            return
        self._kept[key] = done.result()  # here, not in the thread that made it: this one reads what is kept
        while len(self._kept) > _KEPT or sum(len(each.body) for each in self._kept.values()) > MAX_MADE:
            self._kept.popitem(last=False)

    def _is_fresh(self, known: MadeReport, newest: Opened) -> bool:
        age_s = self._clock.monotonic() - known.at_s
        return age_s < KEEP_S or (age_s < MAX_KEEP_S and known.stored == self._stored(newest))

    def _stored(self, newest: Opened) -> int:
        nodes = newest.plan.plan.nodes
        return sum(known.account.stored.count() for node in nodes for known in self._ledger.known_of(node))

    def _make(self, versions: tuple[Opened, ...], key: _Key) -> MadeReport:
        # what reads a report is loaded with the first one
        from collector.pilots.report.canonical_report import read_report

        stored = self._stored(versions[-1])
        body = self.process.make(versions, key[1], LONGEST_S)
        return MadeReport(read_report(body), body, stored, self._clock.monotonic())


def moment(newest: Opened, until_ms: int) -> int:
    """The last moment before `until_ms` at which the report changes: a start or an end of a period."""
    edges = (edge for each in newest.plan.schedule.periods for edge in (each.start_ms, each.end_ms))
    return max((edge for edge in edges if edge <= until_ms), default=0)
