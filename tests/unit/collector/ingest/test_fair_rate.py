"""A node has its share first; where its tenant's is used up, busy nodes wait for quiet ones."""

from __future__ import annotations

from collections import Counter

import pytest

from collector.ingest import fair_rate as module
from collector.ingest.fair_rate import BURST_S, FairRate


def test_a_node_gets_its_burst_and_then_its_rate() -> None:
    rate = FairRate(10, 1_000)
    taken = [rate.take("acme", "n", 1, 100.0) for _ in range(100)]
    assert taken.count(None) == 10 * BURST_S
    refused = taken[-1]
    assert refused is not None
    assert (refused.scope, refused.seconds) == ("node", 1.0)
    passed = sum(rate.take("acme", "n", 1, 100.0 + step / 100) is None for step in range(1, 1_001))
    assert passed == pytest.approx(100, abs=2)


def test_a_message_that_is_larger_than_the_bucket_passes_and_is_paid_later() -> None:
    rate = FairRate(10, 1_000)
    assert rate.take("acme", "n", 240, 0.0) is None
    refused = rate.take("acme", "n", 1, 1.0)
    assert refused is not None
    assert refused.seconds == pytest.approx(20, abs=0.1), "19 s of debt, and a second for the next"
    assert rate.take("acme", "n", 1, 1.0 + refused.seconds) is None


def test_another_node_and_another_tenant_are_not_touched() -> None:
    rate = FairRate(10, 1_000)
    for _ in range(1_000):
        rate.take("acme", "flood", 5, 0.0)
    assert rate.take("acme", "calm", 5, 0.0) is None
    assert rate.take("other", "calm", 5, 0.0) is None


def test_quiet_nodes_pass_while_busy_ones_use_up_the_share_of_their_tenant() -> None:
    """50 busy nodes want 5,000/s, 50 quiet ones 100/s together; their tenant may have 1,000/s."""
    rate, busy, quiet = FairRate(100, 1_000), Counter[int](), Counter[int]()
    refused = 0
    for step in range(600):  # a minute
        now_s = step / 10
        for node in range(50):
            for _ in range(10):
                busy[step // 300] += rate.take("acme", node, 1, now_s) is None
        for node in range(50, 100):
            if (step + node) % 5 == 0:
                passed = rate.take("acme", node, 1, now_s) is None
                quiet[step // 300] += passed
                refused += not passed
    assert refused == 0, "each of them is below its share, and the tenant's share can serve it"
    assert quiet == {0: 3_000, 1: 3_000}
    assert busy[1] + quiet[1] == pytest.approx(30_000, rel=0.02), "the share of the tenant is used, not more"


def test_the_node_that_exceeds_does_not_use_what_others_need() -> None:
    """The flood is cut at its own share, so the tenant's share serves the others."""
    rate = FairRate(100, 1_000)
    for step in range(1, 3_000):
        now_s = step / 100
        for _ in range(50):
            rate.take("acme", "flood", 1, now_s)
        for node in range(8):
            assert rate.take("acme", node, 1, now_s) is None


def test_invented_names_cost_a_bounded_number_of_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NODES", 100)
    monkeypatch.setattr(module, "TENANTS", 20)
    rate = FairRate(10, 1_000)
    for number in range(10_000):
        rate.take(f"t{number % 50}", f"n{number}", 1, number / 10_000)
    assert len(rate) <= 100 + 20 + 50
    for number in range(30):
        rate.take("calm", "calm", 1, 1_000.0 + number)
    assert len(rate) <= 60, "buckets that are full again are removed"
    assert rate.take("calm", "calm", 1, 1_030.0) is None
