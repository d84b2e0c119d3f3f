"""Rows of one stream as they are stored: time, values and quality of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import numpy as np

from collector.store.chunk import Unpacked
from collector.store.declared import Gap
from wire.messages import Scalar

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[int, dict[str, Scalar], int]  # us, values, quality
Stamp = tuple[int | None, int | None, int | None]  # clock state, skew and its uncertainty in ms


@dataclass(slots=True)
class Table:
    """Rows in the order in which they were added, and one stamp each; a field that a row lacks is None."""

    fields: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)  # where stored rows cannot be read

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def add(self, chunk: Unpacked) -> None:
        """Append the rows of a chunk."""
        head, times, columns = chunk.head, chunk.times, chunk.columns
        self.stamps += [(None if head.clk < 0 else head.clk, head.skew, head.err)] * len(times)
        self.fields += [name for name in columns if name not in self.fields]
        lists = [_values(column) for column in columns.values()]
        for at_us, grade, *values in zip(times.tolist(), chunk.quality, *lists, strict=True):
            self.rows.append((at_us, dict(zip(columns, values, strict=True)), grade))

    def columns(self) -> dict[str, Any]:
        """Times in us, one list per field, the quality codes unless all are 0, and the clock states.

        `clock` has (rows, clock state, skew, uncertainty) for each run of rows with the same clock state.
        """
        grades = [grade for _, _, grade in self.rows]
        return {
            "us": [at_us for at_us, _, _ in self.rows],
            "f": {name: [values.get(name) for _, values, _ in self.rows] for name in self.fields},
            **({"q": grades} if any(grades) else {}),
            "clock": [(len(list(run)), *stamp) for stamp, run in groupby(self.stamps)],
            **({"gaps": self.gaps} if self.gaps else {}),
        }

    def csv(self) -> str:
        """A header, then a line per row; times are ISO 8601 in UTC, a missing value is an empty cell."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(["time", *self.fields, "quality"])
        for at_us, values, grade in self.rows:
            at = (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds")
            writer.writerow([at, *(_cell(values.get(name)) for name in self.fields), grade])
        return out.getvalue()

    def between(self, start_us: int, end_us: int) -> Table:
        """The rows with `start_us <= time < end_us`, in order of time."""
        kept = [at for at, row in enumerate(self.rows) if start_us <= row[0] < end_us]
        kept.sort(key=lambda at: self.rows[at][0])
        return Table(
            self.fields, [self.rows[at] for at in kept], [self.stamps[at] for at in kept], list(self.gaps)
        )


def _cell(value: Scalar) -> Scalar:
    """A cell; text from a device must not become a formula in a spreadsheet."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _values(column: Any) -> list[Scalar]:
    if not isinstance(column, np.ndarray):
        return list(column)
    values: list[Scalar] = column.tolist()
    # a column of numbers with gaps is stored as f64, with NaN for a missing value
    return [None if absent else each for each, absent in zip(values, np.isnan(column), strict=True)]
