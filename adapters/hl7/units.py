"""Maps the units of IEEE 11073-10101 (MDC_DIM_*) and other usual spellings to UCUM; converts no values."""

from __future__ import annotations

import re

from adapters.hl7.message import Separators

# reference id -> (code, UCUM); codes are 4 * 65536 (the partition of dimensions) + the term's own
_MDC: dict[str, tuple[int, str]] = {
    "MDC_DIM_DIMLESS": (262_656, "1"),
    "MDC_DIM_PERCENT": (262_688, "%"),
    "MDC_DIM_PER_SEC": (264_608, "/s"),
    "MDC_DIM_HZ": (264_640, "Hz"),
    "MDC_DIM_BEAT_PER_MIN": (264_864, "/min"),
    "MDC_DIM_RESP_PER_MIN": (264_928, "/min"),
    "MDC_DIM_KILO_PASCAL": (265_987, "kPa"),
    "MDC_DIM_MMHG": (266_016, "mm[Hg]"),
    "MDC_DIM_VOLT": (266_400, "V"),
    "MDC_DIM_MILLI_VOLT": (266_418, "mV"),
    "MDC_DIM_MICRO_VOLT": (266_419, "uV"),
    "MDC_DIM_KELVIN": (266_528, "K"),
    "MDC_DIM_FAHR": (266_560, "[degF]"),
    "MDC_DIM_DEGC": (268_192, "Cel"),
}
_BY_MDC = {word: ucum for name, (code, ucum) in _MDC.items() for word in (name, str(code))}
# other spellings of the same unit
_SPELLINGS = {
    "mmHg": "mm[Hg]",
    "mm Hg": "mm[Hg]",
    "MMHG": "mm[Hg]",
    **dict.fromkeys(("bpm", "BPM", "rpm", "RPM", "1/min", "/MIN", "min-1", "/minute"), "/min"),
    **dict.fromkeys(("beats/min", "beat/min", "breaths/min", "breath/min", "resp/min", "br/min"), "/min"),
    **dict.fromkeys(("beats/minute", "breaths/minute", "beats per minute", "breaths per minute"), "/min"),
    "1/s": "/s",
    "Hz": "/s",
    **dict.fromkeys(("°C", "degC", "deg C", "DegC", "DEGC"), "Cel"),
    **dict.fromkeys(("°F", "degF", "deg F", "DegF", "DEGF"), "[degF]"),
    "percent": "%",
    "": "1",
}
# further units that monitors send; they are not converted either
_OTHER = re.compile(
    r"[CFK%1]|[mukd]?(V|A|s|m|g|L|Hz|Ohm|Pa|bar)|h|hPa|min|cmH2O|cm\[H2O\]|m?L/(h|min|s)|L/min/m2|[mug]?g/d?L"
    r"|m(mol|Eq)/L|dB|ppm|vol%"
)
_ANNOTATIONS = frozenset(("beat", "beats", "breath", "breaths", "resp", "count", "counts", "bpm"))
_ANNOTATION = re.compile(r"\{[^{}]*\}")


def ucum(raw: bytes, separators: Separators) -> str | None:
    """The unit of an OBX-6 in a uniform spelling; None if it names no unit."""
    words = [word.decode("utf-8", "replace").strip() for word in raw.split(separators.component, 5)[:5]]
    for word in words:
        if word in _BY_MDC:
            return plain(_BY_MDC[word])
    return plain(words[0]) if words[0] else None


def plain(unit: str) -> str:
    """A UCUM code without annotations in a uniform spelling: `{beat}/min` is `/min`."""
    bare = _ANNOTATION.sub("", unit)
    return _SPELLINGS.get(bare, bare)


_KNOWN = frozenset(plain(unit) for _, unit in _MDC.values()) | frozenset(_SPELLINGS)


def shown_unit(raw: bytes, separators: Separators) -> str:
    """The unit of an OBX-6 as it came, if it is a known spelling; a text may contain no other word of it."""
    for part in raw.split(separators.component, 5)[:5]:
        word = part.decode("utf-8", "replace").strip()
        if word in _BY_MDC:
            return plain(_BY_MDC[word])
        notes = [note[1:-1] for note in _ANNOTATION.findall(word)]
        bare = _ANNOTATION.sub("", word)
        if word and (bare in _KNOWN or _OTHER.fullmatch(bare)):
            return word if _ANNOTATIONS.issuperset(notes) else plain(word)
    return ""
