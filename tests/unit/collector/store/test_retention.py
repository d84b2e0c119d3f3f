"""Which rule applies, what is a mistake in the config, and from which day ages are counted."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from collector.config import load
from collector.store.retention import Retention, RetentionRule, today_of
from tests.unit.collector.conftest import SetClock
from wire.errors import ConfigError

RULES = [
    RetentionRule(nodes="*", keep_days=10),
    RetentionRule(nodes="*", cls="event", keep_days=11),
    RetentionRule(nodes="acme/*", keep_days=20),
    RetentionRule(nodes="acme/*", cls="data", keep_days=21),
    RetentionRule(nodes="acme/trial", keep_days=30),
    RetentionRule(nodes="acme/trial", cls="event", keep_days=0),
]


@pytest.mark.parametrize(
    ("node", "cls", "days"),
    [
        ("blue/trial/hall/n", "data", 10),
        ("blue/trial/hall/n", "event", 11),
        ("acme/other/hall/n", "data", 21),
        ("acme/other/hall/n", "event", 20),
        ("acme/other/hall/n", "quarantine", 20),
        ("acme/trial/hall/n", "data", 30),
        ("acme/trial/hall/n", "event", 0),
        ("acme", "event", 20),
        ("", "data", 10),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_most_exact_rule_applies_in_any_order(node: str, cls: str, days: int, order: int) -> None:
    assert Retention(5, RULES[::order]).keep_days(node, cls) == days


def test_without_a_rule_the_old_key_applies() -> None:
    retention = Retention(5, [RetentionRule(nodes="acme/*", keep_days=50)])
    assert (retention.keep_days("blue/t/s/n", "data"), retention.longest()) == (5, 50)
    assert Retention().keep_days("blue/t/s/n", "data") == 0
    assert Retention(0, [RetentionRule(nodes="acme/*", keep_days=50)]).longest() == 0, "all else is kept"


def test_rules_that_apply_to_no_node_are_named() -> None:
    found = Retention(0, RULES).unmatched(["acme/other/hall/n"])
    assert [rule.what for rule in found] == ["acme/trial of all classes", "acme/trial event"]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (
            "retention: [{nodes: a/*, class: snap, keep_days: 1}]",
            2,
            "'snap' is not one of data, event, quarantine",
        ),
        ("retention: [{nodes: a/*, keep_days: -1}]", 2, ">= 0, got -1"),
        ("retention: [{nodes: a/*, keep_days: 99999999999}]", 2, "<= 36500"),
        ("retention: [{nodes: a/*}]", 2, "keep_days"),
        ("retention: [{nodes: acme, keep_days: 1}]", 2, "'acme' names no nodes: write `tenant/pilot`"),
        ("retention: [{nodes: '*/trial', keep_days: 1}]", 2, "names no nodes"),
        ("retention: [{nodes: a/b/c, keep_days: 1}]", 2, "names no nodes"),
        (
            "retention: [{nodes: a/*, class: data, keep_days: 1},\n {nodes: a/*, class: data, keep_days: 2}]",
            3,
            "there is a rule for a/* data already, the 1st",
        ),
        ("quotas: [{tenant: a, gb: 0}]", 2, "> 0"),
        ("quotas: [{tenant: a, gb: -1}]", 2, "> 0"),
        ("quotas: [{tenant: a/b, gb: 1}]", 2, "'a/b' is not the name of a tenant"),
        ("quotas:\n- {tenant: a, gb: 1}\n- {tenant: a, gb: 2}", 4, "there is a quota of a already"),
        ("quotas: [{tenant: a, gb: 1, when_full: drop}]", 2, "'drop' is not one of"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, why: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"store: ./data\n{text}\n")
    with pytest.raises(ConfigError) as refused:
        load(path)
    (mistake,) = refused.value.mistakes
    assert mistake.startswith(f"{path}:{line}:")
    assert why in mistake


def test_a_config_without_the_keys_keeps_what_it_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("store: ./data\nretention_days: 7\n")
    found = load(path)
    assert (found.retention, found.quotas) == ([], [])
    assert Retention(found.retention_days, found.retention).longest() == 7


def test_ages_are_counted_from_a_day_after_the_last_that_ended_at_most() -> None:

    clock = SetClock()  # 2026-11-22
    assert today_of([], clock) == date(2026, 11, 22)
    assert today_of([date(2026, 11, 2)], clock) == date(2026, 11, 3)
    assert today_of([date(2090, 1, 1)], clock) == date(2026, 11, 22)
