"""Desired documents: what a controller sends, and the file that keeps it over restarts."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct

from agent.state_dir import keep
from wire.codec import decode
from wire.errors import EdgebedError, WireError
from wire.messages import MAX_BODY, Desired, Reported
from wire.reasons import Args, Reason

log = logging.getLogger("edgebed.agent")

FILE = "desired.yaml"  # JSON, which is YAML
SECTIONS = ("devices", "models", "publish")
MAX_STARTS = 2  # of a trial that did not end; the next start goes back
AHEAD_MS = 86_400_000  # a document that is older than it claims, by so much, has a wrong clock
_MAX_FILE = 4 * MAX_BODY

ReportedState = Literal["applied", "soaking", "rejected", "rolled_back", "failed"]


class NotAcceptable(EdgebedError):
    """A message that is not a desired document that this agent can take."""


class Document(Struct, frozen=True, kw_only=True):
    """What a controller requests; an empty `doc` means the operator's file alone."""

    ver: int
    ts: int
    by: str = ""
    digest: str  # SHA-256 of `doc`
    doc: dict[str, Any]
    signed: bool = False  # its mac was checked

    @property
    def withdraws(self) -> bool:
        """Whether the document withdraws the one before."""
        return not self.doc


class Report(Struct, frozen=True, kw_only=True):
    """What became of a document."""

    ver: int
    digest: str
    state: ReportedState
    ts: int
    signed: bool = False  # of the document
    why: str = ""
    code: str = ""
    args: Args = {}

    @property
    def reason(self) -> Reason:
        """Why the document is not in use."""
        return Reason(self.why, self.code, self.args)

    def reported(self, active: str) -> Reported:
        """The body of `reported/...`; `active` is the hash of the document in use."""
        coded = self.reason.coded()
        return Reported(
            ver=self.ver,
            state=self.state,
            hash=self.digest,
            active=active,
            err=self.why[:2_000],
            code=coded["code"],
            args=coded["args"],
            ts=self.ts,
        )


class Kept(Struct, frozen=True, kw_only=True):
    """The content of the file. Every state of it is a whole configuration: `trial`, else `used`, else none.

    `starts` counts the starts of the daemon within the trial. `excused` are the devices and models that did
    not work before it.
    """

    v: int = 1
    used: Document | None = None
    trial: Document | None = None
    state: Literal["", "pending", "soaking"] = ""
    starts: int = 0
    excused: list[str] = []
    report: Report | None = None


class DesiredFile:
    """Reads and replaces `state`/desired.yaml; blocks."""

    def __init__(self, state: Path) -> None:
        self.path = state / FILE

    def load(self) -> Kept:
        """The content; that of a new file where there is none, or where it is damaged."""
        try:
            with self.path.open("rb") as file:
                return msgspec.json.decode(file.read(_MAX_FILE), type=Kept)
        except FileNotFoundError:
            return Kept()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.error("%s cannot be read (%s): the agent's own file is used alone", self.path, error)
            return Kept()

    def save(self, kept: Kept) -> None:
        """Replace the file in one step, durably, readable by its owner only.

        Raises:
            OSError: the disk takes nothing; the old content stays.
        """
        keep(self.path, msgspec.json.format(msgspec.json.encode(kept), indent=1), mode=0o600)


def read_desired(body: bytes, now_ms: int) -> tuple[Desired, dict[str, Any]]:
    """A message on `desired/...` and its `doc`; an empty body withdraws.

    Raises:
        NotAcceptable: the message cannot be judged further.
    """
    if not body:
        return Desired(ver=0, ts=now_ms), {}
    if len(body) > MAX_BODY:
        text = f"the document has {len(body)} bytes; {MAX_BODY} are allowed"
        raise NotAcceptable(text).coded("body-too-large")
    try:
        found = decode(body, Desired)
    except WireError as error:
        raise NotAcceptable(f"the document cannot be read: {error}").coded("body-invalid") from error
    if found.doc is UNSET:
        text = "the document has no `doc`: send what is requested in it, or `doc: {}` to withdraw"
        raise NotAcceptable(text).coded("body-invalid")
    if found.ts > now_ms + AHEAD_MS:
        days = (found.ts - now_ms) / AHEAD_MS
        text = f"the document is dated {days:,.0f} days after this node's clock: set the clock that is wrong"
        raise NotAcceptable(text).coded("config-clock", seconds=round((found.ts - now_ms) / 1000))
    return found, found.doc


def read_document(body: bytes, now_ms: int, *, signed: bool = False) -> Document:
    """The document in a message on `desired/config`. Raises as `read_desired`."""
    found, doc = read_desired(body, now_ms)
    if wrong := doc.keys() - set(SECTIONS):
        text = f"a desired document cannot set {', '.join(sorted(wrong))}: only {', '.join(SECTIONS)}"
        raise NotAcceptable(text[:2_000]).coded("config-not-allowed", detail=text)
    for name, section in doc.items():
        if not isinstance(section, dict):
            raise NotAcceptable(f"{name}: expected keys and values").coded("body-invalid")
    digest = _digest(doc)
    return Document(
        ver=found.ver, ts=found.ts, by=found.by, digest=digest, doc=doc, signed=signed and bool(body)
    )


def _digest(doc: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(doc, order="sorted")).hexdigest()
