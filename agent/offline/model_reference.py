"""Makes the reference of a model package from recordings, or rows, of the input that it was made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.base import Reading
from agent.inference import reference
from agent.inference.inputs import WindowInput
from agent.inference.manifest import Manifest
from agent.inference.reference import Reference
from agent.offline.mcap_file import McapReader, RecordingError
from agent.pipeline.input_watch import LOOK_NS, fresh, measured
from agent.pipeline.windows import Windows, input_mismatch
from wire.clock import NS_PER_S
from wire.messages import Stream

_Pieces = list[tuple[int, NDArray[Any]]]


def from_recordings(
    manifest: Manifest, recordings: Sequence[Path], window_s: float, source: str = ""
) -> Reference:
    """The reference of the stream `source` (device/stream); without it of the one that the model can see.

    Raises:
        RecordingError: a recording cannot be read, or has no such stream.
        ModelError: they are too short.
    """
    names = reference.features(manifest.input)
    return reference.make(names, window_s, [_pieces(manifest, path, source) for path in recordings])


def from_rows(manifest: Manifest, sessions: Iterable[NDArray[Any]], window_s: float) -> Reference:
    """The reference of sessions of rows at the rate of the model; of pictures, of their features each second.

    Raises:
        ModelError: they are too short.
    """
    spec = manifest.input
    rate_hz = spec.rate_hz if isinstance(spec, WindowInput) else NS_PER_S / LOOK_NS
    pieces = (list(by_second(rows, rate_hz)) for rows in sessions)
    return reference.make(reference.features(spec), window_s, pieces)


def by_second(rows: NDArray[Any], rate_hz: float) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows as a watch takes them: about a second at once, with the time of the last one."""
    step = max(1, round(rate_hz))
    for end in range(step, len(rows) + 1, step):
        yield round(end / rate_hz * NS_PER_S), rows[end - step : end].astype(np.float32)


def _pieces(manifest: Manifest, path: Path, source: str) -> _Pieces:
    """What the agent would have seen of a recording: rows, or features of pictures, with their times."""
    reader = McapReader(path)
    seen: dict[str, _Input] = {}
    unfit: dict[str, str] = {}  # the other streams, and why the model cannot see them
    for item in reader.records():
        if (reading := item.reading) is None or (at := f"{item.device}/{reading.stream}") in unfit:
            continue
        if at not in seen:
            stream = reader.session.streams[item.device][reading.stream]
            other = source not in ("", at)
            why = "another was asked for" if other else input_mismatch(manifest, at, stream)
            if why:
                unfit[at] = why
                continue
            seen[at] = _Input(manifest, stream)
        seen[at].add(reading)
    if len(seen) == 1:
        return next(iter(seen.values())).pieces
    if seen:
        raise RecordingError(f"{path}: the model can see {', '.join(seen)}: choose one with --input")
    wanted = source or "that the model can see"
    reasons = "".join(f"; {at}: {why}" for at, why in unfit.items())
    raise RecordingError(f"{path}: it has no stream {wanted}{reasons}")


class _Input:
    """What the agent would see of one stream."""

    def __init__(self, manifest: Manifest, stream: Stream) -> None:
        spec = manifest.input
        self.pieces: _Pieces = []
        self._windows = Windows(spec, stream, Counter()) if isinstance(spec, WindowInput) else None
        self._end = 0

    def add(self, reading: Reading) -> None:
        if self._windows is not None:
            window = self._windows.add(reading.at_ns, reading.values, reading.quality)
            if window is not None:
                self.pieces.append((reading.at_ns, fresh(window, self._end)))
                self._end = window.end
        elif reading.picture is not None and self._is_due(reading.at_ns):
            self.pieces.append((reading.at_ns, measured(reading.picture)[None, :]))

    def _is_due(self, at_ns: int) -> bool:
        return not self.pieces or not 0 <= at_ns - self.pieces[-1][0] < LOOK_NS
