"""A 6-axis cobot doing pick-and-place, as numbers: joint positions, velocities and torques at 50 Hz.

Every sample is a function of (seed, index, faults) alone: any block, at any clock rate and in any order, is
the same to the bit. The plant knows no protocol.

    tau = I(payload) qdd + gravity(q, payload) + Coulomb(qd) + viscous(qd, warm-up) + noise
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.faults.fault import Fault, FaultKind, FaultKinds, checked

RATE_HZ = 50
JOINTS = 6
SIGNALS: tuple[str, ...] = tuple(
    f"j{joint}_{quantity}"
    for joint in range(1, JOINTS + 1)
    for quantity in ("position", "velocity", "torque")
)
UNITS = {"position": "deg", "velocity": "deg/s", "torque": "N.m"}  # UCUM; OPC 40010 robots speak degrees

_JOINTS = tuple(str(joint) for joint in range(1, JOINTS + 1))
# the part is the joint; size 1 is a fault that a technician would notice
FAULTS: FaultKinds = {
    "friction": FaultKind("the friction of the joint is 1 + SIZE times as high", _JOINTS),
    "backlash": FaultKind("the joint has SIZE degrees of backlash, with a knock at each reversal", _JOINTS),
    "spike": FaultKind("torque spikes of 3 x SIZE times the joint's friction, about one a second", _JOINTS),
    "stuck-sensor": FaultKind("the position freezes and the velocity reads 0", _JOINTS),
}
FAULT_KINDS: tuple[str, ...] = tuple(FAULTS)

Floats = NDArray[np.float64]


class Cobot:
    """One robot. `seed` chooses its build within a maker's tolerances, its parts and its sensors' noise."""

    def __init__(self, seed: int, faults: Sequence[Fault] = ()) -> None:
        self.seed = seed
        self.faults: tuple[Fault, ...] = tuple(checked(fault, FAULTS) for fault in faults)

    def sample(self, index: int) -> dict[str, float]:
        """One sample by signal name; `index` counts from 0 at 50 Hz."""
        return dict(zip(SIGNALS, self.block(index, 1)[0].tolist(), strict=True))

    def block(self, start: int, n: int) -> Floats:
        """Samples `start .. start+n-1` as an (n, 18) array in the order of `SIGNALS`; deg, deg/s, N.m."""
        if start < 0 or n < 0:
            raise ValueError(f"samples {start} to {start + n} do not exist: they count from 0")
        index = np.arange(start, start + n)
        motion = self._motion(index)
        noise = _noise(self.seed, start, n)
        torque = _torque(motion, index / RATE_HZ, _build(self.seed))
        position, velocity = motion.q.copy(), motion.qd.copy()
        for fault in self.faults:
            self._apply(fault, index, motion, position, velocity, torque)
        out = np.stack(
            [
                position + _POSITION_NOISE * noise[:, 0],
                velocity + _VELOCITY_NOISE * noise[:, 1],
                torque + _TORQUE_NOISE * noise[:, 2],
            ],
            axis=2,
        )
        self._freeze(index, out)
        return out.reshape(n, 3 * JOINTS)

    def payload(self, start: int, n: int) -> Floats:
        """Kilograms at the tool, shape (n,): a calibration run knows them, the signals do not show them."""
        return self._motion(np.arange(start, start + n)).payload

    def labels(self, start: int, n: int) -> NDArray[np.int64]:
        """Ground truth per sample, shape (n,): the faulty joint 1..6, or 0 for a healthy robot."""
        truth = np.zeros(n, dtype=np.int64)
        index = np.arange(start, start + n)
        for fault in self.faults:
            truth[_active(fault, index)] = int(fault.part)
        return truth

    def _motion(self, index: NDArray[np.int64]) -> _Motion:
        cycles = index // _CYCLE
        parts = []
        for cycle in np.unique(cycles):
            within = (index[cycles == cycle] - cycle * _CYCLE) / _CYCLE
            parts.append(_cycle(self.seed, int(cycle)).at(within))
        if not parts:
            none = np.zeros((0, JOINTS))
            return _Motion(none, none, none, none, none, np.zeros(0))
        return _Motion(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def _apply(
        self,
        fault: Fault,
        index: NDArray[np.int64],
        motion: _Motion,
        position: Floats,
        velocity: Floats,
        torque: Floats,
    ) -> None:
        on, joint = _active(fault, index), int(fault.part)
        j = joint - 1
        if not on.any():
            return
        if fault.kind == "friction":
            torque[on, j] += fault.size * _friction(motion.qd[on], _build(self.seed))[:, j]
        elif fault.kind == "backlash":
            since = motion.since_reversal[on, j]
            ring = np.exp(-since / 0.08) * np.cos(2 * np.pi * 11.0 * since)
            position[on, j] -= 0.5 * fault.size * motion.direction[on, j]
            torque[on, j] += 2.5 * fault.size * _COULOMB[j] * ring * motion.direction[on, j]
        elif fault.kind == "spike":
            hits = _spikes(self.seed, joint, int(index[0]), len(index))[on]
            torque[on, j] += 3.0 * fault.size * _COULOMB[j] * hits
            velocity[on, j] += 4.0 * fault.size * hits

    def _freeze(self, index: NDArray[np.int64], out: Floats) -> None:
        # last: a frozen sensor shows neither noise nor another fault
        for at, fault in enumerate(self.faults):
            on = _active(fault, index)
            if fault.kind != "stuck-sensor" or not on.any():
                continue
            others = Cobot(self.seed, (*self.faults[:at], *self.faults[at + 1 :]))
            first, j = int(np.ceil(fault.start_s * RATE_HZ)), int(fault.part) - 1
            out[on, j, 0] = others.block(first, 1)[0, 3 * j]
            out[on, j, 1] = 0.0


# --- the robot's build: about a 5 kg cobot of 0.85 m reach --------------------------------------------------

_COULOMB = np.array([9.0, 10.0, 7.0, 2.2, 2.0, 1.6])  # N.m
_VISCOUS = np.array([0.16, 0.18, 0.12, 0.030, 0.028, 0.022])  # N.m per deg/s
_INERTIA = np.array([2.4, 2.6, 1.1, 0.11, 0.09, 0.03])  # kg.m2 about each axis, unloaded
_REACH2 = np.array([0.45, 0.50, 0.20, 0.012, 0.010, 0.002])  # m2: inertia that a kilogram at the tool adds
_STICTION = 1.5  # deg/s over which Coulomb friction changes its sign
_WARM_UP_S = 900.0  # the grease warms up: viscous friction starts 25 % higher

_POSITION_NOISE = 0.002  # deg
_VELOCITY_NOISE = 0.06  # deg/s
_TORQUE_NOISE = np.array([0.45, 0.50, 0.35, 0.10, 0.09, 0.07])  # N.m


class _Build(NamedTuple):
    """How one robot differs from its design; each (6,), 1 is as designed."""

    coulomb: Floats
    viscous: Floats
    mass: Floats
    bias: Floats  # N.m, of the torque sensors


@lru_cache(maxsize=16)
def _build(seed: int) -> _Build:
    rng = np.random.default_rng([seed, 4])
    return _Build(
        rng.uniform(0.9, 1.1, JOINTS),
        rng.uniform(0.85, 1.15, JOINTS),
        rng.uniform(0.97, 1.03, JOINTS),
        rng.normal(0.0, 0.02, JOINTS) * _COULOMB,
    )


def _friction(qd: Floats, build: _Build) -> Floats:
    out: Floats = build.coulomb * _COULOMB * np.tanh(qd / _STICTION) + build.viscous * _VISCOUS * qd
    return out


def _gravity(q: Floats, payload: Floats) -> Floats:
    """Joint torques holding the arm and `payload` kg at the tool, N.m."""
    g = 9.81
    upper, fore, wrist = np.radians(q[:, 1]), np.radians(q[:, 1] + q[:, 2]), np.radians(q[:, 1:4].sum(axis=1))
    tool = payload + 0.9  # the gripper
    out = np.zeros_like(q)
    at_wrist = 0.09 * tool * g * np.cos(wrist)
    at_elbow = (2.2 * 0.17 + (1.6 + tool) * 0.39) * g * np.cos(fore) + at_wrist
    out[:, 1] = (7.0 * 0.21 + (3.8 + tool) * 0.425) * g * np.cos(upper) + at_elbow
    out[:, 2] = at_elbow
    out[:, 3] = at_wrist
    out[:, 4] = 0.05 * tool * g * np.sin(np.radians(q[:, 4])) * np.sin(wrist)
    return out


def _torque(motion: _Motion, seconds: Floats, build: _Build) -> Floats:
    payload = motion.payload
    inertia = build.mass * _INERTIA + payload[:, None] * _REACH2
    cold = 0.25 * np.exp(-seconds / _WARM_UP_S)[:, None] * _VISCOUS * motion.qd
    weight = build.mass * _gravity(motion.q, payload)
    out: Floats = inertia * np.radians(motion.qdd) + weight + _friction(motion.qd, build) + cold + build.bias
    return out


# --- the job ------------------------------------------------------------------------------------------------

_CYCLE = 6 * RATE_HZ  # samples: a part every six seconds
_HOME = np.array([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])
_OVER_PICK = np.array([-48.0, -72.0, 96.0, -114.0, -90.0, -48.0])
_PICK = np.array([-48.0, -58.0, 104.0, -136.0, -90.0, -48.0])
_OVER_PLACE = np.array([55.0, -66.0, 84.0, -108.0, -90.0, 35.0])
_PLACE = np.array([55.0, -52.0, 92.0, -130.0, -90.0, 35.0])
# shares of the cycle: over the part, down, grip, up, across, down, release, up, home
_STEPS = (0.17, 0.09, 0.06, 0.09, 0.24, 0.09, 0.06, 0.08, 0.12)
_TAKE = 0.2 * RATE_HZ  # samples until the gripper carries the whole weight
_GRIPPED, _RELEASED = 2, 6  # the steps in whose middle the gripper closes and opens


class _Motion(NamedTuple):
    q: Floats  # deg, (n, 6)
    qd: Floats  # deg/s
    qdd: Floats  # deg/s2
    direction: Floats  # -1 or 1: the direction in which a joint moves or last moved
    since_reversal: Floats  # s since it last reversed
    payload: Floats  # kg, (n,)


@dataclass(frozen=True, slots=True)
class _Cycle:
    """One part handled: straight joint moves of minimum jerk between way points."""

    ends: Floats  # (steps+1,) shares of the cycle
    points: Floats  # (steps+1, 6) deg
    direction: Floats  # (steps, 6)
    turned: Floats  # (steps, 6) share of the cycle at which the direction began
    payload: float

    def at(self, share: Floats) -> _Motion:
        step = np.clip(np.searchsorted(self.ends, share, side="right") - 1, 0, len(_STEPS) - 1)
        length = (self.ends[step + 1] - self.ends[step])[:, None]
        s = (share[:, None] - self.ends[step][:, None]) / length
        span = self.points[step + 1] - self.points[step]
        duration = length * _CYCLE / RATE_HZ
        q = self.points[step] + span * (s**3 * (10 + s * (6 * s - 15)))
        qd = span / duration * (30 * s**2 * (1 - s) ** 2)
        qdd = span / duration**2 * (60 * s * (1 - s) * (1 - 2 * s))
        since = (share[:, None] - self.turned[step]) * _CYCLE / RATE_HZ
        grip = self.ends[_GRIPPED : _GRIPPED + 2].mean()
        release = self.ends[_RELEASED : _RELEASED + 2].mean()
        # the weight comes and goes gradually
        taken, put = ((share - at) * _CYCLE / _TAKE for at in (grip, release))
        payload = self.payload * (np.clip(taken, 0, 1) - np.clip(put, 0, 1))
        return _Motion(q, qd, qdd, self.direction[step], since, payload)


@lru_cache(maxsize=64)
def _cycle(seed: int, cycle: int) -> _Cycle:
    ends, points, payload = _draw(seed, cycle)
    before = np.sign(np.diff(_draw(seed, cycle - 1)[1], axis=0))[-1] if cycle else np.ones(JOINTS)
    direction, turned = _directions(points, ends, before)
    return _Cycle(ends, points, direction, turned, payload)


@lru_cache(maxsize=64)
def _draw(seed: int, cycle: int) -> tuple[Floats, Floats, float]:
    """What differs from part to part: when the steps end, where the way points are, the weight."""
    rng = np.random.default_rng([seed, 1, cycle])
    shares = np.array(_STEPS) * rng.uniform(0.9, 1.1, len(_STEPS))
    ends = np.concatenate([[0.0], np.cumsum(shares) / shares.sum()])
    jitter = rng.uniform(-4.0, 4.0, (2, JOINTS)) * [1.0, 0.5, 0.5, 0.5, 0.6, 1.5]
    over_pick, pick = _OVER_PICK + jitter[0], _PICK + jitter[0]
    over_place, place = _OVER_PLACE + jitter[1], _PLACE + jitter[1]
    points = np.stack([_HOME, over_pick, pick, pick, over_pick, over_place, place, place, over_place, _HOME])
    products_kg = np.array([0.6, 1.4, 2.5, 4.0])
    return ends, points, float(rng.choice(products_kg) * rng.uniform(0.95, 1.05))


def _directions(points: Floats, ends: Floats, before: Floats) -> tuple[Floats, Floats]:
    """Per step and joint: the direction (-1 or 1), and the share of the cycle at which it began."""
    signs = np.sign(np.diff(points, axis=0))
    direction, turned = np.empty_like(signs), np.empty_like(signs)
    now, since = before, np.full(JOINTS, -1.0)
    for step, sign in enumerate(signs):
        turning = (sign != 0) & (sign != now)
        now, since = np.where(turning, sign, now), np.where(turning, ends[step], since)
        direction[step], turned[step] = now, since
    return direction, turned


# --- chance, addressable by sample index --------------------------------------------------------------------

_CHUNK = 512


def _noise(seed: int, start: int, n: int) -> Floats:
    """Standard normal noise, (n, 3, 6)."""
    chunks = [_noise_chunk(seed, c) for c in range(start // _CHUNK, (start + max(n, 1) - 1) // _CHUNK + 1)]
    offset = start % _CHUNK
    return np.concatenate(chunks)[offset : offset + n]


@lru_cache(maxsize=16)
def _noise_chunk(seed: int, chunk: int) -> Floats:
    return np.random.default_rng([seed, 2, chunk]).standard_normal((_CHUNK, 3, JOINTS))


def _spikes(seed: int, joint: int, start: int, n: int) -> Floats:
    """A signed amplitude around 1 about once a second, else 0, (n,)."""
    chunks = []
    for chunk in range(start // _CHUNK, (start + max(n, 1) - 1) // _CHUNK + 1):
        rng = np.random.default_rng([seed, 3, chunk, joint])
        hit = rng.random(_CHUNK) < 1.0 / RATE_HZ
        chunks.append(hit * rng.choice([-1.0, 1.0], _CHUNK) * rng.uniform(0.7, 1.3, _CHUNK))
    offset = start % _CHUNK
    out: Floats = np.concatenate(chunks)[offset : offset + n]
    return out


def _active(fault: Fault, index: NDArray[np.int64]) -> NDArray[np.bool_]:
    on: NDArray[np.bool_] = (index >= fault.start_s * RATE_HZ) & (index < fault.end_s * RATE_HZ)
    return on
