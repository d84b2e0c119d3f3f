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
from agent.inference.inputs import FrameInput, WindowInput

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
            if self._spot is self._fitted:
                whole = picture
            else:
                self._spot[:] = picture
        else:
            self._cv2.resize(
                picture, self._spot.shape[1::-1], dst=self._spot, interpolation=self._cv2.INTER_LINEAR
            )
        self._arrange(whole)
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
            if spec.place == "centre":
                left, top = (width - new_w) // 2, (height - new_h) // 2
        self._fitted[:] = spec.pad
        whole = (new_w, new_h) == (width, height)
        self._spot = self._fitted if whole else self._fitted[top : top + new_h, left : left + new_w]
        self._placement = Placement(float(left), float(top), 1 / new_w, 1 / new_h)
        self._shape = picture.shape

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
        if tensor.dtype == np.uint8:
            tensor[:] = self._planes  # a uint8 model scales its input itself
            return
        np.multiply(self._planes, self._gains, out=tensor, dtype=tensor.dtype, casting="unsafe")
        if self._offsets is not None:
            np.add(tensor, self._offsets, out=tensor, casting="unsafe")


class WindowTensor:
    """Fills one tensor with windows of signals; one thread at a time may use it."""

    def __init__(self, spec: WindowInput, dtype: str = "float32") -> None:
        self.tensor: NDArray[Any] = np.zeros(spec.shape, dtype)
        rows = self.tensor[0] if spec.layout != "flat" else self.tensor.reshape(spec.length, -1)
        self._rows = rows.T if spec.layout == "signal-time" else rows
        std = np.array(spec.std or [1.0], np.float64)
        self._gain = (1 / std).astype(np.float32)
        self._offset = (-np.array(spec.mean or [0.0]) / std).astype(np.float32)

    def fill(self, window: NDArray[np.float32]) -> None:
        """Put `window` (length, signals), rows in time order, into `tensor`.

        Raises:
            ModelError: the window has another shape.
        """
        rows = self._rows
        if window.shape != rows.shape:
            raise ModelError(f"a window of shape {window.shape}; {rows.shape} is needed")
        np.multiply(window, self._gain, out=rows, casting="unsafe")
        np.add(rows, self._offset, out=rows, casting="unsafe")


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
