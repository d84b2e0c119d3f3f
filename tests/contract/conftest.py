"""Brokers for the adapters that read MQTT topics, beside the fixture `broker` that gives each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from edgebed.broker import Broker


class Configured(Broker):
    """A mosquitto whose configuration lacks some lines and has others."""

    without: ClassVar[str] = ""
    added: str = ""

    def command(self) -> list[str]:
        """As edgebed starts it, with these changes."""
        command = super().command()
        path = Path(command[-1])
        path.write_text(path.read_text().replace(self.without, "") + self.added)
        return command


class Roomy(Configured):
    """Without the limit that edgebed's own broker has."""

    without = "max_packet_size 70000\n"


@pytest.fixture
def mosquitto(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Broker]:
    """A running mosquitto, for what does not differ from broker to broker."""
    require("mosquitto")
    with Broker("mosquitto", tmp_path / "broker") as running:
        yield running


@pytest.fixture
def configured(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Callable[[str], Broker]]:
    """`configured(lines)` gives a running mosquitto with further lines of configuration."""
    require("mosquitto")
    with ExitStack() as running:

        def start(lines: str) -> Broker:
            broker = Configured("mosquitto", tmp_path / "configured")
            broker.added = lines
            return running.enter_context(broker)

        yield start


@pytest.fixture
def roomy(tmp_path: Path, require: Callable[[str], str]) -> Iterator[Broker]:
    """A running mosquitto that takes messages of any size."""
    require("mosquitto")
    with Roomy("mosquitto", tmp_path / "broker") as running:
        yield running
