"""DBC files become fields, checked against cantools and hand-packed frames; errors name the line."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import cantools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import OptionsError
from adapters.can.adapter import Can
from adapters.can.frames import Frame
from adapters.can.options import CanOptions, Picking
from adapters.can.signals import Dbc, all_signals, pick
from adapters.can.units import conversion, ucum
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

HEAD = 'VERSION ""\nBU_: A\n'
MOST = (
    HEAD
    + """BO_ 256 Drive: 8 A
 SG_ Speed : 0|16@1+ (0.01,0) [0|250] "km/h" A
 SG_ Torque : 23|12@0- (0.5,-100) [-1000|900] "Nm" A
 SG_ Gear : 40|3@1+ (1,0) [0|7] "" A
 SG_ Ready : 43|1@1+ (1,0) [0|1] "" A
 SG_ Odd : 48|8@1+ (1,0) [0|0] "furlong {x}" A

BO_ 2147484160 Mux: 8 A
 SG_ Page M : 0|8@1+ (1,0) [0|0] "" A
 SG_ Temp m0 : 8|8@1+ (1,-40) [-40|215] "\u00b0C" A
 SG_ Level m1 : 8|32@1- (1,0) [0|0] "%" A

BO_ 768 Big: 64 A
 SG_ Last : 480|32@1- (1,0) [0|0] "V" A
 SG_ Count : 0|64@1+ (1,0) [0|0] "" A

VAL_ 256 Gear 0 "P" 3 "D" 6 "Error" 7 "SNA" ;
SIG_VALTYPE_ 512 Level : 1;
SIG_VALTYPE_ 768 Last : 1;
"""
).replace("SIG_VALTYPE_ 512", "SIG_VALTYPE_ 2147484160")
T0 = 1_800_000_000 * NS_PER_S


@pytest.fixture
def dbc(tmp_path: Path) -> Path:
    path = tmp_path / "most.dbc"
    path.write_text(MOST, encoding="utf-8")
    return path


def can(dbc: Path, **more: object) -> Can:
    options: dict[str, object] = {"interface": "virtual", "channel": "x", "dbc": dbc, "row_on": "Drive"}
    return Can(CanOptions(**(options | more)), Clock())  # type: ignore[arg-type]


def row_of(adapter: Can, *frames: tuple[int, bytes], at_ns: int = T0) -> tuple[dict[str, object], Quality]:
    for can_id, data in frames:
        adapter._rows.take(Frame(can_id & 0x1FFFFFFF, can_id > 0x7FF, data, at_ns))
    row = adapter._rows.row("signals")
    return dict(row.values), row.quality


def test_frames_packed_by_hand(dbc: Path) -> None:
    adapter = can(dbc)
    torque = 740 & 0xFFF  # big-endian, 12 bits from bit 23: (740 - 200) / 2 ... 740 * 0.5 - 100 = 270
    drive = struct.pack("<H", 12_345) + struct.pack(">H", torque << 4) + b"\x00" + bytes([3 | 1 << 3, 7, 0])
    mux0 = bytes([0, 65]) + bytes(6)
    mux1 = bytes([1]) + struct.pack("<f", 62.5) + bytes(3)
    big = struct.pack("<Q", 2**63 + 5) + bytes(52) + struct.pack("<f", -1.5)
    values, quality = row_of(adapter, (0x300, big), (0x80000200, mux0), (0x80000200, mux1), (0x100, drive))
    assert quality is Quality.GOOD
    assert values == {
        "speed": pytest.approx(123.45),
        "torque": 270.0,
        "gear": 3,
        "ready": 1,
        "odd": 7,
        "page": 1,
        "temp": 25,
        "level": 62.5,
        "last": -1.5,
        "count": float(2**63 + 5),
    }
    fields = adapter.streams()["signals"].fields
    assert fields["count"].t == "f64", "more than an i64 holds"
    assert (fields["torque"].unit, fields["odd"].unit) == ("N.m", "{furlong__x_}")
    assert (fields["temp"].unit, fields["temp"].t) == ("Cel", "i64")
    assert (fields["torque"].dec, fields["speed"].dec) == (1, 2)


@given(data=st.binary(min_size=8, max_size=8))
def test_any_eight_bytes_decode_as_cantools_does(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.dbc"
    path.write_text(MOST, encoding="utf-8")
    oracle = cantools.database.load_file(str(path), encoding="utf-8").get_message_by_name("Drive")
    truth = oracle.decode(data, decode_choices=False)
    said = {name: f"Drive.{name.title()}" for name in ("speed", "torque", "gear", "ready", "odd")}
    values, _ = row_of(can(path, signals=said), (0x100, data))
    gear = values.pop("gear")
    assert gear == (None if truth["Gear"] == 7 else truth["Gear"])
    assert values == {name: pytest.approx(truth[name.title()]) for name in values}


@given(data=st.binary(max_size=70), can_id=st.sampled_from([0x100, 0x80000200, 0x300]))
def test_any_frame_makes_a_row(data: bytes, can_id: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.dbc"
    path.write_text(MOST, encoding="utf-8")
    values, _ = row_of(can(path), (can_id, data))
    assert all(value is None or math.isfinite(value) for value in values.values())  # type: ignore[arg-type]


def test_values_that_mean_no_measurement(dbc: Path) -> None:
    adapter = can(dbc, signals={"gear": Picking(signal="Drive.Gear", t="str"), "raw": "Drive.Gear"})
    for raw, name, quality in [
        (3, "D", Quality.GOOD),
        (2, "2", Quality.GOOD),
        (6, "Error", Quality.GOOD),
        (7, None, Quality.UNCERTAIN),
    ]:
        number = None if name is None else raw
        row = row_of(adapter, (0x100, bytes([0, 0, 0, 0, 0, raw, 0, 0])))
        assert row == ({"gear": name, "raw": number}, quality)
    assert adapter.counters == {"not_available": 2}


def test_the_config_names_the_values_that_mean_no_measurement(dbc: Path) -> None:
    def gear(absent: list[int | str], raw: int) -> tuple[object, Quality]:
        adapter = can(dbc, signals={"gear": Picking(signal="Drive.Gear", absent=absent)})
        values, quality = row_of(adapter, (0x100, bytes([0, 0, 0, 0, 0, raw, 0, 0])))
        return values["gear"], quality

    assert gear(["Error"], 6) == (None, Quality.BAD)
    assert gear(["Error"], 7) == (7, Quality.GOOD), "only those that are named"
    assert gear(["Error", "SNA", 0], 7) == (None, Quality.UNCERTAIN)
    assert gear(["Error", "SNA", 0], 0) == (None, Quality.UNCERTAIN)
    assert gear([], 7) == (7, Quality.GOOD)
    with pytest.raises(
        OptionsError, match=r"most\.dbc:6: .*no value is named 'Fault'; names are D, Error, P, SNA"
    ):
        gear(["Fault"], 0)


def test_a_fault_flag_is_a_value_in_each_type(dbc: Path) -> None:
    dbc.write_text(
        HEAD + 'BO_ 516 S: 8 A\n SG_ W : 0|1@1+ (1,0) [0|1] "" A\nVAL_ 516 W 0 "OK" 1 "Fault" ;\n',
        encoding="utf-8",
    )
    signals = {t: Picking(signal="S.W", t=t) for t in ("bool", "i64", "str", "f64")}  # type: ignore[arg-type]
    values, quality = row_of(can(dbc, signals=signals, row_on="S"), (0x204, bytes([1]) + bytes(7)))
    assert (values, quality) == ({"bool": True, "i64": 1, "str": "Fault", "f64": 1.0}, Quality.GOOD)


def test_a_measurement_named_invalid_is_logged(dbc: Path, caplog: pytest.LogCaptureFixture) -> None:
    dbc.write_text(MOST + 'VAL_ 512 Temp 255 "Invalid" ;\n'.replace("512", "2147484160"), encoding="utf-8")
    can(dbc, signals={"temp": Picking(signal="Mux.Temp", t="f64")}, row_on="Mux")
    (record,) = [each for each in caplog.records if "absent" in each.message]
    assert "most.dbc:12: Mux.Temp: Invalid counts as a measurement; `absent: [Invalid]`" in record.message
    caplog.clear()
    can(dbc, signals={"temp": Picking(signal="Mux.Temp", t="f64", absent=["Invalid"])}, row_on="Mux")
    assert not caplog.records


def test_a_fault_in_an_unused_message_costs_nothing(dbc: Path) -> None:
    faulty = (
        HEAD
        + 'BO_ 516 Used: 8 A\n SG_ Speed : 0|16@1+ (0.01,0) [0|300] "km/h" A\n'
        + 'BO_ 600 Overlaps: 8 A\n SG_ One : 0|8@1+ (1,0) [0|255] "" A\n'
        + ' SG_ Two : 4|8@1+ (1,0) [0|255] "" A\n'
        + 'BO_ 601 Short: 1 A\n SG_ Long : 0|16@1+ (1,0) [0|255] "" A\n'
    )
    dbc.write_text(faulty, encoding="utf-8")
    adapter = can(dbc, signals={"speed": "Used.Speed"}, row_on="Used")
    assert row_of(adapter, (516, bytes([0x10, 0x27]) + bytes(6)))[0] == {"speed": 100.0}
    for signal, said in [
        ("Overlaps.One", r"most\.dbc:5: .*overlapping in message Overlaps"),
        ("Short.Long", r"most\.dbc:8: .*does not fit in message Short"),
    ]:
        with pytest.raises(OptionsError, match=said):
            can(dbc, signals={"x": signal}, row_on="Used")
    with pytest.raises(OptionsError, match=r"most\.dbc:5: .*overlapping"):
        can(dbc, row_on="Used")  # without `signals` every message is read


def test_a_page_that_the_dbc_lacks_is_counted(dbc: Path) -> None:
    adapter = can(dbc, signals={"temp": "Mux.Temp"}, row_on="Mux")
    values, quality = row_of(adapter, (0x80000200, bytes([9, 65]) + bytes(6)))
    assert (values, quality) == ({"temp": None}, Quality.UNCERTAIN)
    assert adapter.counters == {"undecodable": 1, "missing": 1}


def test_old_values_are_left_out_not_repeated(dbc: Path) -> None:
    adapter = can(dbc, signals={"temp": "Mux.Temp", "speed": "Drive.Speed"}, max_age_s=0.5)
    row_of(adapter, (0x80000200, bytes([0, 65]) + bytes(6)))
    assert row_of(adapter, (0x100, bytes(8)), at_ns=T0 + NS_PER_S // 2)[0]["temp"] == 25
    late = row_of(adapter, (0x100, bytes(8)), at_ns=T0 + NS_PER_S // 2 + 1)
    assert late == ({"temp": None, "speed": 0.0}, Quality.UNCERTAIN)
    assert adapter.counters == {"missing": 1, "stale": 1}


def test_a_null_field_has_its_reason(dbc: Path) -> None:
    signals: dict[str, object] = {
        "gear": "Drive.Gear",
        "ready": Picking(signal="Drive.Gear", t="bool", absent=[]),
        "temp": "Mux.Temp",
        "last": "Big.Last",
        "speed": "Drive.Speed",
    }
    adapter = can(dbc, signals=signals, max_age_s=0.5)
    drive, page_1 = (0x100, bytes([0, 0, 0, 0, 0, 7, 0, 0])), (0x80000200, bytes([1]) + bytes(7))
    row_of(adapter, drive, page_1)
    assert adapter.why_null == {
        "gear": "it is 7 = 'SNA'",
        "ready": "7 = 'SNA' is not true or false",
        "temp": "the multiplexer of Mux never selected it",
        "last": "no Big on the bus",
    }
    row_of(adapter, (0x80000200, bytes([0, 65]) + bytes(6)))
    row_of(adapter, drive, at_ns=T0 + 2 * NS_PER_S)
    assert adapter.why_null["temp"] == "last came 2 s ago, see `max_age_s`"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MOST.replace("(0.01,0)", "(0.01 0)"), r"most\.dbc:4:28: this is not DBC syntax"),
        (MOST.replace("23|12@0-", "7|12@0-"), r"most\.dbc:3: .*overlapping in message Drive"),
        (MOST.replace("480|32", "500|32"), r"most\.dbc:15: .*does not fit in message Big"),
        (
            MOST.replace("BO_ 768 Big", "BO_ 256 Big").replace("SIG_VALTYPE_ 768 Last : 1;\n", ""),
            r"must be unique: Drive \(0x100\), Big \(0x100\)",
        ),
        (MOST.replace("BO_ 768 Big", "BO_ 768 Drive"), r"most\.dbc:3: the name and id"),
        (MOST.replace("BO_ 256", "BO_ 4096"), r"most\.dbc:3: .*11 bits in message Drive"),
        ("\x00\x01", r"most\.dbc:1:1: this is not DBC syntax"),
        ("", r"most\.dbc:1:1: this is not DBC syntax"),
        (HEAD, "has no message 'Drive'; it has none at all"),
        (
            MOST + 'VAL_ 256 Nothing 0 "x" ;\n',
            r"most\.dbc:\d+: the value table VAL_ 256 Nothing belongs to no signal",
        ),
        (HEAD + "BO_ 1 Drive: 8 A\n" + ' SG_ S : 0|8@1+ (1,0) [0|0] "" A\n' * 2, "most.dbc:3: .*overlapping"),
    ],
)
def test_mistakes_in_a_dbc_are_reported_with_their_line(dbc: Path, text: str, said: str) -> None:
    dbc.write_text(text, encoding="utf-8")
    with pytest.raises(OptionsError, match=said):
        can(dbc)


def test_signals_that_the_dbc_lacks(dbc: Path) -> None:
    file = Dbc(dbc)
    for said, message in [
        (Picking(signal="Drive.Sped"), r"most\.dbc:3: message Drive has no signal 'Sped'; it has Gear, Odd"),
        (Picking(signal="Driver.Speed"), "has no message 'Driver'; it has Big, Drive, Mux"),
        (Picking(signal="Drive.Speed", unit="V"), r"most\.dbc:4: Drive\.Speed is in 'km/h'.* become 'V'"),
        (Picking(signal="Drive.Speed", t="i64"), r"most\.dbc:4: Drive\.Speed is not a whole number"),
        (Picking(signal="Mux.Level", t="bool"), r"most\.dbc:13: Mux\.Level is not a whole number"),
    ]:
        with pytest.raises(OptionsError, match=message):
            pick(file, "x", said)


def test_files_of_other_tools(dbc: Path) -> None:
    dbc.write_bytes(MOST.replace("\n", "\r\n").encode("cp1252"))
    assert can(dbc).streams()["signals"].fields["temp"].unit == "Cel"
    dbc.write_bytes(b"\xef\xbb\xbf" + (MOST + 'CM_ SG_ 256 Speed "차량 속도";\n').encode())
    assert can(dbc).streams()["signals"].fields["speed"].desc == "차량 속도"


def test_a_file_in_cp949_needs_its_encoding_and_is_never_half_read(dbc: Path) -> None:
    korean = MOST + 'CM_ SG_ 256 Speed "차량 속도 갂";\n'
    dbc.write_bytes(korean.encode("cp949"))
    assert can(dbc, encoding="cp949").streams()["signals"].fields["speed"].desc == "차량 속도 갂"
    with pytest.raises(OptionsError, match=rf"most\.dbc:{korean.count(chr(10))}: byte 0x.. is neither UTF-8"):
        can(dbc)  # the last syllable has no character in cp1252; without it the error could not be detected
    with pytest.raises(OptionsError, match=r"most\.dbc:\d+: byte 0x.. is not euc-kr"):
        can(dbc, encoding="euc-kr")
    with pytest.raises(OptionsError, match="klingon"):
        can(dbc, encoding="klingon")


def test_fields_of_all_signals_have_unique_names(dbc: Path) -> None:
    dbc.write_text(MOST.replace("Last", "Speed"), encoding="utf-8")
    names = all_signals(Dbc(dbc))
    assert names["drive_speed"] == "Drive.Speed"
    assert names["big_speed"] == "Big.Speed"
    many = "".join(f'BO_ {n} M{n}: 8 A\n SG_ S{n} : 0|8@1+ (1,0) [0|0] "" A\n\n' for n in range(1, 502))
    dbc.write_text(HEAD + many)
    with pytest.raises(OptionsError, match="501 signals: name up to 500"):
        all_signals(Dbc(dbc))


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("km/h", "km/h"), ("KPH", "km/h"), ("m/s^2", "m/s2"), ("degC", "Cel"), ("°C", "Cel"), ("rpm", "/min"),
        ("Nm", "N.m"), ("mV", "mV"), ("MW", "MW"), ("mW", "mW"), ("kWh", "kW.h"), ("1/min", "/min"), ("", ""),
        ("m/s2", "m/s2"), ("knots", "[kn_i]"), ("Bananas", "{Bananas}"), ("g", "{g}"), ("차", "{_}"),
    ],
)  # fmt: skip
def test_units_become_ucum(written: str, code: str) -> None:
    assert ucum(written) == code


@pytest.mark.parametrize(
    ("source", "target", "value", "becomes"),
    [
        ("km/h", "m/s", 36.0, 10.0),
        ("[degF]", "Cel", 212.0, 100.0),
        ("Cel", "K", -40.0, 233.15),
        ("[kn_i]", "km/h", 10.0, 18.52),
        ("bar", "kPa", 2.5, 250.0),
        ("/min", "Hz", 3_000.0, 50.0),
        ("rad/s", "deg/s", math.pi, 180.0),
        ("kW.h", "J", 1.0, 3.6e6),
    ],
)
def test_units_convert(source: str, target: str, value: float, becomes: float) -> None:
    for one, other, x, y in ((source, target, value, becomes), (target, source, becomes, value)):
        found = conversion(one, other)
        assert found is not None
        assert x * found[0] + found[1] == pytest.approx(y)
    assert conversion(source, "cd") is None
