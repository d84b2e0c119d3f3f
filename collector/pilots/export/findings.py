"""What a reader of an export must know about its data: what is damaged, was changed, or is gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from collector.pilots.kpis.absences import DATA_CHANGED, DATA_DAMAGED, DATA_PRUNED, DAY_US, midnight_us
from collector.store.marks import Key as OutboxKey
from collector.store.removed import PrunedSum
from collector.store.source import ALL, Hole

NOT_COMPARED = "not-compared"
NAME_NOT_VALID = "name-not-valid"
REPORT_NOT_MADE = "report-not-made"
MAX_FOUND = 1_000  # that are listed


class Found(Struct, frozen=True, order=True):
    """One finding: `where` is a day file, or what begins with the node; times are ms of UTC, 0 is unknown."""

    code: str
    where: str
    why: str
    from_ms: int = 0
    to_ms: int = 0


class Findings:
    """Each finding once."""

    def __init__(self) -> None:
        self._found: set[Found] = set()
        self.more = 0  # that are not listed

    def add(self, code: str, where: str, why: str, span_us: tuple[int, int] = (0, 0)) -> None:
        """Note a finding."""
        one = Found(code, where, why, span_us[0] // 1000, -(-span_us[1] // 1000))
        if one in self._found:
            return
        if len(self._found) >= MAX_FOUND:
            self.more += 1
            return
        self._found.add(one)

    def add_hole(self, where: str, hole: Hole, span_us: tuple[int, int]) -> None:
        """Note where stored rows cannot be read, within a span."""
        first, last = hole.first_ms * 1000, hole.last_ms * 1000 + 1000
        if last <= first or hole.first_ms <= -ALL:  # when is not known
            self.add(DATA_DAMAGED, where, hole.why)
        elif first < span_us[1] and last > span_us[0]:
            self.add(DATA_DAMAGED, where, hole.why, (max(first, span_us[0]), min(last, span_us[1])))

    def add_changed(self, where: str, why: str, span_us: tuple[int, int]) -> None:
        """Note that rows are not those that were stored."""
        self.add(DATA_CHANGED, where, why, span_us)

    def add_files(self, names: Iterable[str]) -> None:
        """Note day files that gave less than they should."""
        for name in names:
            self.add(DATA_DAMAGED, Path(name).name, "the day file is damaged: parts of it cannot be read")

    def add_pruned(
        self, sums: Mapping[OutboxKey, Sequence[PrunedSum]], nodes: Sequence[str], span_us: tuple[int, int]
    ) -> None:
        """Note what retention removed and may belong to a span."""
        for (node, ep), several in sums.items():
            for one in several if node in nodes else ():
                first, last = midnight_us(one.first_day), midnight_us(one.last_day) + DAY_US
                if last > span_us[0]:
                    why = (
                        f"retention removed {one.messages:,} {one.cls} messages with {one.rows:,} rows of "
                        f"outbox {ep}, received {one.first_day} to {one.last_day}"
                    )
                    self.add(DATA_PRUNED, node, why, (first, last))

    def __iter__(self) -> Iterator[Found]:
        """Sorted."""
        return iter(sorted(self._found))

    def __bool__(self) -> bool:
        return bool(self._found)
