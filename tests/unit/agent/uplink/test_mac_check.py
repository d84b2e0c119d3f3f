"""A node with a key refuses what has no mac or a wrong one, counts it and says what is missing."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from agent.identity import ENROLMENT, MAC_FILE, Enrolment
from agent.uplink.mac_check import OLD_MS, SHOWN_S, MacCheck
from tests.unit.agent.uplink.test_refusal import SetClock
from wire.broker import Broker
from wire.codec import encode
from wire.errors import ConfigError, WireError
from wire.mac import signed
from wire.messages import Ack, ClockState
from wire.topics import parse

TOPIC = "tb1/acme/junction/street-1/cam-01/ack"
KEY = b"\xab" * 32
BODY = encode(Ack(ep="9f2c41d07ab3e586", ok=[(1, 2)], by="c", ts=1))
OTHER = "tb1/acme/junction/street-1/cam-01/status"


def enrolled(folder: Path) -> Broker:
    path = folder / MAC_FILE
    path.write_text(KEY.hex() + "\n")
    path.chmod(0o600)
    (folder / ENROLMENT).write_bytes(msgspec.json.encode(Enrolment("https://a", mac=True)))
    return Broker(url="mqtts://a", cert_file=folder / "node.pem", key_file=folder / "node.key")


def opened(check: MacCheck, body: bytes, topic: str = TOPIC) -> bytes:
    return check.opened(parse(topic), topic, body)


@pytest.mark.parametrize("broker", [Broker(url="mqtt://a"), Broker(url="mqtts://a", cert_file=Path("no/x"))])
def test_a_node_without_a_key_takes_everything(broker: Broker) -> None:
    check = MacCheck(broker, SetClock(), Counter())
    check.load()
    for body in (BODY, signed(KEY, TOPIC, BODY), signed(b"x" * 32, TOPIC, BODY)):
        assert opened(check, body) == body
    assert check.is_fresh("c", 5, ClockState.NTP)
    assert check.is_fresh("c", 5, ClockState.NTP)
    assert not check.has_key


def test_a_node_with_a_key_refuses_and_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counters: Counter[str] = Counter()
    clock = SetClock()
    check = MacCheck(enrolled(tmp_path), clock, counters)
    check.load()
    assert opened(check, signed(KEY, TOPIC, BODY)) == BODY
    assert opened(check, BODY, OTHER) == BODY, "what nodes send has no mac"
    assert not check.problem.why
    with caplog.at_level(logging.WARNING):
        for _ in range(1_000):
            with pytest.raises(WireError):
                opened(check, BODY)
            with pytest.raises(WireError):
                opened(check, signed(b"x" * 32, TOPIC, BODY))
    assert counters == {"mac_missing": 1_000, "mac_wrong": 1_000}
    assert len(caplog.records) == 2, "one line of each kind in ten minutes"
    assert check.problem.code == "mac-wrong"
    with pytest.raises(WireError):
        opened(check, BODY)
    assert check.problem.code == "mac-missing"
    assert check.problem.args == {"topic": "ack"}
    assert "set mac_file in the config of the collector" in check.problem.why
    clock.s += SHOWN_S
    assert not check.problem.why


def test_an_old_refusal_is_not_believed(tmp_path: Path) -> None:
    clock = SetClock()
    check = MacCheck(enrolled(tmp_path), clock, Counter())
    check.load()
    now = clock.now_ms()
    assert check.is_fresh("a", now, ClockState.NTP)
    assert not check.is_fresh("a", now, ClockState.NTP), "the same again"
    assert not check.is_fresh("a", now - 1, ClockState.NTP)
    assert check.is_fresh("b", now - 1, ClockState.NTP), "each collector has its own clock"
    assert check.is_fresh("a", now + 1, ClockState.NTP)
    year = 365 * 86_400_000
    assert not check.is_fresh("late", now - OLD_MS - 60_000, ClockState.NTP), "of before the start"
    assert check.is_fresh("late", now - year, ClockState.UNSYNCED) is False, "older than the one before"
    assert check.is_fresh("other", now - year, ClockState.UNSYNCED), "this node's clock was never set"
    for at in range(200):
        check.is_fresh(f"c{at}", now, ClockState.NTP)
    assert not check.is_fresh("one-more", now, ClockState.NTP), "what is kept is bounded"


def test_a_key_that_cannot_be_used_is_not_taken_for_none(tmp_path: Path) -> None:
    check = MacCheck(enrolled(tmp_path), SetClock(), Counter())
    key = tmp_path / MAC_FILE
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by other users"):
        check.load()
    key.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        check.load()
    (tmp_path / ENROLMENT).write_text("{")
    with pytest.raises(ConfigError, match=r"enrolment\.json cannot be read"):
        check.load()
    # enrolled before the site gave keys
    (tmp_path / ENROLMENT).write_text('{"url":"https://a"}')
    check.load()
    assert not check.has_key
    assert opened(check, BODY) == BODY
