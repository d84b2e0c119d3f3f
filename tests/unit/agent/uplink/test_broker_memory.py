"""Broker memory: the number of CONNECTs and the MQTT version that worked survive restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.uplink.broker_memory import BrokerMemory
from wire.mqtt.errors import NoConnack, UnsupportedVersion

UNSUPPORTED = UnsupportedVersion("broker b:1883", "it does not support MQTT 5")
HUNG_UP = NoConnack("broker b:1883", "it closed the connection before it answered CONNECT")


def broker_memory(path: Path, protocol: str = "auto") -> BrokerMemory:
    made = BrokerMemory(path / "uplink.json", protocol)  # type: ignore[arg-type]
    made.load()
    return made


def test_numbers_rise_over_restarts(tmp_path: Path) -> None:
    first = broker_memory(tmp_path)
    first.next()
    first.next()
    assert first.sess == 2
    second = broker_memory(tmp_path)
    second.next()
    assert second.sess == 3


def test_what_worked_is_remembered(tmp_path: Path) -> None:
    first = broker_memory(tmp_path)
    assert first.version == "5"
    first.failed(UNSUPPORTED)
    assert first.version == "3.1.1"
    first.works()
    first.next()
    assert broker_memory(tmp_path).version == "3.1.1"


def test_hang_ups_change_a_version_that_worked_only_after_some(tmp_path: Path) -> None:
    kept = broker_memory(tmp_path)
    kept.works()
    versions = []
    for _ in range(6):
        kept.failed(HUNG_UP)
        versions.append(kept.version)
    assert versions == ["5", "5", "3.1.1", "3.1.1", "3.1.1", "5"]


def test_hang_ups_before_anything_worked_change_it_at_once(tmp_path: Path) -> None:
    fresh = broker_memory(tmp_path)
    assert fresh.failed(HUNG_UP), "try the other version at once"
    assert fresh.version == "3.1.1"
    assert not fresh.failed(HUNG_UP), "both failed: wait"
    assert fresh.version == "5"


@pytest.mark.parametrize(("setting", "protocol"), [("5", "5"), (5, "5"), ("3.1.1", "3.1.1")])
def test_a_fixed_version_stays(tmp_path: Path, setting: str, protocol: str) -> None:
    fixed = broker_memory(tmp_path, setting)
    fixed.failed(UNSUPPORTED)
    assert fixed.version == protocol


def test_the_broker_may_know_a_later_number(tmp_path: Path) -> None:
    kept = broker_memory(tmp_path)
    kept.at_least(41)
    kept.next()
    assert broker_memory(tmp_path).sess == 42


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sess":"x"}', b"\xff" * 9_999])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "uplink.json").write_bytes(content)
    kept = broker_memory(tmp_path)
    assert kept.sess == 0
    kept.next()
    assert broker_memory(tmp_path).sess == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = BrokerMemory(tmp_path / "absent" / "uplink.json", "auto")
    kept.load()
    for _ in range(5):
        kept.next()
    assert kept.sess == 5
    assert caplog.text.count("cannot be written") == 1, "logged once, not with each CONNECT"
    (tmp_path / "absent").mkdir()
    kept.next()
    (tmp_path / "absent" / "uplink.json").unlink()
    (tmp_path / "absent").rmdir()
    kept.next()
    assert caplog.text.count("cannot be written") == 2, "a new loss is logged again"
