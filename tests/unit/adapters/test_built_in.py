"""The adapter table: every name loads, has a simulator and a contract test, and wins over packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import adapters
from adapters.base import Adapter, OptionsError
from wire import plugins

ROOT = Path(__file__).parents[3]
# simulators of another name: a file needs none, `mqtt` reads any topic, one car answers `can` and `obd`
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
    ("values", "why"),
    [
        (["other.one:Odd", "other.two:Odd"], "registered more than once"),
        (["json:JSONDecoder"], "not a subclass of adapters.base.Adapter"),
        (["no_such_package.adapter:Mine"], "No module named 'no_such_package'; update or uninstall"),
        (["json:NoSuchClass"], "cannot be imported: module 'json' has no attribute 'NoSuchClass'"),
    ],
)
def test_two_entry_points_of_one_name_or_a_wrong_class_are_refused(
    monkeypatch: pytest.MonkeyPatch, values: list[str], why: str
) -> None:
    def installed(group: str) -> list[Any]:
        return [EntryPoint(name="odd", value=value, group=group) for value in values]

    monkeypatch.setattr(plugins, "entry_points", installed)
    with pytest.raises(OptionsError, match=why):
        adapters.load("odd")


def test_a_built_in_word_is_never_taken_from_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(group: str) -> list[Any]:
        return [EntryPoint(name="replay", value="json:JSONDecoder", group=group)]

    monkeypatch.setattr(plugins, "entry_points", installed)
    assert adapters.load("replay").__module__ == "adapters.replay.adapter"
