"""Published models of windows and tables: voices, words, bytes, traffic lights, trees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.published.case import Case, Feed, Row, best, softmax, windows

_VOICE = ["quiet", "voice"]
_SILERO = "silero_vad==6.2.3"
_WORDS = "npm:openwakeword-js@0.1.27"
_LIGHTS = "atspm_detector==1.1.0"
_SURFACES = "surfaces_onnx_files==0.0.1"


def _window(name: str, signals: int, length: int, **more: Any) -> dict[str, Any]:
    names = [f"s{at}" for at in range(signals)]
    return {"kind": "window", "name": name, "signals": names, "rate_hz": 1, "length": length, **more}


# -- voices ------------------------------------------------------------------------------------------------


def _sound() -> list[NDArray[Any]]:
    """Windows of 576 samples that overlap by 64, as a device sends them: noise, then a buzz like a voice."""
    rng = np.random.default_rng(5)
    times = np.arange(576 + 512 * 30) / 16_000
    buzz = np.sign(np.sin(2 * np.pi * 120 * times)) * (1 + np.sin(2 * np.pi * 4 * times)) * 0.15
    sound = rng.normal(0, 0.01, len(times)) + buzz * (times > 0.4)
    return [sound[begin : begin + 576, None] for begin in range(0, len(times) - 575, 512)]


def _silero(
    file: str, output: str, state: dict[str, str], shape: tuple[int, ...], *, rate: bool = False
) -> Case:
    flat = _window("input", 1, 576, hop=512, layout="flat", state=state, rate_hz=16_000)
    flat["constants"] = {"sr": 16_000} if rate else {}

    def feed(data: NDArray[Any]) -> Feed:
        given: Feed = {"input": data.reshape(1, 576).astype(np.float32)}
        return {**given, "sr": np.array(16_000, np.int64)} if rate else given

    def row(outputs: dict[str, Any]) -> Row:
        voice = float(outputs[output].reshape(-1)[0])
        return {"label": _VOICE[voice > 0.5], "score": max(voice, 1 - voice)}

    return Case(
        f"silero {file.removeprefix('silero_vad').removesuffix('.onnx').strip('_') or 'plain'}",
        _SILERO,
        f"data/{file}",
        {
            "input": flat,
            "output": {"decoder": "classification", "tensors": [output], "labels": _VOICE, "binary": True},
        },
        _sound,
        feed,
        row,
        {name: np.zeros(shape, np.float32) for name in state},
        state,
    )


_ONE, _TWO = (2, 1, 128), (1, 1, 128)
_VOICES = [
    _silero("silero_vad.onnx", "output", {"state": "stateN"}, _ONE, rate=True),
    _silero("silero_vad_16k_op15.onnx", "output", {"state": "stateN"}, _ONE, rate=True),
    _silero("silero_vad_half.onnx", "output", {"state": "stateN"}, _ONE),
    _silero("silero_vad_op18_ifless.onnx", "output", {"state": "stateN"}, _ONE, rate=True),
    _silero("silero_vad_16k_sequence.onnx", "speech_probs", {"h": "hn", "c": "cn"}, _TWO),
]


# -- bytes, words ------------------------------------------------------------------------------------------

_KINDS = [f"kind-{at}" for at in range(214)]


def _bytes() -> list[NDArray[Any]]:
    """Two text files and two of noise, 2048 bytes each; 256 stands for what is not there."""
    rng = np.random.default_rng(2)
    texts = [b"import os\n\ndef main():\n    print(os.getcwd())\n" * 50, b'{"a": [1, 2, 3]}\n' * 130]
    made = [np.frombuffer(text[:2048].ljust(2048), np.uint8).astype(float) for text in texts]
    made += [rng.integers(0, 257, 2048).astype(float) for _ in range(2)]
    return [each[:, None] for each in made]


_BYTES = Case(
    "magika",
    "magika==1.0.3",
    "model.onnx",
    {
        "input": _window("bytes", 1, 2048, layout="flat"),
        "output": {"decoder": "classification", "labels": _KINDS},
    },
    _bytes,
    lambda data: {"bytes": data.reshape(1, 2048).astype(np.int32)},
    lambda outputs: best(_KINDS, outputs["target_label"][0]),
)


def _word(file: str, length: int) -> Case:
    labels = ["other", "word"]

    def row(outputs: dict[str, Any]) -> Row:
        score = float(outputs["39"][0, 0])
        return {"label": labels[score > 0.5], "score": max(score, 1 - score)}

    return Case(
        f"openwakeword {file.removesuffix('.onnx')}",
        _WORDS,
        f"models/{file}",
        {
            "input": _window("onnx::Flatten_0", 96, length),
            "output": {"decoder": "classification", "labels": labels, "binary": True},
        },
        lambda: windows(length, 96),
        lambda data: {"onnx::Flatten_0": data[None].astype(np.float32)},
        row,
    )


# -- traffic lights, trees ---------------------------------------------------------------------------------


def _sigmoid(number: float) -> float:
    return float(1 / (1 + np.exp(-number)))


def _decode_row(outputs: dict[str, Any]) -> Row:
    share = _sigmoid(float(outputs["Y"][0, 0]))
    return {"label": ["no", "yes"][share > 0.5], "score": max(share, 1 - share)}


_SEVEN = [f"function-{at}" for at in range(7)]
_TRAFFIC = [
    Case(
        "atspm decode (float64, sum of leaves)",
        _LIGHTS,
        "weights/decode_v3.onnx",
        {
            "input": _window("X", 25, 1, layout="flat"),
            "output": {"decoder": "classification", "labels": ["no", "yes"], "binary": True, "sigmoid": True},
        },
        lambda: windows(1, 25, scale=3.0),
        lambda data: {"X": data},
        _decode_row,
    ),
    Case(
        "atspm function (float64, 7 classes)",
        _LIGHTS,
        "function/function229_s0.onnx",
        {
            "input": _window("X", 229, 1, layout="flat"),
            "output": {"decoder": "classification", "labels": _SEVEN, "softmax": True},
        },
        lambda: windows(1, 229),
        lambda data: {"X": data},
        lambda outputs: best(_SEVEN, softmax(outputs["Y"][0])),
    ),
    Case(
        "atspm pair (first of two outputs, open width)",
        _LIGHTS,
        "funcnet/x100_w32full_pair.onnx",
        {
            "input": _window("x", 15, 64, layout="signal-time"),
            "output": {"decoder": "regression", "tensors": ["s"], "fields": {"score": {}}},
        },
        lambda: windows(64, 15),
        lambda data: {"x": data.T[None].astype(np.float32)},
        lambda outputs: {"score": float(outputs["s"][0])},
    ),
    Case(
        "atspm pair (embedding)",
        _LIGHTS,
        "funcnet/x100_w32full_pair.onnx",
        {
            "input": _window("x", 15, 64, layout="signal-time"),
            "output": {"decoder": "embedding", "tensors": ["z"], "size": 128, "normalise": True, "dec": 6},
        },
        lambda: windows(64, 15),
        lambda data: {"x": data.T[None].astype(np.float32)},
        lambda outputs: {"vector": outputs["z"][0] / np.linalg.norm(outputs["z"][0])},
    ),
    Case(
        "atspm head (three inputs)",
        _LIGHTS,
        "funcnet/x100_w32full_head.onnx",
        {
            "input": {
                "kind": "window",
                "signals": ["logit", "act", *(f"z{at}" for at in range(128))],
                "rate_hz": 1,
                "length": 5,
                "inputs": [
                    {"name": "logit", "signals": ["logit"], "layout": "flat"},
                    {"name": "Z", "signals": [f"z{at}" for at in range(128)]},
                    {"name": "act", "signals": ["act"], "rows": 1, "shape": [1]},
                ],
            },
            "output": {"decoder": "regression", "fields": {f"p{at}": {} for at in range(7)}},
        },
        lambda: windows(5, 130),
        lambda data: {
            "logit": data[None, :, 0].astype(np.float32),
            "act": data[-1:, 1].astype(np.float32),
            "Z": data[None, :, 2:].astype(np.float32),
        },
        lambda outputs: {f"p{at}": float(value) for at, value in enumerate(outputs["flogp"][0])},
    ),
]


_TREES = [
    Case(
        f"surfaces {name}",
        _SURFACES,
        f"{name}.onnx",
        {
            "input": _window("input", 4, 1, layout="flat"),
            "output": {"decoder": "regression", "fields": {"value": {}}},
        },
        lambda: windows(1, 4, scale=5.0),
        lambda data: {"input": data.astype(np.float32)},
        lambda outputs: {"value": float(outputs["variable"][0, 0])},
    )
    for name in ("gradient_boosting_regressor", "k_neighbors_regressor")
]
_VALID = Case(
    "surfaces validity (label first)",
    _SURFACES,
    "k_neighbors_classifier.validity.onnx",
    {
        "input": _window("input", 4, 1, layout="flat"),
        "output": {"decoder": "classification", "labels": ["0", "1"]},
    },
    lambda: windows(1, 4, scale=5.0),
    lambda data: {"input": data.astype(np.float32)},
    lambda outputs: best(["0", "1"], outputs["probabilities"][0]),
)

CASES = [
    *_VOICES,
    _BYTES,
    _word("hello_deepa.onnx", 25),
    _word("hello_deepa_old.onnx", 24),
    _word("namaste_deepa.onnx", 24),
    *_TRAFFIC,
    *_TREES,
    _VALID,
]
