"""The stored data of a pilot: what was read for a period is remembered for the KPIs that need it too."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from collector.ledger.ledger import Ledger
from collector.pilots.kpis.absences import Absence, Outbox, of_events
from collector.pilots.kpis.events import Occurred, changed_events, clock_steps, read_events
from collector.pilots.kpis.rows import Asked, FieldRows, TooMany, read_rows
from collector.pilots.kpis.steps import Span
from collector.store.source import Key, Source
from wire.pilot.plan import Input, Plan

T = TypeVar("T")
MOST_BYTES = 64_000_000  # that are remembered of a period; what comes after them is read again
_EVENT_BYTES = 200
_ANSWER_BYTES = 300


class Reading:
    """What a source and a ledger have of the nodes of a plan.

    Answers about a span are remembered until the next one is asked for: evaluate all KPIs of a period before
    those of the next.
    """

    def __init__(self, source: Source, ledger: Ledger, plan: Plan, rates: Mapping[Key, float]) -> None:
        self.source = source
        self.outboxes = {each: [Outbox(known) for known in ledger.known_of(each)] for each in plan.nodes}
        self.clock_max_ms = plan.data.clock_max_ms
        self.rates = rates
        self._inputs = [each for _, each in plan.inputs() if each.field is not None]
        self._streams: dict[str, dict[str, set[str]]] = {}
        self._of_events: dict[str, list[Absence]] = {}
        self._span: Span = (0, 0)
        self._answers: dict[Hashable, Any] = {}
        self._bytes = 0

    def fields(self, stored: Stored) -> dict[str, list[str]]:
        """The fields that a plan asks for, by device and stream."""
        found: dict[str, list[str]] = {}
        for each in self._inputs:
            stream, _, name = stored.path(each).rpartition("/")
            if name not in (names := found.setdefault(stream, [])):
                names.append(name)
        return found

    def rows(self, asked: Asked, field: str, others: Sequence[str]) -> FieldRows:
        """The rows of a field; they are remembered with those of other fields of the stream.

        Raises:
            TooMany: there are too many rows.
        """
        answers = self._of(asked.span)
        known: FieldRows | None = answers.get((asked, field))
        if known is not None:
            return known
        if asked in answers:
            raise TooMany(answers[asked])
        names = [field, *(each for each in others if each != field)]
        try:
            several = read_rows(self.source, asked, names, self.outboxes[asked.key[0]])
        except TooMany as error:
            self._remember(asked, str(error), _ANSWER_BYTES)
            raise
        for name, rows in several.items():
            size = rows.times.nbytes + rows.values.nbytes
            self._remember((asked, name), rows, size + _ANSWER_BYTES * (1 + len(rows.absences)))
        return several[field]

    def events(
        self, node: str, path: str, within: Span, around: Span
    ) -> tuple[list[Occurred], list[Absence]]:
        """The events `device/name` of a node `around` a period, and what cannot be read."""
        return self._asked(
            within,
            (node, path, around),
            lambda: read_events(self.source, node, path, around),
            lambda found: _EVENT_BYTES * (len(found[0]) + len(found[1])),
        )

    def clock_steps(
        self, node: str, within: Span, around: Span
    ) -> tuple[list[tuple[int, float]], list[Absence]]:
        """When the clock of a node was set `around` a period, by how many seconds, and what was changed."""
        return self._asked(
            within,
            (node, around),
            lambda: (
                clock_steps(self.source, node, around),
                changed_events(self.source, node, "_/clock-step", around),
            ),
            lambda found: _EVENT_BYTES * (len(found[0]) + len(found[1])),
        )

    def has_rows(self, key: Key, span: Span) -> bool:
        """Whether a stream has rows near a span."""
        return self._asked(span, (key, span), lambda: bool(self.source.rows_between(key, *span)), lambda _: 0)

    def streams(self, node: str) -> dict[str, set[str]]:
        """The stored streams of a node by device."""
        if node not in self._streams:
            self._streams[node] = self.source.streams(node)
        return self._streams[node]

    def absent_events(self, node: str) -> list[Absence]:
        """When events of a node may be absent."""
        if node not in self._of_events:
            self._of_events[node] = of_events(self.outboxes[node], node, self.source)
        return self._of_events[node]

    def _of(self, span: Span) -> dict[Hashable, Any]:
        if span != self._span:
            self._span, self._bytes = span, 0
            self._answers.clear()
        return self._answers

    def _asked(self, within: Span, key: Hashable, ask: Callable[[], T], size: Callable[[T], int]) -> T:
        known = self._of(within)
        if key in known:
            found: T = known[key]
            return found
        found = ask()
        self._remember(key, found, _ANSWER_BYTES + size(found))
        return found

    def _remember(self, key: Hashable, answer: Any, size: int) -> None:
        # nothing is forgotten for it: all KPIs ask in the same order, so each would find nothing
        if self._bytes + size <= MOST_BYTES:
            self._answers[key] = answer
            self._bytes += size


class Stored:
    """What is stored of a pilot, or of one machine of it."""

    def __init__(self, reading: Reading, machine: str) -> None:
        self.reading = reading
        self._node, self._device = "/".join(machine.split("/")[:4]), "/".join(machine.split("/")[4:])
        self._fields = reading.fields(self)

    def path(self, each: Input) -> str:
        """The path of an input; its device is replaced where the machine is a device."""
        path = each.field or each.event or ""
        device, _, rest = path.partition("/")
        return f"{self._device if self._device and each.node is None else device}/{rest}"

    def nodes(self, each: Input) -> list[str]:
        """The nodes of an input; of a field, those that ever had the stream, or all if none had."""
        # an input that names its node is the same for every machine, such as the flag of a whole line
        wanted = each.node or self._node
        asked = [node for node in self.reading.outboxes if wanted in ("", node)]
        if each.field is None:
            return asked
        device, stream, _ = self.path(each).split("/")
        return [node for node in asked if stream in self.reading.streams(node).get(device, ())] or asked

    def rows(self, node: str, each: Input, span: Span, before_us: int) -> FieldRows:
        """The rows of a field of a node.

        Raises:
            TooMany: there are too many rows.
        """
        device, stream, name = self.path(each).split("/")
        asked = Asked((node, device, stream), span, before_us, self.reading.clock_max_ms)
        return self.reading.rows(asked, name, self._fields.get(f"{device}/{stream}", ()))

    def is_silent(self, node: str, each: Input, span: Span) -> bool:
        """Whether no stream of the device of an event has rows; of the node, if that device has no stream."""
        device = self.path(each).split("/")[0]
        streams = self.reading.streams(node)
        keys = [(node, device, name) for name in streams.get(device, ())]
        keys = keys or [(node, other, name) for other, names in streams.items() for name in names]
        return bool(keys) and not any(self.reading.has_rows(key, span) for key in sorted(keys))
