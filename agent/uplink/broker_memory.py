"""Remembers over restarts how often a node connected and which MQTT version its broker speaks."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agent.state_dir import keep
from agent.uplink.mqtt_client import Protocol

log = logging.getLogger(__name__)

_TRIES = 3  # hang-ups before the other version is tried although this one worked once
_MAX_BYTES = 1_024


class _Kept(Struct):
    sess: int = 0
    protocol: Literal["5", "3.1.1", ""] = ""


class BrokerMemory:
    """Keeps `sess` and the protocol version in a file. `load` and `next` block on the disk."""

    def __init__(self, path: Path, protocol: Literal["auto", "3.1.1", "5", 5]) -> None:
        self._path = path
        self._fixed: Protocol | None = None if protocol == "auto" else "3.1.1" if protocol == "3.1.1" else "5"
        self._kept = _Kept()
        self._hung_up = 0
        self._unwritable = False  # true: this was logged
        self.protocol: Protocol = self._fixed or "5"

    @property
    def sess(self) -> int:
        """The number of the newest CONNECT."""
        return self._kept.sess

    def load(self) -> None:
        """Read the file; a missing or damaged file counts as empty, and the broker then corrects `sess`."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            with self._path.open("rb") as file:
                self._kept = msgspec.json.decode(file.read(_MAX_BYTES), type=_Kept)
            self.protocol = self._fixed or self._kept.protocol or "5"

    def next(self) -> None:
        """Count one CONNECT; the number is on disk before the connection is made."""
        self._kept.sess += 1
        self._save()

    def at_least(self, sess: int) -> None:
        """Continue from a number that the broker remembers."""
        self._kept.sess = max(self._kept.sess, sess)

    def works(self) -> None:
        """Note that the broker accepted this version; it is written with the next CONNECT."""
        self._hung_up = 0
        self._kept.protocol = self.protocol

    def refused(self, *, certain: bool) -> None:
        """Try the other version next: at once if the broker asked for it, otherwise after some hang-ups."""
        self._hung_up += 1
        if self._fixed is None and (certain or not self._kept.protocol or self._hung_up % _TRIES == 0):
            self.protocol = "3.1.1" if self.protocol == "5" else "5"

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
