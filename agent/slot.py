"""One model at work: its queue, its thread, and whether it is well."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from adapters.base import Picture, Reading
from agent import config
from agent.windows import Windows, misfit
from wire.errors import EdgebedError
from wire.messages import Field, ModelRef, ModelState, Quality, Scalar, Stream

if TYPE_CHECKING:
    from agent.manifest import Manifest
    from agent.model import Model, Result

log = logging.getLogger("edgebed.model")

STUCK_S = 20.0  # a model that takes longer for one answer is told as failed
_WINDOWS_WAITING = 4

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True)
class Inference:
    """What a model made of one frame or window; `frame` is the picture's index, `reading` its input's end."""

    reading: Reading
    result: Result
    window: bool

    def row(self) -> dict[str, Scalar]:
        """Its row in the result stream."""
        row: dict[str, Scalar] = {**self.result.values, "infer_ms": self.result.infer_ms}
        return row if self.window else {**row, "frame": self.reading.index}

    @property
    def quality(self) -> Quality:
        """Of the row: a picture's own; windows with doubtful rows count as they are."""
        return Quality.GOOD if self.window else self.reading.quality


class Slot:
    """Runs one model package on one stream, each input in a thread of its own; results go to `done`.

    A source that waits is held back while the model is busy; of any other the oldest input is dropped and
    counted (`dropped`). `memory` is where the gate notes what passed. `open` before `run`. `changed` is
    called when `state` changes.
    """

    def __init__(
        self,
        name: str,
        settings: config.Slot,
        stream: Stream,
        *,
        waits: bool,
        memory: Path | None,
        done: Callable[[Slot, Inference], None],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.state = ModelState(state="stopped", device=settings.device)
        self.manifest: Manifest | None = None
        self.ref = ModelRef(name="", ver="", sha256="")
        self._stream = stream
        self._waits = waits
        self._memory = memory
        self._done = done
        self._changed = changed
        self._model: Model | None = None
        self._windows: Windows | None = None
        self._tells = False  # not while `open` runs in another thread
        self._working = False
        self._seen = 0
        self._jobs: deque[tuple[Reading, NDArray[np.float32] | None]] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def label(self) -> str:
        """`name@version` of the model, as events carry it."""
        return f"{self.ref.name}@{self.ref.ver}"

    @property
    def at_work(self) -> bool:
        """Whether it takes input: refused models do not, failing ones do."""
        return self._model is not None

    def open(self) -> None:
        """Load, check and warm up the model; blocks. A model that cannot be used is told by `state`."""
        from agent import gate  # only who has models pays for their kin
        from agent.decoders import ModelError
        from agent.manifest import WindowInput
        from agent.model import Model, load_package

        try:
            package = load_package(self.settings.package)
            manifest = package.manifest
            self.ref = ModelRef(name=manifest.name, ver=manifest.version, sha256=package.sha256)
            if why := misfit(manifest, self.settings.input, self._stream):
                raise ModelError(why)
            gate.verify(package, providers=self.settings.providers, memory=self._memory)
            model = Model(package, providers=self.settings.providers)
        except EdgebedError as error:
            self._enter("failed", str(error))
            return
        if isinstance(wants := manifest.input, WindowInput):
            self._windows = Windows(
                wants.signals,
                rate_hz=wants.rate_hz,
                length=wants.length,
                hop=wants.hop,
                source_hz=None if self._stream.rate_hz is UNSET else self._stream.rate_hz,
                counters=self.counters,
            )
        self.manifest, self._model = manifest, model
        self._enter("ok", "", model.provider)

    def result_stream(self) -> Stream | None:
        """What `data/{device}/{slot}` carries; None while the model is refused."""
        if self._model is None:
            return None
        fields = dict(self._model.fields())
        if self._windows is None:
            fields["frame"] = Field(t="i64", desc="index of the picture")
        return Stream(kind="signal", fields=fields)

    def offer(self, reading: Reading) -> Awaitable[None] | None:
        """Give one reading of the stream; what comes back is to be awaited before the next."""
        if self._model is None:
            return None
        window = None
        if self._windows is not None:
            window = self._windows.add(reading.at_ns, reading.values)
            if window is None:
                return None
            self._seen += 1
            nth = self._seen - 1
        else:
            nth = reading.index
        if nth % self.settings.every:
            return None
        limit = 1 if window is None else _WINDOWS_WAITING
        if len(self._jobs) >= limit:
            if self._waits:
                return self._when_room(reading, window, limit)
            self._jobs.popleft()
            self.counters["dropped"] += 1
        self._push(reading, window)
        return None

    async def run(self) -> None:
        """Answer for ever what is offered."""
        if self._model is None:
            return
        self._tells = True
        model, thread = self._model, ModelThread(f"model-{self.name}")
        try:
            while True:
                reading, window = await self._next()
                try:
                    if window is not None:
                        work = thread.run(model.run_window, window)
                    else:
                        work = thread.run(model.run_frame, _picture(reading))
                    self._done(self, Inference(reading, await self._patiently(work), window is not None))
                    self.counters["runs"] += 1
                    self._enter("ok", "", model.provider)
                except Exception as error:  # the supervised loop: one bad run is not the daemon's end
                    log.debug("%s: run failed", self.name, exc_info=True)
                    self.counters["failed"] += 1
                    text = (
                        str(error) if isinstance(error, EdgebedError) else f"{type(error).__name__}: {error}"
                    )
                    self._enter("failed", text, model.provider)
        finally:
            thread.stop()

    @property
    def busy(self) -> bool:
        """Whether something is queued or at work."""
        return self._working or bool(self._jobs)

    async def _patiently(self, work: asyncio.Future[R]) -> R:
        """Wait as long as it takes: a thread cannot be ended, so nothing else could follow anyway."""
        told = f"no answer for {STUCK_S:g} s"
        timer = asyncio.get_running_loop().call_later(STUCK_S, self._enter, "failed", told)
        try:
            return await work
        finally:
            timer.cancel()

    async def _next(self) -> tuple[Reading, NDArray[np.float32] | None]:
        while not self._jobs:
            self._working = False
            self._filled.clear()
            await self._filled.wait()
        self._working = True
        self._room.set()
        return self._jobs.popleft()

    def _push(self, reading: Reading, window: NDArray[np.float32] | None) -> None:
        self._jobs.append((reading, window))
        self._filled.set()

    async def _when_room(self, reading: Reading, window: NDArray[np.float32] | None, limit: int) -> None:
        while len(self._jobs) >= limit:
            self._room.clear()
            await self._room.wait()
        self._push(reading, window)

    def _enter(self, state: str, why: str, provider: str = "") -> None:
        before = self.state
        if (state, why) == (before.state, before.why) and (provider or before.provider) == before.provider:
            return
        self.state = ModelState(
            state=state,  # type: ignore[arg-type]  # ours
            name=self.ref.name,
            ver=self.ref.ver,
            provider=provider or before.provider,
            device=self.settings.device,
            why=why[:2000],
        )
        if state != before.state:
            if state == "failed":
                log.warning("model %s: %s", self.name, why)
            else:
                log.info("model %s: %s runs on %s", self.name, self.label, self.state.provider)
        if self._tells:
            self._changed()


class ModelThread:
    """One thread that calls and answers in order; cheaper than an executor by two locks and a future."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None]
        self._calls = queue.SimpleQueue()
        # a daemon: a model that hangs must not keep the process from ending
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[*Ts], R], *arguments: *Ts) -> asyncio.Future[R]:
        """The future of `call(*arguments)`."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._calls.put((future, call, arguments))
        return future

    def stop(self) -> None:
        """End after the call at work; waits for it at most a second."""
        self._calls.put(None)
        self._thread.join(1.0)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call, arguments = item
            try:
                answer: Any = call(*arguments)
                failure: Exception | None = None
            except Exception as error:  # noqa: BLE001 - carried to whoever awaits
                answer, failure = None, error
            try:
                self._loop.call_soon_threadsafe(_settle, future, answer, failure)
            except RuntimeError:  # the loop has closed meanwhile
                return


def _picture(reading: Reading) -> Picture:
    if reading.picture is None:
        raise TypeError("a frame stream gave a reading without a picture")
    return reading.picture


def _settle(future: asyncio.Future[Any], answer: Any, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(answer)
    else:
        future.set_exception(failure)
