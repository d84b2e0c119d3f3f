"""From readings to messages with real models: results, events, refusals, drops, back-pressure, pictures."""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import cv2
import msgspec
import numpy as np
import pytest
import yaml
from onnx import helper

from adapters.base import Adapter, Options, Reading
from agent.inference import gate
from agent.inference.decoders import ModelError
from agent.inference.model_cache import ModelCache
from agent.inference.scene_options import TrackConfig, ZoneConfig
from agent.inference.signing import signature
from agent.inference.signing.trust import Trust
from agent.offline.once import _why_no_result
from agent.outbox import Message
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.settings import (
    CropsConfig,
    DeviceConfig,
    DevicePlan,
    PublishConfig,
    SlotConfig,
)
from agent.pipeline.sinks import Sinks
from tests.polling import until
from wire.clock import Clock
from wire.messages import Batch, ClockState, Event, Field, Live, Quality, Snapshot, Stream
from wire.reasons import because
from wire.simulation_clock import SimulationClock

T0 = 1_760_000_000 * 10**9
STEP = 100_000_000  # 10 Hz


class Silent(Adapter):
    """A device that sends nothing; its options set `waits`."""

    class Options(Options, frozen=True):
        waits: bool = False

    kind = "silent"

    @property
    def waits(self) -> bool:
        return bool(self.options.waits)

    def streams(self) -> dict[str, Stream]:
        return {
            "rows": Stream(rate_hz=10, fields={"a": Field(dec=3), "b": Field(dec=3)}),
            "frames": Stream(kind="frame"),
        }

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def readings(self) -> AsyncIterator[Reading]:
        return
        yield


class Bench:
    """A pipeline with one device `dev`, and its output."""

    gate_memory: ClassVar[Path]  # of all tests here: the same few models would pass again and again

    def __init__(
        self,
        models: dict[str, SlotConfig],
        *,
        waits: bool = False,
        clock: Clock | None = None,
        **publish: Any,
    ) -> None:
        device = DeviceConfig(adapter="silent", publish=PublishConfig(**{"live_hz": 0, **publish}))
        options = Silent.Options(waits=waits)
        clock = clock or Clock()
        self.clock_state = ClockState.NTP
        streams = Silent(options, clock).streams()
        self.messages: list[Message] = []
        self.lives: list[tuple[str, Live]] = []
        self.snaps: list[Snapshot] = []
        self.changes = 0
        self.pipeline = Pipeline(
            {"dev": DevicePlan(device, Silent, options, streams, waits=waits)},
            models,
            clock,
            cache=ModelCache(Bench.gate_memory),
            clock_state=lambda: self.clock_state,
            sinks=Sinks(
                send=self.messages.append,
                live=lambda device, stream, body: self.lives.append((stream, body)),
                snap=lambda device, stream, body: self.snaps.append(body),
                changed=self._changed,
            ),
        )

    def _changed(self) -> None:
        self.changes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callable[[Reading], Any]]:
        await self.pipeline.open_models()
        task = asyncio.create_task(self.pipeline.run())
        try:
            yield self.pipeline.sink("dev")
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def settled(self) -> None:
        await until(lambda: not self.pipeline.busy)
        self.pipeline.flush()

    def batches(self, name: str) -> list[Batch]:
        return [m.body for m in self.messages if m.name == name and isinstance(m.body, Batch)]

    def events(self) -> list[Event]:
        return [m.body for m in self.messages if isinstance(m.body, Event)]

    def column(self, stream: str, field: str) -> list[Any]:
        return [value for batch in self.batches(stream) for value in batch.f[field]]


def row(index: int, a: float = 0.0, b: float = 0.0) -> Reading:
    return Reading("rows", T0 + index * STEP, {"a": a, "b": b})


def frame(index: int, value: int = 0) -> Reading:
    picture = np.full((24, 32, 3), value, np.uint8)
    return Reading("frames", T0 + index * STEP, picture=picture, index=index)


@pytest.fixture(scope="module", autouse=True)
def gate_memory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One folder of passed models for the whole file."""
    Bench.gate_memory = tmp_path_factory.mktemp("gate")


@pytest.fixture
def mean_model(packages: Any) -> Path:
    """An anomaly model whose score is the mean of its window of 4 rows, alarm from 10."""
    body = packages.model(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)],
        inputs={"x": (1, 4, 2)},
        outputs={"y": (1,)},
    )
    output = {"decoder": "anomaly", "threshold": 10}
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4, "hop": 2}
    return packages.write(body, name="mean", input=window, output=output)


@pytest.fixture
def bright_model(packages: Any, frame_input: Any) -> Path:
    """A classifier of 32x32 pictures: dark or bright by the mean of the pixels."""
    body = packages.model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "base"], ["y"]),
        ],
        inputs={"x": (1, 3, 32, 32)},
        outputs={"y": (2,)},
        constants={
            "scale": np.array([-1, 1], np.float32),
            "base": np.array([1, 0], np.float32),
        },
    )
    output = {"decoder": "classification", "labels": ["dark", "bright"]}
    return packages.write(body, name="bright", input=frame_input(), output=output)


async def test_rows_become_batches_and_windows_become_results(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows", events="each")})
    async with bench.running() as sink:
        for index in range(12):
            assert sink(row(index, a=float(index))) is None
            await bench.settled()
    assert bench.column("rows", "a") == [float(index) for index in range(12)]
    scores = bench.column("odd", "score")
    assert scores == [0.75, 1.75, 2.75, 3.75, 4.75], "means of rows 0-3, 2-5, 4-7, ... of a and zero"
    assert [event.type for event in bench.events()] == ["normal"] * 5
    event = bench.events()[0]
    assert (event.model, event.slot, event.score) == ("mean@1.0", "odd", 0.75)
    assert event.ts == (T0 + 3 * STEP) // 10**6, "the time of the window's last row"
    assert event.infer_ms is not msgspec.UNSET
    assert event.frame is msgspec.UNSET
    assert bench.pipeline.streams("dev")["odd"].fields["score"].alarm == 10
    state = bench.pipeline.models()["odd"]
    assert (state.state, state.name, state.provider) == ("ok", "mean", "CPUExecutionProvider")


async def test_an_anomaly_is_an_event_when_it_begins_and_when_it_ends(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows")})
    async with bench.running() as sink:
        for index in range(40):
            sink(row(index, *((30.0, 30.0) if 12 <= index < 24 else (0.0, 0.0))))
            await bench.settled()
    assert [(event.type, event.sev) for event in bench.events()] == [("anomaly", 3), ("anomaly-end", 1)]


async def test_a_window_across_a_gap_is_not_inferred(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows")})
    async with bench.running() as sink:
        for index in [*range(6), *range(20, 26)]:
            sink(row(index))
            await bench.settled()
    assert bench.pipeline.runners["odd"].counters["gaps"] == 1
    times = [at for batch in bench.batches("odd") for at in batch.times_us()]
    assert [(at * 1000 - T0) // STEP for at in times] == [3, 5, 23, 25]


async def test_the_result_of_a_window_with_a_flagged_row_is_uncertain(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows", events="each")})
    flags = {6: Quality.OUT_OF_RANGE, 12: Quality.NOT_FINITE}
    async with bench.running() as sink:
        for index in range(24):
            reading = row(index, a=math.nan if index == 12 else 1.0)
            if index != 18:
                sink(msgspec.structs.replace(reading, quality=flags.get(index, Quality.GOOD)))
            await bench.settled()
    ends = [(at * 1000 - T0) // STEP for batch in bench.batches("odd") for at in batch.times_us()]
    qualities = [q for batch in bench.batches("odd") for q in batch.q or [0] * len(batch.times_us())]
    found = dict(zip(ends, qualities, strict=True))
    # rows 6 (flagged) and 18 (filled) are in the windows that end up to three rows later, 12 in none
    assert found == {3: 0, 5: 0, 7: 3, 9: 3, 11: 0, 17: 0, 19: 3, 21: 3, 23: 0}
    assert [event.detail.get("input_quality", 0) for event in bench.events()] == list(found.values())
    assert bench.pipeline.runners["odd"].counters.items() >= {"filled": 1, "incomplete": 2}.items()


async def test_rows_at_another_rate_than_the_models_are_logged_once(
    mean_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows")})
    async with bench.running() as sink:
        for index in range(40):
            sink(Reading("rows", T0 + index * STEP // 4, {"a": 0.0, "b": 0.0}))
        await bench.settled()
    assert bench.pipeline.runners["odd"].counters["wrong_rate"] > 1
    assert not bench.batches("odd")
    assert [r.getMessage() for r in caplog.records if "another rate" in r.getMessage()] == [
        "model odd: dev/rows comes at another rate than the model needs; no window is made"
    ]
    often = bench.pipeline.runners["odd"].counters["wrong_rate"]
    assert (
        _why_no_result(bench.pipeline.runners["odd"], 5.0)
        == f"no whole input within 5 s ({often} wrong_rate)"
    )


async def test_every_nth_window(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows", every=2, events="never")})
    async with bench.running() as sink:
        for index in range(12):
            sink(row(index, a=float(index)))
            await bench.settled()
    assert bench.column("odd", "score") == [0.75, 2.75, 4.75]
    assert not bench.events()


async def test_a_class_that_flickers_is_no_change(bright_model: Path) -> None:
    bench = Bench({"light": SlotConfig(package=bright_model, input="dev/frames")})
    async with bench.running() as sink:
        for index in range(10):
            sink(frame(index, 250 if index in {3, 5} else 5))
            await bench.settled()
    assert bench.column("light", "label").count("bright") == 2
    assert [event.top for event in bench.events()] == ["dark"]


async def test_a_class_with_an_alarm_is_severe_and_its_end_is_an_event(bright_model: Path) -> None:
    manifest = yaml.safe_load((bright_model / "manifest.yaml").read_text())
    manifest["output"]["alarm"] = ["bright"]
    (bright_model / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    bench = Bench({"light": SlotConfig(package=bright_model, input="dev/frames")})
    async with bench.running() as sink:
        for index in range(12):
            sink(frame(index, 250 if 3 <= index < 7 else 5))
            await bench.settled()
    assert [(event.top, event.sev) for event in bench.events()] == [("dark", 0), ("bright", 3), ("dark", 1)]
    assert bench.column("light", "alarm").count(True) == 4
    assert bench.pipeline.streams("dev")["light"].fields["alarm"].t == "bool"


async def test_frames_are_classified_and_shown(bright_model: Path) -> None:
    models = {"light": SlotConfig(package=bright_model, input="dev/frames")}
    bench = Bench(models, live_hz=10, snapshot_every_s=0.05)
    async with bench.running() as sink:
        for index in range(9):
            sink(frame(index, 250 if 3 <= index < 6 else 5))
            await bench.settled()
        await until(lambda: bench.snaps and bench.snaps[-1].frame == 8)
        found = await bench.pipeline.snapshot("dev")
    assert bench.column("light", "label") == ["dark"] * 3 + ["bright"] * 3 + ["dark"] * 3
    assert bench.column("light", "frame") == list(range(9))
    assert [(event.type, event.top, event.frame) for event in bench.events()] == [
        ("classification", "dark", 1),  # reported by the second of two that agree
        ("classification", "bright", 4),
        ("classification", "dark", 7),
    ]
    assert found is not None
    assert (found.frame, found.model, found.w, found.h) == (8, "bright@1.0", 32, 24)
    assert bench.lives[0][0] == "light"


@pytest.fixture
def street_model(packages: Any, frame_input: Any) -> Callable[..., Path]:
    """A detector that sees one person and one car at fixed places, unless other labels are asked for."""

    def make(*labels: str) -> Path:
        rows = np.zeros((1, 6, 2), np.float32)
        rows[0, :, 0] = [8, 12, 6, 20, 0.9, 0.1]  # centre, size in pixels of the input, scores
        rows[0, :, 1] = [24, 22, 12, 10, 0.1, 0.8]
        body = packages.constant(rows, shape=(1, 3, 32, 32))
        output = {"decoder": "detection", "head": "yolov8", "labels": list(labels), "score": 0.5}
        made: Path = packages.write(body, name="-".join(labels), input=frame_input(), output=output)
        return made

    return make


async def test_heads_and_plates_leave_as_mosaics(
    street_model: Callable[..., Path], bright_model: Path
) -> None:
    models = {
        "light": SlotConfig(package=bright_model, input="dev/frames", events="never"),
        "street": SlotConfig(package=street_model("person", "car"), input="dev/frames"),
    }
    bench = Bench(models)
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    async with bench.running() as sink:
        sink(Reading("frames", T0, picture=noise, index=0))
        await bench.settled()
        shot = await bench.pipeline.snapshot("dev")
    assert shot is not None
    assert (shot.blur, shot.faces, shot.plates, shot.why) == ("parts", 1, 1, "")
    assert shot.model == "person-car@1.0", "the boxes are those of the model that finds people"
    sent = cv2.imdecode(np.frombuffer(shot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    grain = cv2.absdiff(sent, cv2.blur(sent, (3, 3))).mean(axis=2)
    head, legs, plate, road = (
        grain[20:70, 55:105],
        grain[140:170, 60:100],
        grain[165:200, 190:290],
        grain[:, :30],
    )
    for hidden in (head, plate):
        for seen in (legs, road):
            assert hidden.mean() < 0.35 * seen.mean()
    assert bench.pipeline.counters == {
        "snapshots": 1,
        "snapshots_hidden_whole": 0,
        "faces_hidden": 1,
        "plates_hidden": 1,
    }


async def test_a_model_sees_what_another_one_found(
    street_model: Callable[..., Path], bright_model: Path
) -> None:
    """The person is in a dark part of the picture, the car is in a bright one."""
    models = {
        "light": SlotConfig(package=bright_model, input="dev/frames", crops=CropsConfig(of="street")),
        "street": SlotConfig(
            package=street_model("person", "car"), input="dev/frames", track=TrackConfig(hits=1)
        ),
    }
    bench = Bench(models, waits=True, blur=["faces"])
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[:, 160:] = 250
    async with bench.running() as sink:
        assert bench.pipeline.streams("dev")["light"].fields.keys() >= {
            "label",
            "frame",
            "crop",
            "crop_track",
        }
        for index in range(4):
            wait = sink(Reading("frames", T0 + index * STEP, picture=picture, index=index))
            if wait is not None:
                await wait
        await bench.settled()
        shot = await bench.pipeline.snapshot("dev")
    assert bench.column("light", "frame") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert bench.column("light", "crop_of") == ["person", "car"] * 4
    assert bench.column("light", "label") == ["dark", "bright"] * 4
    assert bench.column("light", "crop_track") == [1, 2] * 4
    assert bench.column("light", "crop_w") == pytest.approx([0.1875, 0.375] * 4, abs=1e-3)
    changes = [(each.top, each.boxes[0].label, each.frame) for each in bench.events() if each.slot == "light"]
    assert changes == [("dark", "person", 1), ("bright", "car", 1)], "each thing changes by itself"
    assert shot is not None
    assert (shot.model, shot.blur, shot.faces) == ("person-car@1.0", "parts", 1)


async def test_a_version_that_takes_over_reports_things_in_crops_anew(
    street_model: Callable[..., Path], bright_model: Path, tmp_path: Path
) -> None:
    newer = shutil.copytree(bright_model, tmp_path / "newer")
    manifest = newer / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("'1.0'", "'2.0'"))
    models = {
        "light": SlotConfig(package=bright_model, input="dev/frames", crops=CropsConfig(of="street")),
        "street": SlotConfig(
            package=street_model("person", "car"), input="dev/frames", track=TrackConfig(hits=1)
        ),
    }
    bench = Bench(models, waits=True)
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[:, 160:] = 250
    async with bench.running() as sink:
        for index in range(6):
            if index == 3:
                await bench.settled()
                assert (await bench.pipeline.candidate("light", newer)).at_work
                await bench.pipeline.swap("light")
            wait = sink(Reading("frames", T0 + index * STEP, picture=picture, index=index))
            if wait is not None:
                await wait
        await bench.settled()
    changes = [(each.top, each.model) for each in bench.events() if each.slot == "light"]
    label = changes[0][1].removesuffix("1.0")
    assert changes == [(top, f"{label}{version}") for version in ("1.0", "2.0") for top in ("dark", "bright")]


async def test_a_worker_gets_the_picture_once_and_then_crops(
    street_model: Callable[..., Path], bright_model: Path
) -> None:
    models = {
        "street": SlotConfig(package=street_model("person", "car"), input="dev/frames", isolation="process"),
        "light": SlotConfig(
            package=bright_model, input="dev/frames", isolation="process", crops=CropsConfig(of="street")
        ),
    }
    bench = Bench(models, waits=True)
    async with bench.running() as sink:
        wait = sink(Reading("frames", T0, picture=np.full((240, 320, 3), 250, np.uint8), index=0))
        if wait is not None:
            await wait
        await bench.settled()
        copies = bench.pipeline._models._workers.frames.copies
    bench.pipeline.close()
    assert bench.column("light", "label") == ["bright", "bright"]
    assert copies == 1, "the crops are small enough for a packet"


async def test_crops_that_come_too_fast_are_dropped_and_counted(
    street_model: Callable[..., Path], bright_model: Path
) -> None:
    crops, dark = CropsConfig(of="street", most=1), np.zeros((240, 320, 3), np.uint8)
    models = {
        "street": SlotConfig(package=street_model("person", "car"), input="dev/frames"),
        "light": SlotConfig(package=bright_model, input="dev/frames", crops=crops),
    }
    bench = Bench(models)
    async with bench.running() as sink:
        light = bench.pipeline.runners["light"]
        await until(lambda: light._thread is not None)
        thread, light._thread = light._thread, None
        for index in range(3):
            sink(Reading("frames", T0 + index * STEP, picture=dark, index=index))
            await until(lambda: bench.pipeline.runners["street"].counters["runs"] == index + 1)  # noqa: B023
        assert light.counters["dropped"] == 2
        light._thread = thread
        light._hand_on()
        await bench.settled()
    assert bench.column("light", "frame") == [2]


@pytest.fixture
def walker(packages: Any, frame_input: Any) -> Path:
    """A detector of one person whose place is the brightness of the picture: 0 left, 255 right.

    Its manifest has a line in the middle, and tracks.
    """
    base, moves = np.zeros((1, 5, 2), np.float32), np.zeros((1, 5, 2), np.float32)
    base[0, :, 0] = [0, 16, 8, 16, 0.9]
    moves[0, 0, 0] = 32  # px of the input, from dark to bright
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "moves"], ["moved"]),
        helper.make_node("Add", ["moved", "base"], ["y"]),
    ]
    constants = {"moves": moves, "base": base}
    body = packages.model(nodes, inputs={"x": (1, 3, 32, 32)}, outputs={"y": (1, 5, 2)}, constants=constants)
    output = {"decoder": "detection", "head": "yolov8", "labels": ["person"], "score": 0.5}
    output |= {"track": {"hits": 2}, "lines": {"middle": {"start": [0.5, 0.0], "end": [0.5, 1.0]}}}
    made: Path = packages.write(body, name="walker", input=frame_input(), output=output)
    return made


async def test_zones_and_lines_count_and_report_what_is_followed(walker: Path) -> None:
    right = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    watched = SlotConfig(package=walker, input="dev/frames", zones={"right": ZoneConfig(polygon=right)})
    bench = Bench({"street": watched}, waits=True, blur=[])
    fields = {"n", "person", "right", "middle_in", "middle_out", "frame"}
    async with bench.running() as sink:
        for index, grey in enumerate((90, 105, 120, 135, 150)):
            picture = np.full((24, 32, 3), grey, np.uint8)
            wait = sink(Reading("frames", T0 + index * STEP, picture=picture, index=index))
            if wait is not None:
                await wait
        await bench.settled()
        assert bench.pipeline.streams("dev")["street"].fields.keys() >= fields
        shot = await bench.pipeline.snapshot("dev")
    assert bench.column("street", "right") == [0, 0, 0, 1, 1]
    assert bench.column("street", "middle_in") == [0, 0, 0, 1, 1]
    assert bench.column("street", "middle_out") == [0, 0, 0, 0, 0]
    found = [(each.type, each.frame, each.detail) for each in bench.events() if each.type != "detection"]
    assert found == [
        ("zone-enter", 3, {"zone": "right", "right": 1}),
        ("line-in", 3, {"line": "middle", "middle_in": 1, "middle_out": 0}),
    ]
    assert [box.track for each in bench.events() for box in each.boxes][-1] == 1
    assert shot is not None
    assert [box.track for box in shot.boxes] == [1]
    assert [(area.name, area.kind, len(area.points)) for area in shot.areas] == [
        ("right", "zone", 4),
        ("middle", "line", 2),
    ]


async def test_what_is_ignored_is_hidden_in_pictures_all_the_same(walker: Path) -> None:
    every = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    config = SlotConfig(package=walker, input="dev/frames", ignore=(every,))
    bench = Bench({"street": config}, blur=["faces"])
    async with bench.running() as sink:
        sink(Reading("frames", T0, picture=np.full((240, 320, 3), 128, np.uint8), index=0))
        await bench.settled()
        shot = await bench.pipeline.snapshot("dev")
    assert bench.column("street", "n") == [0]
    assert shot is not None
    assert (shot.blur, shot.faces) == ("parts", 1)


@pytest.mark.parametrize(
    "case", ["no model", "a classifier", "a detector of weeds", "a failed run", "refused"]
)
async def test_a_picture_without_a_detector_is_hidden_as_a_whole(
    tmp_path: Path, street_model: Callable[..., Path], bright_model: Path, case: str
) -> None:
    packages = {
        "a classifier": bright_model,
        "a detector of weeds": street_model("weed", "grass"),
        "a failed run": street_model("person", "car"),
        "refused": tmp_path / "nowhere",
    }
    models = {"one": SlotConfig(package=packages[case], input="dev/frames")} if case in packages else {}
    bench = Bench(models)
    async with bench.running() as sink:
        if case == "a failed run":
            bench.pipeline.runners["one"]._model.run_frame = fail  # type: ignore[union-attr, method-assign]
            sink(frame(0))
            await until(lambda: bench.pipeline.models()["one"].state == "failed")
        noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        sink(Reading("frames", T0 + STEP, picture=noise, index=1))
        await bench.settled()
        shot = await bench.pipeline.snapshot("dev")
    assert shot is not None
    assert shot.frame == 1
    assert (shot.blur, shot.faces, shot.plates) == ("whole", 0, 0)
    assert shot.why
    sent = cv2.imdecode(np.frombuffer(shot.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert cv2.absdiff(sent, cv2.blur(sent, (3, 3))).mean() < 3
    assert bench.pipeline.counters["snapshots_hidden_whole"] == 1


async def test_a_picture_is_sent_unchanged_if_the_config_says_so() -> None:
    bench = Bench({}, blur=())
    async with bench.running() as sink:
        sink(frame(0, 77))
        shot = await bench.pipeline.snapshot("dev")
    assert shot is not None
    assert (shot.blur, shot.why) == ("none", "")


def fail(_picture: Any) -> Any:
    raise ModelError("it failed")


async def test_a_refused_model_says_why_and_the_others_run(
    tmp_path: Path, mean_model: Path, bright_model: Path, packages: Any
) -> None:
    torn = packages.write(b"no onnx at all", name="torn")
    slow = packages.write(
        packages.constant(np.zeros((1, 1))),
        name="fast-only",
        input={"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 50, "length": 4},
    )
    models = {
        "absent": SlotConfig(package=tmp_path / "nowhere", input="dev/rows"),
        "torn": SlotConfig(package=torn, input="dev/rows"),
        "frames-for-rows": SlotConfig(package=bright_model, input="dev/rows"),
        "too-fast": SlotConfig(package=slow, input="dev/rows"),
        "gpu": SlotConfig(package=mean_model, input="dev/rows", providers=["CUDAExecutionProvider"]),
        "fine": SlotConfig(package=mean_model, input="dev/rows"),
    }
    bench = Bench(models)
    async with bench.running() as sink:
        for index in range(4):
            sink(row(index))
            await bench.settled()
    states = bench.pipeline.models()
    assert {name: state.state for name, state in states.items()} == {
        **dict.fromkeys(models, "failed"),
        "fine": "ok",
    }
    for name, words in {
        "absent": "no such model package",
        "torn": "model.onnx",
        "frames-for-rows": "needs frames, and dev/rows is a signal stream",
        "too-fast": "needs 50 Hz, and dev/rows has 10 Hz",
        "gpu": "CUDAExecutionProvider",
    }.items():
        assert words in states[name].why
    assert set(bench.pipeline.streams("dev")) == {"rows", "frames", "fine"}
    assert len(bench.column("fine", "score")) == 1


async def test_a_run_that_fails_changes_the_state_and_the_next_one_runs(bright_model: Path) -> None:
    bench = Bench({"light": SlotConfig(package=bright_model, input="dev/frames")})
    async with bench.running() as sink:
        bad = Reading("frames", T0, picture=np.zeros((0, 0, 3), np.uint8), index=0)
        sink(bad)
        await until(lambda: bench.pipeline.models()["light"].state == "failed")
        assert bench.pipeline.models()["light"].why
        sink(frame(1, 90))
        await until(lambda: bench.pipeline.models()["light"].state == "ok")
    assert bench.pipeline.runners["light"].counters == {"failed": 1, "runs": 1, "input_blurred": 1}
    assert bench.changes == 3, "open, failed, repaired"


class Gate:
    """Blocks a model's runs until it is opened."""

    def __init__(self, bench: Bench, slot: str) -> None:
        self.open = threading.Event()
        model = bench.pipeline.runners[slot]._model
        assert model is not None
        run = model.run_frame
        model.run_frame = lambda picture, **_: (self.open.wait(30), run(picture))[1]  # type: ignore[method-assign]


async def test_of_a_live_source_the_newest_frame_wins(bright_model: Path) -> None:
    bench = Bench({"light": SlotConfig(package=bright_model, input="dev/frames")})
    async with bench.running() as sink:
        gate = Gate(bench, "light")
        assert sink(frame(0)) is None
        await until(lambda: bench.pipeline.runners["light"]._in_thread)
        assert all(sink(frame(index)) is None for index in range(1, 6))
        gate.open.set()
        await bench.settled()
        sink(frame(6))
        await bench.settled()
    assert bench.column("light", "frame") == [0, 5, 6]
    assert bench.pipeline.runners["light"].counters["dropped"] == 4


class SetClock(Clock):
    """A wall clock that was never set, and is off by `ahead_ns`."""

    ahead_ns = -50 * 365 * 86_400 * 10**9

    def now_ns(self) -> int:
        return super().now_ns() + self.ahead_ns


async def test_a_result_is_of_the_clock_that_its_picture_was_stamped_with(bright_model: Path) -> None:
    clock = SetClock()
    bench = Bench({"light": SlotConfig(package=bright_model, input="dev/frames", events="each")}, clock=clock)
    bench.clock_state = ClockState.UNSYNCED
    async with bench.running() as sink:
        gate = Gate(bench, "light")
        sink(msgspec.structs.replace(frame(0), at_ns=clock.now_ns()))
        await until(lambda: bench.pipeline.runners["light"]._in_thread)
        clock.ahead_ns, bench.clock_state = 0, ClockState.NTP  # the clock is set while the model runs
        gate.open.set()
        await bench.settled()
        sink(msgspec.structs.replace(frame(1), at_ns=clock.now_ns()))
        await bench.settled()
    found = [(m.body.clk, m.offset_ns) for m in bench.messages if isinstance(m.body, Batch | Event)]
    early = [offset_ns for clk, offset_ns in found if clk == ClockState.UNSYNCED]
    assert len(early) == 2, "row and event of the first: to be corrected before they are sent"
    assert all(
        abs(offset_ns - (clock.now_ns() - clock.monotonic_ns()) - SetClock.ahead_ns) < 10**9
        for offset_ns in early
    )
    assert [clk for clk, _ in found].count(ClockState.NTP) == 2


async def test_a_source_that_waits_loses_no_frame(bright_model: Path) -> None:
    models = {name: SlotConfig(package=bright_model, input="dev/frames") for name in ("one", "two")}
    bench = Bench(models, waits=True)
    async with bench.running() as sink:
        for index in range(30):
            if (wait := sink(frame(index))) is not None:
                await wait
        await bench.settled()
    assert bench.column("one", "frame") == list(range(30))
    assert bench.column("two", "frame") == list(range(30))
    assert all(slot.counters["dropped"] == 0 for slot in bench.pipeline.runners.values())


async def test_a_model_that_hangs_is_failed_and_recovers(
    bright_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.pipeline.model_runner.STUCK_S", 0.05)
    bench = Bench({"light": SlotConfig(package=bright_model, input="dev/frames")})
    async with bench.running() as sink:
        gate = Gate(bench, "light")
        sink(frame(0))
        await until(lambda: "no answer for" in bench.pipeline.models()["light"].why)
        sink(row(0))
        bench.pipeline.flush()
        assert bench.column("rows", "a") == [0.0], "the rest goes on"
        gate.open.set()
        await until(lambda: bench.pipeline.models()["light"].state == "ok")


async def test_pictures_without_a_model_are_shown_plain() -> None:
    bench = Bench({}, snapshot_every_s=0.02)
    async with bench.running() as sink:
        assert await bench.pipeline.snapshot("dev") is None
        sink(frame(0, 100))
        await until(lambda: bench.snaps)
        first = len(bench.snaps)
        await asyncio.sleep(0.1)
        assert len(bench.snaps) == first, "the same picture is not sent twice"
        sink(Reading("frames", T0, picture=np.zeros((0, 4, 3), np.uint8), index=1))
        await until(lambda: bench.pipeline.counters["snapshots_failed"])
    assert not bench.messages


@pytest.mark.parametrize(("later_s", "sent"), [(0.4, ["odd", "rows"]), (0.8, ["rows"])])
async def test_rows_that_waited_half_a_second_go_with_those_of_another_stream(
    mean_model: Path, later_s: float, sent: list[str]
) -> None:
    """One write to disk serves both; a result that is newer waits for its own second."""
    async with SimulationClock(T0) as clock:
        bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows", events="none")}, clock=clock)
        async with bench.running() as sink:
            clock.pace = 100
            await clock.sleep(0.125)  # from now on this task holds the clock while it works
            for index in range(3):
                sink(row(index))
            await clock.sleep(later_s)
            sink(row(3))  # completes the window
            await until(lambda: bench.pipeline.runners["odd"].counters["runs"])
            await clock.sleep_until(T0 + 1_200_000_000)
            assert sorted(message.name for message in bench.messages if message.cls == "data") == sent


async def test_the_newest_model_is_stopped_and_the_other_goes_on(packages: Any) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    package = packages.write(packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}))
    bench = Bench({name: SlotConfig(package=package, input="dev/rows") for name in ("first", "second")})
    async with bench.running() as sink:
        newest = max(bench.pipeline.runners.values(), key=lambda each: each.opened_s).name
        (other,) = {"first", "second"} - {newest}
        why = because("the agent has 130 MB, 100 MB are allowed: fence.memory_mb", "fence-memory")
        assert await bench.pipeline.stop_newest(why) == newest
        for index in range(8):
            sink(row(index, 1.0))
        await bench.settled()
        states = bench.pipeline.models()
        assert (states[newest].state, states[newest].code) == ("failed", "fence-memory")
        assert states[other].state == "ok"
        assert newest not in bench.pipeline.streams("dev")
        assert await bench.pipeline.stop_newest(why) == other
        assert await bench.pipeline.stop_newest(why) == "", "none is left"
        sink(row(8, 1.0))
    assert bench.column(other, "power")
    assert not bench.column(newest, "power")


async def test_keys_that_change_while_the_gate_runs_count(
    mean_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = signature.new_key()
    signature.sign(mean_model, private)
    looked, changed, verify = threading.Event(), threading.Event(), gate.verify

    def slow(*arguments: Any, **options: Any) -> gate.GateReport:
        report = verify(*arguments, **options)
        looked.set()
        assert changed.wait(60)
        return report

    monkeypatch.setattr(gate, "verify", slow)
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows")})
    await bench.pipeline.trust(Trust(trusted={public.decode(): "maker"}, required=True))
    opening = asyncio.create_task(bench.pipeline.open_models())
    await until(looked.is_set)
    await bench.pipeline.trust(Trust(revoked={public.decode(): "maker"}))
    changed.set()
    await opening
    state = bench.pipeline.models()["odd"]
    assert (state.state, state.code) == ("failed", "model-key-revoked")
    assert bench.pipeline.runners["odd"].model is None


async def test_a_slot_in_shadow_stores_its_rows_and_sends_no_events(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows")})
    async with bench.running() as sink:
        for index in range(48):
            if index == 8:
                bench.pipeline.withhold(frozenset({"odd"}))
            if index == 24:
                bench.pipeline.withhold(frozenset())
            sink(row(index, *((30.0, 30.0) if 12 <= index < 36 else (0.0, 0.0))))
            await bench.settled()
    assert len(bench.column("odd", "score")) == 23
    events = [(event.type, (event.ts * 10**6 - T0) // STEP) for event in bench.events()]
    assert events == [("anomaly", 25), ("anomaly-end", 39)], "an alarm that goes on is reported when it acts"
