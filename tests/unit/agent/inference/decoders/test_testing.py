"""The contract suite of decoders: the built-in ones pass it, and a careless decoder of a package does not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import ClassVar
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from agent.inference.decoders import Placement, Tensor
from agent.inference.decoders.anomaly import Anomaly
from agent.inference.decoders.classification import Classification
from agent.inference.decoders.detection import Detection
from agent.inference.decoders.regression import Regression
from agent.inference.decoders.testing import DecoderContract


class TestClassification(DecoderContract):
    decoder = Classification
    word = "classification"
    good_options: ClassVar = {"labels": ["calm", "storm"], "alarm": ["storm"], "scores": True}
    bad_options: ClassVar = [
        ({}, "needs labels"),
        ({"labels": ["a", "b"], "alarm": ["c"]}, "'c' is not one of the labels"),
    ]
    outputs: ClassVar = [Tensor("y", "float32", (1, 2))]
    bad_outputs: ClassVar = [([Tensor("y", "float32", (1, 3))], "2 labels do not fit")]
    examples: ClassVar = [
        (
            [np.array([[0.25, 0.75]], np.float32)],
            {"label": "storm", "score": 0.75, "alarm": True, "calm": 0.25, "storm": 0.75},
        )
    ]


class TestRegression(DecoderContract):
    decoder = Regression
    word = "regression"
    good_options: ClassVar = {"fields": {"power": {"unit": "W", "scale": 2.0}}}
    bad_options: ClassVar = [({"fields": {}}, "fields"), ({"fields": {"Power": {}}}, "'Power' is not")]
    outputs: ClassVar = [Tensor("y", "float64", (1, 1))]
    bad_outputs: ClassVar = [([Tensor("y", "float64", (1, 2))], "the model gives 2")]
    examples: ClassVar = [([np.array([[1.5]])], {"power": 3.0})]


class TestAnomaly(DecoderContract):
    decoder = Anomaly
    word = "anomaly"
    good_options: ClassVar = {"threshold": 2.0, "parts": ["left", "right"], "part_threshold": 3.0}
    bad_options: ClassVar = [({}, "threshold"), ({"threshold": 1.0, "part_threshold": 1.0}, "no part scores")]
    outputs: ClassVar = [Tensor("score", "float32", (1, 1)), Tensor("parts", "float32", (1, 2))]
    bad_outputs: ClassVar = [([Tensor("parts", "float32", (1, 3))], "names 2 parts")]
    examples: ClassVar = [
        (
            [np.array([[1.0]], np.float32), np.array([[0.5, 4.0]], np.float32)],
            {"score": 1.0, "alarm": True, "part": "right", "part_score": 4.0},
        )
    ]


BOXES = np.zeros((1, 5, 21), np.float32)
BOXES[0, :, 3] = (16, 8, 8, 8, 0.9)


class TestDetection(DecoderContract):
    decoder = Detection
    word = "detection"
    good_options: ClassVar = {"head": "yolov8", "labels": ["person"]}
    bad_options: ClassVar = [({"head": "yolov8"}, "needs labels"), ({"head": "none"}, "none")]
    outputs: ClassVar = [Tensor("y", "float32", (1, 5, 21))]
    bad_outputs: ClassVar = [([Tensor("y", "float32", (1, 6, 21))], "head yolov8 with 1 labels reads")]
    size: ClassVar = (32, 32)
    placement: ClassVar = Placement(0.0, 0.0, 1 / 32, 1 / 32)
    examples: ClassVar = [([BOXES], {"n": 1, "person": 1})]


CARELESS = """
import time
import numpy as np
import msgspec
from agent.inference.decoders import Decoder, Result, Tensor
from agent.inference.decoders.testing import DecoderContract
from wire.messages import Field

class Options(msgspec.Struct, forbid_unknown_fields=True):
    name: str = "heat"

def finite(value):
    return float(np.nan_to_num(value, posinf=0, neginf=0))

class Careless(Decoder):
    Options = Options
    last = None
    def __init__(self, options, outputs, size):
        self.name = options.name
    def fields(self):
        return {self.name: Field(t="f32")}
    def decode(self, outputs, placement):
        FAULT

class TestCareless(DecoderContract):
    decoder = Careless
    good_options = {}
    bad_options = []
    outputs = [Tensor("y", "float32", (1, 1))]
    bad_outputs = []
    examples = [([np.ones((1, 1), np.float32)], {"heat": 1.0})]
"""
FAULTS = {
    "none": ("return Result({self.name: float(v) if abs(v := outputs[0].sum()) < 1e39 else None})", ""),
    "infinite": ("return Result({self.name: float(outputs[0].sum())})", "give None"),
    "other_field": ("return Result({'other': None})", "the row has other fields"),
    "bool": ("return Result({self.name: True})", "heat is True, not f32"),
    "changes": ("outputs[0][...] *= 0.5; return Result({self.name: None})", "decode changed an output"),
    "crashes": ("return Result({self.name: outputs[0][0, 0].item() and None})", "IndexError"),
    "shares": (
        "self.last = outputs[0].sum(); time.sleep(0.001); return Result({self.name: finite(self.last)})",
        "test_several_threads_get_their_own_results",
    ),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the suite reports for each careless decoder."""
    folder = tmp_path_factory.mktemp("careless")
    for name, (fault, _) in FAULTS.items():
        (folder / f"test_{name}.py").write_text(CARELESS.replace("FAULT", fault))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=found.xml"]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)
    texts = dict.fromkeys(FAULTS, "")
    for case in ET.parse(folder / "found.xml").iter("testcase"):  # noqa: S314 - written just now
        name = case.attrib["classname"].split(".")[0].removeprefix("test_")
        for failure in case.iter("failure"):
            texts[name] += f"{case.attrib['name']}: {failure.attrib['message']}\n"
    return texts


@pytest.mark.parametrize("name", FAULTS)
def test_the_suite_finds_what_a_careless_decoder_does(found: dict[str, str], name: str) -> None:
    caught = FAULTS[name][1]
    assert bool(found[name]) == bool(caught), found[name]
    assert caught in found[name]


def test_the_daemon_does_not_import_the_suite() -> None:
    registry = importlib.import_module("agent.inference.decoders.registry")
    assert not any("testing" in module for module, _ in registry.BUILT_IN.values())
