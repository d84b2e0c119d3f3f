"""Things in the street: painters for vehicles, people, trees and lamp posts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from simulators.plants.scenery import Colour, Light, Picture, PinholeCamera, Points

SHIFT = 3  # bits of sub-pixel precision in drawing calls: things move smoothly


def _poly(canvas: Picture, points: Points, colour: Colour) -> None:
    cv2.fillConvexPoly(canvas, np.rint(points * (1 << SHIFT)).astype(np.int32), colour, cv2.LINE_AA, SHIFT)


def _fixed(value: float) -> int:
    return round(value * (1 << SHIFT))


def _disc(canvas: Picture, x: float, y: float, radius: float, colour: Colour, *, flat: float = 1.0) -> None:
    axes = (max(1, _fixed(radius * flat)), max(1, _fixed(radius)))
    cv2.ellipse(canvas, (_fixed(x), _fixed(y)), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, SHIFT)


def _limb(canvas: Picture, a: tuple[float, float], b: tuple[float, float], thick: float, c: Colour) -> None:
    start, end = (_fixed(a[0]), _fixed(a[1])), (_fixed(b[0]), _fixed(b[1]))
    cv2.line(canvas, start, end, c, max(1, round(thick)), cv2.LINE_AA, SHIFT)


# fmt: off
# Silhouettes from the rear bumper (-0.5) to the front (+0.5) as (share of length, height in metres).
_SALOON = np.array([
    (-0.5, 0.3), (-0.5, 0.85), (-0.46, 0.95), (-0.34, 0.98), (-0.24, 1.42), (0.06, 1.45), (0.2, 0.98),
    (0.46, 0.82), (0.5, 0.6), (0.5, 0.3),
])
_VAN = np.array([
    (-0.5, 0.35), (-0.5, 1.95), (-0.47, 2.05), (0.22, 2.05), (0.36, 1.2), (0.48, 1.05), (0.5, 0.8),
    (0.5, 0.35),
])
_BUS = np.array([(-0.5, 0.4), (-0.5, 2.95), (-0.49, 3.05), (0.48, 3.05), (0.5, 2.9), (0.5, 0.4)])
_SIDE_GLASS = {
    "saloon": [
        np.array([(-0.31, 1.0), (-0.225, 1.36), (-0.09, 1.38), (-0.09, 1.0)]),
        np.array([(-0.07, 1.0), (-0.07, 1.38), (0.045, 1.38), (0.16, 1.0)]),
    ],
    "van": [np.array([(0.1, 1.2), (0.1, 1.8), (0.22, 1.8), (0.32, 1.2)])],
    "bus": [
        np.array([(x, 1.5), (x, 2.5), (x + 0.13, 2.5), (x + 0.13, 1.5)]) for x in np.arange(-0.46, 0.4, 0.155)
    ],
}
# fmt: on
_GLASS_EDGES = {"saloon": (3, 5), "van": (3,), "bus": (4,)}
_PROFILE = {"saloon": _SALOON, "van": _VAN, "bus": _BUS}
SIZE = {"saloon": (4.4, 1.8), "van": (5.2, 2.0), "bus": (10.5, 2.5)}  # length, width in metres


@dataclass(frozen=True, slots=True)
class _Shape:
    """A body's points as (share of length, height, share of width), in one array to project it at once."""

    points: Points
    profile: int  # how many points the silhouette has: near side first, then far side
    windows: tuple[slice, ...]
    hubs: slice
    front: slice
    rear: slice
    tops: tuple[float, ...]  # how bright each face between two silhouette points is; 0 is glass
    wheel_m: float


def _shape(body: str) -> _Shape:
    profile, glass = _PROFILE[body], _GLASS_EDGES[body]
    wheel = 0.48 if body == "bus" else 0.34
    parts = [_at_side(profile, -0.5), _at_side(profile, 0.5)]
    parts += [_at_side(window, -0.5) for window in _SIDE_GLASS[body]]
    parts += [_at_side(np.array([(-0.31, wheel), (0.31, wheel)]), -0.5)]
    parts += [np.array([(end, 0.7, -0.33), (end, 0.7, 0.33)]) for end in (0.5, -0.5)]
    ends = np.cumsum([len(part) for part in parts])
    slices = [slice(int(end) - len(part), int(end)) for end, part in zip(ends, parts, strict=True)]
    rises = np.abs(np.diff(profile[:, 1]))
    tops = tuple(0.0 if i in glass else 0.92 if rise > 0.15 else 1.12 for i, rise in enumerate(rises))
    hubs, front, rear = slices[-3:]
    return _Shape(np.vstack(parts), len(profile), tuple(slices[2:-3]), hubs, front, rear, tops, wheel)


def _at_side(outline: Points, side: float) -> Points:
    return np.hstack([outline, np.full((len(outline), 1), side)])


_SHAPES = {body: _shape(body) for body in _PROFILE}


@dataclass(frozen=True, slots=True)
class StreetVehicle:
    """A vehicle on a lane: `body` saloon, van or bus; `heading` +1 drives to rising x."""

    x: float
    z: float
    heading: int
    body: str
    paint: Colour
    braking: bool = False

    @property
    def label(self) -> str:
        """The class in the ground truth."""
        return "bus" if self.body == "bus" else "car"

    def outline(self, camera: PinholeCamera) -> Points:
        """Pixels of the silhouette's near and far edge, for the ground-truth box."""
        return self._pixels(camera)[: 2 * _SHAPES[self.body].profile]

    def _pixels(self, camera: PinholeCamera) -> Points:
        length, wide = SIZE[self.body]
        points = _SHAPES[self.body].points * (length * self.heading, 1.0, wide)
        points += (self.x, 0.0, self.z)
        return camera.project(points)

    def shadow(self, sun: tuple[float, float]) -> Points:
        """Ground points (n, 3) of the shadow's outline."""
        length, wide = SIZE[self.body]
        tall = 2.6 if self.body == "bus" else 1.3
        x0, x1, z0, z1 = self.x - length / 2, self.x + length / 2, self.z - wide / 2, self.z + wide / 2
        dx, dz = sun[0] * tall, sun[1] * tall
        base = [(x0, 0.0, z0), (x0, 0.0, z1), (x1, 0.0, z0), (x1, 0.0, z1)]
        return np.array(base + [(x + dx, 0.0, z + dz) for x, _, z in base])

    def paint_on(self, canvas: Picture, camera: PinholeCamera, light: Light) -> None:
        """Draw the faces that look at the camera from far to near, then the near side."""
        away = camera.depth(self.x, self.z)
        shape, pixels = _SHAPES[self.body], self._pixels(camera)
        fixed = np.rint(pixels * (1 << SHIFT)).astype(np.int32)
        near, far = fixed[: shape.profile], fixed[shape.profile : 2 * shape.profile]
        glass = light.on((98, 86, 71), away)
        for i, bright in enumerate(shape.tops):
            quad = np.array([near[i], near[i + 1], far[i + 1], far[i]])
            (ax, ay), (bx, by) = (quad[2] - quad[0]).tolist(), (quad[3] - quad[1]).tolist()
            if (ax * by - ay * bx) * self.heading < 0:  # it looks at the camera
                colour = light.on(self.paint, away, bright) if bright else glass
                cv2.fillConvexPoly(canvas, quad, colour, cv2.LINE_AA, SHIFT)
        cv2.fillPoly(canvas, [near], light.on(self.paint, away, 0.82), cv2.LINE_AA, SHIFT)
        for window in shape.windows:
            cv2.fillConvexPoly(canvas, fixed[window], glass, cv2.LINE_AA, SHIFT)
        radius = shape.wheel_m * camera.focal / away
        tyre, rim = light.on((34, 32, 32), away), light.on((150, 150, 150), away)
        for x, y in pixels[shape.hubs].tolist():
            _disc(canvas, x, y, radius, tyre, flat=0.92)
            _disc(canvas, x, y, radius * 0.5, rim, flat=0.92)
        self._lamps(canvas, camera, light, pixels)

    def _lamps(self, canvas: Picture, camera: PinholeCamera, light: Light, pixels: Points) -> None:
        shape, away = _SHAPES[self.body], camera.depth(self.x, self.z)
        towards = self.heading * (camera.at_x - self.x) > 0  # its front, not its rear, looks at the camera
        radius = max(0.8, 0.13 * camera.focal / away) * (1.5 if light.night else 1.0)
        if towards:
            colour: Colour = (215, 245, 255) if light.night else light.on((225, 228, 230), away)
        else:
            bright = light.night or self.braking
            colour = (40, 40, 235) if bright else light.on((40, 40, 170), away)
        for x, y in pixels[shape.front if towards else shape.rear].tolist():
            _disc(canvas, x, y, radius, colour)


@dataclass(frozen=True, slots=True)
class Walker:
    """A person: `stride` is the phase of the gait in radians, `heading` the sign of its motion on screen."""

    x: float
    z: float
    heading: int
    tall: float
    top: Colour
    legs: Colour
    skin: Colour
    stride: float
    umbrella: bool = False
    label: str = "person"

    def outline(self, camera: PinholeCamera) -> Points:
        """Pixels of the extreme points, for the ground-truth box; the umbrella does not count."""
        foot, scale = self._foot(camera)
        step = abs(math.sin(self.stride)) * 0.17 * self.tall
        half = max(0.15 * self.tall, step + 0.03 * self.tall) * scale
        corners: Points = foot + np.array([(-half, 0.0), (half, 0.0), (0.0, -self.tall * scale)])
        return corners

    def _foot(self, camera: PinholeCamera) -> tuple[Points, float]:
        return camera.project(np.array([(self.x, 0.0, self.z)]))[0], camera.focal / camera.depth(
            self.x, self.z
        )

    def shadow(self, sun: tuple[float, float]) -> Points:
        """Ground points (n, 3) of the shadow's outline."""
        half = 0.2
        base = np.array(
            [(self.x + dx, 0.0, self.z + dz) for dx in (-half, half) for dz in (-half / 2, half / 2)]
        )
        head = base + np.array((sun[0] * self.tall, 0.0, sun[1] * self.tall))
        return np.vstack([base, head])

    def paint_on(self, canvas: Picture, camera: PinholeCamera, light: Light) -> None:
        """Draw legs, arms, body and head, smallest things last."""
        (foot_x, foot_y), scale = self._foot(camera)
        x, y = float(foot_x), float(foot_y)
        away, unit = camera.depth(self.x, self.z), self.tall * scale  # px of the whole person
        swing = math.sin(self.stride) * 0.16 * unit
        hip, shoulder, heel = y - 0.47 * unit, y - 0.78 * unit, y - 0.02 * unit
        coat, arm, leg = light.on(self.top, away), 0.06 * unit, 0.085 * unit
        _limb(canvas, (x, hip), (x - swing, heel), leg, light.on(self.legs, away, 0.8))
        _limb(canvas, (x, shoulder), (x + swing * 0.7, hip), arm, light.on(self.top, away, 0.75))
        _limb(canvas, (x, hip), (x + swing, heel), leg, light.on(self.legs, away))
        _poly(canvas, _TORSO * (unit, -unit) + (x, y), coat)
        _limb(
            canvas, (x - 0.02 * unit, shoulder), (x - swing * 0.7, hip), arm, light.on(self.top, away, 0.88)
        )
        _disc(canvas, x, y - 0.915 * unit, 0.08 * unit, light.on(self.skin, away))
        hair = light.on((36, 40, 48), away)
        _disc(canvas, x - 0.015 * unit * self.heading, y - 0.945 * unit, 0.062 * unit, hair)
        if self.umbrella:
            centre, axes = (_fixed(x), _fixed(y - 1.02 * unit)), (_fixed(0.28 * unit), _fixed(0.17 * unit))
            dome = light.on(self.legs[::-1], away, 1.3)
            cv2.ellipse(canvas, centre, axes, 0, 180, 360, dome, -1, cv2.LINE_AA, SHIFT)


_TORSO = np.array([(-0.09, 0.82), (0.09, 0.82), (0.12, 0.72), (0.085, 0.47), (-0.085, 0.47), (-0.12, 0.72)])


@dataclass(frozen=True, slots=True)
class Post:
    """A tree or a lamp post: it has no label, but it hides what is behind it."""

    x: float
    z: float
    tall: float
    tree: bool

    def outline(self, camera: PinholeCamera) -> Points:
        """Pixels of the trunk, which hides people."""
        return camera.project(np.array([(self.x - 0.1, 0, self.z), (self.x + 0.1, self.tall, self.z)]))

    def shadow(self, sun: tuple[float, float]) -> Points:
        """Ground points (n, 3) of the shadow's outline."""
        base = np.array([(self.x + dx, 0.0, self.z) for dx in (-0.1, 0.1)])
        tip = base + np.array((sun[0] * self.tall, 0.0, sun[1] * self.tall))
        return np.vstack([base, tip])

    def paint_on(self, canvas: Picture, camera: PinholeCamera, light: Light) -> None:
        """Draw the trunk, then the crown or the lamp."""
        away = camera.depth(self.x, self.z)
        scale = camera.focal / away
        (fx, fy), (_, ty) = camera.project(np.array([(self.x, 0, self.z), (self.x, self.tall, self.z)]))
        bark = light.on((52, 66, 78) if self.tree else (96, 98, 98), away)
        _limb(canvas, (fx, fy), (fx, ty), (0.22 if self.tree else 0.12) * scale, bark)
        if not self.tree:
            _limb(canvas, (fx, ty), (fx + 0.9 * scale, ty), 0.08 * scale, bark)
            lamp: Colour = (170, 225, 250) if light.night else light.on((205, 205, 205), away)
            _disc(canvas, fx + 0.9 * scale, ty, 0.16 * scale, lamp, flat=1.8)
            return
        leaves = (225, 222, 220) if light.weather == "snow" else (58, 116, 78)
        for dx, dy, radius, bright in _CROWN:
            x, y = fx + dx * scale, ty + dy * scale
            _disc(canvas, x, y, radius * scale, light.on(leaves, away, bright))


# metres beside and below the top, radius, brightness
_CROWN = (
    (-0.7, 0.2, 0.9, 0.8),
    (0.7, 0.3, 0.85, 0.85),
    (0.0, 0.5, 1.0, 0.9),
    (0.0, -0.5, 1.0, 1.05),
    (-0.3, -0.3, 0.6, 1.2),
)
