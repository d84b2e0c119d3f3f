"""What a desired document may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.replay.options import ReplayOptions
from agent.pipeline.settings import DeviceConfig, PublishConfig, SlotConfig
from agent.remote.allowed import Allowed
from wire import shipped


def allowed(tmp_path: Path, **devices: DeviceConfig) -> Allowed:
    slots = {"m": SlotConfig(package=tmp_path / "elsewhere/own", input="a/b")}
    return Allowed.by((tmp_path / "shared",), tmp_path / "state", devices, slots)


def refused(tmp_path: Path, file: Path, **devices: DeviceConfig) -> list[tuple[str, str]]:
    raw: dict[str, Any] = {"file": str(file), "fields": {"a": "a"}}
    options = ReplayOptions(file=file, fields={"a": "a"})
    return list(
        allowed(tmp_path, **devices).refusals("new", DeviceConfig(adapter="replay", options=raw), options)
    )


def test_only_files_below_the_listed_folders_may_be_named(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "out").symlink_to("/etc")
    (shared / "round").symlink_to(shared / "round")
    (tmp_path / "shared2").mkdir()
    assert refused(tmp_path, shared / "a/b.csv") == []
    for bad in (shared / "../x", shared / "out/passwd", tmp_path / "shared2/x", Path("/etc/passwd")):
        assert "is not below a folder that `remote.files`" in refused(tmp_path, bad)[0][1], bad
    assert all("is not below" in why for _, why in refused(tmp_path, shared / "round/x"))


def test_a_device_of_the_own_file_keeps_its_options(tmp_path: Path) -> None:
    raw: dict[str, Any] = {"file": "/etc/rows.csv", "fields": {"a": "a"}}
    known = DeviceConfig(adapter="replay", options=raw)
    assert refused(tmp_path, Path("/etc/rows.csv"), known=known) == []
    other = DeviceConfig(adapter="csv", options=raw)
    assert len(refused(tmp_path, Path("/etc/rows.csv"), known=other)) == 1


def test_packages_of_the_own_file_of_the_store_and_of_edgebed_may_be_named(tmp_path: Path) -> None:
    faces = DeviceConfig(adapter="camera", publish=PublishConfig(faces=tmp_path / "elsewhere/faces"))
    here = allowed(tmp_path, eye=faces)
    for package in ("elsewhere/own", "elsewhere/faces", "state/models/new", "shared/x"):
        assert here.package(tmp_path / package) == "", package
    assert here.package(shipped.names()["joint-anomaly"]) == ""
    assert not here.refused
    for package in ("elsewhere/other", "state/outbox", "state"):
        assert "is not below" in here.package(tmp_path / package), package
    assert here.refused


WRITE: dict[str, Any] = {"allow_write": True, "write": {"register": "fan", "min": 0, "max": 9, "safe": 1}}


@pytest.mark.parametrize(
    ("name", "adapter", "more"),
    [
        ("fan", "modbus", {"write": {**WRITE["write"], "max": 90}}),
        ("fan", "modbus", {"url": "tcp://other"}),
        ("fan", "mqtt", {}),
        ("copy", "modbus", {}),
        ("new", "modbus", {}),
        ("read", "modbus", {"allow_write": True}),
        ("read", "modbus", {"allow_write": False}),
        ("read", "modbus", {"write": WRITE["write"]}),
    ],
)
def test_a_document_cannot_allow_writes(
    tmp_path: Path, name: str, adapter: str, more: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"url": "tcp://fan", **WRITE}
    read = {"url": "tcp://fan"}
    known = {
        "fan": DeviceConfig(adapter="modbus", options=options),
        "read": DeviceConfig(adapter="modbus", options=read),
    }
    here, checked = allowed(tmp_path, **known), ReplayOptions(file=tmp_path / "shared/x", fields={"a": "a"})
    asked = DeviceConfig(adapter=adapter, options={**(read if name == "read" else options), **more})
    assert [key for key, _ in here.refusals(name, asked, checked)] == ["allow_write"]
    assert here.refused
    for same, config in known.items():
        assert list(here.refusals(same, config, checked)) == []
    off = DeviceConfig(adapter="modbus", options=read)
    assert list(here.refusals("fan", off, checked)) == [], "a document may leave the writes out"


@pytest.mark.parametrize(
    ("url", "bad"),
    [
        ("rtsp://user:pw@host/x", True),
        ("rtsp://user@host/x", False),
        ("rtsp://host/x", False),
        ("rtsp://[x", False),
    ],
)
def test_a_password_in_an_address_is_found(tmp_path: Path, url: str, bad: bool) -> None:
    config = DeviceConfig(adapter="camera", options={"deep": [{"url": url}]})
    options = ReplayOptions(file=tmp_path / "shared/x", fields={"a": "a"})
    assert bool(list(allowed(tmp_path).refusals("new", config, options))) is bad
