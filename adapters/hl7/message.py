"""Splits an HL7 v2 message, as bytes, into segments and fields, and reads escapes and times.

All supported character sets keep ASCII bytes for ASCII characters. So separators are found without decoding,
and an undecodable name does not stop the rest. Facts are from HL7 v2.6 chapter 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from wire.clock import NS_PER_S

MAX_SEGMENTS = 50_000
_TRIGGERS = (b"R01", b"W01")  # v2.4 monitors send the same segments with waveforms as W01
MAX_FIELDS = 128  # the longest segment of the standard has under 80

# HL7 table 0211 and its usual misspellings -> Python; without sets whose second bytes can be | ^ ~ \ or &
_CHARSETS = {
    "": "utf-8",
    "ASCII": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-8",
    "UTF-8": "utf-8",
    "KS X 1001": "cp949",
    "ISO IR149": "cp949",
    "EUC-KR": "cp949",
    "CP949": "cp949",
    **{f"8859/{part}": f"iso8859-{part}" for part in (*range(1, 10), 15)},
}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An error in a message, for the ERR segment of the answer; `text` never contains text of the device."""

    segment: str
    number: int  # its number among the segments of this name, from 1
    field: int
    code: int  # HL7 table 0357
    text: str

    @property
    def where(self) -> str:
        """The place as people write it: `OBX-6`."""
        return f"{self.segment}-{self.field}" if self.field else self.segment


class MessageRejected(Exception):
    """A message that cannot be read at all."""

    def __init__(self, mismatch: Mismatch) -> None:
        super().__init__(mismatch.text)
        self.mismatch = mismatch


@dataclass(frozen=True, slots=True)
class Separators:
    """MSH-1 and MSH-2."""

    field: bytes = b"|"
    component: bytes = b"^"
    repetition: bytes = b"~"
    escape: bytes = b"\\"
    subcomponent: bytes = b"&"

    @property
    def all(self) -> bytes:
        """All five separators."""
        return self.field + self.component + self.repetition + self.escape + self.subcomponent


@dataclass(frozen=True, slots=True)
class Hl7Message:
    """One message; `header[n]` is MSH-n, `segments` are unchanged, MSH first.

    `charset` is empty if MSH-18 names a character set that is not supported.
    """

    separators: Separators
    header: list[bytes]
    segments: list[bytes]
    charset: str
    odd_line_ends: bool = False

    def msh(self, field: int, component: int = 1) -> bytes:
        """A component of MSH; empty if it is missing."""
        return part(self.header, field, component, self.separators)

    @property
    def control_id(self) -> bytes:
        """MSH-10, unchanged: the answer contains it, logs and errors must not."""
        return self.header[10] if len(self.header) > 10 else b""

    @property
    def sender(self) -> bytes:
        """MSH-3 and MSH-4, unchanged; empty if both are."""
        return b"\0".join(self.header[3:5]) if any(self.header[3:5]) else b""

    def text(self, raw: bytes) -> str:
        """The text, decoded and unescaped; undecodable bytes become surrogates, so that nothing is lost."""
        return unescape(raw, self.separators).decode(self.charset, "surrogateescape")

    def readable(self, raw: bytes) -> bool:
        """Whether these bytes can be decoded with the character set of MSH-18."""
        if raw.isascii():
            return True
        try:
            raw.decode(self.charset)
        except UnicodeDecodeError:
            return False
        return True


def parse(frame: bytes) -> Hl7Message:
    """Split a message into segments and read its MSH.

    Raises:
        MessageRejected: the message has no usable MSH, or too many segments.
    """
    odd = b"\n" in frame
    if odd:
        frame = frame.replace(b"\r\n", b"\r").replace(b"\n", b"\r")
    if frame.count(b"\r") > MAX_SEGMENTS:
        raise MessageRejected(Mismatch("MSH", 1, 0, 207, f"more than {MAX_SEGMENTS} segments"))
    segments = [segment for segment in frame.split(b"\r") if segment]
    if not segments or not segments[0].startswith(b"MSH"):
        raise MessageRejected(Mismatch("MSH", 1, 0, 100, "the message does not begin with MSH"))
    separators = _separators(segments[0])
    # MSH-1 is the separator itself: it is inserted, so that header[n] is MSH-n
    first, *others = segments[0].split(separators.field, MAX_FIELDS)
    header = [first, separators.field, *others]
    return Hl7Message(separators, header, segments, _charset(header, separators), odd)


def require_report(message: Hl7Message) -> None:
    """Check that the message is an observation report of HL7 v2 that can be answered, or an ACK.

    Raises:
        MessageRejected: it is another message.
    """
    if message.msh(9) == b"ACK":
        return
    if message.msh(9) != b"ORU":
        raise MessageRejected(Mismatch("MSH", 1, 9, 200, "not an ORU message"))
    if message.msh(9, 2) not in _TRIGGERS:
        raise MessageRejected(Mismatch("MSH", 1, 9, 201, "not an R01 event"))
    if not message.msh(12).startswith(b"2."):
        raise MessageRejected(Mismatch("MSH", 1, 12, 203, "not version 2 of HL7"))
    if not message.charset:
        raise MessageRejected(
            Mismatch("MSH", 1, 18, 103, "MSH-18 names a character set that is not supported")
        )
    if not message.control_id:
        raise MessageRejected(Mismatch("MSH", 1, 10, 101, "no message control id"))


def observed_at(message: Hl7Message) -> bytes:
    """The first OBR-7, else MSH-7."""
    for segment in message.segments:
        if segment.startswith(b"OBR"):
            fields = segment.split(message.separators.field, 8)
            if len(fields) > 7 and fields[7]:
                return fields[7]
            break
    return message.msh(7)


def fields_of(segment: bytes, separators: Separators, most: int = MAX_FIELDS) -> list[bytes]:
    """The fields of a segment other than MSH; [n] is field n, [0] the name."""
    return segment.split(separators.field, most)


def part(fields: list[bytes], field: int, component: int, separators: Separators) -> bytes:
    """A component of the first repetition of a field; empty if it is missing."""
    if field >= len(fields):
        return b""
    raw = fields[field]
    if separators.repetition in raw:
        raw = raw[: raw.index(separators.repetition)]
    parts = raw.split(separators.component, component)
    return parts[component - 1] if component <= len(parts) else b""


def _separators(msh: bytes) -> Separators:
    field = msh[3:4]
    encoding = msh[4:].split(field, 1)[0] if field else b""
    found = field + encoding[:4]
    usable = len(set(found)) == len(found) == 5 and not re.search(rb"[0-9A-Za-z\x00-\x1f\x80-\xff ]", found)
    if not usable:
        raise MessageRejected(Mismatch("MSH", 1, 2, 102, "MSH-1 and MSH-2 are not five different separators"))
    return Separators(*(found[at : at + 1] for at in range(5)))


def _charset(header: list[bytes], separators: Separators) -> str:
    """The character set of MSH-18. Of several, the last counts: the first is only the default set."""
    raw = header[18] if len(header) > 18 else b""
    names = [name.decode("latin-1").strip().upper() for name in raw.split(separators.repetition, 8)]
    if not all(name in _CHARSETS for name in names):
        return ""
    return _CHARSETS[next((name for name in reversed(names) if name), "")]


_ESCAPED = re.compile(rb"[0-9A-Za-z.+-]{1,64}")


def unescape(raw: bytes, separators: Separators) -> bytes:
    r"""Resolve \F\ \S\ \T\ \R\ \E\ and \Xhh..\; formatting such as \H\ or \.br\ is removed."""
    mark = separators.escape
    if mark not in raw:
        return raw
    named = {
        b"F": separators.field,
        b"S": separators.component,
        b"T": separators.subcomponent,
        b"R": separators.repetition,
        b"E": mark,
    }
    pieces = raw.split(mark)
    out, at = [pieces[0]], 1
    while at < len(pieces):
        word = pieces[at]
        if at == len(pieces) - 1 or not _ESCAPED.fullmatch(word):  # a lone escape character stays
            out += [mark, word]
            at += 1
            continue
        if word in named:
            out.append(named[word])
        elif word[:1] == b"X":
            out.append(_hex(word[1:]))
        out.append(pieces[at + 1])
        at += 2
    return b"".join(out)


def _hex(digits: bytes) -> bytes:
    try:
        return bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""


_TIME = re.compile(
    rb"(\d{4})(\d\d)(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,9})\d*|(\d{3}))?)?)?)?([+-]\d{4})?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


@lru_cache(maxsize=64)  # the values of a set have the same time
def time_ns(raw: bytes, zone: tzinfo) -> int | None:
    """Unix nanoseconds of an HL7 time (DTM, at least a day); None if it is not a time.

    `zone` is the time zone of a time without an offset. Milliseconds without a decimal point are read too,
    because several makers send them.
    """
    found = _TIME.fullmatch(raw)
    if not found:
        return None
    *date, point, bare, offset = found.groups()
    year, month, day, hour, minute, second = (int(digits or 0) for digits in date)
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=_zone(offset) if offset else zone)
        seconds = (at - _EPOCH) // _SECOND
    except (ValueError, OverflowError):
        return None
    return seconds * NS_PER_S + int((point or bare or b"0").ljust(9, b"0"))


def offset_of(raw: bytes) -> tzinfo | None:
    """The offset of an HL7 time; that of MSH-7 is valid for all times of its message."""
    found = _TIME.fullmatch(raw)
    try:
        return _zone(found[9]) if found and found[9] else None
    except ValueError:
        return None


def _zone(offset: bytes) -> tzinfo:
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    return timezone(timedelta(minutes=-minutes if offset[:1] == b"-" else minutes))
