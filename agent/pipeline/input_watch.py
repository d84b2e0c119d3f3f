"""Watches the input of one model: drift from what it was made for, signals that stand still, bad pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.base import Picture
from agent.inference.reference import Summary, TimeWindows, range_of
from wire.clock import NS_PER_S
from wire.reasons import NO_REASON, Reason, because

if TYPE_CHECKING:
    from agent.inference.reference import Reference
    from agent.pipeline.windows import Window

MARGIN = 0.5  # a summary may be outside of its range by this part of the range's width ...
NEARER = 0.5  # ... and one that is never 0 by this part of its nearest to 0: so a smaller unit is seen
STREAK = 2  # windows, or looks at pictures, in a row: fewer begin and end nothing
SENT_S = 3_600.0  # how often the summary is sent when nothing changes
MAX_SENT = 48_000  # bytes of JSON: with the rest of the event it fits a message
LOOK_NS = NS_PER_S  # from one look at a picture to the next
Array = NDArray[np.float64]
_PENDING = 65_536  # numbers that are summarised together: many at once take a tenth of the time of a few
_FLOOR = 0.02  # a range is at least this part of what the feature spans
_DARK, _BRIGHT = 16, 250  # of 255
_DARK_SHARE, _BRIGHT_SHARE, _BLURRED = 0.95, 0.5, 0.5
_FLAT = 1.0  # sharpness of a picture that shows nothing, whatever the reference
_NAMED = 5  # features that a text names


@dataclass(frozen=True, slots=True)
class InputSummary:
    """What is sent: the rows since the last time, by feature, and why the input differs now."""

    at_ns: int
    reason: Reason
    detail: dict[str, Any]


class InputWatch:
    """Watches the input of a model, with the reference of its package where it has one.

    `reason` is the problem of now, of pictures before signals before drift; `drift` is the drift alone.
    Without a reference only dark, over-exposed and flat pictures are seen. `came` is how many rows or
    pictures came so far, `flagged` how many of them were not good: the caller counts.
    """

    def __init__(self, reference: Reference | None, signals: Sequence[str], counters: Counter[str]) -> None:
        self.reason = self.drift = NO_REASON
        self.came = self.flagged = 0
        self._sent = 0, 0  # of them, when they were last sent
        self._counters = counters
        self._drift = _Drift(reference, signals) if reference is not None else None
        sharp = reference.features.get("sharpness") if reference is not None else None
        # the smallest mean of a window
        self._sharp = max(_FLAT, _BLURRED * sharp.low[len(sharp.bins) + 1] if sharp is not None else 0.0)
        self._end = 0
        self._look_ns: int | None = None
        self._seen, self._since = "", 0  # what the newest looks at pictures found, and how many
        self._picture = NO_REASON

    def window(self, at_ns: int, window: Window) -> InputSummary | None:
        """Take the rows of a window that were not in the one before; returns what is to be sent."""
        if (drift := self._drift) is None:
            return None
        rows = fresh(window, self._end)
        self._end = window.end
        return self._judged(drift, at_ns) if drift.add(at_ns, rows) else None

    def picture(self, at_ns: int, picture: Picture) -> InputSummary | None:
        """Look at a picture, if the last look was a second ago; returns what is to be sent."""
        if picture.ndim != 3 or not picture.size or picture.dtype != np.uint8:
            return None  # the run shows what is wrong with it
        if self._look_ns is not None and 0 <= at_ns - self._look_ns < LOOK_NS:
            return None
        self._look_ns = at_ns
        found = measured(picture)
        self._judge(found)
        if (drift := self._drift) is not None and drift.add(at_ns, found[None, :]):
            return self._judged(drift, at_ns)
        self.reason = self._first()
        return None

    def _judge(self, found: NDArray[np.float64]) -> None:
        _, _, sharpness, dark, bright = found
        tests = {
            "dark": dark > _DARK_SHARE,
            "bright": bright > _BRIGHT_SHARE,
            "blurred": sharpness < self._sharp,
        }
        seen = next((word for word, holds in tests.items() if holds), "")
        if seen:
            self._counters[f"input_{seen}"] += 1
        self._since = self._since + 1 if seen == self._seen else 1
        self._seen = seen
        if self._since >= STREAK + 1:
            self._picture = _PICTURES[seen] if seen else NO_REASON

    def _judged(self, drift: _Drift, at_ns: int) -> InputSummary | None:
        """Take what a window of time showed; returns what is to be sent."""
        before = self.reason
        self._counters["input_drift"] += drift.outside
        self.drift = drift.reason
        self.reason = self._first()
        if self.reason.code == before.code and not drift.due(at_ns):
            return None
        came, flagged = self.came - self._sent[0], self.flagged - self._sent[1]
        self._sent = self.came, self.flagged
        share = round(flagged / came, 4) if came else 0.0
        return InputSummary(at_ns, self.reason, drift.sent(at_ns, share))

    def _first(self) -> Reason:
        found = [self._picture]
        if self._drift is not None:
            found += [self._drift.constant, self._drift.reason]
        return next((why for why in found if why.why), NO_REASON)


class _Drift:
    """Compares windows of time with those of a reference."""

    def __init__(self, reference: Reference, signals: Sequence[str]) -> None:
        self.reason = self.constant = NO_REASON
        self.outside = False  # whether the newest window was
        self._names = list(reference.features)
        columns = [signals.index(name) for name in self._names]
        self._columns = slice(None) if columns == list(range(len(signals))) else columns
        self._bins = [each.bins for each in reference.features.values()]
        low, high = range_of(reference)
        self._least = reference.rows / 2
        self._window_s = reference.window_s
        span = high[:, -1] - low[:, -2]
        largest = np.maximum(np.abs(high[:, -1]), np.abs(low[:, -2]))
        self._rounding = 1e-6 * np.maximum(span, largest)  # of numbers of 32 bits, and of a resampled signal
        floor = np.full(low.shape, _FLOOR)  # of a share
        floor[:, -4:] = (_FLOOR * span + self._rounding)[:, None]
        self._under, self._over = _limits(low, high, floor, self._rounding[:, None])
        self._moves = low[:, -3] > 0  # the reference has no window in which the feature stands still
        self._time = TimeWindows(reference.window_s)
        self._now, self._all = Summary(self._bins), Summary(self._bins)
        self._pending: NDArray[Any] = np.empty((_PENDING // len(signals), len(signals)), np.float32)
        self._waiting = 0  # rows
        self._streaks = np.zeros((2, len(self._names)), int)  # drifted, constant: windows in a row
        self._good = 0
        self._sent_ns: int | None = None

    def add(self, at_ns: int, rows: NDArray[Any]) -> bool:
        """Take rows, the last of this time. Returns whether a window was judged."""
        judged = False
        if self._time.ends(at_ns):
            self._flush()
            if judged := self._now.n >= self._least:
                self._judge()
            self._all.merge(self._now)
            self._now = Summary(self._bins)
        if self._sent_ns is None:
            self._sent_ns = at_ns
        end = self._waiting + len(rows)
        if end > len(self._pending) or rows.dtype != self._pending.dtype:
            self._flush()
            end = len(rows)
            if end > len(self._pending) or rows.dtype != self._pending.dtype:
                self._pending = np.empty((max(len(self._pending), end), rows.shape[1]), rows.dtype)
        self._pending[self._waiting : end] = rows
        self._waiting = end
        return judged

    def due(self, at_ns: int) -> bool:
        """Whether the summary was sent long ago."""
        return self._sent_ns is None or not 0 <= at_ns - self._sent_ns < SENT_S * NS_PER_S

    def sent(self, at_ns: int, flagged: float) -> dict[str, Any]:
        """The numbers since the last time, those of drifted features first; they begin again."""
        self._sent_ns = at_ns
        whole = self._all
        self._all = Summary(self._bins)
        detail: dict[str, Any] = {"window_s": self._window_s, "rows": whole.n, "flagged": flagged}
        order = np.argsort(-self._streaks.max(0), kind="stable")
        room, features = MAX_SENT, dict[str, list[float]]()
        for at in order:
            numbers = whole.numbers(at, len(self._bins[at]))
            room -= len(msgspec.json.encode(numbers)) + len(self._names[at]) + 4
            if room < 0:
                detail["left_out"] = len(order) - len(features)
                break
            features[self._names[at]] = numbers
        return {**detail, "features": features}

    def _flush(self) -> None:
        self._now.add(self._pending[: self._waiting, self._columns])
        self._waiting = 0

    def _judge(self) -> None:
        found = self._now.derived()
        drifted = ((found < self._under) | (found > self._over)).any(1)
        still = self._moves & (self._now.high - self._now.low <= self._rounding)
        self.outside = bool(drifted.any())
        self._streaks = (self._streaks + 1) * np.array([drifted, still])
        self._good = 0 if self.outside or still.any() else self._good + 1
        if names := self._named(self._streaks[0]):
            text = f"its inputs differ from what the model was made for: {names}"
            self.reason = because(text, "model-input-drift", features=names)
        if names := self._named(self._streaks[1]):
            text = f"its inputs stand still: {names}"
            self.constant = because(text, "model-input-constant", features=names)
        if self._good >= STREAK:
            self.reason = self.constant = NO_REASON

    def _named(self, streak: NDArray[np.int_]) -> str:
        names = [self._names[at] for at in np.flatnonzero(streak >= STREAK)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more


_PICTURES = {
    "dark": because("its pictures are dark", "model-input-dark"),
    "bright": because("its pictures are over-exposed", "model-input-bright"),
    "blurred": because("its pictures are blurred", "model-input-blurred"),
}


def _limits(low: Array, high: Array, floor: Array, rounding: Array) -> tuple[Array, Array]:
    """The smallest and the largest number that each summary may be."""
    margin = MARGIN * np.maximum(high - low, floor)
    under, over = low - margin, high + margin
    levels = (slice(None), [-4, -2, -1])  # mean, smallest, largest
    near, below = NEARER * low[levels], under[levels]
    under[levels] = np.where(near > rounding, np.maximum(near, below), below)
    near, above = NEARER * high[levels], over[levels]
    over[levels] = np.where(near < -rounding, np.minimum(near, above), above)
    return under, over


def fresh(window: Window, end: int) -> NDArray[Any]:
    """The rows of a window that were not in the one before, which ended at `end`."""
    new = window.end - end
    return window.rows[-new:] if 0 < new < len(window.rows) else window.rows


def measured(picture: Picture) -> NDArray[np.float64]:
    """The features of a picture (`reference.PICTURE`), from the green channel of an eighth of its pixels."""
    green = picture[:, :, 1]
    if min(green.shape) < 3:
        green = np.pad(green, 1, mode="edge")
    # neighbours at full resolution: the blur of a picture is lost in a smaller copy
    here = green[1:-1:4, 1:-1:2].astype(np.int16)
    around = (green[:-2:4, 1:-1:2], green[2::4, 1:-1:2], green[1:-1:4, :-2:2], green[1:-1:4, 2::2])
    edges = here * 4
    for each in around:
        edges -= each[: here.shape[0], : here.shape[1]]
    return np.array(
        [here.mean(), here.std(), edges.var(), (here < _DARK).mean(), (here > _BRIGHT).mean()], np.float64
    )
