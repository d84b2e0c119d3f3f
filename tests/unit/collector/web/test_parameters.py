"""Times and names in the addresses of questions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from collector.app import Collector
from collector.mqtt.received import Received
from collector.web.parameters import read_time, unknown
from tests.unit.collector.web.serving import BASE, NODE, Get
from wire.codec import encode
from wire.messages import MAX_MS, Batch


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("1795356000000", 1_795_356_000_000),
        ("1970-01-01", 0),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T00:00:01.5", 1_500),
        ("1970-01-01T09:00:00+09:00", 0),
        ("1970-01-01T09:00:00 09:00", 0),  # an address with an unescaped plus
        ("1970-01-01T08:59:59+09:00", None),
        ("9999-12-31T23:59:59.999Z", MAX_MS),
        ("0001-01-01T00:00:00+14:00", None),
        ("9" * 19, None),
        ("-1", None),
        ("", None),
        ("yesterday", None),
        ("1e5", None),
    ],
)
def test_times(text: str, ms: int | None) -> None:
    assert read_time(text) == ms


def test_the_closest_names_are_named() -> None:
    assert unknown("device", "amr", ["arm", "leg"]) == "device amr is unknown; did you mean arm?"
    assert unknown("device", "x", []) == "device x is unknown"
    assert unknown("device", "zzz", list("abcdefg")) == "device zzz is unknown; there are a, b, c, d, e, ..."


async def test_what_does_not_exist_is_404_with_the_closest_name(site: tuple[Collector, Get]) -> None:
    _, get = site
    for path, status, word in (
        (f"{BASE}/devices/arn/events", 404, "did you mean arm?"),
        (f"{BASE}/devices/arm/rows?stream=joint", 404, "did you mean joints?"),
        (f"{BASE}/devices/arn/rows?stream=joints", 404, "did you mean arm?"),
        (f"{BASE}/devices/arm/series?stream=joint&field=j1", 404, "did you mean joints?"),
        (f"{BASE[:-1]}2/devices/arm/events", 404, "did you mean acme/trial/hall/cobot-01?"),
        (BASE[:-1] + "2", 404, "did you mean acme/trial/hall/cobot-01?"),
        (f"{BASE}/devices/arm/rows?stream=joints&from=then", 400, "nor an ISO time"),
        (f"{BASE}/devices/arm/events?before=then", 400, "before="),
    ):
        answer = await get(path)
        assert answer.status == status, path
        assert word in answer.json()["error"], path
    for path in (
        f"{BASE}/devices/arm/rows?stream=joints&from=0&to=1",  # known, but nothing at that time
        f"{BASE}/devices/_/events?type=nothing",
        f"{BASE}/devices/arm/events?before=2020-01-01T00:00:00Z",
        f"{BASE}/devices/arm/rows?stream=joints&from=2026-01-01&to=9999-01-01T00:00:00Z&limit=3",
    ):
        assert (await get(path)).status == 200, path


async def test_pages_of_rows_give_each_row_once(site: tuple[Collector, Get]) -> None:
    _, get = site
    whole = (await get(f"{BASE}/devices/arm/rows?stream=joints&from=0")).json()
    assert whole["next"] is None
    found: list[int] = []
    start: int | None = 0
    pages = 0
    while start is not None:
        page = (await get(f"{BASE}/devices/arm/rows?stream=joints&from={start}&limit=7")).json()
        found += page["us"]
        start, pages = page["next"], pages + 1
    assert found == whole["us"]
    assert pages >= len(found) // 8
    assert (await get(f"{BASE}/devices/arm/rows?stream=joints&from=0&limit=7&format=csv")).headers["x-next"]


async def test_what_is_stored_of_a_device_is_listed_without_a_birth(
    site: tuple[Collector, Get],
) -> None:
    """A renamed device keeps its history."""
    collector, get = site
    now = collector.clock.now_ms()
    columns: dict[str, Any] = {"x": [1.5, 2.5], "n": [1, 2], "s": ["a", "b"]}
    batch = Batch(ep="00000000000000aa", seq=1, t0=now, per=10, n=2, f=columns)
    collector.ingest.receive(Received(f"tb1/{NODE}/data/old-arm/rows", encode(batch), now, False, None))
    async with asyncio.timeout(60):
        devices: dict[str, Any] = {}
        while "old-arm" not in devices:
            devices = {one["id"]: one for one in (await get(f"{BASE}/stored")).json()["devices"]}
    fields = {"x": {"t": "f64"}, "n": {"t": "i64"}, "s": {"t": "str"}}
    assert devices["old-arm"] == {"id": "old-arm", "last": now + 10, "streams": {"rows": {"fields": fields}}}
    assert "arm" in devices
    assert (await get("/api/v1/nodes/no/such/node/x/stored")).json() == {"devices": []}
