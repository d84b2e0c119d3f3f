"""What a program may write in the address of a question: times, and names that are almost right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request

from collector.fleet.board import Ask
from wire.errors import EdgebedError
from wire.messages import MAX_MS
from wire.printable import printable
from wire.topics import Address

_ZONE = re.compile(r" (\d\d:?\d\d)$")  # "+09:00" in an address that was not escaped
_PLACE = re.compile(r"([01])\.([0-4])\.(.{1,500})")  # of a node in the fleet: alarm, severity, name
_NAMES = 5
MAX_FILTER = 100


def read_time(text: str) -> int | None:
    """Unix milliseconds of a number or of an ISO 8601 time (UTC where it names no zone); None for others."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= 18 and int(text) <= MAX_MS + 1 else None
    try:
        found = datetime.fromisoformat(_ZONE.sub(r"+\1", text))
    except ValueError:
        return None
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    try:
        ms = (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000
    except OverflowError:
        return None
    return round(ms) if 0 <= ms <= MAX_MS else None


def read_ask(params: Mapping[str, str], limit: int) -> Ask | None:
    """The nodes of the fleet that `limit`, `after`, `filter` and `node` ask for; None without any of them.

    Raises:
        WireError, EdgebedError: one of them cannot be read.
    """
    if not params.keys() & {"limit", "after", "filter", "node"}:
        return None
    after, text = params.get("after", ""), params.get("filter", "")
    place = _PLACE.fullmatch(after)
    if after and place is None:
        raise EdgebedError(f"after={after[:40]!r} is not a place: take `next` of the answer before")
    if len(text) > MAX_FILTER:
        raise EdgebedError(f"filter= has {len(text)} letters; {MAX_FILTER} are allowed")
    rank = (1 - int(place[1]), -int(place[2]), place[3]) if place else None
    node = params.get("node", "")
    return Ask(limit, rank, tuple(sorted({*text.lower().split()})), str(Address.parse(node)) if node else "")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not among the known ones, with the closest of them."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        hint = f"; did you mean {' or '.join(printable(one) for one in close)}?"
    elif names:
        more = ", ..." if len(names) > _NAMES else ""
        hint = f"; there are {', '.join(printable(one) for one in names[:_NAMES])}{more}"
    else:
        hint = ""
    return f"{what} {printable(name)} is unknown{hint}"


def number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """The whole number of a parameter.

    Raises:
        HTTPException: 400, it is not one from `low` to `high`.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not low <= int(text) <= high:
        raise HTTPException(400, f"{name}={text[:40]!r} is not a whole number from {low} to {high}")
    return int(text)
