"""ULIDs, the ids of commands: 48 bits of time and 80 random bits in 26 characters."""

from __future__ import annotations

import re
import secrets

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: without I, L, O and U
_PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def new_ulid(now_ms: int) -> str:
    """A new id; ids of a later time sort after it."""
    number = now_ms << 80 | secrets.randbits(80)
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Whether a text is one."""
    return _PATTERN.fullmatch(text) is not None
