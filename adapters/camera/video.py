"""Picture sources that OpenCV reads: a USB camera, a folder of images."""

from __future__ import annotations

import os
from pathlib import Path

# OpenCV reads this when it is imported; a setting of the user takes precedence
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))  # a file of 1 KiB can demand gigabytes

import cv2
import numpy as np

from adapters.base import AdapterError, DeviceUnreachable, Picture, ProtocolViolation
from adapters.camera.size import Size, after, check_size

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_MAX_IMAGE = 1 << 26  # bytes of one file in a folder

cv2.setNumThreads(1)  # several cameras in one daemon: the threads of one picture would starve the others
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Video:
    """A stream of pictures of one size from OpenCV."""

    rate_hz = 0.0
    damaged = False
    changes = 0
    unread = ""

    def __init__(self, name: str, capture: cv2.VideoCapture, size: Size | None, max_size: Size) -> None:
        self.name, self._capture = name, capture
        self._size, self._max_size = size, max_size
        announced = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        try:
            if all(announced):  # before the library allocates memory for it
                check_size(name, announced, size, max_size)
        except AdapterError:
            capture.release()
            raise

    def grab(self) -> bool:
        """Fetch the next picture; False at the end or when the stream failed."""
        self.changes += 1
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
            check_size(self.name, size, self._size, self._max_size)
            self._size = size
        return picture

    def ended(self, pictures: int) -> AdapterError | None:
        """The reason why the stream ended."""
        return DeviceUnreachable(f"{self.name} ended the stream {after(pictures)}")

    def close(self) -> None:
        """Give the device back."""
        self._capture.release()


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


class Folder:
    """The images of a folder, in order of their names; sizes may differ unless `size` is set."""

    damaged = False
    changes = 0
    unread = ""

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
        self.changes += 1
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
        check_size(str(file), (picture.shape[1], picture.shape[0]), self._size, self._max_size)
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
