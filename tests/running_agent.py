"""A real agent process on a real broker, for tests that change its configuration while it runs."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from agent.health import read_status, status_lines
from edgebed.processes import Child, edgebed_command
from tests import paho_client
from tests.polling import wait_until
from wire import codec
from wire.clock import Clock
from wire.messages import Batch

NODE = "t/p/s/n"
BASE = f"tb1/{NODE}"
GUARD_S = 240.0  # a busy machine may take long


def replay(file: str = "rows.csv", **options: Any) -> dict[str, Any]:
    """A device that plays a recording at 50 rows a second; `a` counts from 1."""
    fields = {"a": "a", "b": "b"}
    return {
        "adapter": "replay",
        "options": {
            "file": file, "time": "t", "rate_hz": 50, "stream": "rows", "fields": fields, **options
        },
    }  # fmt: skip


def write_rows(path: Path, rows: int = 50_000) -> None:
    """Write the recording of `replay`."""
    path.write_text(_recording(rows))


@cache
def _recording(rows: int) -> str:
    return "t,a,b\n" + "".join(f"{i / 50},{i + 1},{-i}\n" for i in range(rows))


class RunningAgent:
    """An agent of `folder` with the config `document`, which tests change and write again."""

    def __init__(self, folder: Path, url: str, **keys: Any) -> None:
        self.folder = folder
        self.path = folder / "agent.yaml"
        self.state = folder / "state"
        write_rows(folder / "rows.csv")
        self.document: dict[str, Any] = {
            "node": NODE,
            "broker": {"url": url},
            "state": "state",
            "devices": {"arm": replay()},
            **keys,
        }
        self.write()
        command = edgebed_command("agent", "run", str(self.path))
        self.child = Child("agent", command, folder / "agent.log")

    def write(self) -> None:
        """Write the config."""
        self.path.write_text(yaml.safe_dump(self.document, sort_keys=False))

    def start(self) -> None:
        """Start the process and wait until its devices and models are there."""
        before = self.status().get("boot")
        self.child.start()
        pid = self.child.pid
        wait_until(lambda: self._is_ready(pid, before), "the agent is ready", GUARD_S)

    def _is_ready(self, pid: int, before: str | None) -> bool:
        assert self.child.pid == pid, f"the agent has ended: {self.child.log.read_text()[-2_000:]}"
        now = self.status()  # the one of a killed agent states that it runs
        return bool(now.get("running")) and now["boot"] != before

    def status(self) -> dict[str, Any]:
        """The agent's status.json; {} before there is one."""
        try:
            found: dict[str, Any] = json.loads((self.state / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def reload(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run `edgebed agent reload`."""
        command = edgebed_command("agent", "reload", str(self.path), *options)
        return subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=False)

    def lines(self) -> list[str]:
        """The lines of `edgebed agent status`."""
        return list(status_lines(read_status(self.state, NODE, Clock())))

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """The first status for which `condition` holds."""
        found: dict[str, Any] = wait_until(
            lambda: (now := self.status()) and condition(now) and now, f"{what}: {self.status()}", GUARD_S
        )
        return found


class Subscriber:
    """Keeps the newest body of each topic and every batch, by topic and number."""

    def __init__(self, port: int) -> None:
        self.newest: dict[str, bytes] = {}
        self.batches: dict[str, dict[int, Batch]] = {}
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "subscriber")
        subscribed = threading.Event()
        self.client.on_message = self._take
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_connect = lambda client, *_: client.subscribe("tb1/#", 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(GUARD_S)

    def _take(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        tail = message.topic.removeprefix(f"{BASE}/")
        if tail.startswith("data/") and message.payload:
            batch = msgspec.json.decode(codec.plain(message.payload), type=Batch)
            self.batches.setdefault(tail, {})[batch.seq] = batch
        self.newest[tail] = message.payload

    def values(self, tail: str, field: str = "a") -> list[Any]:
        """Every value of a stream that arrived, in order."""
        found = self.batches.get(tail, {})
        return [value for seq in sorted(found) for value in found[seq].f[field]]

    def body(self, tail: str) -> dict[str, Any]:
        """The newest body of a topic; {} before the first."""
        body = self.newest.get(tail)
        return json.loads(codec.plain(body)) if body else {}

    def publish(self, tail: str, body: bytes | dict[str, Any], node: str = NODE) -> None:
        """Publish a retained message, as a controller does, and wait for the broker."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.client.publish(f"tb1/{node}/{tail}", data, qos=1, retain=True).wait_for_publish(GUARD_S)

    def close(self) -> None:
        """Disconnect."""
        paho_client.end(self.client)
