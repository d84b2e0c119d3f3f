"""A node that exceeds its shares waits in its own outbox; nodes of others lose nothing and see no delay."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from edgebed.broker import BrokerProcess
from tests.brokers import LONG_TEST_KINDS
from tests.integration.conftest import Box, CollectorProcess
from tests.polling import until
from wire.codec import encode
from wire.messages import Batch, Scalar

pytestmark = pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)

NOW_MS = int(time.time() * 1000)


class Site(CollectorProcess):
    """A collector process with shares."""

    def entry(self, node: str) -> dict[str, Any]:
        found = [one for one in self.ask("ledger")["entries"] if one["node"] == node]
        return dict(found[0]) if found else {"stored": 0, "gap_count": 0}

    @property
    def peak_mb(self) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
def start_site(tmp_path: Path, broker: BrokerProcess) -> Iterator[Callable[[str], Site]]:
    sites: list[Site] = []

    def start(shares: str = "{}") -> Site:
        site = Site(tmp_path, broker, shares)
        sites.append(site)
        site.__enter__()
        site.online()
        return site

    yield start
    for site in sites:
        site.__exit__(None, None, None)


def batch(seq: int, columns: dict[str, list[Scalar]], ep: str = "eeeeeeee00000001") -> bytes:
    rows = len(next(iter(columns.values())))
    return encode(Batch(ep=ep, seq=seq, t0=NOW_MS, per=1, n=rows, f=columns))


def test_one_node_with_its_own_rights_costs_the_others_nothing(
    start_site: Callable[[str], Site], publisher: mqtt.Client
) -> None:
    """It fills the table of names, sends bombs, keeps newest values on ever new topics."""
    site = start_site("{}")
    bad, victim = "tb1/evil/pilot/hall/bad", "tb1/acme/pilot/hall/victim"
    before_mb = site.peak_mb
    text = batch(1, {f"f{n}": [1.5] * 10_000 for n in range(25)})
    sent = 0
    for number in range(1, 121):
        if number <= 14:
            names: dict[str, list[Scalar]] = {f"a{number}x{n}": [1] for n in range(4_000)}
            body = gzip.compress(batch(number, names), 6)
        else:
            plain = text.replace(b'"seq":1,', b'"seq":%d,' % number, 1)
            body = gzip.compress(plain, 1)
        publisher.publish(f"{bad}/data/d/s", body, qos=1)
        live = b'{"ts":1,%s}' % b",".join(b'"f%05d":1.5' % n for n in range(4_000))
        publisher.publish(f"{bad}/live/d{number}/s", live, qos=0)
        if number % 10 == 0:
            sent += 1
            name = f"heart_rate_{sent}"
            publisher.publish(
                f"{victim}/data/bed/vitals", batch(sent, {name: [72.0]}, "ffffffff00000001"), qos=1
            )
    site.until(lambda: site.entry("acme/pilot/hall/victim")["stored"] == sent, "the victim is stored")
    site.until(lambda: site.ask("health")["backlog"] == 0, "all is read")
    health = site.ask("health")
    assert health["quarantined"] == 0
    assert health["refused_by"]["node"]["names_per_stream"] > 0
    assert health["refused_by"]["node"]["live_kb"] > 0
    assert health["refused_by"]["node"].keys() & {"values_per_s", "plain_kb_per_s"}
    assert health["refused_by"]["tenant"] == {}
    assert site.peak_mb - before_mb < 200, "GB, where a group was bounded by its messages"
    nodes = {one["node"]: one for one in site.ask("fleet")["nodes"]}
    assert "refused" in {one["code"] for one in nodes["evil/pilot/hall/bad"]["trouble"]}
    assert "refused" not in {one["code"] for one in nodes["acme/pilot/hall/victim"]["trouble"]}


def test_invented_node_names_stop_nobody(start_site: Callable[[str], Site], publisher: mqtt.Client) -> None:
    site = start_site("{tenant: {nodes: 500}}")
    publisher.publish("tb1/acme/p/h/known/data/d/s", batch(1, {"x": [1]}), qos=1)
    site.until(lambda: site.entry("acme/p/h/known")["stored"] == 1, "a node is known")
    for number in range(2_000):
        publisher.publish(f"tb1/x/y/z/n{number}/log/info", b'{"ts":1,"msg":"hi"}', qos=0)
    event = b'{"v":1,"ep":"%016x","seq":1,"ts":1,"type":"x"}'
    for number in range(200):
        publisher.publish(f"tb1/x/y/z/s{number}/event/d/x", event % (number + 1), qos=1)
    for number in range(2, 12):
        publisher.publish("tb1/acme/p/h/known/data/d/s", batch(number, {"x": [1]}), qos=1)
    publisher.publish("tb1/other/p/h/new/data/d/s", batch(1, {"x": [1]}), qos=1)
    site.until(lambda: site.entry("acme/p/h/known")["stored"] == 11, "a known node goes on")
    site.until(lambda: site.entry("other/p/h/new")["stored"] == 1, "another tenant finds room for a new one")
    site.until(
        lambda: site.ask("health")["refused_by"]["tenant"].get("nodes", 0) >= 1_700, "the rest is refused"
    )
    health = site.ask("health")
    assert health["quarantined"] == 0
    assert "Traceback" not in site.log.read_text()


async def test_an_agent_waits_and_sends_everything_again(
    start_site: Callable[[str], Site],
    start_box: Callable[[str, int], Awaitable[Box]],
    broker: BrokerProcess,
) -> None:
    site = await asyncio.to_thread(start_site, "{node: {values_per_s: 400}}")  # of each message 20 count
    box, calm = await start_box("busy", broker.port), await start_box("calm", broker.port)
    await until(lambda: box.uplink.connected and calm.uplink.connected, "they connect")
    box.take(250)
    refused_s, worst_s = 0.0, 0.0
    began_s = time.monotonic()
    while box.depth:
        assert time.monotonic() - began_s < 60, box.uplink.counters
        if box.uplink.refused is not None and not refused_s:
            refused_s = time.monotonic()
            assert box.uplink.refused.code == "share-values"
            entries = (await asyncio.to_thread(site.ask, "fleet"))["nodes"]
            problems = [one for node in entries if node["node"].endswith("/busy") for one in node["trouble"]]
            assert [one["reason"]["code"] for one in problems if one["code"] == "refused"] == ["share-values"]
        if int(10 * (time.monotonic() - began_s)) % 10 == 0:
            calm.take()
            sent_s = time.monotonic()
            await until(lambda: calm.depth == 0, "the other node is acknowledged")
            worst_s = max(worst_s, time.monotonic() - sent_s)
        await asyncio.sleep(0.05)
    assert refused_s, "it was refused"
    assert calm.uplink.refused is None
    assert calm.uplink.counters.get("refusals", 0) == 0
    health = await asyncio.to_thread(site.ask, "health")
    assert (health["quarantined"], health["refused_by"]["tenant"]) == (0, {})
    entry = await asyncio.to_thread(site.entry, "acme/trial/hall/busy")
    assert (entry["stored"], entry["gap_count"], entry["missing_count"]) == (250, 0, 0)
    sent = box.uplink.counters["sent"]
    assert sent < 250 * 12, f"{sent} publications for 250 messages: a refused node does not flood"
    await until(lambda: box.uplink.refused is None, "the problem ends")
