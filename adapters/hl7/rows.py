"""Turns the OBX segments of one monitor into rows: vital signs by time, waveforms sample by sample."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from functools import reduce
from typing import NamedTuple

from adapters.base import Reading, Value
from adapters.hl7.catalog import Catalog, Target, Vital, Waveform
from adapters.hl7.deidentify import Deidentifier
from adapters.hl7.identity import patient_pseudonym
from adapters.hl7.message import Hl7Message, Mismatch, fields_of, part, time_ns
from adapters.hl7.units import plain, ucum
from adapters.hl7.unread import (
    NO_NOTES,
    Unknown,
    UnreadNotes,
    meant_for,
    none_configured,
    observation,
    of_type,
)
from adapters.hl7.waves import Samples, Wave
from wire.clock import NS_PER_MS
from wire.messages import Quality

_NUMBER = re.compile(rb"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?")
_NULL = b'""'
_NO_FIELDS = [b""] * 19
_MAX_UNKNOWN = 20  # observations of a message that are described
# OBX-11, HL7 table 0085; R is the status of a monitor's unvalidated values in IHE PCD-01
_STATUS = {
    **dict.fromkeys((b"", b"F", b"R", b"C", b"U"), Quality.GOOD),
    **dict.fromkeys((b"P", b"S"), Quality.UNCERTAIN),
}
# OBX-8: in IHE PCD-01 the quality of a measurement, in HL7 table 0078 its relation to limits
_FLAGS = {
    **dict.fromkeys((b"QUES", b"EARLY"), Quality.UNCERTAIN),
    **dict.fromkeys((b"INV", b"NAV", b"CALIB", b"TEST", b"DEMO"), Quality.BAD),
}
_ABNORMAL = frozenset((b"L", b"H", b"LL", b"HH", b"<", b">", b"A", b"AA"))


class Obx(NamedTuple):
    """A configured OBX: its number in the message, its target and its fields."""

    number: int
    target: Target
    fields: list[bytes]


@dataclass(slots=True)
class ObservationGroup:
    """One OBR with its OBX segments."""

    times: Times
    observations: list[Obx] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Times:
    """How the times of a message are read.

    `base_ns` is the time of an OBX without its own: that of its OBR (`exact`), else of the message. If the
    monitor's clock is implausible, `shift_ns` is added to all times, and `quality` is UNCERTAIN. A time
    outside of `limits` (before the shift) is not used.
    """

    zone: tzinfo
    base_ns: int
    shift_ns: int = 0
    exact: bool = False
    quality: Quality = Quality.GOOD
    limits: tuple[int, int] = (-(2**63), 2**63)

    def own(self, raw: bytes) -> int | None:
        """A time in the message, before the shift; None if it is not a time, or implausible."""
        at_ns = time_ns(raw, self.zone)
        first_ns, last_ns = self.limits
        return at_ns if at_ns is not None and first_ns <= at_ns <= last_ns else None


@dataclass(frozen=True, slots=True)
class BedsideSettings:
    """What is read of a monitor: its fields, whether there are patients, and the age of an old value."""

    vitals: Mapping[str, Vital]
    waveforms: Mapping[str, Waveform]
    patients: bool
    old_ns: int


class Bedside:
    """Turns the messages of one monitor into rows; the names of its streams begin with `prefix`."""

    def __init__(
        self,
        prefix: str,
        settings: BedsideSettings,
        deidentifier: Deidentifier,
        counters: Counter[str],
        notes: UnreadNotes = NO_NOTES,
    ) -> None:
        vitals, waveforms = settings.vitals, settings.waveforms
        self.prefix = prefix
        self._notes = notes
        self._read: set[str] = set()  # vitals and waveforms with values in the current message
        self.current: tuple[str | None, int] | None = None  # pseudonym, since
        self._vitals = vitals
        self._catalog = Catalog(vitals, waveforms)
        self._waves = {
            name: Wave(prefix + name, given, given.field or name, counters)
            for name, given in waveforms.items()
        }
        self._deidentifier = deidentifier
        self._counters = counters
        self._patients = settings.patients
        self._old_ns = settings.old_ns
        self._last_ns = -1
        self._patient_sent = False

    def readings(self, message: Hl7Message, times: Times, mismatches: list[Mismatch]) -> Iterator[Reading]:
        """The rows of a message in its order; errors in it are added to `mismatches`."""
        note: _Note = mismatches.append
        group = ObservationGroup(times)
        number, skipped = 0, 0
        unknown: list[Unknown] = []
        self._read.clear()
        for segment in message.segments:
            name = segment[:3]
            if name == b"OBX":
                number += 1
                fields = fields_of(segment, message.separators, 18)
                fields += _NO_FIELDS[len(fields) :]
                target = self._catalog.find(fields[3], message.separators)
                if target is None:
                    if fields[5] not in (b"", _NULL):
                        skipped += 1
                        self._note_unknown(fields, message, unknown)
                else:
                    group.observations.append(Obx(number, target, fields))
            elif name == b"OBR":
                yield from self._group(group, message, note)
                group = ObservationGroup(self._group_times(segment, message, times))
            elif name == b"PID":
                yield from self._group(group, message, note)
                group = ObservationGroup(times)
                yield from self._admit(segment, message, times)
        yield from self._group(group, message, note)
        if skipped:
            self._counters["not_configured"] += skipped
        self._note_unread(number, unknown)

    def _note_unknown(self, fields: list[bytes], message: Hl7Message, unknown: list[Unknown]) -> None:
        if len(unknown) < _MAX_UNKNOWN:
            code, separators = fields[3], message.separators
            near = self._catalog.near(code, separators)
            name = near or meant_for(code, separators)
            known = name in self._vitals or name in self._waves
            unknown.append(Unknown(observation(code, fields[6], separators), name if known else ""))

    def _note_unread(self, observations: int, unknown: list[Unknown]) -> None:
        """Record what the message holds instead of values, and fields that come with another code."""
        for name in self._read:
            self._notes.was_read(self.prefix + name)
        for text, name in unknown:
            if name and name not in self._read:
                self._notes.not_read(f"{text}: not among the codes of `{name}`", self.prefix + name)
        if not self._read:
            empty = "a report whose OBX have no values" if observations else "a report without OBX"
            self._notes.not_read(none_configured(unknown) if unknown else empty, "")

    def _group_times(self, obr: bytes, message: Hl7Message, times: Times) -> Times:
        raw = part(fields_of(obr, message.separators, 8), 7, 1, message.separators)
        at_ns = times.own(raw)
        if at_ns is not None:
            return replace(times, base_ns=at_ns, exact=True)
        if not raw:
            return times
        self._counters["bad_time"] += 1
        return replace(times, quality=Quality.UNCERTAIN)

    def _admit(self, pid: bytes, message: Hl7Message, times: Times) -> Iterator[Reading]:
        pseudonym = patient_pseudonym(pid, message, self._deidentifier)
        if self.current is None or self.current[0] != pseudonym:
            if self.current is not None:
                self._counters["patient_changed"] += 1
            self.current, self._patient_sent = (pseudonym, times.base_ns + times.shift_ns), False
        if self._patients and not self._patient_sent:
            self._patient_sent = True
            since_ms = self.current[1] // NS_PER_MS
            values = self._deidentifier.release({"pseudonym": pseudonym, "since": since_ms})
            at_ns = times.base_ns + times.shift_ns
            yield Reading(self.prefix + "patient", at_ns, values, quality=times.quality)

    def _group(self, group: ObservationGroup, message: Hl7Message, note: _Note) -> Iterator[Reading]:
        rows: dict[int, _Row] = {}
        times = group.times
        stamped = [self._own_time(obx, times, message) for obx in group.observations]
        if not times.exact:
            times = replace(
                times, base_ns=max((at for at, _ in stamped if at is not None), default=times.base_ns)
            )
        attributes = [obx for obx in group.observations if obx.target.kind == "attribute"]
        for obx, own in zip(group.observations, stamped, strict=True):
            if obx.target.kind == "vital":
                self._vital(obx, own, times, rows, message, note)
        for at_ns in sorted(rows):
            yield self._row(at_ns + times.shift_ns, rows[at_ns])
        for obx, own in zip(group.observations, stamped, strict=True):
            if obx.target.kind == "waveform":
                yield from self._channel(obx, own, attributes, times, message, note)

    # --- vital signs

    def _vital(
        self,
        obx: Obx,
        own: _Own,
        times: Times,
        rows: dict[int, _Row],
        message: Hl7Message,
        note: _Note,
    ) -> None:
        name, rank = obx.target.name, obx.target.rank
        value, quality = self._value(obx, self._vitals[name], message, note)
        quality = quality.worse(own[1])
        own_ns = times.base_ns if own[0] is None else own[0]
        # a set contains values measured before it, such as the last blood pressure: they stay in its row
        at_ns = max(times.base_ns, own_ns)
        row = rows.setdefault(at_ns, _Row())
        if name in row.ranks and own_ns != row.times[name]:
            row = rows.setdefault(own_ns, _Row())
        if name in row.ranks and row.ranks[name] <= rank:
            self._counters["same_field"] += 1
            return
        if value is not None and at_ns - own_ns > self._old_ns:
            self._counters["old_values"] += 1
            quality = quality.worse(Quality.UNCERTAIN)
        if value is not None:
            self._read.add(name)
        row.ranks[name], row.times[name] = rank, own_ns
        row.values[name], row.qualities[name] = value, quality

    def _row(self, at_ns: int, row: _Row) -> Reading:
        quality = reduce(Quality.worse, row.qualities.values())
        if at_ns <= self._last_ns:
            late = Quality.TIME_REPEATED if at_ns == self._last_ns else Quality.TIME_BACKWARD
            quality = quality.worse(late)
        self._last_ns = max(self._last_ns, at_ns)
        values: dict[str, Value] = {name: row.values.get(name) for name in self._vitals}
        return Reading(self.prefix + "vitals", at_ns, self._deidentifier.release(values), quality=quality)

    def _value(self, obx: Obx, vital: Vital, message: Hl7Message, note: _Note) -> tuple[Value, Quality]:
        fields, separators = obx.fields, message.separators
        quality = self._reported_quality(fields, message)
        raw = fields[5].strip()
        if raw in (b"", _NULL):
            self._counters["no_value"] += 1
            return None, Quality.GOOD  # a missing value does not make the row uncertain
        if fields[2] != b"NM" or not _NUMBER.fullmatch(raw):
            at = 2 if fields[2] != b"NM" else 5
            note(Mismatch("OBX", obx.number, at, 102, "not a number (NM), but a number is configured"))
            self._counters["not_numeric"] += 1
            what = observation(fields[3], fields[6], separators)
            why = (
                f"{what} comes as {of_type(fields[2])}, not as NM"
                if fields[2] != b"NM"
                else f"the value of {what} is not a number with a decimal point"
            )
            self._notes.not_read(why, self.prefix + obx.target.name)
            return None, Quality.WRONG_TYPE
        if quality is Quality.BAD:
            self._counters["said_invalid"] += 1
            return None, quality
        converted = self.convert(float(raw), fields[6], vital, message)
        if converted is None:
            self._wrong_unit(obx, obx.fields[6], vital, message, note)
            return None, Quality.BAD
        if not fields[6].translate(None, separators.all):
            self._counters["no_unit"] += 1
            quality = quality.worse(Quality.UNCERTAIN)
        return _typed(converted, vital.t, quality)

    def _wrong_unit(self, obx: Obx, unit: bytes, vital: Vital, message: Hl7Message, note: _Note) -> None:
        expected = vital.unit or "1"
        note(Mismatch("OBX", obx.number, 6, 103, f"unit is not {expected}"))
        self._counters["wrong_unit"] += 1
        what = f"{observation(obx.fields[3], unit, message.separators)}: `{obx.target.name}` is in {expected}"
        self._notes.not_read(f"{what}, see `convert`", self.prefix + obx.target.name)

    def convert(self, number: float, unit: bytes, vital: Vital, message: Hl7Message) -> float | None:
        """A number in the declared unit; None if it has another unit without a configured conversion."""
        found = ucum(unit, message.separators)
        if found is None or found == plain(vital.unit):
            return number
        for name, conversion in vital.convert.items():
            if plain(name) == found:
                return number * conversion.factor + conversion.offset
        return None

    def _reported_quality(self, fields: list[bytes], message: Hl7Message) -> Quality:
        """The quality that the monitor reports for a value in OBX-8 and OBX-11."""
        quality = Quality.GOOD
        if fields[8]:
            for flag in fields[8].split(message.separators.repetition, 10):
                quality = quality.worse(_FLAGS.get(flag, Quality.GOOD))
                if flag in _ABNORMAL:
                    self._counters["abnormal"] += 1
        status = _STATUS.get(fields[11], Quality.BAD)
        return quality.worse(status)

    def _own_time(self, obx: Obx, times: Times, message: Hl7Message) -> _Own:
        """The time in OBX-14, None without a plausible one, and the quality of the observation's time."""
        if not obx.fields[14]:
            return None, times.quality
        at_ns = times.own(part(obx.fields, 14, 1, message.separators))
        if at_ns is None:
            self._counters["bad_time"] += 1
        return at_ns, Quality.UNCERTAIN if at_ns is None else times.quality

    # --- waveforms

    def _channel(
        self, obx: Obx, own: _Own, attributes: list[Obx], times: Times, message: Hl7Message, note: _Note
    ) -> Iterator[Reading]:
        wave = self._waves[obx.target.name]
        samples = self._samples(obx, attributes, wave.options, message, note)
        if samples is None:
            return
        mismatch = wave.mismatch(samples)
        if mismatch:
            note(Mismatch("OBX", obx.number, 5, 103, mismatch))
            sent = "" if samples.rate_hz is None else f" ({samples.rate_hz:g} Hz)"
            self._notes.not_read(
                f"waveform `{obx.target.name}`{sent}: {mismatch}", self.prefix + obx.target.name
            )
            return
        if samples.factor is not None:
            self._read.add(obx.target.name)
        at_ns = times.base_ns if own[0] is None else own[0]
        quality = self._reported_quality(obx.fields, message).worse(own[1])
        yield from wave.rows(samples, at_ns + times.shift_ns, quality)

    def _samples(
        self, obx: Obx, attributes: list[Obx], waveform: Waveform, message: Hl7Message, note: _Note
    ) -> Samples | None:
        fields, separators = obx.fields, message.separators
        if fields[2] != b"NA" or not fields[5]:
            note(Mismatch("OBX", obx.number, 2, 102, "not numbers (NA), but a waveform is configured"))
            self._counters["not_numeric"] += 1
            what = f"waveform `{obx.target.name}` comes as {of_type(fields[2])}, not as NA"
            self._notes.not_read(what, self.prefix + obx.target.name)
            return None
        rate, scale, invalid = None, None, set[bytes]()
        for attribute in attributes:
            if not _belongs_to(attribute.fields, fields):
                continue
            raw = attribute.fields[5].strip()
            if not _NUMBER.fullmatch(raw):
                note(
                    Mismatch(
                        "OBX",
                        attribute.number,
                        5,
                        102,
                        "not a number, but an attribute of a waveform needs one",
                    )
                )
            elif attribute.target.name == "rate":
                rate = float(raw)
            elif attribute.target.name == "resolution":
                scale = (float(raw), attribute.fields[6])
            else:
                invalid.add(raw)
        unit = scale[1] if scale else fields[6]
        one, zero = (self.convert(number, unit, waveform, message) for number in (1.0, 0.0))
        factor = None
        if one is None or zero is None:
            self._wrong_unit(obx, unit, waveform, message, note)
        else:
            factor = (one - zero) * (scale[0] if scale else 1.0)
        separator = separators.component if separators.component in fields[5] else separators.repetition
        return Samples(fields[5], separator, rate, factor, zero or 0.0, frozenset(invalid))


@dataclass(slots=True)
class _Row:
    values: dict[str, Value] = field(default_factory=dict)
    qualities: dict[str, Quality] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)


_Note = Callable[[Mismatch], None]
_Own = tuple[int | None, Quality]


def _belongs_to(attribute: list[bytes], wave: list[bytes]) -> bool:
    """Whether the OBX-4 of an attribute is that of the waveform, or below it."""
    own, parent = attribute[4], wave[4]
    return own == parent or own.startswith(parent + b".")


def _typed(number: float, declared: str, quality: Quality) -> tuple[Value, Quality]:
    if declared == "bool":
        return (bool(number), quality) if number in (0.0, 1.0) else (None, Quality.WRONG_TYPE)
    if declared == "i64":
        whole = number.is_integer() and abs(number) < 2**63
        return (int(number), quality) if whole else (None, Quality.WRONG_TYPE)
    return number, quality
