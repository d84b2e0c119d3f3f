"""The link: its connection for acks, reconnection, and the reasons that it reports."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from collector.mqtt.link import AckLink, Link, LinkIdentity
from collector.mqtt.received import Receiver
from wire.broker import Broker
from wire.clock import Clock


def make_link(port: int = 1, acks: AckLink | None = None) -> Link:
    receiver = Receiver(lambda _message: None, lambda: False)
    return Link(Broker(url=f"mqtt://127.0.0.1:{port}"), LinkIdentity("collector-1"), Clock(), receiver, acks)


def make_ack_link() -> AckLink:
    return AckLink(Broker(url="mqtt://127.0.0.1:1"), "collector-1", Clock())


def test_acks_go_over_their_own_link_while_it_is_online() -> None:
    acks = make_ack_link()
    link = make_link(acks=acks)
    link.settle((), [("t", b"1")])
    assert list(link.outgoing) == [("t", b"1")]
    acks.link.came_online()
    link.settle((), [("t", b"2")])
    assert list(acks.link.outgoing) == [("t", b"2")]
    acks.link.note("offline", "it ended")
    link.take_back()
    assert (list(link.outgoing), list(acks.link.outgoing)) == ([("t", b"1"), ("t", b"2")], [])
    link.stop()


def test_the_link_for_acks_ends_where_a_broker_gives_both_links_one_client_id(caplog: Any) -> None:
    """mosquitto does with use_username_as_clientid: each connection would end the other without end."""
    acks = make_ack_link()
    link = make_link(acks=acks)
    for _ in range(2):
        acks.link.came_online()
        link._lost("taken over")
    assert acks.link.stopping.is_set()
    assert not acks.is_free
    assert "one client id" in caplog.text
    link.stop()


def test_acks_wait_for_a_connection_and_the_oldest_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    link = make_link()
    link.settle((), [(f"t/{number}", b"") for number in range(30_000)])
    assert len(link.outgoing) == 20_000
    link.stop()


def test_an_absent_broker_is_logged_once_and_retried(
    caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    from collector.mqtt import link as module

    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        link = make_link(port=port)
        link.start()
        deadline = time.monotonic() + 20
        while link.connections < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        state = link.state
        link.stop()
    assert (state.state, state.why) == (
        "offline",
        "nothing listens there: is it on, are host and port right?",
    )
    assert len([line for line in caplog.messages if "no broker at" in line]) == 1
    assert link.state.state == "stopped"


def test_falling_back_to_an_older_protocol_is_not_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    from collector.mqtt import link as module

    monkeypatch.setattr(module, "BACKOFF_S", (5.0,))  # the fallback does not wait for it
    caplog.set_level("INFO")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(20)
        link = make_link(port=server.getsockname()[1])
        link._looked = True  # for another collector, on a connection of its own
        link.start()
        levels = []
        for answer in (b"\x20\x03\x00\x84\x00", b""):  # CONNACK: unsupported protocol version
            peer, _ = server.accept()
            with peer:
                levels.append(peer.recv(4096)[8])
                peer.sendall(answer)
        link.stop()
    assert levels == [5, 4]
    logged = next((record.levelname, record.message) for record in caplog.records)
    assert logged[0] == "INFO"
    assert "does not take MQTT 5" in logged[1]


def test_a_server_that_is_not_a_broker_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("connection", "rival"):
        monkeypatch.setattr(f"collector.mqtt.{module}.CONNECT_S", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        link = make_link(port=mute.getsockname()[1])
        link.start()
        deadline = time.monotonic() + 20
        while "did not answer CONNECT" not in link.state.why:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        link.stop()


def test_a_server_that_sends_nonsense_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from collector.mqtt import link as module

    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        link = make_link(port=other.getsockname()[1])
        link.start()
        for nonsense in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x20\xff\xff\xff\xff\xff",
            b"\x20\x00",
            b"\x00" * 50,
        ):
            other.settimeout(20)
            peer, _ = other.accept()
            peer.sendall(nonsense)
            peer.close()
        assert link._thread.is_alive()
        link.stop()
    assert link.state.state == "stopped"


def test_what_goes_to_nodes_is_signed_once_whichever_link_takes_it() -> None:
    acks = make_ack_link()
    link = Link(
        Broker(url="mqtt://127.0.0.1:1"),
        LinkIdentity("collector-1", sign=lambda topic, body: topic.encode() + body + b"!"),
        Clock(),
        None,
        acks,
    )
    link.settle((), [("a", b"1")])
    assert list(link.outgoing) == [("a", b"a1!")]
    acks.link.note("online", "")
    link.settle((), iter([("b", b"2")]))
    assert list(acks.link.outgoing) == [("b", b"b2!")]
    acks.link.note("offline", "")
    link.take_back()
    assert list(link.outgoing) == [("a", b"a1!"), ("b", b"b2!")]
    link.stop()
