"""The simulated receiver: the same sentences for a seed at any rate, in the form of receivers' manuals."""

from __future__ import annotations

import pytest

from simulators.devices.nmea import FAULTS, GnssReceiver, angle, sentence
from wire.clock import NS_PER_S

START_NS = 1_790_000_000 * NS_PER_S


def receiver(rate_hz: int = 10, *faults: str, seed: int = 3) -> GnssReceiver:
    made = GnssReceiver(seed=seed, rate_hz=rate_hz, faults=faults)
    made.start_ns = START_NS
    return made


def test_checksums_are_those_of_printed_sentences() -> None:
    for printed in (
        "$GPGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,*5B",
        "$GPRMC,225446,A,4916.45,N,12311.12,W,000.5,054.7,191194,020.3,E*68",
    ):
        assert sentence(printed[1:-3]) == printed + "\r\n"


@pytest.mark.parametrize(
    ("degrees", "width", "text"),
    [
        (47.285233167, 2, "4717.11399,N"),
        (-8.56526500, 3, "00833.91590,S"),
        (9.9999999999, 2, "1000.00000,N"),
        (0.0, 3, "00000.00000,N"),
    ],
)
def test_angles(degrees: float, width: int, text: str) -> None:
    assert angle(degrees, width, "NS") == text


def test_bursts_are_the_same_in_any_order_and_at_any_rate() -> None:
    fast, slow = receiver(10), receiver(1)
    backward = [fast.output(index) for index in reversed(range(50))]
    assert backward[::-1] == [receiver(10).output(index) for index in range(50)]
    assert [slow.output(second) for second in range(5)] == [fast.output(10 * second) for second in range(5)]
    assert receiver(10, seed=4).output(0) != fast.output(0)


def test_sentences_keep_to_what_nmea_allows() -> None:
    for index in (0, 7, 3_001):
        for line in receiver().output(index).splitlines(keepends=True):
            assert line.isascii()
            assert len(line) <= 82
            assert line.endswith(b"\r\n")


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_shows_and_ends(kind: str) -> None:
    well, ill = receiver(), receiver(10, f"{kind}@1-2")
    assert ill.output(9) == well.output(9)
    assert ill.output(10) != well.output(10)
    assert ill.output(20) == well.output(20)


@pytest.mark.parametrize("text", ["fog", "jump@5-2", "jump@x", "jumpx0", "silent:1", "brake@9-3"])
def test_a_text_that_is_not_a_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fault|not"):
        receiver(10, text)


def test_faults_of_the_vehicle_are_taken_too() -> None:
    made = receiver(10, "brake@20-22")
    made.inject("brake@40-42")
    made.inject("jump")
    made.repair()
    assert made.output(100) == receiver(10).output(100)
