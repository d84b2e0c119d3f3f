"""Fixtures: brokers for the adapters of MQTT topics, and readings validated as the agent does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from adapters.base import Adapter, AdapterError, Reading
from agent.pipeline.validation import Validator
from edgebed.broker import BrokerProcess
from wire.messages import Quality


class Configured(BrokerProcess):
    """A mosquitto whose configuration lacks some lines and has others."""

    without: ClassVar[str] = ""
    added: str = ""

    def command(self) -> list[str]:
        """The command of edgebed's broker, with a changed configuration."""
        command = super().command()
        path = Path(command[-1])
        path.write_text(path.read_text().replace(self.without, "") + self.added)
        return command


class Roomy(Configured):
    """A mosquitto without the packet limit of edgebed's broker."""

    without = "max_packet_size 70000\n"


@pytest.fixture
def mosquitto(tmp_path: Path, require: Callable[[str], str]) -> Iterator[BrokerProcess]:
    """A running mosquitto, for tests that do not depend on the broker."""
    require("mosquitto")
    with BrokerProcess("mosquitto", tmp_path / "broker") as running:
        yield running


@pytest.fixture
def configured(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Callable[[str], BrokerProcess]]:
    """`configured(lines)` gives a running mosquitto with further lines of configuration."""
    require("mosquitto")
    with ExitStack() as running:

        def start(lines: str) -> BrokerProcess:
            broker = Configured("mosquitto", tmp_path / "configured")
            broker.added = lines
            return running.enter_context(broker)

        yield start


@pytest.fixture
def roomy(tmp_path: Path, require: Callable[[str], str]) -> Iterator[BrokerProcess]:
    """A running mosquitto that accepts messages of any size."""
    require("mosquitto")
    with Roomy("mosquitto", tmp_path / "broker") as running:
        yield running


class Judged:
    """The validated rows and all counters of a device, until it failed or fell silent."""

    def __init__(self) -> None:
        self.rows: list[Reading] = []
        self.counters: Counter[str] = Counter()
        self.error = ""
        self.came = asyncio.Event()

    @property
    def qualities(self) -> list[Quality]:
        return [row.quality for row in self.rows]

    async def read(self, adapter: Adapter, most: int = 1_000) -> Judged:
        validator = Validator(adapter.streams(), adapter.clock, self.counters)
        try:
            async with asyncio.timeout(30), adapter, contextlib.aclosing(adapter.readings()) as readings:
                async for reading in readings:
                    found = validator.check(reading)
                    assert found is not None
                    json.dumps(dict(found.values), allow_nan=False).encode()  # it can be sent as JSON
                    self.rows.append(found)
                    self.came.set()
                    if len(self.rows) == most:
                        break
        except AdapterError as error:
            self.error = str(error)
        self.counters.update(adapter.counters)
        return self


@pytest.fixture
def judge() -> type[Judged]:
    """Use: `await judge().read(adapter)`."""
    return Judged
