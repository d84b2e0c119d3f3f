"""The file that keeps the plan of a node over restarts: `pilot.json` in its state folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agent.remote.desired import Report
from agent.state_dir import keep
from wire.errors import WireError
from wire.messages import MAX_BODY
from wire.pilot.frozen import Opened, SignedPlan, read_signed

log = logging.getLogger("edgebed.agent")

FILE = "pilot.json"
_MAX_FILE = 4 * MAX_BODY


class KeptPlan(Struct, frozen=True, kw_only=True):
    """The content of the file; `is_recorded` once the event about the newest change is in the outbox."""

    v: int = 1
    signed: SignedPlan | None = None
    signed_by: tuple[str, ...] = ()
    signed_keys: tuple[str, ...] = ()  # fingerprints of the keys whose signatures were checked
    is_recorded: bool = True
    withdrawn: str = ""  # hash of the plan that was withdrawn last
    ended: dict[str, Any] = {}  # how that one ended, for the event
    report: Report | None = None

    def opened(self) -> Opened | None:
        """The plan that this node follows."""
        return None if self.signed is None else read_signed(msgspec.json.encode(self.signed))


class PlanFile:
    """Reads and replaces the file; blocks."""

    def __init__(self, state: Path) -> None:
        self.path = state / FILE

    def load(self) -> KeptPlan:
        """The content; that of a new file where there is none, or where it is damaged."""
        try:
            with self.path.open("rb") as file:
                kept = msgspec.json.decode(file.read(_MAX_FILE), type=KeptPlan)
            kept.opened()
        except FileNotFoundError:
            return KeptPlan()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, WireError) as error:
            log.error(
                "%s cannot be read (%s): this node follows no plan until it is sent again", self.path, error
            )
            return KeptPlan()
        return kept

    def save(self, kept: KeptPlan) -> None:
        """Replace the file in one step, durably.

        Raises:
            OSError: the disk takes nothing; the old content stays.
        """
        keep(self.path, msgspec.json.format(msgspec.json.encode(kept), indent=1), mode=0o600)
