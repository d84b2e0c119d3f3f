"""Broker memory: the number of CONNECTs and the MQTT version that worked survive restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.uplink.broker_memory import BrokerMemory


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
    assert first.protocol == "5"
    first.refused(certain=True)
    assert first.protocol == "3.1.1"
    first.works()
    first.next()
    assert broker_memory(tmp_path).protocol == "3.1.1"


def test_hang_ups_change_a_version_that_worked_only_after_some(tmp_path: Path) -> None:
    kept = broker_memory(tmp_path)
    kept.works()
    versions = []
    for _ in range(6):
        kept.refused(certain=False)
        versions.append(kept.protocol)
    assert versions == ["5", "5", "3.1.1", "3.1.1", "3.1.1", "5"]


def test_hang_ups_before_anything_worked_change_it_at_once(tmp_path: Path) -> None:
    fresh = broker_memory(tmp_path)
    fresh.refused(certain=False)
    assert fresh.protocol == "3.1.1"
    fresh.refused(certain=False)
    assert fresh.protocol == "5"


@pytest.mark.parametrize(("setting", "protocol"), [("5", "5"), (5, "5"), ("3.1.1", "3.1.1")])
def test_a_fixed_version_stays(tmp_path: Path, setting: str, protocol: str) -> None:
    fixed = broker_memory(tmp_path, setting)
    fixed.refused(certain=True)
    assert fixed.protocol == protocol


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
