"""The probe distinguishes a dead subscription from a silent one and from one that is far behind."""

from __future__ import annotations

import pytest

from collector.mqtt.probe import CLASSES, Probe

DATA = "tb1/acme/trial/hall/n1/data/arm/joints"
AFTER_S = 30.0


def back(probe: Probe, *classes: str, at: float) -> None:
    """One round of probes; those of `classes` come back."""
    for topic, body in probe.next():
        if topic in [probe.topics[cls] for cls in classes]:
            probe.came(topic, body, at)


def test_no_class_is_dead_while_all_probes_come_back() -> None:
    probe = Probe("collector-1")
    for at in range(0, 200, 8):
        back(probe, *CLASSES, at=at)
    assert probe.dead(1_000.0, AFTER_S) == ""


@pytest.mark.parametrize("dead", CLASSES)
def test_the_one_that_stays_away_while_the_others_come(dead: str) -> None:
    probe = Probe("collector-1")
    back(probe, *CLASSES, at=0)
    for at in range(8, 48, 8):
        back(probe, *(cls for cls in CLASSES if cls != dead), at=at)
    assert probe.dead(8 + AFTER_S, AFTER_S) == ""
    assert probe.dead(8.1 + AFTER_S, AFTER_S) == dead


def test_a_queue_that_is_far_behind_is_not_dead() -> None:
    probe = Probe("collector-1")
    for at in range(0, 400, 8):
        back(probe, "event", "status", at=at)
        probe.flows(DATA)
        assert probe.dead(at, AFTER_S) == ""
    for topic in ("tb1/acme/trial/hall/n1/event/arm/data", "tb1/acme/data/hall/n1/event/arm/x"):
        probe.flows(topic)
    back(probe, "event", "status", at=400)
    assert probe.dead(431, AFTER_S) == "data"


def test_silence_of_all_classes_is_not_a_dead_one_and_an_excuse_resets_it() -> None:
    probe = Probe("collector-1")
    for _ in range(20):
        probe.next()
    assert probe.dead(1_000.0, AFTER_S) == ""
    back(probe, "event", at=1_000)
    probe.excuse()
    assert probe.dead(2_000.0, AFTER_S) == ""


def test_messages_of_other_clients_change_nothing() -> None:
    probe = Probe("collector-1")
    own = probe.topics["event"]
    for topic, body in (
        ("tb1/_sys/collector-2/probe/_/event/_/probe", b'{"probe":9}'),
        (own, b""), (own, b'{"probe":x}'), (own, b'{"probe":' + b"9" * 50 + b"}"), (own, b'{"probe":99}'),
    ):  # fmt: skip
        probe.came(topic, body, 0.0)
    assert probe.dead(100.0, AFTER_S) == "", "no number beyond what was sent"
