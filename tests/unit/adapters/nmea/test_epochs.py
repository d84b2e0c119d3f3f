"""NMEA 0183 sentences from receivers' manuals are read, and other bytes raise only BadSentence."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.nmea.epochs import DAY_NS, BadSentence, Epochs, Sentence, checksum, parse, unix_ns
from wire.clock import NS_PER_S

# examples printed in u-blox 8 / M8 receiver description (GGA, GSA, RMC, VTG), the Trimble and the SiRF NMEA
# reference manuals, and the NMEA FAQ: so the parser is not tested against the simulator alone
GGA = b"$GPGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,*5B"
RMC = b"$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A*57"
VTG = b"$GPVTG,77.52,T,,M,0.004,N,0.008,K,A*06"
GSA = b"$GPGSA,A,3,23,29,07,08,09,18,26,28,,,,,1.94,1.18,1.54*0D"
SIRF_GGA = b"$GPGGA,161229.487,3723.2475,N,12158.3416,W,1,07,1.0,9.0,M,,,,0000*18"
SIRF_RMC = b"$GPRMC,161229.487,A,3723.2475,N,12158.3416,W,0.13,309.62,120598,,*10"
FAQ_RMC = b"$GPRMC,225446,A,4916.45,N,12311.12,W,000.5,054.7,191194,020.3,E*68"


def near(**values: float) -> Any:
    return pytest.approx(values, abs=1e-9)


def test_gga_of_a_ublox_receiver() -> None:
    sentence = parse(GGA)
    assert (sentence.kind, sentence.day, sentence.fix, sentence.reliable) == ("GGA", None, 1, True)
    assert sentence.time_ns == (9 * 3600 + 27 * 60 + 25) * NS_PER_S
    assert sentence.values == near(
        latitude=47.28523316666667, longitude=8.565265, satellites=8, hdop=1.01, altitude=499.6
    )


def test_rmc_of_a_ublox_receiver() -> None:
    sentence = parse(RMC)
    assert sentence.day is not None
    assert sentence.time_ns is not None
    at_ns = sentence.day * DAY_NS + sentence.time_ns
    assert datetime.fromtimestamp(at_ns / 1e9, UTC) == datetime(2002, 12, 9, 8, 35, 59, tzinfo=UTC)
    assert sentence.values == near(
        latitude=47.2852395, longitude=8.565253667, speed=0.004 * 1.852, heading=77.52
    )


def test_vtg_and_gsa_of_a_ublox_receiver() -> None:
    assert parse(VTG).values == near(heading=77.52, speed=0.008)
    assert parse(GSA).values == near(hdop=1.18)


def test_older_makers_and_the_western_half() -> None:
    assert parse(SIRF_GGA).values["longitude"] == pytest.approx(-121.97236, abs=1e-9)
    rmc = parse(SIRF_RMC)
    assert rmc.values["latitude"] == pytest.approx(37.387458333, abs=1e-9)
    assert rmc.time_ns == (16 * 3600 + 12 * 60 + 29) * NS_PER_S + 487_000_000
    assert rmc.day == datetime(1998, 5, 12, tzinfo=UTC).timestamp() // 86_400
    assert parse(FAQ_RMC).values["longitude"] == pytest.approx(-123.18533333, abs=1e-8)


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        (b"$GPGGA,092725.00,,,,,0,00,99.99,,,,,,", 0),
        (b"$GPRMC,083559.00,V,,,,,,,091202,,,N", 0),
        (b"$GPRMC,,V,,,,,,,,,,N", 0),
        (b"$GNRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,E", 6),
    ],
)
def test_without_a_fix_a_sentence_is_not_reliable(line: bytes, fix: int) -> None:
    sentence = parse(closed(line))
    assert sentence.fix == fix
    assert not sentence.reliable


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not_nmea"),
        (b"hello", "not_nmea"),
        (b"$", "bad_checksum"),
        (b"$GPGGA,092725.00,4717.11399,N", "bad_checksum"),
        (GGA.replace(b"4717", b"4718"), "bad_checksum"),
        (GGA[:-1], "bad_checksum"),
        ("$GPGGA,대구*00".encode(), "bad_checksum"),
    ],
)
def test_a_line_that_is_not_a_sentence_names_its_counter(line: bytes, why: str) -> None:
    with pytest.raises(BadSentence, match=f"^{why}$"):
        parse(line)


@pytest.mark.parametrize(
    "line",
    [
        b"$GPGGA",
        b"$GPGGA,092725.00",
        b"$GPGGA,292725.00,4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,",
        b"$GPGGA,092725.00,4760.00000,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,",
        b"$GPGGA,092725.00,4717.11399,X,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,",
        b"$GPGGA,092725.00,4717.11399,NS,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,",
        b"$GPGGA,092725.00,nan,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,",
        b"$GPGGA,092725.00,4717.11399,N,00833.91590,E,1,8_0,1.01,499.6,M,48.0,M,,",
        b"$GPGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.01,1639,f,48.0,M,,",
        b"$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,310202,,,A",
        b"$GPRMC,083559.00,X,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A",
        b"$GPVTG,77.52,T,0.004,N",
        b"$GPGSA,A,3",
    ],
)
def test_a_good_checksum_over_nonsense_is_malformed(line: bytes) -> None:
    with pytest.raises(BadSentence, match=r"^malformed$"):
        parse(closed(line))


def test_beyond_the_pole_is_passed_on_for_the_agent_to_flag() -> None:
    sentence = parse(closed(b"$GPGGA,092725.00,9917.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,"))
    assert float(sentence.values["latitude"] or 0) > 99


@pytest.mark.parametrize(
    "line", [b"$GPZDA,201530.00,04,07,2002,00,00*60", b"$PUBX,00*33", b"$GPGSV,1,1,00*79"]
)
def test_other_valid_sentences_give_an_empty_sentence(line: bytes) -> None:
    assert parse(line) == Sentence()


def test_bytes_before_a_sentence_are_ignored() -> None:
    assert parse(b"\x00\xff$GPGGA,0927" + GGA) == parse(GGA)


@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(line: bytes) -> None:
    try:
        parse(line)
    except BadSentence as why:
        assert str(why) in {"not_nmea", "bad_checksum", "malformed"}


@given(
    st.sampled_from(["GGA", "RMC", "VTG", "GSA"]),
    st.lists(st.text("0123456789.-+NSEWAVMTK e_", max_size=12), max_size=20),
)
def test_no_sentence_raises_another_error(kind: str, fields: list[str]) -> None:
    try:
        sentence = parse(closed(",".join([f"$GN{kind}", *fields]).encode()))
    except BadSentence as why:
        assert str(why) == "malformed"
    else:
        assert all(value is None or isinstance(value, int | float) for value in sentence.values.values())
        Epochs(Counter(), 1.0).add(sentence, 0.0)


@pytest.mark.parametrize("line", [GGA, RMC, VTG, GSA, FAQ_RMC])
def test_a_sentence_without_a_checksum_is_named_or_read_by_an_option(line: bytes) -> None:
    bare = line[:-3]
    with pytest.raises(BadSentence, match=r"^no_checksum$"):
        parse(bare)
    assert parse(bare, unchecked=True) == parse(line)
    with pytest.raises(BadSentence, match=r"^bad_checksum$"):  # a checksum that is there must be right
        parse(bare + b"*00", unchecked=True)


def test_a_cut_sentence_without_a_checksum_is_not_read() -> None:
    with pytest.raises(BadSentence, match=r"^bad_checksum$"):
        parse(b"$GPGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.0", unchecked=True)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"$GPGGA,092725.00", "only 1 fields"),
        (b"$GPGGA,092725.00,4717.1,N,00833.9,E,1,08,1.01,1639,f,48.0,M,,", "altitude in another unit"),
        (b"$GPGGA,092725.00,4717.1,N,00833.9,E,1,8_0,1.01,163.9,M,48.0,M,,", "'8_0' does not fit"),
    ],
)
def test_a_malformed_sentence_has_a_reason(line: bytes, why: str) -> None:
    with pytest.raises(BadSentence) as caught:
        parse(closed(line))
    assert caught.value.why == why


# --- joining


def row(*lines: bytes) -> dict[str, Any]:
    epochs = Epochs(Counter(), 1.0)
    for line in lines:
        epochs.add(parse(closed(line)), 0.0)
    epochs.expire(10.0)
    (epoch,) = epochs.take()
    return epoch.values


FINE_GGA = b"$GNGGA,101010.00,3552.28401234,N,12836.08459876,E,4,17,0.5,32.612,M,47.4,M,1.0,0001"
COARSE_GGA = b"$GNGGA,101010.00,3552.28,N,12836.08,E,4,17,,32.6,M,47.4,M,1.0,0001"
COARSE_RMC = b"$GNRMC,101010.00,A,3552.2840,N,12836.0845,E,0.05,77.5,301126,,,R"
FINE_RMC = b"$GNRMC,101010.00,A,3552.28401234,N,12836.08459876,E,0.0512,77.512,301126,,,R"
COARSE_VTG = b"$GNVTG,77,T,,M,0.05,N,0.1,K,R"
FINE_VTG = b"$GNVTG,77.512,T,,M,0.0512,N,0.0948,K,R"
USED_GSA = b"$GPGSA,A,3,10,12,14,20,24,25,32,51,,,,,2.3,1.1,2.0"
UNUSED_GSA = b"$GAGSA,A,3,01,04,,,,,,,,,,,0.0,0.0,0.0"


@pytest.mark.parametrize("turn", [1, -1], ids=["better-first", "better-last"])
def test_the_position_with_more_decimals_counts(turn: int) -> None:
    for better, worse in ((FINE_GGA, COARSE_RMC), (FINE_RMC, COARSE_GGA)):
        found = row(*(better, worse)[::turn])
        assert found["latitude"] == pytest.approx(35 + 52.28401234 / 60, abs=1e-10)
        assert found["longitude"] == pytest.approx(128 + 36.08459876 / 60, abs=1e-10)


@pytest.mark.parametrize("turn", [1, -1], ids=["better-first", "better-last"])
def test_the_speed_and_course_with_more_decimals_count(turn: int) -> None:
    for better, worse in ((FINE_RMC, COARSE_VTG), (FINE_VTG, COARSE_RMC)):
        gga, vtg_or_rmc = FINE_GGA, (better, worse)[::turn]
        found = row(gga, *vtg_or_rmc)
        assert found["speed"] == pytest.approx(0.0948, abs=1e-4)
        assert found["heading"] == 77.512


def test_the_hdop_is_that_of_gga_or_of_the_systems_in_use() -> None:
    assert row(FINE_GGA, COARSE_RMC, USED_GSA, UNUSED_GSA)["hdop"] == 0.5
    assert row(USED_GSA.replace(b"GP", b"GN"), FINE_GGA, UNUSED_GSA)["hdop"] == 0.5
    assert row(COARSE_GGA, USED_GSA, UNUSED_GSA)["hdop"] == 1.1
    assert row(COARSE_GGA, UNUSED_GSA, USED_GSA)["hdop"] == 1.1
    assert "hdop" not in row(COARSE_GGA, UNUSED_GSA)


def test_each_satellite_system_has_its_own_gsa() -> None:
    """A row waits for all of them: the first one alone could be the one that is not used."""
    second = [b"$GNGGA,10101%d.00,3552.28,N,12836.08,E,4,17,,32.6,M,,M,,", UNUSED_GSA, USED_GSA]
    epochs, found = Epochs(Counter(), 1.0), []
    for n in range(5):
        for line in second:
            epochs.add(parse(closed(line.replace(b"%d", str(n).encode()))), 0.0)
            found += [epoch.values.get("hdop") for epoch in epochs.take()]
    assert found == [1.1] * 5


def at(second: int, kind: str = "RMC", **values: float) -> Sentence:
    return Sentence(kind, kind in ("RMC", "GGA"), second * NS_PER_S, values=dict(values))


def joined(sentences: list[Sentence]) -> tuple[list[set[str]], Counter[str]]:
    counters: Counter[str] = Counter()
    epochs, found = Epochs(counters, 1.0), []
    for sentence in sentences:
        epochs.add(sentence, 0.0)
        found += [epoch.kinds for epoch in epochs.take()]
    return found, counters


def test_a_row_goes_out_with_its_last_sentence_once_the_receiver_is_known() -> None:
    second = [at(0, "VTG"), at(0, "GGA"), at(0, "GSA"), at(0, "GSA")]
    everything = {"RMC", "VTG", "GGA", "GSA"}
    found, counters = joined(
        [*second, at(1), *_at(1, second), at(2), *_at(2, second), at(3), *_at(3, second)]
    )
    assert found[-1] == everything
    assert len(found) == 4, "second 3 is complete although second 4 has not come"
    assert counters == {}


def _at(second: int, sentences: list[Sentence]) -> list[Sentence]:
    return [at(second, sentence.kind) for sentence in sentences]


def test_a_lost_sentence_delays_its_own_row_only() -> None:
    pair = [[at(second), at(second, "GGA")] for second in range(6)]
    found, counters = joined([*pair[0], *pair[1], *pair[2], pair[3][0], *pair[4], *pair[5]])
    assert found == [{"RMC", "GGA"}] * 3 + [{"RMC"}] + [{"RMC", "GGA"}] * 2
    assert counters == {}


def test_a_time_that_stands_still_makes_rows_all_the_same() -> None:
    found, _ = joined([at(7), at(7, "GGA")] * 5)
    assert len(found) >= 4


def test_a_sentence_after_its_epoch_was_taken_is_counted() -> None:
    counters: Counter[str] = Counter()
    epochs = Epochs(counters, 0.5)
    epochs.add(at(1), 10.0)
    assert epochs.due_s() == 10.5
    epochs.expire(10.4)
    assert epochs.take() == []
    epochs.expire(10.5)
    assert len(epochs.take()) == 1
    epochs.add(at(1, "GGA"), 10.6)
    assert counters == {"late_sentence": 1}


@pytest.mark.parametrize(
    ("time", "near_", "day"),
    [("23:59:59", "00:00:01", 9), ("00:00:00", "23:59:59", 11), ("12:00:00", "12:00:01", 10)],
)
def test_a_time_without_a_date_is_put_on_the_nearest_day(time: str, near_: str, day: int) -> None:
    near_ns = int(datetime.fromisoformat(f"2026-03-10T{near_}+00:00").timestamp()) * NS_PER_S
    hour, minute, second = map(int, time.split(":"))
    found = unix_ns((hour * 3600 + minute * 60 + second) * NS_PER_S, None, near_ns)
    assert datetime.fromtimestamp(found / 1e9, UTC).isoformat() == f"2026-03-{day:02}T{time}+00:00"


def closed(line: bytes) -> bytes:
    return line + f"*{checksum(line[1:].decode('ascii')):02X}".encode()
