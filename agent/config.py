"""Reads and checks the agent's YAML config; makes a plan with adapters ready to build."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct

import adapters
from adapters.base import Adapter, AdapterError
from agent.fences.settings import FenceSettings
from agent.inference.signing import trust
from agent.inference.signing.trust import TrustSettings
from agent.outbox import OutboxSettings
from agent.pipeline.settings import (
    LEAST_STALL_S,
    CropsConfig,
    DeviceConfig,
    DevicePlan,
    SlotConfig,
    shadow_stream,
)
from agent.process_memory import MemorySettings
from agent.remote.allowed import Allowed
from agent.remote.settings import RemoteSettings
from agent.slots.settings import VersionSettings
from wire import config
from wire.broker import Broker
from wire.clock import Clock
from wire.config import Marks, Mistake, did_you_mean
from wire.errors import ConfigError, WireError
from wire.messages import Stream, is_id
from wire.printable import printable
from wire.topics import Address

if TYPE_CHECKING:
    from agent.inference.package import Package

log = logging.getLogger(__name__)

_DESIRED = "desired"
_WRITERS = ("modbus", "mqtt")  # whose keys `remote.allowed` keeps out of desired documents
_PLACE = re.compile(rf"^{_DESIRED}:\d+:\d+: ")

T = TypeVar("T")


class AgentConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole config file. A relative path is relative to the folder of the file."""

    node: Annotated[str, Meta(description="tenant/pilot/site/node: the name of this agent.")]
    broker: Annotated[Broker, Meta(description="The broker that messages are sent to.")]
    state: Annotated[Path, Meta(description="Folder of the outbox and of what must survive a restart.")]
    outbox: Annotated[OutboxSettings, Meta(description="How messages are kept and sent.")] = msgspec.field(
        default_factory=OutboxSettings
    )
    memory: Annotated[MemorySettings, Meta(description="Memory of the daemon.")] = MemorySettings()
    fence: Annotated[FenceSettings, Meta(description="The most that this agent may use.")] = FenceSettings()
    trust: Annotated[TrustSettings, Meta(description="Whose model packages run.")] = TrustSettings()
    versions: Annotated[VersionSettings, Meta(description="Offered versions of models.")] = VersionSettings()
    remote: Annotated[RemoteSettings, Meta(description="Changes while the agent runs.")] = RemoteSettings()
    devices: Annotated[dict[str, DeviceConfig], Meta(min_length=1, description="Device id to device.")]
    models: Annotated[dict[str, SlotConfig], Meta(description="Slot id to model.")] = {}


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """A config without mistakes."""

    path: Path
    config: AgentConfig
    address: Address
    devices: dict[str, DevicePlan]
    doubts: tuple[str, ...] = ()  # what may not work as meant: `file:line:col: sentence`
    text: str = ""  # of the file


def load(path: Path, clock: Clock, *, files: bool = False, folder: Path | None = None) -> AgentPlan:
    """Read and check an agent's config, without contacting devices or the broker.

    Relative paths are relative to `folder`, by default the folder of the file. `files` also checks model
    packages, password and certificates. The daemon does not check packages here: a package that is refused
    then does not stop the other models.

    Raises:
        ConfigError: lists every mistake.
    """
    text = _as_agent(path, lambda: config.read(path))
    return _as_agent(path, lambda: _plan_of(text, path, str(path), clock, files=files, folder=folder))


def load_over(base: AgentPlan, doc: Mapping[str, Any], allowed: Allowed, clock: Clock) -> AgentPlan:
    """The plan of a desired document over the operator's file, with the checks of `load` with `files`.

    `devices` and `models` of the document replace those of the file, `publish` those of its devices. Nothing
    that `allowed` refuses is opened.

    Raises:
        ConfigError: lists every mistake by its keys.
    """
    merged = {**config.plain(base.text), **{key: doc[key] for key in ("devices", "models") if key in doc}}
    for name, publish in doc.get("publish", {}).items():
        device = merged["devices"].get(name)
        if not isinstance(device, dict):
            hint = did_you_mean(name, merged["devices"])
            raise ConfigError(f"publish.{name}: there is no device {name!r}{hint}")
        merged["devices"] = {**merged["devices"], name: {**device, "publish": publish}}
    text = msgspec.json.format(msgspec.json.encode(merged), indent=1).decode()
    try:
        return _plan_of(text, base.path, _DESIRED, clock, files=True, allowed=allowed)
    except ConfigError as error:  # its lines are those of no file
        found = ConfigError(*(_PLACE.sub("", line) for line in error.mistakes))
        raise (
            found.coded("config-not-allowed", detail=found.mistakes[0]) if allowed.refused else found
        ) from error


def _plan_of(
    text: str,
    path: Path,
    shown: str,
    clock: Clock,
    *,
    files: bool,
    folder: Path | None = None,
    allowed: Allowed | None = None,
) -> AgentPlan:
    devices: dict[str, DevicePlan] = {}
    doubts: list[str] = []

    def check(found: AgentConfig, marks: Marks) -> Iterator[Mistake]:
        try:
            Address.parse(found.node)
        except WireError as error:
            yield ("node",), str(error)
        yield from found.broker.mistakes(("broker",))
        yield from _check_collectors(found.outbox)
        yield from ((("fence", key), why) for key, why in found.fence.mistakes())
        yield from ((("versions", "window", key), why) for key, why in found.versions.window.mistakes())
        keys = _keys(found) if files and allowed is None else None  # else the gate checks signatures
        for name, device in found.devices.items():
            yield from _check_id(("devices", name), "device", name)
            try:
                plan = _plan(name, device, marks, clock, allowed)
            except _Wrong as wrong:
                yield ("devices", name, wrong.key), str(wrong)
            else:
                if plan is not None:
                    devices[name] = plan
            if files and device.publish.faces is not None:
                where = ("devices", name, "publish", "faces")
                yield from _check_faces(where, device.publish.faces, allowed, keys)
            if name in devices and devices[name].doubt:
                at = ("devices", name, "stall_s")
                doubts.append(f"{marks.at(*at)}: {'.'.join(at)}: {devices[name].doubt}")
        yield from _other_settings(devices)
        for name, slot in found.models.items():
            yield from _check_id(("models", name), "slot", name)
            yield from _check_slot(name, slot, devices, found, files, allowed, keys)
        if keys is not None:
            yield from ((("trust",), why) for why in keys.mistakes)
        if files and not list(found.broker.mistakes()):
            yield from _check_secrets(found.broker)

    try:
        settings = config.parse(text, AgentConfig, name=shown, folder=folder or path.parent, check=check)
    except ConfigError:
        raise
    except Exception as error:  # an adapter of another package can raise anything; a daemon must go on
        log.debug("%s: cannot be checked", shown, exc_info=True)
        raise ConfigError(
            f"{shown}: it cannot be checked: {type(error).__name__}: {printable(error)}"
        ) from error
    return AgentPlan(path, settings, Address.parse(settings.node), devices, tuple(doubts), text)


def state_folder(path: Path, *, strict: bool = True) -> tuple[Path, str]:
    """The state folder and the node in an agent's config; adapters and models are not checked.

    Without `strict`, mistakes elsewhere in the file do not matter.

    Raises:
        ConfigError: the file cannot be read or is not a config.
    """
    try:
        found = _as_agent(path, lambda: config.load(path, AgentConfig))
    except ConfigError:
        state, node = config.value_at(path, Path, "state"), config.value_at(path, str, "node")
        if strict or state is None or node is None:
            raise
        return state, node
    return found.state, found.node


def schema() -> dict[str, Any]:
    """The JSON Schema of the config for editors, without the options of the adapters."""
    return config.schema(AgentConfig)


def _as_agent(path: Path, read: Callable[[], T]) -> T:
    """What `read` returns; names a collector's config as such."""
    try:
        return read()
    except ConfigError as error:
        found = config.keys(path)
        if "store" not in found or found & {"node", "state", "devices", "models"}:
            raise
        other = f"{path}: this is a collector's config: use `edgebed collector check {path}`"
        raise ConfigError(other) from error


class _Wrong(ValueError):
    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


def _plan(
    name: str, device: DeviceConfig, marks: Marks, clock: Clock, allowed: Allowed | None
) -> DevicePlan | None:
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
    if allowed is not None:  # before the adapter opens any file
        for key, why in allowed.refusals(name, device, options):
            raise _Wrong("options", f"{key}: {why}")
    try:
        adapter = kind(options, clock)
        streams = adapter.streams()
    except AdapterError as error:
        raise _Wrong("options", str(error)) from error
    for stream in streams:
        if not is_id(stream):
            raise _Wrong("options", f"stream {stream!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)")
    known = sorted({field for stream in streams.values() for field in stream.fields})
    for field in device.may_be_null:
        if field != "*" and field not in known:
            raise _Wrong("may_be_null", f"there is no field {field!r}{did_you_mean(field, known)}")
    least_s = max(LEAST_STALL_S, 3 * adapter.period_s, adapter.silence_s)
    stall_s = least_s if device.stall_s is UNSET else device.stall_s
    doubt = "" if device.stall_s is UNSET else _too_short(device, adapter, device.stall_s)
    return DevicePlan(
        device,
        kind,
        options,
        streams,
        stall_s,
        doubt,
        adapter.shared_line,
        adapter.set_point if device.adapter in _WRITERS else None,
        waits=adapter.waits,
    )


def _too_short(device: DeviceConfig, adapter: Adapter, stall_s: float) -> str:
    """Why a device with these options is taken for silent while it works; empty where it is not."""
    cure = "leave it out, and it follows the options"
    if stall_s < 1.5 * adapter.period_s:
        return f"{stall_s:g} s is too short for a reading each {adapter.period_s:g} s: {cure}"
    if stall_s < adapter.silence_s and device.options.keys() & {"silence_s", "data_age_s"}:
        return f"{stall_s:g} s ends the silence of {adapter.silence_s:g} s that the options allow: {cure}"
    return ""


def _other_settings(devices: Mapping[str, DevicePlan]) -> Iterator[Mistake]:
    """The devices that need other settings of a shared line than the first device on it."""
    first: dict[str, tuple[str, str]] = {}
    for name, device in devices.items():
        if (line := device.shared_line) is None:
            continue
        other, settings = first.setdefault(line.name, (name, line.settings))
        if settings != line.settings:
            yield (
                ("devices", name, "options", "url"),
                (
                    f"{line.name} is used with {line.settings}, and by device {other!r} with {settings}:"
                    " a line has one setting"
                ),
            )


def _check_id(where: tuple[str, ...], what: str, name: str) -> Iterator[Mistake]:
    if not is_id(name):
        yield where, f"{what} {name!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"


def _check_collectors(outbox: OutboxSettings) -> Iterator[Mistake]:
    where = ("outbox", "ack_from")
    for name in outbox.ack_from:
        yield from _check_id(where, "collector", name)
    if len(set(outbox.ack_from)) < len(outbox.ack_from):
        yield where, "a collector is named twice"
    if outbox.ack_from and outbox.ack == "puback":
        yield where, "needs `ack: collector`: a PUBACK of the broker does not name a collector"


def _check_slot(
    name: str,
    slot: SlotConfig,
    devices: dict[str, DevicePlan],
    found: AgentConfig,
    files: bool,
    allowed: Allowed | None,
    keys: trust.Read | None,
) -> Iterator[Mistake]:
    where = ("models", name, "input")
    if slot.input.count("/") != 1:
        yield where, f"{slot.input!r} is not device/stream"
        return
    if slot.device not in found.devices:
        yield where, f"unknown device {slot.device!r}{did_you_mean(slot.device, found.devices)}"
        return
    if slot.device not in devices:
        return  # its own mistakes are reported already
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
    if slot.hold and (why := _unknown_field(slot.hold, devices)):
        yield ("models", name, "hold"), why
    if slot.crops is not None and (why := _unfit_crops(name, slot, found)):
        yield ("models", name, "crops", "of"), why
        return
    if _second(slot) and (taken := shadow_stream(name)) in (*streams, *found.models):
        yield ("models", name, "shadow"), f"its stream would be {taken!r}, which is taken"
    for at, package in (("package",), slot.package), *_second(slot):
        if allowed is not None and (why := allowed.package(package)):
            yield ("models", name, *at), why
        elif files:
            yield from _check_package(("models", name, *at), package, slot, streams[slot.stream], keys)
    if files and slot.crops is not None:
        yield from _check_detector(name, slot.crops, found.models[slot.crops.of], keys)


def _second(slot: SlotConfig) -> list[tuple[tuple[str, ...], Path]]:
    """The key and the folder of the second model of a slot, if it has one."""
    return [] if slot.shadow is UNSET else [(("shadow", "package"), slot.shadow.package)]


def _unknown_field(field: str, devices: Mapping[str, DevicePlan]) -> str:
    """Why `device/stream/field` is not a field of a device; "" where it is one."""
    parts = field.split("/")
    if len(parts) != 3:
        return f"{field!r} is not device/stream/field"
    plan = devices.get(parts[0])
    stream = None if plan is None else plan.streams.get(parts[1])
    if stream is None or parts[2] not in stream.fields:
        return f"there is no field {field!r}"
    return ""


def _keys(found: AgentConfig) -> trust.Read | None:
    try:
        return trust.read(found.trust, Address.parse(found.node))
    except WireError:  # the node's name is reported already
        return None


def _check_secrets(broker: Broker) -> Iterator[Mistake]:
    for key, read in (("password_file", broker.password), ("ca_file", broker.ssl_context)):
        try:
            read()
        except ConfigError as error:
            yield ("broker", key), str(error).removeprefix(f"broker.{key} ")


def _check_faces(
    where: tuple[str, ...], package: Path, allowed: Allowed | None, keys: trust.Read | None
) -> Iterator[Mistake]:
    if allowed is not None and (why := allowed.package(package)):
        yield where, why
        return
    from agent.inference.decoders import ModelError  # imported only when models are configured
    from agent.pipeline.frames.privacy import face_model_mismatch

    try:
        why = face_model_mismatch(_checked(package, keys).manifest)
    except ModelError as error:
        why = str(error)
    for line in why.splitlines():
        yield where, line


def _checked(folder: Path, keys: trust.Read | None) -> Package:
    from agent.inference.package import check_package
    from agent.inference.signing import signature_check  # imported only when models are configured

    package = check_package(folder)
    if keys is not None:
        signature_check.check(package, keys.trust)
    return package


def _unfit_crops(name: str, slot: SlotConfig, found: AgentConfig) -> str:
    """Why a slot cannot see the crops that it names; "" if it can."""
    of = "" if slot.crops is None else slot.crops.of
    other = found.models.get(of)
    if other is None or of == name:
        return (
            f"{of!r} is not another slot{did_you_mean(of, [each for each in found.models if each != name])}"
        )
    if other.crops is not None:
        return f"{of!r} sees crops itself, and there are no crops of crops"
    if other.input != slot.input:
        return f"{of!r} sees {other.input!r}, and this slot {slot.input!r}: they must be the same"
    return ""


def _check_detector(
    name: str, crops: CropsConfig, other: SlotConfig, keys: trust.Read | None
) -> Iterator[Mistake]:
    """Refuse crops of a model that finds nothing in pictures, or of labels that it does not have."""
    from agent.inference.decoders import ModelError  # imported only when models are configured

    try:
        found = _checked(other.package, keys).manifest
    except ModelError:
        return  # reported for the other slot
    if found.decoder not in ("detection", "regions"):
        yield ("models", name, "crops", "of"), f"{crops.of!r} is a {found.decoder} model: crops need boxes"
        return
    labels = getattr(found.output, "labels", ())
    for label in crops.labels:
        if label not in labels:
            yield ("models", name, "crops", "labels"), f"{label!r} is not a label of {found.name}"


def _check_package(
    where: tuple[str, ...], folder: Path, slot: SlotConfig, stream: Stream, keys: trust.Read | None
) -> Iterator[Mistake]:
    from agent.inference.decoders import ModelError  # imported only when models are configured
    from agent.pipeline.frames.scene import scene_mismatch
    from agent.pipeline.windows import input_mismatch

    try:
        package = _checked(folder, keys)
    except ModelError as error:
        for line in str(error).splitlines():
            yield where, line
        return
    if why := input_mismatch(package.manifest, slot.input, stream, slot.every):
        yield (*where[:2], "input"), why
    if why := scene_mismatch(package.manifest, slot):
        yield where[:2], why
