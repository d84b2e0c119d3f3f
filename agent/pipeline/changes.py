"""Compares two setups of devices and models: what must stop and start, and what keeps running."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.pipeline.settings import DeviceConfig, DevicePlan, PublishConfig, SlotConfig

MANIFEST = "manifest.yaml"
_MAX_MANIFEST = 1_000_000  # bytes
_MAX_ENTRIES = 1_000  # of a folder: a model package has a handful

Version = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and time of change of a file, or of each file of a folder."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Devices and models, with the versions of the files that they name when the setup was made."""

    devices: Mapping[str, DevicePlan]
    models: Mapping[str, SlotConfig] = field(default_factory=dict)
    files: Mapping[Path, Version] = field(default_factory=dict)
    # slot -> sha256 of the manifest in its package; empty if that cannot be read
    manifests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, devices: Mapping[str, DevicePlan], models: Mapping[str, SlotConfig]) -> Setup:
        """A setup with the versions that the files have now; blocks for the disk."""
        plans, slots = devices.values(), models.values()
        named = {path for plan in plans for path in (*files_of(plan.options), *files_of(plan.config.publish))}
        named |= {package for slot in slots for package in slot.packages}
        manifests = {name: _sha256(slot.package / MANIFEST) for name, slot in models.items()}
        return cls(devices, models, {path: version(path) for path in named}, manifests)


@dataclass(frozen=True, slots=True)
class Changes:
    """Ids of what differs between two setups.

    `devices` are new, gone, or read in another way. `published` are read as before, but what of them leaves
    the machine differs. `models` are new, gone, of another package or input, or on one of `devices`.
    """

    devices: frozenset[str] = frozenset()
    published: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.devices or self.published or self.models)


def fingerprint(setup: Setup) -> str:
    """16 hex digits that change with devices, models or what of them is published; a restart keeps them.

    Passwords in addresses do not count: a fingerprint must not help to guess them.
    """
    named = {
        "devices": {
            name: (replace(each.config, options={}), each.options) for name, each in setup.devices.items()
        },
        "models": setup.models,
        "manifests": setup.manifests,
    }
    plain = msgspec.to_builtins(named, enc_hook=_plain)
    text = re.sub(rb"//[^/@\s\"]*@", b"//@", msgspec.json.encode(plain, order="sorted"))
    return hashlib.sha256(text).hexdigest()[:16]


def _plain(value: Any) -> str:
    """What has another form in each process counts by its type."""
    return str(value) if isinstance(value, Path) else type(value).__name__


def compare(old: Setup, new: Setup) -> Changes:
    """What differs between two setups."""
    both = old.devices.keys() & new.devices.keys()
    devices = old.devices.keys() ^ new.devices.keys() | {
        name for name in both if _reading(old, name) != _reading(new, name)
    }
    published = {name for name in both - devices if _publishing(old, name) != _publishing(new, name)}
    models = old.models.keys() ^ new.models.keys()
    for name, slot in new.models.items():
        if name in models:
            continue
        known = old.models[name]
        same_files = all(old.files.get(each) == new.files.get(each) for each in slot.packages)
        if slot != known or not same_files or slot.device in devices:
            models = models | {name}
    return Changes(frozenset(devices), frozenset(published), frozenset(models))


def files_of(value: Any) -> Iterator[Path]:
    """Every path in options, however deep."""
    return (path for _, path in named_files(value))


def named_files(value: Any, name: str = "") -> Iterator[tuple[str, Path]]:
    """Every path in options with the name of its option."""
    if isinstance(value, Path):
        yield name, value
    elif isinstance(value, Struct):
        for key in value.__struct_fields__:
            yield from named_files(getattr(value, key), key)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from named_files(part, str(key))
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from named_files(part, name)


def version(path: Path) -> Version:
    """The version of a file or of a folder's files; () for one that is missing, and for a device node."""
    try:
        if path.is_dir():
            return tuple(_each(path))
        found = path.stat()
    except OSError:
        return ()
    if not stat.S_ISREG(found.st_mode):  # a serial port, for example, changes with each byte
        return ()
    return (("", found.st_ino, found.st_size, found.st_mtime_ns),)


def _sha256(path: Path) -> str:
    try:
        if not path.is_file():  # opening a FIFO would block
            return ""
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_MAX_MANIFEST)).hexdigest()
    except OSError:
        return ""


def _each(folder: Path) -> Iterable[tuple[str, int, int, int]]:
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)[:_MAX_ENTRIES]
    for entry in entries:
        found = entry.stat()
        yield entry.name, found.st_ino, found.st_size, found.st_mtime_ns


def _reading(setup: Setup, name: str) -> tuple[object, ...]:
    """Everything that decides how a device is read."""
    plan = setup.devices[name]
    config = replace(
        plan.config, options={}, publish=PublishConfig(), type="", vendor="", model="", serial=""
    )
    files = [setup.files.get(path) for path in files_of(plan.options)]
    return config, plan.kind, plan.options, plan.streams, plan.stall_s, files


def _publishing(setup: Setup, name: str) -> tuple[object, ...]:
    """What of a device leaves the machine, and how its birth describes it."""
    config: DeviceConfig = setup.devices[name].config
    files = [setup.files.get(path) for path in files_of(config.publish)]
    return config.publish, config.type, config.vendor, config.model, config.serial, files
