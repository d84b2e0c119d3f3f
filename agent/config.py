"""The agent's YAML: its structs, the mistakes that types cannot tell, the adapters ready to build."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

import adapters
from adapters.base import Adapter, AdapterError, Options
from agent.outbox import OutboxSettings
from wire import config
from wire.broker import Broker
from wire.clock import Clock
from wire.config import Marks, Mistake, did_you_mean
from wire.errors import ConfigError, WireError
from wire.messages import Short, Stream, is_id
from wire.topics import Address


class Publish(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
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
            description="What is made unrecognisable in pictures that leave; all of a picture where no "
            "detector told where it is. [] for nothing."
        ),
    ] = ("faces", "plates")
    faces: Annotated[
        Path | None,
        Meta(
            description="Folder of a detector package with a label face that sees pictures before they leave."
        ),
    ] = None


class Device(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One device, read by one adapter."""

    adapter: Annotated[str, Meta(description="The adapter's word: camera, opcua, replay, ...")]
    options: Annotated[dict[str, Any], Meta(description="The adapter's own options.")] = {}
    type: Annotated[Short, Meta(description="What it is, for the birth; the adapter's word if empty.")] = ""
    vendor: Annotated[Short, Meta(description="Who made it, for the birth.")] = ""
    model: Annotated[Short, Meta(description="The maker's name for it, for the birth.")] = ""
    serial: Annotated[Short, Meta(description="Its serial number, for the birth.")] = ""
    stall_s: Annotated[
        float, Meta(gt=0, le=86_400, description="No reading for so long: degraded, opened anew.")
    ] = 10.0
    publish: Annotated[Publish, Meta(description="What of it leaves the machine.")] = Publish()


class Slot(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One model at work; its results are the stream data/{device}/{slot}."""

    package: Annotated[Path, Meta(description="Folder of the model package.")]
    input: Annotated[str, Meta(description="device/stream that it sees.")]
    every: Annotated[int, Meta(ge=1, le=1_000_000, description="Each nth frame or window.")] = 1
    events: Annotated[
        Literal["change", "each", "never"], Meta(description="When an event is sent beside the result.")
    ] = "change"
    providers: Annotated[
        list[str],
        Meta(min_length=1, description="onnxruntime execution providers; the first must be the one in use."),
    ] = msgspec.field(default_factory=lambda: ["CPUExecutionProvider"])

    @property
    def device(self) -> str:
        """The device of `input`."""
        return self.input.partition("/")[0]

    @property
    def stream(self) -> str:
        """The stream of `input`."""
        return self.input.partition("/")[2]


class AgentConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole file. A relative path is relative to the file's folder."""

    node: Annotated[str, Meta(description="tenant/pilot/site/node: who this agent is.")]
    broker: Annotated[Broker, Meta(description="Where messages go.")]
    state: Annotated[Path, Meta(description="Folder of the outbox and of what must survive a restart.")]
    outbox: Annotated[OutboxSettings, Meta(description="How much is kept while the broker is away.")] = (
        msgspec.field(default_factory=OutboxSettings)
    )
    devices: Annotated[dict[str, Device], Meta(min_length=1, description="Device id to device.")]
    models: Annotated[dict[str, Slot], Meta(description="Slot id to model.")] = {}


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A device whose options are checked: how to build its adapter, and what it will send."""

    config: Device
    kind: type[Adapter]
    options: Options
    streams: dict[str, Stream]

    def build(self, clock: Clock) -> Adapter:
        """A fresh adapter: each is opened once."""
        return self.kind(self.options, clock)


@dataclass(frozen=True, slots=True)
class Plan:
    """A config without mistakes."""

    path: Path
    config: AgentConfig
    address: Address
    devices: dict[str, DevicePlan]


def load(path: Path, clock: Clock, *, files: bool = False, folder: Path | None = None) -> Plan:
    """Read and check an agent's config; no device is asked and no broker.

    Relative paths in it are relative to `folder`, as a rule the file's own.
    `files` looks at the model packages, password and certificates too. The daemon leaves packages to its
    models: one that is refused does not keep the others from running.

    Raises:
        ConfigError: every mistake.
    """
    devices: dict[str, DevicePlan] = {}

    def check(found: AgentConfig, marks: Marks) -> Iterator[Mistake]:
        try:
            Address.parse(found.node)
        except WireError as error:
            yield ("node",), str(error)
        yield from found.broker.mistakes(("broker",))
        for name, device in found.devices.items():
            yield from _check_id(("devices", name), "device", name)
            try:
                plan = _plan(name, device, marks, clock)
            except _Wrong as wrong:
                yield ("devices", name, wrong.key), str(wrong)
            else:
                if plan is not None:
                    devices[name] = plan
            if files and device.publish.faces is not None:
                yield from _check_faces(("devices", name, "publish", "faces"), device.publish.faces)
        for name, slot in found.models.items():
            yield from _check_id(("models", name), "slot", name)
            yield from _check_slot(name, slot, devices, found, files)
        if files and not list(found.broker.mistakes()):
            yield from _check_secrets(found.broker)

    settings = config.load(path, AgentConfig, check, folder=folder)
    return Plan(path, settings, Address.parse(settings.node), devices)


def state_folder(path: Path) -> Path:
    """Where the agent of this config keeps its state; adapters and models are not looked at.

    Raises:
        ConfigError: the file cannot be read or is no config.
    """
    return config.load(path, AgentConfig).state


def schema() -> dict[str, Any]:
    """JSON Schema of the config for editors; each adapter's options stand in its own documentation."""
    return config.schema(AgentConfig)


class _Wrong(ValueError):
    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def _plan(name: str, device: Device, marks: Marks, clock: Clock) -> DevicePlan | None:
    if device.adapter not in adapters.names():
        hint = did_you_mean(device.adapter, adapters.names())
        raise _Wrong("adapter", f"unknown adapter {device.adapter!r}{hint}")
    try:
        kind = adapters.load(device.adapter)
    except AdapterError as error:
        raise _Wrong("adapter", str(error)) from error
    options = marks.convert(kind.Options, "devices", name, "options")
    if options is None:
        return None
    try:
        streams = kind(options, clock).streams()
    except AdapterError as error:
        raise _Wrong("options", str(error)) from error
    for stream in streams:
        if not is_id(stream):
            raise _Wrong("options", f"stream {stream!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)")
    return DevicePlan(device, kind, options, streams)


def _check_id(where: tuple[str, ...], what: str, name: str) -> Iterator[Mistake]:
    if not is_id(name):
        yield where, f"{what} {name!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"


def _check_slot(
    name: str, slot: Slot, devices: dict[str, DevicePlan], found: AgentConfig, files: bool
) -> Iterator[Mistake]:
    where = ("models", name, "input")
    if slot.input.count("/") != 1:
        yield where, f"{slot.input!r} is not device/stream"
        return
    if slot.device not in found.devices:
        yield where, f"unknown device {slot.device!r}{did_you_mean(slot.device, found.devices)}"
        return
    if slot.device not in devices:
        return  # its own mistakes are told already
    streams = devices[slot.device].streams
    if slot.stream not in streams:
        hint = did_you_mean(slot.stream, streams)
        yield where, f"device {slot.device!r} sends no stream {slot.stream!r}{hint}"
        return
    if name in streams:
        yield (
            ("models", name),
            f"device {slot.device!r} sends a stream {name!r} itself: name the slot differently",
        )
    if files:
        yield from _check_package(name, slot, streams[slot.stream])


def _check_secrets(broker: Broker) -> Iterator[Mistake]:
    for key, read in (("password_file", broker.password), ("ca_file", broker.ssl_context)):
        try:
            read()
        except ConfigError as error:
            yield ("broker", key), str(error).removeprefix(f"broker.{key} ")


def _check_faces(where: tuple[str, ...], package: Path) -> Iterator[Mistake]:
    from agent.inference.decoders import ModelError  # only who has models pays for their kin
    from agent.inference.package import load_package
    from agent.pipeline.privacy import unfit

    try:
        why = unfit(load_package(package).manifest)
    except ModelError as error:
        why = str(error)
    for line in why.splitlines():
        yield where, line


def _check_package(name: str, slot: Slot, stream: Stream) -> Iterator[Mistake]:
    from agent.inference.decoders import ModelError  # only who has models pays for their kin
    from agent.inference.package import load_package
    from agent.pipeline.windows import misfit

    try:
        package = load_package(slot.package)
    except ModelError as error:
        for line in str(error).splitlines():
            yield ("models", name, "package"), line
        return
    if why := misfit(package.manifest, slot.input, stream):
        yield ("models", name, "input"), why
