"""Zones and lines count as those of supervision do for the same boxes, and as a hand counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.inference.decoders import Result
from agent.inference.decoders.detection import DetectionOptions
from agent.inference.inputs import FrameInput
from agent.inference.manifest import Budgets, Manifest
from agent.inference.scene_options import LineConfig, SceneOptions, TrackConfig, ZoneConfig
from agent.pipeline.frames.scene import Scene, inside, scene_mismatch
from agent.pipeline.settings import CropsConfig, SlotConfig
from wire.clock import NS_PER_S
from wire.messages import Box

FRAME_NS = NS_PER_S // 10
LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
DOOR = LineConfig(start=(0.5, 1.0), end=(0.5, 0.0))  # upwards: in is from the right half to the left one


def manifest(decoder: str = "detection", **options: Any) -> Manifest:
    chosen = {"head": "yolov8", "labels": ["person", "car"], **options}
    return Manifest(
        name="m",
        version="1",
        licence="x",
        description="",
        file="",
        sha256="",
        input=FrameInput(kind="frame", name="x", size=(64, 48)),
        decoder=decoder,
        output=DetectionOptions(**chosen),
        budgets=Budgets(),
        data={},
        quality={},
        card=None,
        files={},
    )


def slot(**options: Any) -> SlotConfig:
    return SlotConfig(package="p", input="cam/frames", **options)  # type: ignore[arg-type]


def at(x: float, y: float, label: str = "person", size: float = 0.1) -> Box:
    """A box that stands on this point."""
    cls = ["person", "car"].index(label)
    return Box(label=label, cls=cls, score=0.9, box=(x - size / 2, y - size, size, size))


def seen(*boxes: Box) -> Result:
    values = {"n": len(boxes), "person": 0, "car": 0}
    for box in boxes:
        values[box.label] += 1
    return Result({**values}, list(boxes), boxes[0].label if boxes else "", 0.9 if boxes else None)


def watched(config: SlotConfig, *pictures: list[Box]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The row and the happenings of each picture."""
    scene = Scene(config.scene(None), manifest())
    rows, happened = [], []
    for k, boxes in enumerate(pictures):
        result = seen(*boxes)
        happened.append(
            [f"{each.kind} {each.name} {len(each.boxes)}" for each in scene.apply(result, k * FRAME_NS)]
        )
        assert scene.fields().keys() <= result.values.keys()
        rows.append(result.values)
    return rows, happened


def test_boxes_in_a_zone_are_counted_and_reported_as_they_come_and_go() -> None:
    config = slot(zones={"gate": ZoneConfig(polygon=LEFT, labels=("person",))}, track=TrackConfig(hits=1))
    path = [0.56, 0.52, 0.48, 0.44, 0.48, 0.53]
    pictures = [[at(x, 0.5), at(0.2, 0.8, "car")] for x in path]
    rows, happened = watched(config, *pictures)
    assert [row["gate"] for row in rows] == [0, 0, 1, 1, 1, 0]
    assert happened == [[], [], ["zone-enter gate 1"], [], [], ["zone-leave gate 1"]]


def test_a_thing_that_is_hidden_for_a_moment_has_not_left_its_zone() -> None:
    config = slot(zones={"gate": ZoneConfig(polygon=LEFT)}, track=TrackConfig(hits=1, keep_s=0.35))
    here = lambda: [at(0.2, 0.5)]  # noqa: E731
    rows, happened = watched(config, here(), here(), [], [], here(), [], [], [], [], [])
    assert [row["gate"] for row in rows] == [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert [each for each in happened if each] == [["zone-enter gate 1"], ["zone-leave gate 1"]]
    assert happened[8] == ["zone-leave gate 1"], "it was kept for 0.35 s"


def test_lines_count_both_ways() -> None:
    config = slot(lines={"door": DOOR}, track=TrackConfig(hits=1))
    path = [0.60, 0.55, 0.50, 0.46, 0.42, 0.47, 0.53, 0.58]
    rows, happened = watched(config, *[[at(x, 0.5)] for x in path])
    assert [(row["door_in"], row["door_out"]) for row in rows] == [
        (0, 0), (0, 0), (0, 0), (1, 0), (1, 0), (1, 0), (1, 1), (1, 1),
    ]  # fmt: skip
    assert [each for each in happened if each] == [["line-in door 1"], ["line-out door 1"]]


def test_a_way_around_the_end_of_a_line_does_not_cross_it() -> None:
    config = slot(lines={"door": LineConfig(start=(0.5, 0.4), end=(0.5, 0.0))}, track=TrackConfig(hits=1))
    rows, _ = watched(config, *[[at(x, 0.5)] for x in (0.56, 0.53, 0.47, 0.44)])
    assert (rows[-1]["door_in"], rows[-1]["door_out"]) == (0, 0)


def test_a_crossing_before_the_number_is_counted_with_it() -> None:
    config = slot(lines={"door": DOOR}, track=TrackConfig(hits=4))
    rows, _ = watched(config, *[[at(x, 0.5)] for x in (0.53, 0.49, 0.46, 0.43)])
    assert [row["door_in"] for row in rows] == [0, 0, 0, 1]


def test_another_model_of_the_slot_goes_on_counting() -> None:
    config = slot(lines={"door": DOOR}, track=TrackConfig(hits=1))
    scene = config.scene(None)
    old, new = Scene(scene, manifest()), Scene(scene, manifest())
    for k, x in enumerate((0.54, 0.48)):
        old.apply(seen(at(x, 0.5)), k * FRAME_NS)
    new.go_on(old)
    result = seen(at(0.46, 0.5))
    new.apply(result, 2 * FRAME_NS)
    assert (result.values["door_in"], result.boxes[0].track) == (1, 1)


def test_what_the_manifest_says_counts_where_the_slot_says_nothing() -> None:
    gate = {"gate": ZoneConfig(polygon=LEFT)}
    output = manifest(track=TrackConfig(hits=3), zones=gate, lines={"door": DOOR}, anchor="centre").output
    assert slot().scene(output) == SceneOptions(
        track=TrackConfig(hits=3), zones=gate, lines={"door": DOOR}, anchor="centre"
    )
    own = slot(zones={"way": ZoneConfig(polygon=LEFT)}, lines={}, track=None, anchor="foot")
    assert own.scene(output) == SceneOptions(zones={"way": ZoneConfig(polygon=LEFT)})
    crops = slot(crops=CropsConfig(of="street"))
    assert not crops.scene(output).used, "a crop has other places than the picture"


def test_a_version_with_other_places_goes_on_with_the_tracks_and_what_is_the_same() -> None:
    other = LineConfig(start=(0.3, 1.0), end=(0.3, 0.0))
    old = Scene(SceneOptions(lines={"door": DOOR, "wall": DOOR}, track=TrackConfig(hits=1)), manifest())
    for k, x in enumerate((0.54, 0.48)):
        old.apply(seen(at(x, 0.5)), k * FRAME_NS)
    lines = {"door": DOOR, "wall": other, "exit": DOOR}
    new = Scene(SceneOptions(lines=lines, track=TrackConfig(hits=5)), manifest())
    new.go_on(old)
    result = seen(at(0.46, 0.5))
    new.apply(result, 2 * FRAME_NS)
    assert [result.values[f"{name}_in"] for name in lines] == [1, 0, 0]
    assert result.boxes[0].track == 1


def test_the_centre_can_be_what_counts() -> None:
    top = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))
    for anchor, count in (("foot", 0), ("centre", 1)):
        rows, _ = watched(slot(zones={"top": ZoneConfig(polygon=top)}, anchor=anchor), [at(0.5, 0.52)])
        assert rows[0]["top"] == count


def test_ignored_boxes_leave_the_row_and_stay_for_the_privacy_filter() -> None:
    scene = Scene(slot(ignore=(LEFT,)).scene(None), manifest(alarm=["person"]))
    result = seen(at(0.2, 0.5), at(0.8, 0.5, "car"))
    result.values["alarm"] = result.alarm = True
    boxes = result.boxes
    assert scene.apply(result, 0) == []
    assert result.values == {"n": 1, "person": 0, "car": 1, "alarm": False}
    assert (result.top, result.alarm, len(result.boxes)) == ("car", False, 1)
    assert len(boxes) == 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"zones": {"gate": ZoneConfig(polygon=LEFT, labels=("dog",))}},
            "zones.gate.labels: 'dog' is not one of the labels (model m)",
        ),
        ({"zones": {"person": ZoneConfig(polygon=LEFT)}}, "zones.person: 'person' is already a field"),
        ({"zones": {"n": ZoneConfig(polygon=LEFT)}}, "zones.n: 'n' is already a field"),
        (
            {"zones": {"a_in": ZoneConfig(polygon=LEFT)}, "lines": {"a": DOOR}},
            "lines.a: 'a_in' is already a field",
        ),
        ({"zones": {"car_area": ZoneConfig(polygon=LEFT)}}, "zones.car_area: 'car_area' is already a field"),
        ({"lines": {"nose_x": DOOR}, "zones": {"nose_x": ZoneConfig(polygon=LEFT)}}, "zones.nose_x: "),
        ({}, ""),
        ({"track": TrackConfig(), "lines": {"a": DOOR}}, ""),
    ],
)
def test_what_does_not_fit_the_model_is_refused(config: dict[str, Any], reason: str) -> None:
    assert scene_mismatch(manifest(masks=True, keypoints=["nose"]), slot(**config)).startswith(reason)


def test_a_scene_needs_a_detector() -> None:
    assert "need a detector" in scene_mismatch(manifest("regions"), slot(track=TrackConfig()))


# -- supervision as the oracle -----------------------------------------------------------------------------


def test_points_in_zones_are_those_of_supervision() -> None:
    sv = pytest.importorskip("supervision", minversion="0.26", reason="an extra of development")
    rng = np.random.default_rng(2)
    polygon = np.array([(100, 60), (420, 90), (500, 400), (260, 240), (80, 430)])
    feet = rng.integers(0, 500, (400, 2))
    detections = sv.Detections(
        xyxy=np.stack([feet[:, 0] - 6, feet[:, 1] - 20, feet[:, 0] + 6, feet[:, 1]], 1)
    )
    theirs = sv.PolygonZone(polygon=polygon).trigger(detections)
    ours = inside(polygon.astype(float), feet.astype(float))
    assert 50 < ours.sum() < 350
    edge = np.array([_near_edge(polygon, foot) for foot in feet])  # pixels on an edge belong to either
    assert (ours == theirs)[~edge].all()


def _near_edge(polygon: np.ndarray, point: np.ndarray) -> bool:
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        along = np.clip(np.dot(point - a, b - a) / np.dot(b - a, b - a), 0, 1)
        if np.linalg.norm(a + along * (b - a) - point) < 1.5:
            return True
    return False


@pytest.mark.parametrize("seed", range(6))
def test_lines_count_as_those_of_supervision(seed: int) -> None:
    sv = pytest.importorskip("supervision", minversion="0.26", reason="an extra of development")
    rng = np.random.default_rng(seed)
    # through the whole picture: supervision also counts what went around the end of a line and comes back
    near, far = rng.uniform(0.45, 0.55, 2)
    start, end = np.array([(near, 0.0), (far, 1.0)] if seed % 2 else [(1.0, near), (0.0, far)])
    line = LineConfig(start=tuple(start.tolist()), end=tuple(end.tolist()))
    theirs = sv.LineZone(
        start=sv.Point(*(start * 1000)), end=sv.Point(*(end * 1000)),
        triggering_anchors=[sv.Position.BOTTOM_CENTER],
    )  # fmt: skip
    scene = Scene(SceneOptions(lines={"door": line}, track=TrackConfig(hits=1)), manifest())
    points = rng.uniform(0.2, 0.8, (3, 2))
    speeds = rng.uniform(-0.02, 0.02, (3, 2))
    row: dict[str, Any] = {}
    for k in range(120):
        points += speeds
        speeds = np.where((points < 0.1) | (points > 0.9), -speeds, speeds)
        boxes = [at(x, y, "person" if i else "car", size=0.12) for i, (x, y) in enumerate(points.tolist())]
        result = seen(*boxes)
        scene.apply(result, k * FRAME_NS)
        numbers = np.array([box.track for box in boxes])
        corners = np.array([(x, y, x + w, y + h) for x, y, w, h in (box.box for box in boxes)]) * 1000
        theirs.trigger(sv.Detections(xyxy=corners, tracker_id=numbers, class_id=np.zeros(3, int)))
        row = dict(result.values)
    assert (row["door_in"], row["door_out"]) == (theirs.in_count, theirs.out_count)
