"""Compare agent and ThingsBoard's gateway over a link that drops every byte for 40 s, at 50 messages/s.

Both read the same device topic of one broker and send to another, each through its own `FaultProxy`. Both
links fail at the same moment. Only the addresses are changed in the peer.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import venv
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from edgebed.broker import BrokerProcess
from edgebed.installation import AgentSetup, Installation
from edgebed.processes import Child
from simulators.faults import FaultProxy
from wire.clock import Clock

PEER = "thingsboard-gateway==3.8.5"
RATE_HZ = 50
STALL_S = 40.0
DRAIN_S = 60.0  # time to send what was kept; both are idle long before
TOPIC = "device/counter"
# the platform's answer without limits: its default number of messages in flight
_LIMITS = {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": {}}


def run() -> list[dict[str, Any]]:
    """Return one row for the stall, one for a graceful stop at 1,000 messages a second."""
    try:
        peer = _peer()
    except subprocess.CalledProcessError:
        return [{"what": f"{PEER} cannot be installed here: not measured"}]
    with tempfile.TemporaryDirectory(prefix="edgebed-stall-") as name:
        return asyncio.run(_measure(Path(name), peer))


def _peer() -> Path:
    """Return the peer's program in a virtual environment of its own, made once."""
    folder = Path(__file__).parent.parent / "test-output" / "peer"
    program = folder / "bin" / "thingsboard-gateway"
    if not program.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", PEER], check=True, stdout=sys.stderr)
    return program


async def _measure(folder: Path, peer: Path) -> list[dict[str, Any]]:
    rows = []
    async with AsyncExitStack() as stack:
        device = stack.enter_context(BrokerProcess("mosquitto", folder / "device"))
        setup = AgentSetup("box", _config(folder, device), "counter")
        installation = await stack.enter_async_context(
            Installation(folder / "installation", [setup], broker="mosquitto")
        )
        link = await stack.enter_async_context(FaultProxy(installation.broker.port))
        theirs = stack.enter_context(_Sink(installation.broker))
        gateway = stack.enter_context(_gateway(folder / "peer", peer, device.port, link.port))
        source = stack.enter_context(_Source(device))
        await _until("both are there", lambda: _both(source, installation, theirs), gateway)
        first = source.sent
        for each in (link, installation.links["box"]):
            each.black_hole()
        await source.send(RATE_HZ, round(RATE_HZ * STALL_S))
        for each in (link, installation.links["box"]):
            each.heal()
            each.cut()
        await asyncio.sleep(DRAIN_S)
        numbers = set(range(first, source.sent))
        ours = await _stored(installation)
        rows.append(
            {
                "what": f"lost of {len(numbers):,} records in a {STALL_S:g} s stall at {RATE_HZ}/s",
                "ours": len(numbers - set(ours)),
                "peer": len(numbers - set(theirs.seen)),
                "unit": f"records; peer: {PEER}, SQLite storage, QoS 1",
                "limit": "0",
            }
        )
        rows.append(
            {
                "what": "the same records stored or received twice",
                "ours": len(ours) - len(set(ours)),
                "peer": len(theirs.seen) - len(set(theirs.seen)),
                "unit": "records",
                "limit": "0",
            }
        )
        rows.append(await _graceful(installation, theirs, source, gateway))
    return rows


async def _graceful(
    installation: Installation, theirs: _Sink, source: _Source, gateway: Child
) -> dict[str, Any]:
    """Stop both in order during 1,000 records a second, start them again, count what is lost."""
    first = source.sent
    sending = asyncio.create_task(source.send(1000, 5000), name="sending")
    await asyncio.sleep(3)
    ended = source.sent  # records sent before this had a second to be taken
    await asyncio.sleep(1)
    await asyncio.gather(
        asyncio.to_thread(installation.agents["box"].stop), asyncio.to_thread(gateway.stop, 30.0)
    )
    await sending
    installation.agents["box"].start()
    gateway.start()
    await asyncio.sleep(DRAIN_S)
    numbers = set(range(first, ended))
    return {
        "what": "lost of those a second old at a graceful stop under 1,000/s",
        "ours": len(numbers - set(await _stored(installation))),
        "peer": len(numbers - set(theirs.seen)),
        "unit": f"records of {len(numbers):,}",
        "limit": "0",
    }


async def _stored(installation: Installation) -> list[int]:
    route = "/api/v1/nodes/acme/bench/hall/box/devices/counter/rows?stream=rows&from=0"
    rows = await installation.until("the collector answers", lambda: installation.api(route))
    return [int(number) for number in rows["f"].get("n", [])]


async def _both(source: _Source, installation: Installation, theirs: _Sink) -> bool:
    await source.send(RATE_HZ, RATE_HZ)
    return bool(theirs.seen) and bool(await _stored(installation))


async def _until(what: str, condition: Any, gateway: Child) -> None:
    for _ in range(90):
        if await condition():
            return
    raise TimeoutError(f"never: {what}\n{gateway.tail(20)}")


def _config(folder: Path, device: BrokerProcess) -> Path:
    document = {
        "node": "acme/bench/hall/box",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "state": "state",
        "devices": {
            "counter": {
                "adapter": "mqtt",
                "options": {
                    "url": device.url,
                    "topics": [TOPIC],
                    "qos": 1,
                    "stream": "rows",
                    "fields": {"n": {"path": "n", "t": "i64"}},
                    "silence_s": 3600,
                },
                "stall_s": 3600,
            }
        },
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _gateway(folder: Path, program: Path, device_port: int, link_port: int) -> Child:
    """Start the peer as its documentation recommends for a durable store: SQLite, QoS 1, no rate limit."""
    folder.mkdir()
    main = {
        "thingsboard": {
            "host": "127.0.0.1",
            "port": link_port,
            "remoteShell": False,
            "remoteConfiguration": False,
            "statistics": {"enable": False},
            "maxPayloadSizeBytes": 8196,
            "minPackSendDelayMS": 50,
            "minPackSizeToSend": 500,
            "checkConnectorsConfigurationInSeconds": 3600,
            "handleDeviceRenaming": False,
            "security": {"type": "accessToken", "accessToken": "peer"},
            "qos": 1,
            "rateLimits": "0:0,",
            "dpRateLimits": "0:0,",
            "messagesRateLimits": "0:0,",
            "deviceMessagesRateLimits": "0:0,",
            "deviceRateLimits": "0:0,",
            "deviceDpRateLimits": "0:0,",
        },
        "storage": {"type": "sqlite", "data_file_path": f"{folder}/data/"},
        "connectors": [{"type": "mqtt", "name": "counter", "configuration": "mqtt.json"}],
    }
    (folder / "data").mkdir()
    (folder / "logs").mkdir()
    # with the device's time: records that it stamps itself in the same millisecond replace each other
    kind = {"type": "integer", "key": "n", "value": "${n}", "tsField": "${ts}"}
    connector = {
        "broker": {
            "host": "127.0.0.1",
            "port": device_port,
            "clientId": "peer-reader",
            "version": 5,
            "maxMessageNumberPerWorker": 10,
            "maxNumberOfWorkers": 100,
            "security": {"type": "anonymous"},
        },
        "mapping": [
            {
                "topicFilter": TOPIC,
                "subscriptionQos": 1,
                "converter": {
                    "type": "json",
                    "deviceInfo": {
                        "deviceNameExpressionSource": "constant",
                        "deviceNameExpression": "counter",
                        "deviceProfileExpressionSource": "constant",
                        "deviceProfileExpression": "default",
                    },
                    "sendDataOnlyOnChange": False,
                    "timeout": 60000,
                    "attributes": [],
                    "timeseries": [kind],
                },
            }
        ],
        "requestsMapping": {},
    }
    (folder / "tb_gateway.json").write_text(json.dumps(main))
    (folder / "mqtt.json").write_text(json.dumps(connector))
    logs = program.parents[1].glob("lib/python3*/site-packages/thingsboard_gateway/config/logs.json")
    (folder / "logs.json").write_text(next(logs).read_text().replace("./logs/", f"{folder}/logs/"))
    command = ["env", f"TB_GW_CONFIG_DIR={folder}", "sh", "-c", f"cd {folder} && exec {program}"]
    return Child("peer", command, folder / "peer.log")


class _Client:
    def __init__(self, broker: BrokerProcess, name: str) -> None:
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{name}-{os.getpid()}")
        self.client.max_queued_messages_set(0)
        self.client.max_inflight_messages_set(1000)
        self._broker = broker

    def __enter__(self) -> Any:
        self.client.connect(self._broker.host, self._broker.port)
        self.client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class _Source(_Client):
    """The device: it sends numbered messages at an even rate."""

    def __init__(self, broker: BrokerProcess) -> None:
        super().__init__(broker, "source")
        self._clock = Clock()
        self.sent = 0

    async def send(self, rate_hz: float, count: int) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number in range(count):
            await asyncio.sleep(max(0.0, began_s + number / rate_hz - loop.time()))
            self.client.publish(TOPIC, json.dumps({"n": self.sent, "ts": self._clock.now_ms()}), qos=1)
            self.sent += 1


class _Sink(_Client):
    """Receives from the peer in place of the platform, and collects every number that arrives."""

    def __init__(self, broker: BrokerProcess) -> None:
        super().__init__(broker, "sink")
        self.seen: list[int] = []
        self.client.on_message = self._take

    def __enter__(self) -> Any:
        super().__enter__()
        self.client.subscribe([("v1/gateway/telemetry", 1), ("v1/devices/me/rpc/request/+", 1)])
        return self

    def _take(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic.startswith(
            "v1/devices/me/rpc/request/"
        ):  # the peer waits for its limits before it sends
            answer = message.topic.replace("request", "response")
            client.publish(answer, json.dumps(_LIMITS), qos=1)
            return
        for packs in json.loads(message.payload).values():
            self.seen += [pack["values"]["n"] for pack in packs if "n" in pack.get("values", {})]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
