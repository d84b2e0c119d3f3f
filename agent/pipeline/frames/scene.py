"""What a detector sees over time: things that are followed, zones that they enter, lines that they cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.scene_options import LineConfig, SceneOptions, TrackConfig, ZoneConfig
from agent.pipeline.frames.tracking import Track, Tracker
from agent.pipeline.settings import SlotConfig
from wire.messages import Area, Box, Field

if TYPE_CHECKING:
    from agent.inference.decoders import Result
    from agent.inference.manifest import Manifest

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Happening:
    """Boxes that entered or left a zone, or crossed a line, in one picture; `kind` is the event's type."""

    kind: str
    name: str
    boxes: list[Box]

    @property
    def counts(self) -> tuple[str, ...]:
        """The fields of the row that belong to the zone or the line."""
        return (self.name, f"{self.name}_in", f"{self.name}_out")


@dataclass(slots=True)
class _Zone:
    name: str
    config: ZoneConfig
    inside: dict[int, Box] = field(default_factory=dict)  # number of a track -> where it was seen last


@dataclass(slots=True)
class _Line:
    name: str
    config: LineConfig
    last: dict[int, Point] = field(default_factory=dict)  # where each track was beside the line
    crossed: dict[str, int] = field(default_factory=lambda: {"in": 0, "out": 0})


class Scene:
    """Follows the boxes of one slot; `apply` is called once for each picture, in order."""

    def __init__(self, config: SceneOptions, manifest: Manifest) -> None:
        from agent.inference.decoders import slugs  # only agents with models pay for it

        self._foot = config.anchor == "foot"
        self._ignore = [np.array(polygon, np.float64) for polygon in config.ignore]
        track = config.track or (TrackConfig() if config.zones or config.lines else None)
        self._tracker = None if track is None else Tracker(track)
        self._zones = [_Zone(name, zone) for name, zone in config.zones.items()]
        self._lines = [_Line(name, line) for name, line in config.lines.items()]
        options: Any = manifest.output
        self._counted = dict(zip(slugs(options.counted), options.counted, strict=True))
        self._alarms = frozenset(options.alarm)

    def fields(self) -> dict[str, Field]:
        """The fields that are added to a row: boxes in each zone, and how often each line was crossed."""
        inside = {zone.name: Field(t="i64", unit="1", desc="boxes in the zone") for zone in self._zones}
        crossed = {
            f"{line.name}_{way}": Field(t="i64", unit="1", desc="crossings since the start of the agent")
            for line in self._lines
            for way in line.crossed
        }
        return {**inside, **crossed}

    def go_on(self, other: Scene) -> None:
        """Go on with the tracks of the model before, and with its zones and lines that are the same."""
        if self._tracker is not None and other._tracker is not None:
            self._tracker.go_on(other._tracker)
        zones = {each.name: each for each in other._zones}
        lines = {each.name: each for each in other._lines}
        for zone in self._zones:
            if (old := zones.get(zone.name)) is not None and old.config == zone.config:
                zone.inside = old.inside
        for line in self._lines:
            if (before := lines.get(line.name)) is not None and before.config == line.config:
                line.last, line.crossed = before.last, before.crossed

    def apply(self, result: Result, at_ns: int) -> list[Happening]:
        """Leave out what is ignored, number the boxes, and add to the row; returns what has happened."""
        if self._ignore:
            self._leave_out(result)
        boxes = result.boxes
        tracks: Sequence[Track | None] = [None] * len(boxes)
        if self._tracker is not None:
            tracks = self._tracker.update(boxes, at_ns)
        anchors = self._anchors(boxes)
        happened: list[Happening] = []
        for zone in self._zones:
            happened += self._enter(zone, result, tracks, anchors)
        for line in self._lines:
            happened += self._cross(line, result, tracks, anchors)
        return happened

    def _leave_out(self, result: Result) -> None:
        """Remove boxes in an area that is ignored, and count again."""
        anchors = self._anchors(result.boxes)
        out = np.zeros(len(anchors), bool)
        for polygon in self._ignore:
            out |= inside(polygon, anchors)
        result.boxes = [box for box, gone in zip(result.boxes, out.tolist(), strict=True) if not gone]
        result.values["n"] = len(result.boxes)
        for name, label in self._counted.items():
            if name in result.values:
                result.values[name] = sum(box.label == label for box in result.boxes)
        result.alarm = any(box.label in self._alarms for box in result.boxes)
        if "alarm" in result.values:
            result.values["alarm"] = result.alarm
        top = result.boxes[0] if result.boxes else None
        result.top, result.score = (top.label, top.score) if top else ("", None)

    def _enter(
        self, zone: _Zone, result: Result, tracks: Sequence[Track | None], anchors: NDArray[np.float64]
    ) -> list[Happening]:
        """Count the boxes in a zone; those that entered or left it."""
        within = inside(np.array(zone.config.polygon, np.float64), anchors).tolist()
        now: dict[int, Box] = {}
        count = 0
        for box, track, is_in in zip(result.boxes, tracks, within, strict=True):
            if is_in and (not zone.config.labels or box.label in zone.config.labels):
                count += 1
                if track is not None and track.number:
                    now[track.number] = box
        result.values[zone.name] = count
        seen = {track.number for track in tracks if track is not None}
        hidden = {each.number for each in self._followed()} - seen  # a track out of sight has not left yet
        before, zone.inside = zone.inside, now | {n: box for n, box in zone.inside.items() if n in hidden}
        entered = [box for number, box in now.items() if number not in before]
        left = [box for number, box in before.items() if number not in zone.inside]
        happened = [Happening("zone-enter", zone.name, entered), Happening("zone-leave", zone.name, left)]
        return [each for each in happened if each.boxes]

    def _cross(
        self, line: _Line, result: Result, tracks: Sequence[Track | None], anchors: NDArray[np.float64]
    ) -> list[Happening]:
        """Count what crossed a line: `in` from the right of its direction to the left."""
        start, end = line.config.start, line.config.end
        crossed: dict[str, list[Box]] = {way: [] for way in line.crossed}
        for box, track, (x, y) in zip(result.boxes, tracks, anchors.tolist(), strict=True):
            if track is None or (line.config.labels and box.label not in line.config.labels):
                continue
            now = side(start, end, (x, y))
            if now == 0:
                continue  # on the line: wait until it is beside it
            before = line.last.setdefault(track.key, (x, y))
            if not track.number:
                continue  # it may be noise: its way counts from where it was first
            line.last[track.key] = (x, y)
            if (side(start, end, before) > 0) == (now > 0):
                continue
            if side(before, (x, y), start) * side(before, (x, y), end) <= 0:
                crossed["in" if now < 0 else "out"].append(box)
        alive = {track.key for track in self._followed()}
        line.last = {key: at for key, at in line.last.items() if key in alive}
        happened = []
        for way, boxes in crossed.items():
            line.crossed[way] += len(boxes)
            result.values[f"{line.name}_{way}"] = line.crossed[way]
            if boxes:
                happened.append(Happening(f"line-{way}", line.name, boxes))
        return happened

    def _followed(self) -> Sequence[Track]:
        return self._tracker.tracks if self._tracker is not None else ()

    def _anchors(self, boxes: Sequence[Box]) -> NDArray[np.float64]:
        """The point of each box that counts: the middle of its lower edge, or its centre."""
        down = 1.0 if self._foot else 0.5
        points = [(box.box[0] + box.box[2] / 2, box.box[1] + box.box[3] * down) for box in boxes]
        return np.array(points, np.float64).reshape(-1, 2)


def scene_mismatch(manifest: Manifest, config: SlotConfig) -> str:
    """Why a slot cannot follow what a model with this manifest finds; "" when it can."""
    scene = config.scene(manifest.output)
    if not scene.used:
        return ""
    if config.crops is not None:
        return (
            f"track, zones, lines and ignore belong to the slot {config.crops.of}, whose crops this one sees"
        )
    if manifest.decoder != "detection":
        return f"track, zones, lines and ignore need a detector, not {manifest.name} ({manifest.decoder})"
    for path, why in manifest.output.scene_mistakes(scene):
        return f"{'.'.join(map(str, path))}: {why} (model {manifest.name})"
    return ""


def areas(scene: SceneOptions) -> list[Area]:
    """The zones and lines of a slot, for who looks at its pictures."""
    zones = [Area(name=name, kind="zone", points=list(zone.polygon)) for name, zone in scene.zones.items()]
    lines = [
        Area(name=name, kind="line", points=[line.start, line.end]) for name, line in scene.lines.items()
    ]
    return zones + lines


def side(start: Point, end: Point, point: Point) -> float:
    """On which side of a line a point is: above 0 to the right of its direction in a picture, 0 on it."""
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])


def inside(polygon: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points are in a polygon: those from which a ray crosses its edges an odd number of times."""
    x, y = points[:, :1], points[:, 1:]
    x0, y0 = polygon.T
    x1, y1 = np.roll(polygon, -1, axis=0).T
    spans = (y0 > y) != (y1 > y)
    rise = np.where(y1 == y0, 1.0, y1 - y0)
    crossed: NDArray[np.bool_] = spans & (x < (x1 - x0) * (y - y0) / rise + x0)
    return np.asarray(crossed.sum(axis=1) % 2 == 1)
