"""Two collectors with one id on a real broker: one of them stops, and the other one goes on undisturbed."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from collector.app import Collector
from collector.config import CollectorConfig, Http
from collector.mqtt import connection, link, rival
from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from tests import paho_client
from tests.brokers import LONG_TEST_KINDS
from tests.polling import until, wait_until
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import ConfigError

pytestmark = pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)

WORDS = "another client with the id 'collector-1' is connected to .*0x8E"


@asynccontextmanager
async def collecting(
    store: Path, broker: BrokerProcess
) -> AsyncIterator[tuple[Collector, asyncio.Task[None]]]:
    collector = Collector(
        CollectorConfig(broker=Broker(url=broker.url), store=store, http=Http(port=0)), Clock()
    )
    running = asyncio.create_task(collector.run())
    try:
        yield collector, running
    finally:
        collector.stop()
        await asyncio.wait({running}, timeout=60)
        assert running.done()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PROBE_EVERY_S", 0.3)


async def test_the_second_one_refuses_to_run_and_the_first_goes_on(
    tmp_path: Path, broker: BrokerProcess, hurried: None
) -> None:
    async with collecting(tmp_path / "first", broker) as (first, _):
        await until(lambda: first.link.state.state == "online")
        for _ in range(2):
            async with collecting(tmp_path / "second", broker) as (second, running):
                with pytest.raises(ConfigError, match=WORDS) as refused:
                    await asyncio.wait_for(running, 60)
                assert second.link.connections == 0, "it did not take over the connection"
            assert refused.value.exit_code == 78
        assert (first.link.state.state, first.link.state.connects) == ("online", 1)


def test_a_second_process_exits_with_78_and_one_sentence(tmp_path: Path, broker: BrokerProcess) -> None:
    def command(store: str) -> list[str]:
        options = ("--store", str(tmp_path / store), "--broker", broker.url, "--port", "0")
        return list(edgebed_command("collector", "run", *options))

    with Child("collector", command("first"), tmp_path / "first.log") as first:
        first.first_line()
        wait_until(lambda: "connected to" in (tmp_path / "first.log").read_text())
        second = subprocess.run(command("second"), capture_output=True, text=True, timeout=60)
    assert second.returncode == 78
    (line,) = [line for line in second.stderr.splitlines() if "another client" in line]
    assert "stop one of the two, or give this one another id" in line
    assert "Traceback" not in second.stderr


async def test_a_collector_that_died_does_not_block_the_next_one(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim of a killed collector is retained, but no probe comes of it."""
    monkeypatch.setattr(rival, "ALIVE_S", 1.0)
    for store in ("first", "first", "second"):
        async with collecting(tmp_path / store, broker) as (collector, running):
            await until(lambda collector=collector: collector.link.state.state == "online")
            assert not running.done()
            monkeypatch.setattr(connection.Connection, "_end", lambda _self: None)  # like a kill: no farewell


class Stranger:
    """A client with the collector's id, as an earlier release: it always connects again, and sends probes."""

    def __init__(self, port: int, version: MQTTProtocolVersion) -> None:
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id="collector-1",
            protocol=version,
            clean_session=None if version == MQTTProtocolVersion.MQTTv5 else False,
        )
        self.client.reconnect_delay_set(1, 1)
        self._stop = threading.Event()
        self._probing = threading.Thread(target=self._probe)
        self.client.connect_async("127.0.0.1", port)

    def __enter__(self) -> Stranger:
        self.client.loop_start()
        self._probing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._probing.join()
        paho_client.end(self.client)

    def _probe(self) -> None:
        while not self._stop.wait(0.3):
            if self.client.is_connected():
                self.client.publish("tb1/_sys/collector-1/probe/_/status", b'{"probe":1}', qos=1)


async def test_one_that_is_taken_over_again_and_again_stops(tmp_path: Path, broker: BrokerProcess) -> None:
    version = MQTTProtocolVersion.MQTTv311 if broker.kind == "nats" else MQTTProtocolVersion.MQTTv5
    async with collecting(tmp_path / "store", broker) as (collector, running):
        await until(lambda: collector.link.state.state == "online")
        with Stranger(broker.port, version), pytest.raises(ConfigError, match=WORDS):
            await running
        assert collector.link.state.connects <= link._EARLY + 3, "not a war without end"
