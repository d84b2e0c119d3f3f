"""A plan for the tests, and changes of its text."""

from __future__ import annotations

from typing import Any

import msgspec

from wire.pilot.frozen import envelope, freeze
from wire.pilot.plan import parse

PLAN = """\
pilot: trial-1
title: {en: Trial, ko: 시험}
owner: acme
testbed: hall 1
question: {en: It helps., ko: 도움이 된다.}
nodes: [acme/p1/s1/n1, acme/p1/s1/n2]
intervention:
  kind: threshold
  what: {en: a lower threshold, ko: 더 낮은 임계값}
  slot: anomaly
  parameter: level
  on: 0.4
  off: 0.8
design: {kind: switchback, unit: 8h, periods: 20, seed: 7, washout_s: 60, carry_over_s: 60}
windows:
  tz: Asia/Seoul
  baseline: {from: 2027-02-01, to: 2027-03-01}
  trial: {from: 2027-03-01 06:00, to: 2027-03-07 22:00}
kpis:
  - id: stops
    class: P
    formula: downtime
    from: {running: {field: cell/production/running}}
    unit: min
    direction: decrease
    primary: true
    target: {min: 0.1}
"""


def changed(*pairs: tuple[str, str]) -> str:
    """The plan with texts replaced; each must be there."""
    text = PLAN
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def signed_plan(*pairs: tuple[str, str]) -> dict[str, Any]:
    """The plan in its envelope, with a signature that no key made."""
    frozen = freeze(parse(changed(*pairs), "pilot.yaml"))
    body = msgspec.json.encode(envelope(frozen.payload, (("ab" * 32, b"signature"),)))
    doc: dict[str, Any] = msgspec.json.decode(body)
    return doc
