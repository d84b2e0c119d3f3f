"""Messages of IHE PCD and of makers become rows; no input crashes the adapter, and no name is sent."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Reading
from adapters.hl7.catalog import VITALS, WAVEFORMS, Conversion, Vital, Waveform
from adapters.hl7.deidentify import Deidentifier
from adapters.hl7.identity import count_identifiers
from adapters.hl7.message import Hl7Message, MessageRejected, Mismatch, parse, require_report, time_ns
from adapters.hl7.rows import Bedside, BedsideSettings, Times
from adapters.hl7.unread import UnreadNotes
from wire.clock import NS_PER_S
from wire.messages import Quality

GOOD = Quality.GOOD
AT_NS = int(datetime(2026, 2, 25, 6, 13, 20, tzinfo=UTC).timestamp()) * NS_PER_S

# the layout of IHE PCD-01: containment in OBX-4, structural OBX without a value, UCUM units, status R
DEC = (
    (
        "MSH|^~\\&|ACME_GATEWAY^080019FFFE3ED02D^EUI-64|ACME|||20260225061321+0000||ORU^R01^ORU_R01|M1|P|2.6"
        "|||AL|NE||UNICODE UTF-8|||IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO"
    ),
    "PID|||HO2009001^^^AA1^PI||하온^Marion^^^^^L||19610301000000-0600|F|||7 Elm^^Tucson^AZ||555",
    "PV1||I|HO Surgery^OR^1||||4711^Doctor",
    "OBR|1|O1^ACME|F1^ACME|182777000^monitoring of patient^SCT|||20260225061320+0000",
    "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X|||||||080019FFFE3ED02D",
    "OBX|2|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.1|72|{beat}/min^{beat}/min^UCUM|50-120|N|||R",
    "OBX|3|NM|150021^MDC_PRESS_BLD_NONINV_SYS^MDC|1.1.1.1|120|mm[Hg]^mm[Hg]^UCUM||H|||R|||20260225060900+0000",
    "OBX|4|NM|150022^MDC_PRESS_BLD_NONINV_DIA^MDC|1.1.1.2|80|266016^MDC_DIM_MMHG^MDC|||||R|||20260225060900+0000",
    "OBX|5|NM|150456^MDC_PULS_OXIM_SAT_O2^MDC|1.3.1.1|97|262688^MDC_DIM_PERCENT^MDC|||||F",
    "OBX|6|NM|150344^MDC_TEMP^MDC|1.2.1.1|36.7|268192^MDC_DIM_DEGC^MDC|||||C||||||||||||||Room 7",
    "OBX|7|NM|151562^MDC_RESP_RATE^MDC|1.9.1.1||264928^MDC_DIM_RESP_PER_MIN^MDC|||||X",
    "OBX|8|ST|184327^MDC_ECG_STAT_RHY^MDC|1.7.4.2|sinus, says Dr Marion||||||R|||||4712^Nurse",
)
# one second of a maker's waveform message: milliseconds without a point, factor and marker beside it
WCM = (
    "MSH|^~\\&|MONITOR_D^00A037009A0053DE^EUI-64||||20260225061321000||ORU^R01^ORU_R01|374|P|2.6|||AL|NE",
    "PID|||^^^Hospital^PI||^^^^^^L",
    "PV1||I",
    "OBR|1||374^MONITOR_D|CONTINUOUS WAVEFORM|||20260225061320500|20260225061320516",
    "OBX|1|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1.7.6.131330|80^-88^32767^0|262656^MDC_DIM_DIMLESS^MDC",
    "OBX|2|NM|0^MDC_ATTR_SAMP_RATE^MDC|1.7.6.131330.1|250|264640^MDC_DIM_HZ^MDC",
    "OBX|3|NM|2327^MDC_ATTR_NU_MSMT_RES^MDC|1.7.6.131330.2|0.00125|266418^MDC_DIM_MILLI_VOLT^MDC",
    "OBX|4|NM|262196^MDC_EVT_INOP^MDC|1.7.6.131330.3|32767",
)


class Bed:
    """A bedside that reads messages without a connection."""

    def __init__(self, vitals: Any = VITALS, waveforms: Any = WAVEFORMS, **more: Any) -> None:
        self.counters: Counter[str] = Counter()
        self.mismatches: list[Mismatch] = []
        self.gate = Deidentifier(bytes(32), self.counters)
        self.unread: dict[str, str] = {}  # as the adapter would keep it
        notes = UnreadNotes(
            lambda what, part: self.unread.update({part: what}), lambda part: self.unread.pop(part, None)
        )
        settings = {"patients": True, "old_ns": 3_600 * NS_PER_S} | more
        self.bed = Bedside(
            "", BedsideSettings(vitals, waveforms, **settings), self.gate, self.counters, notes
        )

    def read(self, *lines: str, codec: str = "utf-8") -> list[Reading]:
        return self.take(parse("\r".join(lines).encode(codec)))

    def take(self, message: Hl7Message) -> list[Reading]:
        require_report(message)
        count_identifiers(message, self.gate, self.counters)
        times = Times(UTC, time_ns(message.msh(7), UTC) or 0)
        rows = list(self.bed.readings(message, times, self.mismatches))
        self.gate.forget()
        return rows


def test_a_set_of_numbers_is_one_row() -> None:
    bed = Bed()
    patient, vitals = bed.read(*DEC)
    assert (patient.stream, patient.at_ns) == ("patient", AT_NS + NS_PER_S)
    assert patient.values["since"] == patient.at_ns // 1_000_000
    assert (vitals.stream, vitals.at_ns, vitals.quality) == ("vitals", AT_NS, GOOD)
    assert vitals.values == {
        "heart_rate": 72.0,
        "resp_rate": None,
        "spo2": 97.0,
        "sys_bp": 120.0,
        "dia_bp": 80.0,
        "temperature": 36.7,
        "consciousness_altered": None,
        "oxygen": None,
    }
    assert not bed.mismatches
    # PID-3 -5 -7 -8 -11 -13, PV1-2 -3 -7, OBR-2 -3, an OBX-18, the room, a text and its nurse
    assert bed.counters == {
        "identifiers_seen": 15,
        "deidentified": 15,
        "abnormal": 1,
        "no_value": 1,
        "not_configured": 1,
    }


def test_a_waveform_is_one_row_for_each_sample() -> None:
    bed = Bed()
    patient, *ecg = bed.read(*WCM)
    assert patient.values["pseudonym"] is None  # no patient is admitted
    assert [row.at_ns for row in ecg] == [AT_NS + 500_000_000 + i * 4_000_000 for i in range(4)]
    assert [row.values["ecg"] for row in ecg] == [pytest.approx(0.1), pytest.approx(-0.11), None, 0.0]
    assert [row.quality for row in ecg] == [GOOD, GOOD, Quality.BAD, GOOD]
    assert bed.counters["invalid_samples"] == 1


def wave(
    samples: str, unit: str = "266418^MDC_DIM_MILLI_VOLT^MDC", rate: str = "250", at: str = "20"
) -> tuple[str, ...]:
    return (
        f"MSH|^~\\&|M||||2026022506132{at[-1]}||ORU^R01^ORU_R01|{at}{samples[:3]}|P|2.6",
        f"OBR|1|||x|||202602250613{at}",
        f"OBX|1|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1|{samples}|{unit}|||||R|||202602250613{at}.000",
        f"OBX|2|NM|0^MDC_ATTR_SAMP_RATE^MDC|1.1|{rate}|264608^MDC_DIM_PER_SEC",
    )


def test_repetitions_and_decimals_are_samples_too() -> None:
    rows = Bed().read(*wave("0.25~-1e-1~+.5~3"))
    assert [row.values["ecg"] for row in rows] == [0.25, -0.1, 0.5, 3.0]


@pytest.mark.parametrize("samples", ["1^x^3", "1^^3", "1^nan^3", "1^1_0^3", "1^0x1^3", "1^3 황보^3"])
def test_a_sample_that_is_not_a_number_is_null(samples: str) -> None:
    bed = Bed()
    rows = bed.read(*wave(samples))
    assert [(row.values["ecg"], row.quality) for row in rows] == [
        (1.0, GOOD),
        (None, Quality.BAD),
        (3.0, GOOD),
    ]
    assert bed.counters["invalid_samples"] == 1


def test_gaps_and_overlaps_are_counted() -> None:
    bed = Bed()
    second = "^".join(["0"] * 250)
    for at in ("20", "21", "24", "24"):
        rows = bed.read(*wave(second, at=at))
    assert bed.counters["waveform_gaps"] == 1
    assert bed.counters["missing_samples"] == 500
    assert bed.counters["waveform_overlaps"] == 1
    assert {row.quality for row in rows} == {Quality.TIME_BACKWARD, Quality.TIME_REPEATED}


def test_another_rate_is_refused_and_a_missing_one_assumed() -> None:
    bed = Bed()
    assert not bed.read(*wave("1^2", rate="500"))
    assert bed.counters["wrong_rate"] == 1
    assert (bed.mismatches[0].where, bed.mismatches[0].text) == ("OBX-5", "sample rate is not 250 Hz")
    assert len(bed.read(*wave("1^2")[:3])) == 2
    assert bed.counters["rate_assumed"] == 1


def test_a_waveform_in_another_unit_has_no_values_unless_converted() -> None:
    bed = Bed()
    rows = bed.read(*wave("1^2", unit="266419^MDC_DIM_MICRO_VOLT^MDC"))
    assert [(row.values["ecg"], row.quality) for row in rows] == [(None, Quality.BAD)] * 2
    assert bed.mismatches[0].where == "OBX-6"
    steps = Waveform(
        codes=["131330"], unit="mV", rate_hz=250, convert={"10.mV/4096": Conversion(factor=10 / 4096)}
    )
    rows = Bed(waveforms={"ecg": steps}).read(*wave("4096^0", unit="10.mV/4096^10.mV/4096^UCUM"))
    assert [row.values["ecg"] for row in rows] == [10.0, 0.0]


def numbers(*obx: str) -> tuple[str, ...]:
    return ("MSH|^~\\&|M||||20260225061321||ORU^R01|9|P|2.6", "OBR|1|||x|||20260225061320", *obx)


def heart(value: str = "70", unit: str = "bpm", kind: str = "NM", flags: str = "", status: str = "R") -> str:
    return f"OBX|1|{kind}|147842^MDC_ECG_HEART_RATE^MDC|1|{value}|{unit}||{flags}|||{status}"


@pytest.mark.parametrize(
    ("obx", "value", "quality", "counted"),
    [
        (heart(), 70.0, GOOD, ""),
        (heart(unit="264864"), 70.0, GOOD, ""),
        (heart(unit="^MDC_DIM_BEAT_PER_MIN^MDC"), 70.0, GOOD, ""),
        (heart(unit=""), 70.0, Quality.UNCERTAIN, "no_unit"),
        (heart(unit="Cel"), None, Quality.BAD, "wrong_unit"),
        (heart(unit="황보"), None, Quality.BAD, "wrong_unit"),
        (heart(kind="ST"), None, Quality.WRONG_TYPE, "not_numeric"),
        (heart(value="seventy"), None, Quality.WRONG_TYPE, "not_numeric"),
        (heart(value="nan"), None, Quality.WRONG_TYPE, "not_numeric"),
        (heart(value="1e999"), float("inf"), GOOD, ""),  # the agent flags it: it is not finite
        (heart(value="-999"), -999.0, GOOD, ""),  # and this: it is out of the declared range
        (heart(value=""), None, GOOD, "no_value"),
        (heart(value='""'), None, GOOD, "no_value"),
        (heart(status="P"), 70.0, Quality.UNCERTAIN, ""),
        (heart(status="X"), None, Quality.BAD, "said_invalid"),
        (heart(status="W"), None, Quality.BAD, "said_invalid"),
        (heart(flags="H~QUES"), 70.0, Quality.UNCERTAIN, "abnormal"),
        (heart(flags="INV"), None, Quality.BAD, "said_invalid"),
        (heart(flags="DEMO"), None, Quality.BAD, "said_invalid"),
    ],
)
def test_the_quality_of_a_value(obx: str, value: float | None, quality: Quality, counted: str) -> None:
    bed = Bed()
    (row,) = bed.read(*numbers(obx))
    assert (row.values["heart_rate"], row.quality) == (value, quality)
    assert not counted or bed.counters[counted] == 1
    places = [mismatch.where for mismatch in bed.mismatches]
    assert places == {Quality.WRONG_TYPE: [places[0] if places else ""]}.get(
        quality, ["OBX-6"] * (counted == "wrong_unit")
    )


def test_types_and_own_codes() -> None:
    vitals = {
        "alarm": Vital(codes=["7^99ACME"], t="bool"),
        "steps": Vital(codes=["ACME_STEPS"], t="i64"),
        "level": Vital(codes=["5"]),
    }

    def row(code: str, value: str) -> Reading:
        (found,) = Bed(vitals).read(*numbers(f"OBX|1|NM|{code}|1|{value}|262656^MDC_DIM_DIMLESS"))
        return found

    assert row("7^x^99ACME", "1").values == {"alarm": True, "steps": None, "level": None}
    assert row("x^y^LN^7^z^99ACME", "0").values["alarm"] is False  # the alternate code
    assert row("7^x^99ACME", "2").quality is Quality.WRONG_TYPE
    assert row("99^ACME_STEPS^99ACME", "12").values["steps"] == 12
    assert row("99^ACME_STEPS^99ACME", "1.5").quality is Quality.WRONG_TYPE
    assert row("5", "1").values["level"] == 1.0
    assert not Bed(vitals).read(*numbers("OBX|1|NM|7^x^99OTHER|1|1|1"))


@pytest.mark.parametrize(
    ("obx", "unread"),
    [
        (
            ["OBX|1|NM|8867-4^Heart rate^LN||72|{beats}/min"],
            {
                "": "OBX 8867-4^LN (heart rate) in {beats}/min: not configured, see `fields` and `codes`",
                "heart_rate": "OBX 8867-4^LN (heart rate) in {beats}/min: not among the codes of"
                " `heart_rate`",
            },
        ),
        (  # a maker's codes, twice the same, and a unit that is a word of no list
            [
                f"OBX|{n}|NM|{code}||72|{unit}"
                for n, code, unit in [
                    (1, "0002-4bb8^Kim", "Kim"),
                    (2, "300^Kim^99ACME", "{Kim}/min"),
                    (3, "300^Kim^99ACME", "{Kim}/min"),
                    (4, "x^MDC_FLOW_O2^MDC", ""),
                    (5, "1", "mmol/L"),
                    (6, "2", "V"),
                    (7, "3", "V"),
                ]
            ],
            {
                "": "an OBX with a code of its maker in an unknown unit, OBX 300 in /min, OBX"
                " MDC_FLOW_O2^MDC, OBX 1 in mmol/L and 2 more: not configured, see `fields` and `codes`"
            },
        ),
        (["OBX|1|NM|147842||72|1/min", "OBX|1|NM|8867-4^^LN||72|1/min"], {}),  # both codes: one is enough
        (
            ["OBX|1|NM|150456||97|%", "OBX|1|NM|8867-4||72|1/min"],
            {"heart_rate": "OBX 8867-4 (heart rate) in 1/min: not among the codes of `heart_rate`"},
        ),
        (
            ["OBX|1|NM|150456||97|%", "OBX|1|NM|147842^x^99ACME||72|1/min"],
            {"heart_rate": "OBX 147842 in 1/min: not among the codes of `heart_rate`"},
        ),
        (
            ["OBX|1|NM|150456||97|%", "OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC||72|Hz"],
            {
                "heart_rate": "OBX 147842^MDC (MDC_ECG_HEART_RATE) in Hz: `heart_rate` is in /min,"
                " see `convert`"
            },
        ),
        (
            ["OBX|1|NM|150456||97|%", "OBX|1|ST|147842||72 Kim|/min"],
            {"heart_rate": "OBX 147842 in /min comes as ST, not as NM"},
        ),
        (
            ["OBX|1|NM|150456||97|%", "OBX|1|NM|147842||72,5|/min"],
            {"heart_rate": "the value of OBX 147842 in /min is not a number with a decimal point"},
        ),
        (
            ["OBX|1|NM|150456||97|%", "OBX|1|NA|131330||1^2|mV", "OBX|2|NM|0^MDC_ATTR_SAMP_RATE^MDC||500|/s"],
            {"ecg": "waveform `ecg` (500 Hz): sample rate is not 250 Hz"},
        ),
        (["OBX|1|NM|147842|||/min"], {"": "a report whose OBX have no values"}),
        ([], {"": "a report without OBX"}),
    ],
)
def test_what_gives_no_value_is_described(obx: list[str], unread: dict[str, str]) -> None:
    bed = Bed()
    bed.read(*numbers(*obx))
    assert bed.unread == unread
    if unread.keys() <= {"heart_rate", "ecg"}:  # and no more once it can be read
        bed.read(*numbers(heart(), "OBX|1|NA|131330||1^2|mV"))
        assert bed.unread == {}


@pytest.mark.parametrize("unit", ["beats/min", "BPM", "{beats}/min", "min-1", "breaths/min"])
def test_usual_spellings_of_a_unit_are_read(unit: str) -> None:
    (row,) = Bed().read(*numbers(heart(unit=unit)))
    assert (row.values["heart_rate"], row.quality) == (70.0, GOOD)


@pytest.mark.parametrize("code", ["8867-4", "8867-4^LN"])
def test_a_code_with_a_hyphen_is_of_loinc(code: str) -> None:
    vitals = {"pulse": Vital(codes=[code], unit="/min")}
    for sent in ("8867-4^Heart rate^LN", "8867-4", "x^y^z^8867-4^Heart rate^LN"):
        (row,) = Bed(vitals).read(*numbers(f"OBX|1|NM|{sent}||72|/min"))
        assert row.values == {"pulse": 72.0}
    assert not Bed(vitals).read(*numbers("OBX|1|NM|8867-4^x^99ACME||72|/min"))


def test_the_code_with_priority_counts() -> None:
    other = "OBX|2|NM|151578^MDC_TTHOR_RESP_RATE^MDC|1|20|/min"
    best = "OBX|3|NM|151562^MDC_RESP_RATE^MDC|1|12|/min"
    for lines in ((other, best), (best, other)):
        (row,) = Bed().read(*numbers(*lines))
        assert row.values["resp_rate"] == 12.0


def test_values_with_later_times_are_rows_of_their_own() -> None:
    timed = [heart(value=str(60 + n)) + f"|||202602250613{21 + n}" for n in range(3)]
    rows = Bed().read(*numbers(*timed))
    assert [(row.at_ns - AT_NS) // NS_PER_S for row in rows] == [1, 2, 3]
    assert [row.values["heart_rate"] for row in rows] == [60, 61, 62]


def test_a_value_much_older_than_its_set_is_flagged() -> None:
    bed = Bed(old_ns=60 * NS_PER_S)
    (row,) = bed.read(*numbers(heart() + "|||20260225060000"))
    assert (row.at_ns, row.values["heart_rate"], row.quality) == (AT_NS, 70.0, Quality.UNCERTAIN)
    assert bed.counters["old_values"] == 1


def test_without_the_time_of_an_obr_its_newest_value_has_it() -> None:
    header, _, obx = numbers(heart() + "|||20260225061310")
    (row,) = Bed().read(header, "OBR|1|||x", obx)
    assert row.at_ns == AT_NS - 10 * NS_PER_S
    bed = Bed()
    (row,) = bed.read(header, "OBR|1|||x|||yesterday", heart() + "|||noon")
    assert row.at_ns == AT_NS + NS_PER_S
    assert bed.counters["bad_time"] >= 2


def test_two_patients_in_one_message_keep_their_values() -> None:
    header, obr, obx = numbers(heart())
    rows = Bed().read(header, "PID|1||A^^^H^MR", obr, obx, "PID|2||B^^^H^MR", obr, heart(value="90"))
    assert [row.stream for row in rows] == ["patient", "vitals", "patient", "vitals"]
    assert rows[0].values["pseudonym"] != rows[2].values["pseudonym"]


def test_the_best_of_several_ids_is_the_person() -> None:
    def pseudonym(pid: str) -> Any:
        return Bed().read(numbers()[0], pid)[0].values["pseudonym"]

    assert (
        pseudonym("PID|||V1^^^H^VN~A^^^H^MR") == pseudonym("PID|||A^^^H^MR") != pseudonym("PID|||V1^^^H^VN")
    )
    assert pseudonym("PID||A^^^H^MR") == pseudonym("PID|||A^^^H^MR")
    assert pseudonym("PID|||^^^H^MR") is None


IDENTIFIER = st.text(
    st.characters(codec="utf-8", categories=["Lu", "Ll", "Lo"]), min_size=6, max_size=20
).map(lambda word: "Qzx" + word)


@given(
    IDENTIFIER,
    st.lists(
        st.tuples(st.integers(0, len(DEC) + len(WCM) - 1), st.integers(0, 30), st.booleans()), max_size=12
    ),
)
def test_a_name_in_any_field_is_never_repeated(name: str, places: list[tuple[int, int, bool]]) -> None:
    """A name in any field, alone or before its contents: no reading, counter or error repeats it."""
    lines = [*DEC, *WCM[2:]]
    for line, at, whole in places:
        fields = lines[line % len(lines)].split("|")
        number = at % len(fields)
        if line % len(lines) == 0 and number < 2:
            continue  # without its header it is not a message
        fields[number] = name if whole else name + fields[number]
        lines[line % len(lines)] = "|".join(fields)
    for codec in ("utf-8", "utf-16-le"):  # with the second one, only the de-identification still works
        bed = Bed()
        raw = "\r".join(lines).encode()
        try:
            rows = bed.take(parse(raw if codec == "utf-8" else raw[:3] + raw[3:].replace(b"|", b"|\x00")))
        except MessageRejected as error:
            assert name not in str(error)
            continue
        shown = repr(rows) + repr(bed.counters) + repr(bed.mismatches) + repr(bed.unread)
        assert name not in shown
        assert bed.counters["identifiers_seen"] == bed.counters["deidentified"]
        texts = [value for row in rows for value in row.values.values() if isinstance(value, str)]
        assert all(text.startswith("p-") and len(text) == 18 for text in texts)


@given(st.data())
def test_a_damaged_message_never_crashes(data: st.DataObject) -> None:
    raw = bytearray("\r".join([*DEC, *WCM[2:]]).encode())
    for _ in range(data.draw(st.integers(1, 20))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                raw[at] = data.draw(st.sampled_from(b'|^~\\&\r"0a\x00\xff'))
            case 1:
                del raw[at : at + data.draw(st.integers(1, 40))]
            case 2:
                raw[at:at] = data.draw(st.binary(max_size=20))
            case _:
                raw[at:at] = raw[at : at + 60]
        if not raw:
            return
    bed = Bed()
    try:
        rows = bed.take(parse(bytes(raw)))
    except MessageRejected:
        return
    for row in rows:
        assert all(value is None or isinstance(value, (float, int, str)) for value in row.values.values())
