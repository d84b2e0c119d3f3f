"""Compares the results of two models for the same input, and sums up how often they agree."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from agent.pipeline.frames.tracking import corners_of, overlaps
from wire.clock import NS_PER_S
from wire.intervals import wilson
from wire.messages import Arm, Box, ModelRef, Scalar

if TYPE_CHECKING:
    from agent.inference.decoders import Result

OVERLAP = 0.5  # intersection over union of two boxes for one thing
BLOCK_NS = 10 * NS_PER_S
_MOST_BLOCKS = 10_000  # that are known: those of a day
_NEWEST = 1_000  # latencies that are kept
_LARGEST = 1e15  # of a number in a status
_NUMBER = (int, float)  # a truth value is 0 or 1
_BY_ALARM = frozenset({"anomaly", "reconstruction"})


@dataclass(frozen=True, slots=True)
class Compared:
    """How far two results agree, from 0 to 1, and the difference of their main numbers, if they have any."""

    share: float
    diff: float | None = None


def compare(decoder: str, one: Result, other: Result, within: float) -> Compared:
    """Compare two results of models with the same decoder.

    Detections by the share of boxes that have a partner of the same label, classes by label, anomalies by
    the side of the threshold, vectors by their cosine, any other by each value of the row.
    """
    if one.nan or other.nan:
        return Compared(float(one.nan and other.nan))
    if decoder == "detection":
        matched, both = _matches(one.boxes, other.boxes), len(one.boxes) + len(other.boxes)
        share = 2 * matched / both if both else 1.0
        return _unless_alarms_differ(one, other, share, abs(len(one.boxes) - len(other.boxes)))
    diff = None if one.score is None or other.score is None else abs(one.score - other.score)
    if decoder == "classification":
        same = one.top == other.top and one.values.get("found") == other.values.get("found")
        return _unless_alarms_differ(one, other, float(same), diff)
    if decoder in _BY_ALARM:
        return _unless_alarms_differ(one, other, 1.0, diff)
    if decoder == "embedding":
        away = _angle(one.values.get("vector"), other.values.get("vector"))
        return Compared(float(away is not None and away <= within), away)
    return _unless_alarms_differ(one, other, *_rows(one.values, other.values, within))


def _unless_alarms_differ(one: Result, other: Result, share: float, diff: float | None) -> Compared:
    if diff is not None and not math.isfinite(diff):
        diff = None
    return Compared(share if one.alarm == other.alarm else 0.0, diff)


def _matches(ones: Sequence[Box], others: Sequence[Box]) -> int:
    """How many boxes have a partner of the same label; the pairs that overlap most come first."""
    if not ones or not others:
        return 0
    overlap = overlaps(*(np.array([corners_of(each) for each in boxes]) for boxes in (ones, others)))
    same = np.array([each.label for each in ones])[:, None] == np.array([each.label for each in others])
    rows, columns = np.nonzero(same & (overlap >= OVERLAP))
    left, right = set[int](), set[int]()
    for at in np.argsort(-overlap[rows, columns], kind="stable"):
        row, column = int(rows[at]), int(columns[at])
        if row not in left and column not in right:
            left.add(row)
            right.add(column)
    return len(left)


def _angle(one: Scalar, other: Scalar) -> float | None:
    """1 - cosine of two vectors in JSON; None where one is missing or has no direction."""
    if not isinstance(one, str) or not isinstance(other, str):
        return None
    try:
        first, second = (np.array(json.loads(text), np.float64) for text in (one, other))
        with np.errstate(over="ignore"):
            length = float(np.linalg.norm(first) * np.linalg.norm(second))
    except (ValueError, TypeError):
        return None
    if first.shape != second.shape or not math.isfinite(length) or not length:
        return None
    return max(0.0, 1.0 - float(first @ second) / length)


def _rows(one: dict[str, Scalar], other: dict[str, Scalar], within: float) -> tuple[float, float | None]:
    """Whether every value agrees, and the mean difference of the numbers."""
    differences = []
    agrees = one.keys() == other.keys()
    for name in one.keys() & other.keys():
        first, second = one[name], other[name]
        if isinstance(first, _NUMBER) and isinstance(second, _NUMBER):
            differences.append(abs(first - second))
            agrees &= differences[-1] <= within * max(abs(first), abs(second))
        else:
            agrees &= first == second
    return float(agrees), sum(differences) / len(differences) if differences else None


@dataclass(slots=True)
class Agreement:
    """How often two models agreed, in constant memory."""

    n: int = 0
    agreed: float = 0.0
    blocks: int = 0  # of 10 s; a clock that is set back, or to and fro, makes no new ones of the same time
    _with_diff: int = 0
    _diffs: float = 0.0
    _began_ns: int | None = None
    _newest: dict[int, None] = field(default_factory=dict)  # blocks that were counted

    def add(self, at_ns: int, compared: Compared) -> None:
        """Count one input, whose time is `at_ns`."""
        self.n += 1
        self.agreed += compared.share
        if compared.diff is not None:
            self._with_diff += 1
            self._diffs = min(_LARGEST * self._with_diff, self._diffs + compared.diff)
        if self._began_ns is None:
            self._began_ns = at_ns
        if (block := (at_ns - self._began_ns) // BLOCK_NS) not in self._newest:
            self.blocks += 1
            self._newest[block] = None
            if len(self._newest) > _MOST_BLOCKS:
                del self._newest[next(iter(self._newest))]

    @property
    def share(self) -> float:
        """The share of agreement."""
        return self.agreed / self.n if self.n else 0.0

    @property
    def diff(self) -> float:
        """The mean difference of the main numbers."""
        return self._diffs / self._with_diff if self._with_diff else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `share`, as if all inputs of a block were copies of one."""
        return wilson(self.share * self.blocks, self.blocks) if self.blocks else (0.0, 1.0)


@dataclass(slots=True)
class Tally:
    """What one model gave."""

    ref: ModelRef | None = None
    digest: str = ""
    n: int = 0
    failed: int = 0
    nan: int = 0
    alarms: int = 0
    cpu_ms: float = 0.0
    _newest_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_NEWEST))

    def add(self, result: Result) -> None:
        """Count one result."""
        self.n += 1
        self.nan += result.nan
        self.alarms += result.alarm
        self.cpu_ms += result.cpu_ms
        self._newest_ms.append(result.infer_ms)

    def shown(self) -> Arm:
        """The numbers of now."""
        newest = sorted(self._newest_ms)
        p50_ms, p99_ms = (
            round(newest[math.ceil(share * len(newest)) - 1], 3) if newest else 0.0 for share in (0.5, 0.99)
        )
        ref = self.ref or ModelRef(name="", ver="", sha256="")
        return Arm(
            name=ref.name,
            ver=ref.ver,
            sha256=ref.sha256,
            digest=self.digest,
            n=self.n,
            failed=self.failed,
            nan=self.nan,
            alarms=self.alarms,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            cpu_s=round(self.cpu_ms / 1e3, 3),
        )
