"""Equal parts: below its part a node always passes, above it only while there is room."""

from __future__ import annotations

from collections import Counter

import pytest

from collector.ingest import fair_parts as module
from collector.ingest.fair_parts import BURST_S, DEBT_S, PART, FairParts


def run(parts: FairParts, rates: dict[str, float], seconds: int, began_s: float = 0.0) -> Counter[str]:
    """What passes without room, by node."""
    passed: Counter[str] = Counter()
    owed = dict.fromkeys(rates, 0.0)
    for step in range(100 * seconds):
        for node, rate in rates.items():
            owed[node] += rate / 100
            if owed[node] >= 1:
                owed[node] -= 1
                passed[node] += parts.take(node, began_s + step / 100, has_room=False) == 0.0
    return passed


def test_each_gets_its_part_and_a_quiet_one_all_it_sends() -> None:
    parts = FairParts()
    parts.per_s = 100
    rates = {**{f"busy{n}": 20.0 for n in range(10)}, **{f"quiet{n}": 4.0 for n in range(10)}}
    run(parts, rates, 10)  # until all are known
    passed = run(parts, rates, 60, began_s=10.0)
    part = PART * 100 / 20
    assert all(passed[f"quiet{n}"] == pytest.approx(240, abs=1) for n in range(10))
    assert all(passed[f"busy{n}"] == pytest.approx(60 * part, rel=0.1) for n in range(10))


def test_with_room_everyone_passes_and_pays() -> None:
    parts = FairParts()
    parts.per_s = 10
    assert all(parts.take("n", 1.0, has_room=True) == 0 for _ in range(500))
    wait_s = parts.take("n", 1.0, has_room=False)
    assert wait_s == pytest.approx(DEBT_S + module.COMEBACK / 9, rel=0.01), "the debt is bounded"


def test_a_part_of_less_than_a_message_in_a_burst_is_kept() -> None:
    parts = FairParts()
    parts.per_s = 10
    rates = {f"n{n}": 0.05 for n in range(400)}  # 20 a second: each gets a message in 44 s
    run(parts, rates, 60)
    passed = run(parts, rates, 440, began_s=60.0)
    assert passed.total() == pytest.approx(440 * 10 * PART, rel=0.1)
    assert BURST_S * PART * 10 / 400 < 1


def test_the_messages_of_a_pack_count(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = FairParts()
    parts.per_s = 100
    parts.take("packs", 0.0, has_room=False)
    assert parts.take("packs", 1.0, has_room=False) == 0
    parts.charge("packs", 500)
    assert parts.take("packs", 2.0, has_room=False) > 3
    parts.charge("unknown", 5)


def test_packs_do_not_multiply_a_part() -> None:
    """A node that sends 1,000 messages in each publication waits for as long as packs may owe."""
    parts = FairParts()
    parts.per_s = 100
    passed, quiet = 0, 0
    for second in range(600):
        for n in range(100):
            quiet += parts.take(n, float(second), has_room=False) == 0.0
        if parts.take("packs", second + 0.5, has_room=False) == 0.0:
            parts.charge("packs", 999)
            passed += 1_000
    assert passed <= 6_000
    assert quiet == pytest.approx(600 * 100 * PART, rel=0.05)


def test_a_debt_of_a_pack_is_not_forgiven_by_a_message_that_finds_room() -> None:
    parts = FairParts()
    parts.per_s = 10
    parts.take("n", 1.0, has_room=False)
    parts.charge("n", 10_000)
    parts.take("n", 1.0, has_room=True)
    assert parts.take("n", 1.0, has_room=False) == pytest.approx(module.PACK_DEBT_S, rel=0.01)


def test_nodes_beyond_the_limit_share_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NODES", 10)
    parts = FairParts()
    parts.per_s = 11
    for n in range(1_000):
        parts.take(f"n{n}", 0.0, has_room=True)
    assert len(parts._nodes) == 11
    assert parts.take("n999", 0.0, has_room=False) > 0
    parts.charge("n998", 1)
