"""What a desired document may name: no secret, and no file outside the folders that the operator lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adapters.base import Options
from agent.pipeline.changes import named_files
from agent.pipeline.settings import DeviceConfig, SlotConfig
from agent.slots import model_store
from wire import shipped

WRITES = {"allow_write", "write"}
SECRETS = ("key", "key_file", "password_file", "passphrase_file", "secret_file", "token_file")


@dataclass(slots=True)
class Allowed:
    """Decides what a desired document may name, before anything of it is opened.

    A device of the operator's own file may keep its options, and a model package of that file may be used.
    """

    folders: tuple[Path, ...]
    devices: Mapping[str, DeviceConfig]
    packages: frozenset[Path]
    refused: bool = field(default=False, init=False)  # something was

    @classmethod
    def by(
        cls,
        folders: tuple[Path, ...],
        state: Path,
        devices: Mapping[str, DeviceConfig],
        models: Mapping[str, SlotConfig],
    ) -> Allowed:
        """What a file with these settings allows."""
        packages = {package for slot in models.values() for package in slot.packages}
        packages |= {device.publish.faces for device in devices.values() if device.publish.faces is not None}
        roots = [*folders, state / model_store.FOLDER, *shipped.names().values()]
        return cls(tuple(root.resolve() for root in roots), devices, frozenset(packages))

    def refusals(self, name: str, device: DeviceConfig, options: Options) -> Iterator[tuple[str, str]]:
        """The options that a document must not set, each with the reason."""
        mine = self.devices.get(name)
        if device.options.keys() & WRITES and (
            mine is None or (device.adapter, device.options) != (mine.adapter, mine.options)
        ):
            self.refused = True
            yield "allow_write", "what is written to a device is set in the agent's own file only"
            return
        if any(
            device.adapter == known.adapter and device.options == known.options
            for known in self.devices.values()
        ):
            return
        for key, why in (*self._files(options), *_passwords(device.options)):
            self.refused = True
            yield key, why

    def _files(self, options: Options) -> Iterator[tuple[str, str]]:
        for key, path in named_files(options):
            if key in SECRETS:
                yield key, "is a secret: only the agent's own file may name it"
            elif not self._is_below(path):
                yield key, _outside(path)

    def package(self, path: Path) -> str:
        """Why a document must not name this model package; "" where it may."""
        if path in self.packages or self._is_below(path):
            return ""
        self.refused = True
        return _outside(path)

    def _is_below(self, path: Path) -> bool:
        try:
            real = path.resolve()
        except (OSError, RuntimeError):  # a circle of links
            return False
        return any(real.is_relative_to(folder) for folder in self.folders)


def _outside(path: Path) -> str:
    return f"{path} is not below a folder that `remote.files` of the agent lists"


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)


def _passwords(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, text in _texts(options):
        if _has_password(text):
            yield key, "holds a password: only the agent's own file may hold it"


def _has_password(text: str) -> bool:
    try:
        return "://" in text and urlsplit(text).password is not None
    except ValueError:
        return False
