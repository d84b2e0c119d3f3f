"""Inputs on which two models disagreed, kept on disk within a budget for somebody to look at.

state/samples/<slot>/<ms>-<number>.jpg  a picture whose faces and plates are hidden; results in its comment
state/samples/<slot>/<ms>-<number>.npz  a window, and `results`, the same in JSON
"""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapters.base import Picture
from agent.pipeline.frames.privacy import Privacy, Seen
from agent.pipeline.frames.snapshots import fitting_jpeg
from agent.pipeline.settings import SampleConfig
from agent.state_dir import keep
from wire.errors import EdgebedError

log = logging.getLogger("edgebed.model")

FOLDER = "samples"  # of the state folder
MAX_PICTURE = 36_000  # bytes: with its comment it fits the answer to a command
_HOUR_MS = 3_600_000
_NAME = re.compile(r"(\d{13,15})-\d{1,9}\.(jpg|npz)")
_MAX_RESULTS = 5_000  # bytes of a comment
_START, _COMMENT = b"\xff\xd8", b"\xff\xfe"  # of a JPEG


class SampleError(EdgebedError):
    """There is no such sample, or it cannot be read."""

    reason_code = "command-rejected"


@dataclass(frozen=True, slots=True)
class Sample:
    """One file; `at_ms` is when it was kept."""

    name: str
    at_ms: int
    size: int


class Samples:
    """The samples of one slot; every method blocks for the disk, and one thread at a time may call it.

    `counters` counts what was kept, and pictures that were not because their faces could not be hidden.
    """

    def __init__(self, folder: Path, config: SampleConfig, counters: Counter[str]) -> None:
        self._folder = folder
        self._config = config
        self._counters = counters
        self._kept: list[Sample] | None = None  # the oldest first; None until the folder was read
        self._number = 0

    def __len__(self) -> int:
        return len(self._kept or ())

    def wanted(self, now_ms: int) -> bool:
        """Whether the budget of the last hour has room."""
        within = sum(0 <= now_ms - each.at_ms < _HOUR_MS for each in self._files())
        return within < self._config.per_hour and self._config.max_mb > 0

    def picture(
        self, picture: Picture, seen: Seen | None, privacy: Privacy | None, results: object, now_ms: int
    ) -> None:
        """Keep a picture after `privacy` has hidden what must be hidden, or nothing where it is not sure."""
        hidden = None if privacy is None else privacy.hide(picture, seen)
        if hidden is None or hidden.how == "whole":
            self._counters["samples_unfiltered"] += 1
            return
        try:
            jpeg, _, _ = fitting_jpeg(hidden.picture, MAX_PICTURE)
        except EdgebedError as error:
            self._failed(error)
            return
        text = msgspec.json.encode(results)
        if len(text) > _MAX_RESULTS:
            text = b"{}"
        comment = _COMMENT + (len(text) + 2).to_bytes(2, "big") + text
        self._keep("jpg", _START + comment + jpeg.removeprefix(_START), now_ms)

    def window(self, rows: NDArray[Any], results: object, now_ms: int) -> None:
        """Keep a window."""
        body = io.BytesIO()
        np.savez_compressed(body, window=rows, results=np.array(msgspec.json.encode(results).decode()))
        self._keep("npz", body.getvalue(), now_ms)

    def _keep(self, kind: str, body: bytes, now_ms: int) -> None:
        """Write one file in one step, and remove the oldest above the budget first."""
        files = self._files()
        left = self._config.max_mb * 1e6 - len(body)
        if left < 0:
            self._counters["samples_too_large"] += 1
            return
        self._number += 1
        made = Sample(f"{now_ms:013d}-{self._number}.{kind}", now_ms, len(body))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while sum(each.size for each in files) > left:
                (self._folder / files[0].name).unlink(missing_ok=True)
                del files[0]
            keep(self._folder / made.name, body, mode=0o600)
        except OSError as error:
            self._failed(error)
            return
        files.append(made)
        self._counters["samples"] += 1

    def _files(self) -> list[Sample]:
        """What is there; the first call removes what a process that was killed left half written."""
        if self._kept is None:
            for half in self._folder.glob("*.new"):
                half.unlink(missing_ok=True)
            self._kept = listed(self._folder)
            numbers = [int(each.name.partition("-")[2].partition(".")[0]) for each in self._kept]
            self._number = max(numbers, default=0)
        return self._kept

    def _failed(self, error: Exception) -> None:
        if not self._counters["samples_failed"]:
            log.warning("%s: no sample is kept: %s", self._folder, error)
        self._counters["samples_failed"] += 1


def listed(folder: Path) -> list[Sample]:
    """The whole samples of a slot, the oldest first."""
    found = [
        Sample(path.name, int(match[1]), path.stat().st_size)
        for path in folder.glob("*")
        if (match := _NAME.fullmatch(path.name)) and path.is_file() and not path.is_symlink()
    ]
    return sorted(found, key=lambda each: (each.at_ms, each.name))


def read(folder: Path, name: str, most: int) -> bytes:
    """The content of one sample.

    Raises:
        SampleError: there is none of this name, or it has more than `most` bytes.
    """
    if not _NAME.fullmatch(name) or (folder / name).is_symlink():
        raise SampleError(f"{name!r} is not the name of a sample")
    if not (folder / name).is_file():  # opening a FIFO waits for a writer
        raise SampleError(f"there is no sample {name}")
    try:
        with (folder / name).open("rb") as file:
            body = file.read(most + 1)
    except OSError as error:
        raise SampleError(f"there is no sample {name}") from error
    if len(body) > most:
        raise SampleError(f"{name} has more than {most} bytes: copy it from {folder}")
    return body
