"""Rows of one stream into batches that fit a message, and the newest of them into live values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec
from msgspec import UNSET

from agent.message import Message
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.messages import Batch, ClockState, Live, Quality, Scalar, Stream

MAX_ROWS = 100
MAX_SIZE = 32_768  # bytes of JSON, columns only
MAX_ROW = 48_000  # bytes; a larger row fits no message
MAX_AGE_S = 1.0
MAX_SPAN_NS = 3600 * NS_PER_S  # offsets stay small numbers whatever a device's clock does
_FINE_NS = 20 * NS_PER_MS  # rows closer than this keep their microseconds

Send = Callable[[Message], object]
SendLive = Callable[[str, str, Live], None]

_size = msgspec.json.Encoder().encode


class Batcher:
    """Collects the rows of `device`/`name` and hands on a `Message` at 100 rows, 32 KiB or after a second.

    Call `tick` a few times a second. `send` of None keeps rows at home, `live_hz` of 0 live values. A row
    that fits no message is dropped and counted in `oversized`.
    """

    def __init__(
        self,
        device: str,
        name: str,
        stream: Stream,
        *,
        clock: Clock,
        clock_state: Callable[[], ClockState],
        send: Send | None,
        send_live: SendLive | None,
        live_hz: float,
    ) -> None:
        self.oversized = 0
        self._device = device
        self._name = name
        self._decimals = {
            field: None if info.dec is UNSET else info.dec for field, info in stream.fields.items()
        }
        self._clock = clock
        self._clock_state = clock_state
        self._send = send
        self._send_live = send_live if live_hz > 0 else None
        self._live_every_s = 1 / live_hz if live_hz > 0 else math.inf
        self._live_due_s = -math.inf
        self._newest: Live | None = None
        self._rows: list[list[Scalar]] = []
        self._times_ns: list[int] = []
        self._quality: list[int] = []
        self._size = 0
        self._since_s = 0.0
        self._clk = ClockState.NTP

    def add(self, at_ns: int, values: Mapping[str, Scalar], quality: Quality = Quality.GOOD) -> None:
        """Take one row: Unix nanoseconds and a value, or nothing, for each declared field."""
        row = [_rounded(values.get(field), dec) for field, dec in self._decimals.items()]
        if self._send is not None:
            self._keep(at_ns, row, quality)
        if self._send_live is not None:
            self._newest = {"ts": at_ns // NS_PER_MS, **dict(zip(self._decimals, row, strict=True))}
            self._show(self._clock.monotonic())

    def tick(self) -> None:
        """Hand on what has waited long enough."""
        now_s = self._clock.monotonic()
        if self._rows and now_s - self._since_s >= MAX_AGE_S:
            self.flush()
        if self._newest is not None:
            self._show(now_s)

    def flush(self) -> None:
        """Hand on what is there, as when the daemon stops."""
        if not self._rows or self._send is None:
            return
        rows, times_ns, quality = self._rows, self._times_ns, self._quality
        self._rows, self._times_ns, self._quality, self._size = [], [], [], 0
        columns = {
            field: list(column) for field, column in zip(self._decimals, zip(*rows, strict=True), strict=True)
        }
        body = batch(times_ns, columns, quality if any(quality) else None, self._clk)
        self._send(Message("data", self._device, self._name, body))

    def _keep(self, at_ns: int, row: list[Scalar], quality: Quality) -> None:
        size = len(_size(row))
        if size > MAX_ROW:
            self.oversized += 1
            return
        clk = self._clock_state()
        if self._rows and (
            self._size + size > MAX_SIZE
            or clk is not self._clk
            or abs(at_ns - self._times_ns[0]) > MAX_SPAN_NS
        ):
            self.flush()
        if not self._rows:
            self._since_s = self._clock.monotonic()
            self._clk = clk
        self._rows.append(row)
        self._times_ns.append(at_ns)
        self._quality.append(quality)
        self._size += size
        if len(self._rows) >= MAX_ROWS:
            self.flush()

    def _show(self, now_s: float) -> None:
        if self._send_live is not None and self._newest is not None and now_s >= self._live_due_s:
            self._send_live(self._device, self._name, self._newest)
            self._newest = None
            self._live_due_s = now_s + self._live_every_s


def batch(
    times_ns: list[int], columns: dict[str, list[Scalar]], quality: list[int] | None, clk: ClockState
) -> Batch:
    """A batch with the shortest times that keep what matters: `per` where rows are regular, else `dt`."""
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
        clk=clk.value,
        q=UNSET if quality is None else quality,
    )


def _fine(times_ns: list[int]) -> bool:
    """Whether milliseconds would lose something: rows that are close and not on whole milliseconds."""
    close = len(times_ns) > 1 and abs(times_ns[-1] - times_ns[0]) < _FINE_NS * (len(times_ns) - 1)
    return close and any(at_ns % NS_PER_MS >= 1000 for at_ns in times_ns)


def _rounded(value: Scalar, decimals: int | None) -> Scalar:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if decimals is None else round(value, decimals)
    return value
