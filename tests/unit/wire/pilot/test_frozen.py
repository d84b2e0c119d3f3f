"""A frozen plan: the golden hash, what is refused, and amendments."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.wire.pilot.plans import PLAN, changed
from wire.errors import WireError
from wire.pilot.canonical import canonical
from wire.pilot.frozen import PAYLOAD, envelope, freeze, pae, read_signed, require_sound
from wire.pilot.plan import parse

FROZEN = freeze(parse(PLAN, "pilot.yaml"))
SIGNED = msgspec.json.encode(envelope(FROZEN.payload, (("ab" * 32, b"signature"),)))


def test_the_hash_is_the_same_in_every_release() -> None:
    # made once; another hash means that a plan that was signed before reads differently now
    assert read_signed(SIGNED).hash == "d9b70282355c1309a7e21ad2224c61f6b50a8b8abdadfe499a93bc6eb52cba04"


def test_the_payload_is_plain_json_with_every_default_and_the_schedule() -> None:
    plain = json.loads(FROZEN.payload)
    assert plain["plan"]["analysis"]["alpha"] == 0.05
    assert plain["plan"]["windows"]["trial"]["from"] == "2027-03-01 06:00"
    assert plain["plan"]["kpis"][0]["class"] == "P"
    assert len(plain["schedule"]["periods"]) == 84 + 20
    assert [period[3] for period in plain["schedule"]["periods"][84:86]] in (["on", "off"], ["off", "on"])


def test_the_plan_of_the_page_can_be_frozen() -> None:
    page = (Path(__file__).parents[4] / "docs/pilots.md").read_text()
    example = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert len(freeze(parse(example, "docs/pilots.md")).schedule.trial) == 30


def plans() -> list[str]:
    """The plans of the page and of the ready configs, and some with empty keys."""
    root = Path(__file__).parents[4]
    page = (root / "docs/pilots.md").read_text()
    timed = "formula: downtime\n    from: {running: {field: cell/production/running}}\n    unit: min"
    counted = 'formula: sum(n) / 2\n    from: {n: {field: cell/production/n}}\n    unit: ""'
    return [
        page.split("```yaml\n", 1)[1].split("```", 1)[0],
        *(file.read_text() for file in sorted((root / "configs/pilots").glob("*.yaml"))),
        changed((timed, counted)),
        changed(("    unit: min", "    unit: min\n    given: {}")),
        changed(("washout_s: 60, carry_over_s: 60", "washout_s: 0, carry_over_s: 0")),
    ]


@pytest.mark.parametrize("text", plans())
def test_every_plan_that_is_read_can_be_sent(text: str) -> None:
    frozen = freeze(parse(text, "pilot.yaml"))
    require_sound(read_signed(msgspec.json.encode(envelope(frozen.payload, ()))), "the plan")


def test_a_signed_plan_reads_back() -> None:
    opened = read_signed(SIGNED)
    assert opened.plan == FROZEN
    assert opened.signatures == (("ab" * 32, b"signature"),)
    assert opened.hash == hashlib.sha256(FROZEN.payload).hexdigest()
    assert pae(b"{}") == b"DSSEv1 34 application/vnd.edgebed.pilot+json 2 {}"


def test_the_order_and_the_form_of_the_yaml_do_not_change_the_hash() -> None:
    other = changed(("washout_s: 60, carry_over_s: 60", "carry_over_s: 6.0e1, washout_s: 60.0"))
    assert freeze(parse(other, "b.yaml")).payload == FROZEN.payload


def test_an_amendment_names_the_version_before() -> None:
    before = read_signed(SIGNED)
    after = freeze(
        parse(changed(("min: 0.1", "min: 0.2")), "b.yaml"), after=before, reason="the target was wrong"
    )
    assert (after.version, after.previous, after.reason) == (2, before.hash, "the target was wrong")


def _payload(change: dict[str, Any]) -> bytes:
    plain = json.loads(FROZEN.payload)
    for path, value in change.items():
        inner = plain
        *steps, last = path.split(".")
        for step in steps:
            inner = inner[int(step) if step.isdigit() else step]
        inner[last] = value
    return canonical(plain)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (FROZEN.payload + b" ", "not canonical"),
        (json.dumps(json.loads(FROZEN.payload)).encode(), "not canonical"),
        (FROZEN.payload.replace(b'"on":0.4', b'"on":0.40'), "not canonical"),
        (FROZEN.payload.replace(b'"version":1', b'"version":0'), "not a signed plan"),
        (FROZEN.payload.replace(b'"version":1', b'"version":1,"version":1'), "not canonical"),
        (b"[" * 5_000, "not a signed plan"),
        (b"\xff", "not a signed plan"),
        (_payload({"format": "edgebed-pilot/2"}), "this program reads edgebed-pilot/1"),
        (_payload({"plan.more": 1}), "not a signed plan"),
        (_payload({"version": 2}), "each later version has the hash"),
        (_payload({"previous": "ab" * 32}), "version 1 has no `previous`"),
        (_payload({"schedule.periods": []}), "has no trial"),
        (_payload({"schedule.periods": [[0, 2, "trial", "on"], [1, 3, "trial", "off"]]}), "overlap"),
        (_payload({"schedule.periods": [[5, 5, "trial", "on"]]}), "overlap"),
        (_payload({"schedule.periods": [[-1, 5, "trial", "on"]]}), "not a signed plan"),
    ],
)  # fmt: skip
def test_other_bytes_are_refused(payload: bytes, sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        read_signed(msgspec.json.encode(envelope(payload)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"x" * 60_000,
        SIGNED.replace(PAYLOAD.encode(), b"application/json"),
        SIGNED.replace(b'"payload":"', b'"payload":"*'),
        json.dumps({"payload": base64.b64encode(b"{}").decode(), "payloadType": PAYLOAD, "more": 1}).encode(),
    ],
)
def test_another_envelope_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        read_signed(body)
