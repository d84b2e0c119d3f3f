"""A model whose results are NaN, or whose input gives no result, shows that in its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from adapters.base import Reading
from agent.fences.fences import Fences
from agent.fences.settings import FenceSettings
from agent.inference.model_cache import ModelCache
from agent.pipeline import model_problems, model_runner
from agent.pipeline.model_problems import NEWEST, NO_RESULT_S, NanResults, NoResult
from agent.pipeline.model_runner import ModelHost, ModelRunner
from agent.pipeline.settings import SlotConfig
from tests.polling import until
from wire.clock import Clock
from wire.messages import ClockState, Field, Stream

STEP = 10**9 // 50


def test_three_nan_of_the_newest_twenty_are_a_problem_until_none_is() -> None:
    watch = NanResults()
    found = [watch.add(nan) for nan in [False, True, True, False, True]]
    assert [each is not None for each in found] == [False, False, False, False, True]
    reason = found[-1]
    assert reason is not None
    assert reason.why == "3 of the last 5 results are NaN or infinite"
    assert (reason.code, reason.args) == ("model-results-nan", {"nan": 3, "of": 5})
    assert watch.add(True) is reason, "a text that changes with each result would be a new status each time"
    assert (watch.updated() or reason).args == {"nan": 4, "of": 6}
    found = [watch.add(False) for _ in range(NEWEST)]
    assert found[-2] is not None
    assert found[-1] is None
    assert watch.updated() is None


def fed(watch: NoResult, hz: float, seconds: float, answer_hz: float = 0.0) -> list[float]:
    """The times at which a check each 5 s shows a problem, of rows at `hz` from 1,000 s on."""
    shown = []
    for at_s in np.arange(0.0, seconds, 5.0):
        rows = int(at_s * hz)
        watch.rows, watch.newest_ns = rows, round(rows / hz * 1e9) if hz else 0
        if watch.check(int(at_s * answer_hz), 1000 + at_s) is not None:
            shown.append(float(at_s))
    return shown


def test_input_without_a_result_for_a_minute_is_a_problem_with_both_rates() -> None:
    watch = NoResult(50.0, span_s=4.0)
    assert fed(watch, 19.7, 140)[0] == pytest.approx(NO_RESULT_S + 4, abs=11)
    reason = watch.check(0, 1135.0)
    assert reason is not None
    seconds = reason.args["seconds"]
    assert reason.why == f"no result for {seconds} s: its input has 19.7 Hz, it needs 50 Hz"
    assert (reason.args["measured_hz"], reason.args["wanted_hz"]) == (19.7, 50.0)
    assert watch.check(0, 1136.0) is reason, "the text stays"
    assert watch.check(1, 1140.0) is None, "a result ends it"


@pytest.mark.parametrize(("hz", "answer_hz"), [(50.0, 1.0), (50.0, 0.05), (0.0, 0.0)])
def test_results_or_no_input_are_no_problem(hz: float, answer_hz: float) -> None:
    assert not fed(NoResult(50.0, span_s=4.0), hz, 600, answer_hz)


def test_a_long_window_may_take_its_time() -> None:
    assert not fed(NoResult(1 / 60, span_s=3600.0), 1 / 60, 3600)
    assert fed(NoResult(1 / 60, span_s=3600.0), 1 / 60, 4000)


def test_a_device_that_went_silent_is_not_a_problem_of_its_model() -> None:
    watch = NoResult(50.0, span_s=4.0)
    assert not fed(watch, 50.0, 30)
    assert not any(watch.check(0, 1030.0 + at_s) for at_s in range(0, 300, 5))


def test_rows_that_all_have_one_time_are_measured_by_the_clock() -> None:
    watch = NoResult(50.0, span_s=4.0)
    watch.newest_ns = 77
    found = None
    for at_s in range(0, 100, 5):
        watch.rows = at_s * 10
        found = watch.check(0, float(at_s)) or found
    assert found is not None
    assert found.args["measured_hz"] == pytest.approx(10.0, rel=0.2)


@asynccontextmanager
async def running(package: Path, folder: Path) -> AsyncIterator[ModelRunner]:
    made = ModelRunner(
        "m",
        SlotConfig(package=package, input="dev/rows"),
        Stream(fields={"a": Field(), "b": Field()}),
        ModelHost(
            ModelCache(folder),
            lambda _: (ClockState.NTP, None),
            lambda *_: None,
            lambda: None,
            Fences(FenceSettings(), Clock()),
        ),
        waits=True,
    )
    made.open()
    assert made.state.state == "ok", made.state.why
    task = asyncio.create_task(made.run())
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})


async def feed(made: ModelRunner, shows: Callable[[], bool], value: float, step_ns: int = STEP) -> None:
    """Give rows without end until a condition holds."""
    made_rows = made.counters["fed"]

    async def offer() -> bool:
        made.counters["fed"] += 1
        if wait := made.offer(Reading("rows", made.counters["fed"] * step_ns, {"a": value, "b": value})):
            await wait
        return shows()

    await until(offer)
    assert made.counters["fed"] > made_rows


async def test_a_model_whose_results_become_nan_is_failed(packages: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Sqrt", ["s"], ["y"])]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 50, "length": 4}
    # the blank input of the gate is 0; its noise is around it, so the noise of this package is above 0
    package = packages.write(body, input={**window, "mean": [-50.0, -50.0], "std": [1.0, 1.0]})
    async with running(package, tmp_path) as made:
        await feed(made, lambda: made.counters["runs"] > 5, value=4.0)
        assert made.state.state == "ok"
        await feed(made, lambda: made.state.state == "failed", value=-90.0)
        assert made.state.code == "model-results-nan"
        assert made.state.why.endswith("results are NaN or infinite")
        await feed(made, lambda: made.state.state == "ok", value=4.0)


async def test_a_model_whose_input_is_too_slow_shows_both_rates(
    packages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_problems, "NO_RESULT_S", 0.2)
    monkeypatch.setattr(model_runner, "CHECK_S", 0.05)
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 50, "length": 4}
    package = packages.write(packages.constant(np.zeros((1, 1))), input=window)
    async with running(package, tmp_path) as made:
        await feed(made, lambda: made.state.state == "failed", value=1.0, step_ns=5 * STEP)
        assert made.state.code == "model-no-result"
        assert made.state.args["measured_hz"] == pytest.approx(10.0)
        assert made.state.args["wanted_hz"] == 50.0
        made.counters["fed"] = 10**6
        await feed(made, lambda: made.state.state == "ok", value=1.0)
