"""What is unread of a journal: the newest stretch, and before it those that it overtook."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from agent.outbox.segment import PAGE, Segment

MAX_SPANS = 8  # each is a hole in the numbers a collector has, for as long as it is not drained
_OPEN = 1 << 62


@dataclass(slots=True, eq=False)
class Span:
    """From a place in one generation to one in the same or a later one; `passed` records lie before it.

    `at` is 0 until reading has come to that generation: it begins where the segment's own `low` says.
    """

    generation: int = 0
    at: int = 0
    passed: int = 0
    to_generation: int = _OPEN
    to_at: int = _OPEN


class Spans:
    """In the order of their records, the newest last and without an end. The outbox's lock guards it."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments  # the journal's own list: what is not in it any more is passed over
        self._spans = [Span()]

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    @property
    def newest(self) -> Span:
        """What is committed from the last split on."""
        return self._spans[-1]

    def oldest_overtaken(self) -> Span | None:
        """The first of the backlog; those that are read are forgotten."""
        while len(self._spans) > 1:
            if self.place(self._spans[0]):
                return self._spans[0]
            del self._spans[0]
        return None

    def place(self, span: Span) -> tuple[Segment, int, int] | None:
        """Where to read on: segment, offset, end; None where nothing is now."""
        while True:
            at = self._index(span.generation)
            if at == len(self._segments) or self._segments[at].generation > span.to_generation:
                return None
            segment = self._segments[at]
            if segment.generation != span.generation or not span.at:
                span.generation, span.at, span.passed = segment.generation, segment.low, segment.done
            end = span.to_at if segment.generation == span.to_generation else segment.end
            if span.at < end:
                return segment, span.at, end
            if segment.generation == span.to_generation:
                return None
            if span is self.newest and not segment.sealed:  # it may yet be written to
                return None
            span.generation, span.at = span.generation + 1, 0

    def split(self) -> bool:
        """End the newest span here and begin another; False where nothing is unread or there are too many."""
        newest = self.newest
        if len(self._spans) >= MAX_SPANS or self.place(newest) is None:
            return False
        last = self._segments[-1]
        passed = last.count  # before `end`: the committer sets them in this order
        if last.end == PAGE:  # while it holds nothing it may be given up for the one before it
            return False
        newest.to_generation, newest.to_at = last.generation, last.end
        self._spans.append(Span(last.generation, newest.to_at, passed))
        return True

    def is_behind(self, size: int) -> bool:
        """Whether more than `size` bytes of the newest span are unread."""
        for segment in self._segments[self._index(self.newest.generation) :]:
            size -= sum(end - start for start, end, _ in _parts(self.newest, segment))
            if size < 0:
                return True
        return False

    def parts(self, segment: Segment) -> list[tuple[int, int, int]]:
        """Unread stretches of a segment: from, to, and how many records lie before."""
        return [part for span in self._spans for part in _parts(span, segment)]

    def touched(self) -> list[Segment]:
        """The segments of which something was read: all but those in the midst of a span."""
        found: list[Segment] = []
        at = 0
        for span in self._spans:
            end = self._index(span.generation) + 1
            found += self._segments[at:end]
            at = max(at, end, self._index(span.to_generation))  # a span may begin and end in one
        return found

    def _index(self, generation: int) -> int:
        return bisect_left(self._segments, generation, key=_generation)


def _parts(span: Span, segment: Segment) -> Iterator[tuple[int, int, int]]:
    if not span.generation <= segment.generation <= span.to_generation:
        return
    start, passed = segment.low, segment.done
    if segment.generation == span.generation and span.at:
        start, passed = span.at, span.passed
    end = span.to_at if segment.generation == span.to_generation else segment.end
    if start < end:
        yield start, end, passed


def _generation(segment: Segment) -> int:
    return segment.generation
