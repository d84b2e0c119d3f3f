"""Shares at the door and by content; a fleet of 10,000 nodes never meets the default ones."""

from __future__ import annotations

import gzip
import random

import pytest

from collector.ingest import shares as module
from collector.ingest.refusal import Refusal
from collector.ingest.share_limits import NodeShares, Shares, TenantShares
from collector.ingest.shares import DAY_MS, LEAST_VALUES, QUOTA_MS, ContentShares, Door, NodeNames
from wire.codec import encode
from wire.messages import Batch
from wire.topics import Address

FLOOD, CALM = b"tb1/acme/trial/hall/flood", b"tb1/acme/trial/hall/calm"
DAY = 20_000
NOON_MS = DAY * DAY_MS + DAY_MS // 2


def small(**limits: int) -> Shares:
    """Shares of a node with these limits."""
    return Shares(node=NodeShares(**limits))


def content(shares: Shares) -> ContentShares:
    made = ContentShares(shares)
    made.turn(NOON_MS, 0.0)
    return made


def test_a_node_has_its_share_of_messages_over_all_its_topics() -> None:
    door = Door(small(messages_per_s=10))
    for second in (5.0, 6.0, 7.0):
        tails = (b"/data/arm/x", b"/live/arm/x", b"/status") * 10
        taken = [door.check(FLOOD + tail, b"{}", second) for tail in tails]
        assert [one is None for one in taken] == [True] * 10 + [False] * 20
        assert taken[-1] is not None
        assert (taken[-1][0].scope, taken[-1][1]) == ("node", "messages_per_s")
        assert door.check(CALM + b"/data/arm/x", b"{}", second) is None


def test_a_body_counts_with_its_bytes_before_compression() -> None:
    door = Door(small(plain_kb_per_s=1_000))
    bomb = gzip.compress(bytes(1_000_000), 9)
    assert len(bomb) < 2_000
    taken = [door.check(FLOOD + b"/data/arm/x", bomb, 0.0) for _ in range(10)]
    assert [one is None for one in taken] == [True] * 4 + [False] * 6
    assert taken[-1] is not None
    assert taken[-1][1] == "plain_kb_per_s"
    assert door.check(CALM + b"/data/arm/x", bomb, 0.0) is None
    assert door.check(FLOOD + b"/data/arm/x", bomb, 2.0) is None


def test_invalid_topics_are_counted_too() -> None:
    door = Door(small(messages_per_s=2))
    for topic in (b"tb1", b"tb1/\xff/\x00", b"x/" * 300):
        assert [door.check(topic, b"", 1.0) is None for _ in range(3)] == [True, True, False]


def test_it_remembers_no_more_topics_than_it_may() -> None:
    door = Door(small(messages_per_s=10**9))
    for number in range(module._TOPICS + 100):
        door.check(FLOOD + b"/data/arm/x%d" % number, b"{}", 0.0)
    assert len(door._known) <= module._TOPICS


def test_values_are_charged_and_a_small_message_counts_as_some() -> None:
    shares = content(small(values_per_s=1_000))
    taken = [shares.check_values("acme", "acme/t/h/n", 1) for _ in range(300)]
    assert taken.count(None) == 4 * 1_000 / LEAST_VALUES
    assert taken[-1] == Refusal("node", "values_per_s", NOON_MS + 1_000)


def test_names_and_streams_of_a_node() -> None:
    shares = content(small(streams=2, names_per_stream=4, names=6))

    def refused(stream: str, *names: str, node: str = "evil/t/h/n") -> str:
        found = shares.check_rows(node, "arm", stream, names)
        assert found is None or (found.scope == "node" and found.until_ms == (DAY + 1) * DAY_MS)
        return "" if found is None else found.key

    assert refused("s1", "a", "b", "c") == ""
    assert refused("s1", "d") == "", "names that come later"
    assert refused("s1", "e") == "names_per_stream"
    assert refused("s1", "a", "b", "c", "d") == "", "what is known goes on"
    assert refused("s2", "a", "b", "c") == "names"
    assert refused("s2", "a", "b") == ""
    assert refused("s3", "a") == "streams"
    assert refused("s3", "e", node="evil/t/h/other") == ""
    shares.turn((DAY + 1) * DAY_MS, 0.0)
    assert refused_next(shares) is None, "a new day has new shares"


def refused_next(shares: ContentShares) -> Refusal | None:
    return shares.check_rows("evil/t/h/n", "arm", "s9", ["z"])


def test_a_tenant_that_uses_all_names_leaves_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FIELDS", 1_000)
    shares = content(Shares(node=NodeShares(), tenant=TenantShares(names=150_000)))
    used = {}
    for tenant in ("evil", "worse", "third"):
        used[tenant] = 0
        while shares.check_rows(f"{tenant}/t/h/n", "arm", "s", [f"{tenant}{used[tenant]}"]) is None:
            used[tenant] += 1
    assert used["evil"] == 500
    assert sum(used.values()) < 1_000
    assert shares.check_rows("acme/t/h/victim", "bed", "vitals", ["heart_rate"]) is None


def test_the_names_in_memory_are_bounded_and_streams_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 1_000)
    shares = content(Shares(tenant=TenantShares(streams=150_000)))
    same = [f"f{n}" for n in range(100)]
    for number in range(2_000):
        assert shares.check_rows(f"acme/t/h/n{number}", "arm", "s", same) is None
    assert shares._held == 100
    found = None
    for number in range(100):
        found = found or shares.check_rows(
            "acme/t/h/n1", "arm", f"s{number}", [f"g{number}_{n}" for n in range(20)]
        )
    assert found is not None
    assert (found.scope, found.key) == ("tenant", "names")


def test_the_bytes_of_a_day() -> None:
    shares = content(small(disk_mb_per_day=1))
    shares.stored("acme/t/h/n", 999_999)
    assert shares.check_disk("acme/t/h/n") is None
    shares.stored("acme/t/h/n", 1)
    assert shares.check_disk("acme/t/h/n") == Refusal("node", "disk_mb_per_day", (DAY + 1) * DAY_MS)
    assert shares.check_rows("acme/t/h/n", "arm", "s", ["x"]) == shares.check_disk("acme/t/h/n")
    assert shares.check_disk("acme/t/h/other") is None


def test_invented_node_names_stay_in_their_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 100)
    names = NodeNames(30, {"acme/t/h/old"})
    taken = [names.check(Address("evil", "t", "h", f"n{n}"), 0) for n in range(1_000)]
    assert taken.count(None) == 30
    assert taken[-1] == Refusal("tenant", "nodes", 600_000)
    for number in range(1_000):
        names.check(Address(f"evil{number % 50}", "t", "h", f"n{number}"), 0)
    assert names.check(Address("acme", "t", "h", "old"), 0) is None, "a known node goes on"
    assert names.check(Address("evil", "t", "h", "n3"), 0) is None


def test_a_fleet_of_10_000_nodes_never_meets_a_default_share() -> None:
    """Each node of one tenant sends a message a second, with newest values, after all connected at once."""
    shares, dice = Shares(), random.Random(5)
    door, inside, names = Door(shares), content(shares), NodeNames(shares.tenant.nodes)
    fields = {f"f{n}": [1.25] * 10 for n in range(6)}
    body = encode(Batch(ep="0" * 16, seq=1, t0=1, per=1, n=10, f=fields))
    nodes = [Address("acme", "trial", "hall", f"n{n}") for n in range(10_000)]
    topics = [(one.base.encode() + b"/data/arm/s", one.base.encode() + b"/live/arm/s") for one in nodes]
    for second in range(8):
        order = dice.sample(range(10_000), 10_000)
        for place, at in enumerate(order):
            now_s = second if second == 0 else second + place / 10_000  # the first second at one moment
            assert names.check(nodes[at], 0) is None
            assert door.check(topics[at][0], body, now_s) is None
            assert door.check(topics[at][1], body, now_s) is None
            if second % 4 == 0:
                name = str(nodes[at])
                inside.turn(NOON_MS, now_s)
                assert inside.check_values("acme", name, body.count(b",")) is None
                assert inside.check_rows(name, "arm", "s", fields) is None


def test_10_000_names_a_node_are_within_the_default_shares() -> None:
    inside = content(Shares())
    columns = [f"name_{n}" for n in range(10_000)]
    for number in range(400):
        assert inside.check_rows(f"acme/t/h/n{number}", "plc", "all", columns) is None


def test_packing_gives_room_back_and_never_more_than_was_taken_today() -> None:
    shares = content(small(disk_mb_per_day=1))
    shares.stored("acme/trial/hall/cobot-01", 1_000_000)
    assert shares.check_disk("acme/trial/hall/cobot-01") is not None
    shares.stored("acme/trial/hall/cobot-01", -1)
    assert shares.check_disk("acme/trial/hall/cobot-01") is None
    shares.turn(NOON_MS + DAY_MS, 0.0)
    shares.stored("acme/trial/hall/cobot-01", -600_000)  # what was written before midnight
    shares.stored("acme/trial/hall/cobot-01", 1_000_000)
    assert shares.check_disk("acme/trial/hall/cobot-01") is not None


def test_a_tenant_over_its_quota_is_refused_and_others_are_not() -> None:
    shares = content(small())
    shares.stored("acme/t/h/n", 700)
    shares.stored("acme/t/h/other", 300)
    assert shares.written() == {"acme": 1_000}
    shares.full = frozenset({"acme"})
    refused = shares.check_disk("acme/t/h/n")
    assert refused is not None
    assert refused == shares.check_rows("acme/t/h/new", "arm", "s", ["x"])
    assert (refused.code, refused.reason.args) == ("share-disk", {"share": "quotas"})
    assert refused.until_ms == NOON_MS + QUOTA_MS, "it tries again soon"
    assert shares.check_disk("blue/t/h/n") is None
    shares.full = frozenset()
    assert shares.check_disk("acme/t/h/n") is None
