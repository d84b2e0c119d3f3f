"""A model package at work: checked when opened, then pictures or windows in, results out, from any thread."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference import decoders, manifest
from agent.inference.decoders import ModelError, Placement, Result, Tensor
from agent.inference.manifest import FrameInput, Manifest
from agent.inference.onnx_scan import freed, scan
from wire.messages import Field

__all__ = ["MAX_MODEL", "Manifest", "Model", "ModelError", "Package", "Picture", "Result", "load_package"]

Picture = NDArray[np.uint8]  # height x width x 3, BGR

MAX_MODEL = 200_000_000  # bytes of an ONNX file
MAX_OUTPUT = 64_000_000  # bytes of one run's outputs
_WARM_UP = 2  # runs: the first one allocates
_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}


@dataclass(frozen=True, slots=True)
class Package:
    """A folder with a checked manifest and an ONNX file of the declared hash."""

    path: Path
    manifest: Manifest
    sha256: str


def load_package(path: Path, *, max_bytes: int = MAX_MODEL) -> Package:
    """Check a package folder: manifest, paths, sizes, hash, operators; onnxruntime is not imported.

    Raises:
        ModelError: with every mistake of the manifest, or what is wrong with the ONNX file.
    """
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such model package (a folder with {manifest.FILE})")
    found = manifest.load(path)
    body = _read(path, found, max_bytes)
    try:
        scan(body)
    except ModelError as error:
        raise ModelError(f"{path / found.file}: {error}") from error
    return Package(path, found, found.sha256)


def signature(file: Path, *, max_bytes: int = MAX_MODEL) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of an ONNX file that has no manifest yet.

    Raises:
        ModelError: it cannot be read or loaded.
    """
    body = _capped(file, max_bytes)
    try:
        session = _open(freed(body, scan(body)), ("CPUExecutionProvider",))
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    return [_tensor(each) for each in session.get_inputs()], [_tensor(each) for each in session.get_outputs()]


class Model:
    """An onnxruntime session for a package, on one core, warmed up.

    `run_frame` and `run_window` may be called from several threads at a time: each gets its own buffers.
    """

    def __init__(
        self,
        package: Package,
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        max_bytes: int = MAX_MODEL,
    ) -> None:
        """Open, check against the manifest and warm up: tens to hundreds of milliseconds, so in a thread.

        Raises:
            ModelError: with the reason.
        """
        self.package = package
        self.manifest = package.manifest
        where = package.path / self.manifest.file
        try:
            body = _read(package.path, self.manifest, max_bytes)
            self._session = _open(freed(body, scan(body)), providers)
            self.provider: str = self._session.get_providers()[0]
            tensor = _the_input(self._session, self.manifest)
            self._outputs = _the_outputs(self._session)
            self._output_names = [output.name for output in self._outputs]
            spec = self.manifest.input
            size = spec.size if isinstance(spec, FrameInput) else None
            kind = decoders.load(self.manifest.decoder)
            self._decoder = kind(self.manifest.output, self._outputs, size)
            self._desk = _desk(self.manifest, tensor)
            self._free: list[_Desk] = []
            for _ in range(_WARM_UP):
                self._run(lambda desk: desk.fill_blank())
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from error

    def fields(self) -> dict[str, Field]:
        """What a row of the result stream holds."""
        return self._decoder.fields()

    def run_frame(self, picture: Picture) -> Result:
        """See one picture (height, width, 3), BGR uint8; boxes come as shares of that picture.

        Raises:
            ModelError: it is no such picture, this is no frame model, or the run failed.
        """
        return self._run(lambda desk: desk.fill(picture))

    def run_window(self, window: NDArray[np.float32]) -> Result:
        """See one window (length, signals), rows in time order.

        Raises:
            ModelError: the shape is wrong, this is no window model, or the run failed.
        """
        return self._run(lambda desk: desk.fill(window))

    def raw(self, data: NDArray[Any]) -> list[NDArray[Any]]:
        """The output tensors, not decoded, of a picture, a window, or a tensor just as the model takes it."""
        desk = self._take()
        try:
            (tensor,) = desk.feed.values()
            if data.ndim > 2 and data.shape == tensor.shape and data.dtype == tensor.dtype:
                tensor[:] = data
            else:
                desk.fill(data)
            return self._infer(desk)
        finally:
            self._free.append(desk)

    def _run(self, fill: Callable[[_Desk], Placement | None]) -> Result:
        desk = self._take()
        try:
            placement = fill(desk)
            begin = time.perf_counter_ns()
            outputs = self._infer(desk)
            spent_ms = (time.perf_counter_ns() - begin) / 1e6
        finally:
            self._free.append(desk)
        result = self._decoder.decode(outputs, placement)
        result.infer_ms = spent_ms
        return result

    def _take(self) -> _Desk:
        try:
            return self._free.pop()  # atomic, so that two threads never share one
        except IndexError:
            return self._desk()

    def _infer(self, desk: _Desk) -> list[NDArray[Any]]:
        try:
            found: list[NDArray[Any]] = self._session.run(self._output_names, desk.feed)
        except Exception as error:  # onnxruntime raises classes of its own without a common base
            raise ModelError(f"the run failed: {_first_line(error)}") from error
        return found


Fill = Callable[[Any], Placement | None]


@dataclass(slots=True)
class _Desk:
    """One thread's buffers: what fills the input tensor, and the feed that holds it."""

    fill: Fill
    blank: NDArray[Any]
    feed: dict[str, NDArray[Any]]

    def fill_blank(self) -> Placement | None:
        return self.fill(self.blank)


def _desk(found: Manifest, tensor: Tensor) -> Callable[[], _Desk]:
    from agent.inference.preprocess import FrameTensor, WindowTensor

    spec = found.input

    def make() -> _Desk:
        if isinstance(spec, FrameInput):
            frames = FrameTensor(spec, tensor.dtype)
            blank: NDArray[Any] = np.full((spec.size[1], spec.size[0], 3), 114, np.uint8)
            return _Desk(frames.fill, blank, {tensor.name: frames.tensor})
        windows = WindowTensor(spec, tensor.dtype)
        blank = np.tile(np.array(spec.mean or [0.0] * len(spec.signals), np.float32), (spec.length, 1))
        return _Desk(windows.fill, blank, {tensor.name: windows.tensor})

    return make


def _read(folder: Path, found: Manifest, max_bytes: int) -> bytes:
    path = manifest.inside(folder, found.file)
    body = _capped(path, max_bytes)
    digest = hashlib.sha256(body).hexdigest()
    if digest != found.sha256:
        raise ModelError(
            f"{path} has sha256 {digest}, the manifest says {found.sha256}: "
            "it is another file, or the manifest was not updated"
        )
    return body


def _capped(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelError(f"{path} has {size} bytes; {max_bytes} are allowed")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _open(body: bytes, providers: Sequence[str]) -> Any:
    import onnxruntime  # 0.2 s and 30 MB: only who runs models pays

    for provider in providers:
        if provider not in onnxruntime.get_available_providers():
            there = ", ".join(onnxruntime.get_available_providers())
            raise ModelError(f"execution provider {provider} is not in this onnxruntime (there is {there})")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # what fails is told by the exception
    try:
        session = onnxruntime.InferenceSession(body, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises classes of its own without a common base
        raise ModelError(f"onnxruntime refuses it: {_first_line(error)}") from error
    if session.get_providers()[0] != providers[0]:
        raise ModelError(
            f"{providers[0]} was asked for, onnxruntime fell back to {session.get_providers()[0]}"
        )
    return session


def _the_input(session: Any, found: Manifest) -> Tensor:
    inputs = [_tensor(each) for each in session.get_inputs()]
    spec = found.input
    shown = ", ".join(map(str, inputs))
    if len(inputs) != 1:
        raise ModelError(f"a model with one input is needed, this one has {shown}")
    tensor = inputs[0]
    if tensor.name != spec.name:
        raise ModelError(f"input.name is {spec.name!r}, the model's input is {shown}")
    if tensor.dtype not in _TYPES.values():
        raise ModelError(f"input {shown}: {', '.join(_TYPES.values())} can be filled")
    wanted = spec.shape
    fits = len(wanted) == len(tensor.shape) and all(
        have in (want, -1) for have, want in zip(tensor.shape, wanted, strict=True)
    )
    if not fits:
        raise ModelError(f"the manifest's input makes a tensor {list(wanted)}, the model wants {shown}")
    return Tensor(tensor.name, tensor.dtype, wanted)


def _the_outputs(session: Any) -> list[Tensor]:
    outputs = [_tensor(each) for each in session.get_outputs()]
    size = sum(4 * math.prod(abs(dim) for dim in output.shape) for output in outputs)
    if size > MAX_OUTPUT:
        raise ModelError(f"its outputs take {size} bytes a run; {MAX_OUTPUT} are allowed")
    return outputs


def _tensor(node: Any) -> Tensor:
    dtype = _TYPES.get(node.type, str(node.type).removeprefix("tensor(").removesuffix(")"))
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in node.shape)
    return Tensor(str(node.name), dtype, shape)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
