"""What a site notes about its nodes is followed, and signs what is sent to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.ledger.enrolled import EnrolledNode, EnrolledNodes, NodeKeys
from wire.codec import encode
from wire.custody import key_id
from wire.mac import MacWrong, checked, node_key
from wire.messages import Ack

NODE = "acme/junction/street-1/cam-01"
TOPIC = f"tb1/{NODE}/ack"
BODY = encode(Ack(ep="9f2c41d07ab3e586", ok=[(1, 2)], by="c", ts=1))
KEY = "ab" * 32
SECRET = bytes(32)


class Seconds:
    s = 0.0

    def __call__(self) -> float:
        return self.s


def test_the_file_is_followed_and_bad_lines_are_nothing(tmp_path: Path) -> None:
    path, now = tmp_path / "enrolled", Seconds()
    nodes = EnrolledNodes(path, now)
    assert nodes.of(NODE) is None
    path.write_text(f"# head\n{NODE} 2 {KEY}\nx\na/b/c/d 0 -\na/b/c/d 1 zz\na/b/c/d {10**9} -\n\xff\n")
    assert nodes.of(NODE) is None, "it looks once a second"
    now.s += 1
    assert nodes.of(NODE) == EnrolledNode(2, KEY)
    assert nodes.of(NODE).custody_id == key_id(KEY)  # type: ignore[union-attr]
    assert nodes.of("a/b/c/d") is None
    path.write_text(f"{NODE} 30 removed\n")
    now.s += 1
    assert nodes.of(NODE) == EnrolledNode(30, "", is_removed=True)
    path.unlink()
    now.s += 1
    assert nodes.of(NODE) == EnrolledNode(30, "", is_removed=True), "what was read last stays"
    assert EnrolledNodes(None).of(NODE) is None


def test_each_message_is_signed_for_its_node_and_generation(tmp_path: Path) -> None:
    path, now = tmp_path / "enrolled", Seconds()
    keys = NodeKeys(SECRET, EnrolledNodes(path, now))
    assert checked(node_key(SECRET, NODE, 1), TOPIC, keys.sign(TOPIC, BODY)) == BODY
    path.write_text(f"{NODE} 2 -\n")
    now.s += 1
    made = keys.sign(TOPIC, BODY)
    assert checked(node_key(SECRET, NODE, 2), TOPIC, made) == BODY
    with pytest.raises(MacWrong):
        checked(node_key(SECRET, NODE, 1), TOPIC, made)
    for topic in ("tb1/_sys/collector-1/claim", "tb1/_sys/c/probe", f"tb1/{NODE}/status", "x"):
        assert keys.sign(topic, BODY) == BODY, "the collector's own messages have none"
