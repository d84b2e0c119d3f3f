"""Settings of the pipeline: one device, what of it is published, and one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.base import Adapter, Options, SharedLine
from adapters.set_point import SetPoint
from agent.inference.scene_options import Anchor, Ignored, Lines, SceneOptions, Track, Zones
from wire.clock import Clock
from wire.messages import Short, Stream

_SCENE = SceneOptions.__struct_fields__
LEAST_STALL_S = 10.0  # `stall_s` of a device whose options do not say how often it sends


class PublishConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What of a device leaves the machine."""

    raw: Annotated[bool, Meta(description="Send the rows of signal streams; results always travel.")] = True
    live_hz: Annotated[
        float, Meta(ge=0, le=10, description="Newest values per second on live/..., 0 for none.")
    ] = 1.0
    snapshot_every_s: Annotated[
        float, Meta(ge=0, le=86_400, description="Seconds between pictures on snap/..., 0 for none.")
    ] = 0.0
    blur: Annotated[
        tuple[Literal["faces", "plates"], ...],
        Meta(
            description="What is made unrecognisable in pictures that leave; the whole picture where no "
            "detector found where they are. [] for nothing."
        ),
    ] = ("faces", "plates")
    faces: Annotated[
        Path | None,
        Meta(
            description="Folder of a detector package with a label face that sees pictures before they leave."
        ),
    ] = None


class DeviceConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One device, read by one adapter."""

    adapter: Annotated[str, Meta(description="The adapter's word: camera, opcua, replay, ...")]
    options: Annotated[dict[str, Any], Meta(description="The adapter's own options.")] = {}
    type: Annotated[Short, Meta(description="What it is, for the birth; the adapter's word if empty.")] = ""
    vendor: Annotated[Short, Meta(description="Who made it, for the birth.")] = ""
    model: Annotated[Short, Meta(description="The maker's name for it, for the birth.")] = ""
    serial: Annotated[Short, Meta(description="Its serial number, for the birth.")] = ""
    may_be_null: Annotated[
        tuple[Annotated[str, Meta(max_length=100)], ...],
        Meta(
            max_length=500,
            description="Fields that may be null in every row; any other is then a problem. ['*'] for all.",
        ),
    ] = ()
    stall_s: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=86_400,
                description="Without a reading for so long: degraded, and opened again; unset = 10 s, three"
                " periods of the device, or the silence that its options allow, whichever is longest.",
            ),
        ]
        | UnsetType
    ) = UNSET
    publish: Annotated[PublishConfig, Meta(description="What of it leaves the machine.")] = PublishConfig()


class CropsConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The parts of a picture that a model sees, instead of the whole."""

    of: Annotated[str, Meta(description="Slot of the detector, on the same input, whose boxes are cut out.")]
    labels: Annotated[
        tuple[str, ...], Meta(max_length=64, description="Labels whose boxes are cut out; if empty, all.")
    ] = ()
    most: Annotated[
        int,
        Meta(ge=1, le=32, description="Largest number of crops of a picture: those of the strongest boxes."),
    ] = 4
    margin: Annotated[float, Meta(ge=0, le=1, description="Share of the box that is added on each side.")] = (
        0.0
    )
    least_px: Annotated[
        int, Meta(ge=2, le=1024, description="Crops whose shorter side has fewer pixels are left out.")
    ] = 8


class SampleConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Inputs on which two models disagreed, kept in `state`/samples."""

    max_mb: Annotated[
        float, Meta(ge=0, le=100_000, description="The oldest are removed above this size; 0 for none.")
    ] = 20.0
    per_hour: Annotated[int, Meta(ge=0, le=3_600, description="The largest number within an hour.")] = 12


class ShadowConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A second model on the input of a slot, in a process of its own."""

    package: Annotated[Path, Meta(description="Folder of its package.")]
    mode: Annotated[
        Literal["shadow", "ab"],
        Meta(
            description="shadow: it sees what the model of the slot has answered, and its results act on"
            " nothing. ab: of each two inputs one is for it, and its results act."
        ),
    ] = "shadow"
    every: Annotated[
        int, Meta(ge=1, le=1_000_000, description="In the mode shadow: each nth input of the slot.")
    ] = 1
    within: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Two numbers agree if they differ by at most this share of the larger one. For"
            " vectors: the largest 1 - cosine.",
        ),
    ] = 0.05
    seed: Annotated[int, Meta(ge=0, le=2**53, description="In the mode ab: of the schedule.")] = 0
    samples: Annotated[SampleConfig, Meta(description="Inputs on which they disagreed.")] = SampleConfig()


class SlotConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One model on one stream; its results are the stream data/{device}/{slot}."""

    package: Annotated[Path, Meta(description="Folder of the model package.")]
    input: Annotated[str, Meta(description="device/stream that it sees.")]
    every: Annotated[int, Meta(ge=1, le=1_000_000, description="Each nth frame or window.")] = 1
    events: Annotated[
        Literal["change", "each", "never"], Meta(description="When an event is sent beside the result.")
    ] = "change"
    provider: Annotated[
        Literal["cpu", "openvino", "cuda"],
        Meta(description="What runs the model: it passes the gate only if its nodes run there."),
    ] = "cpu"
    providers: Annotated[
        list[str],
        Meta(
            description="The same by the names of onnxruntime, best first; the first must be the one in use."
            " Replaces `provider`."
        ),
    ] = []
    isolation: (
        Annotated[
            Literal["thread", "process"],
            Meta(
                description="Where the model runs: in the agent, or in a process of its own that may crash or"
                " hang; unset = thread for a package that a trusted key signed, process for any other."
            ),
        ]
        | UnsetType
    ) = UNSET
    hold: Annotated[
        str,
        Meta(
            description="device/stream/field: while its newest value is true or not 0, or is missing, no"
            " other version of the model begins to run."
        ),
    ] = ""

    crops: Annotated[
        CropsConfig | None, Meta(description="See what another slot found in a picture, one crop at a time.")
    ] = None
    # unset: what the manifest of the package says
    track: Track | UnsetType = UNSET
    zones: Zones | UnsetType = UNSET
    lines: Lines | UnsetType = UNSET
    ignore: Ignored | UnsetType = UNSET
    anchor: Anchor | UnsetType = UNSET
    shadow: Annotated[ShadowConfig, Meta(description="A second model to compare.")] | UnsetType = UNSET

    def scene(self, output: Any) -> SceneOptions:
        """What is followed and counted: the slot's keys, or else those of `output` in the manifest."""
        own = {} if self.crops is not None else {key: getattr(output, key, UNSET) for key in _SCENE}
        mine = {key: found for key in _SCENE if (found := getattr(self, key)) is not UNSET}
        return SceneOptions(**{key: found for key, found in (own | mine).items() if found is not UNSET})

    @property
    def asked(self) -> list[str]:
        """The execution providers, by word or by the name of onnxruntime."""
        return self.providers or [self.provider]

    @property
    def packages(self) -> tuple[Path, ...]:
        """The folders of every package that it names."""
        return (self.package,) if self.shadow is UNSET else (self.package, self.shadow.package)

    @property
    def device(self) -> str:
        """The device of `input`."""
        return self.input.partition("/")[0]

    @property
    def stream(self) -> str:
        """The stream of `input`."""
        return self.input.partition("/")[2]


def shadow_stream(slot: str) -> str:
    """The stream about the second model of a slot."""
    return f"{slot}-shadow"


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A device whose options are checked: how to build its adapter, and what it will send."""

    config: DeviceConfig
    kind: Callable[[Any, Clock], Adapter]
    options: Options
    streams: dict[str, Stream]
    stall_s: float = LEAST_STALL_S
    doubt: str = ""  # why `stall_s` may be too short for the device
    shared_line: SharedLine | None = None
    set_point: SetPoint | None = None  # what of it may be written
    waits: bool = False  # the device waits for its reader, as a file does that is read as fast as possible

    def build(self, clock: Clock) -> Adapter:
        """Build a new adapter: each is opened once."""
        return self.kind(self.options, clock)
