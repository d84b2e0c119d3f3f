"""A second model on the input of a slot, with real models in real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from msgspec import UNSET, structs
from onnx import helper

from adapters.base import Adapter, Options, Reading
from agent.inference.isolation import worker
from agent.inference.model_cache import ModelCache
from agent.outbox import Message
from agent.pipeline import samples
from agent.pipeline.model_run import Answer
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.settings import DeviceConfig, DevicePlan, PublishConfig, ShadowConfig, SlotConfig
from agent.pipeline.shadow import Shadow, is_for_b
from agent.pipeline.sinks import Sinks
from tests.polling import until
from wire.clock import Clock
from wire.messages import Batch, ClockState, Event, Evidence, Field, Stream
from wire.reasons import because

T0 = 1_760_000_000 * 10**9
STREAMS = {"rows": Stream(rate_hz=10, fields={"a": Field(), "b": Field()}), "frames": Stream(kind="frame")}


class Silent(Adapter):
    """A device whose readings the test gives."""

    class Options(Options, frozen=True):
        """None."""

    def streams(self) -> dict[str, Stream]:
        return STREAMS

    async def readings(self) -> AsyncIterator[Reading]:
        return
        yield


class Bench:
    """A pipeline with one device and the slot `slot`."""

    def __init__(self, folder: Path, slot: SlotConfig, **publish: Any) -> None:
        device = DeviceConfig(adapter="silent", publish=PublishConfig(**{"live_hz": 0, **publish}))
        clock = Clock()
        self.messages: list[Message] = []
        self.cache = ModelCache(folder / "gate")
        self.state = folder / "state"
        self.pipeline = Pipeline(
            {"dev": DevicePlan(device, Silent, Silent.Options(), STREAMS)},
            {"slot": slot},
            clock,
            cache=self.cache,
            clock_state=lambda: ClockState.NTP,
            sinks=Sinks(send=self.messages.append, state=self.state),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callable[[Reading], Any]]:
        await self.pipeline.open_models()
        task = asyncio.create_task(self.pipeline.run())
        try:
            yield self.pipeline.sink("dev")
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.pipeline.close()

    @property
    def shadow(self) -> Shadow:
        found = self.pipeline.runners["slot"].shadow
        assert found is not None
        return found

    @property
    def evidence(self) -> Evidence:
        found = self.pipeline.runners["slot"].shown.evidence
        assert found is not UNSET
        return found

    async def windows(self, sink: Callable[[Reading], Any], *means: float) -> None:
        """Give one window of 4 rows for each number, and wait for both models."""
        for mean in means:
            for _ in range(4):
                self.at = getattr(self, "at", -1) + 1
                sink(Reading("rows", T0 + self.at * 10**8, {"a": mean, "b": mean}))
            await until(lambda: not self.pipeline.busy)
            await until(lambda: not self.shadow.busy)

    async def frames(self, sink: Callable[[Reading], Any], *pictures: Any) -> None:
        for picture in pictures:
            self.at = getattr(self, "at", -1) + 1
            sink(Reading("frames", T0 + self.at * 10**8, picture=picture, index=self.at))
            await until(lambda: not self.pipeline.busy)
            await until(lambda: not self.shadow.busy)

    def column(self, field: str, stream: str = "slot") -> list[Any]:
        self.pipeline.flush()
        batches = [m.body for m in self.messages if m.name == stream and isinstance(m.body, Batch)]
        return [value for batch in batches for value in batch.f[field]]

    def events(self) -> list[Event]:
        return [m.body for m in self.messages if isinstance(m.body, Event)]


@pytest.fixture
def scored(packages: Any) -> Callable[..., Path]:
    """Makes an anomaly model whose score is the mean of 4 rows and `more`; alarm from 10."""

    def make(name: str, more: float = 0.0, **changes: Any) -> Path:
        body = packages.model(
            [
                helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
                helper.make_node("Add", ["mean", "more"], ["y"]),
            ],
            inputs={"x": (1, 4, 2)},
            outputs={"y": (1,)},
            constants={"more": np.array([more], np.float32)},
        )
        window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4, "hop": 4}
        output = {"decoder": "anomaly", "threshold": 10}
        made: Path = packages.write(body, name=name, **{"input": window, "output": output, **changes})
        return made

    return make


def slot(package: Path, candidate: Path, stream: str = "rows", **changes: Any) -> SlotConfig:
    return SlotConfig(
        package=package,
        input=f"dev/{stream}",
        events="each",
        isolation=changes.pop("isolation", "thread"),
        shadow=ShadowConfig(package=candidate, **changes),
    )


async def test_an_equal_model_agrees_on_each_window(scored: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path, slot(scored("old"), scored("new")))
    async with bench.running() as sink:
        await bench.windows(sink, *range(20))
        found = bench.evidence
    assert (found.mode, found.state, found.n, found.agreed, found.diff) == ("shadow", "ok", 20, 20.0, 0.0)
    assert (found.a.name, found.b.name, found.a.n, found.b.n) == ("old", "new", 20, 20)
    assert (found.a.alarms, found.b.alarms) == (10, 10)
    assert found.b.p99_ms >= found.b.p50_ms > 0
    assert found.a.cpu_s > 0
    assert found.b.cpu_s > 0
    assert found.blocks == 1, "8 s of input count as one case"
    assert (found.low, found.high) == (pytest.approx(0.2065, abs=1e-4), 1.0)
    assert bench.column("score") == list(range(20))
    assert {event.model for event in bench.events()} == {"old@1.0"}
    assert len(bench.events()) == 20


async def test_a_shifted_model_agrees_as_often_as_constructed(
    scored: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, slot(scored("old"), scored("new", 5.0)))
    async with bench.running() as sink:
        await bench.windows(sink, *range(20))  # 5 to 9 are an alarm of the new one alone
        found = bench.evidence
        row = bench.shadow.row()
    assert (found.n, found.agreed, found.diff) == (20, 15.0, 5.0)
    assert (found.a.alarms, found.b.alarms) == (10, 15)
    assert (row["agreement"], row["a_alarms"], row["b_alarms"]) == (0.75, 10, 15)
    assert row.keys() == bench.pipeline.streams("dev")["slot-shadow"].fields.keys()
    assert bench.column("score") == list(range(20)), "results of the new one act on nothing"
    assert [event.type for event in bench.events()] == ["normal"] * 10 + ["anomaly"] * 10


async def test_each_nth_input_is_compared(scored: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path, slot(scored("old"), scored("new"), every=3))
    async with bench.running() as sink:
        await bench.windows(sink, *range(9))
        assert (bench.evidence.a.n, bench.evidence.b.n) == (9, 3)


async def test_a_candidate_that_hangs_takes_no_result(
    scored: Callable[..., Path], packages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = scored("old")
    spec = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4, "hop": 4}
    hanging = packages.write(
        packages.hanging(above=50), name="new", input=spec, output={"decoder": "anomaly", "threshold": 10}
    )
    monkeypatch.setattr(worker, "SILENT_S", 30.0)  # it hangs for the whole test
    bench = Bench(tmp_path, slot(old, hanging))
    async with bench.running() as sink:
        await bench.windows(sink, 1.0)
        for number in range(40):
            sink(Reading("rows", T0 + (4 + number) * 10**8, {"a": 99.0, "b": 99.0}))
            await until(lambda: not bench.pipeline.busy)
        assert bench.shadow.busy
        assert len(bench.column("score")) == 11, "as many as there were windows"
        assert bench.pipeline.runners["slot"].counters["dropped"] == 0
        assert bench.evidence.dropped == 10 - 1 - 4, "one is with the candidate, four wait"
        assert bench.pipeline.models()["slot"].state == "ok"


async def test_a_candidate_that_crashes_takes_no_result(
    scored: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PAUSE_S", 0.01)
    bench = Bench(tmp_path, slot(scored("old"), scored("new")))
    async with bench.running() as sink:
        for _ in range(worker.DEATHS):
            assert bench.shadow.model is not None
            os.kill(bench.shadow.model.pid, signal.SIGKILL)
            await bench.windows(sink, 1.0)
            if bench.shadow.model is not None:
                await bench.windows(sink, 1.0)
        await bench.windows(sink, 1.0, 2.0)
        found = bench.evidence
    assert (found.state, found.code) == ("failed", "model-refused-deaths")
    assert (found.b.failed, found.n) == (3, 2)
    assert bench.column("score") == [1.0] * 6 + [2.0]
    assert bench.pipeline.models()["slot"].state == "ok"


async def test_a_candidate_for_another_input_is_refused(scored: Callable[..., Path], tmp_path: Path) -> None:
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4, "hop": 2}
    bench = Bench(tmp_path, slot(scored("old"), scored("new", input=window)))
    async with bench.running() as sink:
        await bench.windows(sink, 3.0)
        found = bench.evidence
    assert (found.state, found.code) == ("failed", "shadow-mismatch")
    assert found.why.endswith("its input.hop is 2, that of the slot's model is 4")
    assert bench.column("score") == [3.0]


# -- in turns ----------------------------------------------------------------------------------------------


async def test_two_models_answer_in_turns(scored: Callable[..., Path], tmp_path: Path) -> None:
    old, new = scored("old", version="1.0"), scored("new", 100.0, version="1.1")
    bench = Bench(tmp_path, slot(old, new, mode="ab", seed=7))
    async with bench.running() as sink:
        watched: list[Answer] = []
        bench.pipeline.runners["slot"].watch = watched.append
        await bench.windows(sink, *[1.0] * 16)
        found = bench.evidence
    assert len(watched) == 8, "a version on trial is judged by its own results"
    schedule = [is_for_b(7, number) for number in range(16)]
    assert bench.column("ver") == ["new@1.1" if b else "old@1.0" for b in schedule]
    assert bench.column("score") == [101.0 if b else 1.0 for b in schedule]
    assert [event.model for event in bench.events()] == bench.column("ver")
    assert [event.type == "anomaly" for event in bench.events()] == schedule, "both act"
    assert (found.mode, found.seed, found.a.n, found.b.n, found.n) == ("ab", 7, 8, 8, 0)
    assert (found.a.alarms, found.b.alarms) == (0, 8)
    assert bench.pipeline.streams("dev")["slot"].fields["ver"].t == "str"


def test_a_schedule_gives_each_model_one_of_two_inputs_in_an_order_by_chance() -> None:
    orders = set()
    for seed in range(8):
        schedule = [is_for_b(seed, number) for number in range(40)]
        assert all(sum(schedule[at : at + 2]) == 1 for at in range(0, 40, 2))
        assert schedule == [is_for_b(seed, number) for number in range(40)]
        orders.add(tuple(schedule))
    assert len(orders) == 8


async def test_in_turns_the_model_of_the_slot_goes_on_alone_when_the_other_dies(
    scored: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, slot(scored("old"), scored("new", version="2"), mode="ab"))
    async with bench.running() as sink:
        await bench.windows(sink, *range(4))
        assert bench.shadow.model is not None
        os.kill(bench.shadow.model.pid, signal.SIGKILL)
        await bench.windows(sink, *range(4, 12))
        found = bench.evidence
    assert bench.column("score") == list(range(12)), "no result is lost"
    assert bench.column("ver")[4:] == ["old@1.0"] * 8
    assert (found.state, found.code, found.b.failed) == ("failed", "model-worker-died", 1)


async def test_models_whose_rows_could_not_be_told_apart_take_no_turns(
    scored: Callable[..., Path], tmp_path: Path
) -> None:
    new = scored("new")
    (new / "manifest.yaml").write_text((new / "manifest.yaml").read_text().replace("name: new", "name: old"))
    bench = Bench(tmp_path, slot(scored("old"), new, mode="ab"))
    async with bench.running() as sink:
        await bench.windows(sink, 1.0, 2.0)
        assert bench.evidence.why.endswith("both are old@1.0: rows could not say which model answered")
    assert bench.column("ver") == ["old@1.0"] * 2


# -- pictures ----------------------------------------------------------------------------------------------


@pytest.fixture
def light(packages: Any, frame_input: Any) -> Callable[..., Path]:
    """Makes a classifier of pictures, which has two labels."""

    def make(name: str, *labels: str) -> Path:
        body = packages.constant(np.array([0.9, 0.1]), shape=(1, 3, 32, 32))
        output = {"decoder": "classification", "labels": list(labels)}
        made: Path = packages.write(body, name=name, input=frame_input(), output=output)
        return made

    return make


@pytest.fixture
def faces(packages: Any, frame_input: Any) -> Path:
    """A detector that always sees one face, a square of 16 pixels around the middle of 32."""
    rows = np.array([16, 16, 16, 16, 0.9], np.float32).reshape(1, 5, 1)
    body = packages.constant(rows, shape=(1, 3, 32, 32))
    output = {"decoder": "detection", "head": "yolov8", "labels": ["face"], "score": 0.5}
    made: Path = packages.write(body, name="faces", input=frame_input(), output=output)
    return made


def noisy(size: int = 128) -> Any:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


async def test_a_picture_is_copied_once_for_both_models(light: Callable[..., Path], tmp_path: Path) -> None:
    config = slot(
        light("old", "dark", "bright"), light("new", "dark", "bright"), "frames", isolation="process"
    )
    bench = Bench(tmp_path, config)
    async with bench.running() as sink:
        workers = bench.cache._workers
        assert workers is not None
        before = workers.frames.copies
        await bench.frames(sink, *[noisy(256) for _ in range(6)])
        assert (bench.evidence.n, bench.evidence.agreed) == (6, 6.0)
        assert workers.frames.copies - before == 6
    assert not list((tmp_path / "state").rglob("*.jpg")), "they agreed"


async def test_a_face_is_hidden_before_a_picture_is_kept(
    light: Callable[..., Path], faces: Path, tmp_path: Path
) -> None:
    config = slot(light("old", "dark", "bright"), light("new", "day", "night"), "frames")
    bench = Bench(tmp_path, config, blur=("faces",), faces=faces)
    async with bench.running() as sink:
        await bench.frames(sink, noisy())
        found = bench.evidence
    assert (found.n, found.agreed, found.samples) == (1, 0.0, 1)
    (kept,) = samples.listed(tmp_path / "state" / "samples" / "slot")
    body = samples.read(tmp_path / "state" / "samples" / "slot", kept.name, samples.MAX_PICTURE + 60_000)
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (128, 128, 3)
    face, around = picture[40:56, 40:56].astype(float), picture[0:16, 0:16].astype(float)
    assert face.std(axis=(0, 1)).max() < 20, "blocks of one colour"
    assert around.std(axis=(0, 1)).min() > 40, "the rest is as it was"
    told = json.loads(body[6 : 4 + int.from_bytes(body[4:6], "big")])
    assert (told["a"]["top"], told["b"]["top"]) == ("dark", "day")
    assert (told["a"]["model"], told["b"]["model"]) == ("old@1.0", "new@1.0")


async def test_no_picture_is_kept_where_faces_cannot_be_found(
    light: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, slot(light("old", "dark", "bright"), light("new", "day", "night"), "frames"))
    async with bench.running() as sink:
        await bench.frames(sink, noisy(), noisy())
        assert (bench.evidence.agreed, bench.evidence.samples) == (0.0, 0)
        assert bench.shadow.counters["samples_unfiltered"] == 2
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


async def test_a_window_on_which_they_disagree_is_kept(scored: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(tmp_path, slot(scored("old"), scored("new", 5.0)))
    async with bench.running() as sink:
        await bench.windows(sink, 2.0, 7.0)
    (kept,) = samples.listed(tmp_path / "state" / "samples" / "slot")
    with np.load(tmp_path / "state" / "samples" / "slot" / kept.name) as found:
        assert (found["window"] == 7.0).all()
        told = json.loads(str(found["results"]))
    assert (told["a"]["score"], told["b"]["score"]) == (7.0, 12.0)


# -- beside the rest of a slot ------------------------------------------------------------------------------


async def test_another_version_in_the_slot_is_compared_from_its_beginning(
    scored: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, slot(scored("old"), scored("beside", 5.0)))
    newer = scored("newer", 5.0)
    async with bench.running() as sink:
        await bench.windows(sink, 7.0, 7.0)
        assert (bench.evidence.a.name, bench.evidence.n, bench.evidence.agreed) == ("old", 2, 0.0)
        await bench.pipeline.candidate("slot", newer)
        await bench.pipeline.swap("slot")
        await until(lambda: bench.evidence.state == "ok")
        await bench.windows(sink, 7.0, 7.0, 7.0)
        found = bench.evidence
    assert (found.a.name, found.b.name, found.n, found.agreed) == ("newer", "beside", 3, 3.0)
    assert bench.column("score") == [7.0, 7.0, 12.0, 12.0, 12.0]


async def test_results_are_compared_before_areas_of_the_slot_leave_boxes_out(
    packages: Any, frame_input: Any, tmp_path: Path
) -> None:
    rows = np.array([8, 8, 8, 8, 0.9], np.float32).reshape(1, 5, 1)
    body = packages.constant(rows, shape=(1, 3, 32, 32))
    output = {"decoder": "detection", "head": "yolov8", "labels": ["car"], "score": 0.5}
    old, new = (
        packages.write(body, name=name, input=frame_input(), output=output) for name in ("old", "new")
    )
    whole = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    config = structs.replace(slot(old, new, "frames"), ignore=(whole,))
    bench = Bench(tmp_path, config)
    async with bench.running() as sink:
        await bench.frames(sink, noisy(), noisy())
        assert (bench.evidence.n, bench.evidence.agreed, bench.evidence.diff) == (2, 2.0, 0.0)
    assert bench.column("n") == [0, 0], "the slot has ignored them"


async def test_the_second_model_is_stopped_first_for_memory(
    scored: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, slot(scored("old"), scored("new")))
    async with bench.running() as sink:
        await bench.windows(sink, 1.0)
        assert await bench.pipeline.stop_newest(because("too much memory", "fence-memory")) == "slot-shadow"
        await bench.windows(sink, 2.0)
        assert (bench.evidence.state, bench.evidence.code) == ("failed", "fence-memory")
    assert bench.column("score") == [1.0, 2.0]
