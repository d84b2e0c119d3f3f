"""A collector that runs with retention rules and a quota: old days shrink, and the ledger states it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.ingest.group_builder import GroupBuilder
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store.clock_skew import Offset
from collector.store.store import SqliteStore
from edgebed.broker import BrokerProcess, free_port
from edgebed.drill.check import kept
from edgebed.processes import Child, edgebed_command
from tests.brokers import LONG_TEST_KINDS
from tests.integration.test_collector import EP, NODE, Sender, ask, is_online
from tests.polling import wait_until
from tests.unit.collector.conftest import SetClock
from wire.codec import encode
from wire.messages import Batch
from wire.topics import Address, parse

pytestmark = pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)

OTHER = Address("blue", "trial", "hall", "cobot-01")
DAY_MS = 86_400_000
CONFIG = """
store: ./store
broker: {{url: "{url}"}}
http: {{port: {port}}}
retention: [{{nodes: "acme/*", class: data, keep_days: 1}}]
quotas: [{{tenant: blue, gb: 0.000001}}]
"""


def fill(folder: Path) -> None:
    """Five days of a month ago with 50 messages of each of two nodes."""
    clock = SetClock(SetClock().ms - 30 * DAY_MS)
    store, ledger = SqliteStore(folder, clock), Ledger()
    for day in range(5):
        clock.ms += DAY_MS
        some = []
        for node in (NODE, OTHER):
            for seq in range(50 * day + 1, 50 * day + 51):
                topic = node.topic("data", "arm", "joints")
                body = encode(Batch(ep=EP, seq=seq, t0=clock.ms, per=10, n=1, f={"x": [seq]}))
                some.append(Received(topic, body, clock.ms, False, None, parsed=parse(topic)))
        built = GroupBuilder(ledger, lambda _node: Offset(), clock.ms).build(some)
        built.group.marks = ledger.marks(built.drafts)
        store.commit(built.group)
        ledger.accept(built.drafts)
    store.close()


@pytest.fixture
def collector(tmp_path: Path, broker: BrokerProcess) -> Iterator[Child]:
    port = free_port()
    (tmp_path / "c.yaml").write_text(CONFIG.format(url=broker.url, port=port))
    fill(tmp_path / "store")
    made = Child(
        "collector",
        edgebed_command("collector", "run", str(tmp_path / "c.yaml")),
        tmp_path / "collector.log",
    )
    made.url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]  # for `ask`
    yield made
    made.stop()


def entry(collector: Child, node: Address) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in ask(collector, "ledger")["entries"] if one["node"] == node.text
    )
    return found


def test_rules_and_quotas_of_a_running_collector(
    tmp_path: Path, broker: BrokerProcess, collector: Child
) -> None:
    store = tmp_path / "store"
    collector.start()
    wait_until(lambda: is_online(collector), "the collector connects")
    asked = subprocess.run(
        edgebed_command("collector", "prune", str(tmp_path / "c.yaml")), capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    assert "its collector removes what is due" in asked.stdout
    # ages count from the day after the last that ended; the newest file ends when something arrives
    wait_until(lambda: entry(collector, NODE)["pruned_count"] == 150, "three days are pruned")
    with Sender(broker.port) as mine, Sender(broker.port, OTHER) as other:
        mine.taken = other.taken = 250
        mine.acked.add(1, 250)
        other.acked.add(1, 250)
        mine.send(5)
        mine.wait()
        wait_until(lambda: entry(collector, NODE)["pruned_count"] == 200, "the fourth day is pruned")

        def is_refused() -> bool:
            other.send(1)
            return bool(ask(collector, "health")["refused_by"]["tenant"].get("quota"))

        wait_until(is_refused, "the tenant over its quota is refused")
        mine.send(5)
        mine.wait()
        acked = other.acked.count()
        assert acked < other.taken, "its messages wait in its outbox"
    mine_now, other_now = entry(collector, NODE), entry(collector, OTHER)
    assert (mine_now["stored"], mine_now["missing_count"], mine_now["pruned_count"]) == (260, 0, 200)
    assert (mine_now["pruned"][0]["first"], mine_now["pruned"][0]["last"]) == (1, 200)
    assert (other_now["stored"], other_now["pruned"]) == (acked, [])
    collector.stop()
    held = kept(store)
    assert held[NODE.text, EP].violations(260, 260) == [], "a second implementation sees it in the same way"
    assert (len(held[NODE.text, EP].rows), len(held[OTHER.text, EP].rows)) == (60, acked)
    verified = subprocess.run(
        edgebed_command("collector", "verify", str(store), "--full-speed"), capture_output=True, text=True
    )
    assert verified.returncode == 0, verified.stderr
    audited = subprocess.run(
        edgebed_command("ledger", "--store", str(store), "--audit"), capture_output=True, text=True
    )
    assert audited.returncode == 0, audited.stdout
