"""The DBC file of a bus: its messages and signals, the line of each, and the fields made of them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cantools
from cantools.database.can import Database, Message, Signal
from cantools.database.errors import Error as CantoolsError
from cantools.database.errors import UnsupportedDatabaseFormatError
from msgspec import UNSET

from adapters.base import OptionsError, Value
from adapters.can.options import MAX_FIELDS, Picking
from adapters.can.units import conversion, known, ucum
from wire.messages import Field, Quality
from wire.topics import FIELD

_MAX_DBC = 16 * 1024 * 1024  # bytes; the largest public files have 2 MiB
_LARGEST_INT = 2**63 - 1

log = logging.getLogger("edgebed.adapters.can")
logging.getLogger("cantools").setLevel(logging.CRITICAL)  # the errors of this module report repeated ids


class Dbc:
    """A parsed DBC file with the line number of each definition."""

    def __init__(self, path: Path, encoding: str = "") -> None:
        self.path = path
        self._text = _read(path, encoding)
        self._lines: dict[str, list[int]] = {}
        for number, line in enumerate(self._text.split("\n"), 1):
            if found := _DEFINES.match(line):
                key = f"BO_ {found[1]}" if found[1] else f"SG_ {found[2]}"
                self._lines.setdefault(key, []).append(number)
        try:
            # not strict: a fault in an unused message costs nothing; `message` checks the others
            database = cantools.database.load_string(self._text, "dbc", strict=False)
        except UnsupportedDatabaseFormatError as error:
            raise OptionsError(self._why(error.e_dbc or error)) from error
        except RecursionError as error:
            raise OptionsError(f"{path} is not a DBC file: it is nested too deeply") from error
        if not isinstance(database, Database):
            raise OptionsError(f"{path} is not a DBC file of CAN messages")
        self._messages: dict[str, list[Message]] = {}
        for message in database.messages:
            self._messages.setdefault(message.name, []).append(message)

    def __iter__(self) -> Iterator[Message]:
        return (message for same_name in self._messages.values() for message in same_name)

    def message(self, name: str) -> Message:
        """The one message of this name.

        Raises:
            OptionsError: the file has no such message, or two, or another message with its id, or its signals
                overlap or do not fit.
        """
        found = self._messages.get(name, [])
        if not found:
            raise OptionsError(
                f"{self.path} has no message {name!r}; it has {_some(self._messages) or 'none at all'}"
            )
        key = (found[0].frame_id, found[0].is_extended_frame)
        same = [one for one in self if (one.frame_id, one.is_extended_frame) == key or one.name == name]
        if len(same) > 1:
            places = ", ".join(f"{one.name} (0x{one.frame_id:X})" for one in same)
            raise OptionsError(f"{self.place(name)}: the name and id of a message must be unique: {places}")
        if found[0].is_container:
            raise OptionsError(f"{self.place(name)}: message {name} is a container, which is not supported")
        try:
            found[0].refresh(strict=True)
        except CantoolsError as error:
            raise OptionsError(self._why(error)) from error
        return found[0]

    def signal(self, address: str) -> tuple[Message, Signal]:
        """The message and signal that `Message.Signal` names.

        Raises:
            OptionsError: the address has another form, or is not in the file.
        """
        name, dot, wanted = address.partition(".")
        if not dot:
            raise OptionsError(f"signal {address!r} is not Message.Signal, e.g. Motion.Speed")
        message = self.message(name)
        for signal in message.signals:
            if signal.name == wanted:
                return message, signal
        names = _some(signal.name for signal in message.signals)
        raise OptionsError(f"{self.place(name)}: message {name} has no signal {wanted!r}; it has {names}")

    def place(self, message: str, signal: str = "") -> str:
        """`file:line` of a message or of one of its signals; only the file where the line is unknown."""
        starts = self._lines.get(f"BO_ {message}", [])
        if not signal:
            return f"{self.path}:{starts[0]}" if starts else str(self.path)
        for start in starts:
            following = [line for line in self._lines.get(f"SG_ {signal}", []) if line > start]
            if following:
                return f"{self.path}:{following[0]}"
        return str(self.path)

    def _why(self, error: Exception) -> str:
        text = " ".join(str(error).split())
        if found := _SYNTAX.search(text):
            line, column, rest = found.groups()
            return f"{self.path}:{line}:{column}: this is not DBC syntax: {rest[:200]}"
        if found := _IN_MESSAGE.search(text):
            return f"{self.place(found[1])}: {text[:300]}"
        if found := _UNUSED.search(text):
            where = re.search(rf"^\s*VAL_\s+{found[1]}\s+{found[2]}\b", self._text, re.MULTILINE)
            line = self._text.count("\n", 0, where.end()) + 1 if where else 1
            return f"{self.path}:{line}: the value table {found[0]} belongs to no signal of the file"
        return f"{self.path}: {text[:300] or type(error).__name__}"


_DEFINES = re.compile(r"\s*(?:BO_ \d+ ([A-Za-z_]\w*)\s*:|SG_ ([A-Za-z_]\w*)\b)")
_SYNTAX = re.compile(r"Invalid syntax at line (\d+), column (\d+): (.*)", re.DOTALL)
_UNUSED = re.compile(r"VAL_ (\d+) (\w+)")
_IN_MESSAGE = re.compile(r"in message (\w+)\.")


@dataclass(frozen=True, slots=True)
class Picked:
    """One field of the stream: its signal, and how the signal's number becomes the field's value."""

    message: str
    signal: Signal
    field: Field
    factor: float
    offset: float
    names: Mapping[int, str]  # names that the DBC gives to raw values
    absent: Mapping[int, Quality]  # raw values that mean: no measurement

    def value(self, raw: float) -> tuple[Value, Quality]:
        """The value of the field for the bits of a frame, and its quality."""
        if isinstance(raw, int) and (found := self.absent.get(raw)):
            return None, found
        scaled = raw * self.signal.scale + self.signal.offset
        if self.field.t == "str":
            return self.names.get(int(raw), f"{scaled:g}"), Quality.GOOD
        if self.field.t == "bool":
            return (bool(raw), Quality.GOOD) if raw in (0, 1) else (None, Quality.WRONG_TYPE)
        if self.field.t == "i64":
            return int(scaled), Quality.GOOD
        value = scaled * self.factor + self.offset if self._converts else float(scaled)
        return (value, Quality.GOOD) if math.isfinite(value) else (None, Quality.NOT_FINITE)

    def why_null(self, raw: float) -> str:
        """Why `value` gives none, for people."""
        named = f"{raw:g}" + (f" = {self.names[int(raw)]!r}" if raw in self.names else "")
        if raw in self.absent:
            return f"it is {named}"
        return (
            f"{named} is not true or false" if self.field.t == "bool" else f"{named} is not a finite number"
        )

    @property
    def _converts(self) -> bool:
        return self.factor != 1.0 or self.offset != 0.0


# a DBC file expresses "not available" by names in a value table; these are the names of SAE J1939 and AUTOSAR
_NOT_AVAILABLE = re.compile(
    r"(sna|na|n/a|not[ _-]?available|signal[ _-]?not[ _-]?available|unavailable)", re.IGNORECASE
)
# "Fault" can be an important measurement, so a value of such a name is null only if `absent` lists it
_FAULTY = re.compile(r"(error|err|invalid|fault|error[ _-]?indicator|init[ _-]?error)", re.IGNORECASE)


_NUMBERS = ("f32", "f64", "i64")


def pick(dbc: Dbc, name: str, picking: Picking) -> Picked:
    """The field `name` of the stream.

    Raises:
        OptionsError: no such signal, an invalid field name, or a type or unit that the signal cannot have.
    """
    message, signal = dbc.signal(picking.signal)
    place = f"{dbc.place(message.name, signal.name)}: {picking.signal}"
    if not FIELD.fullmatch(name):
        raise OptionsError(f"{place} needs another field name than {name!r}: lower case, digits, _")
    source = ucum(signal.unit or "")
    target = picking.unit or source
    found = conversion(source, target)
    if found is None and known(source):
        raise OptionsError(f"{place} is in {signal.unit!r}, which cannot become {target!r}")
    factor, offset = found or (1.0, 0.0)
    kind = picking.t or ("i64" if _is_whole(signal) and (factor, offset) == (1.0, 0.0) else "f64")
    if kind in ("i64", "bool", "str") and not _is_whole(signal):
        raise OptionsError(f"{place} is not a whole number and cannot be {kind}")
    names = {int(raw): str(text) for raw, text in (signal.choices or {}).items()}
    field = Field(
        t=kind,
        unit=target if kind in _NUMBERS else "",
        dec=_decimals(signal, factor) if picking.dec is UNSET and kind in ("f32", "f64") else picking.dec,
        min=picking.min,
        max=picking.max,
        desc=picking.desc or (signal.comment or "")[:2_000],
    )
    faulty = [text for text in names.values() if _FAULTY.fullmatch(text.strip())]
    if faulty and picking.absent is UNSET and kind in ("f32", "f64"):
        _log_faulty(place, ", ".join(faulty))
    low, high = signal.minimum, signal.maximum
    if kind in _NUMBERS and low is not None and high is not None and low < high:
        field.min = float(low * factor + offset) if picking.min is UNSET else picking.min
        field.max = float(high * factor + offset) if picking.max is UNSET else picking.max
    return Picked(message.name, signal, field, factor, offset, names, _absent(names, picking, place))


def all_signals(dbc: Dbc) -> dict[str, str]:
    """A field name for each signal of the file: the signal's name, after the message's where two share it.

    Raises:
        OptionsError: the file has more signals than a stream can hold.
    """
    every = [(message.name, signal.name) for message in dbc for signal in message.signals]
    if len(every) > MAX_FIELDS:
        raise OptionsError(
            f"{dbc.path} has {len(every)} signals: name up to {MAX_FIELDS} of them in `signals`"
        )
    short = [_snake(signal) for _, signal in every]
    fields: dict[str, str] = {}
    for (message, signal), name in zip(every, short, strict=True):
        unique = name if short.count(name) == 1 else f"{_snake(message)}_{name}"[:48]
        fields[unique] = f"{message}.{signal}"
    return fields


def _is_whole(signal: Signal) -> bool:
    if signal.is_float:
        return False
    furthest = 2**signal.length * abs(signal.scale) + abs(signal.offset)
    return isinstance(signal.scale, int) and isinstance(signal.offset, int) and furthest <= _LARGEST_INT


def _decimals(signal: Signal, factor: float) -> int:
    """How many decimals distinguish two neighbouring raw values."""
    if signal.is_float:
        return 6
    step = abs(signal.scale * factor)
    if not step or not math.isfinite(step):
        return 12
    return next(
        (digits for digits in range(12) if math.isclose(round(step * 10**digits), step * 10**digits)),
        min(12, max(0, 2 - math.floor(math.log10(step)))),
    )


def _absent(names: Mapping[int, str], picking: Picking, place: str) -> dict[int, Quality]:
    """The raw values that mean: no measurement; those of `absent`, else those that the DBC names so."""
    if picking.absent is UNSET:
        return {
            raw: Quality.UNCERTAIN for raw, text in names.items() if _NOT_AVAILABLE.fullmatch(text.strip())
        }
    found: dict[int, Quality] = {}
    for each in picking.absent:
        raws = [each] if isinstance(each, int) else [raw for raw, text in names.items() if text == each]
        if not raws:
            raise OptionsError(
                f"{place}: absent: no value is named {each!r}; names are {_some(names.values()) or 'none'}"
            )
        for raw in raws:
            faulty = _FAULTY.fullmatch(names.get(raw, "").strip())
            found[raw] = Quality.BAD if faulty else Quality.UNCERTAIN
    return found


def _snake(name: str) -> str:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"_+", "_", parted).strip("_").lower()[:48]


def _read(path: Path, encoding: str) -> str:
    try:
        if path.stat().st_size > _MAX_DBC:
            raise OptionsError(f"{path} is larger than {_MAX_DBC >> 20} MiB: it is not a DBC file")
        data = path.read_bytes()
    except OSError as error:
        raise OptionsError(f"cannot read dbc {path}: {error.strerror or error}") from error
    return _decoded(data, path, encoding).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, path: Path, encoding: str) -> str:
    try:
        return data.decode(encoding or "utf-8-sig")
    except LookupError as error:
        raise OptionsError(f"encoding {encoding!r} is unknown: try cp949 or cp1252") from error
    except UnicodeError as error:
        if encoding:
            raise OptionsError(f"{_line_of(error, data, path)} is not {encoding}, see `encoding`") from error
    try:
        text = data.decode("cp1252")  # most tools write it
    except UnicodeDecodeError as error:
        where = _line_of(error, data, path)
        raise OptionsError(f"{where} is neither UTF-8 nor cp1252: set `encoding`") from error
    _log_guess(path)
    return text


@cache  # once a file: a lost bus is opened again and again
def _log_guess(path: Path) -> None:
    log.warning("%s is not UTF-8 and is read as cp1252: set `encoding` if names look wrong", path)


@cache
def _log_faulty(place: str, names: str) -> None:
    log.warning("%s: %s counts as a measurement; `absent: [%s]` makes it null", place, names, names)


def _line_of(error: UnicodeError, data: bytes, path: Path) -> str:
    start = getattr(error, "start", 0)
    return f"{path}:{data.count(bytes([10]), 0, start) + 1}: byte 0x{data[start : start + 1].hex()}"


def _some(names: Iterable[str]) -> str:
    every = sorted(names)
    return ", ".join(every[:20]) + (f" and {len(every) - 20} more" if len(every) > 20 else "")
