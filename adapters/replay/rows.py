"""Reads the rows of a recording, CSV or JSON lines: their times, values and qualities."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO

from adapters.base import DeviceUnreachable, ProtocolViolation, Value
from adapters.replay.options import ReplayLayout, ReplayOptions, spelled
from wire.clock import NS_PER_S
from wire.messages import Quality

Row = tuple[int, dict[str, Value], Quality]  # Unix ns, values, quality
NO_TIME = -(2**63)  # the time of rows of a recording without a time column
_MAX_LINE = 1_048_576  # characters
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLOATS = ("f32", "f64")
_UNREADABLE = "\ufffd"  # replaces bytes that are not of the encoding


def open_text(options: ReplayOptions) -> TextIO:
    """Open the recording as text.

    Raises:
        DeviceUnreachable: it cannot be opened.
    """
    # utf-8-sig also reads files without a byte order mark
    encoding = "utf-8-sig" if codecs.lookup(options.encoding).name == "utf-8" else options.encoding
    try:
        if options.file.name.endswith(".gz"):
            packed: TextIO = gzip.open(options.file, "rt", encoding=encoding, errors="replace", newline="")  # noqa: SIM115 - the adapter closes it
            return packed
        return options.file.open(encoding=encoding, errors="replace", newline="")
    except OSError as error:
        raise DeviceUnreachable(f"cannot open {options.file}: {error.strerror}").at(
            str(options.file), error
        ) from error


class RecordedRows:
    """One pass over an open file."""

    def __init__(self, layout: ReplayLayout, file: TextIO, counters: Counter[str]) -> None:
        self._layout = layout
        self._file = file
        self._counters = counters
        self._whole = True  # the last line that was read has a line end

    def check(self) -> None:
        """Check the columns of a CSV.

        Raises:
            ProtocolViolation: a column is missing.
        """
        if not self._layout.lines:
            self._positions(next(csv.reader(self._lines(), delimiter=self._layout.delimiter), []))

    def __iter__(self) -> Iterator[Row]:
        return self._json_rows() if self._layout.lines else self._csv_rows()

    def _csv_rows(self) -> Iterator[Row]:
        lines = self._lines()
        header = next(csv.reader(lines, delimiter=self._layout.delimiter), [])
        reader = csv.reader(lines, delimiter=self._layout.delimiter, strict=True)
        fields, times = self._positions(header)
        plain = not self._layout.missing and all(each.t in _FLOATS for each in self._layout.declared.values())
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:  # an open quote at the end, or a byte that a CSV must not contain
                self._counters["bad_lines" if self._whole else "torn_lines"] += 1
                continue
            if not cells:
                continue
            if len(cells) < len(header) and not self._whole:
                self._counters["torn_lines"] += 1
                continue
            if len(cells) > len(header) and any(cells[len(header) :]):  # a comma in a cell
                self._counters["bad_lines"] += 1
                continue
            if (at_ns := self._time([cells[at] if at < len(cells) else "" for at in times])) is None:
                continue
            if plain and (numbers := self._numbers(cells, fields)) is not None:
                yield at_ns, numbers, Quality.GOOD
                continue
            named: dict[str, object] = {
                name: cells[at] if at < len(cells) else "" for name, at in fields.items()
            }
            yield self._row(at_ns, named)

    def _json_rows(self) -> Iterator[Row]:
        layout = self._layout
        for line in self._lines():
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                self._counters["bad_lines" if self._whole else "torn_lines"] += 1
                continue
            if not isinstance(found, dict):
                self._counters["bad_lines"] += 1
                continue
            self._whole = True  # a closed object is complete, even without a line end
            if (at_ns := self._time([found.get(name, "") for name in layout.time])) is None:
                continue
            yield self._row(at_ns, {name: found.get(column) for name, column in layout.columns.items()})

    def _lines(self) -> Iterator[str]:
        try:
            while line := self._file.readline(_MAX_LINE):
                self._whole = line.endswith("\n")
                if len(line) >= _MAX_LINE and not self._whole:
                    raise ProtocolViolation(
                        f"{self._layout.name} contains a line of more than {_MAX_LINE} characters"
                    )
                yield line
        except EOFError:  # a .gz whose end is missing
            self._counters["torn_lines"] += 1
        except (OSError, zlib.error) as error:
            raise DeviceUnreachable(f"cannot read {self._layout.name}: {error}") from error

    def _positions(self, header: Sequence[str]) -> tuple[dict[str, int], list[int]]:
        names = [name.strip() for name in header]
        for wanted in (*self._layout.columns.values(), *self._layout.time):
            if names.count(wanted) != 1:
                what = f"{names.count(wanted)} columns" if wanted in names else "no column"
                shown = ", ".join(name for name in names[:12] if name)
                hint = ": is `encoding` right?" if _UNREADABLE in shown else ""
                raise ProtocolViolation(
                    f"{self._layout.name} has {what} {wanted!r}; there are {shown or 'none'}{hint}"
                )
        fields = {name: names.index(column) for name, column in self._layout.columns.items()}
        return fields, [names.index(column) for column in self._layout.time]

    def _time(self, cells: Sequence[object]) -> int | None:
        """The time of a line, Unix ns; None if it cannot be read: the line is then skipped."""
        if not cells:
            return NO_TIME
        try:
            return _unix_ns(cells, self._layout)
        except (ValueError, OverflowError):
            self._counters["bad_times" if self._whole else "torn_lines"] += 1
            return None

    def _row(self, at_ns: int, cells: dict[str, object]) -> Row:
        values: dict[str, Value] = {}
        worst = Quality.GOOD
        for name, cell in cells.items():
            values[name], quality = self._value(cell, self._layout.declared[name].t)
            worst = worst.worse(quality)
        if not self._whole and not worst:
            worst = Quality.UNCERTAIN  # the last cell of a line without an end may be incomplete
            self._counters["unfinished_lines"] += 1
        return at_ns, values, worst

    def _numbers(self, cells: list[str], fields: dict[str, int]) -> dict[str, Value] | None:
        """The values of a row that has only plain numbers; None for any other row."""
        try:
            numbers = [float(cells[at]) for at in fields.values()]
        except (ValueError, IndexError):
            return None
        # Python accepts 1_000 as a number, other programs do not
        plain = self._whole and math.isfinite(sum(numbers)) and "_" not in "".join(cells)
        return dict(zip(fields, numbers, strict=True)) if plain else None

    def _value(self, cell: object, kind: str) -> tuple[Value, Quality]:
        missing = self._layout.missing
        if cell is None or cell == "" or (missing and spelled(cell) in missing):
            self._counters["missing_cells"] += 1
            return None, Quality.GOOD
        try:
            value = _read(cell, kind)
        except (ValueError, OverflowError):
            self._counters["bad_cells"] += 1
            return None, Quality.WRONG_TYPE
        if isinstance(value, float) and not math.isfinite(value):
            self._counters["bad_cells"] += 1
            return None, Quality.NOT_FINITE
        return value, Quality.GOOD


def _read(cell: object, kind: str) -> Value:
    """A cell as a value of its declared type.

    Raises:
        ValueError: it is not of this type.
    """
    if kind == "str":
        text = cell if isinstance(cell, str) else json.dumps(cell)
        if _UNREADABLE in text:
            raise ValueError("it is not of the encoding in the options")
        text.encode()  # raises for half of a surrogate pair, which JSON can contain as an escape
        return text
    if kind == "bool":
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if (word := str(cell).strip().lower()) not in known:
            raise ValueError(f"{word!r} is neither true nor false")
        return known[word]
    if isinstance(cell, bool) or not isinstance(cell, (str, int, float)) or "_" in str(cell):
        raise ValueError(f"{cell!r} is not a number")
    if kind == "i64":
        if isinstance(cell, float):
            raise ValueError(f"{cell!r} is not an integer")
        return int(cell)
    return float(cell)


def _unix_ns(cells: Sequence[object], layout: ReplayLayout) -> int:
    if len(cells) == 1 and not layout.time_format:
        cell = cells[0]
        if isinstance(cell, int) and not isinstance(cell, bool):
            return cell * layout.unit_ns
        text = str(cell).strip()
        if text.lstrip("-").isdigit():
            return int(text) * layout.unit_ns
        try:
            return round(float(text) * layout.unit_ns)
        except ValueError:
            at = datetime.fromisoformat(text)
    elif layout.time_format:
        text = " ".join(str(cell).strip() for cell in cells)
        at = datetime.strptime(text, layout.time_format)  # noqa: DTZ007 - the zone follows below
    else:
        at = datetime.fromisoformat(" ".join(str(cell).strip() for cell in cells))
    since = (at if at.tzinfo else at.replace(tzinfo=layout.zone)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * NS_PER_S + since.microseconds * 1_000
