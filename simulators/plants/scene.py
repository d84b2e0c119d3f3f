"""A seeded street with ground truth: every picture is a pure function of (seed, index)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from simulators.plants.scenery import KERB_FAR, KERB_NEAR, Colour, Light, Picture, PinholeCamera, backdrop
from simulators.plants.traffic import SIZE, Post, StreetVehicle, Walker

LABELS = ("person", "car", "bus")
Thing = StreetVehicle | Walker | Post
Truth = list[tuple[str, float, float, float, float]]

_MIN_PX = 9.0  # of height at 480 lines: smaller things cannot be recognised
_MIN_SEEN = 0.35  # share of a thing's box that must be inside the picture and not hidden by nearer things
_LARGE = 0.02  # share of the picture that is enough for a thing that is mostly outside

# One cycle of the traffic light: cars roll `_SLOTS` places forward, then stand while people cross.
_GREEN_S, _RED_S = 9.0, 7.5
_CYCLE_S = _GREEN_S + _RED_S
_SLOTS = 5
_SLOT_M = 13.5  # distance between places in a lane: a place is empty, a car, a van or a bus
_LANES = ((KERB_NEAR + 2.0, 1), (KERB_FAR - 2.0, -1))  # z of the lane's middle, direction of travel
_STOP_M = 4.4  # from the middle of the crossing to the first car's bumper


class Scene:
    """One street, one hour, one weather.

    `frame(i)` takes about 2 ms at 640x480. A picture does not depend on others: any index may be drawn in any
    order and from any thread.
    """

    def __init__(self, seed: int, width: int = 640, height: int = 480, fps: float = 10.0) -> None:
        if not (64 <= width <= 4096 and 64 <= height <= 4096):
            raise ValueError(f"a scene of {width}x{height} px; 64 to 4096 are possible")
        if not fps > 0:
            raise ValueError(f"a scene at {fps} frames a second; above 0 is possible")
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        rng = np.random.default_rng([seed & 0xFFFF_FFFF, 0xED6E])
        self.light = Light.draw(rng)
        self.camera = PinholeCamera(
            width=width,
            height=height,
            focal=height * rng.uniform(0.92, 1.12),
            horizon=height * rng.uniform(0.17, 0.27),
            high=rng.uniform(4.6, 6.6),
            at_x=0.0,
            yaw=rng.uniform(-0.42, 0.42),
        )
        self._crossing_x = 12.0 * math.tan(self.camera.yaw) + rng.uniform(-3.5, 3.5)
        self._busy = rng.uniform(0.35, 0.85)  # how full the lanes are
        self._start_s = rng.uniform(0, 10_000)
        self._walkers = int(rng.integers(3, 10))
        self._posts = _posts(rng, self._crossing_x)
        self._plain = backdrop(self.camera, self.light, self._crossing_x, rng)
        self._shaded = (self._plain * (1 - self.light.shadow)).astype(np.uint8)
        self._film = _Film(rng, self.light, width, height)

    def frame(self, index: int) -> Picture:
        """Picture `index` (height, width, 3), BGR, with the number burnt in; a fresh array each time."""
        things = self._things(index)
        canvas = self._plain.copy()
        mask = np.zeros(canvas.shape[:2], np.uint8)
        for thing in things:
            outline = self.camera.project(thing.shadow(self.light.sun))
            cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(outline).astype(np.int32)), 255)
        cv2.copyTo(self._shaded, mask, canvas)
        for thing in things:
            thing.paint_on(canvas, self.camera, self.light)
        self._film.expose(canvas, _dice(self.seed, 7, index))
        return stamp(canvas, index)

    def truth(self, index: int) -> Truth:
        """What can be seen in picture `index`: (label, x, y, w, h) in px, clipped to the picture.

        Left out are things lower than 9 px (at 480 lines), hidden by more than 65 %, or outside by more than
        65 % unless what is inside covers 2 % of the picture.
        """
        free = np.ones((math.ceil(self.height / 4), math.ceil(self.width / 4)), bool)
        found: Truth = []
        for thing in reversed(self._things(index)):  # near to far: nearer things take their place first
            outline = thing.outline(self.camera)
            (x0, y0), (x1, y1) = outline.min(axis=0), outline.max(axis=0)
            cx0, cy0 = max(0.0, x0), max(0.0, y0)
            cx1, cy1 = min(float(self.width), x1), min(float(self.height), y1)
            if cx1 - cx0 < 2 or cy1 - cy0 < 2:
                continue
            cell = free[int(cy0 // 4) : math.ceil(cy1 / 4), int(cx0 // 4) : math.ceil(cx1 / 4)]
            area = (cx1 - cx0) * (cy1 - cy0)
            inside = area / ((x1 - x0) * (y1 - y0))
            seen = float(cell.mean())
            cell[:] = False
            if isinstance(thing, Post) or cy1 - cy0 < _MIN_PX * self.height / 480:
                continue
            if seen >= _MIN_SEEN and (inside >= _MIN_SEEN or area > _LARGE * self.width * self.height):
                found.append((thing.label, float(cx0), float(cy0), float(cx1 - cx0), float(cy1 - cy0)))
        return found[::-1]

    def counts(self, index: int) -> dict[str, int]:
        """How many of each label `truth(index)` holds; every label is a key."""
        totals = dict.fromkeys(LABELS, 0)
        for label, *_ in self.truth(index):
            totals[label] += 1
        return totals

    @staticmethod
    def read_number(picture: Picture) -> int:
        """The number burnt into `picture`, also after JPEG or scaling.

        Raises:
            ValueError: there is no number, or its checksum is wrong.
        """
        return read_stamp(picture)

    # -- things and their places --------------------------------------------------------------------------

    def _things(self, index: int) -> list[Thing]:
        """Everything that may be in picture `index`, far to near."""
        at_s = self._start_s + index / self.fps
        things: list[Thing] = [
            *self._posts,
            *self._vehicles(at_s),
            *self._strollers(at_s),
            *self._crossers(at_s),
        ]
        ranked = [(self.camera.depth(thing.x, thing.z), thing) for thing in things if self._near(thing)]
        return [thing for _, thing in sorted(ranked, key=lambda pair: -pair[0])]

    def _near(self, thing: Thing) -> bool:
        """Whether the thing or its shadow may touch the picture."""
        camera = self.camera
        away = camera.depth(thing.x, thing.z)
        if away < 4.0:
            return False
        aside = (thing.x - camera.at_x) * math.cos(camera.yaw) - thing.z * math.sin(camera.yaw)
        reach = 7.0 if isinstance(thing, StreetVehicle) else 3.0
        return abs(aside) - reach < camera.width / 2 / camera.focal * away

    def _vehicles(self, at_s: float) -> Iterator[StreetVehicle]:
        cycle, phase = divmod(at_s, _CYCLE_S)
        rolled = (cycle + _ease(min(1.0, phase / _GREEN_S))) * _SLOTS
        braking = phase > _GREEN_S * 0.7
        first = math.floor(rolled)
        for lane, (z, heading) in enumerate(_LANES):
            # the first place at the red light has number `cycle * _SLOTS`; those ahead have passed
            for place in range(first - 6, first + 7):
                body = self._body(lane, place)
                if body is None:
                    continue
                length = SIZE[body][0]
                along = (rolled - place) * _SLOT_M - _STOP_M - length / 2
                yield StreetVehicle(
                    x=self._crossing_x + heading * along,
                    z=z + (_dice(self.seed, 11 + lane, place) - 0.5) * 0.5,
                    heading=heading,
                    body=body,
                    paint=_PAINTS[int(_dice(self.seed, 21 + lane, place) * len(_PAINTS))],
                    braking=braking,
                )

    def _body(self, lane: int, place: int) -> str | None:
        draw = _dice(self.seed, 31 + lane, place)
        if draw > self._busy:
            return None
        share = draw / self._busy
        return "bus" if share < 0.14 else "van" if share < 0.32 else "saloon"

    def _strollers(self, at_s: float) -> Iterator[Walker]:
        """People on the pavements: each person walks 70 m, then the next one begins."""
        span = 70.0
        for slot in range(self._walkers):
            speed = 0.9 + 0.8 * _dice(self.seed, 41, slot)
            heading = 1 if _dice(self.seed, 42, slot) < 0.5 else -1
            lap, walked = divmod(at_s * speed + _dice(self.seed, 43, slot) * span, span)
            if _dice(self.seed, 44, slot, int(lap)) < 0.15:
                continue
            far = _dice(self.seed, 45, slot, int(lap)) < 0.6
            z = (KERB_FAR + 0.8 if far else KERB_NEAR - 2.6) + 1.9 * _dice(self.seed, 46, slot, int(lap))
            yield self._walker(
                self._crossing_x + heading * (walked - span / 2), z, heading, (slot, int(lap)), walked
            )

    def _crossers(self, at_s: float) -> Iterator[Walker]:
        """People that reach the kerb when the cars stand, cross the street, and walk on."""
        cycle_now = math.floor(at_s / _CYCLE_S)
        for cycle in range(cycle_now - 1, cycle_now + 2):
            for person in range(int(_dice(self.seed, 51, cycle) * 6)):
                start = cycle * _CYCLE_S + _GREEN_S + 0.3 + 1.2 * _dice(self.seed, 52, cycle, person)
                walked = (at_s - start) * (1.45 + 0.25 * _dice(self.seed, 53, cycle, person))
                wide = KERB_FAR - KERB_NEAR
                if not -16.0 < walked < wide + 16.0:
                    continue
                from_near = _dice(self.seed, 54, cycle, person) < 0.5
                over = min(max(walked, 0.0), wide)
                z = KERB_NEAR + over if from_near else KERB_FAR - over
                side = -1 if _dice(self.seed, 55, cycle, person) < 0.5 else 1
                lane = (_dice(self.seed, 56, cycle, person) - 0.5) * 2.8
                # they come to the near kerb from one side and leave the far kerb to the other side
                along = -side * min(walked, 0.0) * -1 + side * max(walked - wide, 0.0)
                z += (-0.6 if from_near else 0.6) * (walked < 0) + (0.6 if from_near else -0.6) * (
                    walked > wide
                )
                yield self._walker(self._crossing_x + lane + along, z, side, (100 + person, cycle), walked)

    def _walker(self, x: float, z: float, heading: int, key: tuple[int, int], walked: float) -> Walker:
        pick = [_dice(self.seed, 61 + i, *key) for i in range(5)]
        tall = 1.1 if pick[0] < 0.07 else 1.56 + 0.3 * pick[0]
        return Walker(
            x=x,
            z=z,
            heading=heading,
            tall=tall,
            top=_COATS[int(pick[1] * len(_COATS))],
            legs=_TROUSERS[int(pick[2] * len(_TROUSERS))],
            skin=_SKINS[int(pick[3] * len(_SKINS))],
            stride=walked * 2.3 / tall * 1.7 + pick[4] * 6.28,
            umbrella=self.light.weather == "rain" and pick[4] < 0.6,
        )


def _colours(text: str) -> tuple[Colour, ...]:
    """Hexadecimal RRGGBB words as blue, green, red."""
    return tuple(
        (float(int(word[4:], 16)), float(int(word[2:4], 16)), float(int(word[:2], 16)))
        for word in text.split()
    )


_PAINTS = _colours("e8e8e8 d2d0cd 484646 282626 929496 b02e34 2c5c96 3c785c d2963c 5a96be c85a28")
_COATS = _colours("2a2c30 284696 be3c3c dcaa46 cdc8c8 3c825a 8c3c96 e67828 747678 3ca0be")
_TROUSERS = _colours("28466e 2a2828 464a4e 96785a 5a323c")
_SKINS = _colours("deb496 c69678 a06e50 704834")


def _posts(rng: np.random.Generator, crossing_x: float) -> list[Post]:
    posts = []
    for side, z in ((1, KERB_FAR + 0.5), (-1, KERB_NEAR - 0.5)):
        for x in np.arange(-40, 41, rng.uniform(8.0, 13.0)):
            if side < 0 and rng.random() < 0.6:
                continue  # few on the near side, where they hide much
            if abs(x) > 3.2:
                tree = side > 0 and bool(
                    rng.random() < 0.7
                )  # a crown on the near side would hide half the street
                posts.append(
                    Post(crossing_x + float(x), z, float(rng.uniform(2.6, 3.8) if tree else 5.5), tree)
                )
    return posts


def _ease(share: float) -> float:
    """Start, roll, brake: 0..1 to 0..1 with flat ends."""
    return share * share * (3 - 2 * share)


def _dice(*key: int) -> float:
    """A fixed number in [0, 1) for a key: it makes a picture independent of the others."""
    state = 0x9E37_79B9_7F4A_7C15
    for part in key:
        state = (state ^ (part & 0xFFFF_FFFF_FFFF_FFFF)) * 0xBF58_476D_1CE4_E5B9 & 0xFFFF_FFFF_FFFF_FFFF
        state ^= state >> 29
    state = state * 0x94D0_49BB_1331_11EB & 0xFFFF_FFFF_FFFF_FFFF
    return ((state ^ (state >> 32)) & 0xFFFF_FFFF) / 2**32


class _Film:
    """Sensor noise, rain and snow: strips drawn once and shifted by a different amount for each picture."""

    def __init__(self, rng: np.random.Generator, light: Light, width: int, height: int) -> None:
        self._size = (width, height)
        sigma = rng.uniform(3.5, 6.0) if light.night else rng.uniform(1.2, 3.0)
        grain = rng.normal(0, sigma, (height + 64, width + 64, 3))
        self._plus = np.clip(grain, 0, 255).astype(np.uint8)
        self._minus = np.clip(-grain, 0, 255).astype(np.uint8)
        self._fall = _precipitation(rng, light.weather, width, height)

    def expose(self, canvas: Picture, luck: float) -> None:
        """Add this picture's noise and precipitation, in place."""
        width, height = self._size
        dx, dy = int(luck * 64), int(luck * 4096) % 64
        window = np.s_[dy : dy + height, dx : dx + width]
        if self._fall is not None:
            shift = int(luck * 65536) % height
            cv2.add(canvas, self._fall[shift : shift + height, dx : dx + width], dst=canvas)
        cv2.add(canvas, self._plus[window], dst=canvas)
        cv2.subtract(canvas, self._minus[window], dst=canvas)


def _precipitation(rng: np.random.Generator, weather: str, width: int, height: int) -> Picture | None:
    if weather not in ("rain", "snow"):
        return None
    strip = np.zeros((height * 2, width + 64, 3), np.uint8)
    unit = height / 480
    for _ in range(420 if weather == "rain" else 500):
        x, y = int(rng.integers(0, width + 64)), int(rng.integers(0, height * 2))
        if weather == "rain":
            end = (x + int(2 * unit), y + int(rng.uniform(8, 20) * unit))
            cv2.line(strip, (x, y), end, (34, 32, 30), 1, cv2.LINE_AA)
        else:
            cv2.circle(
                strip, (x, y), max(1, round(rng.uniform(0.6, 1.8) * unit)), (90, 90, 90), -1, cv2.LINE_AA
            )
    return strip


# -- the number in the picture -----------------------------------------------------------------------------

# Two rows of 20 cells in the top left corner: 32 bits of number and 8 of checksum, black or white, inside a
# grey frame of one cell. A cell is 1/80 of the width, so that a scaled picture reads as well.
_CELLS, _ROWS, _MARGIN = 20, 2, 1


def stamp(picture: Picture, index: int) -> Picture:
    """Burn `index` (0 to 2**32 - 1) into the top left corner, as cells and digits; returns `picture`."""
    if not 0 <= index < 2**32:
        raise ValueError(f"number {index} cannot be burnt in; 0 to {2**32 - 1} can")
    cell = picture.shape[1] / 80
    right, low = round((_CELLS + 2 * _MARGIN) * cell), round((_ROWS + 2 * _MARGIN) * cell)
    picture[:low, :right] = 128
    for bit, (x0, y0, x1, y1) in zip(_bits(index), _cell_edges(cell), strict=True):
        picture[y0:y1, x0:x1] = 255 if bit else 0
    scale = picture.shape[1] / 640 * 0.5
    place = (right + round(cell), round(2.6 * cell))
    cv2.putText(
        picture, f"{index:08d}", place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA
    )
    return picture


def read_stamp(picture: Picture) -> int:
    """The number that `stamp` burnt in.

    Raises:
        ValueError: there is no number, or its checksum is wrong.
    """
    cell = picture.shape[1] / 80
    if picture.ndim != 3 or picture.shape[0] < (_ROWS + 2 * _MARGIN) * cell or cell < 2:
        raise ValueError(f"a picture of shape {picture.shape} is too small to carry a number")
    bits = []
    for x0, y0, x1, y1 in _cell_edges(cell):
        inset_x, inset_y = max(0, (x1 - x0) // 4), max(0, (y1 - y0) // 4)
        level = float(picture[y0 + inset_y : y1 - inset_y, x0 + inset_x : x1 - inset_x].mean())
        if 96 < level < 160:
            raise ValueError("this picture has no number burnt in")
        bits.append(level > 128)
    value = sum(bit << (31 - i) for i, bit in enumerate(bits[:32]))
    if bits != _bits(value):
        raise ValueError("the number in this picture has a wrong checksum")
    return value


def _bits(index: int) -> list[bool]:
    word = index << 8 | (zlib.crc32(index.to_bytes(4, "big")) & 0xFF)
    return [bool(word >> (39 - i) & 1) for i in range(40)]


def _cell_edges(cell: float) -> Iterator[tuple[int, int, int, int]]:
    for row in range(_ROWS):
        for column in range(_CELLS):
            x, y = (column + _MARGIN) * cell, (row + _MARGIN) * cell
            yield round(x), round(y), round(x + cell), round(y + cell)
