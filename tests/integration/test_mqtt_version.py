"""A broker that drops MQTT 5 without an answer, as RabbitMQ 3.10 does: `auto` falls back to 3.1.1."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.uplink.broker_memory import BrokerMemory
from agent.uplink.connecting import connect_options
from collector.app import Collector
from collector.config import CollectorConfig, Http
from edgebed.broker import BrokerProcess
from tests.polling import until
from wire.broker import Broker
from wire.clock import Clock
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.errors import NoConnack


@asynccontextmanager
async def without_mqtt5(port: int, *, reset: bool) -> AsyncIterator[int]:
    """A port that passes connections on to a broker, and ends those of MQTT 5 at their CONNECT."""

    writers: list[asyncio.StreamWriter] = []
    handlers: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError):
            first = await reader.read(65_536)
            if first[first.index(b"MQTT") + 4] != 5:
                theirs, ours = await asyncio.open_connection("127.0.0.1", port)
                writers.append(ours)
                ours.write(first)
                await asyncio.gather(pass_on(reader, ours), pass_on(theirs, writer))
            elif reset:
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*handlers, return_exceptions=True)


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_the_collector_falls_back(tmp_path: Path, broker: BrokerProcess, reset: bool) -> None:
    async with without_mqtt5(broker.port, reset=reset) as port:
        config = CollectorConfig(
            broker=Broker(url=f"mqtt://127.0.0.1:{port}"), store=tmp_path / "store", http=Http(port=0)
        )
        collector = Collector(config, Clock())
        running = asyncio.create_task(collector.run())
        try:
            await until(lambda: collector.link.state.state == "online")
            assert collector.link.state.protocol == "3.1.1"
        finally:
            collector.stop()
            async with asyncio.timeout(60):
                await running


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_an_agent_falls_back(tmp_path: Path, broker: BrokerProcess, reset: bool) -> None:
    memory = BrokerMemory(tmp_path / "uplink.json", "auto")
    async with without_mqtt5(broker.port, reset=reset) as port:
        broker_section = Broker(url=f"mqtt://127.0.0.1:{port}")

        async def connected() -> None:
            options = await connect_options(broker_section, "a_b_c_n", memory.version, "t", b"{}")
            client = AsyncClient(options)
            await client.open()
            await client.close(1.0)

        assert memory.version == "5"
        with pytest.raises(NoConnack) as caught:
            await connected()
        assert memory.failed(caught.value), "try the other version at once"
        await connected()
    assert memory.version == "3.1.1"
