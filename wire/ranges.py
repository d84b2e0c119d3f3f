"""Sets of sequence numbers as sorted, disjoint, inclusive ranges: acks, dedup marks, gaps, the ledger."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]

_MANY = 64


class Ranges:
    """A set of integers kept as inclusive `[a, b]` ranges; adjacent ranges are merged.

    Adding in rising order is O(1); membership is O(log n) in the number of ranges, not of integers.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int] | list[int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def add(self, first: int, last: int | None = None) -> None:
        """Add `first..last` inclusive, or the one number `first`.

        Raises:
            ValueError: `last` is below `first`.
        """
        last = first if last is None else last
        if last < first:
            raise ValueError(f"range {first}..{last} ends before it starts")
        starts, ends = self._starts, self._ends
        low = bisect_left(ends, first - 1)
        high = bisect_right(starts, last + 1)
        if low < high:
            first = min(first, starts[low])
            last = max(last, ends[high - 1])
        starts[low:high] = [first]
        ends[low:high] = [last]

    def update(self, other: Iterable[Range]) -> None:
        """Add every range of `other`; many ranges in one pass, because each single `add` moves later ones."""
        ranges = list(other)
        if len(ranges) > _MANY:
            merged = Ranges(sorted([*self, *ranges]))
            self._starts, self._ends = merged._starts, merged._ends
            return
        for first, last in ranges:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number <= self._ends[at]

    def __iter__(self) -> Iterator[Range]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        """How many ranges, not how many numbers."""
        return len(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"

    def copy(self) -> Ranges:
        """An independent copy; much faster than adding every range again."""
        twin = Ranges()
        twin._starts, twin._ends = self._starts.copy(), self._ends.copy()
        return twin

    def count(self) -> int:
        """How many numbers are in the set."""
        return sum(self._ends) - sum(self._starts) + len(self._starts)

    def highest(self) -> int:
        """The highest number in the set, 0 when it is empty."""
        return self._ends[-1] if self._ends else 0

    def count_in(self, first: int, last: int) -> int:
        """How many of `first..last` are in the set."""
        return sum(end - start + 1 for start, end in self.within(first, last))

    def within(self, first: int, last: int) -> list[Range]:
        """The ranges of the set, cut to `first..last`."""
        low, high = bisect_left(self._ends, first), bisect_right(self._starts, last)
        pairs = zip(self._starts[low:high], self._ends[low:high], strict=True)
        return [(max(start, first), min(end, last)) for start, end in pairs]

    def without(self, other: Ranges) -> Ranges:
        """The numbers of the set that are not in `other`."""
        return Ranges(hole for first, last in self for hole in other.missing(first, last))

    def missing(self, first: int, last: int) -> list[Range]:
        """The ranges of `first..last` that are not in the set."""
        holes: list[Range] = []
        at = first
        low, high = bisect_left(self._ends, first), bisect_right(self._starts, last)
        for start, end in zip(self._starts[low:high], self._ends[low:high], strict=True):
            if start > at:
                holes.append((at, start - 1))
            at = end + 1
        if at <= last:
            holes.append((at, last))
        return holes
