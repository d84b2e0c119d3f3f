"""The input that a model was made for: reference.json of a package, and summaries to compare with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from agent.inference import package_files
from agent.inference.decoders import ModelError
from agent.inference.inputs import FrameInput, WindowInput
from wire.clock import NS_PER_S
from wire.printable import printable

FILE = "reference.json"
MAX_BYTES = 2_000_000
LEAST_S, MOST_S = 10.0, 86_400.0  # of a window
LEAST_WINDOWS = 8  # fewer have no range worth the name
PICTURE = ("brightness", "contrast", "sharpness", "dark", "bright")  # the features of a picture
_BINS, _MOST_EDGES = 10, 31
_STATISTICS = 4  # beside the bins: mean, standard deviation, smallest, largest
_MOST_NARROW = 65_535  # rows that a count of 16 bits takes

Array = NDArray[np.float64]
_MOST_NUMBER = 1e30
_Number = Annotated[float, Meta(ge=-_MOST_NUMBER, le=_MOST_NUMBER)]  # not NaN
_Range = Annotated[list[_Number], Meta(max_length=_MOST_EDGES + 1 + _STATISTICS)]


class Feature(Struct, frozen=True, forbid_unknown_fields=True):
    """One signal: the edges of its bins, and the range of each summary over the windows of the reference.

    The summaries are the share of rows in each bin, the mean, the standard deviation, the smallest and the
    largest value. A row on an edge is in the bin above it.
    """

    bins: Annotated[list[_Number], Meta(max_length=_MOST_EDGES)]
    low: _Range
    high: _Range


class Reference(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`reference.json`: the summaries of `windows` windows of `window_s` seconds, for each feature."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    window_s: Annotated[float, Meta(ge=LEAST_S, le=MOST_S)]
    windows: Annotated[int, Meta(ge=LEAST_WINDOWS, le=1_000_000)]
    rows: Annotated[int, Meta(ge=1, le=2**53)]  # of its smallest window
    features: Annotated[dict[str, Feature], Meta(min_length=1, max_length=1024)]


def features(spec: FrameInput | WindowInput) -> Sequence[str]:
    """The features of an input that a reference can have."""
    return spec.signals if isinstance(spec, WindowInput) else PICTURE


def load(folder: Path, spec: FrameInput | WindowInput) -> tuple[Reference, bytes] | None:
    """The reference of a package and the bytes it was read from; None where the package has none.

    Raises:
        ModelError: it is not one, or not for this input.
    """
    if not os.path.lexists(folder / FILE):
        return None
    body = package_files.read(folder, FILE, MAX_BYTES)
    try:
        found = msgspec.json.decode(body, type=Reference)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{FILE}: {printable(error)}; make it again: edgebed model reference") from error
    known = features(spec)
    for name, each in found.features.items():
        if why := _mistake(name, each, known):
            raise ModelError(f"{FILE}: features.{printable(name, 64)}: {why}")
    return found, body


def written(found: Reference) -> bytes:
    """The content of `reference.json`, a line for each feature."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1).replace(b"\n    ", b" ")


def _mistake(name: str, each: Feature, known: Sequence[str]) -> str:
    """What is wrong with one feature; "" for nothing."""
    if name not in known:
        return "the input has no such signal"
    if any(above <= below for below, above in zip(each.bins, each.bins[1:], strict=False)):
        return "bins must rise"
    numbers = len(each.bins) + 1 + _STATISTICS
    if not len(each.low) == len(each.high) == numbers:
        return f"low and high must have {numbers} numbers: one for each bin and {_STATISTICS} more"
    if any(low > high for low, high in zip(each.low, each.high, strict=True)):
        return "low must not be above high"
    return ""


class Summary:
    """Counts of rows in bins, number, mean, squares, smallest and largest value of each feature.

    Two summaries of the same bins can be merged: the result is that of all rows together.
    """

    def __init__(self, bins: Sequence[Sequence[float]]) -> None:
        widest = max(map(len, bins))
        self._edges = np.array([[*each, *[np.inf] * (widest - len(each))] for each in bins])[:, :, None]
        short = self._edges.astype(np.float32)
        # of numbers of 32 bits the same ones are at or above the edge as at or above its 64 bits
        self._short_edges = np.where(short < self._edges, np.nextafter(short, np.float32(np.inf)), short)
        self.counts = np.zeros((len(bins), widest + 1), np.int64)
        self.n = 0
        self.mean, self.m2 = np.zeros(len(bins)), np.zeros(len(bins))
        self.low, self.high = np.full(len(bins), np.inf), np.full(len(bins), -np.inf)

    def add(self, rows: NDArray[Any]) -> None:
        """Take rows [n, features] of finite numbers."""
        if not (n := len(rows)):
            return
        each = np.ascontiguousarray(rows.T)  # what follows goes over one feature after another
        edges = self._short_edges if rows.dtype == np.float32 else self._edges
        reached = (each[:, None, :] >= edges).view(np.uint8)
        # the narrow sum takes a third of the time
        above = reached.sum(2, dtype=np.uint16 if n <= _MOST_NARROW else np.int64).astype(np.int64)
        self.counts[:, 0] += n
        self.counts[:, :-1] -= above
        self.counts[:, 1:] += above
        numbers = each.astype(np.float64)
        with _infinite():
            mean = numbers.mean(1)
            numbers -= mean[:, None]
            m2 = np.einsum("ij,ij->i", numbers, numbers)
        self._pool(n, mean, m2)
        self.low, self.high = np.minimum(self.low, each.min(1)), np.maximum(self.high, each.max(1))

    def merge(self, other: Summary) -> None:
        """Take the rows of another summary with the same bins."""
        if not other.n:
            return
        self.counts += other.counts
        self._pool(other.n, other.mean, other.m2)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    def _pool(self, n: int, mean: Array, m2: Array) -> None:
        both = self.n + n
        with _infinite():
            step = mean - self.mean
            self.m2 += m2 + step**2 * (self.n * n / both)
            self.mean += step * (n / both)
        self.n = both

    def derived(self) -> Array:
        """[features, numbers] to compare: shares of the bins, mean, standard deviation, smallest, largest."""
        spread = np.sqrt(self.m2 / self.n)
        return np.column_stack([self.counts / self.n, self.mean, spread, self.low, self.high])

    def numbers(self, at: int, bins: int) -> list[float]:
        """What is sent of one feature: n, mean, squares, smallest, largest, counts of its bins."""
        one = [self.mean[at], self.m2[at], self.low[at], self.high[at]]
        return [self.n, *(float(f"{number:.6g}") for number in one), *self.counts[at, : bins + 1].tolist()]


def _infinite() -> np.errstate:
    """The squares of the largest numbers are infinite, which is right."""
    return np.errstate(over="ignore", invalid="ignore")


def make(
    names: Sequence[str], window_s: float, sessions: Iterable[Sequence[tuple[int, NDArray[Any]]]]
) -> Reference:
    """The reference of sessions: pieces of rows [n, features] with the time of their last row, in time order.

    Raises:
        ModelError: they are too short, or have a number that no reference has.
    """
    windows = [rows for pieces in sessions for rows in _cut(pieces, window_s)]
    usual = np.median([len(rows) for rows in windows]) if windows else 0
    windows = [rows for rows in windows if len(rows) >= usual / 2]  # the others have gaps
    if len(windows) < LEAST_WINDOWS:
        raise ModelError(
            f"the recordings have {len(windows)} whole windows of {window_s:g} s; a reference needs"
            f" {LEAST_WINDOWS}: record longer, or choose shorter windows"
        )
    rows = np.concatenate(windows).astype(np.float64)
    for name, least, most in zip(names, rows.min(0), rows.max(0), strict=True):
        if not -_MOST_NUMBER <= least <= most <= _MOST_NUMBER:
            far = max(abs(least), abs(most))
            raise ModelError(
                f"the recordings have {far:.3g} in {name}: a reference has numbers up to {_MOST_NUMBER:g}"
            )
    shares = np.linspace(0, 1, _BINS + 1)[1:-1]
    bins = [_rounded(np.unique(np.quantile(rows[:, at], shares))) for at in range(len(names))]
    found = np.array([_derived(bins, window) for window in windows])
    low, high = found.min(0), found.max(0)
    made = {}
    for at, (name, edges) in enumerate(zip(names, bins, strict=True)):
        kept = [*range(len(edges) + 1), *range(low.shape[1] - _STATISTICS, low.shape[1])]
        made[name] = Feature(edges, _short(low[at, kept]), _short(high[at, kept]))
    least = min(map(len, windows))
    return Reference(window_s=window_s, windows=len(windows), rows=least, features=made)


class TimeWindows:
    """Cuts time into windows of `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        self._span_ns = round(window_s * NS_PER_S)
        self._begin_ns: int | None = None

    def ends(self, at_ns: int) -> bool:
        """Whether a window ended before this time; the next one begins here."""
        begin_ns = self._begin_ns
        if begin_ns is not None and 0 <= at_ns - begin_ns < self._span_ns:
            return False
        self._begin_ns = at_ns
        return begin_ns is not None


def _cut(pieces: Iterable[tuple[int, NDArray[Any]]], window_s: float) -> Iterator[NDArray[Any]]:
    """The rows of each whole window of time."""
    time, window = TimeWindows(window_s), list[NDArray[Any]]()
    for at_ns, rows in pieces:
        if time.ends(at_ns):
            yield np.concatenate(window)
            window = []
        window.append(rows)


def _derived(bins: list[list[float]], rows: NDArray[Any]) -> Array:
    summary = Summary(bins)
    summary.add(rows)
    return summary.derived()


def _short(numbers: Array) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers]


def _rounded(edges: Array) -> list[float]:
    return sorted({float(f"{edge:.6g}") for edge in edges})


def range_of(found: Reference) -> tuple[Array, Array]:
    """`low` and `high` of a reference as [features, numbers], like `Summary.derived`."""
    widest = max(len(each.bins) for each in found.features.values())

    def wide(numbers: list[float], bins: int) -> list[float]:
        return [*numbers[: bins + 1], *[0.0] * (widest - bins), *numbers[bins + 1 :]]

    every = found.features.values()
    return (
        np.array([wide(each.low, len(each.bins)) for each in every]),
        np.array([wide(each.high, len(each.bins)) for each in every]),
    )
