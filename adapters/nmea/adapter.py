"""Reads GNSS receivers that send NMEA 0183 on a serial port or over TCP: one row for each position."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from adapters.base import Adapter, DeviceStalled, Reading
from adapters.device_time import DeviceClock
from adapters.lines.lines import BadLines, Lines, LineSource
from adapters.nmea.epochs import BadSentence, Epoch, Epochs, Sentence, parse, unix_ns
from adapters.nmea.options import NmeaOptions
from wire.clock import Clock
from wire.messages import Field, Quality, Stream

log = logging.getLogger("edgebed.adapters.nmea")

_MAX_OTHERS = 12
_EXPECTED = {
    "bad_checksum": "NMEA 0183 sentences with a right checksum",
    "no_checksum": "NMEA 0183 sentences with a checksum (see the option `checksum`)",
    "malformed": "NMEA 0183 sentences of the standard's layout",
}
_MAX_LINE = 512  # bytes; NMEA 0183 allows 82, some makers send longer lines

_FIELDS = {
    "latitude": Field(unit="deg", dec=7, min=-90.0, max=90.0, desc="WGS 84, north is positive."),
    "longitude": Field(unit="deg", dec=7, min=-180.0, max=180.0, desc="WGS 84, east is positive."),
    "altitude": Field(unit="m", dec=2, min=-500.0, max=100_000.0, desc="Above mean sea level."),
    "speed": Field(unit="km/h", dec=3, min=0.0, max=2_000.0, desc="Over ground."),
    "heading": Field(unit="deg", dec=2, min=0.0, max=360.0, desc="Course over ground, from true north."),
    "satellites": Field(t="i64", unit="1", min=0, max=99, desc="Satellites used."),
    "hdop": Field(unit="1", dec=2, min=0.0, max=100.0, desc="Horizontal dilution of precision."),
    "fix": Field(
        t="i64",
        unit="1",
        min=0,
        max=8,
        desc="0 none, 1 GNSS, 2 differential, 3 PPS, 4 RTK, 5 RTK float, 6 estimated, 7 manual, 8 simulated.",
    ),
}


class Nmea(Adapter[NmeaOptions]):
    """One receiver, one signal stream; its rows have the date and time of RMC.

    A time without a date (GGA alone, or RMC before the almanac is known) gets the day that puts it nearest to
    the last dated row, or to the agent's clock if there was none. So midnight needs no special case.
    """

    Options = NmeaOptions
    kind = "nmea"

    def __init__(self, options: NmeaOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        self.may_be_null = set(_FIELDS) - {"latitude", "longitude"}  # each receiver sends other sentences
        self._source = LineSource.parse(options.url)
        self._lines = Lines(self._source, clock, self.counters, max_line=_MAX_LINE)
        self._bad_lines = BadLines(self._source, self.counters, log, options.bad_lines)
        self._epochs = Epochs(self.counters, options.row_wait_s)
        self._others: set[str] = set()  # sentences since the last row that cannot begin one
        self._dated_ns: int | None = None  # the receiver's time of the last row that had a date
        self._time = DeviceClock(
            options.url,
            log,
            self.counters,
            max_past_s=options.max_skew_s,
            max_ahead_s=options.max_skew_s,
            hint=" (GPS counts weeks to 1,024 and starts again)",
        )

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.silence_s

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        return {self.options.stream: Stream(fields=_FIELDS)}

    async def open(self) -> None:
        """Connect and wait for a valid sentence: a port opens even if no receiver is connected."""
        timeout_s = self.options.timeout_s
        deadline = self.clock.flowing_s() + timeout_s
        try:
            await self._lines.open(timeout_s)
            first = await self._next(deadline)
            if first is None:
                raise self._stalled("NMEA sentence", timeout_s)
            self._take(first)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Release the port at once."""
        self._lines.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield a row for each position, without end."""
        options = self.options
        now_s, epochs = self.clock.flowing_s, self._epochs
        deadline = now_s() + options.silence_s
        while True:
            due = epochs.due_s()
            sentence = await self._next(deadline if due is None else min(deadline, due))
            if sentence is None:
                epochs.expire(now_s())
            else:
                self._take(sentence)
            for epoch in epochs.take():
                self._others.clear()
                yield self._reading(epoch)
                deadline = now_s() + options.silence_s
            if now_s() >= deadline:
                raise self._stalled("position (GGA or RMC)", options.silence_s)

    def _stalled(self, what: str, seconds: float) -> DeviceStalled:
        heads = sorted(self._others)
        arrived = f"sentences {', '.join(heads)}, which give no position" if heads else ""
        return self._lines.stalled(what, seconds, self._bad_lines.last or arrived)

    def _take(self, sentence: Sentence) -> None:
        if sentence.kind:
            if not self._epochs.add(sentence, self.clock.flowing_s()):
                self.not_read(
                    f"{sentence.kind} comes after its row was sent: raise `row_wait_s`", sentence.kind
                )
            elif sentence.kind in self.unread:
                self.was_read(sentence.kind)

    async def _next(self, by_s: float) -> Sentence | None:
        """The next valid sentence; None if there is none by `by_s`."""
        while (line := await self._lines.next(by_s)) is not None:
            if line.rfind(b"$") > 0:
                self.counters["cut_sentence"] += 1  # the sentence after the last $ is still read
            head = line[line.rfind(b"$") + 1 :].partition(b",")[0][:6].decode("ascii", "replace")
            try:
                sentence = parse(line, unchecked=self.options.checksum == "optional")
            except BadSentence as error:
                self._bad_lines.count(str(error), line, _EXPECTED.get(str(error), "NMEA 0183 sentences"))
                if error.why:
                    self.not_read(f"{head} is malformed: {error.why}", head[2:])
            else:
                self._bad_lines.reset()
                if not sentence.timed and len(self._others) < _MAX_OTHERS:
                    self._others.add(head)
                return sentence
        return None

    def _reading(self, epoch: Epoch) -> Reading:
        values = {name: epoch.values.get(name) for name in _FIELDS} | {"fix": epoch.fix}
        at_ns, quality = self._stamp(epoch)
        if not epoch.reliable:
            quality = Quality.UNCERTAIN
        return Reading(self.options.stream, at_ns, values, quality=quality)

    def _stamp(self, epoch: Epoch) -> tuple[int, Quality]:
        receipt_ns = self.clock.now_ns()
        if self.options.time == "receipt":
            return receipt_ns, Quality.GOOD
        if epoch.time_ns is None:
            return self._time.stamp(None, receipt_ns)
        near_ns = receipt_ns if self._dated_ns is None else self._dated_ns
        at_ns = unix_ns(epoch.time_ns, epoch.day, near_ns)
        if epoch.day is not None or self._dated_ns is not None:
            self._dated_ns = at_ns
        stamped = self._time.stamp(at_ns, receipt_ns)
        self.times_are(self._time.ahead)
        return stamped
