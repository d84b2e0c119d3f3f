"""Finds what is wrong with a device that sends rows: fields that are always null, input that is not read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from adapters.base import Adapter
from agent.pipeline.validation import Validator
from wire.printable import printable
from wire.reasons import Reason, because

NULL_ROWS = 10  # a field that is null in as many rows in a row is a problem
_FORGET_S = 3600.0  # unread input is forgotten when it has not come again for so long
_SOON_S = 10.0  # a problem is shown within so long
_NAMES = 5  # fields that a text names
_WHY = 100  # characters of the reason of one field

_Place = tuple[str, str]  # stream and field
_Found = tuple[tuple[str, ...], Reason]  # what has the problem, and the problem


class DeviceProblems:
    """The problem of one device while it sends rows.

    A problem is shown when it has lasted for 5 s, also where a device may be silent for hours. It is shown
    earlier where `stall_s` is below 10 s: after half of `stall_s`.
    `may_be_null` names the fields that may be null, or not be read, in every row, `*` all fields.
    """

    def __init__(self, validator: Validator, stall_s: float, may_be_null: Collection[str] = ()) -> None:
        self._validator = validator
        self._wait_s = min(stall_s, _SOON_S) / 2
        self._may_be_null = frozenset(may_be_null)
        self._null_since: dict[_Place, tuple[float, int]] = {}  # when it was first seen, and its rows so far
        self._shown: _Found | None = None

    def find(self, adapter: Adapter, now_s: float) -> Reason | None:
        """The problem to show now, None without one; to be called every few seconds.

        The text stays as it is while the same parts or fields have the problem.
        """
        found = self._unread(adapter, now_s, self._wait_s) or self._null(adapter, self._lasting(now_s))
        if found is None or self._shown is None or found[0] != self._shown[0]:
            self._shown = found
        return None if self._shown is None else self._shown[1]

    def so_far(self, adapter: Adapter, rows: int) -> Reason | None:
        """The problem of a device that was read for a short time: a field is null in `rows` rows."""
        found = self._unread(adapter, adapter.clock.flowing_s(), 0.0)
        found = found or self._null(adapter, self._validator.null_fields(rows))
        return None if found is None else found[1]

    def _unread(self, adapter: Adapter, now_s: float, wait_s: float) -> _Found | None:
        unread = {
            part: each
            for part, each in adapter.unread.items()
            if part
            and part not in self._may_be_null
            and now_s - each.since_s >= wait_s
            and now_s - each.at_s < _FORGET_S
        }
        if not unread:
            return None
        what, others = next(iter(unread.values())).what, len(unread) - 1
        text = f"a part of its data is not read: {what}" + (f" (and {others} more)" if others else "")
        return ("unread", *unread), because(text, "part-not-read", what=what, others=others)

    def _lasting(self, now_s: float) -> dict[_Place, int]:
        """The fields that are null in enough rows, and have been for long enough."""
        before, self._null_since = self._null_since, {}
        lasting = {}
        for place, rows in self._validator.null_fields(1).items():
            since_s, then = before.get(place, (now_s, rows))
            if rows < then:  # it had a value since the last call
                since_s = now_s
            self._null_since[place] = (since_s, rows)
            if rows >= NULL_ROWS and now_s - since_s >= self._wait_s:
                lasting[place] = rows
        return lasting

    def _null(self, adapter: Adapter, null: Mapping[_Place, int]) -> _Found | None:
        if not null or "*" in self._may_be_null:
            return None
        places = {
            place: rows
            for place, rows in null.items()
            if place[1] not in self._may_be_null
            and (place[1] not in adapter.may_be_null or self._is_empty(place[0], null))
        }
        if not places:
            return None
        one_stream = len({stream for stream, _ in places}) == 1
        names = [field if one_stream else f"{stream}/{field}" for stream, field in places]
        named = list(zip(names, places, strict=True))[:_NAMES]
        why = {field: printable(text, _WHY) for field, text in adapter.why_null.items()}
        fields = ", ".join(f"{name} ({why[field]})" if field in why else name for name, (_, field) in named)
        if len(names) > _NAMES:
            fields += f" and {len(names) - _NAMES} more"
        rows = min(places.values())
        text = f"null in each of the last {rows} rows: {fields}"
        return ("null", *names), because(text, "field-null", field=fields, rows=rows)

    def _is_empty(self, stream: str, null: Mapping[_Place, int]) -> bool:
        """Whether all fields of a stream are null: then something is wrong, whichever may be null."""
        return all((stream, field) in null for field in self._validator.fields(stream))
