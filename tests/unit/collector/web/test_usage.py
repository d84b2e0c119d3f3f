"""What pilots used: summed from stored events, each record once, whatever a node sends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from collector.app import Collector
from collector.fleet import usage
from collector.mqtt.received import Received
from tests.unit.collector.web.serving import NODE, Get, fill, serving, until_stored
from wire.codec import encode
from wire.messages import Event
from wire.usage import USAGE

NEXT, OTHER = "acme/trial/hall/cobot-02", "hanbit/trial/hall/cobot-01"
METER, EP = "00112233aabbccdd", "0123456789abcdef"
DAY, DAY_MS = "2026-11-22", 86_400_000
NOON = 1_795_348_800_000  # of that day
USED = {"cpu_s": 1.5, "peak_mb": 80.0, "disk_mb": 4.0, "sent_bytes": 1_000, "inferences": 20, "skipped": 3}


class Site:
    """A collector, and nodes that send usage events to it."""

    def __init__(self, collector: Collector, get: Get) -> None:
        self.collector = collector
        self.get = get
        self._seq: dict[str, int] = {}

    def receive(self, node: str, body: bytes) -> None:
        self.collector.ingest.receive(Received(f"tb1/{node}/event/_/usage", body, NOON, False, None))

    def send(self, node: str = NODE, **changed: Any) -> None:
        seq = self._seq[node] = self._seq.get(node, 0) + 1
        detail = {"day": DAY, "meter": METER, **USED, **changed}
        self.receive(node, encode(Event(ep=EP, seq=seq, ts=NOON, type=USAGE, sev=0, detail=detail)))

    async def sums(self, query: str = f"&from={DAY}&to={DAY}", pilot: str = "acme/trial") -> Any:
        await until_stored(self.collector, sum(self._seq.values()))
        answer = await self.get(f"/api/v1/usage?pilot={pilot}{query}")
        assert answer.status == 200, answer.body
        return answer.json()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path) as (collector, get):
        yield Site(collector, get)


async def test_a_day_is_the_sum_of_its_nodes_and_of_no_other_pilot(site: Site) -> None:
    site.send()
    site.send(NEXT, cpu_s=0.25, peak_mb=90.0, disk_mb=1.0, sent_bytes=5, inferences=1, skipped=0)
    site.send(OTHER, cpu_s=99.0)
    answer = await site.sums()
    assert answer["days"] == [
        {
            "day": DAY, "nodes": 2, "cpu_s": 1.75, "peak_mb": 90.0, "disk_mb": 4.0,
            "sent_bytes": 1_005, "inferences": 21, "skipped": 3,
        }
    ]  # fmt: skip
    assert [(one["node"], one["metered"]) for one in answer["nodes"]] == [(NODE, True), (NEXT, True)]
    assert (await site.get("/api/v1/usage")).json() == {"pilots": ["acme/trial", "hanbit/trial"]}


async def test_records_of_one_meter_count_once_in_any_order_and_those_of_two_add_up(site: Site) -> None:
    for cpu_s in (1.0, 3.0, 2.0, 3.0):  # sent again, and late
        site.send(cpu_s=cpu_s)
    site.send(day="2026-11-21", cpu_s=7.0)  # the clock was set back
    site.send(meter="f" * 16, cpu_s=0.5, peak_mb=10.0)  # the state folder was lost
    days = {one["day"]: one for one in (await site.sums("&from=2026-11-20&to=2026-11-23"))["days"]}
    assert days[DAY]["cpu_s"] == 3.5
    assert days[DAY]["sent_bytes"] == 2_000
    assert days[DAY]["peak_mb"] == 80.0
    assert days["2026-11-21"]["cpu_s"] == 7.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpu_s": -1},
        {"cpu_s": 1e300},
        {"sent_bytes": -5},
        {"sent_bytes": 2**60},
        {"inferences": 1.5},
        {"skipped": None},
        {"peak_mb": "80"},
        {"peak_mb": True},
        {"day": "2026-11-24"},  # had not begun by far when the record arrived
        {"day": "9999-12-31"},
        {"day": "2026-02-31"},
        {"day": "today"},
        {"day": f"{DAY}\n"},
        {"meter": NODE},
        {"meter": "f" * 15},
    ],
    ids=repr,
)
async def test_a_wrong_record_is_counted_and_the_others_are_summed(site: Site, wrong: dict[str, Any]) -> None:
    site.send()
    site.send(**{"meter": "f" * 16, **wrong})
    answer = await site.sums("&from=2026-11-20&to=2026-12-01")
    assert [(one["day"], one["cpu_s"]) for one in answer["days"]] == [(DAY, 1.5)]
    assert [one["unread"] for one in answer["nodes"]] == [1]


@pytest.mark.parametrize("detail", ["[]", "7", '{"cpu_s":NaN}'])
async def test_what_is_not_an_event_is_not_stored(site: Site, detail: str) -> None:
    body = f'{{"v":1,"ep":"{EP}","seq":9,"ts":{NOON},"type":"usage","sev":0,"detail":{detail}}}'
    site.receive(NODE, body.encode())
    site.send()
    answer = await site.sums()
    assert answer["days"][0]["cpu_s"] == 1.5
    assert answer["nodes"][0]["unread"] == 0


async def test_a_node_cannot_write_the_record_of_another_one(site: Site) -> None:
    event = Event(ep=EP, seq=2, ts=NOON, type=USAGE, detail={"day": DAY, "meter": METER, "node": NODE})
    site.receive(NEXT, encode(event))
    site.send(NEXT, cpu_s=50.0)
    await until_stored(site.collector, 2)
    answer = await site.sums()
    assert {one["node"]: one["total"] and one["total"]["cpu_s"] for one in answer["nodes"]} == {NEXT: 50.0}


async def test_a_million_days_are_read_in_part(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "PAGE", 10)
    monkeypatch.setattr(usage, "MAX_PAGES", 2)
    for number in range(50):
        site.send(meter=f"{number:016x}")
    (node,) = (await site.sums())["nodes"]
    assert node["total"]["sent_bytes"] == 20 * 1_000


async def test_an_older_agent_is_shown_as_not_metered(site: Site) -> None:
    fill(site.collector)
    await until_stored(site.collector, 32)
    answer = await site.sums()
    assert answer["days"] == []
    (node,) = answer["nodes"]
    assert (node["metered"], node["total"], node["by"], node["trouble"]) == (False, None, "", [])


async def test_limits_and_the_one_that_is_reached_stand_beside(site: Site) -> None:
    fill(site.collector)
    site.send()
    beat = {
        "ts": NOON, "fence_cpu_pct": 50, "fence_disk_mb": 256, "fence_by": "cgroup",
        "fence": "it sends at most 100 kB/s", "fence_code": "fence-uplink",
    }  # fmt: skip
    now = site.collector.clock.now_ms()
    topic = f"tb1/{NODE}/live/_/agent"
    site.collector.ingest.receive(Received(topic, json.dumps(beat).encode(), now, False, None))
    (node,) = (await site.sums())["nodes"]
    assert (node["fence"], node["by"]) == ({"cpu_pct": 50, "disk_mb": 256}, "cgroup")
    assert [one["reason"]["code"] for one in node["trouble"]] == ["fence-uplink"]
    beat["fence_by"] = "<script>"
    site.collector.ingest.receive(Received(topic, json.dumps(beat).encode(), now + 1, False, None))
    (node,) = (await site.sums())["nodes"]
    assert node["by"] == ""


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("pilot=acme/none", 404),
        ("pilot=", 404),
        ("pilot=acme/trial&from=yesterday", 400),
        ("pilot=acme/trial&from=0001-01-01", 400),
        ("pilot=acme/trial&to=2026-02-30", 400),
        ("pilot=acme/trial&from=2026-11-02&to=2026-11-01", 400),
        ("pilot=acme/trial&from=1970-01-01&to=9999-12-31", 400),
        ("pilot=acme/trial&to=1970-01-01", 200),
        ("pilot=acme/trial&to=9999-12-31", 200),
        ("pilot=acme/trial&form=2026-11-01", 400),
    ],
)
async def test_a_wrong_question_is_refused_in_one_sentence(site: Site, query: str, status: int) -> None:
    site.send()
    await until_stored(site.collector, 1)
    answer = await site.get(f"/api/v1/usage?{query}")
    assert answer.status == status, answer.body
