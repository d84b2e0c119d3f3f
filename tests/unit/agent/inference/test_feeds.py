"""What a session is fed with: several inputs, every type of number, constants, and state that goes round."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agent.inference import gate
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import CPU, Model

WINDOW = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 1, "length": 4}
TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "uint16": TensorProto.UINT16,
    "bool": TensorProto.BOOL,
}


def opened(folder: Path) -> Model:
    return Model(load_package(folder))


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        opened(folder)
    return str(caught.value).partition("model.onnx: ")[2]


# -- types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_number_is_filled(packages, dtype: str) -> None:
    """The independent decoder here is numpy: what the manifest declares, cast to the model's type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceSum", ["wide"], ["y"], keepdims=0),
    ]
    kinds = {"x": TYPES[dtype], "y": TensorProto.DOUBLE}
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, types=kinds)
    window = np.array([[0, 1], [2, 3], [0.6, 5], [1, 90]])
    model = opened(packages.write(body, input=WINDOW))
    expected = np.rint(window) if "int" in dtype else window != 0 if dtype == "bool" else window
    assert model.run_window(window).values["power"] == pytest.approx(np.sum(expected), rel=1e-3)
    assert model.wide == (dtype in ("float64", "int64", "int32"))


def test_a_number_beyond_the_type_is_the_largest_it_has(packages) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)]
    kinds = {"x": TensorProto.INT8, "y": TensorProto.DOUBLE}
    body = packages.model(nodes, inputs={"x": (1, 1, 2)}, outputs={"y": (1, 1, 2)}, types=kinds)
    fields = {"decoder": "regression", "fields": {"low": {}, "high": {}}}
    model = opened(packages.write(body, input={**WINDOW, "length": 1}, output=fields))
    assert model.run_window(np.array([[-1e9, 1e9]])).values == {"low": -128.0, "high": 127.0}


def test_large_whole_numbers_are_exact(packages) -> None:
    """2**53 - 1 has no place in 32 bits."""
    nodes = [
        helper.make_node("Mod", ["x", "ten"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["y"], to=TensorProto.FLOAT),
    ]
    body = packages.model(
        nodes,
        inputs={"x": (1, 1)},
        outputs={"y": (1, 1)},
        constants={"ten": np.array(10, np.int64)},
        types={"x": TensorProto.INT64},
    )
    window = {**WINDOW, "signals": ["a"], "length": 1, "layout": "flat"}
    model = opened(packages.write(body, input=window))
    assert model.run_window(np.array([[2.0**53 - 1]])).values == {"power": (2**53 - 1) % 10}


def test_the_noise_of_the_gate_has_codes_that_are_not_negative(packages) -> None:
    """A model that looks codes up in a table has no row for -1."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["f"], ["root"]),
        helper.make_node("ReduceSum", ["root"], ["y"], keepdims=0),
    ]
    kinds = {"x": TensorProto.INT32}
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, types=kinds)
    gate.inspect(load_package(packages.write(body, input=WINDOW)), CPU)


def test_text_is_not_an_input(packages) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    body = packages.model(
        nodes, inputs={"x": (1, 4, 2)}, outputs={"y": (1, 4, 2)}, types={"x": TensorProto.STRING}
    )
    assert "its type must be one of float32" in refused(packages.write(body))


# -- several inputs, constants, shapes ---------------------------------------------------------------------


def several(packages) -> bytes:
    """Past [1, 2, 4] of two signals, the newest of a third as a number, and a table of constants."""
    nodes = [
        helper.make_node("ReduceSum", ["past"], ["one"], keepdims=0),
        helper.make_node("Cast", ["now"], ["two"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["table"], ["three"], keepdims=0),
        helper.make_node("Cast", ["rate"], ["four"], to=TensorProto.FLOAT),
        *(
            helper.make_node("Reshape", [name, "to"], [name + "s"])
            for name in ("one", "two", "three", "four")
        ),
        helper.make_node("Concat", ["ones", "twos", "threes", "fours"], ["y"], axis=0),
    ]
    return packages.model(
        nodes,
        inputs={"past": ("n", 2, 4), "now": (), "table": (1, "k"), "rate": ()},
        outputs={"y": (4,)},
        constants={"to": np.array([1], np.int64)},
        types={"rate": TensorProto.INT64, "now": TensorProto.DOUBLE},
    )


SEVERAL: dict[str, Any] = {
    "kind": "window",
    "signals": ["a", "b", "c"],
    "rate_hz": 1,
    "length": 4,
    "mean": [1.0, 0.0, 0.0],
    "inputs": [
        {"name": "past", "signals": ["b", "a"], "layout": "signal-time"},
        {"name": "now", "signals": ["c"], "rows": 1, "layout": "scalar"},
    ],
    "constants": {"rate": 16000, "table": [[1.5, 2.5, 3.0]]},
}
FOUR = {"decoder": "regression", "fields": {"one": {}, "two": {}, "three": {}, "four": {}}}


def test_several_inputs_and_constants_come_from_one_window(packages) -> None:
    folder = packages.write(several(packages), input=SEVERAL, output=FOUR)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = opened(folder).run_window(rows).values
    session = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes())
    feed = {
        "past": np.stack([rows[:, 1], rows[:, 0] - 1])[None],
        "now": np.array(rows[-1, 2], np.float64),
        "table": np.array([[1.5, 2.5, 3.0]], np.float32),
        "rate": np.array(16000),
    }
    assert list(found.values()) == pytest.approx(session.run(None, feed)[0].tolist())
    gate.inspect(load_package(folder), CPU)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"constants": {"rate": 16000}}, "input names no value for table float32[1, ?]: name it in"),
        (
            {"constants": {**SEVERAL["constants"], "sr": 1}},
            "input.constants is 'sr', the model's inputs are past",
        ),
        ({"constants": {**SEVERAL["constants"], "rate": 0.5}}, "rate must have numbers of the type int64"),
        ({"constants": {**SEVERAL["constants"], "rate": "x"}}, "rate is not a number or nested lists"),
        ({"constants": {**SEVERAL["constants"], "table": [[1], [2, 3]]}}, "table is not a number or nested"),
        (
            {"constants": {**SEVERAL["constants"], "table": [1.0]}},
            "table has the shape [1], the model needs table float32[1, ?]",
        ),
        (
            {"constants": {**SEVERAL["constants"], "table": [[1e39]]}},
            "table has a number that is too large for float32",
        ),
        ({"constants": {**SEVERAL["constants"], "now": 1}}, "'now' gets its value twice"),
        ({"inputs": SEVERAL["inputs"][:1]}, "input names no value for now float64[]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(packages, changes: dict[str, Any], why: str) -> None:
    assert why in refused(packages.write(several(packages), input={**SEVERAL, **changes}, output=FOUR))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "x"}, "either name, or inputs with the name of each"),
        ({"inputs": []}, "either name, or inputs with the name of each"),
        ({"inputs": [{"name": "x", "signals": ["d"]}]}, "'d' is not one of input.signals"),
        ({"inputs": [{"name": "x", "rows": 5}]}, "5 rows of a window of 4"),
        ({"inputs": [{"name": "x", "layout": "scalar"}]}, "a tensor [] does not have 12 numbers"),
        ({"inputs": [{"name": "x", "shape": [5, 5]}]}, "a tensor [5, 5] does not have 12 numbers"),
    ],
)
def test_a_manifest_with_wrong_parts_is_refused(packages, changes: dict[str, Any], why: str) -> None:
    folder = packages.write(packages.constant(np.ones(1)), input={**SEVERAL, **changes})
    with pytest.raises(ModelError) as caught:
        load_package(folder)
    assert why in str(caught.value)


def test_a_tensor_can_have_another_shape_than_the_layout(packages) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2, 1)}, outputs={"y": ()})
    model = opened(packages.write(body, input={**WINDOW, "shape": [1, 4, 2, 1]}))
    assert model.run_window(np.ones((4, 2), np.float32)).values == {"power": 8.0}


def test_a_picture_model_gets_constants(packages, frame_input) -> None:
    nodes = [
        helper.make_node("Cast", ["size"], ["sides"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["sides"], ["area"], keepdims=0),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["area", "mean"], ["y"]),
    ]
    body = packages.model(
        nodes,
        inputs={"x": ("n", 3, "h", "w"), "size": (1, 2)},
        outputs={"y": ()},
        types={"size": TensorProto.INT64},
    )
    model = opened(packages.write(body, input=frame_input(constants={"size": [[480, 640]]})))
    assert model.run_frame(np.full((8, 8, 3), 255, np.uint8)).values == {"power": pytest.approx(1120.0)}


# -- state -------------------------------------------------------------------------------------------------

STATE = {**WINDOW, "hop": 4, "state": {"before": "after"}, "constants": {"gain": 2}}


def summing(
    packages, *, after: tuple[int | str, ...] = ("m", 1), state: str = "sum", before: Any = ("n", 1)
) -> bytes:
    """Gives gain * (the sum of the window + the state), which is its next state."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["now"], keepdims=0),
        helper.make_node("Add", ["now", "before"], ["sum"]),
        helper.make_node("Identity", [state], ["after"]),
        helper.make_node("Mul", ["sum", "gain"], ["y"]),
    ]
    return packages.model(
        nodes,
        inputs={"x": (1, 4, 2), "before": before, "gain": ()},
        outputs={"y": (1, 1), "after": after},
    )


def power(model: Model, number: float, stream: str = "", end: int = 0) -> Any:
    return model.run_window(np.full((4, 2), number, np.float32), stream, end).values["power"]


def test_a_state_goes_round_in_its_stream(packages) -> None:
    model = opened(packages.write(summing(packages), input=STATE))
    assert model.stateful
    assert [power(model, 1, "a", end) for end in (4, 8, 12)] == [16.0, 32.0, 48.0]
    assert power(model, 1, "b", 4) == 16.0, "each stream has a state of its own"
    assert power(model, 1, "a", 16) == 64.0
    assert power(model, 1, "a", 24) == 16.0, "a window is missing: it begins again"
    assert power(model, 1, "a", 28) == 32.0
    assert power(model, 1, "a", 4) == 16.0, "the stream began again"
    assert [power(model, 1), power(model, 1)] == [16.0, 16.0], "no stream, no state"
    assert model.raw(np.ones((4, 2), np.float32))[0].tolist() == [[16.0]], "golden vectors begin again"


def test_threads_do_not_share_a_state(packages) -> None:
    model = opened(packages.write(summing(packages), input=STATE))
    wrong: list[Any] = []

    def work(number: int) -> None:
        total = 0.0
        for run in range(200):
            total += 8 * number
            if power(model, number, f"stream {number}", 4 * run) != 2 * total:
                wrong.append(run)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_state_that_is_not_a_number_is_forgotten(packages) -> None:
    model = opened(packages.write(summing(packages), input=STATE))
    assert power(model, 1, "a", 4) == 16.0
    result = model.run_window(np.full((4, 2), np.nan, np.float32), "a", 8)
    assert result.nan
    assert power(model, 1, "a", 12) == 16.0, "NaN does not stay"


def test_the_state_of_a_stream_that_is_long_gone_is_forgotten(packages) -> None:
    model = opened(packages.write(summing(packages), input=STATE))
    power(model, 1, "first", 4)
    for number in range(100):
        power(model, 1, str(number), 4)
    assert power(model, 1, "first", 8) == 16.0


@pytest.mark.parametrize(
    ("body", "changes", "why"),
    [
        ({}, {"state": {}}, "input names no value for before float32[?, 1]"),
        ({}, {"state": {"before": "none"}}, "input.state names 'none', the model's outputs are y, after"),
        ({}, {"state": {"none": "after"}}, "input.state is 'none', the model's inputs are x"),
        ({"before": (2000, 1000)}, {}, "input.state has more than 1000000 numbers"),
        (
            {"state": "x", "after": ("m", 4, 2)},
            {},
            "input.state: before is float32[1, 1], and its output gave float32[1, 4, 2]",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(packages, body: Any, changes: Any, why: str) -> None:
    assert why in refused(packages.write(summing(packages, **body), input={**STATE, **changes}))
