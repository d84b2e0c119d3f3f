"""MLLP frames: cut at any byte, with other bytes between them, unfinished, and too long."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import ProtocolViolation
from adapters.hl7.mllp import END, START, MllpFrames, TooLong

MAX = 1_000


def cut(stream: bytes, sizes: list[int]) -> tuple[list[bytes], Counter[str]]:
    counters: Counter[str] = Counter()
    frames, found, at, turn = MllpFrames(MAX, counters), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += frames.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    return found, counters


MESSAGES = st.lists(
    st.binary(max_size=80).filter(
        lambda raw: START not in raw and END not in raw and not raw.endswith(b"\x1c")
    )
)
SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=10)


@given(MESSAGES, SIZES)
def test_messages_come_out_as_they_went_in(messages: list[bytes], sizes: list[int]) -> None:
    found, counters = cut(b"".join(START + message + END for message in messages), sizes)
    assert found == messages
    assert counters == {}


@given(SIZES)
def test_bytes_between_messages_are_counted(sizes: list[int]) -> None:
    found, counters = cut(b"noise" + START + b"one" + END + b"\r\n" + START + b"two" + END, sizes)
    assert found == [b"one", b"two"]
    assert counters == {"garbage_bytes": 7}


@given(SIZES)
def test_a_second_start_ends_a_half_message(sizes: list[int]) -> None:
    found, counters = cut(START + b"ha" + START + b"whole\x1c!" + END, sizes)
    assert found == [b"whole\x1c!"]
    assert counters == {"half_messages": 1}


def test_a_dropped_message_leaves_no_rest() -> None:
    counters: Counter[str] = Counter()
    frames = MllpFrames(MAX, counters)
    frames.drop_unfinished()
    assert frames.feed(START + b"half") == []
    assert frames.begun
    frames.drop_unfinished()
    assert not frames.begun
    assert frames.feed(b" of it" + END + START + b"next" + END) == [b"next"]
    assert counters == {"half_messages": 1, "garbage_bytes": 8}


@given(st.lists(st.integers(1, 2_500), min_size=1, max_size=6), st.integers(MAX + 1, 3 * MAX))
def test_a_message_that_is_too_long_does_not_affect_others(sizes: list[int], length: int) -> None:
    long = START + b"MSH" + b"x" * (length - 3) + END
    found, counters = cut(START + b"one" + END + long + START + b"two" + END + long, sizes)
    assert [found[0], found[2]] == [b"one", b"two"]
    assert all(isinstance(each, TooLong) and each.startswith(b"MSHx") for each in (found[1], found[3]))
    assert counters == {"too_long": 2}


@given(st.lists(st.integers(1, 2_500), min_size=1, max_size=6))
def test_a_second_start_ends_a_half_message_that_is_too_long(sizes: list[int]) -> None:
    found, counters = cut(START + b"x" * 2 * MAX + START + b"whole" + END, sizes)
    assert found == [b"whole"]
    assert not isinstance(found[0], TooLong)
    assert counters == {"half_messages": 1}


def test_a_message_that_never_ends_is_an_error() -> None:
    frames = MllpFrames(MAX, Counter())
    frames.feed(START)
    for _ in range(67):
        frames.feed(b"x" * 1_000_000)
    assert len(frames._buffer) == 1, "dropped bytes need no memory"
    with pytest.raises(ProtocolViolation, match="no end"):
        frames.feed(b"x" * 1_000_000)


def test_another_protocol_is_an_error() -> None:
    with pytest.raises(ProtocolViolation, match="outside"):
        MllpFrames(MAX, Counter()).feed(b"HTTP/1.1 400 Bad Request\r\n" * 100_000)


def test_a_message_of_megabytes_in_small_pieces_is_not_searched_again_and_again() -> None:
    frames, message = MllpFrames(4_000_000, Counter()), b"x" * 2_000_000
    stream, found = START + message + END, []
    for at in range(0, len(stream), 500):  # 4,000 pieces: searching from the start would read 4 GB
        found += frames.feed(stream[at : at + 500])
    assert found == [message]


@pytest.mark.parametrize(
    ("sent", "stray"),
    [
        (b"\x16\x03\x01\x02\x00", "TLS, which needs `tls` in the options"),
        (b"MSH|^~\\&|KIM||\r", "HL7 without the start 0x0B of MLLP"),
        (b"GET / HTTP/1.1\r\n\r\n", "bytes that are not MLLP"),
        (b"\r\n", ""),
        (b"x" + START + b"MSH|" + END, ""),
    ],
)
def test_bytes_that_are_not_a_message_are_described(sent: bytes, stray: str) -> None:
    frames = MllpFrames(MAX, Counter())
    frames.feed(sent)
    assert frames.stray == stray


def test_a_message_without_its_end_is_described() -> None:
    frames = MllpFrames(MAX, Counter())
    frames.feed(START + b"MSH|\x1c\n")
    frames.drop_unfinished()
    assert frames.stray == "a message without the end 0x1C 0x0D of MLLP"
