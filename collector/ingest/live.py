"""Live messages, which have no number: status, birth, newest values, pictures, results, log lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from collector.fleet.fleet import HEARTBEAT, Fleet
from collector.ingest.refusal import Refusal, ShareExceeded
from collector.mqtt.received import Received
from wire.codec import decode, decode_live, plain
from wire.errors import WireError
from wire.messages import MAX_BODY, Birth, Log, Reported, Res, Snapshot, Status
from wire.topics import NODE_ITSELF, Topic

REPORTED = ("config", "models", "pilot")
KINDS = ("status", "birth", "live", "snap", "res", "reported", "log")
KEPT = ("status", "birth", "live")  # in memory, each topic of a node until its next message
OnAnswer = Callable[[Topic, Res, int], None]  # takes the answer to a command; never waits
AGAIN_MS = 60_000  # a node that has no room for its newest values sends them again anyway


class Viewers(Protocol):
    """Where frames for open pages go; any thread."""

    def is_wanted(self, node: str, device: str) -> bool:
        """Whether a page shows this device."""
        ...

    def post(self, event: str, data: Mapping[str, Any], node: str = "", device: str = "") -> None:
        """Send a frame to the pages that show this device."""
        ...


def _no_commands(_topic: Topic, _answer: Res, _recv_ms: int) -> None:
    """Ignore an answer: this collector sends no commands."""


class LiveMessages:
    """Passes each message to the fleet and to open pages at once, in the receiving thread."""

    def __init__(self, fleet: Fleet, viewers: Viewers) -> None:
        self._fleet = fleet
        self._viewers = viewers
        self.on_answer: OnAnswer = _no_commands

    def take(self, topic: Topic, message: Received) -> None:
        """Decode a message and pass it on; a class that is not for a collector is ignored.

        Raises:
            WireError: the body breaks the contract.
            ShareExceeded: there is no room for what it would keep here.
        """
        if not message.body and message.retained:  # a retained message was deleted
            if topic.cls == "live":
                self._fleet.forget_live(topic)
            return
        if topic.cls not in KINDS:
            return  # cmd, desired and ack are for nodes; a later contract may add classes
        text = plain(message.body)
        if len(text) > MAX_BODY:
            raise WireError(f"body of {len(text)} bytes; {MAX_BODY} are allowed")
        if topic.cls in KEPT and (scope := self._fleet.take_room(topic, len(text))):
            until_ms = message.recv_ms + AGAIN_MS
            raise ShareExceeded(Refusal(scope, "live_kb", until_ms))
        self._pass_on(topic, message)

    def _pass_on(self, topic: Topic, message: Received) -> None:
        match topic.cls:
            case "status":
                self._status(topic, message)
            case "birth":
                self._fleet.on_birth(str(topic.address), decode(message.body, Birth))
            case "live":
                self._live(topic, message)
            case "snap":
                self._snap(topic, message)
            case "res":
                self._res(topic, message)
            case "reported":
                self._reported(topic, message)
            case "log":
                self._log(topic, message)

    def _status(self, topic: Topic, message: Received) -> None:
        status = decode(message.body, Status)
        self._fleet.on_status(str(topic.address), status, message.recv_ms, retained=message.retained)

    def _live(self, topic: Topic, message: Received) -> None:
        beat = topic.device == NODE_ITSELF and topic.name == HEARTBEAT
        live = decode_live(message.body, sealed=beat)
        self._fleet.on_live(topic, live, message.recv_ms, retained=message.retained)
        if beat:
            return
        values = {name: value for name, value in live.items() if name != "ts"}
        self._post("live", topic, {"stream": topic.name, "ts": live["ts"], "values": values})

    def _snap(self, topic: Topic, message: Received) -> None:
        snapshot = decode(message.body, Snapshot)
        if not snapshot.jpeg.startswith(b"\xff\xd8"):
            raise WireError("the picture of a snapshot is not a JPEG")
        self._fleet.on_snapshot(topic, snapshot, message.recv_ms)
        self._post("snap", topic, {"stream": topic.name, **picture(snapshot)})

    def _res(self, topic: Topic, message: Received) -> None:
        result = decode(message.body, Res)
        self._fleet.saw(str(topic.address), message.recv_ms)
        if not message.retained:  # nodes retain no answers
            self.on_answer(topic, result, message.recv_ms)
        self._post("res", topic, {"name": topic.name, **msgspec.to_builtins(result)})

    def _reported(self, topic: Topic, message: Received) -> None:
        reported = decode(message.body, Reported)
        if topic.name not in REPORTED:
            raise WireError(f"{topic.name!r} cannot be reported; {', '.join(REPORTED)} can")
        self._fleet.saw(str(topic.address), message.recv_ms)
        self._fleet.on_reported(str(topic.address), topic.name, reported)
        self._fleet.keep(f"reported/{topic.address}/{topic.name}", msgspec.json.encode(reported))

    def _log(self, topic: Topic, message: Received) -> None:
        line = decode(message.body, Log)
        self._fleet.saw(str(topic.address), message.recv_ms)
        self._post("log", topic, {"level": topic.name, **msgspec.to_builtins(line)})

    def _post(self, event: str, topic: Topic, data: dict[str, Any]) -> None:
        node, device = str(topic.address), topic.device or NODE_ITSELF
        if self._viewers.is_wanted(node, device):
            self._viewers.post(event, {"node": node, "device": device, **data}, node, device)


def picture(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot without the bytes of its picture."""
    found: dict[str, Any] = msgspec.to_builtins(
        {
            "ts": snapshot.ts,
            "sha256": snapshot.sha256,
            "w": snapshot.w,
            "h": snapshot.h,
            "frame": None if snapshot.frame is msgspec.UNSET else snapshot.frame,
            "model": snapshot.model,
            "boxes": snapshot.boxes,
            "areas": snapshot.areas,
            **{
                name: value
                for name in ("blur", "faces", "plates", "why", "code", "args")
                if (value := getattr(snapshot, name)) not in (msgspec.UNSET, "", {})
            },
        }
    )
    return found
