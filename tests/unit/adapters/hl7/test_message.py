"""The parser of HL7 messages: separators, escapes, character sets, times; no input makes it crash."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.hl7.message import (
    MAX_SEGMENTS,
    MessageRejected,
    Separators,
    offset_of,
    parse,
    part,
    time_ns,
    unescape,
)
from wire.clock import NS_PER_MS, NS_PER_S

HEADER = rb"MSH|^~\&|APP^id^EUI-64|FAC|||20260225061320+0900||ORU^R01^ORU_R01|17|P|2.6|||AL|NE||UNICODE UTF-8"
USUAL = Separators()


def test_a_header_is_numbered_as_the_standard_does() -> None:
    message = parse(HEADER + b"\rPID|1||42\r")
    assert message.msh(3) == b"APP"
    assert message.msh(3, 3) == b"EUI-64"
    assert message.msh(9, 2) == b"R01"
    assert message.control_id == b"17"
    assert (message.msh(15), message.msh(16), message.msh(99)) == (b"AL", b"NE", b"")
    assert message.segments[1] == b"PID|1||42"


def test_other_separators_are_honoured() -> None:
    message = parse(b"MSH#*!?$#APP*id####20260225##ORU*R01#1#P#2.6")
    assert message.separators == Separators(b"#", b"*", b"!", b"?", b"$")
    assert message.msh(9, 2) == b"R01"
    assert message.text(b"a?F?b?S?c") == "a#b*c"


@pytest.mark.parametrize(
    "frame",
    [b"", b"\r\r", b"PID|1", b"MSH", b"MSH|", b"MSH|^~", b"MSH|^^^^", b"MSHabcde", b"MSH|^~\\&"[:7]],
)
def test_a_message_without_a_usable_header_is_rejected(frame: bytes) -> None:
    with pytest.raises(MessageRejected):
        parse(frame)


def test_a_flood_of_segments_is_rejected() -> None:
    with pytest.raises(MessageRejected, match="segments"):
        parse(HEADER + b"\r" * (MAX_SEGMENTS + 1))


def test_line_ends_of_files_are_read_and_flagged() -> None:
    for end in (b"\r\n", b"\n"):
        message = parse(HEADER + end + b"PID|1||42" + end)
        assert message.segments[1] == b"PID|1||42"
        assert message.odd_line_ends


@pytest.mark.parametrize(
    ("named", "codec"),
    [
        (b"", "utf-8"),
        (b"UNICODE UTF-8", "utf-8"),
        (b"unicode utf-8", "utf-8"),
        (b"8859/1", "iso8859-1"),
        (b"ISO IR149", "cp949"),
        (b"ASCII~KS X 1001", "cp949"),
        (b"GB 18030-2000", ""),  # its second bytes can be | or ^
        (b"ISO IR87", ""),
    ],
)
def test_character_sets(named: bytes, codec: str) -> None:
    assert parse(HEADER.replace(b"UNICODE UTF-8", named)).charset == codec


def test_korean_names_split_in_every_character_set() -> None:
    for named, codec in ((b"UNICODE UTF-8", "utf-8"), (b"ISO IR149", "cp949")):
        pid = "PID|1||42||똠방^각하~펲시^콜라||".encode(codec)  # syllables that only cp949 has
        message = parse(HEADER.replace(b"UNICODE UTF-8", named) + b"\r" + pid)
        fields = message.segments[1].split(b"|")
        assert message.text(part(fields, 5, 2, USUAL)) == "각하"
        assert message.readable(fields[5])
    assert not parse(HEADER).readable("황보".encode("cp949"))


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        (rb"a\F\b\S\c\R\d\T\e\E\f", rb"a|b^c~d&e\f"),
        (rb"\X41420D\!", b"AB\r!"),
        (rb"\H\bold\N\ line\.br\end", b"bold lineend"),
        (rb"\Xzz\x", b"x"),
        (b"lone \\ backslash", b"lone \\ backslash"),
        (b"trailing \\", b"trailing \\"),
        (b"", b""),
    ],
)
def test_escapes(raw: bytes, plain: bytes) -> None:
    assert unescape(raw, USUAL) == plain


@given(st.binary(max_size=60))
def test_escaped_text_is_restored(plain: bytes) -> None:
    escaped = plain.replace(b"\\", b"\\E\\")
    for character, code in ((b"|", b"F"), (b"^", b"S"), (b"~", b"R"), (b"&", b"T")):
        escaped = escaped.replace(character, b"\\" + code + b"\\")
    assert unescape(escaped, USUAL) == plain


AT_NS = int(datetime(2026, 2, 25, 6, 13, 20, tzinfo=UTC).timestamp()) * NS_PER_S


@pytest.mark.parametrize(
    ("raw", "at_ns"),
    [
        (b"20260225061320", AT_NS),
        (b"20260225061320+0000", AT_NS),
        (b"20260225151320+0900", AT_NS),
        (b"20260225014320-0430", AT_NS),
        (b"20260225061320.25", AT_NS + 250 * NS_PER_MS),
        (b"20260225061320.0001-0000", AT_NS + 100_000),
        (b"20260225061320610", AT_NS + 610 * NS_PER_MS),  # as some makers write milliseconds
        (b"202602250613", AT_NS - 20 * NS_PER_S),
        (b"20260225", AT_NS - (6 * 3600 + 13 * 60 + 20) * NS_PER_S),
        (b"19691231235959", -NS_PER_S),
    ],
)
def test_times(raw: bytes, at_ns: int) -> None:
    assert time_ns(raw, UTC) == at_ns


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"2026",
        b"20261332",
        b"20260225246060",
        b"00000101",
        b"20260225061320+9999",
        b"now",
        b"2026-02-25",
    ],
)
def test_texts_that_are_not_times(raw: bytes) -> None:
    assert time_ns(raw, UTC) is None
    assert offset_of(raw) is None


def test_a_time_without_an_offset_is_in_the_given_zone() -> None:
    assert time_ns(b"20260225151320", ZoneInfo("Asia/Seoul")) == AT_NS
    offset = offset_of(b"20260225151320+0900")
    assert offset is not None
    assert time_ns(b"20260225151320", offset) == AT_NS


@given(st.binary(max_size=300))
def test_no_input_makes_the_parser_crash(raw: bytes) -> None:
    for frame in (raw, b"MSH|^~\\&" + raw, b"MSH" + raw):
        try:
            message = parse(frame)
        except MessageRejected as error:
            assert error.mismatch.text == str(error)
        else:
            message.text(message.control_id)
            message.msh(18)
    time_ns(raw, UTC)
    unescape(raw, USUAL)
