"""Follows boxes from picture to picture, so that one thing keeps one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.inference.scene_options import TrackConfig
from wire.clock import NS_PER_S
from wire.messages import Box

_MOST = 600  # tracks, with those that are out of sight: limits the cost of a hostile model
_SMOOTH = 0.5  # weight of the newest movement in the speed


@dataclass(slots=True)
class Track:
    """One thing that is followed; `number` is 0 until it was seen in enough pictures."""

    box: Box
    corners: NDArray[np.float64]  # where it was seen last: x0, y0, x1, y1
    seen_ns: int
    speed: NDArray[np.float64]  # of the corners, per second; without a change of size
    hits: int = 1
    number: int = 0
    key: int = 0  # of this track alone, from its first picture on


class Tracker:
    """Gives boxes the numbers of tracks: greedily by overlap with where each track would be by now.

    A track goes on at its speed while it is out of sight. A box of another label begins another track.
    """

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self.tracks: list[Track] = []
        self._numbers = self._keys = 0

    def go_on(self, other: Tracker) -> None:
        """Go on with the tracks and numbers of another one."""
        self.tracks, self._numbers, self._keys = other.tracks, other._numbers, other._keys

    def update(self, boxes: Sequence[Box], at_ns: int) -> list[Track | None]:
        """The track of each box of the picture at this time; the boxes get its number."""
        keep_ns = round(self._config.keep_s * NS_PER_S)
        self.tracks = [each for each in self.tracks if 0 <= at_ns - each.seen_ns <= keep_ns]
        found = np.array([corners_of(box) for box in boxes]).reshape(-1, 4)
        matched = self._matched(boxes, found, at_ns)
        result: list[Track | None] = []
        for at, box in enumerate(boxes):
            track = matched.get(at)
            if track is not None:
                self._see(track, box, found[at], at_ns)
            elif box.score >= self._config.start and len(self.tracks) < _MOST:
                self._keys += 1
                track = Track(box, found[at], at_ns, np.zeros(4), key=self._keys)
                self.tracks.append(track)
            if track is not None:
                if not track.number and track.hits >= self._config.hits:
                    self._numbers += 1
                    track.number = self._numbers
                if track.number:
                    box.track = track.number
            result.append(track)
        return result

    def _matched(self, boxes: Sequence[Box], found: NDArray[np.float64], at_ns: int) -> dict[int, Track]:
        """The track of each box that continues one."""
        tracks = list(self.tracks)
        if not len(found) or not tracks:
            return {}
        ago_s = np.array([(at_ns - each.seen_ns) / NS_PER_S for each in tracks])[:, None]
        speeds = np.stack([each.speed for each in tracks])
        last = np.stack([each.corners for each in tracks])
        labels = np.array([each.box.cls for each in tracks])[:, None] == np.array([box.cls for box in boxes])
        # or where it was: it may have turned round
        overlap = np.maximum(overlaps(last + ago_s * speeds, found), overlaps(last, found))
        shared = np.where(labels, overlap, 0.0)
        rows, columns = np.nonzero(shared >= self._config.iou)
        matched: dict[int, Track] = {}
        taken: set[int] = set()
        for pair in np.argsort(-shared[rows, columns], kind="stable").tolist():
            row, column = int(rows[pair]), int(columns[pair])
            if row not in taken and column not in matched:
                taken.add(row)
                matched[column] = tracks[row]
        return matched

    def _see(self, track: Track, box: Box, corners: NDArray[np.float64], at_ns: int) -> None:
        if (ago_s := (at_ns - track.seen_ns) / NS_PER_S) > 0:
            moved = (corners - track.corners).reshape(2, 2).mean(axis=0) / ago_s
            speed = np.tile(moved, 2)
            track.speed = speed if track.hits == 1 else _SMOOTH * speed + (1 - _SMOOTH) * track.speed
        track.box, track.corners, track.seen_ns = box, corners, at_ns
        track.hits += 1


def overlaps(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each box of `left` with each of `right`."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (left, right)]
    either = areas[0][:, None] + areas[1] - inner
    shares: NDArray[np.float64] = np.divide(inner, either, out=np.zeros_like(inner), where=either > 0)
    return shares


def corners_of(box: Box) -> tuple[float, float, float, float]:
    """A box as x0, y0, x1, y1."""
    x, y, w, h = box.box
    return x, y, x + w, y + h
