"""Shipped files by name: found in this checkout, and a wrong name is a mistake with a suggestion."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from msgspec import Struct

from wire import shipped
from wire.config import parse
from wire.errors import ConfigError, EdgebedError
from wire.shipped import names


class Document(Struct):
    package: Path


def read(text: str) -> Path:
    return parse(f"package: {text}", Document, name="my.yaml", folder=Path("/somewhere")).package


def test_a_name_is_a_shipped_file_wherever_the_config_is() -> None:
    for name, path in names().items():
        assert path.exists()
        assert read(f"edgebed:{name}") == path
    assert {"joint-anomaly", "cobot-modbus.yaml", "edgebed-ev.dbc"} <= names().keys()


@pytest.mark.parametrize("text", ["joint-anomaly", "../models/joint-anomaly", "./edgebed:joint-anomaly"])
def test_other_paths_start_at_the_folder_of_the_config(text: str) -> None:
    assert read(text) == Path("/somewhere") / text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("edgebed:joint-anomly", "did you mean 'joint-anomaly'"),
        ("edgebed:", "edgebed comes without a ''"),
        ("edgebed:../configs/robot.yaml", "edgebed comes without a '../configs/robot.yaml'"),
    ],
)
def test_an_unknown_name_is_a_mistake(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml:1:10") as caught:
        read(f'"{text}"')
    assert sentence in str(caught.value)


def test_an_installed_wheel_has_its_files_in_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "lib/wire/shipped.py"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(EdgebedError) as caught:
        shipped.folder("models")
    assert str(caught.value) == (
        f"the shipped models are not at {tmp_path}/data/share/edgebed/models: "
        "install edgebed again from its wheel"
    )
    place = tmp_path / "data/share/edgebed/models"
    place.mkdir(parents=True)
    assert shipped.folder("models") == place
