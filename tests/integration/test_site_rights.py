"""A shared site: what a second company can do with its own valid certificates, as a matrix.

Each check counts leaks (messages of others that arrive) and effects (what others notice). The column `rules`
is the written configuration; the column `open` has the access rules and the bound client ids switched off,
and shows that each check can fail.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgebed.site.layout import Layout
from edgebed.site.settings import viewer_user
from tests.polling import wait_until
from tests.site_broker import Client, new_site, node_credential, running
from wire.topics import CLASSES, Address

VICTIM = Address("acme", "trial", "hall", "n1")
BETA = "node-of-another-company"
OTHERS = {
    BETA: Address("beta", "trial", "hall", "n1"),
    "node-of-another-pilot": Address("acme", "other", "hall", "n1"),
    "node-of-the-same-pilot": Address("acme", "trial", "hall", "n2"),
}
VIEWER = "viewer-of-another-company"
ACTORS = [*OTHERS, VIEWER]
COLLECTOR = "collector-1"
_number = itertools.count()


@dataclass
class Stage:
    """A broker with a collector, a node to attack, and the credentials of others."""

    layout: Layout
    credentials: dict[str, tuple[Path, Path]]
    nodes: dict[str, Address]  # actor to a node whose `ack` it may read
    has_rules: bool = True
    v5: bool = True
    collector: Client = field(init=False)
    victim: Client = field(init=False)

    def open(self) -> None:
        """Connect the collector and the victim, with what they read."""
        self.collector = self.as_collector(COLLECTOR)
        self.collector.subscribe("tb1/#")
        self.victim = self.as_victim()

    def close(self) -> None:
        """Disconnect both."""
        self.victim.close()
        self.collector.close()

    def as_collector(self, client_id: str) -> Client:
        """A client with the collector's certificate."""
        site = self.layout.site
        port = site.collector_port if site.broker == "mosquitto" else site.port
        return Client(self.layout, self.credentials[COLLECTOR], client_id, port=port, v5=self.v5).__enter__()

    def as_victim(self, *, clean: bool = True) -> Client:
        """The victim, as an agent connects."""
        victim = Client(
            self.layout, self.credentials["victim"], VICTIM.client_id, clean=clean, v5=self.v5
        ).__enter__()
        victim.subscribe(*(VICTIM.topic(tail) for tail in ("ack", "cmd/#", "desired/#", "status")))
        return victim

    def as_actor(self, actor: str, client_id: str = "", **options: object) -> Client:
        """A client with the credential of another one."""
        return Client(self.layout, self.credentials[actor], client_id, **options)  # type: ignore[arg-type]

    def settle(self) -> None:
        """Wait until the collector and the victim have what was published before."""
        body = b"settled %d" % next(_number)
        self.collector.publish(VICTIM.topic("cmd", "_", "settle"), body)
        self.victim.wait_for(VICTIM.topic("cmd", "_", "settle"), body)
        self.victim.publish(VICTIM.topic("data", "_", "settle"), body)
        self.collector.wait_for(VICTIM.topic("data", "_", "settle"), body)

    def arrived(self, body: bytes) -> int:
        """How often a body arrived at the collector or the victim."""
        self.settle()
        return sum(one == body for client in (self.collector, self.victim) for _, one in client.heard)


def _open(config: str) -> str:
    """The configuration without its rules."""
    for old, new in (
        ("acl_file", "# acl_file"),
        ("use_username_as_clientid true", "use_username_as_clientid false"),
        ("collectors-ca.pem", "nodes-ca.pem"),
    ):
        assert old in config
        config = config.replace(old, new)
    return config


@contextmanager
def _stage(folder: Path, column: str) -> Iterator[Stage]:
    layout = new_site(folder / "site", viewers=["acme/trial", "beta/trial"])
    credentials = {actor: node_credential(layout, node) for actor, node in OTHERS.items()}
    credentials["victim"] = node_credential(layout, VICTIM)
    viewer = layout.path(f"viewers/{viewer_user('beta/trial')}")
    collector = layout.path(f"collectors/{COLLECTOR}")
    credentials[VIEWER] = (viewer / "viewer.pem", viewer / "viewer.key")
    credentials[COLLECTOR] = (collector / "collector.pem", collector / "collector.key")
    if column == "open":
        path = layout.path("mosquitto.conf")
        path.write_text(_open(path.read_text()))
        credentials[COLLECTOR] = node_credential(layout, Address("x", "x", "x", "collector"))
    with running(layout):
        yield Stage(layout, credentials, {VIEWER: OTHERS[BETA], **OTHERS}, column == "rules")


@pytest.fixture(scope="module", autouse=True)
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stage]]:
    """Both columns: one broker each for all checks."""
    with ExitStack() as stack:
        yield {
            column: stack.enter_context(_stage(tmp_path_factory.mktemp(column), column))
            for column in ("rules", "open")
        }


@pytest.fixture(params=["rules", "open"])
def stage(request: pytest.FixtureRequest, stages: dict[str, Stage]) -> Iterator[Stage]:
    found = stages[request.param]
    found.open()
    yield found
    found.close()


def topic_of(cls: str) -> str:
    """A topic of the victim."""
    return VICTIM.topic(cls, *["_", "probe"][2 - CLASSES[cls] :])


Attack = Callable[[Stage, str, bool], tuple[int, int]]


def publish(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Publish on each topic of the victim."""
    body = b"hostile %d" % next(_number)
    with stage.as_actor(actor, v5=v5) as client:
        for cls in CLASSES:
            client.publish(topic_of(cls), body)
    return 0, stage.arrived(body)


def publish_retained(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Publish retained, and see what a collector finds that comes later."""
    body = b"hostile %d" % next(_number)
    with stage.as_actor(actor, v5=v5) as client:
        for cls in ("status", "birth", "ack", "cmd"):
            client.publish(topic_of(cls), body, retain=True)
    later = stage.as_collector("collector-later")
    later.subscribe("tb1/#")
    mark = b"mark %d" % next(_number)
    stage.victim.publish(VICTIM.topic("data", "_", "mark"), mark)
    later.wait_for(VICTIM.topic("data", "_", "mark"), mark)
    found = sum(one == body for _, one in later.heard)
    for cls in ("status", "birth", "ack", "cmd"):
        later.publish(topic_of(cls), b"", retain=True)
    later.close()
    return 0, found


def delete_retained(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Delete the retained status of the victim."""
    stage.victim.publish(VICTIM.topic("status"), b"precious", retain=True)
    with stage.as_actor(actor, v5=v5) as client:
        client.publish(VICTIM.topic("status"), b"", retain=True)
    stage.settle()
    later = stage.as_collector("collector-later")
    later.subscribe(VICTIM.topic("status"), VICTIM.topic("data/#"))
    mark = b"mark %d" % next(_number)
    stage.victim.publish(VICTIM.topic("data", "_", "mark"), mark)
    later.wait_for(VICTIM.topic("data", "_", "mark"), mark)
    lost = (VICTIM.topic("status"), b"precious") not in later.heard
    later.close()
    return 0, int(lost)


def will(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Leave a Will on topics of the victim."""
    body = b"hostile %d" % next(_number)
    for cls in ("status", "ack"):
        client = stage.as_actor(actor, v5=v5, will=(topic_of(cls), body))
        if client.is_accepted():
            client.cut()
        client.close()
    if not stage.has_rules:
        wait_until(lambda: any(body == one for _, one in stage.collector.heard), "the Will")
    return 0, stage.arrived(body)


def topic_alias(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Publish under an alias that named an allowed topic first, then one of the victim."""
    if not v5:
        return publish(stage, actor, v5)
    body = b"hostile %d" % next(_number)
    alias = Properties(PacketTypes.PUBLISH)
    alias.TopicAlias = 1
    with stage.as_actor(actor) as client:
        own = stage.nodes[actor].topic("data", "_", "own")
        for topic, what in ((own, b"own"), (topic_of("ack"), b"own"), ("", body), (topic_of("data"), body)):
            if client.publish(topic, what, properties=alias) < 0:
                break
    stage.settle()
    heard = [each for each in stage.collector.heard + stage.victim.heard if each[0].startswith(VICTIM.base)]
    return 0, sum(one == body for _, one in heard)


def listen(*filters: str) -> Attack:
    """Subscribe, then count what arrives of others."""

    def attack(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
        stage.victim.publish(VICTIM.topic("status"), b"retained", retain=True)
        node = stage.nodes[actor]
        mark = b"mark %d" % next(_number)
        with stage.as_actor(actor, v5=v5) as client:
            codes = client.subscribe(*filters, node.topic("ack"))
            for cls in ("data", "event", "pack", "live", "status", "birth", "snap", "res", "log"):
                assert stage.victim.publish(topic_of(cls), mark) in (0, 16)
            for cls in ("ack", "cmd", "desired"):
                stage.collector.publish(topic_of(cls), mark)
            stage.settle()
            stage.collector.publish(node.topic("ack"), mark)  # it shows that all before has been sent
            client.wait_for(node.topic("ack"), mark)
            leaks = [topic for topic, _ in client.heard if not topic.startswith(node.base)]
            if (
                stage.layout.site.broker == "nats"
            ):  # it refuses a filter; its subscriptions have no common order
                leaks += [each for each, code in zip(filters, codes, strict=False) if code < 0x80]
        stage.settle()
        missed = sum(
            (topic_of(cls), mark) not in stage.collector.heard for cls in ("data", "event", "pack", "live")
        )
        return len(leaks), missed

    return attack


def spoof(clean: bool, *client_ids: str) -> Attack:
    """Connect with the client ids of others; a connection that was ended takes no more messages."""

    def attack(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
        effects = 0
        for client_id in client_ids:
            with stage.as_actor(actor, client_id, v5=v5, clean=clean):
                effects += stage.victim.publish(VICTIM.topic("data", "_", "alive")) < 0
                effects += stage.collector.publish(VICTIM.topic("cmd", "_", "alive")) < 0
                if effects:
                    break
        return 0, effects

    return attack


def steal_session(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Take over the session of a node that is away, with the commands that wait in it."""
    stage.victim.close()
    stage.as_victim(clean=False).close()
    body = b"waits %d" % next(_number)
    stage.collector.publish(VICTIM.topic("cmd", "_", "wait"), body)
    leaks = 0
    for client_id in (VICTIM.client_id, VICTIM.text):
        with stage.as_actor(actor, client_id, v5=v5, clean=False) as client:
            node = stage.nodes[actor]
            client.subscribe(node.topic("ack"))
            stage.collector.publish(node.topic("ack"), body)
            client.wait_for(node.topic("ack"), body)
            leaks += (VICTIM.topic("cmd", "_", "wait"), body) in client.heard
    stage.victim = stage.as_victim(clean=False)
    if stage.layout.site.broker == "nats":  # it may send it again only after its ack_wait, behind newer ones
        stage.victim.wait_for(VICTIM.topic("cmd", "_", "wait"), body)
    stage.settle()
    gone = (VICTIM.topic("cmd", "_", "wait"), body) not in stage.victim.heard
    stage.victim.close()
    stage.victim = stage.as_victim()
    return leaks, int(gone)


def claimed_user(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Connect with the user name of the collector beside the own certificate."""
    leaks = 0
    body = b"hostile %d" % next(_number)
    for user in (COLLECTOR, f"CN={COLLECTOR}"):
        client = stage.as_actor(actor, v5=v5, user=user)
        if client.is_accepted():
            client.subscribe(VICTIM.topic("data/#"), stage.nodes[actor].topic("ack"))
            client.publish(VICTIM.topic("ack"), body)
            stage.settle()
            stage.collector.publish(stage.nodes[actor].topic("ack"), body)
            client.wait_for(stage.nodes[actor].topic("ack"), body)
            leaks += any(topic.startswith(VICTIM.topic("data")) for topic in client.topics())
        client.close()
    return leaks, sum(topic == VICTIM.topic("ack") for topic, _ in stage.victim.heard)


def collectors_door(stage: Stage, actor: str, v5: bool) -> tuple[int, int]:
    """Connect where collectors connect, with a client id of the collector."""
    client = stage.as_actor(actor, COLLECTOR, port=stage.layout.site.collector_port, v5=v5)
    entered = client.is_accepted()
    client.close()
    return 0, int(entered)


CHECKS: dict[str, Attack] = {
    "publish": publish,
    "publish retained": publish_retained,
    "delete retained": delete_retained,
    "will": will,
    "topic alias": topic_alias,
    "subscribe": listen(VICTIM.topic("data/#"), VICTIM.topic("status"), VICTIM.topic("ack")),
    "wildcard": listen("#", "+/+/#", "tb1/#", "tb1/acme/#", "+/acme/+/+/+/#"),
    "$SYS": listen("$SYS/#", "$SYS/broker/clients/#", "$JS/#", "$MQTT/#"),
    "shared subscription": listen("$share/g/tb1/#", "$share/g/tb1/acme/#", "$share/h/#"),
    "client id, clean start": spoof(True, VICTIM.client_id, VICTIM.text, COLLECTOR),
    "client id, kept session": spoof(False, VICTIM.client_id, VICTIM.text, COLLECTOR),
    "session of an absent node": steal_session,
    "user name of the collector": claimed_user,
    "door of the collectors": collectors_door,
}


@pytest.mark.parametrize("v5", [True, False], ids=["v5", "v3.1.1"])
@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("check", CHECKS)
def test_what_others_can_do(stage: Stage, check: str, actor: str, v5: bool) -> None:
    leaks, effects = CHECKS[check](stage, actor, v5)
    if stage.has_rules:
        assert (leaks, effects) == (0, 0)
    else:
        assert leaks or effects, "without rules this check must find something"
