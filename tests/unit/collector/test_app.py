"""The collector as a whole: what it refuses at its start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from collector.app import Collector
from collector.config import CollectorConfig, Http
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
