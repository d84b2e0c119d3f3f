"""Plays recorded readings from CSV or JSON lines: in real time, faster, or as fast as possible.

The adapter does not guess: a bad cell becomes null and is flagged, a bad line is skipped. Both are counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import TextIO

from msgspec import UNSET

from adapters.base import Adapter, AdapterError, DeviceUnreachable, ProtocolViolation, Reading
from adapters.replay.options import ReplayLayout, ReplayOptions
from adapters.replay.rows import NO_TIME, RecordedRows, Row, open_text
from wire.clock import NS_PER_S, SLACK_S, Clock
from wire.messages import Quality, Stream

_AT_ONCE = 256  # rows read ahead of the clock
_SLACK_NS = int(SLACK_S * NS_PER_S)


class Replay(Adapter[ReplayOptions]):
    """A recording that is read like a device."""

    Options = ReplayOptions
    kind = "replay"

    def __init__(self, options: ReplayOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        self._layout = ReplayLayout.of(options)
        self._file: TextIO | None = None

    @property
    def waits(self) -> bool:
        """True at rate `asap`: the recording then waits for its reader."""
        return self.options.rate == "asap"

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        return {self.options.stream: Stream(rate_hz=self.options.rate_hz, fields=self._layout.declared)}

    async def open(self) -> None:
        """Open the file and check its columns."""
        opening = asyncio.create_task(asyncio.to_thread(self._checked), name="replay-open")
        try:
            self._file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_discard)  # the thread cannot be cancelled and may still open the file
            raise

    async def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            await asyncio.to_thread(file.close)

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield the rows when they are due, until the recording ends.

        Rows that follow each other faster than `SLACK_S` come together, up to `SLACK_S` late: a wake-up for
        each row costs more than the row. Their times are the exact ones.
        """
        options = self.options
        schedule = _PlaySchedule(self.clock, options)
        while True:
            played = False
            rows = await self._begun()
            while ahead := await asyncio.to_thread(_take, rows):
                for row in ahead:
                    if isinstance(row, AdapterError):
                        raise row
                    played = True
                    at_ns, values, quality = row
                    due_ns, shown_ns = schedule.place(at_ns)
                    if due_ns is not None:
                        await self._until(due_ns, roughly=schedule.fast)
                    yield Reading(options.stream, shown_ns, values, quality=quality or schedule.order)
            if not played:
                raise ProtocolViolation(f"{options.file} contains no row that can be played")
            if not options.loop:
                return
            schedule.restart()

    def _checked(self) -> TextIO:
        file = open_text(self.options)
        try:
            RecordedRows(self._layout, file, self.counters).check()
        except BaseException:
            file.close()
            raise
        return file

    async def _begun(self) -> Iterator[Row]:
        """One pass over the file; read it in a thread, because a disk may be slow."""
        if self._file is None:
            raise DeviceUnreachable(f"{self.options.file} is not open")
        await asyncio.to_thread(self._file.seek, 0)
        return iter(RecordedRows(self._layout, self._file, self.counters))

    async def _until(self, due_ns: int, *, roughly: bool) -> None:
        wait_ns = due_ns - self.clock.now_ns()
        if wait_ns <= 0:
            return
        if roughly:
            await self.clock.sleep_roughly(wait_ns / NS_PER_S)
        else:
            await self.clock.sleep_until(due_ns)


def _take(rows: Iterator[Row]) -> list[Row | AdapterError]:
    """The next rows, and the error after them, if any: rows before an error are played first."""
    taken: list[Row | AdapterError] = []
    try:
        taken.extend(islice(rows, _AT_ONCE))
    except AdapterError as error:
        taken.append(error)
    return taken


def _discard(opening: asyncio.Task[TextIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _PlaySchedule:
    """Calculates when a row is due and which time it gets."""

    def __init__(self, clock: Clock, options: ReplayOptions) -> None:
        self.order = Quality.GOOD  # the quality of the last row's time
        self.fast = False  # the last two rows came within SLACK_S
        self._asap = options.rate == "asap"
        self._rate = 1.0 if options.rate == "asap" else float(options.rate)
        self._recorded = options.times == "recorded"
        self._step_ns = NS_PER_S if options.rate_hz is UNSET else int(NS_PER_S / options.rate_hz)
        self._start_ns = clock.now_ns()
        self._first_ns: int | None = None  # of the whole replay
        self._began_ns: int | None = None  # of this pass, as recorded
        self._newest_ns = NO_TIME
        self._offset_ns = 0
        self._due_ns = NO_TIME

    def place(self, at_ns: int) -> tuple[int | None, int]:
        """The time at which a row is due (None = at once) and the time it gets, Unix ns of the clock."""
        if at_ns == NO_TIME:
            at_ns = self._start_ns if self._newest_ns == NO_TIME else self._newest_ns + self._step_ns
        else:
            self._began_ns = at_ns if self._began_ns is None else self._began_ns
            at_ns += self._offset_ns
        if self._first_ns is None:
            self._first_ns = at_ns
        self.order = Quality.GOOD
        if at_ns <= self._newest_ns:
            self.order = Quality.TIME_REPEATED if at_ns == self._newest_ns else Quality.TIME_BACKWARD
        elif self._newest_ns != NO_TIME:
            self._step_ns = at_ns - self._newest_ns
        self._newest_ns = max(self._newest_ns, at_ns)
        before_ns, due_ns = self._due_ns, self._start_ns + int((at_ns - self._first_ns) / self._rate)
        self._due_ns = due_ns
        self.fast = due_ns - before_ns < _SLACK_NS
        return None if self._asap else due_ns, at_ns if self._recorded else due_ns

    def restart(self) -> None:
        """Start the recording again: its first row comes one step after the newest row."""
        if self._began_ns is not None:
            self._offset_ns = self._newest_ns + self._step_ns - self._began_ns
            self._began_ns = None
