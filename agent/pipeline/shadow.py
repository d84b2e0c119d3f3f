"""Tries a second model on the input of a slot: beside its model, or in turns with it.

In the mode `shadow` the candidate sees what the model of the slot has answered: the same picture or window,
later. It has a process, a thread and a short queue of its own, and its results go to `Evidence` alone. In
the mode `ab` a schedule gives one of each two inputs to the candidate, and its result counts as the slot's.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from agent.fences.fences import Fences
from agent.inference.model_cache import ModelCache
from agent.pipeline import agreement
from agent.pipeline.agreement import Agreement, Compared, Tally
from agent.pipeline.frames.privacy import Privacy, seen_by
from agent.pipeline.model_threads import ModelThread
from agent.pipeline.samples import FOLDER, Samples
from agent.pipeline.settings import ShadowConfig, SlotConfig, shadow_stream
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import Evidence, Field, ModelRef, Quality, Scalar, Stream
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because

if TYPE_CHECKING:
    from adapters.base import Picture
    from agent.inference.decoders import Result
    from agent.inference.isolation.worker import Worker
    from agent.inference.session import Model
    from agent.pipeline.windows import Window

log = logging.getLogger("edgebed.model")

ROW_S = 10.0  # between two rows of the stream of a shadow
_PICTURES_WAITING, _WINDOWS_WAITING = 1, 4
_SHARES = {"low": 4, "high": 4, "agreement": 4, "diff": 6}
_TIMES = {"a_p50_ms": 3, "a_p99_ms": 3, "b_p50_ms": 3, "b_p99_ms": 3}
_COUNTS = ("n", "dropped", "a_n", "b_n", "a_nan", "b_nan", "a_alarms", "b_alarms", "a_failed", "b_failed")
STREAM = Stream(
    kind="signal",
    fields={
        **{name: Field(t="i64") for name in _COUNTS},
        **{name: Field(dec=dec) for name, dec in _SHARES.items()},
        **{name: Field(unit="ms", dec=dec) for name, dec in _TIMES.items()},
        "a_cpu_s": Field(unit="s", dec=3),
        "b_cpu_s": Field(unit="s", dec=3),
    },
)


@dataclass(frozen=True, slots=True)
class ShadowHost:
    """What every shadow of a pipeline shares; without `state` no sample is kept."""

    models: ModelCache
    fences: Fences
    clock: Clock
    changed: Callable[[], None]
    state: Path | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """An input, and what the model of the slot answered."""

    at_ns: int
    picture: Picture | None
    window: Window | None
    result: Result
    quality: Quality


Watch = Callable[[Seen, "Result | None"], None]
"""Judges each answer of a candidate; None for a run that failed."""


@dataclass(frozen=True, slots=True)
class _Tried:
    """What the candidate answered to the same, and how far that agrees."""

    result: Result
    compared: Compared


class Shadow:
    """The candidate of one slot; every method belongs to the event loop, except `prepare`.

    A candidate that fails, hangs or crashes changes nothing but `evidence`. `waiting` inputs are few: the
    oldest is dropped and counted. `fences` give it only what no model in a slot needs. A version that was
    offered to the slot has a `watch`, which gets each of its answers.
    """

    def __init__(
        self,
        slot: str,
        config: SlotConfig,
        settings: ShadowConfig,
        host: ShadowHost,
        privacy: Callable[[], Privacy | None],
        watch: Watch | None = None,
    ) -> None:
        self.settings = settings
        self.watch = watch
        self.slot = slot
        self.counters: Counter[str] = Counter()
        self.a, self.b = Tally(), Tally()
        self.model: Model | Worker | None = None
        self.prepared: Model | Worker | None = None  # open, and not installed yet
        self._config = config
        self._host = host
        self._privacy = privacy
        self._acting: Model | Worker | None = None
        self._agreement = Agreement()
        self._state: str = "opening"
        self._why = because("the gate checks the model", "model-checking")
        self._since = host.clock.now_ms()
        self._inputs = 0
        self._waiting: deque[Seen] = deque()
        self._thread: ModelThread[Seen, _Tried] | None = None
        self._at_work = False
        self._samples: Samples | None = None
        if host.state is not None and settings.mode == "shadow":
            self._samples = Samples(host.state / FOLDER / slot, settings.samples, self.counters)

    # -- opening -------------------------------------------------------------------------------------------

    def prepare(
        self, acting: Model | Worker, opened: Model | Worker | None = None
    ) -> tuple[ModelRef, Model | Worker | Reason]:
        """Load and check the candidate, or one that is `opened`; in any thread, as long as the gate needs."""
        from agent.inference.package import load_package
        from agent.inference.signing import signature

        ref = ModelRef(name="", ver="", sha256="")
        folder = self.settings.package
        try:
            package = load_package(folder) if opened is None else opened.package
            ref = ModelRef(name=package.manifest.name, ver=package.manifest.version, sha256=package.sha256)
            model = opened or self._host.models.model(package, self._config.asked, "process", apart=self.slot)
            self.prepared = model
            both = (self.a, acting.package), (self.b, package)
            for tally, each in both:
                tally.digest = signature.package_digest(each.path)
            why = _mismatch(acting, model, self.settings.mode)
            return ref, because(f"{folder}: {why}", "shadow-mismatch") if why else model
        except EdgebedError as error:
            return ref, error.reason
        except Exception as error:  # one package must not end the daemon
            log.debug("%s: cannot be opened", folder, exc_info=True)
            text = f"{folder}: it cannot be opened: {type(error).__name__}: {printable(error)}"
            return ref, because(text, "model-refused")

    def install(
        self, acting: Model | Worker, a: ModelRef, b: ModelRef, found: Model | Worker | Reason
    ) -> None:
        """Begin with an opened candidate, or show why it cannot be used."""
        self.a.ref, self.b.ref, self.prepared = a, b, None
        if isinstance(found, Reason):
            self._fail(found)
            return
        self.model, self._acting = found, acting
        self._enter("ok", NO_REASON)

    def close(self, why: Reason) -> None:
        """Use the candidate no more."""
        self.model = self.prepared = None
        self._waiting.clear()
        self._fail(why)

    @property
    def reason(self) -> Reason:
        """Why the candidate is not at work, or what is wrong with it."""
        return self._why

    # -- in turns ------------------------------------------------------------------------------------------

    @property
    def in_turns(self) -> bool:
        """Whether results of the candidate act."""
        return self.settings.mode == "ab"

    def next(self) -> Model | Worker | None:
        """The candidate where the next input is for it; None where the slot's model answers."""
        if not self.in_turns or self.model is None:
            return None
        self._inputs += 1
        return self.model if is_for_b(self.settings.seed, self._inputs - 1) else None

    def missed(self, error: Exception) -> None:
        """Note that the candidate gave no result; where its process ended, the slot's model goes on alone."""
        from agent.inference.isolation.worker import WorkerLost

        self.b.failed += 1
        if self.in_turns and isinstance(error, WorkerLost):
            self.close(_reason(error))

    # -- beside --------------------------------------------------------------------------------------------

    def acted(self, seen: Seen | None, by: Model | Worker) -> None:
        """Take what the model of the slot, or in turns the candidate, answered; None for a failed run."""
        tally = self.b if by is self.model else self.a
        if seen is None:
            tally.failed += 1
            return
        if self.model is None:
            return
        tally.add(seen.result)
        if self.in_turns:
            return
        self._inputs += 1
        if (self._inputs - 1) % self.settings.every:
            return
        self._waiting.append(seen)
        self._hand_on()
        if len(self._waiting) > (_PICTURES_WAITING if seen.window is None else _WINDOWS_WAITING):
            self._waiting.popleft()
            self.counters["dropped"] += 1

    @property
    def busy(self) -> bool:
        """Whether the candidate still has input."""
        return self._at_work or bool(self._waiting)

    async def run(self, row: Callable[[dict[str, Scalar]], None]) -> None:
        """Run the candidate on what comes, and give a row each 10 s, until cancelled."""
        self._thread = ModelThread(shadow_stream(self.slot), self._try, self._tried)
        try:
            self._hand_on()
            before = 0
            while True:
                await self._host.clock.sleep_roughly(ROW_S)
                if (now := self.a.n + self.b.n) != before:
                    before = now
                    row(self.row())
        finally:
            thread, self._thread = self._thread, None
            self._at_work = False
            await thread.stop()

    def _hand_on(self) -> None:
        while self._waiting and self._thread is not None and not self._at_work:
            seen = self._waiting.popleft()
            if not self._host.fences.unused():
                self.counters["dropped"] += 1
                continue
            self._host.fences.runs += 1
            self._at_work = True
            self._thread.put(seen)

    def _try(self, seen: Seen) -> _Tried:
        """Run the candidate, and keep what the two disagree on; in the thread of the shadow."""
        model, acting = self.model, self._acting
        if model is None or acting is None:
            raise _Closed
        if seen.window is not None:
            result = model.run_window(seen.window.rows, shadow_stream(self.slot), seen.window.end)
        elif seen.picture is not None:
            result = model.run_frame(seen.picture, lasting=True)
        else:
            raise _Closed
        compared = agreement.compare(acting.manifest.decoder, seen.result, result, self.settings.within)
        if compared.share < 1 and self._samples is not None:
            self._keep(self._samples, seen, result, acting, model)
        return _Tried(result, compared)

    def _keep(
        self, samples: Samples, seen: Seen, result: Result, acting: Model | Worker, model: Model | Worker
    ) -> None:
        if not samples.wanted(now_ms := self._host.clock.now_ms()):
            return
        results = {
            "ts": seen.at_ns // 1_000_000,
            "a": {"model": _label(acting), **_shown(seen.result)},
            "b": {"model": _label(model), **_shown(result)},
        }
        if seen.window is not None:
            samples.window(seen.window.rows, results, now_ms)
        elif seen.picture is not None:
            found = seen_by(acting.manifest, seen.result.boxes)
            samples.picture(seen.picture, found, self._privacy(), results, now_ms)

    def _tried(self, seen: Seen, tried: _Tried | None, failure: Exception | None) -> None:
        """Take one answer of the candidate; called in the event loop."""
        if self._thread is None:
            return
        self._at_work = False
        if self.model is None:
            return
        if self.watch is not None:
            self.watch(seen, None if tried is None else tried.result)
        if tried is not None:
            self.b.add(tried.result)
            self._agreement.add(seen.at_ns, tried.compared)
            self._enter("ok", NO_REASON)
        elif failure is not None:
            self.b.failed += 1
            why = _reason(failure)
            if why.code == "model-refused-deaths":
                self.close(why)
            else:
                self._enter("failed", why)
        self._hand_on()

    # -- what is shown -------------------------------------------------------------------------------------

    def evidence(self) -> Evidence:
        """The numbers of now."""
        found = self._agreement
        low, high = found.interval
        return Evidence(
            mode=self.settings.mode,
            state=self._state,  # type: ignore[arg-type]  # one of its literals
            since=self._since,
            seed=self.settings.seed if self.in_turns else 0,
            a=self.a.shown(),
            b=self.b.shown(),
            n=found.n,
            agreed=round(found.agreed, 3),
            blocks=found.blocks,
            low=round(low, 4),
            high=round(high, 4),
            diff=round(found.diff, 6),
            dropped=self.counters["dropped"],
            samples=0 if self._samples is None else len(self._samples),
            unfiltered=self.counters["samples_unfiltered"],
            **self._why.fields(),
        )

    def row(self) -> dict[str, Scalar]:
        """`evidence` as a row of `STREAM`."""
        shown = self.evidence()
        row: dict[str, Scalar] = {
            f"{arm}_{name}": getattr(getattr(shown, arm), name)
            for arm in ("a", "b")
            for name in ("n", "nan", "alarms", "failed", "p50_ms", "p99_ms", "cpu_s")
        }
        row |= {"n": shown.n, "dropped": shown.dropped}
        if shown.n:
            row |= {"agreement": self._agreement.share, "low": shown.low, "high": shown.high}
            row["diff"] = shown.diff
        return row

    def _fail(self, why: Reason) -> None:
        self._enter("failed", why)

    def _enter(self, state: str, why: Reason) -> None:
        if (state, why.why) == (self._state, self._why.why):
            return
        if state == "failed":
            log.warning("%s: the second model: %s", self.slot, why.why)
        self._state, self._why = state, why
        self._host.changed()


class _Closed(Exception):
    """The candidate is not used any more."""


def is_for_b(seed: int, number: int) -> bool:
    """Whether input `number`, counted from 0, is for the candidate: one of each two, by chance."""
    drawn = hashlib.blake2b(f"{seed} {number // 2}".encode(), digest_size=1).digest()[0] & 1
    return number % 2 == drawn


def evidence_of(shadow: Shadow | None) -> Evidence | UnsetType:
    """The evidence of a slot that may have none."""
    return UNSET if shadow is None else shadow.evidence()


def _label(model: Model | Worker) -> str:
    return f"{model.manifest.name}@{model.manifest.version}"


def _mismatch(one: Model | Worker, other: Model | Worker, mode: str) -> str:
    """Why two models cannot be compared; "" where they can."""
    a, b = one.manifest, other.manifest
    if a.decoder != b.decoder:
        return f"its decoder is {b.decoder}, that of the slot's model is {a.decoder}"
    for key in ("kind", "signals", "rate_hz", "length", "hop"):
        mine, its = (getattr(each.input, key, None) for each in (a, b))
        if mine != its:
            return f"its input.{key} is {its}, that of the slot's model is {mine}"
    return _unfit_for_turns(one, other) if mode == "ab" else ""


def _unfit_for_turns(one: Model | Worker, other: Model | Worker) -> str:
    """Why results of two models do not fit one stream; "" where they can."""
    if _label(one) == _label(other):
        return f"both are {_label(one)}: rows could not say which model answered"
    if one.stateful or other.stateful:
        return "a model with state cannot answer in turns with another"
    if "ver" in one.fields():
        return "its results have a field ver, which is to say which model answered"
    types = [{name: found.t for name, found in each.fields().items()} for each in (one, other)]
    return "" if types[0] == types[1] else "its results have other fields than those of the slot's model"


def _reason(error: Exception) -> Reason:
    if isinstance(error, EdgebedError):
        return because(
            printable(str(error), 500), error.reason_code or "model-run-failed", **error.reason_args
        )
    return because(printable(f"{type(error).__name__}: {error}", 500), "model-run-failed")


def _shown(result: Result) -> dict[str, object]:
    boxes = [[box.label, round(box.score, 4), *(round(part, 4) for part in box.box)] for box in result.boxes]
    return {"top": result.top, "score": result.score, "values": result.values, "boxes": boxes[:100]}
