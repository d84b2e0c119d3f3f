"""The size of pictures with its limits, and their number in words."""

from __future__ import annotations

from adapters.base import ProtocolViolation

Size = tuple[int, int]  # width, height


def check_size(name: str, found: Size, wanted: Size | None, highest: Size) -> None:
    """Refuse pictures of another size than declared, or larger than allowed.

    Raises:
        ProtocolViolation: they are.
    """
    if wanted is not None and found != wanted:
        raise ProtocolViolation(f"{name} sends pictures of {_px(found)}, not of {_px(wanted)}")
    if found[0] > highest[0] or found[1] > highest[1]:
        raise ProtocolViolation(
            f"{name} sends pictures of {_px(found)}; up to {_px(highest)} are allowed (max_size)"
        )


def _px(size: Size) -> str:
    return f"{size[0]}x{size[1]} px"


def after(pictures: int) -> str:
    """The end of a sentence: after how many pictures."""
    return f"after {pictures} pictures" if pictures else "before its first picture"
