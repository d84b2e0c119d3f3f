"""Writes the HL7 v2.6 messages of a bedside monitor in the shape of IHE PCD-01 (DEC) and WCM.

MSH PID PV1 OBR OBX...      numbers once a second, with names, notes and doctors as in real messages
MSH PID PV1 OBR OBX NA ...  one second of lead II, its sample rate and resolution in OBX below it
"""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from wire.clock import NS_PER_MS

RESOLUTION_MV = 0.001  # of one step of the ECG's integers
CHARSETS = {"UNICODE UTF-8": "utf-8", "ISO IR149": "cp949", "ASCII": "ascii"}
DEVICE = "EDGEBED_MONITOR^0009FBFFFE2A6B01^EUI-64"
OTHER_DEVICE = "SOMEBODY_ELSES_PUMP^0009FBFFFE000000^EUI-64"
FACILITY = "EDGEBED_WARD"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# field -> OBX-3, OBX-6; codes of IEEE 11073-10101, the last two are private codes
_CODES = {
    "heart_rate": ("147842^MDC_ECG_HEART_RATE^MDC", "264864^MDC_DIM_BEAT_PER_MIN^MDC"),
    "resp_rate": ("151562^MDC_RESP_RATE^MDC", "264928^MDC_DIM_RESP_PER_MIN^MDC"),
    "spo2": ("150456^MDC_PULS_OXIM_SAT_O2^MDC", "262688^MDC_DIM_PERCENT^MDC"),
    "sys_bp": ("150021^MDC_PRESS_BLD_NONINV_SYS^MDC", "266016^MDC_DIM_MMHG^MDC"),
    "dia_bp": ("150022^MDC_PRESS_BLD_NONINV_DIA^MDC", "266016^MDC_DIM_MMHG^MDC"),
    "temperature": ("150364^MDC_TEMP_BODY^MDC", "268192^MDC_DIM_DEGC^MDC"),
    "consciousness_altered": ("1^EDGEBED_CONSCIOUSNESS_ALTERED^99EDGEBED", "262656^MDC_DIM_DIMLESS^MDC"),
    "oxygen": ("2^EDGEBED_SUPPLEMENTAL_OXYGEN^99EDGEBED", "262656^MDC_DIM_DIMLESS^MDC"),
}
_WRONG_UNITS = {"temperature": ("266560^MDC_DIM_FAHR^MDC", 1.8, 32.0)}
_ANY_WRONG_UNIT = ("265987^MDC_DIM_KILO_PASCAL^MDC", 0.133322, 0.0)


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """The made-up person in the bed: every value here names a person and must not leave an adapter."""

    number: str
    family: str
    given: str
    birth: str
    street: str
    phone: str
    visit: str
    doctor: str
    note: str

    @classmethod
    def of(cls, seed: int, *, korean: bool = False) -> PatientIdentity:
        """The person of a seed."""
        rng = random.Random(f"{seed}/person")
        number = f"{rng.randrange(10**8):08}"
        latin = (
            rng.choice(["Halloran", "Okonkwo", "Lindqvist", "Castellanos"]),
            rng.choice(["Winifred", "Thaddeus", "Rosalind", "Ezekiel"]),
        )
        hangul = rng.choice(["황보", "남궁", "독고", "선우"]), rng.choice(["민준", "서연", "지후", "하은"])
        family, given = hangul if korean else latin
        return cls(
            number=number,
            family=family,
            given=given,
            birth=f"{rng.randrange(1930, 2000)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}",
            street="대구광역시 수성구 달구벌대로 2503"
            if korean
            else f"{rng.randrange(100, 999)} Larkspur Lane",
            phone=f"+82-10-{rng.randrange(10**4):04}-{rng.randrange(10**4):04}",
            visit=f"V{rng.randrange(10**7):07}",
            doctor="최은경" if korean else "Fitzwilliam",
            note=f"{family}{given} 님 보호자 면회" if korean else f"{given} {family} asked for her sister",
        )

    @property
    def identifiers(self) -> list[str]:
        """Every word that names this person or the people around."""
        return [
            self.number,
            self.family,
            self.given,
            self.birth,
            self.street,
            self.phone,
            self.visit,
            self.doctor,
            self.note,
        ]


@dataclass(frozen=True, slots=True)
class Envelope:
    """The parts of a message around its observations."""

    control_id: str
    sent_ns: int
    person: PatientIdentity
    charset: str = "UNICODE UTF-8"  # in MSH-18
    encoding: str = "utf-8"  # of the bytes
    device: str = DEVICE


def vitals_message(
    envelope: Envelope,
    at_ns: int,
    vitals: Mapping[str, float],
    *,
    wrong_units: Sequence[str] = (),
    attachment_bytes: int = 0,
) -> bytes:
    """One set of vital signs, with a note, a document and names as in a real message."""
    person = envelope.person
    lines = [
        (
            f"OBR|1||{envelope.control_id}^EDGEBED|182777000^monitoring of patient^SCT|||{_time(at_ns)}"
            f"|||||||||{person.doctor}^Dr"
        ),
        "OBX|1||69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC|1.0.0.0|||||||X|||||||0009FBFFFE2A6B01",
    ]
    for number, (name, value) in enumerate(vitals.items(), start=2):
        code, unit = _CODES[name]
        if name in wrong_units:
            unit, factor, offset = _WRONG_UNITS.get(name, _ANY_WRONG_UNIT)
            value = round(value * factor + offset, 2)  # noqa: PLW2901 - the same value in another unit
        lines.append(f"OBX|{number}|NM|{code}|1.1.1.{number}|{value:g}|{unit}|||||R|||{_time(at_ns)}")
    count = len(vitals) + 2
    lines.append(f"OBX|{count}|ST|184327^MDC_ECG_STAT_RHY^MDC|1.1.1.{count}|{_escaped(person.note)}||||||R")
    if attachment_bytes:
        document = base64.b64encode(random.Random(envelope.control_id).randbytes(attachment_bytes * 3 // 4))
        lines.append(
            f"OBX|{count + 1}|ED|18842-5^Report^LN||^application^pdf^Base64^{document.decode()}||||||F"
        )
    lines.append(f"NTE|1||{_escaped(person.note)}")
    return _whole(envelope, lines)


def ecg_message(envelope: Envelope, at_ns: int, steps: Sequence[int], rate_hz: int) -> bytes:
    """Samples of lead II from `at_ns` on, in steps of `RESOLUTION_MV`."""
    end_ns = at_ns + len(steps) * 1_000_000_000 // rate_hz
    return _whole(
        envelope,
        [
            (
                f"OBR|1||{envelope.control_id}^EDGEBED|69121^MDC_OBS_WAVE_CTS^MDC"
                f"|||{_time(at_ns)}|{_time(end_ns)}"
            ),
            (
                f"OBX|1|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1.2.1.131330|{'^'.join(map(str, steps))}"
                f"|262656^MDC_DIM_DIMLESS^MDC|||||R|||{_time(at_ns)}"
            ),
            f"OBX|2|NM|0^MDC_ATTR_SAMP_RATE^MDC|1.2.1.131330.1|{rate_hz}|264640^MDC_DIM_HZ^MDC|||||R",
            (
                f"OBX|3|NM|2327^MDC_ATTR_NU_MSMT_RES^MDC|1.2.1.131330.2|{RESOLUTION_MV:g}"
                "|266418^MDC_DIM_MILLI_VOLT^MDC|||||R"
            ),
            "OBX|4|NM|262196^MDC_EVT_INOP^MDC|1.2.1.131330.3|32767||||||R",
        ],
    )


def verdict(message: bytes) -> tuple[str, str]:
    """MSA-1 and MSA-2 of an acknowledgement; both empty where it is not one."""
    for segment in message.decode("latin-1").split("\r"):
        if segment.startswith("MSA|"):
            fields = [*segment.split("|"), "", ""]
            return fields[1], fields[2]
    return "", ""


def _whole(envelope: Envelope, lines: Sequence[str]) -> bytes:
    person, sent = envelope.person, _time(envelope.sent_ns)
    header = [
        (
            rf"MSH|^~\&|{envelope.device}|{FACILITY}|||{sent}||ORU^R01^ORU_R01|{envelope.control_id}|P|2.6"
            f"|||||KOR|{envelope.charset}|||IHE_PCD_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.1.1^ISO"
        ),
        (
            f"PID|1||{person.number}^^^EDGEHOSP^MR||{person.family}^{person.given}^^^^^L||{person.birth}|U"
            f"|||{_escaped(person.street)}||{person.phone}"
        ),
        f"PV1|1|I|ICU^3^12||||{person.doctor}^Dr||||||||||||{person.visit}",
    ]
    return ("\r".join([*header, *lines]) + "\r").encode(envelope.encoding, "replace")


def _escaped(text: str) -> str:
    for character, code in (("\\", "E"), ("|", "F"), ("^", "S"), ("~", "R"), ("&", "T")):
        text = text.replace(character, f"\\{code}\\")
    return text


def _time(at_ns: int) -> str:
    at = _EPOCH + timedelta(milliseconds=at_ns // NS_PER_MS)
    return at.strftime("%Y%m%d%H%M%S.%f")[:-3] + "+0000"
