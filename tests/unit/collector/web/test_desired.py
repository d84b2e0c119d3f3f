"""Requests for another configuration, over real HTTP, without a broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.app import Collector
from collector.mqtt.received import Received
from collector.rights.user import Grant
from collector.web.pilot_entries import progress
from tests.unit.collector.web.serving import BASE, EP, NODE, Get, fill, serving, until_stored
from tests.unit.wire.pilot.plans import signed_plan
from wire.codec import encode
from wire.errors import TryAgain
from wire.messages import Event, Reported
from wire.pilot.canonical import canonical
from wire.pilot.frozen import Opened, envelope, read_signed

PATH = f"{BASE}/desired"
DOC = {"publish": {"arm": {"raw": False}}}


def sent(collector: Collector) -> list[str]:
    """The topics of what waits for the broker, without acks."""
    return [topic for topic, _ in collector.link.outgoing if not topic.endswith("/ack")]


async def ask(site: tuple[Collector, Get], method: str, body: Any = None, path: str = PATH) -> Any:
    collector, get = site
    origin = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
    return await get(path, method, body, Origin=origin)


async def test_a_document_is_kept_sent_and_shown_beside_what_the_node_reports(
    site: tuple[Collector, Get],
) -> None:
    collector, get = site
    assert (await get(PATH)).json() == {"node": NODE, "desired": None, "reported": None}
    answer = (await ask(site, "PUT", DOC)).json()
    assert answer["desired"]["ver"] == 1
    assert (answer["desired"]["by"], answer["desired"]["doc"]) == ("local", DOC)
    assert sent(collector) == [f"tb1/{NODE}/desired/config"]
    body = encode(Reported(ver=9, state="rolled_back", ts=5, err="no reading", code="config-reverted"))
    topic = f"tb1/{NODE}/reported/config"
    collector.ingest.receive(Received(topic, body, collector.clock.now_ms(), False, None))
    shown = (await get(PATH)).json()
    assert (shown["reported"]["state"], shown["reported"]["code"]) == ("rolled_back", "config-reverted")
    assert (await ask(site, "PUT", DOC)).json()["desired"]["ver"] == 10, "above what the node knows"
    withdrawn = (await ask(site, "DELETE")).json()["desired"]
    assert (withdrawn["ver"], withdrawn["doc"]) == (11, {})
    audit = (await get("/api/v1/audit")).json()["entries"]
    assert [(each["what"], each["subject"], each["result"]) for each in audit[:2]] == [
        ("desired configuration withdrawn", NODE, "version 11"),
        ("desired configuration", NODE, "version 10"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({}, 400, "send devices, models or publish"),
        ({"broker": {"url": "x"}}, 400, "unknown field"),
        ({"devices": []}, 400, "Expected `object`"),
        ({"devices": {"arm": 3}}, 400, "Expected `object`"),
        ({"devices": {"arm": {"options": "x" * 59_500}}}, 413, "more than"),
        ({"devices": {"arm": {"options": "x" * 61_000}}}, 413, "more than"),
    ],
)
async def test_a_wrong_body_is_named_and_nothing_is_sent(
    site: tuple[Collector, Get], body: Any, status: int, sentence: str
) -> None:
    answer = await ask(site, "PUT", body)
    assert answer.status == status
    assert sentence in answer.json()["error"]
    assert sent(site[0]) == []
    assert (await site[1](PATH)).json()["desired"] is None


async def test_a_node_that_is_not_known_takes_no_document(site: tuple[Collector, Get]) -> None:
    path = "/api/v1/nodes/acme/trial/hall/cobot-99/desired"
    for method in ("PUT", "DELETE", "GET"):
        answer = await ask(site, method, DOC if method == "PUT" else None, path)
        assert answer.status == 404
        assert "cobot-01" in answer.json()["error"]


async def test_what_was_requested_and_reported_outlives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        fill(site[0])
        topic = f"tb1/{NODE}/reported/config"
        body = encode(Reported(ver=7, state="applied", ts=5))
        site[0].ingest.receive(Received(topic, body, site[0].clock.now_ms(), False, None))
        await until_stored(site[0], 32)
        await ask(site, "PUT", DOC)
    async with serving(tmp_path) as site:
        found = (await site[1](PATH)).json()
    assert (found["desired"]["ver"], found["reported"]["ver"]) == (8, 7)


PILOT_PATH = f"{BASE}/pilot"
NAMED = ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}]")


async def test_the_plan_of_a_pilot_is_kept_sent_and_listed(site: tuple[Collector, Get]) -> None:
    collector, get = site
    assert (await get(PILOT_PATH)).json() == {"node": NODE, "pilot": None, "reported": None}
    assert (await get("/api/v1/pilots")).json() == {"pilots": []}
    plan = signed_plan(NAMED)
    await ask(site, "PUT", DOC)
    answer = (await ask(site, "PUT", plan, PILOT_PATH)).json()
    assert (answer["pilot"]["ver"], answer["pilot"]["doc"]) == (1, plan)
    assert sent(collector) == [f"tb1/{NODE}/desired/config", f"tb1/{NODE}/desired/pilot"]
    body = encode(Reported(ver=4, state="applied", ts=5, hash="ab", active="ab"))
    topic = f"tb1/{NODE}/reported/pilot"
    collector.ingest.receive(Received(topic, body, collector.clock.now_ms(), False, None))
    [listed] = (await get("/api/v1/pilots")).json()["pilots"]
    assert (listed["node"], listed["pilot"], listed["version"]) == (NODE, "trial-1", 1)
    assert listed["reported"]["active"] == "ab"
    assert (listed["state"], listed["period"], listed["done"], listed["nodes"]) == ("planned", None, 0, 1)
    assert (listed["began"], listed["in_time"], listed["switched"]) == (None, False, None)
    assert listed["online"] is True
    other = await ask(site, "PUT", signed_plan(NAMED, ("pilot: trial-1", "pilot: trial-2")), PILOT_PATH)
    assert (other.status, "withdraw it first" in other.json()["error"]) == (409, True)
    assert (await get(PATH)).json()["reported"] is None, "the report is about the plan alone"
    assert (await ask(site, "DELETE", None, PILOT_PATH)).json()["pilot"]["ver"] == 5
    assert (await get("/api/v1/pilots")).json() == {"pilots": []}
    assert (await get(PATH)).json()["desired"]["doc"] == DOC, "the configuration stays"
    audit = (await get("/api/v1/audit")).json()["entries"]
    assert [each["what"] for each in audit[:2]] == ["pilot plan withdrawn", "pilot plan"]


async def test_the_list_has_what_the_node_recorded_of_this_plan(site: tuple[Collector, Get]) -> None:
    collector, get = site
    plan = signed_plan(NAMED)
    await ask(site, "PUT", plan, PILOT_PATH)
    digest, start = opened_of(plan).hash, opened_of(plan).plan.schedule.trial_ms[0]
    other = {"pilot": "p", "hash": "0" * 64, "phase": "trial", "period": 1, "planned": "on"}
    switch = {**other, "hash": digest, "period": 0, "actual": "off", "from": start}
    for seq, (kind, ts, detail) in enumerate(
        [
            ("pilot", start - 1, {"hash": digest}),
            ("exposure", start, switch),
            ("pilot", start + 1, {"hash": digest}),
        ],
        100,
    ):
        event = Event(ep=EP, seq=seq, ts=ts, type=kind, detail=detail, code="c", why="w")
        received = Received(
            f"tb1/{NODE}/event/_/{kind}", encode(event), collector.clock.now_ms(), False, None
        )
        collector.ingest.receive(received)
    await until_stored(collector, 35)
    [listed] = (await get("/api/v1/pilots")).json()["pilots"]
    assert (listed["began"], listed["in_time"]) == (start - 1, True)
    assert listed["switched"] == {**switch, "code": "c", "why": "w"}
    await ask(site, "PUT", signed_plan(NAMED, ("seed: 7", "seed: 8")), PILOT_PATH)
    [listed] = (await get("/api/v1/pilots")).json()["pilots"]
    assert (listed["began"], listed["switched"]) == (None, None), "they are about another plan"


def opened_of(plan: dict[str, Any]) -> Opened:
    return read_signed(msgspec.json.encode(plan))


def test_where_a_schedule_is_at_each_moment() -> None:
    found = opened_of(signed_plan()).plan.schedule
    (start, end), first = found.trial_ms, found.periods[0].start_ms
    arm = found.trial[1].arm
    for now, state, number, done in (
        (first - 1, "planned", None, 0),
        (first, "baseline", -1, 0),
        (start - 1, "planned", None, 0),
        (start, "trial", 0, 0),
        (found.trial[1].start_ms, "trial", 1, 1),
        (end - 1, "trial", 19, 19),
        (end, "over", None, 20),
    ):
        shown = progress(found, now)
        period = shown["period"]
        assert (shown["state"], period and period["number"], shown["done"]) == (state, number, done), now
    assert progress(found, found.trial[1].start_ms)["period"]["arm"] == arm


def by_hand(**keys: Any) -> dict[str, Any]:
    """A signed plan that `pilot.yaml` could not have given: with other keys of its plan."""
    plain = json.loads(opened_of(signed_plan(NAMED)).payload)
    plain["plan"].update(keys)
    return signed(plain)


def signed(plain: dict[str, Any], signatures: tuple[tuple[str, bytes], ...] = (("ab" * 32, b"x"),)) -> Any:
    return msgspec.to_builtins(envelope(canonical(plain), signatures))


KPI = json.loads(opened_of(signed_plan(NAMED)).payload)["plan"]["kpis"][0]
FROZEN = json.loads(opened_of(signed_plan(NAMED)).payload)
TURNED = [[*each[:3], {"on": "off", "off": "on"}[each[3]]] for each in FROZEN["schedule"]["periods"]]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (by_hand(kpis=[{**KPI, "primary": False}]), "the plan: kpis: none is primary: set `primary: true`"),
        (by_hand(owner="hanbit"), f"the plan: nodes.0: {NODE} does not belong to the owner hanbit"),
        (by_hand(kpis=[{**KPI, "formula": "downtim"}]), "the plan: kpis.0.formula: "),
        (by_hand(design={**FROZEN["plan"]["design"], "periods": 6}), "6 periods can show nothing"),
        (by_hand(adjust={"trend": "none"}), "the plan: adjust.trend: none needs a reason"),
        (
            by_hand(kpis=[{**KPI, "primary": False, "target": None}], owner="x"),
            "does not belong to the owner x; the plan: kpis: none is primary",
        ),
        (
            signed({**FROZEN, "schedule": {**FROZEN["schedule"], "periods": TURNED}}),
            "the plan: its schedule is not the one that its plan and seed give",
        ),
        (signed(FROZEN, ()), "the plan is not signed, and a node follows no plan without a signature"),
        ({}, "the body is wrong"),
        ({"payload": "e30=", "payloadType": "x", "signatures": []}, "not a signed plan"),
        (signed_plan(), "does not name"),
        ({**signed_plan(NAMED), "more": 1}, "unknown field"),
    ],
)
async def test_what_is_not_a_plan_for_the_node_is_refused(
    site: tuple[Collector, Get], body: Any, sentence: str
) -> None:
    answer = await ask(site, "PUT", body, PILOT_PATH)
    assert answer.status == 400
    assert sentence in answer.json()["error"]
    assert sent(site[0]) == []


# --- a whole pilot


OTHERS = ("acme/trial/hall/cobot-02", "acme/other/hall/cobot-03", "hanbit/trial/hall/cobot-01")
WHOLE = "/api/v1/pilots/acme/trial-1"


def of(*nodes: str, **more: str) -> dict[str, Any]:
    """A signed plan for these nodes."""
    owner = nodes[0].split("/", maxsplit=1)[0]
    changes = (
        ("pilot: trial-1", f"pilot: {more.get('pilot', 'trial-1')}"),
        ("owner: acme", f"owner: {owner}"),
    )
    return signed_plan(("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{', '.join(nodes)}]"), *changes)


async def test_one_act_withdraws_a_pilot_from_all_nodes_that_have_it(site: tuple[Collector, Get]) -> None:
    collector, get = site
    plan = of(NODE, *OTHERS[:2])
    for node in (NODE, OTHERS[0]):
        collector.documents.put(node, plan, by="kim", at_ms=1, what="pilot")
    # neither another pilot, nor a config, nor the same name of another tenant
    collector.documents.put(OTHERS[1], of(OTHERS[1], pilot="trial-2"), by="kim", at_ms=1, what="pilot")
    collector.documents.put(OTHERS[2], of(OTHERS[2]), by="kim", at_ms=1, what="pilot")
    collector.documents.put(NODE, DOC, by="kim", at_ms=1)
    answer = await ask(site, "DELETE", None, WHOLE)
    assert answer.json() == {
        "tenant": "acme", "pilot": "trial-1", "withdrawn": sorted([NODE, OTHERS[0]]), "offline": [OTHERS[0]],
        "refused": [], "failed": {}, "hidden": 0,
    }  # fmt: skip
    assert sent(collector) == [f"tb1/{node}/desired/pilot" for node in sorted([NODE, OTHERS[0]])]
    left = {(each["node"], each["pilot"]) for each in (await get("/api/v1/pilots")).json()["pilots"]}
    assert left == {(OTHERS[1], "trial-2"), (OTHERS[2], "trial-1")}
    audit = (await get("/api/v1/audit")).json()["entries"]
    assert [(each["what"], each["subject"]) for each in audit[:2]] == [
        ("pilot plan withdrawn", OTHERS[0]), ("pilot plan withdrawn", NODE),
    ]  # fmt: skip
    again = await ask(site, "DELETE", None, WHOLE)
    assert (again.status, again.json()["error"]) == (404, "no node that you may see has this pilot")


async def test_rights_count_for_each_node_of_a_pilot_that_is_withdrawn(site: tuple[Collector, Get]) -> None:
    collector, get = site
    nodes = (NODE, *OTHERS[:2])
    for node in nodes:
        collector.documents.put(node, of(*nodes), by="kim", at_ms=1, what="pilot")
    accounts = collector.directory.accounts

    def headers(name: str, role: str, *prefixes: str) -> dict[str, str]:
        accounts.add(name, "x", Grant(role, prefixes))
        return {"Authorization": f"Bearer {accounts.add_token(name, '', Grant(role, prefixes), 1)[1]}"}

    asked = {
        "foreign": headers("park", "admin", "hanbit/*"),
        "viewer": headers("lee", "viewer", "acme/*"),
        "of another pilot": headers("han", "operator", "acme/third/*"),
        "operator": headers("choi", "operator", "acme/trial/*"),
        "rest": headers("root", "admin", "*"),
    }
    collector.directory.refresh()
    found = {who: await get(WHOLE, "DELETE", **each) for who, each in asked.items()}
    assert {who: answer.status for who, answer in found.items()} == {
        "foreign": 404, "viewer": 403, "of another pilot": 404, "operator": 200, "rest": 200,
    }  # fmt: skip
    mine = found["operator"].json()
    assert (mine["withdrawn"], mine["refused"], mine["hidden"]) == (sorted(nodes)[1:], [], 1)
    assert OTHERS[1] not in found["operator"].body.decode(), "only the number of hidden nodes"
    assert found["rest"].json()["withdrawn"] == [OTHERS[1]]
    audit = (await get("/api/v1/audit", **asked["rest"])).json()["entries"]
    refused = [each["subject"] for each in audit if each["result"].startswith("refused: lee may see")]
    assert refused == ["acme/trial-1"]


async def test_a_node_whose_plan_cannot_be_taken_back_is_named_and_the_others_end_it(
    site: tuple[Collector, Get], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, _ = site
    for node in (NODE, OTHERS[0]):
        collector.documents.put(node, of(NODE, OTHERS[0]), by="kim", at_ms=1, what="pilot")
    put = collector.documents.put

    def full(node: str, *more: Any, **named: Any) -> Any:
        if node == NODE:
            raise TryAgain("state.db cannot be written: the disk is full")
        return put(node, *more, **named)

    monkeypatch.setattr(collector.documents, "put", full)
    found = (await ask(site, "DELETE", None, WHOLE)).json()
    assert found["withdrawn"] == [OTHERS[0]]
    assert found["failed"] == {NODE: "state.db cannot be written: the disk is full"}
