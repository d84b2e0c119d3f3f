"""Maps the codes of a monitor to fields: options of vital signs and waveforms, and their look-up by code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adapters.fields import FieldOptions
from adapters.hl7.message import Separators

Codes = Annotated[list[Annotated[str, Meta(min_length=1, max_length=100)]], Meta(min_length=1, max_length=20)]
_LOINC = re.compile(r"\d{1,7}-\d")
_RARE = 4  # characters of a code that two systems do not have by chance
_CACHED = 2_000  # different OBX-3 texts; a monitor has some dozens


class Conversion(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The conversion of a value in another unit to the declared unit."""

    factor: Annotated[float, Meta(description="The value is multiplied by this.")] = 1.0
    offset: Annotated[float, Meta(description="This is then added.")] = 0.0


class Vital(FieldOptions, frozen=True, kw_only=True):
    """One number of an OBX NM; it becomes one field."""

    codes: Annotated[
        Codes,
        Meta(
            description="OBX-3: `code` (MDC, or LOINC with a hyphen), `code^system` or `NAME`;"
            " earlier ones have priority."
        ),
    ]
    convert: Annotated[
        dict[str, Conversion],
        Meta(description="Other UCUM unit to its conversion; any further unit is an error."),
    ] = msgspec.field(default_factory=dict)


class Waveform(Vital, frozen=True, kw_only=True):
    """One channel of an OBX NA; it becomes its own stream with one row for each sample."""

    field: Annotated[str, Meta(description="Name of the field; empty = the name of the stream.")] = ""
    rate_hz: Annotated[float, Meta(gt=0, le=20_000, description="Samples a second; another rate is refused.")]


VITALS: dict[str, Vital] = {
    "heart_rate": Vital(
        codes=["147842", "MDC_ECG_HEART_RATE", "147842^MDC_ECG_CARD_BEAT_RATE"],
        unit="/min",
        dec=0,
        min=0,
        max=350,
        desc="MDC_ECG_HEART_RATE",
    ),
    "resp_rate": Vital(
        codes=["151562", "151578", "MDC_RESP_RATE", "MDC_TTHOR_RESP_RATE"],
        unit="/min",
        dec=0,
        min=0,
        max=150,
        desc="MDC_RESP_RATE or MDC_TTHOR_RESP_RATE",
    ),
    "spo2": Vital(
        codes=["150456", "MDC_PULS_OXIM_SAT_O2"],
        unit="%",
        dec=0,
        min=0,
        max=100,
        desc="MDC_PULS_OXIM_SAT_O2",
    ),
    "sys_bp": Vital(
        codes=["150021", "150301", "MDC_PRESS_BLD_NONINV_SYS", "MDC_PRESS_CUFF_SYS"],
        unit="mm[Hg]",
        dec=0,
        min=0,
        max=300,
        desc="MDC_PRESS_BLD_NONINV_SYS",
    ),
    "dia_bp": Vital(
        codes=["150022", "150302", "MDC_PRESS_BLD_NONINV_DIA", "MDC_PRESS_CUFF_DIA"],
        unit="mm[Hg]",
        dec=0,
        min=0,
        max=300,
        desc="MDC_PRESS_BLD_NONINV_DIA",
    ),
    "temperature": Vital(
        codes=["150364", "150344", "MDC_TEMP_BODY", "MDC_TEMP"],
        unit="Cel",
        dec=1,
        min=20,
        max=45,
        desc="MDC_TEMP_BODY or MDC_TEMP",
    ),
    "consciousness_altered": Vital(
        codes=["1^99EDGEBED"], min=0, max=1, dec=0, desc="0 alert, 1 new confusion or worse; entered by staff"
    ),
    "oxygen": Vital(
        codes=["2^99EDGEBED"], min=0, max=1, dec=0, desc="0 breathes air, 1 gets oxygen; entered by staff"
    ),
}
WAVEFORMS: dict[str, Waveform] = {
    "ecg": Waveform(
        codes=["131330", "MDC_ECG_ELEC_POTL_II", "MDC_ECG_LEAD_II"],
        unit="mV",
        dec=3,
        min=-10,
        max=10,
        rate_hz=250,
        desc="Lead II, MDC_ECG_ELEC_POTL_II",
    )
}

Attribute = Literal["rate", "resolution", "invalid"]
# IEEE 11073-10101 names that IHE PCD WCM and makers put beside a waveform; their codes differ by maker
_ATTRIBUTES: dict[bytes, Attribute] = {
    b"MDC_ATTR_SAMP_RATE": "rate",
    b"MDC_ATTR_SAMPLE_RATE": "rate",
    b"MDC_ATTR_NU_MSMT_RES": "resolution",
    b"MDC_ATTR_SA_MSMT_RES": "resolution",
    b"MDC_EVT_INOP": "invalid",
    b"MDC_EVT_DATA_INVALID": "invalid",
    b"MDC_EVT_DATA_MISSING": "invalid",
}


@dataclass(frozen=True, slots=True)
class Target:
    """The meaning of an OBX: a field (`rank` 0 has priority), a stream, or an attribute of a waveform."""

    kind: Literal["vital", "waveform", "attribute"]
    name: str
    rank: int = 0


class Catalog:
    """Finds the target of an OBX-3, with a cache."""

    def __init__(self, vitals: Mapping[str, Vital], waveforms: Mapping[str, Waveform]) -> None:
        self._known: dict[tuple[str, str], Target] = {}
        for kind, table in (("vital", vitals), ("waveform", waveforms)):
            for name, given in table.items():
                for rank, code in enumerate(given.codes):
                    self._known.setdefault(_key(code), Target(kind, name, rank))  # type: ignore[arg-type]  # one of the two kinds above
        self._found: dict[bytes, Target | None] = {}

    def find(self, raw: bytes, separators: Separators) -> Target | None:
        """The target of an OBX-3; None if it is not configured."""
        if raw in self._found:
            return self._found[raw]
        target = self._find(raw, separators)
        if len(raw) <= 200:
            if len(self._found) >= _CACHED:
                self._found.clear()
            self._found[raw] = target
        return target

    def _find(self, raw: bytes, separators: Separators) -> Target | None:
        words = [word.strip() for word in raw.split(separators.component, 6)]
        for at in (0, 3):  # CWE: code, text and system, then the same of the alternate code
            code, text, system = (*words[at : at + 3], b"", b"", b"")[:3]
            if text in _ATTRIBUTES:
                return Target("attribute", _ATTRIBUTES[text])
            number, name = code.decode("latin-1"), text.decode("latin-1")
            for key in ((number, system.decode("latin-1") or _system(number)), (name, ""), (number, "")):
                found = self._known.get(key)
                if found and key[0]:
                    return found
        return None

    def near(self, raw: bytes, separators: Separators) -> str:
        """The name of the target that has the code of an OBX-3 in another system; empty without one."""
        code = raw.split(separators.component, 1)[0].strip().decode("latin-1")
        if len(code) < _RARE:
            return ""
        return next((found.name for (known, _), found in self._known.items() if known == code), "")


def _key(code: str) -> tuple[str, str]:
    """Code and system: `147842` is of MDC, `8867-4` of LOINC, `1^99LOCAL` of its own; others are names."""
    first, _, system = code.partition("^")
    return first, system or (_system(first) if first[:1].isdigit() else "")


def _system(code: str) -> str:
    """The system of a code that names none."""
    return "LN" if _LOINC.fullmatch(code) else "MDC"
