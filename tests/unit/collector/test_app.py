"""The collector as a whole: what it refuses at its start."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from collector.app import Collector
from collector.config import CollectorConfig, Http
from collector.rights.user import LOCAL
from collector.state.state_file import STATE, StateNewer
from tests.polling import until
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import TryAgain


async def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = CollectorConfig(store=tmp_path / "store", http=Http(port=port))
        with pytest.raises(TryAgain, match=f"port {port} on 127.0.0.1") as refused:
            Collector(config, Clock())
    assert refused.value.exit_code == 75
    assert not (tmp_path / "store").exists(), "no folder was made"


def configured(folder: Path) -> CollectorConfig:
    """A config without a broker: nothing listens on port 1."""
    return CollectorConfig(store=folder / "store", broker=Broker(url="mqtt://127.0.0.1:1"), http=Http(port=0))


async def test_a_damaged_state_file_makes_it_degraded_until_it_is_moved_away(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / STATE).write_bytes(b"x" * 5000)
    collector = Collector(configured(tmp_path), Clock())

    def problems() -> list[str]:
        return [one.args["detail"] for one in collector.current_problems() if one.code == "state-unusable"]

    (text,) = problems()
    assert f"{STATE} is damaged" in text
    assert collector.health(LOCAL)["state"] == "degraded"
    running = asyncio.create_task(collector.run())
    try:
        (store / STATE).unlink()
        await until(lambda: not problems(), "it makes a new one")
    finally:
        collector.stop()
        await running
    assert (store / STATE).stat().st_size > 0


def test_a_state_file_of_a_newer_version_is_refused_and_the_store_released(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    fixture = Path(__file__).parents[2] / "fixtures/state-db/schema-1.db"
    shutil.copyfile(fixture, store / STATE)
    with closing(sqlite3.connect(store / STATE)) as db:
        db.execute("PRAGMA user_version = 1000000")
    for _ in range(2):
        with pytest.raises(StateNewer, match="written by a newer version"):
            Collector(configured(tmp_path), Clock())
