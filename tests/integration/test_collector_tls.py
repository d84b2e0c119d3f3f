"""The shipped mosquitto.conf and access rules: certificates identify the clients."""

from __future__ import annotations

import getpass
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from collector.config import CollectorConfig, Http
from collector.fleet.fleet import Fleet
from collector.ingest.writer import Ingest, IngestSettings
from collector.ledger.ledger import Ledger
from collector.mqtt.link import Link, LinkIdentity
from collector.mqtt.received import Receiver
from collector.store.store import SqliteStore
from collector.web.event_stream import Hub
from edgebed.broker import free_port, is_listening
from tests import paho_client
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import decode, encode
from wire.messages import Ack, Batch
from wire.topics import Address

DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
NODE = Address("acme", "junction", "street-1", "cam-01")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]) -> Path:
    folder, program = tmp_path_factory.mktemp("certificates"), require("openssl")

    def openssl(*arguments: str) -> None:
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=site", "-days", "2")
    for name in ("broker", "collector-1", NODE.client_id):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text("subjectAltName = IP:127.0.0.1")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-extfile", "ext", "-out", f"{name}.pem", "-days", "2",
        )  # fmt: skip
    return folder


@pytest.fixture
def site(tmp_path: Path, certificates: Path, require: Callable[[str], str]) -> Iterator[int]:
    """The shipped configuration with paths and port of the test."""
    port = free_port()
    text = (DEPLOY / "mosquitto.conf").read_text()
    for old, new in (
        ("/etc/mosquitto/edgebed/acl", str(DEPLOY / "acl.example")),
        ("/etc/mosquitto/edgebed", str(certificates)),
        ("/var/lib/mosquitto/", f"{tmp_path}/"),
        ("listener 8883", f"listener {port} 127.0.0.1"),
        ("log_dest syslog", f"log_dest file {tmp_path}/mosquitto.log"),
    ):
        assert old in text
        text = text.replace(old, new)
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"{text}\nuser {getpass.getuser()}\n")
    process = subprocess.Popen([require("mosquitto"), "-c", str(conf)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not is_listening("127.0.0.1", port):
        assert process.poll() is None, (tmp_path / "mosquitto.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield port
    process.terminate()
    process.wait(10)


def as_client(certificates: Path, name: str) -> mqtt.Client:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    client.tls_set_context(context)
    return client


def test_the_shipped_broker_configuration_carries_a_site(
    tmp_path: Path, certificates: Path, site: int
) -> None:
    broker = Broker(
        url=f"mqtts://127.0.0.1:{site}",
        ca_file=certificates / "ca.pem",
        cert_file=certificates / "collector-1.pem",
        key_file=certificates / "collector-1.key",
    )
    config = CollectorConfig(broker=broker, store=tmp_path / "store", http=Http(port=0))
    clock = Clock()
    store, ledger = SqliteStore(config.store, clock), Ledger()
    fleet = Fleet(clock, ledger)
    ingest = Ingest(store, fleet, Hub(), clock, IngestSettings(config.id))
    link = Link(broker, LinkIdentity(config.id), clock, Receiver(ingest.receive, ingest.is_full))
    acked, done = [], threading.Event()

    def on_message(_client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        acked.append(decode(message.payload, Ack))
        if sum(last - first + 1 for ack in acked for first, last in ack.ok) == 50:
            done.set()

    node = as_client(certificates, NODE.client_id)
    node.on_connect = lambda client, *_: client.subscribe(NODE.topic("ack"), 1)
    node.on_message = on_message
    try:
        ingest.start(link)
        link.start()
        deadline = time.monotonic() + 60
        while link.state.state != "online":
            assert time.monotonic() < deadline, link.state.why
            time.sleep(0.02)
        node.connect("127.0.0.1", site)
        node.loop_start()
        body = Batch(ep="00112233", seq=7, t0=1_795_356_000_000, per=1, n=1, f={"x": [1]})
        node.publish("tb1/acme/junction/street-1/cam-02/data/camera/frames", encode(body), 1)
        for seq in range(1, 51):
            body.seq = seq
            node.publish(NODE.topic("data", "camera", "frames"), encode(body), 1)
        assert done.wait(30), "the node's messages are acknowledged"
    finally:
        paho_client.end(node)
        link.hold()
        ingest.stop()
        link.stop()
        store.close()
    assert [(entry.node, entry.stored) for entry in ledger.entries()] == [(str(NODE), 50)]


def test_an_unknown_client_is_refused_with_a_reason(tmp_path: Path, certificates: Path, site: int) -> None:
    broker = Broker(url=f"mqtts://127.0.0.1:{site}", ca_file=certificates / "ca.pem")
    link = Link(broker, LinkIdentity("collector-1"), Clock(), Receiver(lambda _message: None, lambda: False))
    link.start()
    deadline = time.monotonic() + 60
    while link.state.state != "offline":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    why = link.state.why
    link.stop()
    assert why
    assert "certificate" in why.lower() or "closed" in why.lower() or "ended" in why.lower()
