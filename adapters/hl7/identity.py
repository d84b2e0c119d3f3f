"""Counts the identifying fields of an HL7 message, and finds the id of the patient.

The list below names the fields that are not identifying. All other fields of all segments count as
identifying.
"""

from __future__ import annotations

from collections import Counter

from adapters.hl7.deidentify import Deidentifier
from adapters.hl7.message import Hl7Message, Separators, fields_of

NUMERIC = frozenset((b"NM", b"NA", b"NR", b"MA", b"SN"))

# numbers of fields without information about a person, HL7 v2.6 chapters 2 and 7
_NOT_IDENTIFYING: dict[bytes, frozenset[int]] = {
    b"MSH": frozenset(range(1, 22)) - {8},
    b"OBR": frozenset((1, 4, 5, 6, 7, 8, 9, 11, 12, 14, 22, 24, 25, 27)),
    b"OBX": frozenset((1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 14, 17, 19)),
    b"TQ1": frozenset(range(1, 15)),
}
_SET_ID = frozenset((1,))
_KINDS = (b"MR", b"PI", b"PT")  # HL7 table 0203: the patient ids of a hospital, best first


def count_identifiers(message: Hl7Message, deidentifier: Deidentifier, counters: Counter[str]) -> None:
    """Count each identifying field that is not empty; undecodable ones also as `charset_errors`."""
    seen, unreadable = 0, 0
    for segment in message.segments:
        found = _identifying(segment, message.separators)
        seen += len(found)
        unreadable += not all(map(message.readable, found))
    deidentifier.saw(seen)
    if unreadable:
        counters["charset_errors"] += unreadable


def patient_pseudonym(pid: bytes, message: Hl7Message, deidentifier: Deidentifier) -> str | None:
    """The pseudonym of the person of a PID segment; None without an id: then no patient is admitted."""
    separators = message.separators
    fields = fields_of(pid, separators, 5)
    best: tuple[int, bytes, bytes] | None = None
    for number in (3, 2):  # older monitors send the id in PID-2
        for raw in fields[number].split(separators.repetition, 32) if len(fields) > number else ():
            parts = raw.split(separators.component, 6)
            kind = parts[4] if len(parts) > 4 else b""
            rank = _KINDS.index(kind) if kind in _KINDS else len(_KINDS)
            if _filled(parts[0], separators) and (best is None or rank < best[0]):
                best = (rank, parts[0], parts[3] if len(parts) > 3 else b"")
        if best is not None:
            break
    if best is None:
        return None
    return deidentifier.pseudonym(message.text(best[1]), issuer=message.text(best[2]))


def _identifying(segment: bytes, separators: Separators) -> list[bytes]:
    name = segment[:3]
    allowed = _NOT_IDENTIFYING.get(name, _SET_ID)
    fields = fields_of(segment, separators)
    if name == b"OBX" and len(fields) > 5 and fields[2] in NUMERIC:
        allowed = allowed | {5}
    shift = 1 if name == b"MSH" else 0  # MSH-1 is the separator itself
    return [
        field
        for number, field in enumerate(fields)
        if number and number + shift not in allowed and _filled(field, separators)
    ]


def _filled(field: bytes, separators: Separators) -> bool:
    return bool(field.translate(None, separators.all + b'" '))
