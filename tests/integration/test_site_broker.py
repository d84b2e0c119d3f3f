"""A site as written: mosquitto, a collector and an agent with their certificates; what a revocation ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.uplink.connecting import connect_options
from edgebed.broker import find
from edgebed.processes import Child, edgebed_command
from edgebed.site.files import owner
from edgebed.site.layout import Layout
from edgebed.site.make import make, revoke
from edgebed.site.nodes import take_away
from tests.polling import wait_until
from tests.site_broker import Client, edgebed, new_site, node_credential, now, reload, running
from wire.broker import Broker
from wire.mqtt.blocking_client import BlockingClient
from wire.mqtt.connection import Handlers
from wire.topics import Address

NODE = Address("acme", "trial", "hall", "n1")


def agent(layout: Layout, node: Address) -> Child:
    """An agent with the part of its config that the site wrote, and rows to send."""
    folder = node_credential(layout, node)[0].parent
    shutil.copy(layout.path("agent/ca.pem"), folder)
    (folder / "rows.csv").write_text("x\n" + "".join(f"{at}\n" for at in range(1000)))
    options = "{file: rows.csv, rate_hz: 100, fields: {x: x}}"
    (folder / "agent.yaml").write_text(
        f"{layout.path('agent/broker.yaml').read_text()}"
        f"node: {node}\nstate: state\ndevices: {{d: {{adapter: replay, options: {options}}}}}\n"
    )
    return Child("agent", edgebed_command("agent", "run", str(folder / "agent.yaml")), folder / "agent.log")


def credential(folder: Path, name: str) -> tuple[Path, Path]:
    """The certificate and key in a folder."""
    return folder / f"{name}.pem", folder / f"{name}.key"


def ask(url: str, path: str) -> Any:
    """The answer of the collector's API."""
    with urllib.request.urlopen(f"{url}/api/v1/{path}", timeout=60) as answer:  # noqa: S310 - own loopback
        return json.load(answer)


def test_a_collector_and_an_agent_work_with_the_configs_as_written(tmp_path: Path) -> None:
    layout = new_site(tmp_path / "site")
    config = layout.path("collectors/collector-1/collector.yaml")
    words = edgebed_command("collector", "run", str(config), "--port", "0")
    collector, sender = Child("collector", words, tmp_path / "collector.log"), agent(layout, NODE)
    with running(layout), collector, sender:
        url = collector.first_line()

        def stored() -> bool:
            found = ask(url, "ledger")["entries"]
            return any(one["node"] == str(NODE) and one["stored"] > 3 and not one["missing"] for one in found)

        wait_until(stored, "messages are stored", 120)
        assert ask(url, "health")["broker"]["state"] == "online"
    log = (layout.folder / "broker.log").read_text()
    assert "as collector-1-acks" in log, "the collector has its connection for acknowledgements"
    assert f"as {NODE} (" in log, "the broker knows the agent by the name in its certificate"
    assert "already connected" not in log, "no connection of the collector ends another one"
    assert "acks go over the receiving one" not in collector.log.read_text()


def test_a_node_that_is_removed_sends_and_receives_nothing(tmp_path: Path) -> None:
    layout = new_site(tmp_path / "site")
    collectors = credential(layout.path("collectors/collector-1"), "collector")
    port = layout.site.collector_port
    with running(layout):
        add = ("node", "add", str(NODE), "--site", str(layout.folder), "--out")
        for name in ("first", "second"):
            assert edgebed(*add, str(tmp_path / name), *(["--renew"] if name == "second" else [])).code == 0
        first, second = credential(tmp_path / "first", "node"), credential(tmp_path / "second", "node")
        node = Client(layout, first, NODE.client_id).__enter__()
        node.subscribe(NODE.topic("ack"))
        with Client(layout, collectors, "collector-1", port=port) as collector:
            collector.subscribe("tb1/#")
            node.publish(NODE.topic("data", "_", "x"), b"before")
            collector.wait_for(NODE.topic("data", "_", "x"), b"before")
            done = edgebed("node", "remove", str(NODE), "--site", str(layout.folder))
            assert (done.code, done.text) == (0, f"{NODE}: removed\n")
            wait_until(node.ended.is_set, "its connection is ended")
            for each in (first, second):
                again = Client(layout, each, NODE.client_id)
                assert not again.is_accepted(), "each of its certificates is revoked"
                again.close()
            node.close()
            assert edgebed(*add, str(tmp_path / "third")).code == 0
            with Client(layout, credential(tmp_path / "third", "node"), NODE.client_id) as node:
                assert node.publish(NODE.topic("data", "_", "x"), b"back") == 0
                collector.wait_for(NODE.topic("data", "_", "x"), b"back")


def test_rules_end_what_an_open_connection_may_do_and_a_revocation_alone_does_not(tmp_path: Path) -> None:
    layout = new_site(tmp_path / "site")
    collectors = credential(layout.path("collectors/collector-1"), "collector")
    rules = layout.path("broker/acl")
    with running(layout) as broker:
        node = Client(layout, node_credential(layout, NODE), NODE.client_id).__enter__()
        node.subscribe(NODE.topic("ack"))
        collector = Client(layout, collectors, "collector-1", port=layout.site.collector_port).__enter__()
        collector.subscribe("tb1/#")
        before = rules.read_bytes()
        take_away(layout, NODE)
        revoke(layout, now(), lambda _line: None)
        after = rules.read_bytes()
        rules.write_bytes(before)
        reload(broker)
        other = node_credential(layout, Address("acme", "trial", "hall", "n2"))
        Client(layout, other, "n2").__enter__().close()  # a connection that is made after the reload
        assert node.publish(NODE.topic("data", "_", "x"), b"revoked alone") == 0
        collector.wait_for(NODE.topic("data", "_", "x"), b"revoked alone")
        rules.write_bytes(after)
        reload(broker)
        wait_until(lambda: node.publish(NODE.topic("data", "_", "x"), b"denied") == 135, "the rules are read")
        collector.heard.clear()
        node.publish(NODE.topic("data", "_", "x"), b"denied")
        collector.publish(NODE.topic("ack"), b"after")
        collector.wait_for(NODE.topic("ack"), b"after")  # the broker has passed on all that was before
        assert collector.topics() == {NODE.topic("ack")}
        assert node.heard == []
        assert not node.ended.is_set()
        node.close()
        collector.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(
    os.geteuid() != 0 or owner("mosquitto") is None, reason="needs root and the user mosquitto"
)
def test_mosquitto_reads_its_files_after_it_has_given_up_the_rights_of_root(open_folder: Path) -> None:
    layout = new_site(open_folder / "site", broker_user="mosquitto")
    with running(layout) as broker:
        status = Path(f"/proc/{broker.pid}/status").read_text()
        (uids,) = [line for line in status.splitlines() if line.startswith("Uid:")]
        found = owner("mosquitto")
        assert found is not None
        assert set(uids.split()[1:]) == {str(found.uid)}
        with Client(layout, node_credential(layout, NODE), "n") as node:
            assert node.publish(NODE.topic("data", "_", "x")) in (0, 16)
            (layout.path("nodes") / f"{NODE.client_id}.pem").unlink()
        assert layout.path("broker/data/mosquitto.pid").exists()
    for name in ("broker/broker.key", "broker/acl"):
        os.chown(layout.path(name), 0, 0)
        words = [find("mosquitto"), "-c", str(layout.path("mosquitto.conf"))]
        child = Child("mosquitto", words, open_folder / "refused.log")
        child.start()
        wait_until(lambda: not child.pid, f"it ends without {name}")  # noqa: B023
        make(layout, now(), lambda _line: None)  # it gives the file back
    with running(layout):
        pass


async def test_the_broker_survives_reading_its_files_while_a_node_is_away(tmp_path: Path) -> None:
    layout = new_site(tmp_path / "site")
    certificate, key = node_credential(layout, NODE)
    broker = Broker(url=layout.site.url, ca_file=layout.path("ca.pem"), cert_file=certificate, key_file=key)
    options = await connect_options(broker, NODE.client_id, "5", NODE.topic("status"), b"{}")

    def comes() -> BlockingClient:
        client = BlockingClient(options, Handlers())
        client.open()
        return client

    def note(what: str, count: int) -> None:
        wait_until(lambda: layout.path("broker.log").read_text().count(what) >= count, what)

    with running(layout) as child:
        for count in range(1, 11):
            comes().close()  # as a killed agent does
            note(f"Client {NODE} closed its connection", count)
        clients = []
        for _ in range(2):
            reload(child)
            await asyncio.sleep(0.7)  # it looks for signals each 0.1 s
            clients.append(comes())
        for _ in range(4):  # it looks at its sessions each second
            await asyncio.sleep(0.7)
            assert child.pid, "the broker runs"
        for client in clients:
            client.close()
