"""Message bodies: one struct per topic class of the wire contract; docs/topics.md has an example of each.

All times are integer milliseconds since the Unix epoch, UTC, unless a name states another unit. Every reader
ignores unknown fields, so a newer agent never breaks an older collector.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from wire.reasons import Args, Code
from wire.topics import FIELD, ID

VERSION = 1
MAX_BODY = 60_000  # bytes of one payload; several hosted brokers stop at 65,536
MAX_PACKED = 1_000  # messages in one pack
MAX_SAMPLES = 10_000  # per batch: far more than fit into MAX_BODY; limits the cost of a hostile body

# of objects and lists within one another, where a body may have any: `detail`, `args`, `doc` ...
MAX_DEPTH = 64

MAX_COUNTERS = 64  # of one device or model in a status

_MAX_OFFSET = 10**12  # with this limit every sum of times fits into 64 bits
MAX_MS = 253_402_300_799_999  # 9999-12-31, the last day that Python and ECMAScript can both show
Millis = Annotated[int, Meta(ge=0, le=MAX_MS)]
Seq = Annotated[int, Meta(ge=1, le=2**62)]
Text = Annotated[str, Meta(max_length=2_000)]
Short = Annotated[str, Meta(max_length=128)]
Epoch = Annotated[str, Meta(pattern=r"^[0-9a-f]{8,32}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Scalar = bool | Int64 | float | str | None
SeqRange = tuple[Seq, Seq]
RowNo = tuple[Seq, Seq]  # run of the daemon (named by its first seq), number of the row in its stream


def _version() -> int:
    return VERSION  # a factory, because omit_defaults drops plain defaults and `v` must always travel


class Quality(IntEnum):
    """Why a reading should be trusted less; 0 is not transmitted."""

    GOOD = 0
    OUT_OF_RANGE = 1  # outside the declared min/max; the value is stored unchanged
    NOT_FINITE = 2  # NaN or infinite; transmitted as null
    UNCERTAIN = 3  # reported by the device; for a model: one of its input rows was flagged or filled
    BAD = 4  # reported by the device
    TIME_REPEATED = 5  # same device time as the previous reading
    TIME_BACKWARD = 6  # device time before that of the previous reading
    WRONG_TYPE = 7  # not of the declared type; transmitted as null

    def worse(self, other: Quality) -> Quality:
        """The graver of the two qualities: a row travels with one."""
        return self if _GRAVITY[self] >= _GRAVITY[other] else other


# from the least to the gravest; the numbers above are those of the wire and say nothing about gravity
_GRAVITY = {
    quality: rank
    for rank, quality in enumerate(
        (
            Quality.GOOD,
            Quality.UNCERTAIN,
            Quality.OUT_OF_RANGE,
            Quality.TIME_REPEATED,
            Quality.TIME_BACKWARD,
            Quality.NOT_FINITE,
            Quality.WRONG_TYPE,
            Quality.BAD,
        )
    )
}


class ClockState(IntEnum):
    """How far a timestamp can be trusted."""

    UNSYNCED = 0
    NTP = 1
    PTP = 2


class _Message(Struct, omit_defaults=True):
    pass


Counters = Annotated[dict[Short, Annotated[int, Meta(ge=0, le=2**53)]], Meta(max_length=MAX_COUNTERS)]


class DeviceState(_Message, kw_only=True):
    """Whether the streams of a device are read; `degraded` comes with `why` and `since`.

    `counters` count from the start of the daemon, without those that are 0: `readings`, and what was dropped
    or repaired. `code` and `args` are `why` for programs and translations, see `wire.reasons`.
    """

    state: Literal["starting", "ok", "degraded", "stopped"]
    since: Millis = 0
    why: Text = ""
    code: Code = ""
    args: Args = {}
    counters: Counters = {}


class Arm(_Message, kw_only=True):
    """One of two models that see the same input: its package, and what became of its input.

    `sha256` is that of its ONNX file, `digest` the root digest of its package. `n` runs gave a result and
    `failed` ones none; `nan` and `alarms` are among the results. `p50_ms` and `p99_ms` are of the newest
    1,000 results, `cpu_s` of all: the time in the thread that ran the model.
    """

    name: Short = ""
    ver: Short = ""
    sha256: Short = ""
    digest: Short = ""
    n: Count = 0
    failed: Count = 0
    nan: Count = 0
    alarms: Count = 0
    p50_ms: Amount = 0.0
    p99_ms: Amount = 0.0
    cpu_s: Amount = 0.0


class Evidence(_Message, kw_only=True):
    """What two models gave: `a`, which runs in the slot, and `b`, which is tried beside it.

    In the mode `shadow` both see the same input and the results of `b` act on nothing: of `n` inputs they
    agreed on `agreed`, a sum of shares, and `diff` is the mean difference of their main numbers. `low` to
    `high` is the 95 % interval of `agreed / n`. Results close in time are not independent: the interval is
    that of `blocks` cases, one for each 10 s. In the mode `ab` each input is for one of them, as the schedule
    of `seed` says, and both act. `dropped` inputs were not given to `b`. `samples` are kept on the
    node; `unfiltered` pictures were not, because their faces could not be hidden.
    """

    mode: Literal["shadow", "ab"] = field(default_factory=lambda: "shadow")
    state: Literal["opening", "ok", "failed"]
    why: Text = ""
    code: Code = ""
    args: Args = {}
    since: Millis = 0
    seed: Count = 0
    a: Arm = field(default_factory=Arm)
    b: Arm = field(default_factory=Arm)
    n: Count = 0
    agreed: Amount = 0.0
    blocks: Count = 0
    low: Annotated[float, Meta(ge=0, le=1)] = 0.0
    high: Annotated[float, Meta(ge=0, le=1)] = 1.0
    diff: Amount = 0.0
    dropped: Count = 0
    samples: Count = 0
    unfiltered: Count = 0


SlotState = Literal[
    "idle",
    "downloading",
    "verifying",
    "gated",
    "shadow",
    "waiting",
    "unconfirmed",
    "confirmed",
    "rolled-back",
    "refused",
]


class ModelSlot(_Message, kw_only=True):
    """What became of the version that was offered last to a slot.

    `digest` is the package that runs, empty for that of the config; `offered` the one that was offered, in
    its `attempt`. `results` of the `of` good results on real input that it needs came so far. `why` is the
    reason for `refused` and `rolled-back`, and what holds back a version that is `waiting`. `ran` is what its
    runs gave that were judged, in shadow or in the slot, since the agent started. `evidence` is how it agreed
    with what ran, where it was offered with shadow runs; it stays until another is offered.
    """

    state: SlotState
    digest: Short = ""
    offered: Short = ""
    attempt: Count = 0
    since: Millis = 0
    results: Count = 0
    of: Count = 0
    why: Text = ""
    code: Code = ""
    args: Args = {}
    ran: Arm | UnsetType = UNSET
    evidence: Evidence | UnsetType = UNSET


class ModelState(_Message, kw_only=True):
    """The model in one slot and the execution provider that it really uses.

    A `degraded` one is `ok`: it runs, and its input is bad or not what it was made for, for the reason `why`.
    `signed_by` is the name of the key that signed its package, if the node trusts it. `isolation` is `thread`
    or `process`; for a process `pid` is its number, 0 while it has ended, and `mb` its private memory.
    `evidence` is about another model that is tried beside it, `slot` about the version offered last. `tuned`
    has the number of its decoder that a pilot has set.
    `counters` like those of a device: `runs`, `failed`, `dropped` inputs, ...
    """

    state: Literal["ok", "failed", "stopped"]
    degraded: bool = False  # not a state of its own, which an older collector would refuse
    name: Short = ""
    ver: Short = ""
    provider: Short = ""
    device: Short = ""
    signed_by: Short = ""
    why: Text = ""
    code: Code = ""
    args: Args = {}
    counters: Counters = {}
    isolation: Short = ""
    pid: Annotated[int, Meta(ge=0, le=2**31)] = 0
    mb: Annotated[float, Meta(ge=0)] = 0.0
    evidence: Evidence | UnsetType = UNSET
    slot: ModelSlot | UnsetType = UNSET
    tuned: Annotated[dict[Short, float], Meta(max_length=8)] = {}


class Status(_Message, kw_only=True):
    """Retained; also the Will, with `state: lost`. Readers ignore a `sess` older than the newest they saw."""

    v: int = field(default_factory=_version)
    state: Literal["online", "offline", "lost", "sleeping"]
    ts: Millis
    boot: Epoch
    sess: Annotated[int, Meta(ge=0, le=2**53)]
    agent: Short = ""
    reason: Text = ""
    code: Code = ""  # of `reason`
    args: Args = {}
    devices: dict[str, DeviceState] = {}
    models: dict[str, ModelState] = {}


class Field(_Message, kw_only=True):
    """One measured quantity of a stream; `unit` is a UCUM code, `dec` the number of transmitted decimals.

    A reading of `alarm` or more is an alarm: charts draw this line, nothing is triggered by it.
    """

    t: Literal["f32", "f64", "i64", "bool", "str", "json"] = "f64"
    unit: Short = ""
    dec: Annotated[int, Meta(ge=0, le=12)] | UnsetType = UNSET
    min: float | UnsetType = UNSET
    max: float | UnsetType = UNSET
    alarm: float | UnsetType = UNSET
    desc: Text = ""


class Stream(_Message, kw_only=True):
    """A stream of a device: `signal` has rows of fields, `frame` has pictures that stay on the node."""

    kind: Literal["signal", "frame"] = "signal"
    rate_hz: float | UnsetType = UNSET
    fields: dict[str, Field] = {}

    def __post_init__(self) -> None:
        for name in self.fields:
            _require_field_name(name)


class Device(_Message, kw_only=True):
    """The declaration of a device by its node."""

    type: Short
    vendor: Short = ""
    model: Short = ""
    serial: Short = ""
    streams: dict[str, Stream] = {}


class AgentInfo(_Message, kw_only=True):
    """The daemon and its machine."""

    ver: Short
    os: Short = ""
    arch: Short = ""
    hw: Short = ""
    serial: Short = ""
    asset_id: Short = ""


class Command(_Message, kw_only=True):
    """A command that the node accepts; `args` is a JSON Schema."""

    name: Short
    device: Short = "_"
    args: dict[str, Any] | UnsetType = UNSET

    def __post_init__(self) -> None:
        _require_shallow("args", self.args)


class ModelRef(_Message, kw_only=True):
    """The model package that runs in a slot."""

    name: Short
    ver: Short
    sha256: Short


class Birth(_Message, kw_only=True):
    """Retained description of a node, for information: a batch can be read without it."""

    v: int = field(default_factory=_version)
    contract: Literal["tb1"] = field(default_factory=lambda: "tb1")
    ts: Millis
    boot: Epoch
    sess: Annotated[int, Meta(ge=0, le=2**53)]
    ep: Epoch
    agent: AgentInfo
    devices: dict[str, Device] = {}
    cmds: list[Command] = []
    models: dict[str, ModelRef] = {}
    hash: Short = ""
    key: Short = ""  # the public key of its custody statements


class Batch(_Message, kw_only=True):
    """Readings of one stream as columns of equal length.

    Times are `t0 + dt[i]`, or `t0 + i * per` for `n` rows; with `tu: "us"`, `dt` and `per` are microseconds.
    The outbox sets `ep`, `seq` and `no` at enqueue; `no` is the run of the daemon and, within that run, the
    number of the first row in its stream. `q` has one `Quality` per row; it is absent if all rows are good.
    """

    v: int = field(default_factory=_version)
    ep: Epoch = ""
    seq: Annotated[int, Meta(ge=0, le=2**62)] = 0
    no: RowNo | UnsetType = UNSET
    t0: Millis
    dt: list[Annotated[int, Meta(ge=-_MAX_OFFSET, le=_MAX_OFFSET)]] | UnsetType = UNSET
    per: Annotated[int, Meta(ge=1, le=10**9)] | UnsetType = UNSET
    n: Annotated[int, Meta(ge=1, le=MAX_SAMPLES)] | UnsetType = UNSET
    tu: Literal["ms", "us"] = "ms"
    f: dict[str, list[Scalar]]
    clk: Literal[0, 1, 2] | UnsetType = UNSET
    q: list[Annotated[int, Meta(ge=0, le=255)]] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.dt is UNSET and (self.per is UNSET or self.n is UNSET):
            raise ValueError("a batch needs dt, or per and n")
        if self.dt is not UNSET and (self.per is not UNSET or self.n is not UNSET):
            raise ValueError("a batch has dt, or per and n, not both")
        rows = len(self)
        if not 1 <= rows <= MAX_SAMPLES:
            raise ValueError(f"a batch of {rows} rows; 1 to {MAX_SAMPLES} are allowed")
        if not self.f:
            raise ValueError("a batch without fields")
        for name, column in self.f.items():
            _require_field_name(name)
            if len(column) != rows:
                raise ValueError(f"column {name!r} has {len(column)} values for {rows} rows")
        if self.q is not UNSET and len(self.q) != rows:
            raise ValueError(f"q has {len(self.q)} values for {rows} rows")

    def __len__(self) -> int:
        return len(self.dt) if self.dt is not UNSET else (self.n if self.n is not UNSET else 0)

    def span_us(self) -> tuple[int, int]:
        """Unix microseconds of the oldest and the newest row."""
        scale, t0 = 1 if self.tu == "us" else 1000, self.t0 * 1000
        if self.dt is not UNSET:
            return t0 + min(self.dt) * scale, t0 + max(self.dt) * scale
        return t0, t0 + (len(self) - 1) * (self.per or 1) * scale

    def times_us(self) -> list[int]:
        """Unix microseconds of each row."""
        scale = 1 if self.tu == "us" else 1000
        t0 = self.t0 * 1000
        if self.dt is not UNSET:
            return [t0 + offset * scale for offset in self.dt]
        per, rows = (self.per or 1), len(self)  # __post_init__ has checked that both are set
        return [t0 + row * per * scale for row in range(rows)]


class Box(_Message, kw_only=True):
    """One detection; `box` is `[x, y, w, h]` normalised to the frame, origin at the top left.

    `points` are keypoints as `[x, y, score]`, in the model's order. `polygon` is the outline of its mask as
    `[x, y]`, and `area` the mask's share of the frame. `track` is its number while it is followed.
    """

    label: Short
    cls: int
    score: float
    box: tuple[float, float, float, float]
    track: int | UnsetType = UNSET
    points: Annotated[list[tuple[float, float, float]], Meta(max_length=64)] = []
    polygon: Annotated[list[tuple[float, float]], Meta(max_length=64)] = []
    area: float | UnsetType = UNSET


class Area(_Message, kw_only=True):
    """A zone in which boxes are counted, or a line of two points; places are shares of the frame."""

    name: Short
    kind: Literal["zone", "line"]
    points: Annotated[list[tuple[float, float]], Meta(min_length=2, max_length=64)]


class Image(_Message, kw_only=True):
    """A picture that is stored elsewhere, identified by its hash."""

    url: Text = ""
    sha256: Short
    w: int
    h: int


class Event(_Message, kw_only=True):
    """A single occurrence: an inference, a state change, a declared `gap`.

    Flat summary fields come first, so that simple consumers do not need `detail`. In a gap, `lost` lists the
    seq ranges of this `ep` that will never arrive.
    """

    v: int = field(default_factory=_version)
    ep: Epoch = ""
    seq: Annotated[int, Meta(ge=0, le=2**62)] = 0
    no: RowNo | UnsetType = UNSET
    ts: Millis
    type: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
    sev: Annotated[int, Meta(ge=0, le=4)] = field(default_factory=lambda: 0)
    clk: Literal[0, 1, 2] | UnsetType = UNSET
    model: Short = ""
    slot: Short = ""
    infer_ms: float | UnsetType = UNSET
    n: int | UnsetType = UNSET
    top: Short = ""
    score: float | UnsetType = UNSET
    frame: int | UnsetType = UNSET
    value: float | UnsetType = UNSET
    why: Text = ""
    code: Code = ""
    args: Args = {}
    boxes: Annotated[list[Box], Meta(max_length=1000)] = []
    img: Image | UnsetType = UNSET
    lost: list[SeqRange] = []
    detail: dict[str, Any] = {}

    def __post_init__(self) -> None:
        _require_ordered(self.lost)
        _require_shallow("detail", self.detail)


class Pack(_Message, kw_only=True):
    """Several data and event messages of one node in one publication, each with its own `ep` and `seq`.

    `m` has the topic after the node, such as `data/arm/joints`, and the body.
    """

    v: int = field(default_factory=_version)
    m: Annotated[list[tuple[Short, Raw]], Meta(min_length=1, max_length=MAX_PACKED)]


class Snapshot(_Message, kw_only=True):
    """The newest picture of a frame stream with the detections of the model: QoS 0, never stored as data.

    `blur` states what was made unrecognisable: `none`, `parts` (`faces` and `plates` count them), or `whole`
    with the reason in `why`. `areas` are the zones and lines of the model's slot.
    """

    v: int = field(default_factory=_version)
    ts: Millis
    w: Annotated[int, Meta(ge=1, le=16_384)]
    h: Annotated[int, Meta(ge=1, le=16_384)]
    sha256: Short
    mime: Literal["image/jpeg"] = field(default_factory=lambda: "image/jpeg")
    jpeg: bytes  # base64 in JSON
    frame: int | UnsetType = UNSET
    model: Short = ""
    boxes: Annotated[list[Box], Meta(max_length=1000)] = []
    areas: Annotated[list[Area], Meta(max_length=32)] = []
    blur: Literal["none", "parts", "whole"] | UnsetType = UNSET
    faces: int | UnsetType = UNSET
    plates: int | UnsetType = UNSET
    why: Text = ""
    code: Code = ""
    args: Args = {}


class Refused(_Message, kw_only=True):
    """Why a collector refuses messages of the node, and until when the node should wait."""

    code: Code
    until: Millis
    why: Text = ""


class Ack(_Message, kw_only=True):
    """Ranges of one `ep` that the collector instance `by` has committed to its database.

    `packs` states that this collector accepts the class `pack`. `ahead` is the highest number of this
    `ep` that it has stored, where that is above those in `ok`.
    """

    v: int = field(default_factory=_version)
    ep: Epoch
    ok: Annotated[list[SeqRange], Meta(max_length=10_000)]
    packs: bool = False
    by: Short
    ts: Millis
    refused: Refused | UnsetType = UNSET
    ahead: Annotated[int, Meta(ge=1, le=2**62)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        _require_ordered(self.ok)


Ulid = Annotated[str, Meta(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}\Z")]


class Cmd(_Message, kw_only=True):
    """A command to a node or device; an id is executed once, and never after `ts + ttl_ms`.

    With `steps` the node also answers `accepted` when it has the command, and `running` while that lasts.
    """

    v: int = field(default_factory=_version)
    id: Ulid
    ts: Millis
    ttl_ms: Annotated[int, Meta(ge=1, le=86_400_000)]
    by: Short = ""
    args: dict[str, Any] = {}
    steps: bool = False

    def __post_init__(self) -> None:
        _require_shallow("args", self.args)


class Res(_Message, kw_only=True):
    """The answer to a command. `code` is a number; the code of the text `err` is `err_code`, with `args`."""

    v: int = field(default_factory=_version)
    id: Ulid
    state: Literal["accepted", "running", "done", "failed", "rejected", "expired", "duplicate"]
    code: int = field(default_factory=lambda: 0)
    result: dict[str, Any] | UnsetType = UNSET
    err: Text = ""
    err_code: Code = ""
    args: Args = {}
    ts: Millis

    def __post_init__(self) -> None:
        _require_shallow("result", self.result)


class Desired(_Message, kw_only=True):
    """The configuration that a controller requests of a node; retained, without secrets."""

    v: int = field(default_factory=_version)
    ver: Annotated[int, Meta(ge=0, le=2**53)]
    ts: Millis
    by: Short = ""
    hash: Short = ""
    doc: dict[str, Any] | UnsetType = UNSET
    ref: dict[str, Any] | UnsetType = UNSET

    def __post_init__(self) -> None:
        _require_shallow("doc", self.doc)
        _require_shallow("ref", self.ref)


class Reported(_Message, kw_only=True):
    """How a node applied the `desired` of version `ver`.

    `hash` is the SHA-256 of its `doc`, `active` that of the `doc` in use; "" is the node's own file alone.
    `code` and `args` are `err` for programs and translations.
    """

    v: int = field(default_factory=_version)
    ver: Annotated[int, Meta(ge=0, le=2**53)]
    state: Literal[
        "applied",
        "soaking",
        "downloading",
        "verified",
        "shadow",
        "active",
        "rejected",
        "rolled_back",
        "failed",
    ]
    hash: Short = ""
    active: Short = ""
    previous: Short = ""
    err: Text = ""
    code: Code = ""
    args: Args = {}
    ts: Millis


class Log(_Message, kw_only=True):
    """One log line of a node; QoS 0."""

    ts: Millis
    msg: Text
    src: Short = ""


Live = dict[str, Scalar]  # flat: `ts`, and the newest value of each field

BODIES: dict[str, type[Struct]] = {
    "status": Status,
    "birth": Birth,
    "snap": Snapshot,
    "data": Batch,
    "event": Event,
    "pack": Pack,
    "ack": Ack,
    "cmd": Cmd,
    "res": Res,
    "desired": Desired,
    "reported": Reported,
    "log": Log,
}


@lru_cache(4_096)  # the same few names come with every message
def _require_field_name(name: str) -> None:
    if not FIELD.fullmatch(name):
        raise ValueError(f"field name {name!r} is not [a-z][a-z0-9_]*, 48 characters at most")


def is_deep(value: object) -> bool:
    """Whether a decoded value nests more than MAX_DEPTH deep: no encoder takes any depth."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [one for one in level if isinstance(one, dict | list)]
        if not inner:
            return False
        level = [part for one in inner for part in (one.values() if isinstance(one, dict) else one)]
    return True


def _require_shallow(name: str, value: object) -> None:
    if value and is_deep(value):
        raise ValueError(f"{name} nests more than {MAX_DEPTH} deep")


def _require_ordered(ranges: list[tuple[int, int]]) -> None:
    for first, last in ranges:
        if last < first:
            raise ValueError(f"range {first}..{last} ends before it starts")


def is_id(text: str) -> bool:
    """Whether `text` is a valid name of a tenant, pilot, site, node, device, stream or event."""
    return bool(ID.fullmatch(text))
