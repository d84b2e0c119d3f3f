"""The powertrain of an electric car: forces at the wheels, recuperation, voltage and current of the pack."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from simulators.plants.roads import Floats
from simulators.plants.trip import RATE_HZ, Drive

_CELLS = 96  # in series
CAPACITY = 180.0  # A.h: 64 kWh
_MOTOR_W, _MOTOR_N = 170e3, 9500.0  # at the wheels
_REGEN_W = 55e3
NEWTON_PER_BAR = 190.0
_G = 9.81


class Car(NamedTuple):
    """What differs between cars and between days."""

    mass: float  # kg with driver and load
    drag: float  # N per (m/s)2
    rolling: float  # 1
    efficiency: float  # from pack to wheel
    regen: float  # m/s2 that recuperation may brake with
    resistance: float  # Ohm of the pack
    aux: float  # W of heating, cooling and everything else
    ambient: float  # Cel
    wind: tuple[float, float]  # m/s to east and north
    soc: float  # % at the start of a shift


@lru_cache(maxsize=64)
def car_of(seed: int) -> Car:
    """The car of a seed: a loaded van-sized electric car on a day between -8 and 33 Cel."""
    rng = np.random.default_rng([seed, 1])
    ambient = rng.uniform(-8, 33)
    comfort = 35 * max(0.0, 18 - ambient) + 55 * max(0.0, ambient - 24)
    air = 1.205 * 293 / (273 + ambient)
    return Car(
        mass=rng.uniform(1700, 1850) + rng.uniform(75, 550),
        drag=0.5 * air * rng.uniform(0.75, 0.95),
        rolling=rng.uniform(0.009, 0.012) * (1.0 + 0.006 * max(0.0, 20 - ambient)),
        efficiency=rng.uniform(0.86, 0.91),
        regen=rng.uniform(1.0, 1.8) * (0.6 if ambient < 0 else 1.0),  # a cold pack accepts less
        resistance=0.075 + 0.002 * max(0.0, 20 - ambient),
        aux=rng.uniform(280, 500) + comfort,
        ambient=ambient,
        wind=(rng.normal(0, 2.0), rng.normal(0, 2.0)),
        soc=rng.uniform(78, 95),
    )


def full_force(speed: Floats) -> Floats:
    """The largest force of the motor at the wheels, N."""
    out: Floats = np.minimum(_MOTOR_N, _MOTOR_W / np.maximum(speed, 1))
    return out


def demand(
    car: Car, driven: Drive, heading: Floats, slope: Floats, begin: int
) -> tuple[Floats, Floats, Floats]:
    """Force at the wheels (N), power from the pack (W) and what the friction brakes take (N)."""
    v = driven.speed
    wind = -(car.wind[0] * np.sin(heading) + car.wind[1] * np.cos(heading))  # against the car
    air = v + wind
    moving = v > 0
    force = moving * (
        1.04 * car.mass * driven.acceleration  # wheels and rotor have inertia, too
        + car.mass * _G * (slope + car.rolling)
        + car.drag * air * np.abs(air)
    )
    # recuperation is limited in force and power, and there is none at walking pace
    most = np.minimum(car.mass * car.regen, _REGEN_W / np.maximum(v, 1)) * np.clip((v - 1) / 2, 0, 1)
    recovered = np.minimum(np.maximum(-force, 0), most)
    driving = np.maximum(force, 0)
    compressor = 0.35 * np.sin(2 * np.pi * (begin + np.arange(len(v))) / RATE_HZ / 240) > 0.1
    aux = car.aux * (0.75 + 0.5 * compressor)
    power = driving * v / car.efficiency - recovered * v * (car.efficiency - 0.05) + aux
    return force, power, np.maximum(-force, 0) - recovered


def pack(car: Car, power: Floats, soc: float) -> tuple[Floats, Floats, Floats]:
    """Voltage (V), current (A) and state of charge (%) after each sample, for a power in W."""
    charge = np.full(len(power), soc)
    for _ in range(2):  # the charge hardly changes within a stretch: two rounds are enough
        at_rest = voltage_at_rest(charge)
        root = np.sqrt(np.maximum(at_rest**2 - 4 * car.resistance * power, 0.0))
        current = (at_rest - root) / (2 * car.resistance)
        charge = soc - 100 * np.cumsum(current) / RATE_HZ / 3600 / CAPACITY
    return at_rest - car.resistance * current, current, charge


def voltage_at_rest(soc: Floats) -> Floats:
    """The pack's voltage without current, V, at a state of charge in %."""
    share = soc / 100
    out: Floats = _CELLS * (3.32 + 0.72 * share + 0.08 * np.tanh((share - 0.08) / 0.05))
    return out
