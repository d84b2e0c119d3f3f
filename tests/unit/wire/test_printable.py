"""Text from outside is safe to show."""

from __future__ import annotations

import pytest

from wire.printable import counted, printable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("온도 21.5", "온도 21.5"),
        ("a\nb\x1b[31mc\x00", r"a\nb\x1b[31mc\x00"),
        ("a\u202eb\u200b", r"a\u202eb\u200b"),
        (b"\x00AZ", "00 41 5A"),
        (bytes(17), "00 " * 15 + "00 ..."),
        (7, "7"),
    ],
)
def test_control_characters_are_escaped(given: object, shown: str) -> None:
    assert printable(given) == shown


def test_long_text_is_cut() -> None:
    assert printable("x" * 200) == "x" * 117 + "..."
    assert printable("\n" * 10**7, 10) == r"\n\n\n\..."
    assert printable("x" * 120) == "x" * 120


@pytest.mark.parametrize(("number", "text"), [(0, "0 rows"), (1, "1 row"), (1_200, "1,200 rows")])
def test_a_number_agrees_with_its_word(number: int, text: str) -> None:
    assert counted(number, "row") == text
    assert counted(1, "message waits", "messages wait") == "1 message waits"


def test_a_text_may_be_as_long_as_the_limit() -> None:
    assert [printable("x" * length, 10) for length in (10, 11)] == ["x" * 10, "x" * 7 + "..."]
    assert printable("\n" * 5, 10) == r"\n\n\n\n\n"
    assert printable(bytearray(b"\x01\xff")) == printable(memoryview(b"\x01\xff")) == "01 FF"
    assert printable(bytes(16)) == " ".join(["00"] * 16)
    assert counted(2, "message waits", "messages wait") == "2 messages wait"
