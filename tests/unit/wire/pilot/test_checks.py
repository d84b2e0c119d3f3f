"""Every mistake of a plan is found in one pass, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.wire.pilot.plans import PLAN, changed
from wire.errors import ConfigError
from wire.pilot.checks import doubts
from wire.pilot.plan import load, parse

READY = sorted((Path(__file__).parents[4] / "configs/pilots").glob("*.yaml"))
KPI = "formula: downtime\n    from: {running: {field: cell/production/running}}\n    unit: min"
MODEL = "kind: model\n  what: {en: a, ko: b}\n  slot: s\n  model: m@1.0.0\n  sha256: " + "a" * 64
THRESHOLD = (
    "kind: threshold\n  what: {en: a lower threshold, ko: 더 낮은 임계값}\n  slot: anomaly\n"
    "  parameter: level\n  on: 0.4\n  off: 0.8"
)
SET_POINT = "kind: set-point\n  what: {en: a, ko: b}\n  device: plc\n  register: speed\n  on: 5\n  off: 3"
TOPIC = SET_POINT.replace("register: speed", "min: 1\n  max: 9\n  safe: 3") + "\n  topic:"
SWITCHBACK = "kind: switchback, unit: 8h, periods: 20, seed: 7, washout_s: 60, carry_over_s: 60"


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as found:
        parse(text, "pilot.yaml")
    return list(found.value.mistakes)


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_the_ready_plans_are_right(path: Path) -> None:
    assert list(doubts(load(path))) == []


def test_four_plans_are_ready() -> None:
    assert len(READY) == 4


FOUR = [f"acme/p1/s1/n{at}" for at in (1, 2, 3, 4)]
ON_FOUR = ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{', '.join(FOUR)}]")
PARALLEL = "kind: parallel, unit: 8h, periods: 20, seed: 1, groups: {machines: "

CASES: list[tuple[tuple[str, str], str]] = [
    # nodes
    (("[acme/p1/s1/n1, acme", "[other/p1/s1/n1, acme"), "other/p1/s1/n1 does not belong to the owner acme"),
    (("n1, acme/p1/s1/n2]", "n1, acme/p1/s1/n1]"), "'acme/p1/s1/n1' stands there twice"),
    (("n1, acme/p1/s1/n2]", "n1, acme/p1]"), "nodes.1"),
    # intervention
    (("  slot: anomaly\n", ""), "intervention.slot: is missing"),
    (("off: 0.8", "off: 0.4"), "is the same as on"),
    (("slot: anomaly", "slot: anomaly\n  safe: 1"), "safe: does not belong to"),
    ((THRESHOLD, SET_POINT + "\n  min: 0\n  max: 9"), "safe: is missing"),
    ((THRESHOLD, SET_POINT + "\n  min: 0\n  max: 9\n  safe: 10"), "safe: 10 is not within min and max"),
    ((THRESHOLD, SET_POINT + "\n  min: 4\n  max: 9\n  safe: 4"), "off: 3 is not within min and max"),
    ((THRESHOLD, SET_POINT + "\n  min: 9\n  max: 3\n  safe: 4"), "max: 3 is not above min"),
    ((THRESHOLD, SET_POINT + "\n  topic: a\n  min: 1\n  max: 9\n  safe: 4"), "name one register"),
    ((THRESHOLD, TOPIC + " a/+/b"), "is not one topic of a device"),
    ((THRESHOLD, TOPIC + " 'a/#'"), "is not one topic of a device"),
    ((THRESHOLD, TOPIC + " $SYS/a"), "is not one topic of a device"),
    ((THRESHOLD, TOPIC + " tb1/acme/p1/s1/n2/cmd/x"), "is not one topic of a device"),
    ((THRESHOLD, (TOPIC + " a").replace("on: 5", "on: .nan")), "on: .nan is not a finite"),
    ((THRESHOLD, (TOPIC + " a").replace("on: 5", "on: .inf")), "on: .inf is not a finite"),
    ((THRESHOLD, (TOPIC + " a").replace("max: 9", "max: .nan")), "is not a finite"),
    ((THRESHOLD, (TOPIC + " a").replace("max: 9", "max: .inf")), "is not a finite"),
    ((THRESHOLD, THRESHOLD.replace("on: 0.4", "on: .nan")), "is not a finite"),
    (("owner: acme", "owner: ACME"), "owner"),
    (("kind: threshold", "kind: treshold"), "did you mean 'threshold'?"),
    # design
    (("periods: 20", "periods: 19"), "19 is odd"),
    (("periods: 20", "periods: 8"), "8 periods can show nothing"),
    (("periods: 20", "periods: 22"), "22, and the trial has 20 periods of 8h"),
    ((", seed: 7", ""), "seed: is missing"),
    (("unit: 8h", "unit: shift"), "write the starts of the shifts"),
    (("unit: 8h", 'unit: 8h, shifts: ["06:00"]'), "write the starts of the shifts"),
    (("unit: 8h", 'unit: shift, shifts: ["06:00", "26:00"]'), "design.shifts.1"),
    (("unit: 8h", 'unit: shift, shifts: ["07:00", "19:00"]'), "starts at 00:00, and no shift does"),
    (("washout_s: 60", "washout_s: 28800"), "washout_s: leaves nothing of a period of 28800 s"),
    (("washout_s: 60", "washout_s: 60, settle_s: 600000"), "settle_s: leaves nothing of the trial"),
    (("kind: switchback", "kind: swichback"), "did you mean 'switchback'?"),
    (("unit: 8h", "unit: 8 hours"), "design.unit"),
    ((SWITCHBACK, "kind: before-after, unit: day, periods: 6"), "6 periods are too few"),
    ((SWITCHBACK, "kind: paired, unit: 8h, periods: 20"), "the intervention must be a model"),
    ((SWITCHBACK, "kind: parallel, unit: 8h, periods: 20, seed: 1"), "groups: is missing"),
    (("seed: 7", "seed: 7, groups: {machines: [acme/p1/s1/n1]}"), "does not belong to a switchback design"),
    (
        (SWITCHBACK, PARALLEL + "[acme/p1/s1/n9], treated: 1}"),
        "acme/p1/s1/n9 is not on a node of the plan",
    ),
    # windows
    (("tz: Asia/Seoul", "tz: Asia/Soul"), "'Asia/Soul' is not known"),
    (("tz: Asia/Seoul", "tz: ../../etc/passwd"), "is not known"),
    (("from: 2027-02-01,", "from: 2027-02-31,"), "2027-02-31"),
    (("from: 2027-02-01,", "from: tomorrow,"), "windows.baseline.from"),
    (("from: 2027-02-01,", "from: 2027-03-01,"), "2027-03-01 is not after 2027-03-01"),
    (("to: 2027-03-01}", "to: 2027-03-02}"), "is after the start of the trial"),
    (("to: 2027-03-07 22:00", "to: 2027-03-07 21:00"), "ends within a period of 8h, after 19 whole ones"),
    # KPIs
    (("    primary: true\n", ""), "none is primary"),
    (("    target: {min: 0.1}\n", ""), "target: is missing"),
    (("target: {min: 0.1}", "target: {min: 0.1, effect: 0.05}"), "is below the target"),
    (("target: {min: 0.1}", "target: {min: 0.1}\n    guardrail: {worse_than: 0.1}"), "not both"),
    (("formula: downtime", "formula: downtme"), "did you mean 'downtime'?"),
    (("unit: min", "unit: kg"), "'kg' is not a unit of downtime: h, min, s"),
    (("from: {running:", "from: {runing:"), "is not an input of downtime; did you mean 'running'?"),
    (("from: {running:", "from: {runing:"), "from.running: is missing"),
    (("running: {field: cell/production/running}", "running: {event: cell/stop}"), "needs a field here"),
    (("{field: cell/production/running}", "{field: a/b/c, unit: kg}"), "'kg' is not one of"),
    (("{field: cell/production/running}", "{field: cell/running}"), "from.running.field"),
    (("{field: cell/production/running}", "{}"), "name a field"),
    (("{field: cell/production/running}", "{field: a/b/c, node: acme/p1/s1/n3}"), "did you mean"),
    (("unit: min", "given: {ideal_s: 3}\n    unit: min"), "downtime does not use it"),
    ((KPI, "formula: oee\n    from: {}\n    unit: '%'"), "given.ideal_s: is missing"),
    ((KPI, "formula: mean(a)\n    from: {a: {field: a/b/c, unit: kW}}\n    unit: W"), "is not the unit of"),
    ((KPI, "formula: mean(b)\n    from: {a: {field: a/b/c, unit: W}}\n    unit: W"), "'b' is not in `from`"),
    ((KPI, "formula: (a)\n    from: {a: {field: a/b/c}}\n    unit: W"), "needs a word such as mean(a)"),
    ((KPI, "formula: rate(a)\n    from: {a: {field: a/b/c}}\n    unit: /h"), "needs an event"),
    ((KPI, "formula: mean(a)\n    from: {a: {event: a/b}}\n    unit: W"), "needs a field, and a is an event"),
    ((KPI, "formula: count(a)\n    from: {a: {event: a/b, unit: W}}\n    unit: '1'"), "an event has no unit"),
    ((KPI, "formula: __import__('os')\n    from: {}\n    unit: '1'"), "__import__() is not known"),
    ((KPI, "formula: sum(a) > 3\n    from: {a: {field: a/b/c}}\n    unit: '1'"), "must give a number"),
    # the rest
    (("kpis:", "adjust: {trend: none}\nkpis:"), "none needs a reason"),
    (("kpis:", "adjust: {covariates: {x: {}}}\nkpis:"), "adjust.covariates.x: name a field"),
    (("kpis:", "exclude: {when: [{id: x, when: mean(a), from: {}}]}\nkpis:"), "must compare"),
    (("kpis:", "exclude: {times: [{from: 2027-03-02, to: 2027-03-02, why: x}]}\nkpis:"), "is not after"),
    (("kpis:", "kpi: 3\nkpis:"), "unknown key; did you mean 'kpis'?"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), CASES, ids=[sentence for _, sentence in CASES])
def test_a_mistake_is_named_with_its_line(change: tuple[str, str], sentence: str) -> None:
    found = mistakes(changed(change))
    assert any(sentence in line for line in found), found
    assert all(line.startswith("pilot.yaml:") for line in found)


@pytest.mark.parametrize(
    "change",
    [
        ("owner: acme", "owner: ACME"),
        ("kind: threshold", "kind: treshold"),
        ("kind: switchback", "kind: swichback"),
        ("unit: 8h", "unit: 8 hours"),
        ("unit: 8h", "unit: shift"),
        ("unit: 8h", 'unit: shift, shifts: ["26:00"]'),
        ("tz: Asia/Seoul", "tz: Asia/Soul"),
        ("formula: downtime", "formula: downtme"),
        ("class: P", "class: X"),
        ("direction: decrease", "direction: down"),
    ],
)
def test_one_wrong_word_is_one_mistake(change: tuple[str, str]) -> None:
    assert len(mistakes(changed(change))) == 1


def test_a_baseline_that_is_too_short_is_named() -> None:
    text = changed(
        (SWITCHBACK, "kind: before-after, unit: 8h, periods: 20"), ("from: 2027-02-01", "from: 2027-02-27")
    )
    assert mistakes(text) == ["pilot.yaml:17:13: windows.baseline: has 6 periods of 8h: it needs 20"]


def test_every_mistake_comes_in_one_pass_in_the_order_of_lines() -> None:
    text = changed(
        ("[acme/p1/s1/n1, acme", "[other/p1/s1/n1, acme"),
        ("  slot: anomaly\n", ""),
        ("tz: Asia/Seoul", "tz: Asia/Soul"),
        ("unit: min", "unit: kg"),
        ("min: 0.1", "min: x"),
    )
    lines = [int(line.split(":")[1]) for line in mistakes(text)]
    assert len(lines) == 5
    assert lines == sorted(lines)
    assert text.splitlines()[lines[-1] - 1].strip() == "target: {min: x}"


def test_what_weakens_a_plan_is_a_doubt_and_not_a_mistake() -> None:
    text = changed(
        ("  baseline: {from: 2027-02-01, to: 2027-03-01}\n", ""),
        ("periods: 20", "periods: 14"),
        ("to: 2027-03-07 22:00", "to: 2027-03-05 22:00"),
        ("washout_s: 60, carry", "washout_s: 30, carry"),
    )
    found = " ".join(doubts(parse(text, "pilot.yaml")))
    for part in ("14 periods leave no room", "never judged 'not met'", "no baseline"):
        assert part in found
    text = changed(
        ("washout_s: 60, carry_over_s: 60", "washout_s: 20000"),
        ("kpis:", "adjust: {trend: linear}\nkpis:"),
        ("kpis:", "exclude: {times: [{from: 2026-03-02, to: 2026-03-03, why: x}]}\nkpis:"),
    )
    found = " ".join(doubts(parse(text, "pilot.yaml")))
    for part in (
        "cuts most of a period",
        "adjust.trend are not used",
        "from 2026-03-02 is outside",
    ):
        assert part in found
    three = changed((SWITCHBACK, f"{PARALLEL}[{', '.join(FOUR)}], treated: 2}}"), ON_FOUR)
    assert "2 + 2 machines: the interval assumes" in " ".join(doubts(parse(three, "pilot.yaml")))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(PLAN)), st.integers(0, 40), st.text("{}[]:,-0 an\n\"'()*/é", max_size=8))
def test_any_text_gives_a_plan_or_its_mistakes(at: int, length: int, text: str) -> None:
    try:
        parse(PLAN[:at] + text + PLAN[at + length :], "pilot.yaml")
    except ConfigError as error:
        assert error.mistakes
