"""Signed statements at the collector: which are accepted, which are refused, and their bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from collector.ledger import statements as module
from collector.ledger.ledger import Ledger
from collector.ledger.report import DayLine, ReportFilter, account, day_lines
from collector.ledger.statements import StatedPart, stored_rows
from tests.unit.collector.ledger.conftest import Take
from tests.unit.collector.ledger.stating_node import EP, KEY, NEW_KEY, NODE, OTHER, T0, Node
from wire.custody import key_id
from wire.ranges import Ranges


def only(ledger: Ledger, **wanted: str) -> DayLine:
    (line,) = day_lines(ledger, ReportFilter(**wanted))
    return line


def refused(ledger: Ledger, key: tuple[str, str] = (NODE, EP)) -> dict[str, int]:
    found = ledger.account(key)
    assert found is not None
    return found.book.stated.refused


@pytest.mark.parametrize(
    "change",
    [
        lambda detail: detail.update(upto=1),
        lambda detail: detail["streams"].update({"data/arm/joints": [1, 1, 2]}),
        lambda detail: detail.update(sig="00" * 64),
        lambda detail: detail.update(extra=1),
        lambda detail: detail.pop("sig"),
    ],
)
def test_a_changed_statement_is_kept_as_an_event_and_refused(
    ledger: Ledger, take: Take, change: Callable[[dict[str, Any]], Any]
) -> None:
    node = Node()
    take([node.data(), node.data()])
    detail = node.detail()
    change(detail)
    seq, no = node.number("event/_/custody", 1)
    made = take([node.event("custody", seq, no, detail=detail)])
    assert len(made.group.events) == 1
    assert made.acked[(NODE, EP)] == Ranges([(3, 3)])
    assert refused(ledger) == {"its signature does not fit this node, outbox and text": 1}
    assert only(ledger).statements == 0
    assert "signature" in ledger.doubt(NODE, 0)
    assert ledger.doubt(NODE, T0 + 10_000) == ""


@pytest.mark.parametrize("where", [{"node": OTHER}, {"ep": "ffffffff00000000"}])
def test_a_statement_of_another_node_or_outbox_is_refused(
    ledger: Ledger, take: Take, where: dict[str, str]
) -> None:
    victim, thief = Node(), Node(**where)
    take([victim.data(), victim.state(), thief.data(), thief.data()])
    stolen = victim.detail()
    seq, no = thief.number("event/_/custody", 1)
    take([thief.event("custody", seq, no, detail=stolen)])
    assert sum(refused(ledger, (thief.node, thief.ep)).values()) == 1


def test_a_statement_that_comes_again_under_another_number_is_a_replay(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data()])
    detail = node.detail()
    for _ in range(2):
        seq, no = node.number("event/_/custody", 1)
        take([node.event("custody", seq, no, detail=detail)])
    assert refused(ledger) == {"a statement with this number arrived before": 1}
    assert only(ledger).statements == 1


def test_two_successors_of_one_statement_are_a_copy_of_the_node(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state(), node.data()])
    before = node.prev
    take([node.state()])
    node.prev = before
    take([node.data(), node.state()])
    assert "copy of this node" in next(iter(refused(ledger)))


@pytest.mark.parametrize("taken", range(1, 12))
@pytest.mark.parametrize("statements", [1, 4])
def test_a_device_restored_from_an_older_image_is_detected(
    ledger: Ledger, take: Take, taken: int, statements: int
) -> None:
    """It gives numbers a second time, and their messages count as duplicates, which is not a proof."""
    node = Node()
    take([node.data(), node.state()])
    image = node.seq
    node.restart()
    for _ in range(statements):
        take([node.data(), node.data(), node.state()])
    assert only(ledger).verified
    again = Node(run=image + 1)  # its disk has nothing that it took since the image
    made = [take([again.data(), again.state()]) for _ in range(taken)]
    lost = sum(one.duplicates for one in made)
    assert lost == min(2 * taken, 3 * statements)
    line = only(ledger)
    if sum(one.stored for one in made):  # else nothing arrived yet that shows it
        assert not line.verified
        assert "set back" in line.doubt


def test_numbers_from_the_future_and_rubbish_are_refused(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state(upto=50)])
    seq, no = node.number("event/_/custody", 1)
    take([node.event("custody", seq, no, detail={"n": "?"})])
    assert [why[:20] for why in refused(ledger)] == ["it covers numbers th", "not a custody statem"]
    assert only(ledger).taken == 3


def test_another_key_needs_acceptance_by_people(ledger: Ledger, take: Take) -> None:
    """A device that was set up again has a new outbox and a new key; a forger has them too."""
    node, again = Node(), Node(ep="ffffffff00000000", key=NEW_KEY)
    take([node.data(), node.state(), again.data(), again.state()])
    name = key_id(NEW_KEY.public_key().public_bytes_raw().hex())
    new, old = day_lines(ledger, ReportFilter())
    assert (new.day, new.verified, old.day, old.verified) == ("", False, "2026-11-22", True)
    assert refused(ledger, (NODE, again.ep)) == {f"its key {name} is not accepted": 1}
    assert [one.how for one in ledger.ring(NODE).keys] == ["first seen", ""]
    answer = account(ledger, ReportFilter(), detailed=False)
    assert [(one.node, one.key, one.statements) for one in answer["strangers"]] == [(NODE, name, 1)]
    take([again.data(), again.state()], accepted=[name])
    (line,) = [one for one in day_lines(ledger, ReportFilter()) if one.ep == again.ep]
    assert (line.day, line.taken, line.verified, line.signed) == ("2026-11-22", 4, True, 3)
    assert account(ledger, ReportFilter(), detailed=False)["strangers"] == []


def test_keys_without_end_are_bounded(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state()])
    for number in range(module.MAX_KEYS + 5):
        node.key = Ed25519PrivateKey.from_private_bytes(bytes([number + 3]) * 32)
        take([node.data(), node.state()])
    assert len(ledger.ring(NODE).keys) == module.MAX_KEYS
    assert len(refused(ledger)) <= module.MAX_REASONS


def test_restarts_by_the_thousand_leave_counts(ledger: Ledger, take: Take) -> None:
    """Row numbers of old runs are released, although an outbox drains events before data of earlier runs."""
    node, data, events = Node(), [], []
    for _ in range(150):
        data += [node.data(3), node.data(2, "tcp")]
        events.append(node.state())
        node.restart()
    take(events)
    for at in range(0, len(data), 50):
        take(data[at : at + 50])
    found = ledger.account((NODE, EP))
    assert found is not None
    assert len(found.book.rows) <= 2 * module.MAX_RUNS
    line = only(ledger)
    assert (line.taken, line.stored, line.statements, line.doubt) == (450, 450, 150, "")
    assert line.streams["data/arm/joints"].rows_stored == line.streams["data/arm/joints"].rows_taken == 450


def test_too_many_restarts_in_a_day_are_marked(
    ledger: Ledger, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PARTS", 5)
    node = Node()
    for _ in range(20):
        take([node.data(), node.state()])
        node.restart()
    line = only(ledger)
    assert (line.taken, line.stored, line.statements, line.verified) == (40, 40, 20, False)
    assert "restarted so often" in line.doubt


def test_days_without_end_are_refused(ledger: Ledger, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DAYS", 3)
    node = Node()
    for day in range(1, 6):
        node.turn(f"2026-11-{day:02}")
        take([node.data(), node.state()])
    node.turn("2026-11-03")
    take([node.data(), node.state()])
    days = {line.day: line for line in day_lines(ledger, ReportFilter())}
    assert list(days) == ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert refused(ledger) == {"it names more days than are kept": 2}
    assert sum(line.taken for line in days.values()) == node.seq, "its messages count"


def test_rows_between_stated_parts_count_with_the_part_before() -> None:
    parts = [
        StatedPart(1, 1, 5, streams={"data/a/x": (2, 1, 20)}),
        StatedPart(1, 6, 9, streams={"data/a/y": (1, 1, 3)}),
        StatedPart(1, 10, 12, streams={"data/a/x": (1, 31, 40)}),
    ]
    streams = {"data/a/x": Ranges([(1, 15), (21, 50)]), "data/a/y": Ranges([(1, 3)])}
    assert stored_rows(parts, streams) == [
        ({"data/a/x": 15}, {}),
        ({"data/a/y": 3}, {"data/a/x": 10}),
        ({"data/a/x": 10}, {"data/a/x": 10}),
    ]
    assert stored_rows([], streams) == []


def test_the_limits_are_those_of_the_docs() -> None:
    limits = (module.MAX_RUNS, module.MAX_PARTS, module.MAX_DAYS, module.MAX_CHAINS, module.MAX_REASONS)
    assert (*limits, module.MAX_KEYS) == (20, 200, 4_000, 8, 20, 20)


def test_a_ring_tells_how_each_key_was_accepted(ledger: Ledger, take: Take) -> None:
    node, again = Node(), Node(ep="ffffffff00000000", key=NEW_KEY)
    take([node.data(), node.state(), again.data(), again.state()])
    take([again.state()], accepted=[key_id(NEW_KEY.public_key().public_bytes_raw().hex())])
    first, second = ledger.ring(NODE).keys
    assert (first.how, first.since, first.last, first.statements) == ("first seen", T0 + 2, T0 + 2, 1)
    assert (second.how, second.since, second.last, second.statements) == ("accepted", T0 + 2, T0 + 3, 2)
    assert ledger.doubt(NODE, 0) == "", "the key was accepted"
    assert ledger.rings().keys() == {NODE}
    assert ledger.ring(OTHER).keys == []


def test_of_an_enrolled_node_only_the_key_of_its_enrolment_counts(ledger: Ledger, take: Take) -> None:
    """Not the first that was seen, nor one that was seen first before the node was enrolled."""
    ours, other = (key_id(one.public_key().public_bytes_raw().hex()) for one in (KEY, NEW_KEY))
    forger, node = Node(ep="ffffffff00000000", key=NEW_KEY), Node()
    take([forger.data(), forger.state()], closed=True)
    assert refused(ledger, (NODE, forger.ep)) == {f"its key {other} is not accepted": 1}
    take([forger.state()])
    assert [one.how for one in ledger.ring(NODE).keys] == [""], "a key that was refused is not the first"
    take([node.data(), node.state()], accepted=[ours], closed=True)
    assert refused(ledger) == {}
    assert [one.how for one in ledger.ring(NODE).keys] == ["", "accepted"]
    # the site gives it another key, or removes it
    take([node.state()], accepted=[other], closed=True)
    assert refused(ledger) == {f"its key {ours} is not accepted": 1}
    strangers = account(ledger, ReportFilter(), detailed=False)["strangers"]
    assert {one.key for one in strangers} == {ours, other}


def test_a_doubt_is_of_the_outbox_in_use_and_of_its_time(ledger: Ledger, take: Take) -> None:
    assert ledger.doubt(NODE, 0) == ""
    node = Node()
    take([node.data(), node.state(upto=50)])
    why = "it covers numbers that were not given yet"
    assert [ledger.doubt(NODE, since) for since in (0, T0 + 2, T0 + 3)] == [why, why, ""]
    assert refused(ledger) == {why: 1}
    take([node.state(upto=50), node.state(upto=node.seq + 1)])
    assert refused(ledger) == {why: 3}, "a statement covers the numbers before its own"


def test_reasons_without_end_are_bounded_and_known_ones_are_counted(
    ledger: Ledger, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REASONS", 2)
    node = Node()
    for detail in ({"n": "?"}, {"n": None}, {"n": 1.5}, {"n": "?"}):
        seq, no = node.number("event/_/custody", 1)
        take([node.event("custody", seq, no, detail=detail)])
    assert list(refused(ledger).values()) == [2, 1]
    assert "float" in ledger.doubt(NODE, 0) or "str" in ledger.doubt(NODE, 0)


def test_the_sum_of_the_newest_statement_is_kept(ledger: Ledger, take: Take) -> None:
    node = Node()
    early = [node.data(), node.state(sent=5, acked=1, dropped={"data": {"quota": [1, 10]}})]
    late = [node.data(), node.state(sent=9, acked=3, dropped={"data": {"quota": [2, 20]}})]
    take([*late, *early])
    found = ledger.account((NODE, EP))
    assert found is not None
    stated = found.book.stated
    assert (stated.statements, stated.begin, stated.sent, stated.acked) == (2, 1, 9, 3)
    assert (stated.made_at, stated.dropped) == (T0 + 4, {"data": {"quota": (2, 20)}})


def test_chains_of_the_newest_runs_are_compared(ledger: Ledger, take: Take) -> None:
    node = Node()
    runs = []
    for _ in range(10):
        runs.append(node.run)
        take([node.data(), node.state(), node.data(), node.state()])
        node.restart()
    found = ledger.account((NODE, EP))
    assert found is not None
    assert sorted(found.book.stated.chains) == runs[-8:]
    assert {tuple(chain.seen) for chain in found.book.stated.chains.values()} == {((1, 2),)}


def test_a_chain_keeps_the_ends_that_a_neighbour_may_need(ledger: Ledger, take: Take) -> None:
    node, sent = Node(), []
    for _ in range(6):
        sent += [node.data(), node.state()]
    take([*sent[:4], *sent[6:8], *sent[10:]])  # statements 1, 2, 4 and 6
    found = ledger.account((NODE, EP))
    assert found is not None
    chain = found.book.stated.chains[1]
    assert (chain.seen, sorted(chain.ends)) == ([(1, 2), (4, 4), (6, 6)], [2, 4, 6])
    take([*sent[4:6], *sent[8:10]])
    chain = ledger.account((NODE, EP)).book.stated.chains[1]  # type: ignore[union-attr]
    assert (chain.seen, sorted(chain.ends), chain.forked) == ([(1, 6)], [6], False)
    assert refused(ledger) == {}


def test_a_statement_that_starts_a_chain_in_the_middle_is_a_copy(ledger: Ledger, take: Take) -> None:
    node = Node()
    node.prev = "0" * 64
    take([node.data(), node.state()])
    assert list(refused(ledger)) == [
        "it does not continue the statement before it: is there a copy of this node?"
    ]
    node.prev, node.n = "", 4
    take([node.state()])
    assert list(refused(ledger).values()) == [2], "only the first has none before it"


def test_saved_states_come_back_and_damaged_ones_are_left_out(ledger: Ledger, take: Take) -> None:
    node = Node()
    made = take([node.data(), node.state()])
    states = made.group.custody
    assert sorted(states) == [f"custody/{NODE}/{EP}/2026-11-22", f"key/{NODE}"]
    assert take([node.data()]).group.custody == {}, "nothing new was stated"
    bad = {
        f"custody/{NODE}/{EP}/2026-11-21": b"{",
        "custody/2026": b"{}",
        "key/x": b"[]",
        "other/x": b"rubbish",
    }
    again = Ledger(ledger.marks(everything=True), {**states, **bad})
    assert day_lines(again, ReportFilter()) == day_lines(ledger, ReportFilter())
    assert again.rings() == ledger.rings()
    assert again.days.bodies((NODE, EP)) == {"2026-11-22": states[f"custody/{NODE}/{EP}/2026-11-22"]}
    assert again.days.get((NODE, EP), "2026-11-20").parts == []
