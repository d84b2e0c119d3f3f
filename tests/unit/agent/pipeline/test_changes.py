"""What differs between two setups, and so what stops and starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load
from agent.pipeline.changes import Changes, Setup, compare, fingerprint, version
from wire.clock import Clock

Write = Callable[..., Setup]


@pytest.fixture
def setup_of(tmp_path: Path) -> Write:
    """Makes the setup of a config with the devices `arm` and `leg` and a model of `arm`, with `changes`."""
    (tmp_path / "rows.csv").write_text("t,a\n0,1\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "model.onnx").write_bytes(b"one")

    def make(change: Callable[[dict[str, Any]], object] = lambda _: None) -> Setup:
        options = {"file": "rows.csv", "time": "t", "rate_hz": 10, "stream": "rows", "fields": {"a": "a"}}
        document: dict[str, Any] = {
            "node": "t/p/s/n",
            "broker": {"url": "mqtt://127.0.0.1"},
            "state": "state",
            "devices": {name: {"adapter": "replay", "options": dict(options)} for name in ("arm", "leg")},
            "models": {"peak": {"package": "package", "input": "arm/rows"}},
        }
        change(document)
        path = tmp_path / "agent.yaml"
        path.write_text(yaml.safe_dump(document))
        plan = load(path, Clock())
        return Setup.of(plan.devices, plan.config.models)

    return make


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d, Changes()),
        (lambda d: d["devices"]["leg"]["options"].update(loop=False), Changes()),  # as by default
        (lambda d: d["devices"]["leg"]["options"].update(rate=2.0), Changes(devices=frozenset({"leg"}))),
        (lambda d: d["devices"]["leg"].update(stall_s=30), Changes(devices=frozenset({"leg"}))),
        (lambda d: d["devices"]["leg"].update(may_be_null=["a"]), Changes(devices=frozenset({"leg"}))),
        (lambda d: d["devices"]["leg"].update(vendor="x"), Changes(published=frozenset({"leg"}))),
        (lambda d: d["devices"]["leg"].update(publish={"raw": False}), Changes(published=frozenset({"leg"}))),
        (lambda d: d["devices"].update(eye=d["devices"]["leg"]), Changes(devices=frozenset({"eye"}))),
        (lambda d: d["devices"].pop("leg"), Changes(devices=frozenset({"leg"}))),
        (lambda d: d["models"].pop("peak"), Changes(models=frozenset({"peak"}))),
        (lambda d: d["models"]["peak"].update(every=2), Changes(models=frozenset({"peak"}))),
        (
            lambda d: d["devices"]["arm"]["options"].update(rate=2.0),
            Changes(devices=frozenset({"arm"}), models=frozenset({"peak"})),
        ),
    ],
)
def test_only_what_differs_changes(setup_of: Write, change: Any, expected: Changes) -> None:
    assert compare(setup_of(), setup_of(change)) == expected


def test_a_file_that_was_written_again_changes_its_device(setup_of: Write, tmp_path: Path) -> None:
    before = setup_of()
    (tmp_path / "rows.csv").write_text("t,a\n0,1\n1,2\n")
    assert compare(before, setup_of()).devices == {"arm", "leg"}


def test_a_package_that_was_written_again_changes_its_model(setup_of: Write, tmp_path: Path) -> None:
    before = setup_of()
    (tmp_path / "package/model.onnx").write_bytes(b"another")
    assert compare(before, setup_of()) == Changes(models=frozenset({"peak"}))


def test_a_device_node_and_a_missing_file_have_no_version(tmp_path: Path) -> None:
    assert version(Path("/dev/null")) == version(tmp_path / "none") == ()


def test_a_fingerprint_changes_with_the_config_alone(setup_of: Write) -> None:
    first = fingerprint(setup_of())
    assert fingerprint(setup_of()) == first
    assert fingerprint(setup_of(lambda d: d["devices"]["leg"]["options"].update(loop=False))) == first
    different = {
        fingerprint(setup_of(change))
        for change in (
            lambda d: d["devices"]["leg"]["options"].update(rate=2.0),
            lambda d: d["devices"]["leg"].update(publish={"raw": False}),
            lambda d: d["devices"].pop("leg"),
            lambda d: d["models"]["peak"].update(every=2),
            lambda d: d["models"].pop("peak"),
        )
    }
    assert len(different | {first}) == 6


def test_a_password_in_an_address_is_not_in_a_fingerprint(setup_of: Write) -> None:
    def camera(password: str, host: str = "cam") -> Callable[[dict[str, Any]], object]:
        url = f"rtsp://user:{password}@{host}/a"
        return lambda d: d["devices"].update(eye={"adapter": "camera", "options": {"url": url}})

    one, two, other = (fingerprint(setup_of(camera(*each))) for each in (("a",), ("b",), ("a", "dome")))
    assert one == two != other
