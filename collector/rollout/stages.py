"""Reads the stages of a rollout."""

from __future__ import annotations

import math
import re

from wire.printable import printable

MAX_STAGES = 100
_STAGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) *(%?)")


def read_stages(text: str, nodes: int) -> list[int]:
    """The numbers of nodes of `1,25%,100%`; the last one is always all.

    Raises:
        ValueError: it is something else; its text names the stage.
    """
    found: list[int] = []
    newest = {"": 0.0, "%": 0.0}
    parts = text.split(",")
    if len(parts) > MAX_STAGES:
        raise ValueError(f"there are {len(parts)} stages, and {MAX_STAGES} are allowed")
    for number, part in enumerate(parts, 1):
        share, unit = _stage(part.strip(), number)
        if share < newest[unit]:
            shown = printable(part.strip(), 40)
            raise ValueError(f"stage {number}, {shown!r}, is smaller than one before it: let the stages grow")
        newest[unit] = share
        count = min(nodes, math.ceil(nodes * share / 100) if unit else int(share))
        if count > (found[-1] if found else 0):
            found.append(count)
    return found if found and found[-1] == nodes else [*found, nodes]


def _stage(word: str, number: int) -> tuple[float, str]:
    """The number of a stage, and "%" where it is a share."""
    found, at = _STAGE.fullmatch(word), f"stage {number}, {printable(word, 40)!r},"
    if not word:
        raise ValueError(f"stage {number} is empty: write a number of nodes or a share between the commas")
    if found is None:
        raise ValueError(f"{at} is not a number of nodes such as 10 or a share such as 25%")
    if found[2]:
        if not 0 < float(found[1]) <= 100:
            raise ValueError(f"{at} is not above 0% and up to 100%")
    elif "." in found[1]:
        raise ValueError(f"{at} is not a whole number of nodes: write a share as 25%")
    elif not 1 <= int(found[1]) <= 10**6:
        raise ValueError(f"{at} is not from 1 to 1,000,000 nodes")
    return float(found[1]), found[2]
