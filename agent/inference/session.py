"""An onnxruntime session of a model package: pictures or windows in, results out, from any thread."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from adapters.base import Picture
from agent.inference import decoders, execution_providers, gate_process
from agent.inference.declared import checked, require_fields
from agent.inference.decoders import ModelError, Result
from agent.inference.execution_providers import CPU
from agent.inference.feeds import Buffers, Feeds
from agent.inference.inputs import FrameInput, WindowInput
from agent.inference.onnx_scan import Edit, edited, scan
from agent.inference.outputs import Outputs
from agent.inference.package import Package, read_model
from agent.inference.tuning import Tuned, tuned_output
from wire.messages import Field
from wire.printable import printable

log = logging.getLogger("edgebed.model")

_WARM_UP_RUNS = 2  # the first run allocates memory
_EXACT = "session.x64quantprecision"
# with the option above onnxruntime looks for a product of signed by unsigned numbers, which it does not have
_NO_KERNEL = re.compile(r"find (?:a )?kernel for QLinear")
_MOST_STREAMS = 64  # whose state is kept
_MOST_TUNED = 4  # decoders with other numbers that are kept: a pilot needs two

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
    exact: bool = True  # their products are the same on every CPU


class Model:
    """An onnxruntime session for a package, on one core, warmed up.

    Several threads may call `run_frame` and `run_window` at the same time: each gets its own buffers.
    """

    isolation = "thread"
    pid = 0  # of a process of its own

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
        if self.manifest.fit_is_default:
            log.warning(
                "%s: input.fit is missing, so pictures are letterboxed; 0.1 stretched them (fit: stretch)",
                package.path,
            )
        body = read_model(package)
        try:
            if scanned is None:
                found = scan(body)
                scanned = Scanned(found.edits, found.int8)
            self._session, exact = _open(edited(body, scanned.edits), providers)
            self.scanned = replace(scanned, exact=exact)
            self.provider = providers[0]
            self.share = execution_providers.share(self._session, self.provider)
            self._open_ends()
            for _ in range(_WARM_UP_RUNS):
                self._run(self._feeds.blank())
        except ModelError as error:
            raise ModelError(f"{package.path / self.manifest.file}: {error}").coded(
                error.reason_code, **error.reason_args
            ) from error

    def _open_ends(self) -> None:
        """Connect the manifest's input and the decoder with the session."""
        found = self.manifest
        spec = found.input
        state = spec.state if isinstance(spec, WindowInput) else {}
        self._feeds = Feeds(spec, self._session.get_inputs())
        self._outputs = Outputs(
            self._session.get_outputs(), found.tensors, found.decoder, list(state.values())
        )
        self._state_names = list(state)
        self._hop = spec.hop if isinstance(spec, WindowInput) else 0
        self._streams: OrderedDict[str, _Kept] = OrderedDict()
        self._free: list[Buffers] = []
        buffers = self._take()
        buffers.fill(self._feeds.blank())
        self._outputs.learn(self._session_run(buffers.feed), getattr(found.output, "labels", ()))
        self._free.append(buffers)
        self._reads_input = decoders.load(found.decoder).reads_input
        self._tuned: OrderedDict[Tuned, decoders.Decoder] = OrderedDict()
        self._decoder = self._new_decoder(found.output)
        fields = self._decoder.fields()
        require_fields(fields, of_pictures=isinstance(spec, FrameInput))
        self._foreign = None if found.decoder in decoders.BUILT_IN else fields  # its results are checked

    def _new_decoder(self, output: Any) -> decoders.Decoder:
        spec, tensors = self.manifest.input, self._outputs.tensors
        if self._reads_input:
            tensors = [*self._feeds.filled, *tensors]
        kind = decoders.load(self.manifest.decoder)
        made = kind(output, tensors, spec.size if isinstance(spec, FrameInput) else None)
        made.attach(spec)
        return made

    def _decoder_with(self, tuned: Tuned | None) -> decoders.Decoder:
        if tuned is None:
            return self._decoder
        found = self._tuned.get(tuned) or self._new_decoder(tuned_output(self.manifest, tuned))
        self._tuned[tuned] = found
        while len(self._tuned) > _MOST_TUNED:
            self._tuned.popitem(last=False)
        return found

    def fields(self) -> dict[str, Field]:
        """The fields of a row of the result stream."""
        return self._decoder.fields()

    @property
    def stateful(self) -> bool:
        """Whether a run goes on from the state of the last one."""
        return bool(self._state_names)

    @property
    def whole(self) -> bool:
        """Whether the model takes whole numbers."""
        return self._feeds.whole

    @property
    def wide(self) -> bool:
        """Whether the model takes numbers of 64 bits, or whole ones, which 32 bits would change."""
        return self._feeds.wide

    def run_frame(
        self,
        picture: Picture,
        *,
        lasting: bool = False,  # noqa: ARG002 - for workers
        tuned: Tuned | None = None,
    ) -> Result:
        """Run one picture (height, width, 3), BGR uint8; boxes come as shares of that picture.

        The decoder has the number `tuned` instead of its own.

        Raises:
            ModelError: the picture has another shape or type, this is not a frame model, or the run failed.
        """
        return self._run(picture, tuned=tuned)

    def run_window(
        self, window: NDArray[Any], stream: str = "", end: int = 0, *, tuned: Tuned | None = None
    ) -> Result:
        """Run one window (length, signals), rows in time order; `tuned` as for `run_frame`.

        A model with state goes on from the state of the last window of `stream`, if `end`, which counts the
        stream's rows, is one hop later; else it begins again. Without `stream` it begins again too. The
        windows of one stream come one after another.

        Raises:
            ModelError: the shape is wrong, this is not a window model, or the run failed.
        """
        if not self._state_names:
            return self._run(window, tuned=tuned)
        before = self._streams.pop(stream, None)  # a run that fails leaves none
        follows = before is not None and end == before.end + self._hop
        kept = _Kept(end, before.state if before is not None and follows else None)
        result = self._run(window, kept, tuned)
        if stream and kept.state is not None:
            self._streams[stream] = kept
            while len(self._streams) > _MOST_STREAMS:
                self._streams.popitem(last=False)
        return result

    def doubt(self, outputs: list[NDArray[Any]]) -> str:
        """Why the outputs of a plain input cannot be what the decoder reads; "" if they can."""
        return self._decoder.doubt(outputs)

    def raw(self, data: NDArray[Any]) -> list[NDArray[Any]]:
        """The output tensors, not decoded, of a picture, a window, or a tensor just as the model takes it."""
        buffers = self._take()
        try:
            tensor = buffers.filled[0]
            ready = data.ndim > 2 and data.shape == tensor.shape and data.dtype == tensor.dtype
            if ready and len(buffers.filled) == 1:
                tensor[:] = data
            else:
                buffers.fill(data)
            return self._outputs.arrays(self._session_run(buffers.feed))[0]
        finally:
            self._free.append(buffers)

    def _run(self, data: NDArray[Any], kept: _Kept | None = None, tuned: Tuned | None = None) -> Result:
        began_ns = time.thread_time_ns()  # the model has no other thread
        decoder = self._decoder_with(tuned)
        buffers = self._take()
        try:
            placement = buffers.fill(data)
            feed = buffers.feed
            if kept is not None and kept.state is not None:
                feed = {**feed, **kept.state}
            begin = time.perf_counter_ns()
            given = self._session_run(feed)
            spent_ms = (time.perf_counter_ns() - begin) / 1e6
            before = [array.copy() for array in buffers.filled] if self._reads_input else []
        finally:
            self._free.append(buffers)
        outputs, state = self._outputs.arrays(given)
        result = decoder.decode([*before, *outputs] if before else outputs, placement)
        if self._foreign is not None:
            result = checked(result, self._foreign)
        result.infer_ms = spent_ms
        # an infinite number can be right, as a masked score, but not where a value of the row is lost
        lost = None in result.values.values() and not all(map(_is_finite, outputs))
        result.nan = lost or any(map(_has_nan, outputs))
        if state:
            following = self._feeds.next_state(dict(zip(self._state_names, state, strict=True)))
            result.nan = result.nan or following is None
            if kept is not None:
                kept.state = following
        result.cpu_ms = (time.thread_time_ns() - began_ns) / 1e6
        return result

    def _take(self) -> Buffers:
        try:
            return self._free.pop()  # atomic, so that two threads never share buffers
        except IndexError:
            return self._feeds.buffers()

    def _session_run(self, feed: dict[str, NDArray[Any]]) -> list[Any]:
        return run(self._session, self._outputs.names, feed)


@dataclass(slots=True)
class _Kept:
    """The state of one stream after the window that ended with row `end`; None where it begins again."""

    end: int
    state: dict[str, NDArray[Any]] | None


def open_file(body: bytes, *, as_written: bool = False) -> Any:
    """A session of an ONNX file that has no manifest yet; `as_written` with inputs that are weights.

    Raises:
        ModelError: the file cannot be loaded.
    """
    found = scan(body)
    return _open(body if as_written else edited(body, found.edits), CPU)[0]


def run(session: Any, names: Sequence[str] | None, feed: dict[str, NDArray[Any]]) -> list[Any]:
    """What a run of the session gives for the outputs `names`.

    Raises:
        ModelError: the run failed.
    """
    try:
        found: list[Any] = session.run(names, feed)
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        raise ModelError(f"the run failed: {_reason(error)}") from error
    return found


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


def _open(body: bytes, providers: Sequence[str]) -> tuple[Any, bool]:
    """The session, and whether its products of 8 bits are exact."""
    import onnxruntime  # takes 0.2 s and 30 MB: only agents with models pay for it

    _limit_memory(onnxruntime)
    options = _options(onnxruntime)
    listed = execution_providers.add(options, providers)
    try:
        session = onnxruntime.InferenceSession(body, options, providers=listed)
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        if not _NO_KERNEL.search(str(error)):
            raise ModelError(f"onnxruntime refuses it: {_reason(error)}") from error
        return _open_as_written(body, providers), False
    return session, True


def _open_as_written(body: bytes, providers: Sequence[str]) -> Any:
    """Open a model whose products of signed numbers onnxruntime has in no other form.

    On CPUs without VNNI they can saturate, which golden vectors show.
    """
    import onnxruntime

    options = _options(onnxruntime)
    options.add_session_config_entry(_EXACT, "0")
    listed = execution_providers.add(options, providers)
    try:
        return onnxruntime.InferenceSession(body, options, providers=listed)
    except Exception as error:  # as in `_open`
        raise ModelError(f"onnxruntime refuses it: {_reason(error)}") from error


def _options(onnxruntime: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # products of 8 bits are exact on CPUs without VNNI too, where they would saturate at 16 bits
    options.add_session_config_entry(_EXACT, "1")
    # the scan has read an ONNX file: onnxruntime must not take it for another format
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = 4  # the exception has the reason of a failure
    return options


def _has_nan(output: NDArray[Any]) -> bool:
    # `min` of an array with NaN is NaN, and ten times as fast as a look at each number
    return output.dtype.kind == "f" and output.size > 0 and bool(np.isnan(output.min()))


def _is_finite(output: NDArray[Any]) -> bool:
    return bool(np.isfinite(output).all())


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
