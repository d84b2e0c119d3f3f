"""Each node has its share of a second, by the node part of its topics."""

from __future__ import annotations

from collector.mqtt import node_quota as module
from collector.mqtt.node_quota import NodeQuota

FLOOD, CALM = b"tb1/acme/trial/hall/flood", b"tb1/acme/trial/hall/calm"


def test_a_node_has_its_share_of_each_second_over_all_its_topics() -> None:
    quota = NodeQuota(10)
    for second in (5.2, 6.0, 7.9):
        quota.turn(second)
        taken = [quota.admits(FLOOD + tail) for tail in (b"/data/arm/x", b"/live/arm/x", b"/status") * 10]
        assert taken == [True] * 10 + [False] * 20
        quota.turn(second + 0.05)  # the same second
        assert not quota.admits(FLOOD + b"/data/arm/x")
        assert quota.admits(CALM + b"/data/arm/x")


def test_invalid_topics_are_counted_too() -> None:
    quota = NodeQuota(2)
    quota.turn(1.0)
    for topic in (b"", b"tb1", b"tb1/\xff/\x00", b"/" * 300):
        assert [quota.admits(topic) for _ in range(3)] == [True, True, False]


def test_it_remembers_no_more_topics_than_it_may(monkeypatch: object) -> None:
    quota = NodeQuota(10**9)
    for number in range(module._TOPICS + 100):
        quota.admits(FLOOD + b"/data/arm/x%d" % number)
    assert len(quota._nodes) <= module._TOPICS
    assert quota._used == {FLOOD: module._TOPICS + 100}
