"""The broker launcher: it keeps its data over kill -9, and gives one sentence when it cannot start."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgebed.broker import BrokerProcess, free_port
from edgebed.processes import edgebed_command
from wire.errors import ConfigError, TryAgain


def test_a_message_for_an_absent_reader_survives_a_stop(broker: BrokerProcess) -> None:
    _session(broker, lambda reader: reader.subscribe("a/b", qos=1))
    _session(broker, lambda _: None, "writer", publish=b"kept")
    broker.stop()
    broker.start()
    assert _session(broker, lambda _: None, wait_for=1) == [b"kept"]


def _session(
    broker: BrokerProcess, act: object, name: str = "reader", publish: bytes = b"", wait_for: int = 0
) -> list[bytes]:
    """Connect once with a persistent session: subscribe, publish or receive, then disconnect."""
    got: list[bytes] = []
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=name, clean_session=False, protocol=mqtt.MQTTv311
    )
    steps = {"connected": False, "acked": not (publish or name == "reader") or bool(wait_for)}
    client.on_connect = lambda *_: steps.update(connected=True)
    client.on_message = lambda _client, _data, message: got.append(message.payload)
    client.on_subscribe = client.on_publish = lambda *_: steps.update(acked=True)
    client.connect(broker.host, broker.port)
    for _ in range(1000):
        client.loop(0.02)
        if steps["connected"] and act:
            act(client)  # type: ignore[operator]
            if publish:
                client.publish("a/b", publish, qos=1)
            act = None
        if steps["connected"] and steps["acked"] and len(got) >= wait_for:
            break
    client.disconnect()
    return got


def test_a_free_port_is_none_that_the_kernel_gives_away() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = [free_port() for _ in range(50)]
    assert len(set(found)) == len(found)
    if low > 20_000:
        assert not [port for port in found if low <= port <= high]
    with socket.socket() as taken, socket.socket() as left:
        taken.bind(("127.0.0.1", free_port()))
        left.bind(("127.0.0.1", free_port()))
        assert free_port() not in (taken.getsockname()[1], left.getsockname()[1])
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        free_port("192.0.2.1")


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TryAgain, match=f"port {port} on 127.0.0.1 is in use"):
            BrokerProcess("nats", tmp_path, port=port).start()
        done = subprocess.run(
            edgebed_command("broker", "--port", str(port), "--data", str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (75, "")
        assert done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        edgebed_command("broker", "--port", str(free_port()), "--data", str(tmp_path / "file/data")),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 78
    assert "cannot be written" in done.stderr
