"""Text from outside made safe to show: in a terminal, a log line, a reason, a file of YAML."""

from __future__ import annotations

MAX_SHOWN = 120


def printable(text: object, limit: int = MAX_SHOWN) -> str:
    """The text with every control and invisible character escaped, cut to `limit` characters.

    bytes are shown as hexadecimal pairs, 16 at most.
    """
    if isinstance(text, bytes | bytearray | memoryview):
        data = bytes(text[:17])
        return data[:16].hex(" ").upper() + (" ..." if len(data) > 16 else "")
    whole = str(text)
    shown = "".join(one if one.isprintable() else _escaped(one) for one in whole[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def counted(number: int, one: str, many: str = "") -> str:
    """`1 message` or `1,200 messages`: `one`, or `many`, by default `one` with an s, behind the number."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
