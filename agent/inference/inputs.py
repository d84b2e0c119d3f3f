"""The inputs that a manifest can describe: pictures, and windows of signals."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

Key = Annotated[str, Meta(min_length=1, max_length=256)]
_Side = Annotated[int, Meta(ge=8, le=4096)]
Layout = Literal["time-signal", "signal-time", "flat", "scalar"]
# names of inputs of the model, and what they get
Constants = Annotated[
    dict[Key, Any],
    Meta(max_length=16, description="Inputs that are always the same: name to number, or to nested lists."),
]
Shape = Annotated[
    list[Annotated[int, Meta(ge=1, le=16_000_000)]],
    Meta(max_length=8, description="The tensor's dimensions, if they are not those of the layout."),
]


class FrameInput(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A picture: `x = (pixel / scale - mean) / std` for each channel, pixels 0 to 255."""

    kind: Annotated[Literal["frame"], Meta(description="The model sees single pictures.")]
    name: Annotated[Key, Meta(description="Name of the model's input.")]
    size: Annotated[
        tuple[_Side, _Side],
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
    fit: (
        Annotated[
            Literal["stretch", "letterbox", "crop"],
            Meta(
                description="Fill the input; keep the shape of the picture and pad; or keep it and cut off "
                "what is outside of the centre. Default: letterbox for detection, else stretch."
            ),
        ]
        | UnsetType
    ) = UNSET
    resize: Annotated[
        list[_Side],
        Meta(
            max_length=2,
            description="With crop: the shorter side, or width and height, before the centre is cut out. "
            "Default: as small as fills the input.",
        ),
    ] = []
    place: Annotated[
        Literal["centre", "corner"], Meta(description="Where a letterboxed picture is; YOLOX uses corner.")
    ] = "centre"
    pad: Annotated[int, Meta(ge=0, le=255, description="Value of the padding's pixels.")] = 114
    layout: Annotated[Literal["nchw", "nhwc"], Meta(description="Order of the tensor's dimensions.")] = "nchw"
    constants: Constants = {}

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


class WindowPart(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One of several inputs of a model, which are filled from the same window."""

    name: Annotated[Key, Meta(description="Name of the model's input.")]
    signals: Annotated[
        list[str], Meta(max_length=1024, description="Some of the window's signals; if empty, all.")
    ] = []
    rows: Annotated[int, Meta(ge=0, le=100_000, description="The newest rows; 0 means all.")] = 0
    layout: Annotated[
        Layout,
        Meta(description="Tensor [1, rows, signals], [1, signals, rows], [1, all], or one number."),
    ] = "time-signal"
    shape: Shape = []

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape of the tensor; of `WindowInput.parts`, whose signals and rows are known."""
        rows, signals = self.rows, len(self.signals)
        of_layout = {
            "time-signal": (1, rows, signals),
            "signal-time": (1, signals, rows),
            "flat": (1, rows * signals),
            "scalar": (),
        }
        return tuple(self.shape) or of_layout[self.layout]


class WindowInput(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A window of signals, rows in time order: `x = (value - mean) / std` for each signal."""

    kind: Annotated[Literal["window"], Meta(description="The model sees windows of signals.")]
    name: Annotated[str, Meta(max_length=256, description="Name of the model's input.")] = ""
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
        Layout,
        Meta(description="Tensor [1, length, signals], [1, signals, length], [1, all], or one number."),
    ] = "time-signal"
    shape: Shape = []
    inputs: Annotated[
        list[WindowPart],
        Meta(max_length=64, description="Of a model with several inputs, instead of `name` and `layout`."),
    ] = []
    constants: Constants = {}
    state: Annotated[
        dict[Key, Key],
        Meta(
            max_length=16,
            description="State that goes round: name of the input to that of the output which it gets next.",
        ),
    ] = {}

    @property
    def parts(self) -> list[WindowPart]:
        """Every input that the window fills, with its signals and rows."""
        if not self.inputs:
            return [
                WindowPart(
                    name=self.name,
                    signals=self.signals,
                    rows=self.length,
                    layout=self.layout,
                    shape=self.shape,
                )
            ]
        return [
            replace(part, signals=part.signals or self.signals, rows=part.rows or self.length)
            for part in self.inputs
        ]


Input = FrameInput | WindowInput
