"""A pair of connected sockets for the tests of the MQTT client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.wire.mqtt.packets import Pair, make_pair


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, peer = make_pair()
    yield near, peer
    near.shut()
    peer.close()
