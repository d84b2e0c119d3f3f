"""The air beside a street, as an optical particle sensor sees it once a second. The plant knows no protocol.

Every sample is a function of (seed, index, faults) alone: any block, at any clock rate and in any order, is
the same to the bit.

    shown = (background + traffic + plumes) * growth(humidity) + noise

An optical sensor also counts the water on the particles: above 70 % humidity it shows too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators.faults.fault import Fault, FaultKind, FaultKinds, checked

RATE_HZ = 1
UNITS: dict[str, str] = {  # UCUM
    "pm1": "ug/m3",
    "pm2_5": "ug/m3",
    "pm10": "ug/m3",
    "temperature": "Cel",
    "humidity": "%",
}
SIGNALS: tuple[str, ...] = tuple(UNITS)
_LARGEST = 100  # fault size
# plume and dust rise within a minute; when they end, the wind removes them within another minute
FAULTS: FaultKinds = {
    "plume": FaultKind("a truck idles beside the sensor: SIZE x 60 ug/m3 of PM2.5", largest=_LARGEST),
    "dust": FaultKind("a building site: SIZE x 150 ug/m3 of PM10, little of it fine", largest=_LARGEST),
    "drift": FaultKind("a dirty lens: the sensor shows SIZE x 20 % more each hour", largest=_LARGEST),
    "stuck": FaultKind("one signal freezes, or all without a part", ("", *SIGNALS), _LARGEST),
}
START_HOUR = 7.0  # of the local day at sample 0: the traffic grows

Floats = NDArray[np.float64]


class Air:
    """The air at one street. `seed` chooses the season, the street's traffic, the plumes and the noise."""

    def __init__(self, seed: int, faults: Sequence[Fault] = ()) -> None:
        self.seed = seed
        self.faults: tuple[Fault, ...] = tuple(checked(fault, FAULTS) for fault in faults)

    def sample(self, index: int) -> dict[str, float]:
        """One sample by signal name; `index` counts from 0 at 1 Hz."""
        return dict(zip(SIGNALS, self.block(index, 1)[0].tolist(), strict=True))

    def block(self, start: int, n: int) -> Floats:
        """Samples `start .. start+n-1` as an (n, 5) array in the order of `SIGNALS`: ug/m3, Cel, %."""
        if start < 0 or n < 0:
            raise ValueError(f"samples {start} to {start + n} do not exist: they count from 0")
        index = np.arange(start, start + n)
        fine, coarse = self._particles(index)
        temperature, humidity = _weather(self.seed, index)
        shown = _growth(humidity) * self._lens(index)
        noise = _white(self.seed, start, n)
        pm2_5 = fine * shown * (1 + 0.02 * noise[:, 0]) + 0.3 * noise[:, 1]
        pm1 = pm2_5 * (0.68 + 0.01 * noise[:, 2])
        pm10 = pm2_5 + coarse * shown * (1 + 0.06 * noise[:, 3])
        out = np.stack(
            [pm1, pm2_5, pm10, temperature + 0.05 * noise[:, 4], humidity + 0.2 * noise[:, 5]], axis=1
        )
        np.clip(out[:, :3], 0.0, None, out=out[:, :3])
        np.clip(out[:, 4], 0.0, 100.0, out=out[:, 4])
        self._freeze(index, out)
        return out

    def dry(self, start: int, n: int) -> Floats:
        """PM2.5 that a heated reference station would weigh, ug/m3, (n,): no water, no fault of the lens."""
        return self._particles(np.arange(start, start + n))[0]

    def _particles(self, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Fine (PM2.5) and coarse (PM2.5 to PM10) particles, ug/m3."""
        street = _street(self.seed)
        traffic = _traffic(index)
        fine = street.background * np.exp(0.35 * _slow(self.seed, 1, index, 7200))
        coarse = 0.55 * fine + 9.0 * traffic
        fine = fine + street.traffic * traffic * np.exp(0.3 * _slow(self.seed, 2, index, 300))
        for plume in _plumes(self.seed, index):
            rise = plume.size * _puff(index - plume.start, plume.seconds)
            fine, coarse = (
                fine + (0.1 if plume.dust else 0.9) * rise,
                coarse + (plume.dust * 0.9 + 0.1) * rise,
            )
        for fault in self.faults:
            if fault.kind in ("plume", "dust"):
                fine, coarse = self._blown(fault, index, fine, coarse)
        return fine, coarse

    def _blown(
        self, fault: Fault, index: NDArray[np.int64], fine: Floats, coarse: Floats
    ) -> tuple[Floats, Floats]:
        puff = _puff(index - fault.start_s, fault.end_s - fault.start_s)
        puff = puff * np.exp(0.25 * _slow(self.seed, 3, index, 20))
        if fault.kind == "plume":
            return fine + 60 * fault.size * puff, coarse + 8 * fault.size * puff
        return fine + 15 * fault.size * puff, coarse + 135 * fault.size * puff

    def _lens(self, index: NDArray[np.int64]) -> Floats:
        shown = np.ones(len(index))
        for fault in self.faults:
            if fault.kind == "drift":
                dirty = np.clip(index / RATE_HZ - fault.start_s, 0.0, None)
                shown += np.where(index / RATE_HZ < fault.end_s, 0.2 * fault.size * dirty / 3600, 0.0)
        return shown

    def _freeze(self, index: NDArray[np.int64], out: Floats) -> None:
        for at, fault in enumerate(self.faults):
            on = (index / RATE_HZ >= fault.start_s) & (index / RATE_HZ < fault.end_s)
            if fault.kind == "stuck" and on.any():
                others = Air(self.seed, (*self.faults[:at], *self.faults[at + 1 :]))
                frozen = others.block(int(np.ceil(fault.start_s * RATE_HZ)), 1)[0]
                column = SIGNALS.index(fault.part) if fault.part else slice(None)
                out[on, column] = frozen[column]


# --- the street and its day ---------------------------------------------------------------------------------


class _Street(NamedTuple):
    background: float  # ug/m3 of PM2.5 from the city
    traffic: float  # ug/m3 that a full street adds
    warm: float  # Cel: mean of the day
    swing: float  # Cel
    damp: float  # g/m3 of water in the air
    trucks: float  # plumes an hour when the street is full


@lru_cache(maxsize=64)
def _street(seed: int) -> _Street:
    rng = np.random.default_rng([seed, 1])
    warm = rng.uniform(-3, 27)
    saturated = float(_saturation(np.array(warm)))
    return _Street(
        background=float(np.exp(rng.normal(np.log(19), 0.45))),
        traffic=rng.uniform(5, 18),
        warm=warm,
        swing=rng.uniform(2, 6),
        damp=saturated * rng.uniform(0.45, 0.85),
        trucks=rng.uniform(2, 7),
    )


def _hour(index: NDArray[np.int64]) -> Floats:
    return (START_HOUR + index / RATE_HZ / 3600) % 24


def _traffic(index: NDArray[np.int64]) -> Floats:
    """How full the street is, 0 to about 1: two rush hours, quiet nights."""
    hour = _hour(index)
    morning, evening = np.exp(-(((hour - 8.3) / 1.3) ** 2)), np.exp(-(((hour - 18.6) / 1.8) ** 2))
    day = 0.45 / (1 + np.exp(-(hour - 6.5) * 2)) / (1 + np.exp((hour - 22) * 1.5))
    out: Floats = 0.05 + 0.55 * morning + 0.6 * evening + day
    return out


def _weather(seed: int, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Temperature (Cel), warmest at three, and relative humidity (%)."""
    street = _street(seed)
    temperature = street.warm + street.swing * np.cos(2 * np.pi * (_hour(index) - 15) / 24)
    temperature = temperature + 0.8 * _slow(seed, 4, index, 2400)
    damp = street.damp * np.exp(0.10 * _slow(seed, 5, index, 5400))
    return temperature, np.clip(100 * damp / _saturation(temperature), 12.0, 98.0)


def _saturation(temperature: Floats) -> Floats:
    """The water that air can hold, g/m3 (Magnus)."""
    pressure = 6.112 * np.exp(17.62 * temperature / (243.12 + temperature))
    out: Floats = 216.7 * pressure / (273.15 + temperature)
    return out


def _growth(humidity: Floats) -> Floats:
    """By which factor particles with water scatter more: kappa-Koehler with kappa 0.15, by volume."""
    share = np.minimum(humidity, 97.0) / 100
    out: Floats = 1 + 0.15 / 1.65 * share / (1 - share)
    return out


class _Plume(NamedTuple):
    start: float  # sample
    seconds: float
    size: float  # ug/m3
    dust: bool


def _puff(since: NDArray[np.floating[Any]], seconds: float) -> Floats:
    """0 before the start, then up to 1 with 25 s, after the end down with 40 s; 0 again after 400 s."""
    on = np.clip(since, 0.0, seconds)
    after = np.clip(since - seconds, 0.0, None)
    out: Floats = (1 - np.exp(-on / 25)) * np.exp(-after / 40) * (after < 400)
    return out


_HOUR = 3600 * RATE_HZ
_LONGEST = 900 * RATE_HZ  # samples: no plume can be seen for longer


def _plumes(seed: int, index: NDArray[np.int64]) -> list[_Plume]:
    """The plumes that can be seen in these samples."""
    if not len(index):
        return []
    first, last = max(0, int(index[0]) - _LONGEST), int(index[-1])
    hours = range(first // _HOUR, last // _HOUR + 1)
    return [plume for hour in hours for plume in _plumes_of(seed, hour) if first <= plume.start <= last]


@lru_cache(maxsize=256)
def _plumes_of(seed: int, hour: int) -> tuple[_Plume, ...]:
    rng = np.random.default_rng([seed, 3, hour])
    full = float(_traffic(np.array([hour * _HOUR + _HOUR // 2]))[0])
    out = []
    for _ in range(rng.poisson(_street(seed).trucks * full)):
        start = hour * _HOUR + rng.uniform(0, _HOUR)
        out.append(_Plume(start, rng.uniform(20, 420), rng.lognormal(3.0, 0.6), bool(rng.random() < 0.25)))
    return tuple(out)


# --- chance, addressable by sample index --------------------------------------------------------------------

_CHUNK = 512


def _slow(seed: int, what: int, index: NDArray[np.int64], seconds: float) -> Floats:
    """Smooth noise of about unit size with a correlation time of `seconds`, (n,)."""
    at = index / RATE_HZ / seconds
    if not len(at):
        return at
    knots = np.arange(int(at[0]) - 1, int(at[-1]) + 4)
    drawn = np.array([_knot(seed, what, int(knot)) for knot in knots])
    whole = np.floor(at).astype(np.int64)
    u, k = at - whole, whole - knots[0]
    # a cubic B-spline of the draws: smooth to the second derivative
    out: Floats = (
        (1 - u) ** 3 * drawn[k - 1]
        + (3 * u**3 - 6 * u**2 + 4) * drawn[k]
        + (-3 * u**3 + 3 * u**2 + 3 * u + 1) * drawn[k + 1]
        + u**3 * drawn[k + 2]
    ) / 4.2
    return out


@lru_cache(maxsize=4096)
def _knot(seed: int, what: int, knot: int) -> float:
    return float(np.random.default_rng([seed, 4, what, knot + 1]).standard_normal())


def _white(seed: int, start: int, n: int) -> Floats:
    chunks = [_white_chunk(seed, c) for c in range(start // _CHUNK, (start + max(n, 1) - 1) // _CHUNK + 1)]
    return np.concatenate(chunks)[start % _CHUNK : start % _CHUNK + n]


@lru_cache(maxsize=64)
def _white_chunk(seed: int, chunk: int) -> Floats:
    return np.random.default_rng([seed, 2, chunk]).standard_normal((_CHUNK, 6))
