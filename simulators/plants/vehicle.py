"""An electric delivery car on its round, as numbers at 10 Hz: motion, battery pack, position.

Every sample is a function of (seed, index, faults) alone: any block, at any clock rate and in any order, is
the same to the bit. The plant knows no protocol.

    force = mass a + mass g (slope + rolling) + drag (v + wind)^2;  pack power = force v / efficiency + aux
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.faults.fault import Fault, FaultKind, FaultKinds, checked
from simulators.plants import trip
from simulators.plants.powertrain import (
    CAPACITY,
    NEWTON_PER_BAR,
    car_of,
    demand,
    full_force,
    pack,
    voltage_at_rest,
)
from simulators.plants.roads import ROADS, Floats, loop
from simulators.plants.trip import CHARGING, SHIFT, Manoeuvre, ManoeuvreRequest, drive

RATE_HZ = trip.RATE_HZ
UNITS: dict[str, str] = {  # UCUM
    "speed": "km/h",
    "acceleration": "m/s2",
    "yaw_rate": "deg/s",  # clockwise from above is positive, as a heading grows
    "pedal": "%",
    "brake_pressure": "bar",
    "pack_voltage": "V",
    "pack_current": "A",  # above 0 when discharging
    "slope": "%",
    "soc": "%",
    "cell_temperature": "Cel",
    "latitude": "deg",
    "longitude": "deg",
    "altitude": "m",
    "heading": "deg",
}
SIGNALS: tuple[str, ...] = tuple(UNITS)
LABELS: tuple[str, ...] = ("calm", "brake", "acceleration", "cornering")
_LARGEST = 2  # fault size
# brake, acceleration and cornering are hard manoeuvres at `start_s` and every 20 s until `end_s`. Each begins
# as soon as the car and the road allow it (a car that waits at a light cannot brake). If the car first has to
# slow down for its next light, the manoeuvre begins after the light
FAULTS: FaultKinds = {
    "brake": FaultKind("the driver brakes with SIZE x 5 m/s2", largest=_LARGEST),
    "acceleration": FaultKind("the driver accelerates with SIZE x 4 m/s2", largest=_LARGEST),
    "cornering": FaultKind("the driver swerves with SIZE x 4.6 m/s2", largest=_LARGEST),
    "overheat": FaultKind("the cells get SIZE x 25 Cel warmer; the time constant is 60 s", largest=_LARGEST),
    "stuck": FaultKind("one signal, the part, freezes", SIGNALS, _LARGEST),
}

_KEPT = 1024  # stretches whose initial state a car caches
_AGAIN_S = 20  # from one hard manoeuvre of a fault to the next


class Vehicle:
    """One car. `seed` chooses its town and round, its load, its driver, the weather and its noise."""

    def __init__(self, seed: int, faults: Sequence[Fault] = ()) -> None:
        self.seed = seed
        self.faults: tuple[Fault, ...] = tuple(checked(fault, FAULTS) for fault in faults)
        self._asked = tuple(fault for fault in self.faults if fault.kind in trip.LABEL)
        self._states: dict[int, tuple[float, float]] = {}  # by stretch

    def sample(self, index: int) -> dict[str, float]:
        """One sample by signal name; `index` counts from 0 at 10 Hz."""
        return dict(zip(SIGNALS, self.block(index, 1)[0].tolist(), strict=True))

    def block(self, start: int, n: int) -> Floats:
        """Samples `start .. start+n-1` as an (n, 14) array in the order of `SIGNALS`, with sensor noise."""
        out = self._true(start, n)[:, : len(SIGNALS)] + _noise(self.seed, start, n)
        standing = out[:, _SPEED] < 0.3
        out[standing, _SPEED] = 0.0  # wheel sensors do not see such low speeds
        index = np.arange(start, start + n)
        for fault in self.faults:
            if fault.kind == "overheat":
                out[:, _TEMPERATURE] += _overheat(fault, index / RATE_HZ)
        for column, low, high in _LIMITS:
            np.clip(out[:, column], low, high, out=out[:, column])
        out[:, _HEADING] %= 360.0
        self._freeze(index, out)
        return out

    def labels(self, start: int, n: int) -> NDArray[np.int64]:
        """Ground truth per sample, shape (n,): an index into `LABELS`, from a manoeuvre's start to end."""
        return self._true(start, n)[:, _LABEL].astype(np.int64)

    def energy(self, start: int, n: int) -> float:
        """Wh that left the pack in samples `start .. start+n-1`; below 0 when it was charged."""
        true = self._true(start, n)
        power = true[:, _VOLTAGE] * true[:, _CURRENT]
        return float(power.sum() / RATE_HZ / 3600)

    def _true(self, start: int, n: int) -> Floats:
        """(n, 15): the signals without noise, and the label."""
        if start < 0 or n < 0:
            raise ValueError(f"samples {start} to {start + n} do not exist: they count from 0")
        parts, at = [np.zeros((0, len(SIGNALS) + 1))], start
        while at < start + n:
            stretch = trip.stretch_at(self.seed, at)
            begin = trip.border(self.seed, stretch)
            samples = _stretch(self.seed, stretch, self._requests(stretch), *self._state(stretch))[0]
            upto = min(start + n - begin, len(samples))
            parts.append(samples[at - begin : upto])
            at = begin + upto
        return np.concatenate(parts)

    def _state(self, stretch: int) -> tuple[float, float]:
        """State of charge (%) and cell temperature (Cel) at the start of a stretch."""
        known = stretch
        while known % SHIFT and known not in self._states:
            known -= 1
        state = self._states[known] if known % SHIFT else _rested(self.seed)  # a shift ends as it began
        while known < stretch:
            state = _end(self.seed, known, self._requests(known), *state)
            known += 1
            self._states[known] = state
        while len(self._states) > _KEPT:
            del self._states[next(iter(self._states))]
        return state

    def _requests(self, stretch: int) -> tuple[ManoeuvreRequest, ...]:
        """The hard manoeuvres requested in this stretch or the one before, the earliest first."""
        first, last = trip.border(self.seed, max(0, stretch - 1)), trip.border(self.seed, stretch + 1)
        out = []
        for fault in self._asked:
            begin, period = int(np.ceil(fault.start_s * RATE_HZ)), _AGAIN_S * RATE_HZ
            at = begin + max(0, -(-(first - begin) // period)) * period
            while at < min(last, fault.end_s * RATE_HZ):
                kind: Manoeuvre = fault.kind  # type: ignore[assignment]  # one of trip.LABEL
                out.append(ManoeuvreRequest(at, kind, fault.size))
                at += period
        return tuple(sorted(out))

    def _freeze(self, index: NDArray[np.int64], out: Floats) -> None:
        for at, fault in enumerate(self.faults):
            seconds = index / RATE_HZ
            on = (seconds >= fault.start_s) & (seconds < fault.end_s)
            if fault.kind == "stuck" and on.any():
                others = Vehicle(self.seed, (*self.faults[:at], *self.faults[at + 1 :]))
                first = int(np.ceil(fault.start_s * RATE_HZ))
                column = SIGNALS.index(fault.part)
                out[on, column] = others.block(first, 1)[0, column]


_SPEED, _BRAKE, _VOLTAGE, _CURRENT = (
    SIGNALS.index(name) for name in ("speed", "brake_pressure", "pack_voltage", "pack_current")
)
_TEMPERATURE, _HEADING, _LABEL = SIGNALS.index("cell_temperature"), SIGNALS.index("heading"), len(SIGNALS)
_LIMITS = ((SIGNALS.index("pedal"), 0.0, 100.0), (_BRAKE, 0.0, 200.0), (SIGNALS.index("soc"), 0.0, 100.0))


# --- one car and its shift ----------------------------------------------------------------------------------

_TOWNS = (  # where rounds begin: latitude, longitude
    (37.5665, 126.9780),  # Seoul
    (35.8714, 128.6014),  # Daegu
    (36.4801, 127.2890),  # Sejong
    (35.1796, 129.0756),  # Busan
    (36.3504, 127.3845),  # Daejeon
)


def _rested(seed: int) -> tuple[float, float]:
    return car_of(seed).soc, car_of(seed).ambient + 4.0


@lru_cache(maxsize=4096)
def _end(
    seed: int, stretch: int, requests: tuple[ManoeuvreRequest, ...], soc: float, temperature: float
) -> tuple[float, float]:
    """State of charge and cell temperature where a stretch ends."""
    return _stretch(seed, stretch, requests, soc, temperature)[1]


@lru_cache(maxsize=24)
def _stretch(
    seed: int, stretch: int, requests: tuple[ManoeuvreRequest, ...], soc: float, temperature: float
) -> tuple[Floats, tuple[float, float]]:
    """The true samples of one stretch, (n, 15), and state of charge and cell temperature at its end."""
    if stretch % SHIFT >= SHIFT - CHARGING:
        return _charging(seed, stretch, soc, temperature)
    car, driven = car_of(seed), drive(seed, stretch, requests)
    road = _road(seed, stretch, driven.along)
    force, power, friction = demand(car, driven, road.heading, road.slope, trip.border(seed, stretch))
    voltage, current, charge = pack(car, power, soc)
    heating = car.resistance * current**2 / 400e3  # K/s: 400 kJ/K of cells
    cells = temperature + np.cumsum(heating - (temperature - car.ambient) / 5400) / RATE_HZ
    columns = {
        "speed": driven.speed * 3.6,
        "acceleration": driven.acceleration,
        "yaw_rate": np.degrees(driven.speed * road.curvature + driven.swerve),
        "pedal": 100 * np.clip(force / full_force(driven.speed), 0, 1),
        "brake_pressure": friction / NEWTON_PER_BAR + 8.0 * (driven.speed == 0),  # held at standstill
        "pack_voltage": voltage,
        "pack_current": current,
        "slope": 100 * road.slope,
        "soc": charge,
        "cell_temperature": cells,
        "latitude": road.latitude,
        "longitude": road.longitude,
        "altitude": road.altitude,
        "heading": np.degrees(road.heading + np.cumsum(driven.swerve) / RATE_HZ),
    }
    return _fixed(columns, driven.label), (float(charge[-1]), float(cells[-1]))


def _charging(seed: int, stretch: int, soc: float, temperature: float) -> tuple[Floats, tuple[float, float]]:
    """Standing at the charger: the charge that the shift used comes back in equal parts."""
    car = car_of(seed)
    left = SHIFT - stretch % SHIFT  # stretches, this one included
    n = trip.border(seed, stretch + 1) - trip.border(seed, stretch)
    share, (full, rested) = np.arange(1, n + 1) / n / left, _rested(seed)
    charge, cells = soc + share * (full - soc), temperature + share * (rested - temperature)
    current = np.full(n, -(full - soc) / 100 * CAPACITY / (left * n / RATE_HZ / 3600))
    road = _road(seed, stretch, np.zeros(n))
    zero = np.zeros(n)
    columns = dict.fromkeys(SIGNALS, zero) | {
        "pack_voltage": voltage_at_rest(charge) - car.resistance * current,
        "pack_current": current,
        "slope": 100 * road.slope,
        "soc": charge,
        "cell_temperature": cells,
        "latitude": road.latitude,
        "longitude": road.longitude,
        "altitude": road.altitude,
        "heading": np.degrees(road.heading),
    }
    return _fixed(columns, np.zeros(n, np.int64)), (float(charge[-1]), float(cells[-1]))


def _fixed(columns: dict[str, Floats], label: NDArray[np.int64]) -> Floats:
    out = np.stack([*(columns[name] for name in SIGNALS), label], axis=1)
    out.setflags(write=False)
    return out


class _Where(NamedTuple):
    """The map's values at each sample, (n,)."""

    heading: Floats  # rad
    curvature: Floats  # rad/m
    slope: Floats
    altitude: Floats  # m
    latitude: Floats  # deg
    longitude: Floats


def _road(seed: int, stretch: int, along: Floats) -> _Where:
    roads = loop(seed)
    at = roads.begins[stretch % SHIFT % ROADS] + along
    heading, curvature, slope, altitude, east, north = (
        np.interp(at, roads.along, column)
        for column in (
            roads.heading,
            roads.curvature,
            roads.slope,
            roads.altitude,
            roads.east,
            roads.north,
        )
    )
    latitude, longitude = _TOWNS[seed % len(_TOWNS)]
    metres = 111_320.0  # of a degree of latitude
    return _Where(
        heading,
        curvature,
        slope,
        altitude,
        latitude + north / metres,
        longitude + east / (metres * np.cos(np.radians(latitude))),
    )


def _overheat(fault: Fault, seconds: Floats) -> Floats:
    since = np.maximum(0.0, seconds - fault.start_s)
    after = np.maximum(0.0, seconds - fault.end_s)
    warm = 1 - np.exp(-np.minimum(since, fault.end_s - fault.start_s) / 60)
    out: Floats = 25.0 * fault.size * warm * np.exp(-after / 60)
    return out


# --- the sensors, addressable by sample index ---------------------------------------------------------------

_CHUNK = 512
_NOISE: dict[str, float] = {  # one standard deviation
    "speed": 0.08,
    "acceleration": 0.12,
    "yaw_rate": 0.25,
    "pedal": 0.2,
    "pack_voltage": 0.15,
    "pack_current": 0.4,
    "slope": 0.15,
    "latitude": 4e-6,
    "longitude": 5e-6,
    "altitude": 0.6,
    "heading": 0.3,
}


def _noise(seed: int, start: int, n: int) -> Floats:
    chunks = [_noise_chunk(seed, c) for c in range(start // _CHUNK, (start + max(n, 1) - 1) // _CHUNK + 1)]
    return np.concatenate(chunks)[start % _CHUNK : start % _CHUNK + n]


@lru_cache(maxsize=64)
def _noise_chunk(seed: int, chunk: int) -> Floats:
    """(512, 14): white noise; the acceleration also has the knocks of a bad road, about two a minute."""
    rng = np.random.default_rng([seed, 2, chunk])
    out: Floats = rng.standard_normal((_CHUNK, len(SIGNALS))) * [_NOISE.get(name, 0.0) for name in SIGNALS]
    hit = rng.random(_CHUNK) < 2 / 60 / RATE_HZ
    knock = hit * rng.normal(0, 3.0, _CHUNK)
    knock[1:] -= 0.6 * knock[:-1]  # the rebound, within the chunk
    out[:, SIGNALS.index("acceleration")] += knock
    out.setflags(write=False)
    return out
