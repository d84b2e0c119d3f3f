"""One model: its state, its result stream, and which input it runs, drops or holds back."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from adapters.base import Reading
from agent.fences.fences import Fences
from agent.fences.settings import FenceSettings
from agent.inference.model_cache import ModelCache
from agent.pipeline.model_run import Inference
from agent.pipeline.model_runner import ModelHost, ModelRunner
from agent.pipeline.settings import SlotConfig
from tests.polling import until
from wire.clock import NS_PER_S, Clock
from wire.messages import ClockState, Field, Stream
from wire.reasons import because

ROWS = Stream(rate_hz=10, fields={"a": Field(), "b": Field()})
STEP = 100_000_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ModelCache:
    return ModelCache(tmp_path_factory.mktemp("gate"))


@pytest.fixture
def summing(packages: Any) -> Path:
    """A model that sums its window of 4 rows."""
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    made: Path = packages.write(packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}))
    return made


class Results:
    """Keeps what a runner gives."""

    def __init__(self) -> None:
        self.inferences: list[Inference] = []
        self.changes = 0

    def done(self, _runner: ModelRunner, inference: Inference) -> None:
        self.inferences.append(inference)

    def changed(self) -> None:
        self.changes += 1


def runner(
    package: Path,
    cache: ModelCache,
    results: Results,
    *,
    waits: bool = False,
    stream: Stream = ROWS,
    fence: FenceSettings | None = None,
    **more: Any,
) -> ModelRunner:
    fences = Fences(fence or FenceSettings(), Clock())
    return ModelRunner(
        "sum",
        SlotConfig(package=package, input="dev/rows", **more),
        stream,
        ModelHost(cache, lambda _: (ClockState.NTP, None), results.done, results.changed, fences),
        waits=waits,
    )


def row(index: int) -> Reading:
    return Reading("rows", index * STEP, {"a": float(index), "b": 0.0})


def test_a_refused_model_takes_no_input(tmp_path: Path, cache: ModelCache) -> None:
    made = runner(tmp_path / "nowhere", cache, Results())
    made.open()
    assert (made.state.state, made.at_work, made.result_stream()) == ("failed", False, None)
    assert "there is no such model package" in made.state.why
    assert made.offer(row(0)) is None
    assert not made.busy


def test_a_package_that_cannot_even_be_named_is_a_refused_model(
    tmp_path: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One package must not end the daemon, whatever goes wrong with it."""
    made = runner(tmp_path / ("x" * 300), cache, Results())
    made.open()
    assert made.state.state == "failed"
    assert made.state.why.endswith("cannot be read: File name too long")

    def broken(_folder: Path) -> None:
        raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")

    monkeypatch.setattr("agent.inference.package.load_package", broken)
    made = runner(tmp_path, cache, Results())
    made.open()
    assert made.state.state == "failed"
    assert "it cannot be opened: UnicodeEncodeError: " in made.state.why


def test_a_stream_without_the_signals_is_refused(summing: Path, cache: ModelCache) -> None:
    made = runner(summing, cache, Results(), stream=Stream(rate_hz=10, fields={"a": Field()}))
    made.open()
    assert made.state.why == "model m needs b, which dev/rows does not send"
    assert made.state.code == "model-input-mismatch"


def test_an_open_model_declares_its_results(summing: Path, cache: ModelCache) -> None:
    made = runner(summing, cache, Results())
    made.open()
    assert (made.state.state, made.state.provider, made.label) == ("ok", "CPUExecutionProvider", "m@1.0")
    stream = made.result_stream()
    assert stream is not None
    assert list(stream.fields) == ["power"], "a window has no frame index"


async def test_windows_become_results_in_order(summing: Path, cache: ModelCache) -> None:
    results = Results()
    made = runner(summing, cache, results, every=2)
    made.open()
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    for index in range(7):
        made.offer(row(index))
        await until(lambda: not made.busy)
    task.cancel()
    await asyncio.wait([task])
    assert [each.result.values["power"] for each in results.inferences] == [6.0, 14.0], "each second window"
    assert [each.reading.at_ns for each in results.inferences] == [3 * STEP, 5 * STEP]
    assert results.inferences[0].row().keys() == {"power", "infer_ms"}
    assert made.counters["runs"] == 2


async def test_a_source_that_waits_is_held_back_and_another_loses_the_oldest(
    summing: Path, cache: ModelCache
) -> None:
    for waits in (True, False):
        made = runner(summing, cache, Results(), waits=waits)
        made.open()  # without `run` no input is taken
        held = [made.offer(row(index)) for index in range(12)]
        assert any(each is not None for each in held) == waits
        assert bool(made.counters["dropped"]) != waits


async def test_a_failed_run_changes_the_state_and_the_next_one_repairs_it(
    summing: Path, cache: ModelCache
) -> None:
    results = Results()
    made = runner(summing, cache, results)
    made.open()
    assert results.changes == 1, "it is open"
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    assert made._model is not None
    run_window = made._model.run_window

    def fail(_window: np.ndarray, **_more: Any) -> Any:
        raise MemoryError("no room")

    made._model.run_window = fail  # type: ignore[method-assign]
    try:
        for index in range(4):
            made.offer(row(index))
        await until(lambda: made.state.state == "failed")
        assert (made.state.why, made.state.code) == ("MemoryError: no room", "model-run-failed")
    finally:
        made._model.run_window = run_window  # type: ignore[method-assign]
    made.offer(row(4))
    await until(lambda: made.state.state == "ok")
    assert results.changes == 3
    assert (made.counters["failed"], made.counters["runs"]) == (1, 1)
    task.cancel()
    await asyncio.wait([task])


async def test_a_model_that_hangs_does_not_hold_its_source_back(
    summing: Path, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.pipeline.model_runner.STUCK_S", 0.2)
    made = runner(summing, cache, Results(), waits=True)
    made.open()
    assert made._model is not None
    answering, run_window = threading.Event(), made._model.run_window
    monkeypatch.setattr(
        made._model, "run_window", lambda rows, **_: (answering.wait(120), run_window(rows))[1]
    )
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    held = [wait for index in range(100, 120) if (wait := made.offer(row(index))) is not None]
    assert held, "it is held back while an answer can be expected"
    assert made.busy
    await asyncio.wait_for(asyncio.gather(*held), 60)
    assert made.state.code == "model-no-answer"
    assert not made.busy
    assert all(made.offer(row(index)) is None for index in range(120, 130))
    assert made.counters["dropped"] > 0
    answering.set()
    await until(lambda: made.state.state == "ok" and not made.busy)
    task.cancel()
    await asyncio.wait([task])


async def test_a_fence_skips_input_by_name_and_the_rest_runs(summing: Path, cache: ModelCache) -> None:
    fence = FenceSettings(inferences_per_s=0.001)  # after the first one, none in this test
    made = runner(summing, cache, Results(), fence=fence)
    made.open()
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    for index in range(9):  # six windows
        made.offer(row(index))
        await until(lambda: not made.busy)
    made._slowed._since_s -= 10  # a check after some seconds
    made._check()
    task.cancel()
    await asyncio.wait([task])
    assert (made.counters["runs"], made.counters["fenced"]) == (1, 5)
    assert (made.state.state, made.state.code) == ("ok", "fence-inferences")
    assert "fence.inferences_per_s" in made.state.why


async def test_bad_pictures_degrade_a_model_that_runs_on(packages: Any, cache: ModelCache) -> None:
    """Also beside a limit of the fence, which is the lesser problem; it ends with the bad pictures."""
    spec = {"kind": "frame", "name": "x", "size": [8, 8], "fit": "stretch"}
    output = {"decoder": "regression", "fields": {"v": {}}}
    path = packages.write(
        packages.constant(np.ones(1), shape=(1, 3, 8, 8)), name="f", input=spec, output=output
    )
    fence, stream = FenceSettings(inferences_per_s=0.001), Stream(kind="frame")
    made = runner(path, cache, Results(), stream=stream, fence=fence)
    made.open()
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    dark, light = (
        np.zeros((8, 8, 3), np.uint8),
        np.random.default_rng(1).integers(40, 200, (8, 8, 3), np.uint8),
    )
    for index in range(8):
        made.offer(Reading("pictures", index * NS_PER_S, picture=dark, index=index))
        await until(lambda: not made.busy)
    made._slowed._since_s -= 10
    made._check()
    assert (made.state.state, made.state.degraded, made.state.code) == ("ok", True, "model-input-dark")
    assert made.shown.degraded
    for index in range(8, 16):
        made.offer(Reading("pictures", index * NS_PER_S, picture=light, index=index))
        await until(lambda: not made.busy)
    made._check()
    assert (made.state.state, made.state.degraded) == ("ok", False)
    assert made.state.code.startswith("fence-")
    task.cancel()
    await asyncio.wait([task])


async def test_a_model_that_is_closed_takes_no_input_and_shows_why(summing: Path, cache: ModelCache) -> None:
    made = runner(summing, cache, Results())
    made.open()
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    made.close(because("200 MB, 100 are allowed: fence.memory_mb", "fence-memory"))
    assert made.offer(row(0)) is None
    assert (made.state.state, made.state.code, made.at_work) == ("failed", "fence-memory", False)
    assert made.result_stream() is None


@pytest.fixture
def accumulating(packages: Any) -> Path:
    """A model that gives the sum of all rows of `a` since its state was zero."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["now"], keepdims=0),
        helper.make_node("Add", ["now", "before"], ["after"]),
        helper.make_node("Identity", ["after"], ["y"]),
    ]
    body = packages.model(
        nodes, inputs={"x": (1, 4, 1), "before": ("n", 1)}, outputs={"y": (1, 1), "after": ("n", 1)}
    )
    window = {"kind": "window", "name": "x", "signals": ["a"], "rate_hz": 10, "length": 4, "hop": 4}
    made: Path = packages.write(body, input={**window, "state": {"before": "after"}})
    return made


async def sums(made: ModelRunner, results: Results, indexes: list[int]) -> list[Any]:
    """The results of one run of a runner on rows of these indexes."""
    before = len(results.inferences)
    task = asyncio.create_task(made.run())
    try:
        for index in indexes:
            if (room := made.offer(row(index))) is not None:
                await room
        await until(lambda: not made.busy)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return [each.result.values["power"] for each in results.inferences[before:]]


async def test_a_state_goes_round_until_a_gap_or_a_restart(accumulating: Path, cache: ModelCache) -> None:
    results, others = Results(), Results()
    made, other = (runner(accumulating, cache, each, waits=True) for each in (results, others))
    for each in (made, other):
        each.open()
    assert made.model is other.model, "they share a session"
    gap = [*range(12), *range(100, 108)]
    first, second = await asyncio.gather(sums(made, results, gap), sums(other, others, [*range(1000, 1008)]))
    assert first == [6.0, 28.0, 66.0, 406.0, 828.0]
    assert second == [4006.0, 8028.0], "each stream has its own state"
    assert await sums(made, results, [*range(108, 112)]) == [438.0], "it was started again"


async def test_a_dropped_window_ends_the_state(accumulating: Path, cache: ModelCache) -> None:
    results = Results()
    made = runner(accumulating, cache, results)
    made.open()
    for index in range(40):  # ten windows; the queue takes the newest four
        made.offer(row(index))
    assert made.counters["dropped"] == 6
    assert await sums(made, results, []) == [102.0, 220.0, 354.0, 504.0]


def test_a_model_with_a_state_sees_every_window(accumulating: Path, cache: ModelCache) -> None:
    made = runner(accumulating, cache, Results(), every=2)
    made.open()
    assert "has a state, which every: 2 would break" in made.state.why
