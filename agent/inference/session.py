"""An onnxruntime session of a model package: pictures or windows in, results out, from any thread."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from adapters.base import Picture
from agent.inference import decoders, gate_process
from agent.inference.decoders import ModelError, Placement, Result, Tensor
from agent.inference.inputs import FrameInput
from agent.inference.manifest import Manifest
from agent.inference.onnx_scan import Edit, edited, scan
from agent.inference.package import Package, read_model
from agent.inference.preprocess import FrameTensor, WindowTensor
from wire.messages import Field
from wire.printable import printable

CPU = ("CPUExecutionProvider",)
MAX_OUTPUT = 64_000_000  # bytes of one run's outputs
_WARM_UP_RUNS = 2  # the first run allocates memory
_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}
_WHOLE = {f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"tensor(bool)"}
_NUMBERS = {"tensor(float)", "tensor(double)", "tensor(float16)", *_WHOLE}
_NO_LABEL_FIRST = ("classification", "anomaly")  # decoders that take the label for a score

# "[ONNXRuntimeError] : 1 : FAIL : "
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : -?\d+ : \w+ : ")
# "/onnxruntime_src/onnxruntime/core/graph/model.cc:150 " before a signature
_PLACE = re.compile(r"[^\s:]+\.(?:cc|cpp|cxx|cu|cuh|h|hpp|inc):\d+ ")
_QUALIFIERS = re.compile(r"(?: const| noexcept| \[with [^\]]*\])* ?")


_limiting = threading.Lock()
_limited = False  # whether the memory of the models is limited


class Scanned(Struct, frozen=True):
    """What the scan of an ONNX file found that opening it needs."""

    edits: list[Edit] = []
    int8: bool = False  # it has operators on whole numbers of 8 bits


class Model:
    """An onnxruntime session for a package, on one core, warmed up.

    Several threads may call `run_frame` and `run_window` at the same time: each gets its own buffers.
    """

    def __init__(
        self, package: Package, *, providers: Sequence[str] = CPU, scanned: Scanned | None = None
    ) -> None:
        """Open the model, check it against the manifest and warm it up.

        This takes tens to hundreds of milliseconds: call it in a thread. Without `scanned`, which the gate
        gives, the file is scanned first.

        Raises:
            ModelError: the model does not fit the manifest or cannot be opened.
        """
        self.package = package
        self.signed_by = ""  # the trusted key that signed the package, as the gate reports it
        self.manifest = package.manifest
        body = read_model(package)
        try:
            if scanned is None:
                found = scan(body)
                scanned = Scanned(found.edits, found.int8)
            self.scanned = scanned
            self._session = _open(edited(body, scanned.edits), providers)
            self.provider: str = self._session.get_providers()[0]
            self._input = _checked_input(self._session, self.manifest)
            outputs = _checked_outputs(self._session, self.manifest.decoder)
            self._output_names = [output.name for output in outputs]
            spec = self.manifest.input
            size = spec.size if isinstance(spec, FrameInput) else None
            self._decoder = decoders.load(self.manifest.decoder)(self.manifest.output, outputs, size)
            self._free: list[_Buffers] = []
            for _ in range(_WARM_UP_RUNS):
                self._run(_blank(self.manifest))
        except ModelError as error:
            raise ModelError(f"{package.path / self.manifest.file}: {error}").coded(
                error.reason_code, **error.reason_args
            ) from error

    def fields(self) -> dict[str, Field]:
        """The fields of a row of the result stream."""
        return self._decoder.fields()

    def run_frame(self, picture: Picture) -> Result:
        """Run one picture (height, width, 3), BGR uint8; boxes come as shares of that picture.

        Raises:
            ModelError: the picture has another shape or type, this is not a frame model, or the run failed.
        """
        return self._run(picture)

    def run_window(self, window: NDArray[np.float32]) -> Result:
        """Run one window (length, signals), rows in time order.

        Raises:
            ModelError: the shape is wrong, this is not a window model, or the run failed.
        """
        return self._run(window)

    def doubt(self, outputs: list[NDArray[Any]]) -> str:
        """Why the outputs of a plain input cannot be what the decoder reads; "" if they can."""
        return self._decoder.doubt(outputs)

    def raw(self, data: NDArray[Any]) -> list[NDArray[Any]]:
        """The output tensors, not decoded, of a picture, a window, or a tensor just as the model takes it."""
        buffers = self._take()
        try:
            (tensor,) = buffers.feed.values()
            if data.ndim > 2 and data.shape == tensor.shape and data.dtype == tensor.dtype:
                tensor[:] = data
            else:
                buffers.fill(data)
            return self._infer(buffers)
        finally:
            self._free.append(buffers)

    def _run(self, data: NDArray[Any]) -> Result:
        buffers = self._take()
        try:
            placement = buffers.fill(data)
            begin = time.perf_counter_ns()
            outputs = self._infer(buffers)
            spent_ms = (time.perf_counter_ns() - begin) / 1e6
        finally:
            self._free.append(buffers)
        result = self._decoder.decode(outputs, placement)
        result.infer_ms = spent_ms
        # an infinite number can be right, as a masked score, but not where a value of the row is lost
        lost = None in result.values.values() and not all(map(_is_finite, outputs))
        result.nan = lost or any(map(_has_nan, outputs))
        return result

    def _take(self) -> _Buffers:
        try:
            return self._free.pop()  # atomic, so that two threads never share buffers
        except IndexError:
            return _buffers(self.manifest, self._input)

    def _infer(self, buffers: _Buffers) -> list[NDArray[Any]]:
        try:
            found: list[NDArray[Any]] = self._session.run(self._output_names, buffers.feed)
        except Exception as error:  # the exceptions of onnxruntime have no common base class
            raise ModelError(f"the run failed: {_reason(error)}") from error
        return found


def signature(body: bytes) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of an ONNX file that has no manifest yet.

    Raises:
        ModelError: the file cannot be loaded, or has an input or output that no package can have.
    """
    session = _open(edited(body, scan(body).edits), CPU)
    inputs = [_tensor(each) for each in session.get_inputs()]
    for tensor in inputs:
        _require_usable(tensor)
    return inputs, _checked_outputs(session, "classification")


@dataclass(slots=True)
class _Buffers:
    """The buffers of one thread: `fill` writes the input tensor, which is in `feed`."""

    fill: Callable[[Any], Placement | None]
    feed: dict[str, NDArray[Any]]


def _buffers(found: Manifest, tensor: Tensor) -> _Buffers:
    spec = found.input
    if isinstance(spec, FrameInput):
        frames = FrameTensor(spec, tensor.dtype)
        return _Buffers(frames.fill, {tensor.name: frames.tensor})
    windows = WindowTensor(spec, tensor.dtype)
    return _Buffers(windows.fill, {tensor.name: windows.tensor})


def _blank(found: Manifest) -> NDArray[Any]:
    """An input without content, for warming up: a grey picture, or a window of means."""
    spec = found.input
    if isinstance(spec, FrameInput):
        return np.full((spec.size[1], spec.size[0], 3), 114, np.uint8)
    return np.tile(np.array(spec.mean or [0.0] * len(spec.signals), np.float32), (spec.length, 1))


def _limit_memory(onnxruntime: Any) -> None:
    """Limit what the models of this process take together: a run that needs more fails, the agent stays."""
    global _limited  # noqa: PLW0603 - onnxruntime's allocator belongs to the process
    with _limiting:
        if not _limited:
            kinds = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
            memory = onnxruntime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1])
            arena = onnxruntime.OrtArenaCfg({"max_mem": gate_process.models_limit()})
            onnxruntime.create_and_register_allocator(memory, arena)
            _limited = True


def _open(body: bytes, providers: Sequence[str]) -> Any:
    import onnxruntime  # takes 0.2 s and 30 MB: only agents with models pay for it

    for provider in providers:
        if provider not in onnxruntime.get_available_providers():
            there = ", ".join(onnxruntime.get_available_providers())
            raise ModelError(
                f"execution provider {provider} is not in this onnxruntime (available: {there})"
            ).coded("provider-missing", provider=provider)
    _limit_memory(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # products of 8 bits are exact on CPUs without VNNI too, where they would saturate at 16 bits
    options.add_session_config_entry("session.x64quantprecision", "1")
    # the scan has read an ONNX file: onnxruntime must not take it for another format
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4  # the exception has the reason of a failure
    try:
        session = onnxruntime.InferenceSession(body, options, providers=list(providers))
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        raise ModelError(f"onnxruntime refuses it: {_reason(error)}") from error
    if session.get_providers()[0] != providers[0]:
        raise ModelError(
            f"{providers[0]} was requested, onnxruntime fell back to {session.get_providers()[0]}"
        )
    return session


def _checked_input(session: Any, found: Manifest) -> Tensor:
    """The model's input, with the shape that the manifest gives."""
    inputs = [_tensor(each) for each in session.get_inputs()]
    spec = found.input
    shown = ", ".join(map(str, inputs))
    if len(inputs) != 1:
        raise ModelError(f"a model with one input is needed, this one has {shown}")
    tensor = inputs[0]
    if tensor.name != spec.name:
        raise ModelError(f"input.name is {spec.name!r}, the model's input is {shown}")
    _require_usable(tensor)
    needed = spec.shape
    fits = len(needed) == len(tensor.shape) and all(
        have in (want, -1) for have, want in zip(tensor.shape, needed, strict=True)
    )
    if not fits:
        raise ModelError(f"the manifest's input makes a tensor {list(needed)}, the model needs {shown}")
    return Tensor(tensor.name, tensor.dtype, needed)


def _require_usable(tensor: Tensor) -> None:
    if tensor.dtype not in _TYPES.values():
        raise ModelError(f"input {tensor}: its type must be one of {', '.join(_TYPES.values())}")


def _checked_outputs(session: Any, decoder: str) -> list[Tensor]:
    """The model's outputs: tensors of numbers that together are not too large, and the label is not first."""
    nodes = session.get_outputs()
    for node in nodes:
        shown = f"output '{printable(node.name, 64)}' is {printable(node.type, 64)}"
        if not str(node.type).startswith("tensor("):
            raise ModelError(
                f"{shown}, not a tensor: export the model without it (scikit-learn, LightGBM: zipmap=False)"
            )
        if node.type not in _NUMBERS:
            raise ModelError(f"{shown}, not numbers: export the model with numbers only")
    outputs = [_tensor(each) for each in nodes]
    if decoder in _NO_LABEL_FIRST and len(nodes) > 1 and _is_label(nodes[0].type, outputs[0]):
        raise ModelError(
            f"its first output {outputs[0]} is a label (as scikit-learn and LightGBM export it), and the "
            f"decoder {decoder} reads scores there: export the model with the scores only"
        )
    size = sum(4 * math.prod(abs(dim) for dim in output.shape) for output in outputs)
    if size > MAX_OUTPUT:
        raise ModelError(f"its outputs take {size} bytes a run; {MAX_OUTPUT} are allowed")
    return outputs


def _has_nan(output: NDArray[Any]) -> bool:
    # `min` of an array with NaN is NaN, and ten times as fast as a look at each number
    return output.dtype.kind == "f" and output.size > 0 and bool(np.isnan(output.min()))


def _is_finite(output: NDArray[Any]) -> bool:
    return bool(np.isfinite(output).all())


def _is_label(kind: str, output: Tensor) -> bool:
    """Whether an output can only be the number of a class: whole, and one for the input."""
    return kind in _WHOLE and math.prod(abs(dim) for dim in output.shape) == 1


def _tensor(node: Any) -> Tensor:
    dtype = _TYPES.get(node.type, str(node.type).removeprefix("tensor(").removesuffix(")"))
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    return Tensor(str(node.name), dtype, shape)


def _reason(error: BaseException) -> str:
    """The reason in a message of onnxruntime, without the place in its source and the C++ signature."""
    text = _PREFIX.sub("", str(error).strip() or type(error).__name__)
    while place := _PLACE.search(text):
        text = text[: place.start()] + " " + text[_after_signature(text, place.end()) :]
    return printable(" ".join(text.split()), 400)


def _after_signature(text: str, at: int) -> int:
    """The end of the C++ signature that begins at `at`: behind the parameters and what qualifies them."""
    begin = text.find("(", at)
    if begin < 0 or "\n" in text[at:begin]:
        return at
    while text.startswith("()(", begin):  # operator()(...)
        begin += 2
    depth = 0
    for end in range(begin, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            rest = _QUALIFIERS.match(text, end + 1)
            return rest.end() if rest else end + 1
    return at
