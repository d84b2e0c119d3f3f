"""A pair of connected sockets for the tests of the MQTT link."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.collector.mqtt.packets import Pair, make_pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, peer = make_pair()
    yield near, peer
    near.close()
    peer.close()
