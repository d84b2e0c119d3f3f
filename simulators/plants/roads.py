"""The roads of a delivery round: a closed loop around the blocks of a city, with corners and hills."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROADS = 15

Floats = NDArray[np.float64]


class Road(NamedTuple):
    """A road from the middle of one block to the middle of the next, with one corner."""

    length: float  # m
    limit: float  # m/s
    curve: tuple[float, float]  # m from the beginning
    curvature: float  # rad/m at its tightest
    light: float  # m from the beginning


@dataclass(frozen=True, slots=True)
class Loop:
    """All roads, and the map along them: about one point a metre of the whole loop."""

    roads: tuple[Road, ...]
    begins: Floats  # (15,) m from the start of the loop
    along: Floats  # m
    east: Floats  # m from the start
    north: Floats
    heading: Floats  # rad clockwise from north, unwrapped
    curvature: Floats  # rad/m
    altitude: Floats  # m
    slope: Floats  # 1: metres up for a metre along


@lru_cache(maxsize=32)
def loop(seed: int) -> Loop:
    """The roads of one seed: 12 to 16 km, flat quarters and hills."""
    rng = np.random.default_rng([seed, 10])
    angle = np.cumsum(rng.uniform(0.6, 1.4, ROADS))
    angle *= 2 * np.pi / angle[-1]
    radius = rng.uniform(1850, 2550, ROADS)
    corners = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    edges = np.roll(corners, -1, axis=0) - corners
    bearing = np.unwrap(np.arctan2(edges[:, 0], edges[:, 1]))
    half = np.hypot(edges[:, 0], edges[:, 1]) / 2
    roads, pieces = [], []
    for k in range(ROADS):
        turn = float(np.angle(np.exp(1j * (bearing[(k + 1) % ROADS] - bearing[k]))))
        road, piece = _road(rng, float(half[k]), float(half[(k + 1) % ROADS]), float(bearing[k]), turn, k)
        roads.append(road)
        pieces.append(piece)
    lengths = np.array([road.length for road in roads])
    begins = np.concatenate([[0.0], np.cumsum(lengths)])
    along = np.concatenate([piece[0] + begin for piece, begin in zip(pieces, begins, strict=False)])
    heading, curvature = (np.concatenate([piece[column] for piece in pieces]) for column in (1, 2))
    heading = np.unwrap(heading)
    east, north = _walk(along, np.sin(heading)), _walk(along, np.cos(heading))
    # the quadrature leaves a gap of a few centimetres: it is spread along the loop
    east, north = east - east[-1] * along / along[-1], north - north[-1] * along / along[-1]
    altitude, slope = _hills(rng, along)
    return Loop(tuple(roads), begins[:-1], along, east, north, heading, curvature, altitude, slope)


def _road(
    rng: np.random.Generator, before: float, after: float, bearing: float, turn: float, number: int
) -> tuple[Road, tuple[Floats, Floats, Floats]]:
    tightest = rng.uniform(16, 24) if abs(turn) > 0.8 else rng.uniform(50, 130)
    round_corner = max(2 * abs(turn) * tightest, 20.0)  # curvature rises and falls as 1 - cos
    share = np.linspace(0.0, 1.0, 129)
    inside = turn * (share - np.sin(2 * np.pi * share) / (2 * np.pi))
    chord = np.hypot(_walk(share, np.cos(inside))[-1], _walk(share, np.sin(inside))[-1]) * round_corner
    tangent = chord / (2 * np.cos(turn / 2))
    begin = before - tangent
    length = begin + round_corner + after - tangent
    straight = np.linspace(0.0, begin, max(2, int(begin)))
    leaving = np.linspace(begin + round_corner, length, max(2, int(after)))
    along = np.concatenate([straight, begin + share * round_corner, leaving])
    at = np.clip((along - begin) / round_corner, 0.0, 1.0)
    heading = bearing + turn * (at - np.sin(2 * np.pi * at) / (2 * np.pi))
    curvature = turn / round_corner * (1 - np.cos(2 * np.pi * at))
    limit = (50, 65, 85)[int(np.searchsorted([780, 1150], length))] / 3.6
    light = begin + round_corner + rng.uniform(0.45, 0.65) * (after - tangent)
    if rng.random() < 0.5 and number:  # the first road has no light before its corner
        light = begin * rng.uniform(0.4, 0.6)
    return Road(length, limit, (begin, begin + round_corner), 2 * abs(turn) / round_corner, light), (
        along,
        heading,
        curvature,
    )


def _hills(rng: np.random.Generator, along: Floats) -> tuple[Floats, Floats]:
    waves = np.arange(2, 26)
    phase = rng.uniform(0, 2 * np.pi, len(waves))
    steepness = rng.uniform(0.15, 1.0, len(waves)) * rng.uniform(0.003, 0.009)
    turns = 2 * np.pi * np.outer(along / along[-1], waves) + phase
    slope = (steepness * np.cos(turns)).sum(axis=1)
    altitude = (steepness * along[-1] / (2 * np.pi * waves) * np.sin(turns)).sum(axis=1)
    return altitude - altitude.min() + rng.uniform(8, 60), slope


def _walk(at: Floats, rate: Floats) -> Floats:
    """The integral of `rate` over `at`, by trapezoids, from 0."""
    return np.concatenate([[0.0], np.cumsum(np.diff(at) * (rate[1:] + rate[:-1]) / 2)])
