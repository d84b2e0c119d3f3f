"""Fills a model's input tensor from a picture or a window of signals; the buffers are allocated once.

A frame becomes `x = (pixel / scale - mean) / std` for each channel, pixels 0 to 255, after it was fitted to
the model's size and order of colours. A window becomes `x = (value - mean) / std` for each signal. Pictures
are scaled bilinearly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.base import Picture
from agent.inference.decoders import ModelError, Placement
from agent.inference.inputs import FrameInput, WindowInput, WindowPart

_MAX_SIDE = 16_384  # px; cameras give less


class FrameTensor:
    """Fills one tensor with pictures of any size; one thread at a time may use it.

    `tensor` is float32, float16 or uint8, in the shape of the layout; each `fill` overwrites it.
    """

    def __init__(self, spec: FrameInput, dtype: str = "float32") -> None:
        self._cv2 = _cv2()
        self._spec = spec
        width, height = spec.size
        channels = spec.channels
        nchw = spec.layout == "nchw"
        self.tensor: NDArray[Any] = np.zeros(spec.shape, dtype)
        self._fitted = np.full((height, width, 3), spec.pad, np.uint8)
        self._shape: tuple[int, ...] = ()  # shape of the last picture
        self._spot = self._fitted  # the part of `_fitted` with the picture
        self._cut: tuple[slice, slice] | None = None  # the centre of a picture that is larger than the input
        self._placement = Placement(0.0, 0.0, 1.0, 1.0)
        planes = np.empty((channels, height, width), np.uint8)
        self._planes = planes if nchw else planes.reshape(height, width, channels)
        # the planes are in the model's order; cv2.split writes blue, green, red to the given planes
        order = {"bgr": (0, 1, 2), "rgb": (2, 1, 0), "grey": (0,)}[spec.colour]
        self._targets = [planes[at] for at in order]
        self._gains, self._offsets = _affine(spec)

    def fill(self, picture: Picture) -> Placement:
        """Put `picture` (height, width, 3), BGR, into `tensor`; returns where it is there.

        Raises:
            ModelError: the picture has another shape or type.
        """
        if picture.shape != self._shape:
            self._place(picture)
        if picture.dtype != np.uint8:
            raise ModelError(f"a picture of {picture.dtype}; uint8 is needed")
        whole = self._fitted
        if picture.shape == self._spot.shape:
            if self._spot is self._fitted or self._cut is not None:
                whole = picture
            else:
                self._spot[:] = picture
        else:
            self._cv2.resize(
                picture, self._spot.shape[1::-1], dst=self._spot, interpolation=self._cv2.INTER_LINEAR
            )
            whole = self._fitted if self._cut is None else self._spot
        self._arrange(whole if self._cut is None else whole[self._cut])
        self._scale()
        return self._placement

    def _place(self, picture: Picture) -> None:
        """Compute where pictures of this size go in the tensor."""
        if (
            picture.ndim != 3
            or picture.shape[2] != 3
            or not 1 <= min(picture.shape) <= max(picture.shape) <= _MAX_SIDE
        ):
            raise ModelError(f"a picture of shape {picture.shape}; height x width x 3 is needed")
        spec = self._spec
        (width, height), (high, wide) = spec.size, picture.shape[:2]
        new_w, new_h, left, top = width, height, 0, 0
        if spec.fit == "letterbox":
            ratio = min(width / wide, height / high)
            new_w, new_h = max(1, round(wide * ratio)), max(1, round(high * ratio))
        elif spec.fit == "crop":
            new_w, new_h = self._before_crop(wide, high)
            left, top = -((new_w - width) // 2), -((new_h - height) // 2)
        if spec.fit == "letterbox" and spec.place == "centre":
            left, top = (width - new_w) // 2, (height - new_h) // 2
        self._fitted[:] = spec.pad
        self._cut = None
        if spec.fit == "crop":
            self._spot = np.empty((new_h, new_w, 3), np.uint8)
            self._cut = slice(-top, height - top), slice(-left, width - left)
        else:
            whole = (new_w, new_h) == (width, height)
            self._spot = self._fitted if whole else self._fitted[top : top + new_h, left : left + new_w]
        self._placement = Placement(float(left), float(top), 1 / new_w, 1 / new_h)
        self._shape = picture.shape

    def _before_crop(self, wide: int, high: int) -> tuple[int, int]:
        """Width and height to which a picture is scaled before its centre is cut out."""
        width, height = self._spec.size
        if len(self._spec.resize) == 2:
            return self._spec.resize[0], self._spec.resize[1]
        side = self._spec.resize[0] / min(wide, high) if self._spec.resize else 0.0
        ratio = max(side, width / wide, height / high)
        if max(wide, high) * ratio > _MAX_SIDE:
            raise ModelError(f"a picture of {wide}x{high} is too long and thin to cut its centre out")
        return max(width, round(wide * ratio)), max(height, round(high * ratio))

    def _arrange(self, fitted: Picture) -> None:
        cv2, spec = self._cv2, self._spec
        if spec.colour == "grey":
            cv2.cvtColor(fitted, cv2.COLOR_BGR2GRAY, dst=self._targets[0])
        elif spec.layout == "nchw":
            cv2.split(fitted, self._targets)
        elif spec.colour == "rgb":
            cv2.cvtColor(fitted, cv2.COLOR_BGR2RGB, dst=self._planes)
        else:
            self._planes[:] = fitted

    def _scale(self) -> None:
        tensor = self.tensor[0]
        if tensor.dtype.kind != "f":
            tensor[:] = self._planes  # a model that takes whole numbers scales its input itself
            return
        np.multiply(self._planes, self._gains, out=tensor, dtype=tensor.dtype, casting="unsafe")
        if self._offsets is not None:
            np.add(tensor, self._offsets, out=tensor, casting="unsafe")


class WindowTensor:
    """Fills one tensor with windows of signals, or with a part of them; one thread at a time may use it."""

    def __init__(self, spec: WindowInput, dtype: str = "float32", part: WindowPart | None = None) -> None:
        part = part or spec.parts[0]
        self.tensor: NDArray[Any] = np.zeros(part.dims, dtype)
        rows, signals = part.rows, len(part.signals)
        if part.layout == "signal-time":
            self._rows = self.tensor.reshape(signals, rows).T
        else:
            self._rows = self.tensor.reshape(rows, signals)
        self._length, self._signals = spec.length, len(spec.signals)
        columns = [spec.signals.index(name) for name in part.signals]
        self._columns = columns if part.signals != spec.signals else None
        self._begin = spec.length - rows
        std = np.array(spec.std or [1.0] * self._signals, np.float64)[columns]
        mean = np.array(spec.mean or [0.0] * self._signals, np.float64)[columns]
        exact = np.dtype(dtype).kind != "f" or dtype == "float64"
        kind = np.float64 if exact else np.float32
        # one number for all signals is faster than one for each
        self._gain: Any
        self._offset: Any
        self._gain, self._offset = (
            kind(each[0]) if (each == each[0]).all() else each.astype(kind) for each in (1 / std, -mean / std)
        )
        self._shifts = bool(mean.any())
        self._scaled = np.zeros((rows, signals)) if np.dtype(dtype).kind in "iu" else None

    def fill(self, window: NDArray[Any]) -> None:
        """Put `window` (length, signals), rows in time order, into `tensor`.

        Raises:
            ModelError: the window has another shape.
        """
        if window.shape != (self._length, self._signals):
            raise ModelError(f"a window of shape {window.shape}; {(self._length, self._signals)} is needed")
        if self._begin:
            window = window[self._begin :]
        if self._columns is not None:
            window = window[:, self._columns]
        if self._scaled is not None:
            self._fill_whole(window, self._scaled)
        elif self.tensor.dtype == np.bool_:
            np.not_equal(window * self._gain + self._offset, 0, out=self._rows)
        else:
            np.multiply(window, self._gain, out=self._rows, casting="unsafe")
            if self._shifts:
                np.add(self._rows, self._offset, out=self._rows, casting="unsafe")

    def _fill_whole(self, window: NDArray[Any], scaled: NDArray[np.float64]) -> None:
        """Round to whole numbers, and to the smallest or largest that the type has."""
        limits = np.iinfo(self.tensor.dtype)
        if window.dtype.kind in "iu" and np.all(self._gain == 1) and not self._shifts:
            np.clip(window, limits.min, limits.max, out=self._rows, casting="unsafe")
            return
        np.multiply(window, self._gain, out=scaled)
        np.add(scaled, self._offset, out=scaled)
        np.rint(np.nan_to_num(scaled, copy=False), out=scaled)
        most = float(limits.max)
        if most > limits.max:  # it is not a number of a double: the next smaller one is
            most = np.nextafter(most, 0)
        np.clip(scaled, float(limits.min), most, out=scaled)
        self._rows[...] = scaled


def _affine(spec: FrameInput) -> tuple[Any, Any]:
    """Gain and offset of `x = pixel * gain + offset`: one number for all channels, or one per channel."""
    channels = spec.channels
    std = np.array(spec.std or [1.0] * channels)
    mean = np.array(spec.mean or [0.0] * channels)
    gains, offsets = 1 / (spec.scale * std), -mean / std
    shape = (channels, 1, 1) if spec.layout == "nchw" else (channels,)
    gain = np.float32(gains[0]) if (gains == gains[0]).all() else gains.astype(np.float32).reshape(shape)
    if not offsets.any():
        return gain, None
    same = (offsets == offsets[0]).all()
    return gain, np.float32(offsets[0]) if same else offsets.astype(np.float32).reshape(shape)


def _cv2() -> Any:
    try:
        import cv2  # only frame models need it
    except ImportError as error:
        raise ModelError("models of pictures need OpenCV: pip install 'edgebed[camera]'") from error
    cv2.setNumThreads(1)  # a second thread saves no time at these sizes and takes another core
    return cv2
