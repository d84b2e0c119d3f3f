"""Options of the replay adapter, and the layout of the recording that follows from them."""

from __future__ import annotations

import codecs
import math
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from adapters.base import Options, OptionsError
from adapters.device_time import time_zone
from adapters.fields import FieldOptions, declared
from wire.clock import NS_PER_S
from wire.messages import Field


class Column(FieldOptions, frozen=True, kw_only=True):
    """One column of the recording; it becomes one field."""

    column: Annotated[str, Meta(description="Name in the CSV header, or key of the JSON object.")]


class ReplayOptions(Options, frozen=True, kw_only=True):
    """Options of the replay adapter: the recording, its columns, and how to play it."""

    file: Annotated[Path, Meta(description="Recording: .csv, .jsonl, .csv.gz or .jsonl.gz.")]
    fields: Annotated[
        dict[str, str | Column],
        Meta(min_length=1, max_length=1_000, description="Field name to column, or to column with unit."),
    ]
    stream: Annotated[str, Meta(description="Name of the stream.")] = "signals"
    format: Annotated[Literal["auto", "csv", "jsonl"], Meta(description="auto = by the file's name.")] = (
        "auto"
    )
    time: Annotated[
        str | list[str],
        Meta(description="Column of the time, or several to join by a space; empty = none."),
    ] = ""
    time_format: Annotated[
        str, Meta(description="strptime format; empty = ISO 8601, or a number in time_unit.")
    ] = ""
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns"], Meta(description="Unit of times that are numbers since 1970.")
    ] = "s"
    timezone: Annotated[str, Meta(description="Time zone of times that name no zone, e.g. Asia/Seoul.")] = (
        "UTC"
    )
    rate_hz: (
        Annotated[float, Meta(gt=0, le=1e6, description="Rows per second; required without a time column.")]
        | UnsetType
    ) = UNSET
    rate: Annotated[
        float | Literal["asap"],
        Meta(description="Speed: a multiple of real time; asap = as fast as possible."),
    ] = 1.0
    times: Annotated[
        Literal["now", "recorded"],
        Meta(description="Time of the rows: now = of the replay, recorded = of the recording."),
    ] = "now"
    loop: Annotated[bool, Meta(description="Start again at the end; the times continue.")] = False
    missing: Annotated[
        list[str | float], Meta(max_length=100, description="Cells that mean no value, e.g. [-200, NA].")
    ] = msgspec.field(default_factory=list)
    delimiter: Annotated[
        str, Meta(min_length=1, max_length=1, description="The character between the cells of a CSV.")
    ] = ","
    encoding: Annotated[str, Meta(description="Encoding of the text, e.g. cp949.")] = "utf-8"


@dataclass(frozen=True, slots=True)
class ReplayLayout:
    """The options, checked and ready to use."""

    declared: dict[str, Field]
    columns: dict[str, str]
    time: tuple[str, ...]
    time_format: str
    unit_ns: int
    zone: tzinfo
    missing: frozenset[str]
    lines: bool  # JSON lines, not CSV
    delimiter: str
    name: str

    @classmethod
    def of(cls, options: ReplayOptions) -> ReplayLayout:
        """The layout that follows from the options.

        Raises:
            OptionsError: the options cannot work.
        """
        columns = {
            name: c if isinstance(c, Column) else Column(column=c) for name, c in options.fields.items()
        }
        time = (options.time,) if isinstance(options.time, str) else tuple(options.time)
        time = tuple(name for name in time if name)
        try:
            codecs.lookup(options.encoding)
        except (ValueError, LookupError) as error:
            raise OptionsError(str(error)) from error
        zone = time_zone(options.timezone)
        if not time and options.rate_hz is UNSET:
            raise OptionsError("without a `time` column the rows need `rate_hz`")
        if options.rate == "asap" and options.times == "now":
            raise OptionsError("at rate asap, rows would have times in the future: set `times: recorded`")
        if options.rate != "asap" and not 0 < float(options.rate) < math.inf:
            raise OptionsError(f"rate {options.rate} is not above 0")
        return cls(
            declared(columns),
            {name: c.column for name, c in columns.items()},
            time,
            options.time_format,
            {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}[options.time_unit],
            zone,
            frozenset(spelled(word) for word in options.missing),
            _is_lines(options),
            options.delimiter,
            options.file.name,
        )


def _is_lines(options: ReplayOptions) -> bool:
    if options.format != "auto":
        return options.format == "jsonl"
    suffix = Path(options.file.name.removesuffix(".gz")).suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", ".jsonl", ".ndjson"):
        raise OptionsError(f"is {options.file.name!r} csv or jsonl? Set `format`")
    return suffix in (".jsonl", ".ndjson")


def spelled(cell: object) -> str:
    """A cell in a uniform spelling, so that -200, -200.0 and "-200" are the same missing value."""
    text = str(cell).strip()
    try:
        return repr(float(text))
    except ValueError:
        return text
