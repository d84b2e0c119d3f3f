"""Collects the rows of a stream into batches that fit a message, and publishes the newest as live values."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import msgspec
import numpy as np
from msgspec import UNSET

from agent.clock_sync import Stamp, Stamps
from agent.outbox import Message
from agent.pipeline.settings import PublishConfig
from agent.pipeline.sinks import Sinks
from wire.clock import NS_PER_MS, NS_PER_S
from wire.messages import Batch, ClockState, Live, Quality, Scalar, Stream

log = logging.getLogger("edgebed.pipeline")

MAX_ROWS = 100
MAX_SIZE = 48_000  # bytes of JSON in the worst case; usual numbers need half of it
MAX_AGE_S = 1.0
JOIN_AGE_S = 0.5  # rows that have waited so long join the rows of another stream: one write to disk for both
MAX_SPAN_NS = 3600 * NS_PER_S  # keeps offsets small, even if a device's clock jumps
_FINE_NS = 20 * NS_PER_MS  # rows closer than this keep their microseconds
_NUMBER = 25  # bytes of the longest number and its comma

_json = msgspec.json.Encoder().encode


class Batcher:
    """Collects the rows of `device`/`name` and sends a `Message` at 100 rows, when full, or after a second.

    Call `tick` at `due_s`. `publish` may leave out the rows (`raw`) or the live values. A row
    that is too large for a message is dropped and counted in `oversized`. NaN stays in the batch: the encoder
    makes it null.
    """

    def __init__(
        self,
        device: str,
        name: str,
        stream: Stream,
        *,
        stamps: Stamps,
        sinks: Sinks,
        publish: PublishConfig,
    ) -> None:
        self.oversized = 0
        self._device = device
        self._name = name
        self._fields = list(stream.fields)
        self._decimals = [None if info.dec is UNSET else info.dec for info in stream.fields.values()]
        self._texts = [name for name, info in stream.fields.items() if info.t in ("str", "json")]
        self._head_size = sum(len(name) + 6 for name in self._fields)
        self._row_size = _NUMBER * (len(self._fields) - len(self._texts))
        self._clock = stamps.clock
        self._stamps = stamps
        self._send = sinks.send if publish.raw else None
        self._send_live = sinks.live if publish.live_hz > 0 else None
        self._live_every_s = 1 / publish.live_hz if publish.live_hz > 0 else math.inf
        self._live_due_s = -math.inf
        self._newest: tuple[int, list[Scalar]] | None = None
        self._rows: list[list[Scalar]] = []
        self._times_ns: list[int] = []
        self._quality: list[int] = []
        self._size = self._head_size
        self._since_s = 0.0
        self._clk: ClockState | None = ClockState.NTP
        self._offset_ns: int | None = None

    def add(
        self,
        at_ns: int,
        values: Mapping[str, Scalar],
        quality: Quality = Quality.GOOD,
        stamp: Stamp | None = None,
    ) -> None:
        """Take one row: Unix nanoseconds and a value or None for each declared field.

        `stamp` is the clock's state when the reading came; by default it is the state now.
        """
        get = values.get
        row = [get(field) for field in self._fields]
        if self._send is not None:
            self._keep(at_ns, row, quality, stamp)
        if self._send_live is not None:
            self._newest = at_ns, row
            now_s = self._clock.monotonic()
            if now_s >= self._live_due_s:
                self._send_newest(now_s)

    def tick(self, age_s: float = MAX_AGE_S) -> bool:
        """Send rows that waited for `age_s`, and live values that are due; returns whether rows were sent."""
        now_s = self._clock.monotonic()
        late = bool(self._rows) and now_s - self._since_s >= age_s
        if late:
            self.flush()
        if self._newest is not None and now_s >= self._live_due_s:
            self._send_newest(now_s)
        return late

    def due_s(self, now_s: float) -> float:
        """The time of `clock.monotonic` at which `tick` is needed next, whenever rows come until then."""
        rows_s = (self._since_s if self._rows else now_s) + MAX_AGE_S
        live_s = self._live_due_s if self._live_due_s > now_s else now_s + self._live_every_s
        return min(rows_s, now_s if self._newest is not None and live_s <= now_s else live_s)

    def flush(self) -> None:
        """Send the rows that wait, for example when the daemon stops."""
        if not self._rows or self._send is None:
            return
        rows, times_ns, quality = self._rows, self._times_ns, self._quality
        self._rows, self._times_ns, self._quality = [], [], []
        self._size = self._head_size
        columns = {
            field: _rounded(list(column), decimals)
            for field, column, decimals in zip(
                self._fields, zip(*rows, strict=True), self._decimals, strict=True
            )
        }
        body = batch(times_ns, columns, quality if any(quality) else None, self._clk)
        self._send(Message("data", self._device, self._name, body, self._offset_ns))

    def _keep(self, at_ns: int, row: list[Scalar], quality: Quality, stamp: Stamp | None) -> None:
        size = self._row_size
        if self._texts:
            size += sum(len(_json(value)) + 1 for value in row if value is None or isinstance(value, str))
        if self._head_size + size > MAX_SIZE:
            if not self.oversized:
                log.warning(
                    "%s/%s: a row was dropped: it is too large for a message", self._device, self._name
                )
            self.oversized += 1
            return
        clk, offset_ns = stamp or self._stamps.of(at_ns)
        if self._rows and (
            self._size + size > MAX_SIZE
            or clk is not self._clk
            or _differ(offset_ns, self._offset_ns)
            or abs(at_ns - self._times_ns[0]) > MAX_SPAN_NS
        ):
            self.flush()
        if not self._rows:
            self._since_s = self._clock.monotonic()
            self._clk, self._offset_ns = clk, offset_ns
        self._rows.append(row)
        self._times_ns.append(at_ns)
        self._quality.append(quality)
        self._size += size
        if len(self._rows) >= MAX_ROWS:
            self.flush()

    def _send_newest(self, now_s: float) -> None:
        if self._send_live is None or self._newest is None:
            return
        at_ns, row = self._newest
        self._newest = None
        self._live_due_s = now_s + self._live_every_s
        shown: Live = {"ts": at_ns // NS_PER_MS}
        for field, value, decimals in zip(self._fields, row, self._decimals, strict=True):
            shown[field] = _rounded([value], decimals)[0]
        self._send_live(self._device, self._name, shown)


def batch(
    times_ns: list[int], columns: dict[str, list[Scalar]], quality: list[int] | None, clk: ClockState | None
) -> Batch:
    """A batch with its times in the shortest exact form: `per` where rows are regular, else `dt`."""
    t0 = times_ns[0] // NS_PER_MS
    unit = 1000 if _fine(times_ns) else NS_PER_MS
    offsets = [(at_ns - t0 * NS_PER_MS) // unit for at_ns in times_ns]
    per = offsets[1] if len(offsets) > 1 else 0
    regular = 0 < per <= 10**9 and offsets == list(range(0, per * len(offsets), per))
    return Batch(
        t0=t0,
        dt=UNSET if regular else offsets,
        per=per if regular else UNSET,
        n=len(offsets) if regular else UNSET,
        tu="us" if unit == 1000 else "ms",
        f=columns,
        clk=UNSET if clk is None else clk.value,
        q=UNSET if quality is None else quality,
    )


def _differ(left_ns: int | None, right_ns: int | None) -> bool:
    """Whether the clock was set between two rows: such rows need different corrections."""
    return left_ns is not None and right_ns is not None and abs(left_ns - right_ns) > NS_PER_S // 2


def _fine(times_ns: list[int]) -> bool:
    """Whether milliseconds are too coarse: the rows are close and not on whole milliseconds."""
    close = len(times_ns) > 1 and abs(times_ns[-1] - times_ns[0]) < _FINE_NS * (len(times_ns) - 1)
    return close and any(at_ns % NS_PER_MS >= 1000 for at_ns in times_ns)


def _rounded(column: list[Scalar], decimals: int | None) -> list[Scalar]:
    if decimals is None:
        return column
    if None not in column:
        numbers = np.array(column)
        if numbers.dtype == np.float64:  # five times as fast, and nearly every column holds only floats
            rounded: list[Scalar] = np.round(numbers, decimals).tolist()
            return rounded
    return [round(value, decimals) if isinstance(value, float) else value for value in column]
