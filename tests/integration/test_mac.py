"""Forged messages on a broker without access rules: an enrolled node ignores them, another one obeys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.identity import ENROLMENT, MAC_FILE
from collector.ledger.enrolled import EnrolledNodes, NodeKeys
from edgebed.broker import free_port
from edgebed.collector_api import CollectorApi
from edgebed.processes import Child, edgebed_command
from edgebed.site.enrolled import note_removal, noted
from edgebed.site.enrolment import enrol
from edgebed.site.layout import ENROLLED, MAC, Layout
from tests.integration.conftest import CollectorProcess
from tests.integration.test_enrolment import serving, token
from tests.polling import wait_until
from tests.running_agent import BASE, NODE, RunningAgent
from tests.site_broker import Client, edgebed, new_site, node_credential, now, running
from wire.clock import Clock
from wire.codec import decode, encode
from wire.errors import WireError
from wire.mac import checked, node_key, read_secret
from wire.messages import Ack, Cmd, Desired
from wire.topics import Address

pytestmark = pytest.mark.slow  # several real processes wait for what is refused

ULID = "01JD3X5Y6Z7A8B9C0D1E2F3G4"
OTHER = Address("other", "p", "s", "n")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Layout]:
    """A site with certificates, whose broker has no access rules."""
    layout = new_site(tmp_path / "site")
    config = layout.path("mosquitto.conf")
    lines = [line for line in config.read_text().splitlines() if not line.startswith("acl_file")]
    config.write_text("\n".join(lines) + "\n")
    with running(layout):
        yield layout


class Scene:
    """An agent that was enrolled, and a client of another company on the same broker."""

    def __init__(self, site: Layout, folder: Path, *, has_key: bool = True) -> None:
        identity = folder / "identity"
        with serving(site) as url:
            enrol(url, token(site, Address.parse(NODE)), identity, now())
        if not has_key:
            (identity / MAC_FILE).unlink()
            (identity / ENROLMENT).unlink()
        names = {"ca_file": "ca.pem", "cert_file": "node.pem", "key_file": "node.key"}
        self.agent = RunningAgent(folder, site.site.url, remote={"config": True, "soak_s": 1})
        self.agent.document["broker"] |= {key: str(identity / name) for key, name in names.items()}
        self.agent.write()
        self.forger = Client(site, node_credential(site, OTHER), OTHER.client_id)
        self.forger.subscribe("tb1/#")
        self.keys = NodeKeys(read_secret(site.path(MAC), "the secret"), EnrolledNodes(site.path(ENROLLED)))

    def __enter__(self) -> Scene:
        self.agent.start()
        self.agent.until(lambda now: now["connected"] and now["depth"] > 20, "messages wait")
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.child.stop()
        self.forger.close()

    def forge(self) -> None:
        """Acknowledge everything, send a command and another configuration."""
        at = Clock().now_ms()
        ack = Ack(ep=self.agent.status()["ep"], ok=[(1, 100_000)], by="collector-1", ts=at)
        command = Cmd(id=f"{ULID}H", ts=at, ttl_ms=60_000)
        desired = Desired(ver=7, ts=at, doc={"publish": {"arm": {"raw": False}}})
        for tail, body in (("ack", ack), ("cmd/_/ping", command), ("desired/config", desired)):
            assert self.forger.publish(f"{BASE}/{tail}", encode(body), retain=tail[0] == "d") in (0, 16)

    def heard(self, tail: str) -> list[dict[str, Any]]:
        """What the node published, decoded."""
        return [json.loads(body) for topic, body in list(self.forger.heard) if topic == f"{BASE}/{tail}"]


def test_without_a_key_each_forged_message_has_its_effect(site: Layout, tmp_path: Path) -> None:
    with Scene(site, tmp_path, has_key=False) as scene:
        scene.forge()
        scene.agent.until(lambda now: now["acked"] > 20, "messages are deleted that no collector stored")
        wait_until(lambda: scene.heard("res/_/ping"), "the command is answered")
        wait_until(
            lambda: any(one["ver"] == 7 for one in scene.heard("reported/config")),
            "the configuration changes",
        )


def test_an_enrolled_node_ignores_them_and_obeys_its_collector(site: Layout, tmp_path: Path) -> None:
    with Scene(site, tmp_path) as scene:
        scene.forge()
        found = scene.agent.until(lambda now: now["uplink"].get("mac_missing", 0) >= 3, "it refuses them")
        assert found["acked"] == 0
        assert "PROBLEM: messages on desired/config have no mac and are refused" in "\n".join(
            scene.agent.lines()
        )
        wait_until(
            lambda: any(one.get("code") == "mac-missing" for one in scene.heard("status")),
            "its status names it",
        )

        with site_collector(site, tmp_path / "collector") as collector:
            collector.online()
            scene.agent.until(lambda now: now["acked"] > 20, "it deletes what the collector has")
            collector.until(lambda: collector.ask("ledger")["entries"], "the ledger has the node")
            assert collector.ask("ledger")["strangers"] == []
        assert scene.heard("birth")[-1]["key"] == noted(site)[NODE].custody
        true = next(
            body for topic, body in scene.forger.heard if topic == f"{BASE}/ack" and b'"mac":"' in body
        )
        assert decode(true, Ack).by == "collector-1"

        # what the collector signed fits one topic and one node; the same again changes nothing
        before = scene.agent.until(lambda now: now["depth"] > 20, "messages wait again")
        wrong = before["uplink"].get("mac_wrong", 0)
        scene.forger.publish(f"{BASE}/cmd/_/ping", true)
        scene.forger.publish(
            f"{BASE}/ack",
            scene.keys.sign(
                f"tb1/{OTHER}/ack", encode(Ack(ep=before["ep"], ok=[(1, 100_000)], by="collector-1", ts=1))
            ),
        )
        scene.forger.publish(f"{BASE}/ack", true)
        after = scene.agent.until(
            lambda now: now["uplink"].get("mac_wrong", 0) >= wrong + 2, "both are refused"
        )
        assert after["acked"] < before["head"], "none of what waits was deleted"
        # commands and documents with the mac of the site
        at = Clock().now_ms()
        topic = f"{BASE}/cmd/_/ping"
        command = scene.keys.sign(topic, encode(Cmd(id=f"{ULID}J", ts=at, ttl_ms=60_000)))
        for count in (1, 2):
            scene.forger.publish(topic, command)
            wait_until(lambda: len(scene.heard("res/_/ping")) == count, "it is answered")  # noqa: B023
        assert [one["state"] for one in scene.heard("res/_/ping")] == ["done", "done"]
        topic = f"{BASE}/desired/config"
        documents = {
            ver: scene.keys.sign(
                topic, encode(Desired(ver=ver, ts=at, doc={"publish": {"arm": {"live_hz": ver}}}))
            )
            for ver in (2, 3)
        }
        for ver in (2, 3):
            scene.forger.publish(topic, documents[ver], retain=True)
            wait_until(
                lambda: any(
                    (one["ver"], one["state"]) == (ver, "applied")  # noqa: B023
                    for one in scene.heard("reported/config")
                ),
                f"document {ver} is in use",
            )
        scene.forger.publish(topic, documents[2], retain=True)  # one of before
        wait_until(lambda: "document 2 is older than 3" in scene.agent.child.log.read_text(), "it is ignored")
        assert scene.agent.status()["desired"]["ver"] == 3


def test_a_node_that_comes_back_gets_its_document_with_its_new_key(site: Layout, tmp_path: Path) -> None:
    topic, node = f"{BASE}/desired/config", Address.parse(NODE)
    secret = read_secret(site.path(MAC), "the secret")

    def generations(heard: list[tuple[str, bytes]]) -> set[int]:
        """With which keys the documents were signed."""
        return {
            generation
            for generation in (1, 2)
            for name, body in list(heard)
            if name == topic and fits(node_key(secret, NODE, generation), topic, body)
        }

    with Scene(site, tmp_path) as scene, site_collector(site, tmp_path / "collector") as collector:
        collector.online()
        collector.until(lambda: collector.ask("ledger")["entries"], "the node is known")
        api = CollectorApi(f"http://127.0.0.1:{collector.port}")
        api.change("PUT", f"nodes/{NODE}/desired", {"publish": {"arm": {"live_hz": 2}}})
        wait_until(lambda: generations(scene.forger.heard) == {1}, "it has a document")
        note_removal(site, node)  # `node remove`; the next enrolment gives the key of this generation
        wait_until(lambda: generations(scene.forger.heard) == {1, 2}, "it is signed again")
        later = Client(site, node_credential(site, OTHER), OTHER.client_id)
        later.subscribe(topic)
        wait_until(lambda: generations(later.heard), "the broker retained it")
        assert generations(later.heard) == {2}
        later.close()


def fits(key: bytes, topic: str, body: bytes) -> bool:
    try:
        checked(key, topic, body)
    except WireError:
        return False
    return True


def site_collector(site: Layout, folder: Path) -> CollectorProcess:
    """The collector of the site, with the config that `site init` wrote; its page is on loopback."""
    shutil.copytree(site.path("collectors/collector-1"), folder)
    config, port = folder / "collector.yaml", free_port()
    config.write_text(config.read_text() + f"http: {{port: {port}}}\n")
    made = CollectorProcess.__new__(CollectorProcess)
    made.port = port
    Child.__init__(
        made, "collector", edgebed_command("collector", "run", str(config)), folder / "collector.log"
    )
    return made


def test_a_collector_without_the_secret_is_named(site: Layout, tmp_path: Path) -> None:
    folder = tmp_path / "collector"
    shutil.copytree(site.path("collectors/collector-1"), folder)
    document = yaml.safe_load((folder / "collector.yaml").read_text())
    (folder / "mac.key").chmod(0o644)
    done = edgebed("collector", "run", str(folder / "collector.yaml"))
    assert (done.code, "mac_file" in done.text, "chmod 600" in done.text) == (78, True, True)
    (folder / "mac.key").unlink()
    done = edgebed("collector", "run", str(folder / "collector.yaml"))
    assert (done.code, "cannot be read: No such file" in done.text) == (78, True)
    del document["mac_file"]
    document["http"] = {"port": free_port()}
    (folder / "collector.yaml").write_text(yaml.safe_dump(document))
    child = Child(
        "collector", edgebed_command("collector", "run", str(folder / "collector.yaml")), folder / "log"
    )
    with Scene(site, tmp_path) as scene, child:
        found = scene.agent.until(lambda now: now["mac"], "its acknowledgements are refused")
        assert found["mac"]["code"] == "mac-missing"
        assert "set mac_file in the config of the collector" in found["mac"]["why"]
        assert found["acked"] == 0
