"""Finds what is wrong with a model that runs: results that are NaN, input that gives no result."""

from __future__ import annotations

from collections import deque

from wire.clock import NS_PER_S
from wire.reasons import Reason, because

NO_RESULT_S = 60.0  # a model with input that gives no result for so long, and a window, has a problem
NEWEST = 20  # results that are looked at for NaN
_FEW_NAN = 3  # of the newest results
_PAUSE_S = 15.0  # the input has ended when no row came for so long, and for the time of two rows


class NanResults:
    """Watches the newest results of one model."""

    def __init__(self) -> None:
        self._newest: deque[bool] = deque(maxlen=NEWEST)
        self._shown: Reason | None = None

    def add(self, nan: bool) -> Reason | None:
        """Take one result; returns the problem.

        It begins when 3 of the newest 20 results are NaN, and ends when none of them is.
        """
        self._newest.append(nan)
        count = sum(self._newest)
        if count == 0 or (self._shown is None and count < _FEW_NAN):
            self._shown = None
        elif self._shown is None:
            self._shown = self._reason(count)
        return self._shown

    def updated(self) -> Reason | None:
        """The problem with the present count; `add` keeps the text, which would change with each result."""
        if self._shown is not None:
            self._shown = self._reason(sum(self._newest))
        return self._shown

    def _reason(self, count: int) -> Reason:
        text = f"{count} of the last {len(self._newest)} results are NaN or infinite"
        return because(text, "model-results-nan", nan=count, of=len(self._newest))


class NoResult:
    """Watches whether the input of a window model gives results.

    `wanted_hz` is the model's rate, `span_s` the time from the first row to the result that follows.
    """

    def __init__(self, wanted_hz: float, span_s: float) -> None:
        self.rows = 0  # that came, since the start
        self.newest_ns = 0  # time of the newest of them
        self._wanted_hz = wanted_hz
        self._limit_s = NO_RESULT_S + span_s
        self._pause_s = max(_PAUSE_S, 2 / wanted_hz)
        self._answers = 0
        self._rows_seen = 0
        self._input_s: float | None = None  # when rows had come at a check
        self._since_s = 0.0
        self._since_rows, self._since_ns = 0, 0
        self._shown: Reason | None = None  # stays as it is until a result comes

    def check(self, answers: int, now_s: float) -> Reason | None:
        """The problem of now; `answers` counts results and failed runs. To be called every few seconds."""
        came = self.rows > self._rows_seen
        paused = self._input_s is None or now_s - self._input_s > self._pause_s
        if answers != self._answers or paused:
            self._since_s, self._since_rows, self._since_ns = now_s, self.rows, self.newest_ns
            self._shown = None
        self._answers, self._rows_seen = answers, self.rows
        if came:
            self._input_s = now_s
        if self._shown or now_s - self._since_s < self._limit_s or self.rows == self._since_rows:
            return self._shown
        seconds, measured_hz = round(now_s - self._since_s), self._measured_hz(now_s)
        self._shown = because(
            f"no result for {seconds} s: its input has {measured_hz:g} Hz, it needs {self._wanted_hz:g} Hz",
            "model-no-result",
            seconds=seconds,
            measured_hz=measured_hz,
            wanted_hz=self._wanted_hz,
        )
        return self._shown

    def _measured_hz(self, now_s: float) -> float:
        """Rows per second by their own times; by the clock if these do not advance."""
        rows = self.rows - self._since_rows
        span_s = (self.newest_ns - self._since_ns) / NS_PER_S
        return float(f"{rows / (span_s if span_s > 0 else now_s - self._since_s):.3g}")
