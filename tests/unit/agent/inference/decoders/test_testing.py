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
from agent.inference.decoders.embedding import Embedding
from agent.inference.decoders.forecast import Forecast
from agent.inference.decoders.reconstruction import Reconstruction
from agent.inference.decoders.regression import Regression
from agent.inference.decoders.testing import DecoderContract
from agent.inference.decoders.text import Text
from agent.inference.inputs import WindowInput


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


class TestMultiLabel(DecoderContract):
    decoder = Classification
    word = "classification"
    good_options: ClassVar = {
        "labels": ["a", "b"],
        "sigmoid": True,
        "multi": True,
        "scores": True,
        "alarm": ["b"],
    }
    bad_options: ClassVar = [
        ({"labels": ["a"], "sigmoid": True, "softmax": True}, "only one of softmax, sigmoid and margins"),
        ({"labels": ["a"], "multi": True, "softmax": True}, "shares of each label"),
        ({"labels": ["a", "found"], "multi": True, "scores": True}, "'found' clashes"),
    ]
    outputs: ClassVar = [Tensor("y", "float16", (-1, 2))]
    bad_outputs: ClassVar = [([Tensor("y", "float16", (-1, 3))], "2 labels do not fit")]
    examples: ClassVar = [
        (
            [np.array([[0.0, np.log(3)]])],
            {"label": "b", "score": 0.75, "found": "a, b", "alarm": True, "a": 0.5, "b": 0.75},
        ),
        (
            [np.array([[-np.log(3), -np.log(4)]])],
            {"label": None, "score": 0.25, "found": "", "alarm": False, "a": 0.25, "b": 0.2},
        ),
    ]


class TestReconstruction(DecoderContract):
    decoder = Reconstruction
    word = "reconstruction"
    good_options: ClassVar = {"threshold": 1.0, "over_signals": "max", "scores": True}
    bad_options: ClassVar = [({}, "threshold")]
    spec: ClassVar = WindowInput(kind="window", name="x", signals=["left", "right"], rate_hz=1, length=3)
    outputs: ClassVar = [Tensor("x", "float32", (1, 3, 2)), Tensor("y", "float32", (-1, 3, 2))]
    bad_outputs: ClassVar = [
        ([*outputs[:1], Tensor("y", "float32", (1, 3, 1))], "as many numbers as the input x float32[1, 3, 2]")
    ]
    examples: ClassVar = [
        (
            [np.zeros((1, 3, 2), np.float32), np.array([[[1, 3], [0, 3], [-1, -3]]], np.float32)],
            {"score": 3.0, "alarm": True, "part": "right", "left": 2 / 3, "right": 3.0},
        )
    ]


class TestForecast(DecoderContract):
    decoder = Forecast
    word = "forecast"
    good_options: ClassVar = {"fields": {"load": {"unit": "W", "scale": 10}}, "steps": 2, "step_s": 1800}
    bad_options: ClassVar = [
        ({"fields": {"load": {}}, "steps": 256, "step_s": 1e-9}, "step_s"),
        ({"fields": {"a": {}, "b": {}}, "steps": 200, "step_s": 1}, "400 fields in a row"),
        ({"fields": {"Load": {}}, "steps": 2, "step_s": 1}, "'Load_in_1_s' is not"),
    ]
    outputs: ClassVar = [Tensor("y", "float32", (1, 2))]
    bad_outputs: ClassVar = [([Tensor("y", "float32", (1, 3))], "the model gives 3")]
    examples: ClassVar = [
        ([np.array([[1.5, 2.0]], np.float32)], {"load_in_30_min": 15.0, "load_in_1_h": 20.0})
    ]


class TestEmbedding(DecoderContract):
    decoder = Embedding
    word = "embedding"
    good_options: ClassVar = {"size": 2, "normalise": True, "dec": 2}
    bad_options: ClassVar = [({"size": 513}, "size")]
    outputs: ClassVar = [Tensor("y", "float32", (1, 1, 1, 2))]
    bad_outputs: ClassVar = [([Tensor("y", "float32", (1, 3))], "2 numbers of output.size")]
    examples: ClassVar = [
        ([np.array([[[[3, 4]]]], np.float32)], {"vector": "[0.6,0.8]"}),
        ([np.array([[[[3e38, 0]]]], np.float32)], {"vector": "[1.0,0.0]"}),
        ([np.zeros((1, 1, 1, 2), np.float32)], {"vector": None}),
    ]


TEXT = np.full((1, 6, 4), 0.1, np.float32)
for _step, _class in enumerate((1, 1, 0, 1, 3, 2)):
    TEXT[0, _step, _class] = 0.7


class TestText(DecoderContract):
    decoder = Text
    word = "text"
    good_options: ClassVar = {"labels": ["a", "b"], "space": True}
    bad_options: ClassVar = [({}, "needs the characters")]
    outputs: ClassVar = [Tensor("y", "float32", (1, 6, 4))]
    bad_outputs: ClassVar = [([Tensor("y", "float32", (1, 6, 5))], "3 characters reads [1, ?, 4]")]
    examples: ClassVar = [
        ([TEXT], {"text": "aa b", "score": 0.7}),
        ([np.eye(4, dtype=np.float32)[None, :1]], {"text": None, "score": None}),
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
