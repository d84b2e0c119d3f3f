"""The proof per day and stream: what nodes signed beside what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.ingest.group_builder import GroupBuilder
from collector.ledger.ledger import Ledger
from collector.ledger.report import DayLine, ReportFilter, account, day_lines, pilot_lines
from collector.mqtt.received import Received
from collector.store.clock_skew import Offset
from collector.store.folder import aside, day_files
from collector.store.marks import Claim, encoded, read_account
from collector.store.store import SqliteStore, peek
from tests.unit.collector.ledger.conftest import Take
from tests.unit.collector.ledger.stating_node import EP, NEW_KEY, NODE, OTHER, T0, Node
from wire.custody import key_id
from wire.ranges import Ranges


def only(ledger: Ledger, **wanted: str) -> DayLine:
    (line,) = day_lines(ledger, ReportFilter(**wanted))
    return line


def refused(ledger: Ledger, key: tuple[str, str] = (NODE, EP)) -> dict[str, int]:
    found = ledger.account(key)
    assert found is not None
    return found.book.stated.refused


def test_a_day_is_proven_by_stream(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.data(5), node.data(7, "tcp"), node.state(), node.data(3)])
    line = only(ledger)
    assert (line.day, line.taken, line.stored, line.signed, line.statements) == ("2026-11-22", 5, 5, 3, 1)
    assert (line.verified, line.doubt) == (True, "")
    assert {name: (s.messages, s.rows_taken, s.rows_stored) for name, s in line.streams.items()} == {
        "data/arm/joints": (2, 18, 18),
        "data/arm/tcp": (1, 7, 7),
        "event/_/custody": (0, 1, 1),
    }
    take([node.state()])
    line = only(ledger, stream="arm/joints")
    assert (line.signed, line.statements, line.rows_taken) == (5, 2, 18)
    assert list(line.streams) == ["data/arm/joints"]


def test_statements_may_come_before_what_they_count(ledger: Ledger, take: Take) -> None:
    node = Node()
    early = [node.data(), node.data()]
    statement = node.state()
    take([statement])
    line = only(ledger)
    assert (line.taken, line.stored, line.missing_count, line.rows_taken, line.rows_stored) == (
        3,
        1,
        2,
        21,
        1,
    )
    take(early[1:])
    assert only(ledger).streams["data/arm/joints"].rows_stored == 10
    take(early[:1])
    line = only(ledger)
    assert (line.stored, line.rows_stored, line.verified) == (3, 21, True)


def test_days_and_runs_are_separated_in_any_order(ledger: Ledger, take: Take) -> None:
    node = Node()
    sent = [node.data(), node.data(), node.state(), node.data()]
    last = node.seq  # the rest of the day: stated after midnight
    evening = {"first": node.first, "upto": last, "streams": dict(node.streams), "day": node.day}
    node.turn("2026-11-23")
    sent += [node.data(4), node.state(**evening), node.state(), node.data(2)]
    node.restart()
    node.turn("2026-11-23")
    sent += [node.data(6), node.state()]
    for order in (sent, sent[::-1], sent[::2] + sent[1::2]):
        ledger.__init__()  # type: ignore[misc]  # an empty ledger for `take`
        for one in order:
            take([one])
        days = {line.day: line for line in day_lines(ledger, ReportFilter())}
        assert {day: (line.taken, line.stored, line.verified) for day, line in days.items()} == {
            "2026-11-22": (4, 4, True),
            "2026-11-23": (6, 6, True),
        }
        joints = [days[day].streams["data/arm/joints"] for day in sorted(days)]
        assert [(one.rows_taken, one.rows_stored) for one in joints] == [(30, 30), (12, 12)]
        assert refused(ledger) == {}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_order_grouping_and_restarts_do_not_change_the_proof(draw: st.DataObject) -> None:
    """Boots, days, and gaps that repeat, overlap or come late: the account is the same."""
    node, sent, gone = Node(), list[Received](), set[int]()
    days = iter(("2026-11-23", "2026-11-24", "2026-11-25"))
    for step in draw.draw(st.lists(st.sampled_from("dddddssgntr"), min_size=3, max_size=25)):
        if step == "d":
            one = node.data(draw.draw(st.integers(1, 4)), draw.draw(st.sampled_from(["joints", "tcp"])))
            (gone.add(node.seq) if draw.draw(st.integers(0, 3)) == 0 else sent.append(one))
        elif step == "g" and node.seq:  # some that are gone, some that were or will be stored
            first = draw.draw(st.integers(1, node.seq))
            sent.append(node.gap([(first, draw.draw(st.integers(first, node.seq)))]))
        elif step == "s" and node.seq >= node.first:
            one = node.state()
            (gone.add(node.seq) if draw.draw(st.integers(0, 3)) == 0 else sent.append(one))
        elif step == "t" and node.seq >= node.first and (day := next(days, "")):
            sent.append(node.state())
            node.turn(day)
        elif step == "r":
            day = node.day
            sent.append(node.state()) if node.seq >= node.first else None
            node.restart()
            node.turn(day)
    sent.append(node.data())
    sent.append(node.state())
    declared = Ranges((a, b) for one in sent for a, b in decode_gap(one))
    declared_gone = {seq for seq in gone if seq in declared}
    order = draw.draw(st.permutations([*sent, *draw.draw(st.lists(st.sampled_from(sent), max_size=6))]))
    ledger = Ledger()
    while order:
        size = draw.draw(st.integers(1, len(order)))
        made = GroupBuilder(ledger, lambda _node: Offset(), T0).build(order[:size])
        order = order[size:]
        marks = ledger.marks(made.drafts)
        ledger.accept(made.drafts, made.group.custody)
        if draw.draw(st.booleans()):  # the collector is killed and comes back
            states = {
                f"custody/{NODE}/{EP}/{day}": body for day, body in ledger.days.bodies((NODE, EP)).items()
            }
            states[f"key/{NODE}"] = msgspec.json.encode(ledger.ring(NODE))
            ledger = Ledger([read_account(encoded(one)) for one in marks], states)
    lines = day_lines(ledger, ReportFilter())
    assert refused(ledger) == {}
    assert sum(line.taken for line in lines) == node.seq
    assert sum(line.stored for line in lines) == len(sent)
    assert sum(line.gap_count for line in lines) == len(declared_gone)
    assert sum(line.missing_count for line in lines) == len(gone - declared_gone)
    assert {line.doubt for line in lines} == {""}
    (entry,) = ledger.entries()
    assert (entry.taken, entry.gap_count) == (node.seq, len(declared_gone))
    assert sum(share.rows_stored for line in lines for share in line.streams.values()) == entry.rows_stored


def decode_gap(one: Received) -> list[tuple[int, int]]:
    body: dict[str, Any] = json.loads(one.body)
    return [(first, last) for first, last in body.get("lost", [])]


def test_declared_waiting_and_missing_messages_are_counted_by_day(ledger: Ledger, take: Take) -> None:
    node = Node()
    sent = [node.data() for _ in range(10)]
    statement = node.state()
    node.turn("2026-11-23")
    late = [node.data() for _ in range(5)]
    take([*sent[:2], *sent[5:], statement, node.gap([(3, 4)]), *late[:1], node.state()])
    ledger.claim(NODE, EP, Claim(head=18, acked=5, depth=4, rows=0, at_ms=T0 + 99))
    first, second = day_lines(ledger, ReportFilter())
    assert (first.taken, first.stored, first.gap_count, first.missing_count, first.waiting) == (
        11,
        8,
        2,
        1,
        0,
    )
    assert first.gaps == [(3, 4, "quota")]
    assert first.absent == [(5, 5, T0 + 2, "was stored once: this store is restored from an older backup")]
    assert (second.day, second.taken, second.stored, second.waiting) == ("2026-11-23", 7, 3, 4)
    newest, total = pilot_lines([first, second])
    assert (newest.day, newest.waiting) == ("2026-11-23", 4)
    assert (total.pilot, total.nodes, total.taken, total.missing_count) == ("acme/trial", 1, 11, 1)


def test_signed_rows_that_are_not_stored_although_all_messages_are(ledger: Ledger, take: Take) -> None:
    """A store that lost rows, or a node that miscounts, has a doubt and is not verified."""
    node = Node()
    take([node.data(), node.state(streams={"data/arm/joints": [1, 1, 11]})])
    line = only(ledger)
    assert not line.verified
    assert line.doubt == "data/arm/joints: 11 rows are signed and 10 stored"


def test_a_node_without_statements_is_marked(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.data()])
    line = only(ledger)
    assert (line.day, line.taken, line.stored, line.statements, line.verified) == ("", 2, 2, 0, False)
    assert "no signed statement" in line.doubt
    assert line.streams["data/arm/joints"].rows_stored == 20
    assert day_lines(ledger, ReportFilter(day="2026-11-22")) == []


def test_all_of_it_survives_restarts_new_days_and_a_damaged_file(
    folder: Path, clock: Any, commit: Callable[..., Any]
) -> None:
    node = Node()
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [node.data(), node.data(), node.state()])
    node.data()  # is never sent
    commit(store, ledger, [node.data()])
    before = account(ledger, ReportFilter(), detailed=True)
    store.close()
    for step in ("restart", "new day", "damaged"):
        if step == "new day":
            clock.ms += 86_400_000
        if step == "damaged":
            day_files(folder)[-1].write_bytes(b"rubbish" * 1000)
            for part in folder.glob("*-wal"):
                part.unlink()
        store = SqliteStore(folder, clock)
        saved = store.load()
        ledger = Ledger(saved.marks, saved.states)
        assert account(ledger, ReportFilter(), detailed=True) == before, step
        commit(store, ledger, [])
        store.close()
        peeked = peek(folder)
        assert account(Ledger(peeked.marks, peeked.states), ReportFilter(), detailed=True) == before, step
    assert len(aside(folder)) == 1
    store = SqliteStore(folder, clock)
    saved = store.load()
    ledger = Ledger(saved.marks, saved.states)
    commit(store, ledger, [node.state()])
    store.close()
    (line,) = day_lines(ledger, ReportFilter())
    assert (line.taken, line.stored, line.missing_count, line.statements) == (6, 5, 1, 2)
    assert line.absent == [(4, 4, T0 + 3, "never arrived")]
    assert refused(ledger) == {}, "the chain continues"


def test_what_was_stated_since_the_last_sound_file_survives_the_damaged_one(
    folder: Path, clock: Any, commit: Callable[..., Any]
) -> None:
    node, store, ledger = Node(), SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [node.data(), node.state()])
    clock.ms += 86_400_000
    commit(store, ledger, [node.data(), node.data(), node.state()])  # of the same day, stored in another file
    before = account(ledger, ReportFilter(), detailed=True)
    store.close()
    day_files(folder)[-1].write_bytes(b"rubbish" * 1000)
    for _ in range(2):
        store = SqliteStore(folder, clock)
        saved = store.load()
        store.close()
        assert account(Ledger(saved.marks, saved.states), ReportFilter(), detailed=True) == before


def test_a_lost_outbox_is_listed_with_its_successor(ledger: Ledger, take: Take) -> None:
    node, again = Node(), Node(ep="ffffffff00000000")
    take([node.data(), node.state()])
    node.data()
    take([node.data()])
    ledger.claim(NODE, EP, Claim(head=6, acked=2, depth=2, at_ms=T0 + 50))
    ledger.claim(NODE, again.ep, Claim(head=0, at_ms=T0 + 60))
    (line,) = day_lines(ledger, ReportFilter())
    why = "its outbox was lost: the node goes on as ep ffffffff00000000"
    assert line.absent == [(3, 3, T0 + 2, why), (5, 6, T0 + 50, why)]


def test_what_a_filter_selects() -> None:
    every = ReportFilter()
    assert every.node_is(NODE)
    assert every.day_is("")
    assert every.stream_is("data/arm/joints")
    pilot = ReportFilter(pilot="acme/trial")
    nodes = (NODE, "acme/trial/yard/a", "acme/trial2/hall/a", "b/trial/hall/a")
    assert [pilot.node_is(node) for node in nodes] == [True, True, False, False]
    assert [ReportFilter(node=NODE).node_is(node) for node in nodes] == [True, False, False, False]
    assert not ReportFilter(pilot="b/trial", node=NODE).node_is(NODE)
    days = ("", "2026-11-21", "2026-11-22", "2026-11-23")
    assert [ReportFilter(day="2026-11-22").day_is(day) for day in days] == [False, False, True, False]
    assert [ReportFilter(since="2026-11-22").day_is(day) for day in days] == [True, False, True, True]
    streams = ("data/arm/joints", "data/arm/tcp", "event/arm/joints")
    assert [ReportFilter(stream="arm/joints").stream_is(one) for one in streams] == [True, False, True]
    assert [ReportFilter(stream=streams[0]).stream_is(one) for one in streams] == [True, False, False]
    assert not ReportFilter(stream="joints").stream_is("data/arm/joints")


def test_the_answer_has_sums_per_pilot_and_day(ledger: Ledger, take: Take) -> None:
    one, two, other = Node(), Node(node=OTHER), Node(node="b/pilot/site/node")
    for node in (one, two, other):
        take([node.data(), node.state()])
        node.turn("2026-11-23")
        take([node.data(3)])
    take([one.state(streams={"data/arm/joints": [1, 11, 14]}), two.state(), other.state()])
    found = account(ledger, ReportFilter(), detailed=True)
    assert [(line.day, line.node) for line in found["days"]] == [
        (day, node) for day in ("2026-11-22", "2026-11-23") for node in (NODE, OTHER, "b/pilot/site/node")
    ]  # fmt: skip
    assert [(each.day, each.pilot, each.nodes, each.verified) for each in found["pilots"]] == [
        ("2026-11-23", "acme/trial", 2, 1),
        ("2026-11-23", "b/pilot", 1, 1),
        ("2026-11-22", "acme/trial", 2, 2),
        ("2026-11-22", "b/pilot", 1, 1),
    ]
    newest, _, oldest, _ = found["pilots"]
    assert (oldest.taken, oldest.stored, oldest.rows_taken, oldest.rows_stored) == (4, 4, 20, 20)
    assert (oldest.statements, oldest.gap_count, oldest.missing_count, oldest.waiting) == (2, 0, 0, 0)
    assert (newest.rows_taken, newest.rows_stored, newest.statements) == (11, 10, 2)
    assert (found["totals"].stored, len(found["entries"]), found["strangers"]) == (12, 3, [])
    some = account(ledger, ReportFilter(pilot="b/pilot"), detailed=False)
    assert [entry.node for entry in some["entries"]] == ["b/pilot/site/node"]
    assert sorted(some) == ["entries", "pilots", "strangers", "totals"]


def test_keys_that_are_not_accepted_are_listed_by_node(ledger: Ledger, take: Take) -> None:
    for node in (OTHER, NODE):
        first, again = Node(node=node), Node(node=node, ep="ffffffff00000000", key=NEW_KEY)
        take([first.data(), first.state(), again.data(), again.state(), again.state()])
    found = account(ledger, ReportFilter(), detailed=False)["strangers"]
    name = key_id(NEW_KEY.public_key().public_bytes_raw().hex())
    assert [(one.node, one.key, one.since, one.last, one.statements) for one in found] == [
        (node, name, T0 + 2, T0 + 3, 2) for node in (NODE, OTHER)
    ]
    assert len(account(ledger, ReportFilter(node=OTHER), detailed=False)["strangers"]) == 1


def test_a_line_has_the_newest_time_and_the_worst_clock(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state(clk=2)])
    node.restart()
    take([node.data(), node.data(), node.state(clk=1)])
    line = only(ledger)
    assert (line.made_at, line.clk, line.statements, line.signed) == (T0 + 5, 1, 2, 4)
    assert (line.node, line.ep) == (NODE, EP)


def test_the_rest_before_the_first_statement_has_a_line_of_its_own(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.data(7)])
    assert only(ledger, stream="arm/joints").rows_stored == 17
    assert day_lines(ledger, ReportFilter(stream="arm/tcp")) == []
    node.restart()
    take([node.data(2), node.state()])
    undated, dated = day_lines(ledger, ReportFilter())
    assert (undated.day, undated.taken, undated.stored, undated.rows_taken, undated.doubt) == (
        "", 2, 2, 0, "no signed statement covers it"
    )  # fmt: skip
    assert (dated.day, dated.taken, dated.signed, dated.rows_taken) == ("2026-11-22", 2, 1, 3)
    assert [line.day for line in day_lines(ledger, ReportFilter(since="2026-11-23"))] == [""]


def test_gaps_are_cut_to_the_day_and_a_hundred_are_listed(ledger: Ledger, take: Take) -> None:
    node = Node()
    first = node.seq
    for _ in range(5):
        node.data()
    evening = node.state()
    node.turn("2026-11-23")
    lost = node.seq + 3
    for _ in range(4):
        node.data()
    take([evening, node.gap([(first + 4, first + 5), (lost - 2, lost)]), node.state()])
    one, two = day_lines(ledger, ReportFilter())
    assert (one.gaps, one.absent) == ([(4, 5, "quota")], [(1, 3, T0 + 6, "never arrived")])
    assert two.gaps == [(7, 9, "quota")]
    assert (one.gap_count, one.missing_count, two.gap_count, two.missing_count) == (2, 3, 3, 1)


def test_two_histories_have_a_sentence(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state(), node.data()])
    before = node.prev
    take([node.state()])
    node.prev = before
    take([node.data(), node.state()])
    line = only(ledger)
    assert not line.verified
    assert line.doubt == (
        "statements that cannot both be true were signed: there is a copy of this node, or its state folder "
        "was set back"
    )


def test_statements_that_are_missing_while_messages_are_not_have_a_sentence(
    ledger: Ledger, take: Take
) -> None:
    node = Node()
    take([node.data(), node.state(), node.data()])
    node.detail()  # signed, and never sent
    take([node.state()])
    line = only(ledger)
    assert not line.verified
    assert line.doubt == (
        "statements are missing but messages are not: was its state folder set back to an older one?"
    )
