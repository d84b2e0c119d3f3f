"""URLs of devices: a host, port or login that cannot be used is named, and no password is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from adapters.base import OptionsError
from adapters.can.options import BusOptions, check_bus
from adapters.hl7.options import where
from adapters.lines.lines import LineSource
from adapters.modbus.url import ModbusUrl
from adapters.opcua import options as opcua


def of_can(url: str) -> None:
    check_bus(BusOptions(interface="slcan", channel=url))


def of_opcua(url: str) -> None:
    opcua.check(opcua.OpcUaOptions(url=url, profile="opc40010"))


@pytest.mark.parametrize(
    ("scheme", "read"),
    [
        ("tcp", ModbusUrl.parse),
        ("tcp", LineSource.parse),
        ("mllp", where),
        ("socket", of_can),
        ("opc.tcp", of_opcua),
    ],
    ids=["modbus", "lines", "hl7", "can", "opcua"],
)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("[::1:22", "has no usable host or port: Invalid IPv6 URL"),
        ("host:99999", "has no usable host or port: Port out of range"),
        ("host:port", "has no usable host or port"),
        ("me:geheim@host:22", "contains a user or password: "),
        ("me@host:22", "contains a user or password: "),
        ("me:geheim@host:99999", "contains a user or password: "),
        ("me:ge/heim@host:22", "contains a user or password: "),
        ("me:geheim@[::1:22", "contains a user or password: "),
    ],
)
def test_a_url_that_cannot_be_used(scheme: str, read: Callable[[str], Any], place: str, said: str) -> None:
    with pytest.raises(OptionsError) as caught:
        read(f"{scheme}://{place}")
    assert said in str(caught.value)
    assert "heim" not in str(caught.value)
