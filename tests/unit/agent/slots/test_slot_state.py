"""The state of a slot: every event in every state, and walks of seeded events."""

from __future__ import annotations

import random
from typing import get_args

import pytest
from msgspec.structs import replace

from agent.slots.slot_state import (
    MAX_STARTS,
    ON_THE_WAY,
    Arrived,
    Confirm,
    Damaged,
    Enough,
    Event,
    Failed,
    Free,
    Offer,
    Passed,
    Shadowed,
    Sick,
    Slot,
    Sound,
    Started,
    TakenBack,
    objection,
    step,
    without,
)
from wire.messages import SlotState
from wire.reasons import because

NEW, OLD, OTHER = "a" * 64, "b" * 64, "c" * 64
STATES: tuple[SlotState, ...] = get_args(SlotState)
WHY = because("it is sick", "model-results-nan", nan=3, of=20)
EVENTS: dict[str, Event] = {
    "offer": Offer(OTHER, 1, Confirm()),
    "arrived": Arrived(),
    "sound": Sound(),
    "passed": Passed(),
    "shadowed": Shadowed(),
    "free": Free(),
    "enough": Enough(),
    "failed": Failed(WHY),
    "sick": Sick(WHY),
    "taken back": TakenBack(NEW, WHY),
    "started": Started(),
    "damaged": Damaged(frozenset({OLD})),
}
# what an event does in a state; what is not here changes nothing
STEPS: dict[tuple[str, str], tuple[SlotState, tuple[str, ...]]] = {
    **{(state, "offer"): ("downloading", ("close", "fetch")) for state in ON_THE_WAY},
    **{
        (state, "offer"): ("downloading", ("fetch",))
        for state in ("idle", "confirmed", "rolled-back", "refused")
    },
    ("downloading", "arrived"): ("verifying", ("check",)),
    ("verifying", "sound"): ("gated", ("open",)),
    ("gated", "passed"): ("waiting", ("wait",)),
    ("shadow", "shadowed"): ("waiting", ("wait",)),
    ("waiting", "free"): ("unconfirmed", ("run",)),
    ("unconfirmed", "enough"): ("confirmed", ("free",)),
    **{(state, "failed"): ("refused", ("close",)) for state in ON_THE_WAY},
    ("unconfirmed", "failed"): ("rolled-back", ("undo",)),
    ("confirmed", "failed"): ("rolled-back", ("undo",)),
    **{(state, "sick"): ("rolled-back", ("undo",)) for state in ("unconfirmed", "confirmed", "refused")},
    ("downloading", "sick"): ("downloading", ("undo",)),
    **{(state, "sick"): ("verifying", ("undo",)) for state in ON_THE_WAY[1:]},
    **{(state, "taken back"): ("refused", ("close",)) for state in ON_THE_WAY},
    **{(state, "taken back"): ("rolled-back", ("undo",)) for state in ("unconfirmed", "confirmed")},
    ("downloading", "started"): ("downloading", ("fetch",)),
    **{(state, "started"): ("verifying", ("check",)) for state in ON_THE_WAY[1:]},
    ("unconfirmed", "started"): ("rolled-back", ()),
    **{(state, "damaged"): (state, ("undo",)) for state in ON_THE_WAY},  # type: ignore[dict-item]
    **{(state, "damaged"): ("rolled-back", ("undo",)) for state in ("idle", "rolled-back", "refused")},
}


def at(state: SlotState) -> Slot:
    """A slot in a state, with a package that ran before."""
    runs = NEW if state in ("unconfirmed", "confirmed") else OLD
    return Slot(
        state=state, current=runs, previous=OLD if runs == NEW else "", candidate=NEW, attempt=1, since=5,
        judged={NEW: 1},
    )  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_state(state: SlotState, event: str) -> None:
    before = at(state)
    after, actions = step(before, EVENTS[event], 9)
    expected = STEPS.get((state, event), (state, ()))
    assert (after.state, actions) == expected
    assert after.since == (9 if after.state != state else 5)
    if (state, event) not in STEPS and event != "damaged":
        assert after == before
    began = (state, event) == ("waiting", "free")
    undone = after.state == "rolled-back" != state
    if began:
        assert (after.current, after.previous) == (NEW, OLD)
    elif undone and event != "damaged":
        runs_again = OLD if before.current == NEW else ""
        assert (after.current, after.previous) == (runs_again, None), "what ran before runs again"
    elif event == "sick" and state in ON_THE_WAY:
        assert (after.current, after.candidate, after.why) == ("", NEW, ""), "the candidate is not to blame"
    elif event != "damaged":
        assert after.current == before.current
    else:
        assert OLD not in after.digests
    if (
        event in ("failed", "sick", "taken back")
        and after.state in ("refused", "rolled-back")
        and after != before
    ):
        assert after.reason == WHY


def test_a_version_is_offered_again_only_with_a_new_attempt() -> None:
    slot = at("rolled-back")
    assert objection(slot, Offer(NEW, 1, Confirm())).code == "slot-offer-repeated"
    assert step(slot, Offer(NEW, 1, Confirm()), 1) == (slot, ())
    again, _ = step(slot, Offer(NEW, 2, Confirm()), 1)
    assert (again.state, again.attempt, again.why) == ("downloading", 2, "")
    assert objection(again, Offer(NEW, 2, Confirm())).why
    assert objection(at("unconfirmed"), Offer(OTHER, 1, Confirm())).code == "slot-busy"


def test_what_runs_is_judged_by_its_own_gates_after_another_offer() -> None:
    slot = replace(at("confirmed"), confirm=Confirm(results=7))
    for event in (Offer(OTHER, 1, Confirm(results=8)), Failed(WHY), Offer(OTHER, 2, Confirm(results=9))):
        slot, _ = step(slot, event, 1)
        assert slot.judging == Confirm(results=7)
    sick, _ = step(replace(slot, state="refused"), Sick(WHY), 1)
    assert (sick.state, sick.candidate, sick.attempt) == ("rolled-back", NEW, 1), "the report is about it"
    for event in (Arrived(), Sound(), Passed(), Free()):
        slot, _ = step(slot, event, 1)
    assert slot.judging == Confirm(results=9)


def test_what_runs_already_is_confirmed_at_once() -> None:
    after, actions = step(at("confirmed"), Offer(NEW, 2, Confirm()), 1)
    assert (after.state, after.current, after.previous, actions) == ("confirmed", NEW, OLD, ())
    after, actions = step(at("gated"), Offer(OLD, 1, Confirm()), 1)
    assert (after.state, after.current, actions) == ("confirmed", OLD, ("close",))


def test_the_first_version_has_nothing_to_go_back_to() -> None:
    alone = replace(at("confirmed"), previous=None)
    assert step(alone, Failed(WHY), 1) == (alone, ())


def confirmed(slot: Slot, *digests: str) -> Slot:
    """The slot after versions were offered and confirmed, one after the other."""
    for digest in digests:
        slot, _ = step(slot, Offer(digest, slot.judged.get(digest, 0) + 1, Confirm()), 1)
        for event in (Arrived(), Sound(), Passed(), Free(), Enough()):
            slot, _ = step(slot, event, 1)
        assert (slot.state, slot.current) == ("confirmed", digest)
    return slot


def test_each_version_is_taken_back_to_what_ran_confirmed_before_it() -> None:
    names = [each * 64 for each in "123456"]
    slot = confirmed(Slot(), *names)
    assert (slot.previous, slot.earlier) == (names[4], (names[1], names[2], names[3]))
    assert slot.digests == {names[4], names[5]}, "only these two are sure to stay in the store"
    for at in (5, 4, 3, 2):
        assert step(slot, TakenBack("f" * 64, WHY), 1) == (slot, ()), "another one"
        slot, actions = step(slot, TakenBack(names[at], WHY), 1)
        assert (slot.state, slot.current, actions) == ("rolled-back", names[at - 1], ("undo",))
    assert step(slot, TakenBack(names[1], WHY), 1) == (slot, ()), "nothing is known of what ran before"
    slot = confirmed(Slot(), names[0])
    slot, _ = step(slot, TakenBack(names[0], WHY), 1)
    assert (slot.current, slot.previous) == ("", None), "that of the config"


def test_a_bad_version_after_a_good_one_leaves_the_way_back_of_the_good_one() -> None:
    names = [each * 64 for each in "12345"]
    before = confirmed(Slot(), *names)
    bad = "f" * 64
    for ends in (Passed, Free):
        slot, _ = step(before, Offer(bad, 1, Confirm()), 1)
        for event in (Arrived(), Sound(), Passed(), Free()):
            slot, _ = step(slot, event, 1)
            if isinstance(event, ends):
                break
        slot, _ = step(slot, Failed(WHY), 1)
        assert (slot.current, slot.previous, slot.earlier) == (names[4], before.previous, before.earlier)
        slot, _ = step(slot, TakenBack(names[4], WHY), 1)
        assert slot.current == names[3]


def test_what_must_not_run_again_is_left_out_of_the_way_back() -> None:
    one, two, three = (each * 64 for each in "123")
    slot = confirmed(Slot(), one, two, three)
    assert without(slot, frozenset({two})).previous == one
    assert without(slot, frozenset({one, two})).previous == ""
    assert without(slot, frozenset({one, two, ""})) == replace(slot, previous=None, earlier=())


def test_a_shadow_comes_first_where_it_is_wanted() -> None:
    wanted = replace(at("gated"), confirm=Confirm(shadow=20))
    after, actions = step(wanted, Passed(), 1)
    assert (after.state, actions) == ("shadow", ("shadow",))


def test_a_package_that_ends_the_agent_while_it_is_opened_is_refused() -> None:
    slot = at("gated")
    for _ in range(MAX_STARTS - 1):
        slot, actions = step(slot, Started(), 1)
        assert (slot.state, actions) == ("verifying", ("check",))
        slot, _ = step(slot, Sound(), 1)
    slot, _ = step(slot, Started(), 1)
    assert (slot.state, slot.code, slot.args) == ("refused", "slot-crashed", {"times": MAX_STARTS})
    waiting = at("waiting")
    for _ in range(10):  # it waits for long, so it sees many starts
        waiting, _ = step(waiting, Started(), 1)
        for event in (Sound(), Passed()):
            waiting, _ = step(waiting, event, 1)
    assert waiting.state == "waiting"


def test_two_damaged_packages_leave_that_of_the_config() -> None:
    slot = replace(at("confirmed"), previous=OLD)
    after, _ = step(slot, Damaged(frozenset({NEW, OLD})), 1)
    assert (after.state, after.current, after.previous) == ("rolled-back", "", None)
    assert after.code == "slot-damaged"


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_only_packages_run_that_ran_or_were_free_to(seed: int) -> None:
    choice, slot = random.Random(seed), Slot()
    ran, attempts = {""}, 0
    for _ in range(200):
        event = choice.choice([*EVENTS.values(), *([Arrived(), Sound(), Passed(), Free()] * 2)])
        if isinstance(event, Offer):
            attempts += 1
            event = Offer(choice.choice([NEW, OLD, OTHER]), attempts, Confirm(shadow=choice.choice([0, 5])))
        before = slot
        slot, actions = step(slot, event, 1)
        if "run" in actions:
            assert (before.state, slot.state) == ("waiting", "unconfirmed")
            assert (slot.current, slot.previous) == (before.candidate, before.current)
            ran.add(slot.current)
        assert slot.current in ran
        assert (slot.state == "unconfirmed") <= (slot.previous is not None)
        assert {slot.current, slot.previous or ""} - {""} <= slot.digests
    for event in (Started(), Arrived(), Sound(), Passed(), Shadowed(), Free(), Enough()):
        slot, _ = step(slot, event, 1)
    assert slot.state in ("idle", "confirmed", "rolled-back", "refused"), "it comes to an end"
