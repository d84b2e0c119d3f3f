"""The street without traffic: camera, hour and weather, and a ray-cast backdrop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[float, float, float]  # blue, green, red, each 0-255
Points = NDArray[np.float64]

KERB_NEAR, KERB_FAR, WALL = 9.0, 17.0, 22.0  # metres in front of the camera's foot
ZEBRA = 4.0  # width of the crossing, metres


@dataclass(frozen=True, slots=True)
class Light:
    """How the hour and the weather change every colour."""

    weather: str  # clear | overcast | rain | fog | snow
    night: bool
    gain: Colour  # factor for blue, green, red
    haze: Colour  # what distance fades to
    haze_m: float  # distance at which 63 % has faded
    shadow: float  # 0 none .. 1 black
    sun: tuple[float, float]  # metres of shadow (along, away) for each metre of height

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Light:
        """A random hour and weather: mostly dry days, sometimes night, rain, fog or snow."""
        weather = str(rng.choice(["clear", "overcast", "rain", "fog", "snow"], p=[0.4, 0.26, 0.14, 0.1, 0.1]))
        night = bool(rng.random() < 0.2)
        warmth = rng.uniform(-0.06, 0.10)
        level = rng.uniform(0.42, 0.54) if night else rng.uniform(0.78, 1.05)
        gain = (float(level * (1.0 - warmth)), float(level), float(level * (1.0 + warmth)))
        grey = 52.0 if night else float(rng.uniform(170, 205))
        haze_m = {"clear": 260.0, "overcast": 160.0, "rain": 85.0, "fog": 42.0, "snow": 75.0}[weather]
        sunny = weather == "clear" and not night
        return cls(
            weather=weather,
            night=night,
            gain=gain,
            haze=(grey * 1.04, grey, grey * 0.97),
            haze_m=haze_m,
            shadow=rng.uniform(0.35, 0.5) if sunny else 0.18,
            sun=(float(rng.uniform(-1.1, 1.1)), float(rng.uniform(0.15, 0.6))) if sunny else (0.0, 0.0),
        )

    def on(self, colour: Sequence[float], away_m: float, bright: float = 1.0) -> Colour:
        """The colour as the camera sees it from `away_m` metres; `bright` shades one face of a thing."""
        clear = math.exp(-away_m / self.haze_m)
        fade, (kb, kg, kr), (hb, hg, hr) = 1.0 - clear, self.gain, self.haze
        clear *= bright
        return (
            colour[0] * kb * clear + hb * fade,
            colour[1] * kg * clear + hg * fade,
            colour[2] * kr * clear + hr * fade,
        )


@dataclass(frozen=True, slots=True)
class PinholeCamera:
    """A pinhole on a pole; verticals stay vertical. World: x along the road, y up, z away, metres."""

    width: int
    height: int
    focal: float  # px
    horizon: float  # px from the top
    high: float  # metres above the ground
    at_x: float
    yaw: float  # radians to the right

    def depth(self, x: float, z: float) -> float:
        """Metres along the optical axis; below about 2 a thing is beside or behind the camera."""
        return (x - self.at_x) * math.sin(self.yaw) + z * math.cos(self.yaw)

    def project(self, points: Points) -> Points:
        """Project world points (n, 3) to pixels (n, 2); the depth must be above 0."""
        along = points[:, 0] - self.at_x
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        depth = along * sin + points[:, 2] * cos
        scale = self.focal / depth
        out = np.empty((len(points), 2))
        out[:, 0] = self.width / 2 + (along * cos - points[:, 2] * sin) * scale
        out[:, 1] = self.horizon + (self.high - points[:, 1]) * scale
        return out


# -- the backdrop: one ray per sub-pixel, once per scene ---------------------------------------------------


def backdrop(camera: PinholeCamera, light: Light, crossing_x: float, rng: np.random.Generator) -> Picture:
    """Sky, houses, pavements, road and crossing as the camera sees them without traffic."""
    fine = 2
    cols = (np.arange(camera.width * fine, dtype=np.float32) + 0.5) / fine
    rows = (np.arange(camera.height * fine, dtype=np.float32) + 0.5) / fine
    across = ((cols - camera.width / 2) / camera.focal)[None, :]
    up = (-(rows - camera.horizon) / camera.focal)[:, None]
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    ray_x, ray_z = across * cos + sin, -across * sin + cos
    with np.errstate(divide="ignore"):
        to_ground = np.where(up < -1e-4, camera.high / -up, 1e4)
    to_wall = WALL / np.maximum(ray_z, 1e-3)
    reach = np.minimum(to_ground, to_wall)
    x, y, z = camera.at_x + reach * ray_x, camera.high + reach * up, reach * ray_z
    picture = np.empty((*reach.shape, 3), np.float32)
    wall = to_wall < to_ground
    picture[~wall] = _ground(x[~wall], z[~wall], crossing_x, light, rng)
    facade, height = _houses(x[wall], y[wall], light, rng)
    picture[wall] = facade
    fade = (1.0 - np.exp(-reach / light.haze_m)).astype(np.float32)[..., None]
    picture *= np.array(light.gain, np.float32) * (1 - fade)
    picture += np.array(light.haze, np.float32) * fade
    sky = wall.copy()
    sky[wall] = y[wall] > height
    picture[sky] = _sky(np.broadcast_to(up, wall.shape)[sky], light)
    small = cv2.resize(picture, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return np.clip(small, 0, 255).astype(np.uint8)


def _ground(
    x: Points, z: Points, crossing_x: float, light: Light, rng: np.random.Generator
) -> NDArray[np.float64]:
    wet = {"rain": 0.72, "snow": 1.15}.get(light.weather, 1.0)
    asphalt = rng.uniform(78, 108) * wet
    slabs = np.array([150.0, 156, 162]) * rng.uniform(0.85, 1.1)
    if light.weather == "snow":
        slabs = np.array([226.0, 222, 218])
    grain = rng.normal(0, 6, x.shape)
    out = np.empty((*x.shape, 3))
    out[:] = np.array([asphalt * 1.03, asphalt, asphalt * 0.98]) + grain[..., None]
    middle = (KERB_NEAR + KERB_FAR) / 2
    on_zebra = np.abs(x - crossing_x) < ZEBRA / 2
    paint = (np.abs(z - middle) < 0.08) & (np.mod(x, 4.0) < 2.2) & (np.abs(x - crossing_x) > ZEBRA / 2 + 3.5)
    paint |= (np.abs(np.abs(x - crossing_x) - ZEBRA / 2 - 1.2) < 0.2) & ((x < crossing_x) == (z < middle))
    paint |= on_zebra & (np.mod(z - KERB_NEAR, 1.0) < 0.5)
    out[paint] = 205.0
    pavement = (z < KERB_NEAR) | (z > KERB_FAR)
    joints = (np.mod(x, 1.2) < 0.05) | (np.mod(z, 1.2) < 0.05)
    out[pavement] = slabs
    out[pavement & joints] *= 0.86
    out[pavement] += grain[pavement][:, None] * 0.6
    kerb = (np.abs(z - KERB_NEAR) < 0.14) | (np.abs(z - KERB_FAR) < 0.14)
    out[kerb] = (178.0, 180.0, 182.0)
    out[kerb & on_zebra] = slabs * 0.95
    if light.weather != "snow":
        green = np.mod(x + 2.0, 9.0)
        out[(z > 20.6) & (z < WALL - 0.3) & (green < 5.0)] = (70.0, 128.0, 96.0)
    return out


def _houses(
    x: Points, y: Points, light: Light, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Facades at `z == WALL`: colours, and the height of the house at each ray's x."""
    widths = rng.uniform(8, 15, 64)
    edges = -320 + np.cumsum(widths)
    house = np.clip(np.searchsorted(edges, x), 0, 62)
    tones = np.array([[120, 150, 186], [150, 160, 170], [108, 124, 158], [168, 176, 184], [128, 140, 132]])
    tone = (tones[rng.integers(0, len(tones), 64)] * rng.uniform(0.75, 1.15, (64, 1))).astype(float)
    height = rng.uniform(6.4, 11.0, 64)[house]
    across = x - (edges[house] - widths[house])
    out: NDArray[np.float64] = tone[house]
    out *= (0.93 + 0.07 * (np.mod(y, 0.5) > 0.06))[..., None]
    column, row = np.floor(across / 2.2), np.floor((y - 3.6) / 3.0)
    in_column, in_row = across - column * 2.2, y - 3.6 - row * 3.0
    window = (y > 3.6) & (in_column > 0.5) & (in_column < 1.7) & (in_row > 0.5) & (in_row < 2.2)
    window &= (across > 0.4) & (across < widths[house] - 0.6) & (y < height - 0.8)
    chance = np.mod(np.sin(house * 12.99 + column * 78.23 + row * 37.72) * 43758.5, 1.0)
    lit = chance < (0.45 if light.night else 0.04)
    glass = np.where(lit[..., None], np.array([110.0, 190, 235]), np.array([96.0, 84, 72]))
    glass = np.where(lit[..., None] & light.night, np.array([110.0, 190, 235]) / np.array(light.gain), glass)
    out[window] = glass[window]
    shop = (y < 3.1) & (y > 0.4) & (np.mod(across, 4.2) > 0.5)
    shine = (
        np.array([150.0, 200, 230]) / np.array(light.gain) * 0.8
        if light.night
        else np.array([120.0, 112, 100])
    )
    out[shop] = shine
    sign = (y >= 3.1) & (y < 3.6)
    out[sign] = (tone[house] * np.array([0.5, 0.55, 0.75]))[sign]
    out[(across < 0.12) | (y > height - 0.35)] *= 0.7
    return out, height


def _sky(up: Points, light: Light) -> NDArray[np.float64]:
    blend = np.clip(up / 0.35, 0, 1)[..., None]
    if light.night:
        low, top = np.array([70.0, 52, 44]), np.array([38.0, 24, 18])
    elif light.weather == "clear":
        low, top = np.array([238.0, 222, 205]), np.array([226.0, 168, 112])
    else:
        low, top = np.array(light.haze), np.array(light.haze) * 0.88
    return low * (1 - blend) + top * blend
