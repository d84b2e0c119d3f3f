"""A street camera on RTSP: a seeded scene with known truth, a recorded clip, or a folder of pictures."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

os.environ.setdefault(
    "OPENCV_FFMPEG_LOGLEVEL", "-8"
)  # read when the library is loaded: this module reports the errors

import cv2
import numpy as np

from simulators.devices.camera.rtp import CLOCK_HZ, MAX_SIDE
from simulators.devices.camera.rtsp import RtspServer
from simulators.faults.fault import DeviceFaults, FaultKind, FaultKinds
from simulators.plants.scene import Scene, Truth
from simulators.plants.scenery import Picture
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.errors import EdgebedError
from wire.task_cancellation import end

log = logging.getLogger(__name__)

cv2.setNumThreads(1)  # leave the other cores to the programs under test
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

FAULTS: FaultKinds = {
    "covered": "the lens is covered: pictures are black",
    "busy": "no bandwidth is left: new viewers are refused (status 453)",
    "lossy": FaultKind("one RTP packet in twenty is missing", largest=20.0),
    "frozen": "the same picture again and again",
    "silent": "no pictures; the connection stays up",
}
_LOST = 0.05  # share of the packets that a lossy line of size 1 loses
_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class CameraError(EdgebedError):
    """The camera cannot show this, or does not know it."""


class StreetCamera:
    """`async with StreetCamera(seed=1) as camera:` serves `camera.url` until the block ends.

    Pictures follow the clock's schedule: number i is due at `start_ns` + i / fps. They are made only while
    there are viewers, once for all of them; where this takes too long, numbers are skipped (`skipped`).
    `clip` is a video file or a folder of pictures, repeated without end instead of the scene.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        clip: Path | str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        size: tuple[int, int] = (640, 480),
        fps: float = 0.0,
        quality: int = 85,
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not (0.0 <= fps <= 240.0 and 1 <= quality <= 100):
            raise CameraError(
                f"{fps} frames a second at quality {quality} are not possible: up to 240, and 1 to 100"
            )
        self.clock = clock or Clock()
        self.skipped = 0
        self.index = -1  # of the newest picture sent
        self.start_ns = 0  # time of picture 0
        self._faults = DeviceFaults(FAULTS, faults=faults)
        self.fps = fps  # 0 until it is open: the clip's own
        self._film_of = (seed, clip, size, fps)
        self._source: _Source | None = None
        self._quality = [cv2.IMWRITE_JPEG_QUALITY, quality]
        self._server = RtspServer("street", host=host, port=port, user=user, password=password, tls=tls)
        self._server.is_busy = lambda: bool(self._faults.size("busy", max(0.0, self._elapsed_s())))
        self._line = random.Random(seed)  # loses packets
        self._studio: ThreadPoolExecutor | None = None
        self._filming: asyncio.Task[None] | None = None
        self._began_ns = 0  # picture 0 on the clock's monotonic time, which never steps

    @property
    def url(self) -> str:
        """`rtsp://host:port/street`, without credentials."""
        return self._server.url

    @property
    def port(self) -> int:
        """The TCP port, known once it is open."""
        return self._server.port

    @property
    def viewers(self) -> int:
        """The number of viewers."""
        return self._server.viewers

    @property
    def counters(self) -> dict[str, int]:
        """Numbers of refused and dropped things since the start, by name."""
        return {**self._server.counters, "pictures_skipped": self.skipped}

    @property
    def period_ns(self) -> int:
        """The time from picture to picture."""
        return round(NS_PER_S / self.fps)

    def truth(self, at_ns: int) -> Mapping[str, int]:
        """The number of things by label, and `n` of all, in the picture that was newest at `at_ns`.

        A covered or frozen lens does not change the truth. Empty before picture 0, and for a recording.
        """
        # times are sent in whole milliseconds, rounded down
        frame = math.floor((at_ns + NS_PER_MS - self.start_ns) * self.fps / NS_PER_S)
        if frame < 0 or not isinstance(self._source, _Scenery):
            return {}
        counts = self._source.scene.counts(frame)
        return {"n": sum(counts.values()), **counts}

    def inject(self, fault: str) -> None:
        """Break something from now on, or from the fault's own start where that is later.

        Raises:
            ValueError: there is no such fault.
        """
        self._faults.add(fault, max(0.0, self._elapsed_s()) if self._source else 0.0)

    def repair(self) -> None:
        """Remove every fault."""
        self._faults.clear()

    def truth_at(self, frame: int) -> Truth:
        """What can be seen in picture `frame`: (label, x, y, w, h) in px.

        Raises:
            CameraError: a recording has no truth.
        """
        return self._scene().truth(frame)

    def counts_at(self, frame: int) -> dict[str, int]:
        """The number of things by label in picture `frame`.

        Raises:
            CameraError: a recording has no truth.
        """
        return self._scene().counts(frame)

    def _scene(self) -> Scene:
        if not isinstance(self._source, _Scenery):
            raise CameraError("there is no ground truth: the camera is closed, or shows a recording")
        return self._source.scene

    async def __aenter__(self) -> Self:
        """Open the clip and the port.

        Raises:
            CameraError: the clip cannot be shown.
            TryAgain: the port is in use.
        """
        source = await asyncio.to_thread(_open, *self._film_of)
        try:
            self.fps = self._server.rate_hz = self.fps or source.fps
            await self._server.__aenter__()
        except BaseException:
            source.close()
            raise
        self._studio = ThreadPoolExecutor(1, thread_name_prefix="street-camera")
        self._source = source
        now_ns, period_ns = self.clock.now_ns(), self.period_ns
        self.start_ns = -(-now_ns // period_ns) * period_ns
        self._began_ns = self.clock.monotonic_ns() + self.start_ns - now_ns
        self._filming = asyncio.create_task(self._film(source), name="street-camera")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._filming is None or self._source is None or self._studio is None:
            return
        await end([self._filming])
        await self._server.__aexit__(kind, error, trace)
        self._studio.shutdown(wait=True, cancel_futures=True)
        self._source.close()

    async def _film(self, source: _Source) -> None:
        try:
            await self._shoot(source)
        except EdgebedError as error:  # the clip was taken away or damaged while it ran
            log.error("camera %s stops: %s", self.url, error)
            await self._server.__aexit__(None, None, None)

    async def _shoot(self, source: _Source) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._server.someone_plays.is_set():
                await self._server.someone_plays.wait()
                self.index = max(self.index, math.ceil(self._elapsed_s() * self.fps) - 1)
            due = max(self.index + 1, math.floor(self._elapsed_s() * self.fps + 1e-6))
            jpeg = await loop.run_in_executor(self._studio, self._jpeg, source, due)
            after_ns = round(due * NS_PER_S / self.fps)
            left_ns = self._began_ns + after_ns - self.clock.monotonic_ns()
            await self.clock.sleep_until(self.clock.now_ns() + left_ns)
            self.skipped += due - self.index - 1  # together with `index`: readers compare the two
            self.index = due
            if jpeg:
                timestamp = round(due / self.fps * CLOCK_HZ)
                share = _LOST * self._faults.size("lossy", due / self.fps)
                self._server.publish(jpeg, timestamp, self.start_ns + after_ns, self._loses(share))

    def _loses(self, share: float) -> Callable[[], bool] | None:
        return (lambda: self._line.random() < share) if share else None

    def _jpeg(self, source: _Source, index: int) -> bytes:
        at_s = index / self.fps
        if self._faults.size("silent", at_s):
            return b""
        for frozen in self._faults.active("frozen", at_s):
            index = min(index, math.ceil(frozen.start_s * self.fps))
        picture = source.picture(index)
        if self._faults.size("covered", at_s):
            picture = np.zeros_like(picture)
        _, jpeg = cv2.imencode(".jpg", picture, self._quality)
        return jpeg.tobytes()

    def _elapsed_s(self) -> float:
        return (self.clock.monotonic_ns() - self._began_ns) / NS_PER_S


class _Source(Protocol):
    fps: float

    def picture(self, index: int) -> Picture:
        """Picture `index`; called from one thread, with rising indices unless the lens is frozen."""

    def close(self) -> None:
        """Close files."""


class _Scenery:
    def __init__(self, scene: Scene) -> None:
        self.scene, self.fps = scene, scene.fps

    def picture(self, index: int) -> Picture:
        return self.scene.frame(index)

    def close(self) -> None:
        pass


class _Clip:
    """A video file, repeated without end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._video = self._begin()
        self._next = 0
        self._last: Picture | None = None
        rate = self._video.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate <= 240 else 25.0

    def picture(self, index: int) -> Picture:
        if index < self._next and self._last is not None:
            return self._last  # a frozen lens
        while self._next < index:  # those that were skipped
            if not self._video.grab():
                self._rewind()
                self._video.grab()
            self._next += 1
        done, picture = self._video.read()
        if not done:
            self._rewind()
            done, picture = self._video.read()
        if not done:
            raise CameraError(f"{self._path} cannot be decoded any more")
        self._next += 1
        self._last = _fitting(picture)
        return self._last

    def close(self) -> None:
        self._video.release()

    def _begin(self) -> cv2.VideoCapture:
        video = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not video.isOpened() or not video.grab():
            video.release()
            raise CameraError(f"{self._path} is not a video that can be decoded")
        video.release()
        return cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)

    def _rewind(self) -> None:
        self._video.release()
        self._video = self._begin()


class _Folder:
    """The pictures of a folder by name, repeated without end, all in the size of the first one."""

    fps = 1.0

    def __init__(self, path: Path) -> None:
        self._files = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        if not self._files:
            raise CameraError(f"{path} has no picture ({', '.join(_PICTURES)})")
        first = self._read(0)
        self._size = (first.shape[1], first.shape[0])

    def picture(self, index: int) -> Picture:
        picture = self._read(index % len(self._files))
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = _resized(picture, self._size)
        return picture

    def close(self) -> None:
        pass

    def _read(self, number: int) -> Picture:
        picture = cv2.imread(str(self._files[number]), cv2.IMREAD_COLOR)
        if picture is None:
            raise CameraError(f"{self._files[number]} is not a picture that can be decoded")
        return _fitting(picture)


def _open(seed: int, clip: Path | str | None, size: tuple[int, int], fps: float) -> _Source:
    if clip is None:
        width, height = size
        if width % 8 or height % 8 or not (64 <= width <= MAX_SIDE and 64 <= height <= MAX_SIDE):
            raise CameraError(f"a picture of {width}x{height} px: sides are multiples of 8, 64 to {MAX_SIDE}")
        return _Scenery(Scene(seed, width, height, fps or 10.0))
    path = Path(clip)
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise CameraError(f"there is no clip {path}")
    return _Clip(path)


def _fitting(decoded: cv2.typing.MatLike) -> Picture:
    """Fit a picture to RTP/JPEG: sides of up to 2,040 px, cut to multiples of 8."""
    picture = decoded.astype(np.uint8, copy=False)
    height, width = picture.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    if scale < 1.0:
        small = (round(width * scale), round(height * scale))
        picture = _resized(picture, small)
        height, width = picture.shape[:2]
    if height < 8 or width < 8:
        raise CameraError(f"a picture of {width}x{height} px is too small")
    return picture[: height - height % 8, : width - width % 8]


def _resized(picture: Picture, size: tuple[int, int]) -> Picture:
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
