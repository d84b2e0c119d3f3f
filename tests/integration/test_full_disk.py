"""A disk of an agent that is full at each step of a version: a real file system, broker and processes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.integration.test_rollout import NAMES, Site
from tests.polling import wait_until
from tests.running_agent import GUARD_S, RunningAgent
from wire import codec
from wire.messages import Batch

pytestmark = pytest.mark.slow
SIZES = {
    "models": 6_000,
    "": 24_000,
}  # kB of the disk of this folder of the state; "": the outbox is on it too
PAD = 2_000_000  # bytes that a large package has more


class Seen:
    """The results of the model that a broker passes on."""

    def __init__(self, port: int) -> None:
        self.values: list[Any] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("tb1/t/p/s/n1/data/arm/m", 1)
        self._client.loop_start()

    def _take(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        batch = msgspec.json.decode(codec.plain(message.payload), type=Batch)
        (column,) = batch.f.values()
        self.values += column

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class SmallDisk:
    """A small file system at a folder of the state of the one agent of a site."""

    def __init__(self, folder: Path, name: str) -> None:
        self.site = Site(folder, NAMES[:1])
        self.agent: RunningAgent = self.site.agents["n1"]
        self.agent.document["outbox"] = {"max_mb": 8}
        self.agent.write()
        self.disk = self.agent.state / name
        self.disk.mkdir(parents=True)
        options = ["-t", "tmpfs", "-o", f"size={SIZES[name]}k", "tmpfs", str(self.disk)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr}")
        self._fill = self.disk / "fill"

    @property
    def free(self) -> int:
        found = os.statvfs(self.disk)
        return found.f_bavail * found.f_frsize

    def fill(self, left: int = 0) -> None:
        """Leave `left` bytes of the disk."""
        with self._fill.open("ab") as file:
            while (more := self.free - left) > 0:
                file.write(bytes(min(more, 65_536)))
                file.flush()

    def make_room(self) -> None:
        self._fill.unlink()

    def pushed(self, name: str, value: float, pad: int = 0) -> str:
        package = self.site.constant(name, value)
        if pad:
            (package / "pad.bin").write_bytes(os.urandom(pad))
        return self.site.push(package)

    def reported(self, rollout: str, state: str) -> None:
        """Wait until the collector knows the state: `status.json` may stay as it was on a full disk."""

        def is_so(now: dict[str, Any]) -> bool:
            return (now["devices"][0]["slot"] or {}).get("state") == state

        self.site.until(rollout, is_so, f"it is {state}")

    def works(self, value: float) -> None:
        """Wait until the model that gives this value does so, and the collector stores rows."""
        seen, stored = Seen(self.site.broker.port), self.stored()
        try:
            wait_until(lambda: seen.values[-3:] == [value] * 3, f"{value:g}", GUARD_S)
        finally:
            seen.close()
        wait_until(lambda: self.stored() > stored, "rows arrive", GUARD_S)

    def stored(self) -> int:
        (entry,) = self.site.collector.ask("ledger")["entries"]
        assert (entry["missing_count"], entry["gap_count"]) == (0, 0), entry
        return int(entry["rows_stored"])

    def paused(self, rollout: str) -> str:
        """The reason why a rollout is paused; it goes on after that."""
        found = self.site.until(rollout, lambda now: now["state"] == "paused", "it is paused")
        (device,) = found["devices"]
        assert device["why"].count("\n") == 0
        assert device["code"] == "disk-full", device
        return str(device["why"])

    def goes_on(self, rollout: str) -> None:
        """Resume a rollout when there is room again."""
        self.site.run("rollout", "resume", rollout)
        self.site.until(rollout, lambda now: now["state"] == "done", "it is done")


@pytest.fixture(params=["models", ""], ids=["models", "state"])
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path, request.param)
    try:
        made.site.start()
        yield made
    finally:
        made.site.stop()
        subprocess.run(["umount", str(made.disk)], check=True)


def test_a_full_disk_at_each_step_leaves_the_model_and_the_rows(small: SmallDisk) -> None:
    one, two = small.pushed("one", 1.0, PAD), small.pushed("two", 2.0)
    small.fill(PAD + 500_000)
    refused = small.site.begin(one)
    assert "are missing of the package, and the disk of " in small.paused(refused), "at the download"
    assert not list((small.agent.state / "models" / "incoming").glob("*/*"))
    small.works(0.0)
    small.make_room()
    small.goes_on(refused)
    small.works(1.0)

    small.fill()
    refused = small.site.begin(two)
    assert "cannot be written: the disk is full; free some space" in small.paused(refused), "at the offer"
    small.works(1.0)
    small.make_room()
    small.goes_on(refused)
    small.works(2.0)

    three, hold = small.pushed("three", 3.0), small.agent.state / "models" / "hold"
    hold.touch()
    refused = small.site.begin(three)
    small.reported(refused, "waiting")
    small.fill()
    hold.unlink()
    small.fill()
    assert "cannot be written: the disk is full" in small.paused(refused), "at the swap"
    small.works(2.0)
    small.agent.child.kill()
    small.agent.child.start()
    small.works(2.0)
    small.make_room()
    small.goes_on(refused)
    small.works(3.0)


def test_a_disk_that_is_full_at_the_confirmation_or_in_the_download(small: SmallDisk) -> None:
    four = small.pushed("four", 4.0, PAD)
    agent = small.agent
    agent.document["versions"]["kb_per_s"] = 500.0
    agent.write()
    agent.child.stop()
    agent.start()
    wait_until(small.site._is_whole, "it is back", GUARD_S)
    begun = small.site.begin(four)
    incoming = agent.state / "models" / "incoming" / four / "pad.bin"
    wait_until(lambda: incoming.exists() and incoming.stat().st_size, "it arrives", GUARD_S)
    small.fill()
    assert "cannot be written: the disk is full" in small.paused(begun)
    assert not incoming.exists(), "what arrived makes room"
    small.works(0.0)
    small.make_room()
    small.goes_on(begun)
    small.works(4.0)

    five = small.pushed("five", 5.0)
    text = small.site.run(
        "rollout", "start", f"sha256:{five}", "--slot", "m", "--nodes", "t/*",
        "--confirm", "results>=100,soak_s<20", "--json",
    )  # fmt: skip
    begun = json.loads(text)["id"]
    small.reported(begun, "unconfirmed")
    small.fill()
    assert "cannot be written: the disk is full" in small.paused(begun), "at the confirmation"
    small.works(4.0)
    small.make_room()
    small.goes_on(begun)
    small.works(5.0)
