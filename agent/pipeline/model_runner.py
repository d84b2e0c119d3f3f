"""Runs one model: its queue, its thread and its state."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET
from msgspec.structs import replace

from adapters.base import Reading
from agent.clock_sync import Stamp
from agent.fences.fences import Fences, Slowed
from agent.inference.model_cache import Isolation, ModelCache
from agent.inference.tuning import Tuned, refusal
from agent.pipeline.frames import crops
from agent.pipeline.frames.scene import Scene, scene_mismatch
from agent.pipeline.input_watch import InputSummary, InputWatch
from agent.pipeline.model_problems import NanResults, NoResult
from agent.pipeline.model_run import Answer, Given, Inference, Job, infer
from agent.pipeline.model_threads import ModelThread
from agent.pipeline.resampler import HALF_WIDTH
from agent.pipeline.settings import SlotConfig
from agent.pipeline.shadow import Shadow, evidence_of
from agent.pipeline.windows import Windows, input_mismatch
from agent.process_children import private_mb
from wire.errors import EdgebedError
from wire.messages import Field, ModelRef, ModelState, Quality, Stream
from wire.printable import printable
from wire.reasons import CODES, NO_REASON, Reason, because

if TYPE_CHECKING:
    from agent.inference.isolation.worker import Worker
    from agent.inference.manifest import Manifest
    from agent.inference.session import Model

log = logging.getLogger("edgebed.model")

_CHECKING = because("the gate checks the model", "model-checking")
# why a run has no result because its process ended
_PROCESS = frozenset(code for code in CODES if code.startswith("model-worker-")) | {"model-refused-deaths"}
STUCK_S = 20.0  # a model that takes longer for one answer is reported as failed
_WINDOWS_WAITING = 4
_HELD_WAITING = 8  # more, while the model before answers what it has
Mode = Literal["live", "warm"]
_runs = itertools.count()  # a state of a model belongs to one run of one runner
CHECK_S = 5.0  # how often the problems of a model are looked for


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that passed the gate, or why it is refused."""

    ref: ModelRef
    model: Model | Worker | Reason


def _unwatched(_answer: Answer) -> None:
    """Judge nothing."""


@dataclass(frozen=True, slots=True)
class ModelHost:
    """What all model runners of a pipeline share.

    `models` opens a package, or has it open for another runner. `done` takes each result, `changed` is called
    when the state of a runner changes, `refused` when one that was open takes no input any more. `fences`
    allows inferences. `tuned` has by slot the number that its decoder has instead of that of the package.
    """

    models: ModelCache
    stamp: Callable[[int], Stamp]
    done: Callable[[ModelRunner, Inference], None]
    changed: Callable[[], None]
    fences: Fences
    refused: Callable[[], None] = lambda: None
    summarised: Callable[[ModelRunner, InputSummary], None] = lambda _runner, _summary: None
    tuned: dict[str, Tuned] = field(default_factory=dict)


class ModelRunner:
    """Runs one model package on one stream, in a thread of its own; results go to `host`.

    A source that can wait is held back while the model is busy. For other sources the oldest input is dropped
    and counted (`dropped`). Until `open`, or `install` of what `prepare` gave, there is no result.

    In the mode `warm` windows are made and nothing runs. While it is `held`, input waits.
    """

    def __init__(
        self, name: str, settings: SlotConfig, stream: Stream, host: ModelHost, *, waits: bool
    ) -> None:
        self.name = name
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.state = ModelState(state="stopped", device=settings.device, **_CHECKING.fields())
        self.manifest: Manifest | None = None
        self.ref = ModelRef(name="", ver="", sha256="")
        self.mode: Mode = "live"
        self.task: asyncio.Task[None] | None = None  # of `run`
        self.held = False
        self.warmed = False  # the next row or picture gives a result
        self.watch: Callable[[Answer], None] = _unwatched
        self._idle = asyncio.Event()  # no input waits or runs
        self._stream = stream
        self.waits = waits
        self._host = host
        self._model: Model | Worker | None = None
        self.prepared: Model | Worker | None = None  # open, until `install`
        self._windows: Windows | None = None
        self._scene: Scene | None = None
        self._no_result: NoResult | None = None  # of a model with windows: each picture gives a result
        self._nan = NanResults()
        self._input: InputWatch | None = None
        self._slowed = Slowed(host.fences.now_s())
        self.opened = asyncio.Event()  # the model is open or refused
        self.opened_s = 0.0  # when the model was opened
        self._stuck = False  # the thread does not answer
        self._seen = 0
        self._wrong_rate_logged = False
        self.shadow: Shadow | None = None
        self._thread: ModelThread[Job, Given] | None = None
        self._jobs: deque[Job] = deque()
        self._in_thread = 0  # jobs that the thread has
        self._since_s = 0.0  # when the thread began the oldest of them
        # a source that waits has no old input to drop, so the thread may hold its next job: waking it is slow
        self._ahead = 2 if waits else 1
        self._room: asyncio.Future[None] | None = None  # a source that is held back waits for it

    @property
    def _limit(self) -> int:
        """The number of jobs that may wait here."""
        more = _HELD_WAITING if self.held else 0
        if self._windows is not None:
            return _WINDOWS_WAITING + more
        if self.settings.crops is not None:
            return self.settings.crops.most + more
        return more + (0 if self.waits else 1)

    @property
    def label(self) -> str:
        """`name@version` of the model, as in events."""
        return f"{self.ref.name}@{self.ref.ver}"

    @property
    def model(self) -> Model | Worker | None:
        """The open model; None before it is open, and if it is refused."""
        return self._model

    @property
    def makes_windows(self) -> bool:
        """Whether the open model sees windows."""
        return self._windows is not None

    @property
    def at_work(self) -> bool:
        """Whether the model takes input: a refused model does not, a failing one does."""
        return self._model is not None

    @property
    def shown(self) -> ModelState:
        """`state` with the process in which the model runs now."""
        shown = replace(
            self.state, evidence=evidence_of(self.shadow), tuned=dict([self.tuned] if self.tuned else [])
        )
        if (model := self._model) is None:
            return shown
        mb = round(private_mb(model.pid), 1) if model.pid else 0.0
        return replace(shown, isolation=model.isolation, pid=model.pid, mb=mb)

    @property
    def tuned(self) -> Tuned | None:
        """The number that the decoder has instead of that of the package; only one that the model takes."""
        asked = self._host.tuned.get(self.name)
        if asked is None or self.manifest is None or refusal(self.manifest, asked):
            return None
        return asked

    def open(self) -> None:
        """Load, check and warm up the model; blocks. `state` shows a model that cannot be used."""
        self.install(self.prepare())

    @property
    def _isolation(self) -> Isolation | None:
        return None if self.settings.isolation is UNSET else self.settings.isolation

    @property
    def is_where_asked(self) -> bool:
        """Whether the open model is in the thread or process that the config asks for."""
        model = self._model
        return model is None or model.isolation == self._host.models.isolation(
            self._isolation, model.signed_by
        )

    def prepare(self, isolation: Isolation | None = None) -> Opened:
        """Load, check and warm up the model, in any thread; blocks for as long as the gate needs."""
        from agent.inference.decoders import ModelError  # only agents with models pay for these modules
        from agent.inference.package import load_package

        ref = self.ref
        try:
            package = load_package(self.settings.package)
            manifest = package.manifest
            ref = ModelRef(name=manifest.name, ver=manifest.version, sha256=package.sha256)
            settings = self.settings
            why = input_mismatch(manifest, settings.input, self._stream, settings.every)
            if why := why or scene_mismatch(manifest, settings):
                raise ModelError(why).coded("model-input-mismatch")
            isolation = self._isolation if isolation is None else isolation
            self.prepared = model = self._host.models.model(package, self.settings.asked, isolation)
            if settings.crops is not None and (clash := crops.FIELDS.keys() & model.fields().keys()):
                raise ModelError(f"its field {min(clash)!r} has the name of a field of crops").coded(
                    "model-input-mismatch"
                )
            return Opened(ref, model)
        except EdgebedError as error:
            return Opened(ref, error.reason)
        except Exception as error:  # one package must not end the daemon
            log.debug("%s: cannot be opened", self.settings.package, exc_info=True)
            why = f"{self.settings.package}: it cannot be opened: {type(error).__name__}: {printable(error)}"
            return Opened(ref, because(why, "model-refused"))

    def install(self, opened: Opened) -> None:
        """Take input for an opened model, or show in `state` why it cannot be used."""
        from agent.inference import reference
        from agent.inference.inputs import WindowInput

        self.ref, found = opened.ref, opened.model
        self.prepared = None
        self.opened.set()
        if isinstance(found, Reason):
            self._enter("failed", found)
            return
        if isinstance(spec := found.manifest.input, WindowInput):
            self._windows = Windows(spec, self._stream, self.counters, wide=found.wide)
            span_s = (spec.length + spec.hop * self.settings.every + 2 * HALF_WIDTH) / spec.rate_hz
            self._no_result = NoResult(spec.rate_hz, span_s)
        if (scene := self.settings.scene(found.manifest.output)).used:
            self._scene = Scene(scene, found.manifest)
        signals = reference.features(found.manifest.input)
        self._input = InputWatch(found.manifest.reference, signals, self.counters)
        self.manifest, self._model = found.manifest, found
        self.opened_s = self._host.fences.now_s()
        self._enter("ok", NO_REASON, found.provider)

    def result_stream(self) -> Stream | None:
        """The declaration of `data/{device}/{slot}`; None if the model is refused."""
        if self._model is None:
            return None
        fields = dict(self._model.fields())
        if self._windows is None:
            fields["frame"] = Field(t="i64", desc="index of the picture")
        if self._scene is not None:
            fields |= self._scene.fields()
        if self.settings.crops is not None:
            fields |= crops.FIELDS
        if self.shadow is not None and self.shadow.in_turns:
            fields["ver"] = Field(t="str", desc="the model that answered")
        return Stream(kind="signal", fields=fields)

    def offer(self, reading: Reading) -> Awaitable[None] | None:
        """Give one reading of the stream; await the result, if any, before the next reading."""
        if self._model is None:
            if not self.opened.is_set():
                self.counters["before_gate"] += 1
            return None
        window = None
        if self._windows is not None:
            if (watched := self._no_result) is not None:
                watched.rows += 1
                watched.newest_ns = reading.at_ns
            window = self._windows.add(reading.at_ns, reading.values, reading.quality)
            if window is None:
                if not self._wrong_rate_logged and self.counters["wrong_rate"]:
                    self._wrong_rate_logged = True
                    log.warning(
                        "model %s: %s comes at another rate than the model needs; no window is made",
                        self.name,
                        self.settings.input,
                    )
                return None
            if (looks := self._input) is not None and watched is not None:
                looks.came, looks.flagged = watched.rows, self._windows.flagged
                self._summarise(looks.window(reading.at_ns, window))
            self._seen += 1
            nth = self._seen - 1
        else:
            nth = reading.index
            self._look_at(reading)
        self.warmed = True
        if self.mode == "warm" or nth % self.settings.every or self._is_fenced():
            return None
        other = None if self.shadow is None else self.shadow.next()
        stamp = self._host.stamp(reading.at_ns)
        return self._put(Job(reading, window, stamp, other=other, tuned=self.tuned))

    def _put(self, job: Job) -> Awaitable[None] | None:
        """Let a job wait; returns what a source that can wait must await."""
        self._jobs.append(job)
        self._hand_on()
        if len(self._jobs) <= self._limit:
            return None
        if (room := self.held_back()) is not None:
            return room
        self._jobs.popleft()
        self.counters["dropped"] += 1
        return None

    @property
    def sees_all(self) -> bool:
        """Whether the model sees whole pictures, or windows, and not crops."""
        return self.settings.crops is None

    def offer_crops(self, detector: str, seen: Inference) -> None:
        """Give what a slot found in one picture; the oldest crops are dropped where too many wait."""
        config, picture = self.settings.crops, seen.reading.picture
        if config is None or config.of != detector or picture is None or self._model is None:
            return
        if self.mode == "warm" or seen.reading.index % self.settings.every:
            return
        for crop in crops.crops(config, picture, seen.result.boxes):
            if not self._is_fenced():
                other = None if self.shadow is None else self.shadow.next()
                self._jobs.append(Job(seen.reading, None, seen.stamp, crop, other, self.tuned))
        self._hand_on()
        while len(self._jobs) > self._limit and not self.waits:
            self._jobs.popleft()
            self.counters["dropped"] += 1

    def held_back(self) -> Awaitable[None] | None:
        """What a source that can wait must await before its next picture."""
        if not self.waits or self._stuck or len(self._jobs) <= self._limit:
            return None
        if self._room is None or self._room.done():  # done: its source was cancelled
            self._room = asyncio.get_running_loop().create_future()
        return self._room

    def _look_at(self, reading: Reading) -> None:
        """Look at a picture and its quality."""
        if (looks := self._input) is not None and reading.picture is not None:
            looks.came += 1
            looks.flagged += reading.quality is not Quality.GOOD
            self._summarise(looks.picture(reading.at_ns, reading.picture))

    def _summarise(self, due: InputSummary | None) -> None:
        if due is not None and self.mode == "live":  # a version that is tried beside it sees the same
            self._host.summarised(self, due)

    @property
    def drift(self) -> Reason:
        """How the input differs from what the model was made for."""
        return NO_REASON if self._input is None else self._input.drift

    @property
    def _noticed(self) -> Reason:
        """What is wrong while the model runs: its input, then the fence's limits."""
        if self._input is not None and self._input.reason.why:
            return self._input.reason
        return self._slowed.reason

    def _is_fenced(self) -> bool:
        """Whether the fence of the agent forbids an inference now."""
        fences = self._host.fences
        if (limit := fences.refusal(self.name)) is None:
            return False
        self._slowed.skipped(limit, fences.now_s())
        self.counters["fenced"] += 1
        return True

    async def run(self) -> None:
        """Wait until the model is open, then run it on the offered input until cancelled."""
        self.task = asyncio.current_task()
        await self.opened.wait()
        if self._model is None:
            return
        work = partial(infer, self._model, f"{self.name} {next(_runs)}")
        self._thread = ModelThread(self.name, work, self._answered)
        loop = asyncio.get_running_loop()
        try:
            self._hand_on()
            while True:
                # one timer that checks from time to time: a timer for each run costs as much as the hand-over
                left_s = STUCK_S if not self._in_thread else self._since_s + STUCK_S - loop.time()
                if left_s <= 0:  # a thread cannot be ended, so there is nothing else to do
                    self._give_up()
                    left_s = STUCK_S
                else:
                    self._check()
                await asyncio.sleep(min(left_s, CHECK_S))
        finally:
            thread, self._thread = self._thread, None
            await thread.stop()

    def retire(self) -> None:
        """Release everything that waits for this runner: another takes its place."""
        self.opened.set()
        self._host.fences.leave(self.name)
        self.release()

    def close(self, why: Reason) -> None:
        """Take no input any more and release the model, whose task has ended."""
        self._model = self._windows = self._no_result = None
        self._jobs.clear()
        self._in_thread = 0
        self.retire()
        self._enter("failed", why)

    def take_over(self, old: ModelRunner) -> None:
        """Begin to take input in place of `old`; it waits until `held` is False.

        Windows that `old` has begun go on, if both models see the same.
        """
        one, other = self._model, old.model
        if (
            one is not None
            and other is not None
            and (one.manifest.input, one.wide)
            == (
                other.manifest.input,
                other.wide,
            )
        ):
            if old._windows is not None and self._windows is not None:
                old._windows.flagged = self._windows.flagged
            self._windows, self._seen = old._windows, old._seen
        self.mode, self.held = "live", True
        self.counters = Counter()  # without what it counted beside the other

    def follow(self, old: ModelRunner) -> None:
        """Count on from the numbers of `old`, which has ended, and work on what waits."""
        old.counters.update(self.counters)
        self.counters = old.counters
        if self._windows is not None:
            self._windows.count_into(self.counters)
        if self._scene is not None and old._scene is not None:
            self._scene.go_on(old._scene)
        self.held = False
        self._hand_on()

    async def drained(self, within_s: float) -> None:
        """Wait until everything that was offered is answered; at most `within_s`."""
        until_s = asyncio.get_running_loop().time() + within_s
        while self.busy and (left_s := until_s - asyncio.get_running_loop().time()) > 0:
            self._idle.clear()
            try:
                async with asyncio.timeout(min(left_s, CHECK_S)):
                    await self._idle.wait()
            except TimeoutError:
                continue

    @property
    def busy(self) -> bool:
        """Whether input waits or runs, and an answer can be expected."""
        return bool(self._in_thread or self._jobs) and not self._stuck

    @property
    def int8(self) -> bool:
        """Whether the open model has operators on whole numbers of 8 bits."""
        return self._model is not None and self._model.scanned.int8

    def _give_up(self) -> None:
        """Show that the model does not answer; until it does, it holds no source back."""
        self._stuck = True
        self.release()
        self._enter("failed", because(f"no answer for {STUCK_S:g} s", "model-no-answer", seconds=STUCK_S))

    def _hand_on(self) -> None:
        """Give the thread as many jobs as it may have, and release a source that was held back."""
        if self._thread is None or self.held:
            return
        while self._jobs and self._in_thread < self._ahead:
            if not self._in_thread:
                self._since_s = asyncio.get_running_loop().time()
            self._in_thread += 1
            self._host.fences.runs += 1
            self._thread.put(self._jobs.popleft())
        if len(self._jobs) <= self._limit:
            self.release()

    def release(self) -> None:
        """Let a source that is held back go on."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _answered(self, job: Job, given: Given | None, failure: Exception | None) -> None:
        """Take one answer; called in the event loop, once for each job, in order."""
        if self._thread is None or self._model is None:
            return  # `run` has ended
        self._in_thread -= 1
        self._stuck = False
        self._since_s = asyncio.get_running_loop().time()
        self._hand_on()  # before this answer is processed, so that the thread does not wait
        result = None if given is None else given.result
        by = self._model if given is None else given.by
        if (shadow := self.shadow) is not None:
            if given is not None and given.missed is not None:
                shadow.missed(given.missed)
            shadow.acted(None if result is None else job.seen(result), by)
        try:
            if failure is not None:
                raise failure
            if result is not None:
                in_turns = shadow is not None and shadow.in_turns
                answer = job.answer(result, self._scene, self.drift, by.manifest if in_turns else None)
                self._host.done(self, answer)
                if by is self._model:  # a version on trial is judged by its own results
                    self.watch(Answer(answer))
            self.counters["runs"] += 1
            nan = self._nan.add(result is not None and result.nan)
            self._enter("ok" if nan is None else "failed", nan or self._noticed, self._model.provider)
        except Exception as error:  # one bad run must not end the daemon
            log.debug("%s: run failed", self.name, exc_info=True)
            self.counters["failed"] += 1
            self.watch(Answer(None))
            name = "" if isinstance(error, EdgebedError) else f"{type(error).__name__}: "
            text = printable(f"{name}{error}", 500)
            why = because(text, "model-run-failed")
            if isinstance(error, EdgebedError) and error.reason_code in _PROCESS:
                self.counters["worker_ended"] += 1
                why = because(text, error.reason_code, **error.reason_args)
            self._enter("failed", why, self._model.provider)
            if why.code == "model-refused-deaths":
                self._model = None
                self._jobs.clear()
                self.release()
                self._host.refused()
        if not self.busy:
            self._idle.set()

    def _check(self) -> None:
        """Show the problems that only time shows."""
        runs = self.counters["runs"] + self.counters["failed"]
        self._slowed.check(runs, self._host.fences.now_s(), CHECK_S)
        if self.state.state == "ok":
            self._enter("ok", self._noticed)
        nan = self._nan.updated()
        if nan is not None and self.state.code == nan.code:
            self._enter("failed", nan)
        if self._no_result is not None and not self._in_thread:
            # input that the fence skips is not a model without results
            answers = runs + self.counters["fenced"]
            why = self._no_result.check(answers, asyncio.get_running_loop().time())
            if why is not None:
                self._enter("failed", why)

    def _enter(self, state: str, reason: Reason, provider: str = "") -> None:
        before, why = self.state, reason.why
        if (state, why) == (before.state, before.why) and (provider or before.provider) == before.provider:
            return
        self.state = ModelState(
            state=state,  # type: ignore[arg-type]  # one of its literals
            degraded=state == "ok" and reason.code.startswith("model-input-"),
            name=self.ref.name,
            ver=self.ref.ver,
            provider=provider or before.provider,
            device=self.settings.device,
            signed_by="" if self._model is None else self._model.signed_by,
            **reason.fields(),
        )
        if (state, self.state.degraded) != (before.state, before.degraded):
            if state == "failed" or self.state.degraded:
                log.warning("model %s: %s", self.name, why)
            else:
                log.info("model %s: %s runs on %s", self.name, self.label, self.state.provider)
        self._host.changed()
