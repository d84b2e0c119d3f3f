"""Judges a version by its results on real input: errors, NaN, time, and what a watch of drift finds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.pipeline.agreement import Tally
from agent.pipeline.model_run import Answer, Inference
from agent.slots.slot_state import Confirm
from wire.messages import Quality
from wire.reasons import NO_REASON, Reason, because

if TYPE_CHECKING:
    from agent.inference.decoders import Result

Drift = Callable[[Inference], Reason]
"""Looks at one result; the reason why the version must not run on, `NO_REASON` where it may."""

_FEW = 3  # results that are bad: fewer do not undo a version that was confirmed
_WINDOW = 100  # newest results of a version that was confirmed, at least
_LAST_SHARE = 0.5  # of the newest results of a version that runs again: more that are bad end it
_SLOW_SHARE = 0.01  # 99 of 100 results keep `p99_ms`


def input_drift(inference: Inference) -> Reason:
    """How the input differs from the reference of the package."""
    return inference.drift


class Gates:
    """The gates of one version. `add` takes each answer and returns why the version must not run.

    Until it is confirmed all its answers count, and a share is that of the results it needs, or of all if
    they are more. Then the newest answers count. A result that is NaN on flagged input does not count.
    """

    def __init__(self, confirm: Confirm, p99_ms: float, drift: Drift = input_drift) -> None:
        self.good = 0
        self.ran = Tally()  # all that was judged
        self._confirm = confirm
        self._p99_ms = p99_ms
        self._drift = drift
        self._confirmed = False
        self._all = _Tally()
        self._newest: deque[_Tally] = deque(maxlen=max(_WINDOW, min(confirm.results, 10_000)))

    @property
    def enough(self) -> bool:
        """Whether there are as many good results as the version needs."""
        return self.good >= self._confirm.results

    def confirm(self) -> None:
        """From now on the newest answers count."""
        self._confirmed = True
        self._all = _Tally()  # those of the trial would hide half of the newest that are bad

    def add(self, answer: Answer) -> Reason:
        """Take one answer."""
        if (inference := answer.inference) is None:
            return self.take(None, Quality.GOOD)
        why = self.take(inference.result, inference.quality)
        if why.why or self._confirmed:  # later the world has changed, not the version
            return why
        return self._drift(inference)

    def take(self, result: Result | None, quality: Quality) -> Reason:
        """Take the result for an input of a quality; None for a run that failed."""
        one = _Tally()
        if result is None:
            one.failed = 1
        elif result.nan:
            if quality is not Quality.GOOD:
                return NO_REASON
            one.nan = 1
        else:
            self.good += 1
            one.slow = int(0 < self._p99_ms < result.infer_ms)
        one.all = 1
        self.ran.failed += one.failed
        if result is not None:
            self.ran.add(result)
        if self._confirmed:
            if len(self._newest) == self._newest.maxlen:
                self._all.take(self._newest[0], -1)
            self._newest.append(one)
        self._all.take(one)
        return self._reason()

    def _reason(self) -> Reason:
        confirm, seen = self._confirm, self._all
        window = self._newest.maxlen if self._confirmed else confirm.results
        of, least = max(window or 0, seen.all), _FEW - 1 if self._confirmed else 0
        if seen.failed > max(confirm.errors * of, least):
            text = f"{seen.failed} of {seen.all} runs failed"
            return because(text, "slot-errors", failed=seen.failed, of=seen.all)
        if seen.nan > max(confirm.nan * of, least):
            text = f"{seen.nan} of {seen.all} results are not numbers"
            return because(text, "slot-nan", nan=seen.nan, of=seen.all)
        # a busy machine slows a good model: one that was confirmed must be slow for half of its results
        if seen.slow > (0.5 if self._confirmed else _SLOW_SHARE) * of:
            text = f"{seen.slow} of {seen.all} results took longer than {self._p99_ms:g} ms"
            return because(text, "slot-slow", slow=seen.slow, of=seen.all, p99_ms=self._p99_ms)
        return NO_REASON


def last_gates(confirm: Confirm) -> Gates:
    """The gates of a version that runs again and has none to go back to: half of its newest results count.

    A result that is right and late is better than none, so its time does not count.
    """
    return Gates(replace(confirm, errors=_LAST_SHARE, nan=_LAST_SHARE), 0.0)


class _Tally:
    __slots__ = ("all", "failed", "nan", "slow")

    def __init__(self) -> None:
        self.all = self.failed = self.nan = self.slow = 0

    def take(self, one: _Tally, sign: int = 1) -> None:
        self.all += sign * one.all
        self.failed += sign * one.failed
        self.nan += sign * one.nan
        self.slow += sign * one.slow
