"""The plan of a node: followed where trusted keys signed it; a refused one leaves the one before in use."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from agent.inference.signing.signature import new_key
from agent.inference.signing.trust import Trust, public_key
from agent.pilots.pilots import PilotHooks, Pilots
from agent.pilots.plan_file import FILE
from agent.pilots.signatures import PlanRefused, sign, signers
from tests.polling import until
from tests.unit.wire.pilot.plans import changed
from wire.clock import Clock
from wire.codec import encode
from wire.errors import WireError
from wire.messages import Desired, Event
from wire.pilot.frozen import Opened, envelope, freeze, read_signed
from wire.pilot.plan import parse
from wire.pilot.schedule import utc_ms
from wire.reasons import NO_REASON, because
from wire.topics import Address

NODE = Address.parse("acme/p1/s1/n1")
KEYS = {name: new_key() for name in ("acme", "lab", "gone", "stranger")}
TRUST = Trust(
    trusted={public_key(KEYS[name][1].decode()): name for name in ("acme", "lab", "gone")},
    revoked={public_key(KEYS["gone"][1].decode()): "gone"},
)
BEFORE_MS = utc_ms("2027-02-20", ZoneInfo("Asia/Seoul"))


THRESHOLD = changed().partition("intervention:\n  ")[2].partition("\ndesign:")[0]
MODEL = "kind: model\n  what: {en: a, ko: b}\n  slot: s\n  model: m@1.0.0\n  sha256: " + "a" * 64


class At(Clock):
    def __init__(self, now_ms: int) -> None:
        super().__init__()
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms


def frozen(text: str, after: Opened | None = None) -> bytes:
    plan = parse(text.replace(THRESHOLD, MODEL), "pilot.yaml")
    return freeze(plan, after=after, reason="because").payload


def signed(text: str, *names: str, after: Opened | None = None, forged: bytes = b"") -> dict[str, Any]:
    """The signed plan of a text, as `doc`."""
    payload = frozen(text, after)
    made = tuple(sign(payload, KEYS[name][0]) for name in names)
    doc: dict[str, Any] = msgspec.to_builtins(envelope(forged or payload, made))
    return doc


def opened(doc: dict[str, Any]) -> Opened:
    return read_signed(json.dumps(doc).encode())


class Node:
    """A node of the pilot; `events` is its outbox."""

    def __init__(self, state: Path, *, least_signers: int = 1, now_ms: int = BEFORE_MS) -> None:
        self.clock = At(now_ms)
        self.events: list[Event] = []
        self.outcomes = 0
        self.trust = TRUST
        self.unable = NO_REASON
        hooks = PilotHooks(self.events.append, self._count, lambda: self.trust, lambda _plan: self.unable)
        self.pilots = Pilots(NODE, state, self.clock, hooks, least_signers=least_signers)
        self.pilots.start()

    def _count(self) -> None:
        self.outcomes += 1

    def judge(self, doc: dict[str, Any], ver: int = 1, *, mac: bool = False) -> str:
        """The code of the refusal; "" for a plan that is followed."""
        self.pilots.judge(encode(Desired(ver=ver, ts=self.clock.ms, doc=doc)), mac)
        found = self.pilots.reported()
        assert found is not None
        assert (found.state == "applied") is not bool(found.code)
        return found.code

    @property
    def active(self) -> str:
        found = self.pilots.reported()
        return "" if found is None else found.active


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_signed_plan_is_followed_recorded_once_and_kept(tmp_path: Path) -> None:
    doc = signed(changed(), "acme", "lab", "stranger")

    async def lives(node: Node, doc: dict[str, Any] | None) -> None:
        task = asyncio.create_task(node.pilots.run())
        if doc is not None:
            node.pilots.take(encode(Desired(ver=1, ts=node.clock.ms, doc=doc)), False)
            await until(lambda: node.outcomes == 1)
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    first = Node(tmp_path)
    asyncio.run(lives(first, doc))
    assert first.active == opened(doc).hash
    assert [each.type for each in first.events] == ["pilot"]
    detail = first.events[0].detail
    assert detail["hash"] == opened(doc).hash
    assert detail["pilot"] == "trial-1"
    assert detail["version"] == 1
    assert detail["signed_by"] == ["acme", "lab"]
    assert detail["trial"] == list(opened(doc).plan.schedule.trial_ms)
    again = Node(tmp_path)
    asyncio.run(lives(again, None))
    assert (again.active, again.events) == (opened(doc).hash, [])
    kept = json.loads((tmp_path / FILE).read_bytes())
    (tmp_path / FILE).write_text(json.dumps({**kept, "is_recorded": False}))  # killed before the event
    third = Node(tmp_path)
    asyncio.run(lives(third, None))
    assert [each.detail["hash"] for each in third.events] == [opened(doc).hash]


def test_a_plan_that_is_not_rightly_signed_is_refused(node: Node) -> None:
    good = signed(changed(), "acme")
    assert node.judge(good) == ""
    other = changed(("min: 0.1", "min: 0.2"))
    tampered = frozen(other, opened(good))
    assert node.judge(signed(other, "acme", forged=tampered), 2) == "pilot-signature-bad"
    assert node.judge(signed(other, "stranger", after=opened(good)), 3) == "pilot-not-signed"
    assert node.active == opened(good).hash


def test_only_trusted_keys_count() -> None:
    plan = changed()
    assert signers(opened(signed(plan, "acme", "lab", "gone", "stranger")), TRUST) == ("acme", "lab")
    assert signers(opened(signed(plan, "lab", "lab")), TRUST) == ("lab",)
    assert signers(opened(signed(plan)), TRUST) == ()
    assert signers(opened(signed(plan, "acme")), Trust()) == ()
    with pytest.raises(PlanRefused, match="no signature counts"):
        signers(opened(signed(plan, "acme")), Trust(trusted=TRUST.trusted, broken="a folder is gone"))


@pytest.mark.parametrize("made", [b"", b"\x30\x06\x02\x01\x01\x02\x01\x01", b"\xff" * 70])
def test_a_signature_that_is_not_of_the_key_that_it_names_refuses_the_plan(made: bytes) -> None:
    wrong = signed(changed(), "lab", "acme")
    wrong["signatures"][1]["sig"] = base64.b64encode(made).decode()
    with pytest.raises(PlanRefused, match="not a signature by the key acme"):
        signers(opened(wrong), TRUST)


def test_as_many_trusted_keys_as_the_node_asks_for_must_have_signed(tmp_path: Path) -> None:
    node = Node(tmp_path, least_signers=2)
    assert node.judge(signed(changed(), "acme", "acme", "stranger")) == "pilot-not-signed"
    assert node.judge(signed(changed(), "acme", "lab")) == ""


def test_what_is_not_a_plan_for_this_node_is_refused(node: Node) -> None:
    assert node.judge({"devices": {}}) == "pilot-unreadable"
    elsewhere = changed(("[acme/p1/s1/n1, acme/p1/s1/n2]", "[acme/p1/s1/n2]"))
    assert node.judge(signed(elsewhere, "acme")) == "pilot-other-node"
    node.clock.ms = opened(signed(changed())).plan.schedule.trial_ms[1]
    assert node.judge(signed(changed(), "acme")) == "pilot-over"
    large = b"x" * 70_000
    for body, code in ((b"{", "body-invalid"), (large, "body-too-large"), (b'{"v":1}', "body-invalid")):
        node.pilots.judge(body, False)
        found = node.pilots.reported()
        assert found is not None
        assert found.code == code
    assert node.active == ""


def test_another_pilot_may_begin_when_the_trial_is_over(node: Node) -> None:
    first = signed(changed(), "acme")
    assert node.judge(first) == ""
    overlapping = signed(changed(("pilot: trial-1", "pilot: trial-2")), "acme")
    assert node.judge(overlapping, 2) == "pilot-overlaps"
    assert node.active == opened(first).hash
    later = changed(
        ("pilot: trial-1", "pilot: trial-2"),
        ("2027-03-01 06:00, to: 2027-03-07 22:00", "2027-04-01 06:00, to: 2027-04-07 22:00"),
    )
    # it would end the first pilot before its trial, or within it
    assert node.judge(signed(later, "acme"), 3) == "pilot-overlaps"
    node.clock.ms = opened(first).plan.schedule.trial_ms[1] - 1
    assert node.judge(signed(later, "acme"), 4) == "pilot-overlaps"
    assert node.active == opened(first).hash
    node.clock.ms += 1
    assert node.judge(signed(later, "acme"), 5) == ""


def test_an_amendment_must_follow_the_plan_in_use(node: Node) -> None:
    first = signed(changed(), "acme")
    second = signed(changed(("min: 0.1", "min: 0.2")), "acme", after=opened(first))
    unknown = opened(signed(changed(("washout_s: 60", "washout_s: 90"))))
    other = signed(changed(("min: 0.1", "min: 0.3")), "acme", after=unknown)
    assert node.judge(first) == ""
    assert node.judge(signed(changed(("min: 0.1", "min: 0.4")), "acme"), 2) == "pilot-older"
    assert node.judge(other, 3) == "pilot-amends-other"
    assert node.judge(second, 4) == ""
    assert node.judge(first, 5) == "pilot-older"
    assert node.active == opened(second).hash


def test_an_old_message_with_a_mac_is_ignored_and_an_empty_one_ends_the_pilot(tmp_path: Path) -> None:
    node = Node(tmp_path)
    first = signed(changed(), "acme")
    assert node.judge(first, 7, mac=True) == ""
    node.pilots.judge(encode(Desired(ver=6, ts=node.clock.ms, doc={})), True)
    assert node.active == opened(first).hash
    assert node.judge({}, 8, mac=True) == ""
    assert node.active == ""
    assert Node(tmp_path).active == ""


def test_a_report_is_that_of_one_moment(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash takes a while, and another thread judges the next message meanwhile."""
    first = signed(changed(), "acme")
    assert node.judge(first, 1) == ""
    plain = Opened.hash.fget  # type: ignore[attr-defined]

    def slow(of: Opened) -> str:
        monkeypatch.undo()
        node.judge({}, 2)
        found: str = plain(of)
        return found

    monkeypatch.setattr(Opened, "hash", property(slow))
    found = node.pilots.reported()
    assert found is not None
    assert (found.ver, found.active) == (1, opened(first).hash)


async def test_a_plan_ends_when_too_few_of_its_keys_count(tmp_path: Path) -> None:
    node = Node(tmp_path, least_signers=2)
    doc = signed(changed(), "acme", "lab", "gone", "stranger")
    assert node.judge(doc) == ""
    assert not node.pilots.revoke()
    stranger = {**TRUST.trusted, public_key(KEYS["stranger"][1].decode()): "stranger"}
    acme = public_key(KEYS["acme"][1].decode())
    node.trust = Trust(trusted=stranger, revoked={acme: "acme"}, broken="a folder is gone")
    assert not node.pilots.revoke(), "it is not known which keys count"
    node.trust = Trust(trusted=stranger, revoked={acme: "acme"})
    task = asyncio.create_task(node.pilots.run())
    node.pilots.trust_changed()
    await until(lambda: node.outcomes)
    task.cancel()
    await asyncio.wait([task])
    assert node.active == "", "the signature of a key that was not known then was never checked"
    found = node.pilots.reported()
    assert found is not None
    assert (found.state, found.code, found.args) == ("rejected", "pilot-not-signed", {"keys": 1, "of": 2})
    assert node.events[-1].detail == {
        "withdrawn": opened(doc).hash, "pilot": "trial-1", "by": "", "code": "pilot-not-signed",
    }  # fmt: skip
    assert Node(tmp_path, least_signers=2).active == ""


def test_a_withdrawal_names_who_asked_also_after_a_restart(tmp_path: Path) -> None:
    """It needs no signature: a trial can always be ended, and the event states by whom."""

    async def lives(node: Node) -> None:
        task = asyncio.create_task(node.pilots.run())
        await until(lambda: node.events)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    doc = signed(changed(), "acme")
    node = Node(tmp_path)
    assert node.judge(doc, 1, mac=True) == ""
    body = encode(Desired(ver=2, ts=node.clock.ms, by="kim", doc={}))
    node.pilots.judge(body, True)  # and it is killed before the event is recorded
    assert node.active == ""
    again = Node(tmp_path)
    asyncio.run(lives(again))
    expected = {"withdrawn": opened(doc).hash, "pilot": "trial-1", "by": "kim", "mac": True}
    assert again.events[-1].detail == expected
    (tmp_path / "other").mkdir()
    plain = Node(tmp_path / "other")
    assert plain.judge(doc) == ""
    plain.pilots.judge(b"", False)
    asyncio.run(lives(plain))
    assert plain.events[-1].detail == expected | {"by": "", "mac": False}


def test_a_plan_that_the_node_cannot_follow_is_refused(node: Node) -> None:
    node.unable = because("no", "pilot-write-not-allowed", device="d", detail="no")
    assert node.judge(signed(changed(), "acme")) == "pilot-write-not-allowed"
    assert node.active == ""


def test_a_file_that_is_damaged_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"signed": {"payload": "e30=", "payloadType": "x", "signatures": []}}')
    assert Node(tmp_path).active == ""


def test_a_flipped_bit_anywhere_in_a_signed_plan_counts_for_nothing() -> None:
    good = opened(signed(changed(), "acme"))
    (key, made) = good.signatures[0]
    assert signers(good, TRUST) == ("acme",)

    def counts(payload: bytes, keyid: str, signature: bytes) -> tuple[str, ...]:
        try:
            return signers(read_signed(json.dumps(doc_of(payload, keyid, signature)).encode()), TRUST)
        except (WireError, PlanRefused):
            return ()

    for at in range(0, len(good.payload), 29):
        assert counts(flipped(good.payload, at), key, made) == (), f"byte {at} of the payload"
    for at in range(len(made)):
        assert counts(good.payload, key, flipped(made, at)) == (), f"byte {at} of the signature"
    for at in range(0, len(key), 7):
        assert counts(good.payload, flipped(key.encode(), at).decode(), made) == (), f"byte {at} of the key"


def flipped(body: bytes, at: int) -> bytes:
    """One bit of one byte is another one."""
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def doc_of(payload: bytes, keyid: str, signature: bytes) -> Any:
    """The envelope with one signature."""
    return msgspec.to_builtins(envelope(payload, ((keyid, signature),)))
