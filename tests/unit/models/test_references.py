"""The references of the shipped packages: made by their programs, silent on fresh machines, not on others."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from agent.inference.inputs import WindowInput
from agent.inference.manifest import Manifest
from agent.inference.package import load_package
from agent.offline.model_reference import by_second, from_rows
from agent.pipeline.input_watch import InputWatch
from agent.pipeline.windows import Window
from wire.messages import Quality
from wire.shipped import folder

PROGRAMS = {path.parent.name: path for path in folder("models").glob("*/*_reference.py")}
FRESH = range(300_000, 300_003)


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    path = PROGRAMS[request.param]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(path.parent))


def seen(manifest: Manifest, rows: Any) -> str:
    spec = manifest.input
    assert isinstance(spec, WindowInput)
    watch, end = InputWatch(manifest.reference, spec.signals, Counter()), 0
    for at_ns, piece in by_second(rows, spec.rate_hz):
        end += len(piece)
        watch.window(at_ns, Window(piece, Quality.GOOD, end))
    return watch.reason.code


def test_the_packages_with_a_reference_have_the_program_that_made_it() -> None:
    made = {path.parent.name for path in folder("models").glob("*/reference.json")}
    assert made == set(PROGRAMS) == {"joint-anomaly", "pm25-nowcast", "ecg-rhythm", "street-detector"}
    for name, path in PROGRAMS.items():
        assert f"{path.stem}.main()" in (path.parent / "make.py").read_text(), name


@pytest.mark.parametrize(
    ("program", "change"),
    [
        ("joint-anomaly", np.radians),
        ("pm25-nowcast", lambda rows: rows / 1_000),
        ("ecg-rhythm", lambda rows: rows * 1_000),
    ],
    indirect=["program"],
)
def test_fresh_machines_do_not_drift_and_another_unit_does(
    program: ModuleType, change: Callable[[Any], Any]
) -> None:
    manifest = load_package(program.HERE).manifest
    for seed in FRESH:
        rows = program.session(seed)
        assert seen(manifest, rows) == "", seed
        assert seen(manifest, change(rows)) == "model-input-drift", seed


@pytest.mark.slow
@pytest.mark.parametrize("program", ["pm25-nowcast"], indirect=True)
def test_the_program_makes_the_reference_again(program: ModuleType) -> None:
    manifest = load_package(program.HERE).manifest
    found = manifest.reference
    assert found is not None
    again = from_rows(manifest, map(program.session, program.SEEDS), program.WINDOW_S)
    assert (again.windows, again.rows) == (found.windows, found.rows)
    for name, feature in found.features.items():
        # another CPU may change the last digits
        for numbers, others in zip(
            (feature.bins, feature.low, feature.high),
            (again.features[name].bins, again.features[name].low, again.features[name].high),
            strict=True,
        ):
            assert numbers == pytest.approx(others, rel=1e-3, abs=1e-4)
