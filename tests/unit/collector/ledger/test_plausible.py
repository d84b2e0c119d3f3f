"""One forged or wrong number does not decide what is believed of a node."""

from __future__ import annotations

from typing import Any

import pytest

from collector.ledger import ledger as module
from collector.ledger.ledger import Draft, DraftRefused, Ledger
from collector.ledger.plausible import MAX_SESSIONS, Rising, jump
from collector.store.marks import Claim

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


def head(ledger: Ledger, number: int) -> int:
    ledger.claim(NODE, EP, Claim(number, 0, 0, number, T0))
    (entry,) = ledger.entries()
    return entry.taken


@pytest.mark.parametrize("forged", [2**62, 2**53, 10**9])
def test_one_forged_head_is_not_believed(numbers: Any, forged: int) -> None:
    ledger = numbers([1, 2, 3])
    assert head(ledger, 3) == 3
    assert head(ledger, forged) == 3
    assert head(ledger, 4) == 4
    assert [head(ledger, forged + n) for n in range(2)] == [4, 4]
    assert head(ledger, 5) == 5, "what fits ends the doubt"


def test_a_forged_first_head_is_corrected_by_three_beats() -> None:
    ledger = Ledger()
    assert head(ledger, 2**53) == 2**53
    assert [head(ledger, n) for n in (7, 8)] == [2**53] * 2
    assert head(ledger, 9) == 9


def test_a_node_that_was_away_for_long_is_believed(numbers: Any) -> None:
    ledger = numbers([1])
    assert head(ledger, 50_000_000) == 50_000_000
    assert [head(ledger, 10**9 + n) for n in range(3)][-1] == 10**9 + 2


def test_numbers_beyond_all_bounds_are_refused(numbers: Any) -> None:
    draft = Draft(numbers([1, 2, 3]))
    for number in (2**62, 2**53, 10**9):
        with pytest.raises(DraftRefused, match="reset-node"):
            draft.add(NODE, EP, number, 1, T0)
    with pytest.raises(DraftRefused, match="reset-node"):
        draft.lose(NODE, EP, [(1, 2**61)], "forged")
    assert draft.add(NODE, EP, 90_000_000, 1, T0)
    new = Draft(Ledger())
    assert new.add(NODE, EP, 10**12, 1, T0), "a collector that is new to an old node"
    with pytest.raises(DraftRefused, match="reset-node"):
        new.add(NODE, "0123456789abcdef", 2**60, 1, T0)


def test_an_outbox_with_too_many_holes_drains_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RANGES", 10)
    draft = Draft(Ledger())
    events = range(100, 120, 2)
    assert all(draft.add(NODE, EP, seq, 1, T0) for seq in events)
    with pytest.raises(DraftRefused, match="holes"):
        draft.add(NODE, EP, 50, 1, T0)
    assert all(draft.add(NODE, EP, seq, 1, T0) for seq in range(1, 120) if seq not in events)


def test_a_late_will_does_not_bring_an_old_session_back() -> None:
    rising = Rising(1000)
    assert rising.believes(17, 18)
    assert not any(rising.believes(18, sess, counts=False) for sess in (5, 6, 7, 8))
    assert [rising.believes(18, sess) for sess in (5, 6, 7)] == [False, False, True]
    assert not rising.believes(18, 2**53)
    assert rising.believes(18, 19)


def test_a_heartbeat_a_little_behind_the_data_counts(numbers: Any) -> None:
    ledger = numbers([1, 2, 3, 4, 5])
    for acked in (2, 3):
        ledger.claim(NODE, EP, Claim(acked + 1, acked, 7, acked, T0))
        account = ledger.account((NODE, EP))
        assert account is not None
        assert account.claim is not None
        assert account.claim.acked == acked


def test_numbers_may_rise_by_the_limit_and_no_further() -> None:
    assert [jump(highest, number) != "" for highest, number in (
        (5, 100_000_005), (5, 100_000_006), (0, 2**48), (0, 2**48 + 1), (1, 2**48), (7, 3)
    )] == [False, True, False, True, True, False]  # fmt: skip
    assert jump(5, 10**9) == (
        "number 1000000000 cannot follow 5: if it is right, use 'edgebed collector reset-node'"
    )
    assert MAX_SESSIONS == 1_000_000


@pytest.mark.parametrize(
    ("numbers", "believed"),
    [
        ([20, 30, 31], [True, False, False]),  # the limit, one more, and two that agree
        ([31, 31, 31], [False, False, True]),
        ([31, 41, 51], [False, False, True]),
        ([31, 42, 43], [False, False, False]),  # 42 does not agree with 31
        ([31, 32, 20, 31, 32, 33], [False, False, True, False, False, True]),  # what fits ends the doubt
        ([5, 4, 5, 6], [False, False, False, True]),  # 4 does not agree with 5
        ([10, 9], [True, False]),
    ],
)
def test_three_in_a_row_are_believed(numbers: list[int], believed: list[bool]) -> None:
    rising = Rising(10)
    assert [rising.believes(10, number) for number in numbers] == believed
    assert rising.believes(None, 0)
