"""Parses NMEA 0183 sentences and joins them to epochs: one epoch, and so one row, for each time reported.

The layouts are those of NMEA 0183 as receiver makers publish them (u-blox 8 / M8 protocol description, 31).
GGA and RMC carry a time. VTG and GSA carry none and belong to the timed sentence before them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache, reduce
from operator import xor

from msgspec import Struct
from msgspec.structs import replace

from wire.clock import NS_PER_S

KNOT_KMH = 1.852
DAY_NS = 86_400 * NS_PER_S

_TIME = re.compile(r"(\d\d)(\d\d)(\d\d)(?:\.(\d{0,9}))?")
_DATE = re.compile(r"(\d\d)(\d\d)(\d\d)")
_DAY_0 = date(1970, 1, 1).toordinal()
_HEAD = re.compile(r"[A-Z]{2}[A-Z0-9]{3}")
_LEAST_FIELDS = {"GGA": 14, "RMC": 9, "VTG": 8, "GSA": 17}  # of a sentence that was not cut
_RELIABLE = frozenset({1, 2, 3, 4, 5})  # GGA: GPS, differential, PPS, RTK fixed, RTK float
# the mode letter of RMC -> the number of the same mode in GGA
_MODES = {"N": 0, "A": 1, "D": 2, "P": 3, "R": 4, "F": 5, "E": 6, "M": 7, "S": 8}


class BadSentence(ValueError):
    """A line is not a valid sentence; the text of the error is the name of a counter, `why` is for people."""

    def __init__(self, counter: str, why: str = "") -> None:
        super().__init__(counter)
        self.why = why


class Sentence(Struct, frozen=True):
    """The contents of one sentence. `time_ns` counts from midnight UTC, `day` from 1970-01-01.

    `kind` is empty for a valid sentence of a kind that is not read. An epoch may
    have several sentences of one kind, one of each `source`. `steps` has the resolution of each value: the
    difference that its last printed digit can show. A smaller step is better.
    """

    kind: str = ""
    timed: bool = False
    time_ns: int | None = None
    day: int | None = None
    fix: int | None = None
    reliable: bool = True
    values: dict[str, float | int | None] = {}
    steps: dict[str, float] = {}
    source: str = ""


def parse(line: bytes, *, unchecked: bool = False) -> Sentence:
    """Parse one line without its end; `unchecked` accepts a whole sentence without a checksum.

    Raises:
        BadSentence: "not_nmea", "bad_checksum", "no_checksum" or "malformed".
    """
    start = line.rfind(b"$")  # bytes before it are a sentence that was cut
    if start < 0:
        raise BadSentence("not_nmea")
    try:
        text = line[start:].decode("ascii").rstrip()
    except UnicodeDecodeError:
        raise BadSentence("bad_checksum") from None
    body, star, sent = text[1:].rpartition("*")
    if not star:
        body = sent
        if not _is_whole(body):
            raise BadSentence("bad_checksum")
        if not unchecked:
            raise BadSentence("no_checksum")
    elif sent.upper() != f"{checksum(body):02X}":
        raise BadSentence("bad_checksum")
    head, *fields = body.split(",")
    reader = _READERS.get(head[2:]) if len(head) == 5 and not head.startswith("P") else None
    if reader is None:
        return Sentence()
    try:
        sentence = reader(fields)
    except IndexError:
        raise BadSentence("malformed", f"only {len(fields)} fields") from None
    except ValueError as error:
        raise BadSentence("malformed", str(error)) from None
    # each satellite system has its own GSA: by its talker, or by the number that NMEA 4.1 puts last
    return (
        replace(sentence, source=f"GSA {head[:2]}{fields[17] if len(fields) > 17 else ''}")
        if sentence.kind == "GSA"
        else sentence
    )


def _is_whole(body: str) -> bool:
    """Whether a sentence without a checksum was not cut."""
    head, *fields = body.split(",")
    return bool(_HEAD.fullmatch(head)) and len(fields) >= _LEAST_FIELDS.get(head[2:], 1)


def checksum(body: str) -> int:
    """The XOR of all characters between $ and *."""
    return reduce(xor, body.encode("ascii"), 0)


@dataclass(slots=True)
class Epoch:
    """The joined sentences of one time."""

    time_ns: int | None
    began_s: float
    day: int | None = None
    fix: int | None = None
    reliable: bool = True
    values: dict[str, float | int | None] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)

    def take(self, sentence: Sentence) -> None:
        """Add a sentence; of two values of one field, the one with the smaller step counts."""
        self.kinds.add(sentence.source or sentence.kind)
        self.day = self.day if sentence.day is None else sentence.day
        if sentence.fix is not None and (self.fix is None or sentence.kind == "GGA"):
            self.fix = sentence.fix
        self.reliable = self.reliable and sentence.reliable
        for name, value in sentence.values.items():
            step = sentence.steps.get(name, 0.0)
            if value is not None and (name not in self.values or step < self.steps[name]):
                self.values[name], self.steps[name] = value, step


class Epochs:
    """Joins sentences; an epoch is complete with all kinds that the receiver sends, or at `due_s`."""

    def __init__(self, counters: Counter[str], wait_s: float) -> None:
        self._counters = counters
        self._wait_s = wait_s
        self._open: Epoch | None = None
        self._last: Epoch | None = None
        self._kinds: set[str] = set()  # seen since the start
        self._done = 0
        self._ready: list[Epoch] = []

    def add(self, sentence: Sentence, now_s: float) -> bool:
        """Add a sentence that came at `now_s`, of any monotonic clock; False if its row was sent already."""
        self._kinds.add(sentence.source or sentence.kind)
        if sentence.timed:
            self._begin(sentence, now_s)
        if self._open is None:
            if self._is_late(sentence):
                self._counters["late_sentence"] += 1
                return False
            return True
        self._open.take(sentence)
        # reading may have started in the middle of the first epoch; the second one shows all kinds
        if self._done >= 2 and self._open.kinds >= self._kinds:
            self._finish()
        return True

    def expire(self, now_s: float) -> None:
        """End an epoch that has waited long enough at `now_s`."""
        due_s = self.due_s()
        if due_s is not None and now_s >= due_s:
            self._finish()

    def due_s(self) -> float | None:
        """The time at which to call `expire`; None if no epoch waits."""
        return None if self._open is None else self._open.began_s + self._wait_s

    def take(self) -> list[Epoch]:
        """Remove and return the complete epochs, in order."""
        done, self._ready = self._ready, []
        return done

    def _begin(self, sentence: Sentence, now_s: float) -> None:
        last = self._last
        if self._open is not None:
            if sentence.time_ns == self._open.time_ns and sentence.kind not in self._open.kinds:
                return
            self._finish()
        elif last is not None and sentence.time_ns == last.time_ns and sentence.kind not in last.kinds:
            return  # it belongs to an epoch that was already taken
        self._open = Epoch(sentence.time_ns, now_s)

    def _is_late(self, sentence: Sentence) -> bool:
        # without a last epoch, reading started in the middle of one; a system may have several GSA
        return self._last is not None and (sentence.source or sentence.kind) not in self._last.kinds

    def _finish(self) -> None:
        if self._open is not None:
            self._ready.append(self._open)
            self._last, self._open = self._open, None
            self._done += 1


def unix_ns(time_ns: int, day: int | None, near_ns: int) -> int:
    """Unix nanoseconds of a time of day: on `day`, else on the day that puts it nearest to `near_ns`."""
    if day is not None:
        return day * DAY_NS + time_ns
    today = near_ns // DAY_NS * DAY_NS + time_ns
    return min((today - DAY_NS, today, today + DAY_NS), key=lambda at_ns: abs(at_ns - near_ns))


# --- sentences


def _gga(fields: list[str]) -> Sentence:
    fix = _integer(fields[5]) or 0
    values = {
        "latitude": _angle(fields[1], fields[2], "NS"),
        "longitude": _angle(fields[3], fields[4], "EW"),
        "satellites": _integer(fields[6]),
        "hdop": _number(fields[7]) or None,  # 0 is not possible
        "altitude": _number(fields[8]),
    }
    if fields[8] and fields[9] != "M":
        raise ValueError("altitude in another unit")
    steps = _position_step(fields[1], fields[3])
    return Sentence("GGA", True, _time(fields[0]), None, fix, fix in _RELIABLE, values, steps)


def _rmc(fields: list[str]) -> Sentence:
    if fields[1] not in ("A", "V", ""):
        raise ValueError("status")
    valid = fields[1] == "A"
    mode = _MODES[fields[11]] if len(fields) > 11 and fields[11] in _MODES else int(valid)
    knots = _number(fields[6])
    values = {
        "latitude": _angle(fields[2], fields[3], "NS"),
        "longitude": _angle(fields[4], fields[5], "EW"),
        "speed": None if knots is None else knots * KNOT_KMH,
        "heading": _number(fields[7]),
    }
    steps = _position_step(fields[2], fields[4]) | {
        "speed": _step(fields[6]) * KNOT_KMH,
        "heading": _step(fields[7]),
    }
    reliable = valid and mode in _RELIABLE
    return Sentence("RMC", True, _time(fields[0]), _day(fields[8]), mode, reliable, dict(values), steps)


def _vtg(fields: list[str]) -> Sentence:
    if fields[1] not in ("T", "") or fields[7] not in ("K", ""):  # empty if the receiver has no fix
        raise ValueError("not the layout of NMEA 0183 2.0 and later")
    steps = {"heading": _step(fields[0]), "speed": _step(fields[6])}
    return Sentence("VTG", values={"heading": _number(fields[0]), "speed": _number(fields[6])}, steps=steps)


def _gsa(fields: list[str]) -> Sentence:
    # a system that is not used reports 0; of several the smallest is nearest to that of the whole solution
    hdop = _number(fields[15]) or None
    return Sentence("GSA", values={"hdop": hdop}, steps={"hdop": hdop or 0.0})


_READERS: dict[str, Callable[[list[str]], Sentence]] = {"GGA": _gga, "RMC": _rmc, "VTG": _vtg, "GSA": _gsa}


def _step(text: str) -> float:
    """The step between two numbers that are printed with as many decimals."""
    return 10.0 ** -len(text.partition(".")[2])


def _position_step(latitude: str, longitude: str) -> dict[str, float]:
    """The steps of a position, the same for both: they come from one sentence."""
    return dict.fromkeys(("latitude", "longitude"), max(_step(latitude), _step(longitude)))


def _number(text: str) -> float | None:
    if not text:
        return None
    if text.strip("0123456789+-."):  # Python would also accept 1e5, 1_0 and nan
        raise ValueError(f"{text!r} does not fit")
    return float(text)


def _integer(text: str) -> int | None:
    if text and not text.isdecimal():
        raise ValueError(f"{text!r} does not fit")
    return int(text) if text else None


def _angle(text: str, side: str, sides: str) -> float | None:
    """Degrees from ddmm.mmmm and a letter; a value beyond the poles passes: the agent flags it."""
    value = _number(text)
    if value is None and not side:
        return None
    if value is None or value < 0 or side not in sides or len(side) != 1:
        raise ValueError(f"{text!r} does not fit")
    degrees, minutes = divmod(value, 100)
    if minutes >= 60:
        raise ValueError(f"{text!r} does not fit")
    angle = degrees + minutes / 60
    return -angle if side == sides[1] else angle


def _time(text: str) -> int | None:
    if not text:
        return None
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} does not fit")
    hour, minute, second = (int(part) for part in found.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:  # 60 is a leap second
        raise ValueError(f"{text!r} does not fit")
    return (hour * 3600 + minute * 60 + second) * NS_PER_S + int((found[4] or "").ljust(9, "0"))


@lru_cache(16)
def _day(text: str) -> int | None:
    if not text:
        return None
    found = _DATE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} does not fit")
    day, month, year = (int(part) for part in found.groups())
    century = 1900 if year >= 80 else 2000  # GPS began in 1980
    return date(century + year, month, day).toordinal() - _DAY_0
