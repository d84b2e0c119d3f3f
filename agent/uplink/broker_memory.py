"""Remembers over restarts how often a node connected and which MQTT version its broker speaks."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agent.state_dir import keep
from wire.mqtt.errors import MqttError
from wire.mqtt.options import Version, VersionChoice

log = logging.getLogger(__name__)

_MAX_BYTES = 1_024


class _Kept(Struct):
    sess: int = 0
    protocol: Literal["5", "3.1.1", ""] = ""


class BrokerMemory:
    """Keeps `sess` and the protocol version in a file. `load` and `next` block on the disk."""

    def __init__(self, path: Path, protocol: Literal["auto", "3.1.1", "5", 5]) -> None:
        self._path = path
        self._protocol = protocol
        self._kept = _Kept()
        self._choice = VersionChoice(protocol)
        self._unwritable = False  # true: this was logged

    @property
    def version(self) -> Version:
        """The version of MQTT to try next."""
        return self._choice.version

    @property
    def sess(self) -> int:
        """The number of the newest CONNECT."""
        return self._kept.sess

    def load(self) -> None:
        """Read the file; a missing or damaged file counts as empty, and the broker then corrects `sess`."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            with self._path.open("rb") as file:
                self._kept = msgspec.json.decode(file.read(_MAX_BYTES), type=_Kept)
            self._choice = VersionChoice(self._protocol, worked=self._kept.protocol or None)

    def next(self) -> None:
        """Count one CONNECT; the number is on disk before the connection is made."""
        self._kept.sess += 1
        self._save()

    def at_least(self, sess: int) -> None:
        """Continue from a number that the broker remembers."""
        self._kept.sess = max(self._kept.sess, sess)

    def works(self) -> None:
        """Note that the broker accepted this version; it is written with the next CONNECT."""
        self._choice.works()
        self._kept.protocol = self.version

    def failed(self, error: MqttError) -> bool:
        """Choose the version after a failed attempt; True: try it at once."""
        return self._choice.failed(error)

    def _save(self) -> None:
        try:
            keep(self._path, msgspec.json.encode(self._kept))
        except OSError as error:
            if not self._unwritable:
                log.warning(
                    "%s cannot be written (%s): sess may be too low after a restart",
                    self._path,
                    error.strerror,
                )
            self._unwritable = True
        else:
            self._unwritable = False
