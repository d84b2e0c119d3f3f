"""Live messages: each class reaches the fleet and the pages of its device; other classes are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from collector.fleet.fleet import Fleet
from collector.ingest.live import LiveMessages, picture
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from wire.codec import encode
from wire.errors import WireError
from wire.messages import AgentInfo, Birth, Box, Log, Reported, Res, Snapshot, Status
from wire.topics import Address, Topic, parse

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
JPEG = b"\xff\xd8\xff\xe0 picture"


class Pages:
    """Open pages that show one device; keeps what is posted to them."""

    def __init__(self, device: str = "arm") -> None:
        self.device = device
        self.posted: list[tuple[str, dict[str, Any]]] = []

    def is_wanted(self, node: str, device: str) -> bool:
        return (node, device) == (NODE, self.device)

    def post(self, event: str, data: Mapping[str, Any], node: str = "", device: str = "") -> None:
        assert (node, device) == (NODE, self.device)
        self.posted.append((event, dict(data)))


class Room:
    def __init__(self, clock: Any, device: str) -> None:
        self.fleet = Fleet(clock, Ledger())
        self.pages = Pages(device)
        self.live = LiveMessages(self.fleet, self.pages)

    def take(self, tail: str, body: Any, *, retained: bool = False) -> None:
        topic = f"tb1/{NODE}/{tail}"
        raw = body if isinstance(body, bytes) else encode(body)
        self.live.take(parse(topic), Received(topic, raw, T0, retained, None))


@pytest.fixture
def room(clock: Any) -> Room:
    return Room(clock, "arm")


def test_newest_values_are_posted_to_pages_that_show_the_device(room: Room) -> None:
    room.take("live/arm/joints", {"ts": T0, "j1": 1.5})
    room.take("live/other/joints", {"ts": T0, "j1": 2.5})
    assert room.pages.posted == [
        ("live", {"node": NODE, "device": "arm", "stream": "joints", "ts": T0, "values": {"j1": 1.5}})
    ]
    assert room.fleet.live(NODE)["other"]["joints"] == {"ts": T0, "j1": 2.5}


def test_a_heartbeat_is_for_the_fleet_alone(clock: Any) -> None:
    room = Room(clock, "_")
    room.take("live/_/agent", {"ts": T0, "ep": EP, "head": 5, "depth": 5, "rss_mb": 40.5})
    assert room.pages.posted == []
    (view,) = room.fleet.views(NODE)
    assert (view.health["rss_mb"], view.ledger.waiting) == (40.5, 5)


def test_status_and_birth_reach_the_fleet(room: Room) -> None:
    room.take("status", Status(state="online", ts=T0, boot="deadbeef", sess=1, agent="0.1.0"))
    room.take("birth", Birth(ts=T0, boot="deadbeef", sess=1, ep=EP, agent=AgentInfo(ver="0.1.0")))
    (view,) = room.fleet.views(NODE)
    assert (view.state, view.agent) == ("online", "0.1.0")
    assert room.fleet.birth(NODE) is not None


def test_a_picture_is_kept_and_its_facts_are_posted(room: Room) -> None:
    boxes = [Box(label="car", cls=1, score=0.5, box=(0.1, 0.1, 0.2, 0.2))]
    snapshot = Snapshot(ts=T0, w=64, h=48, sha256="ab", jpeg=JPEG, model="m@1", boxes=boxes)
    room.take("snap/arm/frames", snapshot)
    found = room.fleet.snapshot(NODE, "arm", "frames")
    assert found is not None
    assert found.jpeg == JPEG
    ((event, data),) = room.pages.posted
    assert (event, data["stream"], data["boxes"][0]["label"], data["frame"]) == (
        "snap",
        "frames",
        "car",
        None,
    )
    assert "jpeg" not in data
    assert {name: data[name] for name in picture(snapshot)} == picture(snapshot)


def test_a_picture_that_is_not_a_jpeg_is_refused(room: Room) -> None:
    with pytest.raises(WireError, match="not a JPEG"):
        room.take("snap/arm/frames", Snapshot(ts=T0, w=1, h=1, sha256="ab", jpeg=b"<svg/>"))
    assert room.fleet.snapshot(NODE, "arm", "frames") is None


def test_a_result_and_a_log_line_are_posted_and_show_that_the_node_lives(clock: Any) -> None:
    room = Room(clock, "_")
    room.take("log/warning", Log(ts=T0, src="uplink", msg="no broker"))
    assert [(event, data["level"], data["msg"]) for event, data in room.pages.posted] == [
        ("log", "warning", "no broker")
    ]
    assert room.fleet.views(NODE)[0].last_seen == T0
    room = Room(clock, "arm")
    room.take("res/arm/stop", Res(id="01ARZ3NDEKTSV4RRFFQ69G5FAV", state="done", ts=T0))
    assert [(event, data["name"], data["state"]) for event, data in room.pages.posted] == [
        ("res", "stop", "done")
    ]
    assert room.fleet.views(NODE)[0].last_seen == T0


def test_what_a_node_reports_is_saved(room: Room) -> None:
    room.take("reported/config", Reported(ver=3, state="applied", ts=T0))
    assert [key for key in room.fleet.take_unsaved() if key.startswith("reported/")] == [
        f"reported/{NODE}/config"
    ]
    with pytest.raises(WireError, match="'weather' cannot be reported; config, models, pilot can"):
        room.take("reported/weather", Reported(ver=3, state="applied", ts=T0))


def test_a_deleted_retained_message_is_not_a_fault(room: Room) -> None:
    room.take("status", b"", retained=True)
    with pytest.raises(WireError):
        room.take("status", b"")


@pytest.mark.parametrize("cls", ["ack", "cmd", "desired"])
def test_a_class_for_nodes_is_ignored(room: Room, cls: str) -> None:
    topic = Topic(Address("acme", "trial", "hall", "cobot-01"), cls, "arm", "x")
    room.live.take(topic, Received("t", b"whatever", T0, False, None))
    assert (room.pages.posted, room.fleet.views(), room.fleet.has_unsaved) == ([], [], False)


@pytest.mark.parametrize("cls", ["later", "fleet", "post", "pages", "viewers", "_init__", "hub"])
def test_an_unknown_class_is_ignored_whatever_its_name(room: Room, cls: str) -> None:
    """A name of an attribute or a method must not select it."""
    topic = Topic(Address("acme", "trial", "hall", "cobot-01"), cls, "arm", "x")
    room.live.take(topic, Received("t", encode({"ts": T0}), T0, False, None))
    assert (room.pages.posted, room.fleet.views(), room.fleet.has_unsaved) == ([], [], False)


def test_the_codes_of_an_answer_and_of_a_picture_reach_the_page(room: Room) -> None:
    refused = Res(
        id="0" * 26, state="rejected", code=404, err="unknown", ts=T0,
        err_code="command-unknown", args={"name": "fly"},
    )  # fmt: skip
    hidden = Snapshot(ts=T0, w=4, h=3, sha256="ab", jpeg=JPEG, blur="whole", why="no", code="picture-unsure")
    room.take("res/arm/fly", refused)
    room.take("snap/arm/frames", hidden)
    (_, answer), (_, shot) = room.pages.posted
    assert (answer["code"], answer["err_code"], answer["args"]) == (404, "command-unknown", {"name": "fly"})
    assert (shot["why"], shot["code"], "args" in shot) == ("no", "picture-unsure", False)


@pytest.mark.parametrize(
    "more", [b'"code":"Not Kebab"', b'"args":{"x":"%s"}' % (b"x" * 3_000), b'"code":"x\\n"']
)
def test_a_status_with_a_hostile_code_is_refused_and_changes_nothing(room: Room, more: bytes) -> None:
    head = b'{"v":1,"state":"online","ts":1,"boot":"deadbeef","sess":1,'
    with pytest.raises(WireError, match="not a Status"):
        room.take("status", head + b'"devices":{"arm":{"state":"degraded",%s}}}' % more)
    assert room.fleet.views() == []
