"""What nodes have recorded of their pilots, from their events."""

from __future__ import annotations

from typing import Any

import msgspec

from collector.fleet.pilot_events import MAX_PLANS, AllPilotEvents
from collector.store.group import EventRow

NODE, PLAN, OTHER = "acme/cell/hall/cobot-01", "a" * 64, "b" * 64


def event(
    kind: str, ts: int, detail: Any, *, seq: int = 1, ep: str = "00112233", device: str = "_", **more: Any
) -> EventRow:
    body = msgspec.json.encode({"detail": detail, **more})
    return EventRow(NODE, device, kind, 0, ts, ts, ep, seq, body)


def switch(period: int, actual: str = "on", **more: Any) -> dict[str, Any]:
    detail = {"pilot": "p", "hash": PLAN, "phase": "trial", "period": period, "planned": "on", "from": 5}
    return {**detail, "actual": actual, **more}


def test_the_first_record_of_a_plan_counts_and_its_end_until_it_is_sent_again() -> None:
    found = AllPilotEvents(lambda _key, _body: None)
    found.take([event("pilot", 20, {"hash": PLAN}), event("pilot", 10, {"hash": PLAN})])
    found.take([event("pilot", 30, {"withdrawn": PLAN})])
    assert (found.of(NODE).began, found.of(NODE).ended) == ({PLAN: 10}, {PLAN: 30})
    found.take([event("pilot", 40, {"hash": PLAN}), event("pilot", 50, {"hash": OTHER})])
    assert (found.of(NODE).began, found.of(NODE).ended) == ({PLAN: 10, OTHER: 50}, {})
    found.take([event("pilot", 60 + i, {"hash": f"{i:064}"}) for i in range(3 * MAX_PLANS)])
    assert len(found.of(NODE).began) == MAX_PLANS


def test_the_newest_switch_is_kept_also_when_an_older_one_arrives_later() -> None:
    found = AllPilotEvents(lambda _key, _body: None)
    found.take([event("exposure", 9, switch(3, "other"), seq=7, value=0.5, code="c", why="w")])
    found.take([event("exposure", 10, switch(2), seq=6)])
    kept = found.of(NODE).switched
    assert kept is not None
    assert (kept.period, kept.actual, kept.value, kept.code, kept.why) == (3, "other", 0.5, "c", "w")
    found.take([event("exposure", 8, switch(4), seq=1, ep="44556677")])
    assert found.of(NODE).switched == msgspec.structs.replace(
        kept, period=4, actual="on", value=msgspec.UNSET, code="", why=""
    ), "a new outbox begins with 1"


def test_what_breaks_the_contract_or_is_something_else_changes_nothing() -> None:
    saved: list[str] = []
    found = AllPilotEvents(lambda key, _body: saved.append(key))
    for detail in (None, [], "x", {}, switch(1, "yes"), switch(1, planned=1), {**switch(1), "hash": "x"}):
        found.take([event("exposure", 1, detail)])
    for detail in (None, {"hash": 1}, {"hash": "x"}, {"withdrawn": []}):
        found.take([event("pilot", 1, detail)])
    found.take([event("usage", 1, switch(1)), event("exposure", 1, switch(1), device="arm")])
    empty = found.of(NODE)
    assert (empty.began, empty.ended, empty.switched, saved) == ({}, {}, None, [])


def test_it_outlives_a_restart_and_a_state_that_cannot_be_read() -> None:
    saved: dict[str, bytes] = {}
    found = AllPilotEvents(saved.__setitem__)
    found.take([event("pilot", 20, {"hash": PLAN}), event("exposure", 21, switch(1), seq=2)])
    again = AllPilotEvents(saved.__setitem__)
    again.restore({**saved, "pilot-events/acme/cell/hall/x": b"{", "status/acme/cell/hall/y": b"1"})
    assert again.of(NODE) == found.of(NODE)
    assert again.of(NODE).at == ("00112233", 2)
