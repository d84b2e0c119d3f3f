"""Picture sources that OpenCV reads: a network stream, a USB camera, a video file, a folder of images."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

# OpenCV reads these when it is imported; settings of the user take precedence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # no log: the errors say what matters
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))  # a file of 1 KiB can demand gigabytes

import cv2
import numpy as np

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, Picture, ProtocolViolation

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
Size = tuple[int, int]  # width, height

_MAX_IMAGE = 1 << 26  # bytes of one file in a folder
_LOST = 0.1  # share of a file's pictures that may be missing: some containers only estimate the number
_FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"

cv2.setNumThreads(1)  # several cameras in one daemon: the threads of one picture would starve the others
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_environment = threading.Lock()


class Video:
    """A stream of pictures of one size."""

    rate_hz = 0.0

    def __init__(self, name: str, capture: cv2.VideoCapture, size: Size | None, max_size: Size) -> None:
        self.name, self._capture = name, capture
        self._size, self._max_size = size, max_size
        announced = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        try:
            if all(announced):  # before the library allocates memory for it
                _check_size(name, announced, size, max_size)
        except AdapterError:
            capture.release()
            raise

    def grab(self) -> bool:
        """Fetch the next picture; False at the end or when the stream failed."""
        return self._capture.grab()

    def picture(self) -> Picture:
        """Decode the picture that was grabbed into a new array.

        Raises:
            ProtocolViolation: it cannot be decoded, or has another size than declared.
        """
        done, picture = _decoded(self.name, self._capture)
        if not done:
            raise ProtocolViolation(f"{self.name} sent a picture that cannot be decoded")
        size = (picture.shape[1], picture.shape[0])
        if size != self._size:
            _check_size(self.name, size, self._size, self._max_size)
            self._size = size
        return picture

    def ended(self, pictures: int) -> AdapterError | None:
        """The reason why the stream ended."""
        return DeviceUnreachable(f"{self.name} ended the stream {_after(pictures)}")

    def close(self) -> None:
        """Give the device back."""
        self._capture.release()


class Network(Video):
    """An RTSP stream; it ends at once when it is cut, and after `read_timeout_s` of silence."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        transport: Literal["tcp", "udp"],
        ca_file: Path | None,
        open_timeout_s: float,
        read_timeout_s: float,
        size: Size | None,
        max_size: Size,
    ) -> None:
        parameters = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_timeout_s * 1000)),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_timeout_s * 1000)),
            *(cv2.CAP_PROP_N_THREADS, 1),  # frame threads hold pictures back and take a core each
        ]
        began = time.monotonic()
        # without fpsprobesize FFmpeg collects 20 pictures before it returns the first, which is old by then
        trust = f"|tls_verify;1|ca_file;{ca_file}" if ca_file else ""
        with _ffmpeg_options(f"rtsp_transport;{transport}|fpsprobesize;0{trust}"):
            capture = _opened(url, cv2.CAP_FFMPEG, parameters)
        if capture is None:
            late = time.monotonic() - began >= 0.9 * open_timeout_s
            within = f" within {open_timeout_s:.1f} s" if late else ""
            raise DeviceUnreachable(f"{name} did not start its stream{within}")
        super().__init__(name, capture, size, max_size)
        self._read_timeout_s = read_timeout_s
        self._asked = time.monotonic()

    def grab(self) -> bool:
        """Wait for the next picture; False when the stream was cut, or silent for `read_timeout_s`."""
        self._asked = time.monotonic()
        return super().grab()

    def ended(self, pictures: int) -> AdapterError | None:
        """The reason why the stream ended: cut or silent."""
        if time.monotonic() - self._asked >= 0.9 * self._read_timeout_s:
            silent = f"{self.name} sent nothing for {self._read_timeout_s:g} s, {_after(pictures)}"
            return DeviceStalled(silent).coded("device-silent", seconds=self._read_timeout_s)
        return super().ended(pictures)


class Usb(Video):
    """A camera at /dev/video<number>."""

    def __init__(self, number: int, *, size: Size | None, max_size: Size, fps: float) -> None:
        path = Path(f"/dev/video{number}")
        if not path.exists():
            raise DeviceUnreachable(f"{path} does not exist: is the camera plugged in? ls /dev/video*").coded(
                "device-missing", where=str(path)
            )
        if not os.access(path, os.R_OK | os.W_OK):
            raise DeviceUnreachable(f"{path}: permission denied: add this user to the group video").coded(
                "permission-denied", where=str(path)
            )
        parameters: list[int] = []
        if size is not None:
            parameters += [cv2.CAP_PROP_FRAME_WIDTH, size[0], cv2.CAP_PROP_FRAME_HEIGHT, size[1]]
        if fps:
            parameters += [cv2.CAP_PROP_FPS, round(fps)]
        capture = _opened(number, cv2.CAP_V4L2, parameters)
        if capture is None:
            raise DeviceUnreachable(
                f"{path} cannot be opened: another program may use it, or it is not a camera"
            )
        super().__init__(str(path), capture, size, max_size)


class Clip(Video):
    """A video file, at its recorded rate."""

    def __init__(self, path: Path, *, size: Size | None, max_size: Size) -> None:
        if not path.is_file():
            raise DeviceUnreachable(f"file {path} does not exist")
        with _ffmpeg_options(
            "protocol_whitelist;file"
        ):  # a playlist with the name of a video would connect to the network
            capture = _opened(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if capture is None:
            raise ProtocolViolation(
                f"{path} is not a video that can be decoded: another kind of file, or cut off"
            )
        super().__init__(str(path), capture, size, max_size)
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate if 0 < rate <= 240 else 25.0
        self._pictures = int(max(0.0, min(capture.get(cv2.CAP_PROP_FRAME_COUNT), 1e9)))

    def ended(self, pictures: int) -> AdapterError | None:
        """None where about as many pictures were decoded as the file announces."""
        if not pictures:
            return ProtocolViolation(f"{self.name} contains no picture that can be decoded")
        if pictures < (1 - _LOST) * self._pictures:
            return ProtocolViolation(
                f"{self.name} is damaged: {pictures} of {self._pictures} pictures can be decoded"
            )
        return None


class Folder:
    """The images of a folder, in order of their names; sizes may differ unless `size` is set."""

    def __init__(self, path: Path, *, size: Size | None, max_size: Size, fps: float) -> None:
        if not path.is_dir():
            raise DeviceUnreachable(f"folder {path} does not exist")
        self._files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
        if not self._files:
            raise DeviceUnreachable(f"folder {path} contains no image ({', '.join(IMAGES)})")
        self.rate_hz = fps
        self._size, self._max_size = size, max_size
        self._next = 0

    def grab(self) -> bool:
        """Advance to the next file; False after the last."""
        self._next += 1
        return self._next <= len(self._files)

    def picture(self) -> Picture:
        """Decode the current file.

        Raises:
            ProtocolViolation: it is not an image, or has another size than declared.
        """
        file = self._files[self._next - 1]
        try:
            with file.open("rb") as stream:
                raw = np.frombuffer(stream.read(_MAX_IMAGE + 1), np.uint8)
            picture = cv2.imdecode(raw, cv2.IMREAD_COLOR) if 0 < raw.size <= _MAX_IMAGE else None
        except OSError as error:
            raise DeviceUnreachable(f"{file} cannot be read: {error.strerror}") from error
        except cv2.error as error:
            raise ProtocolViolation(f"{file} is an image that is too large or damaged") from error
        if picture is None:
            raise ProtocolViolation(f"{file} is not an image that can be decoded, or is too large")
        _check_size(str(file), (picture.shape[1], picture.shape[0]), self._size, self._max_size)
        return picture  # type: ignore[return-value]  # IMREAD_COLOR gives uint8 of three colours

    def ended(self, pictures: int) -> AdapterError | None:  # noqa: ARG002 - the end of a folder is always a regular one
        """None: a folder ends with its last file."""
        return None

    def close(self) -> None:
        """Do nothing: no file is open between two pictures."""


def _opened(what: str | int, api: int, parameters: list[int]) -> cv2.VideoCapture | None:
    try:
        capture = cv2.VideoCapture(what, api, parameters)
    except cv2.error:
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


def _decoded(name: str, capture: cv2.VideoCapture) -> tuple[bool, Picture]:
    try:
        done, picture = capture.retrieve()
    except cv2.error as error:
        raise ProtocolViolation(f"{name} sent a picture that cannot be converted") from error
    good = done and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    return good, picture  # type: ignore[return-value]  # checked where `good`


def _check_size(name: str, found: Size, wanted: Size | None, highest: Size) -> None:
    if wanted is not None and found != wanted:
        raise ProtocolViolation(f"{name} sends pictures of {_px(found)}, not of {_px(wanted)}")
    if found[0] > highest[0] or found[1] > highest[1]:
        raise ProtocolViolation(
            f"{name} sends pictures of {_px(found)}; up to {_px(highest)} are allowed (max_size)"
        )


def _px(size: Size) -> str:
    return f"{size[0]}x{size[1]} px"


def _after(pictures: int) -> str:
    return f"after {pictures} pictures" if pictures else "before its first picture"


@contextlib.contextmanager
def _ffmpeg_options(options: str) -> Iterator[None]:
    """Set FFmpeg's options. OpenCV reads them from the environment, so captures are opened one by one."""
    if not _environment.acquire(timeout=60.0):
        raise DeviceStalled("another camera hangs while it is opened: restart the agent")
    before = os.environ.get(_FFMPEG_OPTIONS)
    os.environ[_FFMPEG_OPTIONS] = options
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FFMPEG_OPTIONS]
        else:
            os.environ[_FFMPEG_OPTIONS] = before
        _environment.release()
