"""The inputs that a manifest can describe: pictures, and windows of signals."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Key = Annotated[str, Meta(min_length=1, max_length=256)]


class FrameInput(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A picture: `x = (pixel / scale - mean) / std` for each channel, pixels 0 to 255."""

    kind: Annotated[Literal["frame"], Meta(description="The model sees single pictures.")]
    name: Annotated[Key, Meta(description="Name of the model's input.")]
    size: Annotated[
        tuple[Annotated[int, Meta(ge=8, le=4096)], Annotated[int, Meta(ge=8, le=4096)]],
        Meta(description="Width and height in pixels."),
    ]
    colour: Annotated[Literal["bgr", "rgb", "grey"], Meta(description="Order of the channels.")] = "rgb"
    scale: Annotated[float, Meta(gt=0, description="Pixels are divided by this first.")] = 255.0
    mean: Annotated[
        list[float], Meta(max_length=3, description="Subtracted next, one number per channel.")
    ] = []
    std: Annotated[
        list[float],
        Meta(max_length=3, description="Then divided by this, one number per channel."),
    ] = []
    fit: Annotated[
        Literal["stretch", "letterbox"],
        Meta(description="Fill the input, or keep the shape of the picture and pad."),
    ] = "stretch"
    place: Annotated[
        Literal["centre", "corner"], Meta(description="Where a letterboxed picture is; YOLOX uses corner.")
    ] = "centre"
    pad: Annotated[int, Meta(ge=0, le=255, description="Value of the padding's pixels.")] = 114
    layout: Annotated[Literal["nchw", "nhwc"], Meta(description="Order of the tensor's dimensions.")] = "nchw"

    @property
    def channels(self) -> int:
        """1 for grey, else 3."""
        return 1 if self.colour == "grey" else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        width, height = self.size
        if self.layout == "nchw":
            return (1, self.channels, height, width)
        return (1, height, width, self.channels)


class WindowInput(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A window of signals, rows in time order: `x = (value - mean) / std` for each signal."""

    kind: Annotated[Literal["window"], Meta(description="The model sees windows of signals.")]
    name: Annotated[Key, Meta(description="Name of the model's input.")]
    signals: Annotated[
        list[str],
        Meta(min_length=1, max_length=1024, description="Fields of the stream, in the model's order."),
    ]
    rate_hz: Annotated[
        float, Meta(ge=1e-6, le=1e6, description="Rows per second that the model was made for.")
    ]
    length: Annotated[int, Meta(ge=1, le=100_000, description="Rows in a window.")]
    hop: Annotated[int, Meta(ge=1, le=100_000, description="Rows from one window to the next.")] = 1
    mean: Annotated[list[float], Meta(description="Subtracted from each signal.")] = []
    std: Annotated[list[float], Meta(description="Then divided by this.")] = []
    layout: Annotated[
        Literal["time-signal", "signal-time", "flat"],
        Meta(description="Tensor [1, length, signals], [1, signals, length], or [1, length * signals]."),
    ] = "time-signal"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        length, signals = self.length, len(self.signals)
        if self.layout == "flat":
            return (1, length * signals)
        return (1, length, signals) if self.layout == "time-signal" else (1, signals, length)


Input = FrameInput | WindowInput
