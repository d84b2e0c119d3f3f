"""The regression gate: compares the events of a replay with a file of expected events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import UNSET

from wire.errors import ConfigError, unwritable
from wire.messages import Event, Scalar
from wire.printable import printable

MAX_BYTES = 64 * 1024 * 1024


class ExpectedEvent(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One expected event, a line of the file. `ts` is device time, Unix ms."""

    ts: int
    device: str
    slot: str = ""
    type: str
    top: str = ""
    score: float | None = None
    detail: dict[str, Scalar] = {}

    @property
    def key(self) -> tuple[str, str, str]:
        """Only events with the same key are compared."""
        return self.device, self.slot, self.type

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.ts / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
        words = [at, self.type, printable(self.top), "" if self.score is None else f"score {self.score:g}"]
        words += [f"{name}={_value(value)}" for name, value in self.detail.items()]
        return " ".join(word for word in words if word)


@dataclass(slots=True)
class Difference:
    """The differences between expected and replayed events."""

    missing: list[ExpectedEvent] = field(default_factory=list)
    unexpected: list[ExpectedEvent] = field(default_factory=list)
    changed: list[tuple[ExpectedEvent, ExpectedEvent, str]] = field(
        default_factory=list
    )  # expected, found, how

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.changed)

    def lines(self) -> list[str]:
        """A readable list: `-` expected but missing, `+` found but not expected, `~` found but changed."""
        by_source: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for each in self.missing:
            by_source[_source(each)].append((each.ts, f"  - {each}"))
        for each in self.unexpected:
            by_source[_source(each)].append((each.ts, f"  + {each}"))
        for expected, _, how in self.changed:
            by_source[_source(expected)].append((expected.ts, f"  ~ {expected}: {how}"))
        lines = []
        for source in sorted(by_source):
            lines += [source, *(line for _, line in sorted(by_source[source]))]
        return lines


def of_events(events: Iterable[tuple[str, Event]]) -> list[ExpectedEvent]:
    """The parts of a replay's events that are compared: everything but the duration of an inference."""
    return [
        ExpectedEvent(
            ts=event.ts,
            device=device,
            slot=event.slot,
            type=event.type,
            top=event.top,
            score=None if event.score is UNSET else round(float(event.score), 3),
            detail={name: _rounded(value) for name, value in event.detail.items() if name != "infer_ms"},
        )
        for device, event in events
    ]


def load(path: Path) -> list[ExpectedEvent]:
    """Read expected events: one JSON object per line.

    Raises:
        ConfigError: the file cannot be read; the text states which line.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; --update writes it") from error
    if len(text) > MAX_BYTES:
        raise ConfigError(
            f"{path} is larger than {MAX_BYTES // 2**20} MB: it is not a file of expected events"
        )
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line, type=ExpectedEvent))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path}:{number}: not an expected event: {error}") from error
    return found


def save(path: Path, events: Sequence[ExpectedEvent]) -> None:
    """Write expected events, to be committed beside the recording.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in events))
    except OSError as error:
        raise unwritable(str(path), error) from error


def compare(
    expected: Sequence[ExpectedEvent],
    found: Sequence[ExpectedEvent],
    *,
    within_ms: int = 0,
    tolerance: float = 0.02,
) -> Difference:
    """Pair events of the same device, slot and type by time, nearest first, at most `within_ms` apart.

    Numbers agree within `tolerance`, relative to the larger one or absolute, whichever allows more.
    """
    difference = Difference()
    keys = dict.fromkeys(each.key for each in [*expected, *found])
    for key in keys:
        expected_here = [each for each in expected if each.key == key]
        found_here = [each for each in found if each.key == key]
        _pair(expected_here, found_here, within_ms, tolerance, difference)
    return difference


def _pair(
    wanted: list[ExpectedEvent],
    there: list[ExpectedEvent],
    within_ms: int,
    tolerance: float,
    into: Difference,
) -> None:
    wanted, there = sorted(wanted, key=_ts), sorted(there, key=_ts)
    at = 0
    for expected in wanted:
        while at < len(there) and there[at].ts < expected.ts - within_ms:
            into.unexpected.append(there[at])
            at += 1
        if at == len(there) or there[at].ts > expected.ts + within_ms:
            into.missing.append(expected)
            continue
        if how := _changes(expected, there[at], tolerance):
            into.changed.append((expected, there[at], how))
        at += 1
    into.unexpected += there[at:]


def _changes(expected: ExpectedEvent, found: ExpectedEvent, tolerance: float) -> str:
    changes = []
    before = {"top": expected.top, "score": expected.score, **expected.detail}
    after = {"top": found.top, "score": found.score, **found.detail}
    for name in dict.fromkeys([*before, *after]):
        was, now = before.get(name), after.get(name)
        if not _same(was, now, tolerance):
            changes.append(f"{name} {_value(was)} -> {_value(now)}")
    return ", ".join(changes)


def _same(was: Scalar, now: Scalar, tolerance: float) -> bool:
    numbers = [isinstance(each, int | float) and not isinstance(each, bool) for each in (was, now)]
    if all(numbers):
        a, b = float(was), float(now)  # type: ignore[arg-type]  # both are numbers
        return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))
    return was == now


def _ts(each: ExpectedEvent) -> int:
    return each.ts


def _source(each: ExpectedEvent) -> str:
    return f"{each.device}/{each.slot}" if each.slot else each.device


def _rounded(value: Scalar) -> Scalar:
    return round(value, 4) if isinstance(value, float) else value


def _value(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(value)
