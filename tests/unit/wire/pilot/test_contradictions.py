"""Keys that are right one by one and would fail together, in the agent, the analysis or the report."""

from __future__ import annotations

import pytest

from tests.unit.wire.pilot.plans import changed
from tests.unit.wire.pilot.test_checks import (
    FOUR,
    KPI,
    MODEL,
    ON_FOUR,
    PARALLEL,
    SET_POINT,
    SWITCHBACK,
    THRESHOLD,
    mistakes,
)
from wire.pilot.plan import parse

Pair = tuple[str, str]
TARGET = "target: {min: 0.1}"
ANOTHER = (
    f"{TARGET}\n  - id: other\n    class: P\n    formula: downtime\n    from: {{running: {{field: a/b/c}}}}\n"
    "    unit: min\n    direction: increase\n    guardrail: "
)
OEE = (
    "formula: oee\n    from: {running: {field: a/b/c}, parts: {field: a/b/d, unit: '1'}, rejects: {field: "
    "a/b/e, unit: '1'}}\n    given: {ideal_s: IDEAL}\n    unit: '%'"
)
ALARMS = (
    "formula: detection-precision\n    from: {alarms: {event: a/b}, truth: {event: a/c}}\n"
    "    given: {within_s: WITHIN}\n    unit: '%'"
)
DAYS: Pair = ("2027-03-01 06:00, to: 2027-03-07 22:00", "2027-03-01, to: 2027-03-21")
BY_DAY = PARALLEL.replace("8h", "day") + f"[{', '.join(FOUR)}], treated: 2"
SEVEN = ", ".join(f"acme/p1/s1/n{1 + at % 2}/m{at}" for at in range(7))
PAIRED = f"kind: paired, unit: 8h, periods: 20, groups: {{machines: [{SEVEN}]"


MANY = ", ".join(f"acme/{'p' * 32}/{'s' * 32}/{'n' * 20}{at}" for at in range(160))
LIMITS = "\n  min: 1\n  max: 9\n  safe: 3"
TWICE = [f"acme/p1/s1/{each}" for each in ("n1/a", "n1/b", "n2/a", "n2/b")]


def expression(formula: str, inputs: str, unit: str = "''") -> Pair:
    return KPI, f"formula: {formula}\n    from: {{{inputs}}}\n    unit: {unit}"


def section(text: str) -> Pair:
    return "kpis:", f"{text}\nkpis:"


A, B = "a: {field: x/y/a, unit: kW}", "b: {field: x/y/b, unit: m}"

CASES: list[tuple[list[Pair], str]] = [
    # what cannot be reached
    ([(TARGET, "target: {min: 1.5}")], "target.min: 1.5 is a decrease by 150%, and nothing"),
    ([(TARGET, "target: {min: 0.1, effect: 1}")], "target.effect: 1 is a decrease by 100%"),
    ([(TARGET, ANOTHER + "{worse_than: 2}")], "worse_than: 2 is a decrease by 200%: it is never broken"),
    ([section("sample: {min_effect: 0.05}")], "sample.min_effect: is below the target, 0.1"),
    # what leaves nothing
    ([("washout_s: 60", "washout_s: 60, settle_s: 300000")], "settle_s: leaves 5 whole pairs of the trial"),
    (
        [section("exclude: {times: [{from: 2027-03-01, to: 2027-03-09, why: x}]}")],
        "exclude.times: leaves 0 whole pairs of the trial: a switchback needs 6",
    ),
    (
        [section("exclude: {times: [{from: 2027-02-01, to: 2027-02-24, why: x}]}"),
         (SWITCHBACK, "kind: before-after, unit: 8h, periods: 20")],
        "exclude.times: leaves 15 periods of the baseline: a before-after design needs 20",
    ),
    (
        [("periods: 20", "periods: 16"), ("to: 2027-03-07 22:00", "to: 2027-03-06 14:00"),
         section("analysis: {alpha: 0.001}")],
        "analysis.alpha: 8 pairs give no interval with alpha 0.001: it needs 11 pairs",
    ),
    # formulas
    ([(KPI, OEE.replace("IDEAL", "0"))], "given.ideal_s: 0 is not within"),
    ([(KPI, ALARMS.replace("WITHIN", "-5"))], "given.within_s: -5 is not within"),
    ([(KPI, ALARMS.replace("WITHIN", "1.0e+300"))], "given.within_s: 1e+300 is not within"),
    ([(KPI, OEE.replace("IDEAL", "1") + "\n    estimand: count")], "estimand: oee is not a number of events"),
    ([(KPI, OEE.replace("IDEAL", "1").replace("a/b/e", "a/b/d"))], "from.rejects: is the same as parts"),
    ([expression("mean(a)", A, "kW\n    estimand: count")], "estimand: count compares numbers of events"),
    ([expression("mean(a) / count(a)", A, "kW\n    estimand: count")], "its upper part needs"),
    ([expression("mean(a) / 0", A)], "formula: divides by 0"),
    ([expression("mean(a) / (2 - 2)", A)], "formula: divides by 0"),
    ([expression("mean(a) / zero", A + "}\n    given: {zero: 0")], "formula: divides by 0"),
    ([expression("max(a) + max(b)", f"{A}, {B}")], "adds or subtracts the units 'kW' and 'm'"),
    ([expression("(mean(b) - min(a)) / 2", f"{A}, {B}")], "the units 'm' and 'kW'"),
    ([expression("share(c)", "c: {field: x/y/c}", "'%'")], "'%' is not the unit of share()"),
    ([expression("time(c)", "c: {field: x/y/c}", "min")], "'min' is not the unit of time()"),
    ([expression("rate(c)", "c: {event: x/c}", "/d")], "unit: '/d' is not the unit of rate()"),
    ([expression("count(c)", "c: {event: x/c}", "kg")], "unit: 'kg' is not the unit of count()"),
    ([section("adjust: {covariates: {x: {field: cell/production/running}}}")], "is an input of stops itself"),
    ([section("analysis: {sensitivity: [trend, trend]}")], "sensitivity.1: 'trend' stands there twice"),
    # texts
    ([("en: Trial", 'en: "Tri\\u001b[31mal"')], "title.en: has the character U+001B, which is not visible"),
    ([("ko: 시험", 'ko: "시\\u202e험"')], "title.ko: has the character U+202E, which is not visible"),
    ([("testbed: hall 1", 'testbed: "hall\\u0085 1"')], "testbed: has the character U+0085"),
    (
        [(THRESHOLD, SET_POINT.replace("register: speed", 'topic: "a\\0"') + LIMITS)],
        "intervention.topic: has the character U+0000",
    ),
    # one message
    (
        [("unit: 8h", "unit: 1h"), ("periods: 20", "periods: 400"),
         ("to: 2027-03-07 22:00", "to: 2027-03-17 22:00"),
         ("from: 2027-02-01, to", "from: 2027-02-09, to"),
         ("acme/p1/s1/n2]", MANY + "]")],
        "design.periods: the signed plan has about",
    ),
    # machines
    (
        [(SWITCHBACK, f"{PARALLEL}[{', '.join(TWICE)}], treated: 2}}")],
        "machines.1: is on the node of acme/p1/s1/n1/a: an agent switches its whole node",
    ),
    (
        [(THRESHOLD, MODEL), (SWITCHBACK, PAIRED.replace("n1/m2", "n1") + "}")],
        "machines.2: acme/p1/s1/n1/m0 is there already: name the node, or its devices",
    ),
    ([(THRESHOLD, MODEL), (SWITCHBACK, PAIRED + ", treated: 2}")], "does not belong to a paired design"),
    (
        [(SWITCHBACK, f"{PARALLEL}[{', '.join(FOUR)}], treated: 2}}"),
         (ON_FOUR[0], f"[{', '.join(FOUR)}, acme/p1/s1/n9]")],
        "nodes.4: acme/p1/s1/n9 has no machine in design.groups, and no input names it",
    ),
    (
        [(SWITCHBACK, f"{PARALLEL}[{', '.join(FOUR)}], treated: 2}}"), ON_FOUR,
         ("production/running}", "production/running, node: acme/p1/s1/n1}")],
        "from.running.node: names a node, as all inputs do: then every machine has the same value",
    ),
    (
        [(SWITCHBACK, BY_DAY + ", starts: [2027-03-02, 2027-03-02]}"), ON_FOUR, DAYS],
        "starts.1: '2027-03-02' stands there twice",
    ),
    (
        [(SWITCHBACK, BY_DAY + ", starts: [2027-03-02 07:13]}"), ON_FOUR, DAYS],
        "starts.0: 2027-03-02 07:13 is not the start of a period of day",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("pairs", "sentence"), CASES, ids=[sentence for _, sentence in CASES])
def test_a_contradiction_is_named_with_its_line(pairs: list[Pair], sentence: str) -> None:
    found = mistakes(changed(*pairs))
    assert any(sentence in line for line in found), found
    assert all(line.startswith("pilot.yaml:") for line in found)


@pytest.mark.parametrize(
    "pairs",
    [
        [(SWITCHBACK, f"{PARALLEL}[{', '.join(FOUR)}], treated: 2}}"), ON_FOUR],
        [(SWITCHBACK, BY_DAY + ", starts: [2027-03-02, 2027-03-03]}"), ON_FOUR, DAYS],
        [(THRESHOLD, MODEL), (SWITCHBACK, PAIRED + "}")],
        [expression("rate(c)", "c: {event: x/c}", "'{alarm}/h'")],
        [expression("delta(c) / time(d)", "c: {field: x/y/c}, d: {field: x/y/d}", "/h\n    estimand: count")],
        [(KPI, ALARMS.replace("WITHIN", "60") + "\n    estimand: count"), ("decrease", "increase")],
        [section("exclude: {times: [{from: 2027-03-02, to: 2027-03-03, why: a holiday}]}")],
        [("en: Trial", 'en: "Tri\\u00adal\\nof today"')],
        [(TARGET, "target: {min: 1.5}"), ("decrease", "increase")],
        [(TARGET, "target: {min: 1.5, scale: absolute}")],
    ],
)
def test_what_fits_together_is_a_plan(pairs: list[Pair]) -> None:
    parse(changed(*pairs), "pilot.yaml")


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (
            ("pilot: trial-1", "pilot: Trial 1"),
            "pilot: expected up to 32 characters of a-z, 0-9 and -",
        ),
        (("unit: 8h", "unit: 8 hours"), "unit: expected day, shift, or a time such as 8h, 30min or 20s"),
        (("2027-03-01 06:00", "2027-03-01T06:00Z"), "from: expected a local time such as 2027-03-01 06:00"),
        (("field: cell/production/running", "field: running"), "field: expected device/stream/field"),
        (("n1, acme/p1/s1/n2]", "n1, acme/p1]"), "nodes.1: expected an address tenant/pilot/site/node"),
        (("unit: min", "unit: a b"), "unit: expected a UCUM code such as kW.h, without spaces"),
    ],
)
def test_a_form_is_named_in_words(pair: Pair, sentence: str) -> None:
    assert any(sentence in line for line in mistakes(changed(pair)))
