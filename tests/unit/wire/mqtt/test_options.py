"""The login, and which version of MQTT the next attempt uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wire.broker import Broker
from wire.mqtt.errors import ConnectionLost, MqttError, NoConnack, NotConnected, UnsupportedVersion
from wire.mqtt.options import Login, VersionChoice

HUNG_UP, UNSUPPORTED = NoConnack("b", "it hung up"), UnsupportedVersion("b", "it does not support MQTT 5")


def test_a_password_without_a_user_name_belongs_to_the_client_id(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("secret\n")
    broker = Broker(url="mqtt://h:1", password_file=tmp_path / "p")
    assert Login.read(broker, "me").username == "me"
    assert Login.read(broker, "me-acks", "me").username == "me"
    assert Login.read(Broker(url="mqtt://h:1"), "me").username is None
    assert "secret" not in repr(Login.read(broker, "me"))


def chosen(choice: VersionChoice, *errors: MqttError) -> list[tuple[bool, str]]:
    return [(choice.failed(error), choice.version) for error in errors]


def test_a_broker_that_refuses_the_version_gets_the_other_one_at_once() -> None:
    choice = VersionChoice("auto")
    assert choice.version == "5"
    assert chosen(choice, UNSUPPORTED, UNSUPPORTED) == [(True, "3.1.1"), (False, "5")]


def test_a_broker_that_hangs_up_gets_the_other_one_unless_the_first_worked() -> None:
    choice = VersionChoice("auto")
    assert chosen(choice, HUNG_UP) == [(True, "3.1.1")]
    choice.works()
    assert chosen(choice, HUNG_UP, HUNG_UP, HUNG_UP) == [(False, "3.1.1"), (False, "3.1.1"), (False, "5")]


def test_what_worked_before_is_tried_first() -> None:
    assert VersionChoice("auto", worked="3.1.1").version == "3.1.1"
    assert VersionChoice("auto", first="3.1.1").version == "3.1.1"
    assert VersionChoice("5", worked="3.1.1").version == "5"


@pytest.mark.parametrize("protocol", ["5", 5, "3.1.1"])
def test_a_version_of_the_config_stays(protocol: Any) -> None:
    choice = VersionChoice(protocol, first="3.1.1")
    assert chosen(choice, UNSUPPORTED, HUNG_UP) == [(False, str(protocol)), (False, str(protocol))]


@pytest.mark.parametrize(
    "error", [NotConnected("b", "nothing listens there"), ConnectionLost("b", "it ended")]
)
def test_other_failures_change_nothing(error: MqttError) -> None:
    assert chosen(VersionChoice("auto"), error) == [(False, "5")]


@pytest.mark.parametrize(("host", "where"), [("b", "broker b:1883"), ("::1", "broker [::1]:1883")])
def test_errors_name_host_and_port(host: str, where: str) -> None:
    assert Login(host, 1883, "x").where == where
