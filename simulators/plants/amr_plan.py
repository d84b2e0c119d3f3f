"""The plan of a mobile robot: jobs become missions of drives, turns and stands."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import numpy as np

_COLUMNS, _ROWS = 6, 4
DOCK = "dock"
# node id -> its place in the hall, m
GRID: dict[str, tuple[float, float]] = {
    DOCK: (-4.0, 0.0),
    **{f"n{column}{row}": (5.0 * column, 4.0 * row) for column in range(_COLUMNS) for row in range(_ROWS)},
}
MAP = "hall-1"

_SPEED, _ACCELERATION = 1.2, 0.5  # m/s, m/s2
_TURN, _TURN_UP = 0.8, 1.0  # rad/s, rad/s2
_PER_METRE, _PER_SECOND, _CHARGING = 0.02, 0.002, 0.05  # % of the battery
_LOW, _FULL = 30.0, 90.0  # %
_HANDLING_S = (6.0, 15.0)  # to load or unload
_IDLE_S = (2.0, 6.0)  # until the next order comes
_NEAR_M = 0.5  # how near the robot must stand to the first node of an order


@dataclass(frozen=True, slots=True)
class Job:
    """A route: nodes with their places in m; the robot stands at the first one."""

    order_id: str
    nodes: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class Leg:
    """A drive, a turn on the spot or a stand. `start_s` counts in the plan's time."""

    kind: Literal["drive", "turn", "stand"]
    start_s: float
    duration_s: float
    x: float
    y: float
    theta: float
    amount: float  # m or rad, signed
    reached: int
    charge: float  # % when it begins
    charging: bool = False


@dataclass(frozen=True, slots=True)
class Mission:
    """One order from its arrival until the next may come."""

    order_id: str
    own: bool  # from the seeded fleet control, not from outside
    nodes: tuple[tuple[str, float, float], ...]
    start_s: float
    end_s: float
    legs: tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the robot is in its plan; units as in `simulators.plants.amr.UNITS`."""

    x: float
    y: float
    theta: float
    vx: float
    omega: float
    charge: float
    driving: bool
    charging: bool
    reached: int
    distance: float


class Plan:
    """The missions of one robot in order, planned as far as needed."""

    def __init__(self, seed: int, fleet: bool) -> None:
        self._seed = seed
        self._fleet = fleet
        self._missions: list[Mission] = []
        self._ordered: list[tuple[float, Job]] = []  # by the time they came

    def order(self, job: Job, at_s: float) -> str:
        """Plan a job after the mission that runs at `at_s`. Returns why it is refused, or an empty text."""
        if any(known.order_id == job.order_id for _, known in self._ordered):
            return "this order is known already"
        if any(came >= at_s or self._begins(known) > at_s for came, known in self._ordered):
            return "another order waits already"
        running = [mission for mission in self._missions if mission.start_s <= at_s]
        x, y = _end(running[-1]) if running else GRID[DOCK]
        _, first_x, first_y = job.nodes[0]
        if math.hypot(first_x - x, first_y - y) > _NEAR_M:
            return "its first node is not where the robot will stand"
        self._missions = running
        self._ordered.append((at_s, job))
        return ""

    def at(self, at_s: float) -> tuple[Mission | None, Pose]:
        """The mission that runs or ran last (None before the first), and the pose."""
        while self._extend(at_s):
            pass
        mission = self._missions[max(0, bisect_right(self._missions, at_s, key=_starts) - 1)]
        leg = mission.legs[max(0, bisect_right(mission.legs, at_s, key=_starts) - 1)]
        return (mission if mission.order_id else None), _pose(leg, max(0.0, at_s - leg.start_s))

    def _begins(self, job: Job) -> float:
        return next((one.start_s for one in self._missions if one.order_id == job.order_id), math.inf)

    def _extend(self, at_s: float) -> bool:
        """Add one mission where the plan does not reach `at_s` yet."""
        last = self._missions[-1] if self._missions else _parked(self._seed)
        if not self._missions:
            self._missions.append(last)
        if last.end_s > at_s:
            return False
        done = {mission.order_id for mission in self._missions}
        waiting = [(came, job) for came, job in self._ordered if job.order_id not in done]
        if waiting:
            came, job = waiting[0]
            start_s = max(last.end_s, came)
            if start_s > at_s:
                return False
            self._missions.append(_mission(job, last, start_s, own=False))
            return True
        if not self._fleet:
            return False
        number = sum(mission.own for mission in self._missions)
        self._missions.append(_mission(_drawn(self._seed, number, last), last, last.end_s, own=True))
        return True


def _starts(one: Mission | Leg) -> float:
    return one.start_s


def _end(mission: Mission) -> tuple[float, float]:
    return mission.nodes[-1][1:]


def _parked(seed: int) -> Mission:
    """Before the first order: at the dock."""
    x, y = GRID[DOCK]
    charge = float(np.random.default_rng([seed, 1]).uniform(40.0, 90.0))
    stand = Leg("stand", 0.0, 2.0, x, y, 0.0, 0.0, 1, charge)
    return Mission("", False, ((DOCK, x, y),), 0.0, 2.0, (stand,))


def _drawn(seed: int, number: int, last: Mission) -> Job:
    """The fleet's next job: through the aisles to some node, or to the dock when the battery is low."""
    rng = np.random.default_rng([seed, 3, number])
    here = last.nodes[-1][0]
    stands = [name for name in GRID if name not in (DOCK, here)]
    there = DOCK if last.legs[-1].charge < _LOW and here != DOCK else str(rng.choice(stands))
    names = _aisles(here if here in GRID else _nearest(*_end(last)), there, bool(rng.integers(2)))
    nodes = tuple((name, *GRID[name]) for name in names)
    if here not in GRID:
        nodes = ((here, *_end(last)), *nodes)
    return Job(f"order-{seed}-{number + 1:05d}", nodes)


def _aisles(here: str, there: str, column_first: bool) -> list[str]:
    """The nodes from one to another: along one axis, then along the other."""
    path, at = [here], (0, 0) if here == DOCK else (int(here[1]), int(here[2]))
    if here == DOCK:
        path.append("n00")
    goal = (0, 0) if there == DOCK else (int(there[1]), int(there[2]))
    for axis in (0, 1) if column_first else (1, 0):
        while at[axis] != goal[axis]:
            step = 1 if goal[axis] > at[axis] else -1
            at = (at[0] + step, at[1]) if axis == 0 else (at[0], at[1] + step)
            path.append(f"n{at[0]}{at[1]}")
    return [*path, DOCK] if there == DOCK else path


def _nearest(x: float, y: float) -> str:
    return min((name for name in GRID if name != DOCK), key=lambda n: math.dist(GRID[n], (x, y)))


def _mission(job: Job, last: Mission, start_s: float, *, own: bool) -> Mission:
    rng = np.random.default_rng([len(job.nodes), *job.order_id.encode()])
    before = last.legs[-1]
    theta, charge = before.theta, _pose(before, before.duration_s).charge
    x, y = _end(last)
    legs: list[Leg] = []
    now_s = start_s

    def add(kind: Literal["drive", "turn", "stand"], duration_s: float, amount: float, reached: int) -> None:
        nonlocal now_s, charge
        docked = kind == "stand" and job.nodes[-1][0] == DOCK and reached == len(job.nodes)
        legs.append(Leg(kind, now_s, duration_s, x, y, theta, amount, reached, charge, docked))
        charge = _pose(legs[-1], duration_s).charge
        now_s += duration_s

    for reached, (_, to_x, to_y) in enumerate(job.nodes[1:], start=1):
        if (metres := math.hypot(to_x - x, to_y - y)) < 1e-6:
            continue
        turn = math.remainder(math.atan2(to_y - y, to_x - x) - theta, math.tau)
        if abs(turn) > 1e-6:
            add("turn", _duration(abs(turn), _TURN, _TURN_UP), turn, reached)
            theta += turn
        add("drive", _duration(metres, _SPEED, _ACCELERATION), metres, reached)
        x, y = to_x, to_y
    handling_s = float(rng.uniform(*_HANDLING_S))
    if job.nodes[-1][0] == DOCK:
        handling_s = max(handling_s, (_FULL - charge) / _CHARGING)
    add("stand", handling_s + float(rng.uniform(*_IDLE_S)), 0.0, len(job.nodes))
    return Mission(job.order_id, own, job.nodes, start_s, now_s, tuple(legs))


def _pose(leg: Leg, since_s: float) -> Pose:
    since_s = min(since_s, leg.duration_s) if leg.kind != "stand" else since_s
    x, y, theta, vx, omega, distance = leg.x, leg.y, leg.theta, 0.0, 0.0, 0.0
    if leg.kind == "drive":
        distance, vx = _trapezoid(leg.amount, _SPEED, _ACCELERATION, since_s)
        x, y = x + distance * math.cos(theta), y + distance * math.sin(theta)
    elif leg.kind == "turn":
        turned, speed = _trapezoid(abs(leg.amount), _TURN, _TURN_UP, since_s)
        theta, omega = theta + math.copysign(turned, leg.amount), math.copysign(speed, leg.amount)
    change = _CHARGING * since_s if leg.charging else -_PER_METRE * distance - _PER_SECOND * since_s
    charge = min(max(leg.charge + change, 5.0), 100.0)
    return Pose(x, y, theta, vx, omega, charge, leg.kind != "stand", leg.charging, leg.reached, distance)


def _duration(amount: float, speed: float, acceleration: float) -> float:
    if amount < speed**2 / acceleration:
        return 2 * math.sqrt(amount / acceleration)
    return amount / speed + speed / acceleration


def _trapezoid(amount: float, speed: float, acceleration: float, since_s: float) -> tuple[float, float]:
    """Distance and speed after a time, from standstill to standstill."""
    top = min(speed, math.sqrt(amount * acceleration))
    duration, ramp = _duration(amount, speed, acceleration), top / acceleration
    if since_s < ramp:
        return 0.5 * acceleration * since_s**2, acceleration * since_s
    left = duration - since_s
    if left < ramp:
        return amount - 0.5 * acceleration * left**2, acceleration * left
    return 0.5 * top * ramp + top * (since_s - ramp), top
