"""The adapter table: every word loads, has its twins under the same word, and never shadows another."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import adapters
from adapters.base import Adapter, OptionsError
from wire import plugins

ROOT = Path(__file__).parents[3]
# where the other side has another name: a file has none, any topic has many, one car answers both
OTHER_SIDE = {"replay": "", "mqtt": "chirpstack", "obd": "can"}


@pytest.mark.parametrize("word", adapters.BUILT_IN)
def test_the_same_word_in_three_places(word: str) -> None:
    assert issubclass(adapters.load(word), Adapter)
    assert adapters.load(word).kind == word
    assert _module_or_folder(f"adapters/{word}")
    assert (ROOT / f"tests/contract/test_{word}.py").exists()
    other_side = OTHER_SIDE.get(word, word)
    assert not other_side or _module_or_folder(f"simulators/devices/{other_side}")


def _module_or_folder(name: str) -> bool:
    return (ROOT / f"{name}.py").exists() or (ROOT / name / "__init__.py").exists()


def test_an_unknown_word_names_those_there_are() -> None:
    with pytest.raises(OptionsError, match=f"'camra'; there are {', '.join(sorted(adapters.BUILT_IN))}"):
        adapters.load("camra")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("camera", "other.camera:Camera", "more than once"),
        ("odd", "json:JSONDecoder", "no adapters.base.Adapter"),
    ],
)
def test_an_entry_point_that_clashes_or_is_no_adapter_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    def installed(group: str) -> list[Any]:
        return [EntryPoint(name=name, value=value, group=group)]

    monkeypatch.setattr(plugins, "entry_points", installed)
    with pytest.raises(OptionsError, match=why):
        adapters.load(name)
