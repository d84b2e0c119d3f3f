"""Shipped files by name: found in this checkout, and a wrong name is a mistake with a suggestion."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import Struct

from wire.config import parse
from wire.errors import ConfigError
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
