"""Measure the durable samples per second of the collector beside mosquitto_sub, which only reads."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgebed.broker import BrokerProcess, free_port
from edgebed.processes import Child, edgebed_command
from wire.codec import encode
from wire.errors import Unreachable
from wire.messages import Batch, Scalar
from wire.topics import Address

FIELDS = 6
PLANS = {1: 12_000, 10: 8_000, 100: 4_000}  # samples per message -> messages
NODES = 40  # each stays below the collector's limit for one node


def run() -> list[dict[str, Any]]:
    """Return a row per batch size: both drain the same number of messages from the same mosquitto."""
    if shutil.which("mosquitto_sub") is None:
        raise Unreachable("mosquitto_sub is not installed: apt-get install mosquitto-clients")
    rows = []
    for samples, messages in PLANS.items():
        ours, peer = [], []
        for _ in range(2):  # alternate and take the best of each, because the machine is shared
            # mosquitto without persistence, whose cost would count for both sides
            with (
                tempfile.TemporaryDirectory() as name,
                BrokerProcess("mosquitto", Path(name) / "broker", persistent=False) as broker,
            ):
                peer.append(_mosquitto_sub(broker, samples, messages))
                ours.append(_collector(Path(name), broker, samples, messages))
        best, merely_read = max(ours) * samples, max(peer) * samples
        rows.append(
            {
                "what": f"durable samples/s, {samples} a message ({FIELDS} fields)",
                "ours": round(best),
                "peer": round(merely_read),
                "ratio": best / merely_read,
                "unit": "samples/s; peer: mosquitto_sub reading",
                "limit": "",
            }
        )
    return rows


def _mosquitto_sub(broker: BrokerProcess, samples: int, messages: int) -> float:
    command = ["mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-i", "peer", "-c", "-q", "1"]
    command += ["-t", "tb1/+/+/+/+/data/#"]
    subprocess.run([*command, "-E"], check=True, capture_output=True)
    _publish(broker, samples, messages)
    began = time.monotonic()
    subprocess.run([*command, "-C", str(messages)], check=True, stdout=subprocess.DEVNULL)
    return messages / (time.monotonic() - began)


def _collector(folder: Path, broker: BrokerProcess, samples: int, messages: int) -> float:
    port = free_port()
    command = edgebed_command(
        "collector", "run", "--store", str(folder / "store"), "--broker", broker.url, "--port", str(port)
    )
    child = Child("collector", command, folder / "collector.log")

    def health() -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health", timeout=10) as answer:
            return json.load(answer)

    with child:
        child.first_line()
        while health()["broker"]["state"] != "online":
            time.sleep(0.02)
    _publish(broker, samples, messages)
    child.out.unlink()
    with child:
        child.first_line()
        while (found := health())["stored"] < messages:
            time.sleep(0.02)
        took_s = (found["now"] - found["broker"]["since"]) / 1000
    return float(messages / took_s)


def _publish(broker: BrokerProcess, samples: int, messages: int) -> None:
    """Publish `messages` messages, which wait at the broker for absent sessions."""
    dice = random.Random(1)
    run_id = f"{dice.getrandbits(32):08x}{time.monotonic_ns() % 2**32:08x}"
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(500)
    done = threading.Event()
    left = messages

    def on_publish(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    client.on_publish = on_publish
    client.connect(broker.host, broker.port)
    client.loop_start()
    columns: dict[str, list[Scalar]] = {
        f"f{n}": [round(dice.gauss(0, 10), 3) for _ in range(samples)] for n in range(FIELDS)
    }
    nodes = [Address("acme", "bench", "hall", f"node-{n}") for n in range(NODES)]
    for number in range(messages):
        node, seq = nodes[number % NODES], number // NODES + 1
        t0 = 1_795_356_000_000 + seq * samples * 20
        batch = Batch(ep=run_id, seq=seq, t0=t0, per=20, n=samples, f=columns)
        client.publish(node.topic("data", "arm", "joints"), encode(batch), qos=1)
    if not done.wait(120):
        raise Unreachable("the broker did not take the messages within 120 s")
    client.disconnect()
    client.loop_stop()
