"""The driving of a delivery round from traffic light to traffic light: speeds, waits, and hard manoeuvres.

The round is a closed loop of roads. Each road has its own stretch of time, which begins and ends at
standstill at a known place. So any stretch is computed without those before it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.plants.roads import ROADS, Floats, loop

RATE_HZ = 10
ROUNDS = 7  # driven between two stays at the charger
CHARGING = 15  # stretches of standing at the charger after them
SHIFT = ROADS * ROUNDS + CHARGING  # stretches
STRETCH = 120 * RATE_HZ  # samples from light to light on average

Manoeuvre = Literal["brake", "acceleration", "cornering"]
LABEL: dict[Manoeuvre, int] = {"brake": 1, "acceleration": 2, "cornering": 3}


class ManoeuvreRequest(NamedTuple):
    """A hard manoeuvre that the driver does as soon as the car and the road allow it."""

    at: int  # sample
    kind: Manoeuvre
    size: float  # 1: hard enough for a warning to the driver


class Drive(NamedTuple):
    """One stretch of driving, sample by sample, each (n,)."""

    speed: Floats  # m/s
    acceleration: Floats  # m/s2
    along: Floats  # m from the beginning of the road
    swerve: Floats  # rad/s of yaw that does not come from the road
    label: NDArray[np.int64]


@lru_cache(maxsize=4096)
def border(seed: int, stretch: int) -> int:
    """The sample at which a stretch begins; the time between two lights varies by up to 20 s."""
    if stretch % SHIFT == 0 or stretch % SHIFT >= SHIFT - CHARGING:
        return stretch * STRETCH
    return stretch * STRETCH + int(np.random.default_rng([seed, 5, stretch]).integers(-100, 101))


def stretch_at(seed: int, index: int) -> int:
    """The stretch that contains a sample."""
    guess = index // STRETCH
    if index < border(seed, guess):
        return guess - 1
    return guess + 1 if index >= border(seed, guess + 1) else guess


def drive(seed: int, stretch: int, wanted: tuple[ManoeuvreRequest, ...]) -> Drive:
    """The samples of one stretch. A request changes no sample before its own.

    A request that is too late for this side of the next light is done after it: pass it to both stretches.
    """
    begin, end = border(seed, stretch), border(seed, stretch + 1)
    n = end - begin
    if stretch % SHIFT >= SHIFT - CHARGING:
        still = np.zeros(n)
        return Drive(still, still, still, still, np.zeros(n, np.int64))
    plan = _plan(seed, stretch, n)
    earliest = _last_chance(seed, stretch - 1) if stretch else 0
    latest = _last_chance(seed, stretch)
    for request in sorted((*_by_nature(seed, stretch, n), *wanted)):
        if earliest <= request.at < latest:
            plan.insert(request, max(0, request.at - begin), n)
    return plan.samples(n)


@lru_cache(maxsize=512)
def _last_chance(seed: int, stretch: int) -> int:
    """The sample after which the car only rolls up to its light, even without a request."""
    begin, n = border(seed, stretch), border(seed, stretch + 1) - border(seed, stretch)
    if stretch % SHIFT >= SHIFT - CHARGING:
        return begin
    driven = _plan(seed, stretch, n)
    return begin + int(driven.phases[-2].start * RATE_HZ) - 3 * RATE_HZ


def _by_nature(seed: int, stretch: int, n: int) -> list[ManoeuvreRequest]:
    """The hard manoeuvres of this driver without a request: 2 to 16 an hour."""
    per_hour = np.random.default_rng([seed, 6]).uniform(2, 16)
    rng = np.random.default_rng([seed, 7, stretch])
    out = []
    for _ in range(rng.poisson(per_hour * n / RATE_HZ / 3600)):
        kind: Manoeuvre = ("brake", "acceleration", "cornering")[rng.integers(3)]
        out.append(
            ManoeuvreRequest(
                border(seed, stretch) + int(rng.integers(0, 80 * RATE_HZ)), kind, rng.uniform(0.8, 1.3)
            )
        )
    return out


# --- driving ------------------------------------------------------------------------------------------------

_BRISK = 0.06  # share of the ordinary manoeuvres that are almost hard ones
_SWERVE_S = 2.2


class _Ahead(NamedTuple):
    """What comes next on the road: a curve to take at a speed, or a light to stop at."""

    begin: float  # m
    end: float
    speed: float  # m/s
    wait: float  # s, at a light
    accelerate: float  # m/s2 on average on the way there
    brake: float
    dip: float  # share of the cruising speed that is left half way, because of the traffic
    label: int = 0  # of the curve


class _Phase(NamedTuple):
    """A smooth step from one speed to another."""

    kind: Literal["accelerate", "cruise", "brake", "curve", "wait", "hard"]
    start: float  # s
    seconds: float
    before: float  # m/s
    after: float
    along: float  # m where it begins
    label: int = 0
    swerve: float = 0.0  # rad/s at most


class _RoadPlan:
    """The phases of one road, front to back."""

    def __init__(self, ahead: list[_Ahead], limit: float, leave: float) -> None:
        self.ahead = ahead
        self.limit = limit
        self.phases = [_Phase("wait", 0.0, leave, 0.0, 0.0, 0.0)]
        self._continue(leave, 0.0, 0.0)

    def insert(self, request: ManoeuvreRequest, earliest: int, n: int) -> None:
        """Add a hard manoeuvre at the first sample that allows it, if there is room and time."""
        free, speed, room = self._room(n)
        lowest, highest = (4.0, 17.0) if request.kind == "acceleration" else (8.0, 99.0)  # m/s
        fits = free & (room > _need(request, speed)) & (speed >= lowest) & (speed <= highest)
        fits[:earliest] = False
        if not fits.any():
            return
        at = int(np.argmax(fits))
        kept = self.phases
        state = self.samples(n)
        t, v, s = at / RATE_HZ, float(state.speed[at]), float(state.along[at])
        self.phases = [phase for phase in kept if phase.start < t]
        self._manoeuvre(request, t, v, s)
        if self._end() > n / RATE_HZ - 2:
            self.phases = kept  # the car would not reach the next light in time

    def samples(self, n: int) -> Drive:
        t = np.arange(n) / RATE_HZ
        start, seconds, before, after, along, label, swerve = (
            np.array([phase[field] for phase in self.phases], np.float64) for field in range(1, 8)
        )
        at = np.searchsorted(start, t, side="right") - 1
        u = np.clip((t - start[at]) / seconds[at], 0.0, 1.0)
        change = after[at] - before[at]
        speed = before[at] + change * u**2 * (3 - 2 * u)
        acceleration = change * 6 * u * (1 - u) / seconds[at]
        way = along[at] + seconds[at] * (before[at] * u + change * (u**3 - u**4 / 2))
        return Drive(speed, acceleration, way, swerve[at] * np.sin(2 * np.pi * u), label[at].astype(np.int64))

    def _room(self, n: int) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """Per sample: whether a manoeuvre may begin, the speed (m/s), and the metres that are clear."""
        state = self.samples(n)
        at = np.searchsorted([phase.start for phase in self.phases], np.arange(n) / RATE_HZ, side="right") - 1
        free = np.array([phase.kind in ("accelerate", "cruise") for phase in self.phases])[at]
        # a curve or a light that the car has reached is not ahead any more
        begins = np.array([each.begin for each in self.ahead])
        targets = np.array([each.speed for each in self.ahead])
        coming = np.minimum(np.searchsorted(begins, state.along + 1e-6), len(begins) - 1)
        slowing = np.maximum(0.0, state.speed**2 - targets[coming] ** 2) / (2 * 1.4)
        return free, state.speed, begins[coming] - state.along - slowing

    def _manoeuvre(self, request: ManoeuvreRequest, t: float, v: float, s: float) -> None:
        label, size = LABEL[request.kind], request.size
        if request.kind == "brake":
            seconds = min(2.2, 0.85 * v / (3.4 * size))
            slow = v - 3.4 * size * seconds
            t, s = self._add("hard", t, seconds, v, slow, s, label)
            t, s = self._add("cruise", t, 1.5, slow, slow, s)
            v = slow
        elif request.kind == "acceleration":
            fast = v + float(_rise(np.array(v), size))
            t, s = self._add("hard", t, 2.0, v, fast, s, label)
            v = fast
        else:
            self.phases.append(
                _Phase("hard", t, _SWERVE_S, v, v, s, label, 4.6 * size / v)  # 4.6 m/s2 to the side
            )
            t, s = t + _SWERVE_S, s + v * _SWERVE_S
        self._continue(t, v, s)

    def _continue(self, t: float, v: float, s: float) -> None:
        """Drive on from here through everything ahead."""
        for each in self.ahead:
            if each.begin < s - 1e-6:
                continue
            t, v, s = self._approach(each, t, v, s)
            if each.wait:
                t, s = self._add("wait", t, each.wait, 0.0, 0.0, s)
            elif each.end > each.begin:
                t, s = self._add("curve", t, (each.end - each.begin) / v, v, v, s, each.label)

    def _approach(self, each: _Ahead, t: float, v: float, s: float) -> tuple[float, float, float]:
        a, b, target = each.accelerate, each.brake, each.speed
        if v > self.limit:  # too fast after a hard acceleration
            t, s = self._add("cruise", t, (v - self.limit) / 0.8, v, self.limit, s)
            v = self.limit
        clear = each.begin - s
        top = np.sqrt((clear + v * v / (2 * a) + target * target / (2 * b)) / (1 / (2 * a) + 1 / (2 * b)))
        top = float(min(self.limit, max(top, v)))
        target = min(target, top)
        label = LABEL["acceleration"] if a > 2.0 else 0
        if top - v > 0.05:
            t, s = self._add("accelerate", t, (top - v) / a, v, top, s, label)
        braking = max(each.begin - s, 0.1) if top > target else 0.0
        braking = min(braking, (top * top - target * target) / (2 * b))
        t, s = self._cruise(each, t, top, s, each.begin - s - braking)
        if braking:
            t, s = self._add("brake", t, 2 * braking / (top + target), top, target, s)
        return t, target, s

    def _cruise(self, each: _Ahead, t: float, v: float, s: float, metres: float) -> tuple[float, float]:
        if metres < 0.05:
            return t, s
        if metres < 6 * v:
            return self._add("cruise", t, metres / v, v, v, s)
        half = metres / (v * (1 + each.dip))
        t, s = self._add("cruise", t, half, v, v * each.dip, s)
        return self._add("cruise", t, half, v * each.dip, v, s)

    def _add(
        self,
        kind: Literal["accelerate", "cruise", "brake", "curve", "wait", "hard"],
        t: float,
        seconds: float,
        before: float,
        after: float,
        s: float,
        label: int = 0,
    ) -> tuple[float, float]:
        self.phases.append(_Phase(kind, t, seconds, before, after, s, label))
        return t + seconds, s + seconds * (before + after) / 2

    def _end(self) -> float:
        return self.phases[-1].start


def _need(request: ManoeuvreRequest, speed: Floats) -> Floats:
    """The metres that a manoeuvre needs, with a margin."""
    if request.kind == "acceleration":
        faster = speed + _rise(speed, request.size)
        return 2.0 * faster + (faster**2 - speed**2) / (2 * 1.4) + 15
    return speed * 4.0 + 10


def _rise(speed: Floats, size: float) -> Floats:
    """m/s gained in two seconds: the request, limited by about 75 W/kg."""
    return np.minimum(5.2 * size, 100.0 / (speed + 2.6))


def _plan(seed: int, stretch: int, n: int) -> _RoadPlan:
    """The plan of this road at this time, without requests."""
    road = loop(seed).roads[stretch % SHIFT % ROADS]
    rng = np.random.default_rng([seed, 8, stretch])
    style = np.random.default_rng([seed, 9]).uniform(0.85, 1.1)  # of the driver
    red, wait, leave = rng.random() < 0.5, rng.uniform(3, 12), rng.uniform(0.5, 2.5)
    limit = road.limit * rng.uniform(0.88, 1.04)
    hasty = rng.random() < 0.02
    places = [(road.curve[0], road.curve[1], 0.0)]
    if red:
        places.append((road.light, road.light, wait))
    places.sort()
    ahead = []
    for begin, end, stands in [*places, (road.length, road.length, 999.0)]:
        accelerate, brake = style * rng.uniform(0.8, 1.35), style * rng.uniform(0.85, 1.5)
        brisk, jolt, dip = rng.random(2) < _BRISK, rng.random() < 0.02, rng.uniform(0.8, 1.0)
        accelerate = 2.5 * rng.uniform(0.9, 1.2) if jolt else accelerate * (1.3 if brisk[0] else 1.0)
        brake *= 1.35 if brisk[1] else 1.0
        speed, label = _cornering(rng, road.curvature, limit, hasty) if not stands else (0.0, 0)
        ahead.append(_Ahead(begin, end, speed, stands, accelerate, brake, dip, label))
    plan = _RoadPlan(ahead, limit, leave)
    if plan._end() > n / RATE_HZ - 12 and red:  # no time to wait: the light is green
        plan = _RoadPlan([each for each in ahead if not 0 < each.wait < 900], limit, leave)
    return plan


def _cornering(rng: np.random.Generator, curvature: float, limit: float, hasty: bool) -> tuple[float, int]:
    """The speed through a curve in m/s, and the label of that speed."""
    calm, hard = np.sqrt(np.array([rng.uniform(1.2, 2.6), rng.uniform(4.2, 5.4)]) / curvature)
    if hasty and hard < limit:
        return float(hard), LABEL["cornering"]
    return float(min(calm, limit)), 0
