"""nats-server as the broker of one company: the same matrix, and the one weakness that is known."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebed.site.make import make
from edgebed.site.settings import viewer_user
from tests.integration.test_site_rights import CHECKS, COLLECTOR, OTHERS, VICTIM, Stage, collectors_door
from tests.polling import wait_until
from tests.site_broker import Client, edgebed, new_site, node_credential, now, running
from wire.topics import Address

VIEWER = "viewer-of-another-pilot"
NODES = {actor: node for actor, node in OTHERS.items() if node.tenant == VICTIM.tenant}
# nats-server does not bind the client id to the user
KNOWN = {"client id, clean start", "client id, kept session"}


@pytest.fixture(scope="module", autouse=True)
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("nats")
    layout = new_site(folder / "site", broker="nats", tenant="acme", viewers=["acme/other"])
    credentials = {actor: node_credential(layout, node) for actor, node in NODES.items()}
    credentials["victim"] = node_credential(layout, VICTIM)
    viewer = layout.path(f"viewers/{viewer_user('acme/other')}")
    collector = layout.path(f"collectors/{COLLECTOR}")
    credentials[VIEWER] = (viewer / "viewer.pem", viewer / "viewer.key")
    credentials[COLLECTOR] = (collector / "collector.pem", collector / "collector.key")
    make(layout, now(), lambda _line: None)  # each node is in the configuration
    with running(layout):
        yield Stage(layout, credentials, {**NODES, VIEWER: OTHERS["node-of-another-pilot"]}, v5=False)


@pytest.fixture
def stage(broker: Stage) -> Iterator[Stage]:
    broker.open()
    yield broker
    broker.close()


@pytest.mark.parametrize("actor", [*NODES, VIEWER])
@pytest.mark.parametrize("check", [name for name, check in CHECKS.items() if check is not collectors_door])
def test_what_others_of_the_company_can_do(stage: Stage, check: str, actor: str) -> None:
    leaks, effects = CHECKS[check](stage, actor, False)
    assert leaks == 0
    assert bool(effects) == (check in KNOWN)


def test_no_client_of_the_own_protocol_of_nats_can_connect(broker: Stage) -> None:
    port = broker.layout.site.collector_port
    for login in ("", '"user":"CN=collector-1","pass":"",', '"user":"CN=collector-1",'):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b'CONNECT {%s"verbose":true,"pedantic":false}\r\nPING\r\n' % login.encode())
            answer = b""
            while data := client.recv(4096):
                answer += data
        assert b"'Authorization Violation'" in answer
        assert b"PONG" not in answer


def test_a_node_can_be_added_and_removed_while_the_broker_runs(tmp_path: Path, stage: Stage) -> None:
    node = Address("acme", "trial", "hall", "n9")
    site = str(stage.layout.folder)
    added = edgebed("node", "add", str(node), "--site", site, "--out", str(tmp_path / "n9"))
    assert (added.code, added.text.count("\n")) == (0, 1), added.text
    credential = (tmp_path / "n9/node.pem", tmp_path / "n9/node.key")
    client = Client(stage.layout, credential, node.client_id, v5=False)
    assert client.is_accepted()
    client.publish(node.topic("data", "_", "x"), b"hello")
    stage.collector.wait_for(node.topic("data", "_", "x"), b"hello")
    removed = edgebed("node", "remove", str(node), "--site", site)
    assert removed.code == 0, removed.text
    wait_until(client.ended.is_set, "its connection is ended")
    client.close()
    again = Client(stage.layout, credential, node.client_id, v5=False)
    assert not again.is_accepted()
    again.close()
    stage.settle()  # the others go on


def test_a_node_of_another_company_gets_no_certificate(tmp_path: Path, broker: Stage) -> None:
    done = edgebed(
        "node", "add", "beta/trial/hall/n1", "--site", str(broker.layout.folder), "--out", str(tmp_path / "x")
    )
    assert done.code == 78
    assert "is of another company than acme: nats-server does not keep companies apart" in done.text
    assert not (tmp_path / "x").exists()
