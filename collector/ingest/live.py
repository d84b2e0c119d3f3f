"""Messages that are not stored by number: status, birth, newest values, pictures, results, log lines."""

from __future__ import annotations

from typing import Any

import msgspec

from collector.fleet.fleet import HEARTBEAT, Fleet
from collector.mqtt.link import Incoming
from collector.web.event_stream import Hub
from wire.codec import decode, decode_live
from wire.errors import WireError
from wire.messages import Birth, Log, Reported, Res, Snapshot, Status
from wire.topics import NODE_ITSELF, Topic

REPORTED = ("config", "models")


class News:
    """Takes each message at once, in the receiving thread: it tells the fleet and whoever is watching."""

    def __init__(self, fleet: Fleet, hub: Hub) -> None:
        self._fleet = fleet
        self._hub = hub
        self.stale = 0  # statuses and births older than what was known
        self.ignored = 0  # classes that are not for a collector

    def take(self, topic: Topic, message: Incoming) -> None:
        """Decode and pass on.

        Raises:
            WireError: the body does not keep the contract.
        """
        if not message.body and message.retained:
            return  # a retained message was deleted
        take = getattr(self, f"_{topic.cls}", None)
        if take is None:
            self.ignored += 1
            return
        take(topic, message)

    def _status(self, topic: Topic, message: Incoming) -> None:
        status = decode(message.body, Status)
        node = str(topic.address)
        if not self._fleet.on_status(node, status, message.recv_ms, retained=message.retained):
            self.stale += 1

    def _birth(self, topic: Topic, message: Incoming) -> None:
        if not self._fleet.on_birth(str(topic.address), decode(message.body, Birth)):
            self.stale += 1

    def _live(self, topic: Topic, message: Incoming) -> None:
        beat = topic.device == NODE_ITSELF and topic.name == HEARTBEAT
        live = decode_live(message.body, sealed=beat)
        self._fleet.on_live(topic, live, message.recv_ms, retained=message.retained)
        if beat:
            return
        values = {name: value for name, value in live.items() if name != "ts"}
        self._post("live", topic, {"stream": topic.name, "ts": live["ts"], "values": values})

    def _snap(self, topic: Topic, message: Incoming) -> None:
        snapshot = decode(message.body, Snapshot)
        if not snapshot.jpeg.startswith(b"\xff\xd8"):
            raise WireError("a snapshot that is no JPEG")
        self._fleet.on_snapshot(topic, snapshot, message.recv_ms)
        self._post("snap", topic, {"stream": topic.name, **picture(snapshot)})

    def _res(self, topic: Topic, message: Incoming) -> None:
        result = decode(message.body, Res)
        node = str(topic.address)
        self._fleet.saw(node, message.recv_ms)
        self._post("res", topic, {"name": topic.name, **msgspec.to_builtins(result)})

    def _reported(self, topic: Topic, message: Incoming) -> None:
        reported = decode(message.body, Reported)
        if topic.name not in REPORTED:
            raise WireError(f"nothing reports {topic.name!r}; there is {', '.join(REPORTED)}")
        self._fleet.saw(str(topic.address), message.recv_ms)
        self._fleet.keep(f"reported/{topic.address}/{topic.name}", msgspec.json.encode(reported))

    def _log(self, topic: Topic, message: Incoming) -> None:
        line = decode(message.body, Log)
        self._fleet.saw(str(topic.address), message.recv_ms)
        self._post("log", topic, {"level": topic.name, **msgspec.to_builtins(line)})

    def _post(self, event: str, topic: Topic, data: dict[str, Any]) -> None:
        node, device = str(topic.address), topic.device or NODE_ITSELF
        if self._hub.is_wanted(node, device):
            self._hub.post(event, {"node": node, "device": device, **data}, node, device)


def picture(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot without its bytes."""
    found: dict[str, Any] = msgspec.to_builtins(
        {
            "ts": snapshot.ts,
            "sha256": snapshot.sha256,
            "w": snapshot.w,
            "h": snapshot.h,
            "frame": None if snapshot.frame is msgspec.UNSET else snapshot.frame,
            "model": snapshot.model,
            "boxes": snapshot.boxes,
            **{
                name: value
                for name in ("blur", "faces", "plates", "why")
                if (value := getattr(snapshot, name)) not in (msgspec.UNSET, "")
            },
        }
    )
    return found
