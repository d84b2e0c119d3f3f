"""A real node with a pilot takes no other plan, whatever comes, and records a changed config."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.pilots.signatures import sign
from edgebed.broker import BrokerProcess
from tests.brokers import LONG_TEST_KINDS
from tests.integration.test_pilot import PRIVATE, PUBLIC, desired, plan, signed
from tests.polling import wait_until
from tests.running_agent import GUARD_S, RunningAgent, Subscriber
from wire.pilot.canonical import canonical
from wire.pilot.frozen import FrozenPlan, envelope


def doc(payload: bytes, of: bytes | None = None) -> Any:
    """A plan with a good signature, which is of other bytes where `of` is given."""
    return msgspec.to_builtins(envelope(payload, (sign(payload if of is None else of, PRIVATE),)))


def changed(frozen: FrozenPlan, **more: Any) -> bytes:
    """The bytes of another plan."""
    return canonical({**json.loads(frozen.payload), **more})


@pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)
def test_a_node_in_a_pilot_follows_no_other_plan(broker: BrokerProcess, tmp_path: Path) -> None:
    (tmp_path / "acme.pem").write_bytes(PUBLIC)
    agent = RunningAgent(tmp_path, broker.url, remote={"pilot": True}, trust={"keys": ["acme.pem"]})
    there, frozen = Subscriber(broker.port), plan()
    first, later = json.loads(frozen.payload), json.loads(plan(days=30).payload)
    second = changed(frozen, version=2, previous=hashlib.sha256(frozen.payload).hexdigest())
    bit = bytearray(second)
    bit[bit.index(b'"Trial"') + 1] ^= 1
    spaced = json.dumps(first).encode()
    foreign = msgspec.to_builtins(signed(frozen))
    foreign["signatures"][0]["sig"] = base64.b64encode(sign(b"other", PRIVATE)[1]).decode()
    beyond = canonical({**later, "plan": {**later["plan"], "pilot": "trial-2"}})
    forked = changed(frozen, version=2, previous="ab" * 32)
    other = {**first["plan"], "testbed": "x"}
    cases = {
        "a bit of the payload": (doc(bytes(bit), second), "pilot-signature-bad"),
        "the same plan with spaces": (doc(spaced), "pilot-unreadable"),
        "a signature of other bytes": (foreign, "pilot-signature-bad"),
        "a later pilot": (doc(beyond), "pilot-overlaps"),
        "another first version": (doc(changed(frozen, plan=other)), "pilot-older"),
        "an amendment of another plan": (doc(forked), "pilot-amends-other"),
        "a second version of none": (doc(changed(frozen, version=2)), "pilot-unreadable"),
    }

    def reported(ver: int) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            body = there.body("reported/pilot")
            return body if body.get("ver") == ver else None

        body: dict[str, Any] = wait_until(found, f"the answer to message {ver}", GUARD_S)
        return body

    try:
        agent.start()
        there.publish("desired/pilot", desired(1, signed(frozen)))
        digest = reported(1)["active"]
        for ver, (name, (body, code)) in enumerate(cases.items(), 2):
            there.publish("desired/pilot", desired(ver, body))
            answer = reported(ver)
            assert (answer["state"], answer["code"], answer["active"]) == ("rejected", code, digest), name
        before = there.body("event/_/exposure")["detail"]
        agent.document["devices"]["arm"]["options"]["rate_hz"] = 25
        agent.write()
        assert agent.reload().returncode == 0

        def again() -> dict[str, Any] | None:
            detail: dict[str, Any] = there.body("event/_/exposure")["detail"]
            return detail if detail["setup"] != before["setup"] else None

        after = wait_until(again, "the event about the changed config", GUARD_S)
        assert {**after, "setup": "", "from": 0} == {**before, "setup": "", "from": 0}
    finally:
        agent.child.stop()
        there.close()
