"""The room for newest values: bytes of a node and of its tenant."""

from __future__ import annotations

import pytest

from collector.fleet import live_room as module
from collector.fleet.live_room import ENTRY_BYTES, LiveRoom

NODE, OTHER = "acme/t/h/n", "acme/t/h/other"


def test_a_node_has_its_bytes_and_a_topic_replaces_its_own() -> None:
    room = LiveRoom(node_kb=10, tenant_kb=1_000)
    size = 5_000 - ENTRY_BYTES
    assert [room.take("acme", NODE, topic, size) for topic in "abc"] == ["", "", "node"]
    assert [room.take("acme", NODE, topic, size) for topic in "abab"] == [""] * 4
    assert room.take("acme", OTHER, "a", size) == ""
    assert room.take("acme", NODE, "a", 10) == ""
    assert room.take("acme", NODE, "c", 4_000) == ""


def test_what_is_freed_can_be_used_again() -> None:
    room = LiveRoom(node_kb=10, tenant_kb=10)
    assert room.take("acme", NODE, "a", 9_000) == ""
    assert room.take("acme", OTHER, "a", 9_000) == "tenant"
    room.free(NODE, "a")
    room.free(NODE, "never there")
    assert room.take("acme", OTHER, "a", 9_000) == ""


def test_many_topics_of_few_bytes_are_bounded_too() -> None:
    room = LiveRoom(node_kb=10, tenant_kb=1_000)
    assert [room.take("acme", NODE, number, 2) for number in range(1_000)].count("") == 10_000 // 202


def test_tenants_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL_KB", 100)
    room = LiveRoom(node_kb=100, tenant_kb=33)
    for tenant in ("evil", "worse", "third", "fourth", "fifth"):
        while not room.take(tenant, f"{tenant}/t/h/n", object(), 800):
            pass
    assert room.take("acme", NODE, "a", 1_000) == ""
