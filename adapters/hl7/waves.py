"""Turns the samples of a waveform into rows: exact times, gaps and overlaps counted, invalid samples null."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from adapters.base import Reading
from adapters.hl7.catalog import Waveform
from wire.clock import NS_PER_S
from wire.messages import Quality

MAX_SAMPLES = 200_000  # of one OBX: ten minutes at 333 Hz
_NUMBER = re.compile(rb"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?")
_PLAIN = b"0123456789.+-"


@dataclass(frozen=True, slots=True)
class Samples:
    """The unchanged samples of an OBX NA, and its attributes; `factor` is None if the unit is wrong."""

    raw: bytes
    separator: bytes
    rate_hz: float | None
    factor: float | None
    offset: float
    invalid: frozenset[bytes]  # samples that mean no measurement, as the monitor writes them


class Wave:
    """One stream of samples at a constant rate; `name` is its field."""

    def __init__(self, stream: str, options: Waveform, name: str, counters: Counter[str]) -> None:
        self.options = options
        self._stream = stream
        self._name = name
        self._counters = counters
        self._last_ns = -1  # time of the last sample
        self._next_ns: int | None = None  # time of the sample that would follow without a gap

    def mismatch(self, samples: Samples) -> str:
        """Why the samples cannot be used; empty if they can."""
        count = samples.raw.count(samples.separator) + 1
        if count > MAX_SAMPLES:
            self._counters["too_many_samples"] += count
            return f"more than {MAX_SAMPLES} samples"
        if samples.rate_hz is None:
            self._counters["rate_assumed"] += 1
        elif samples.rate_hz != self.options.rate_hz:
            self._counters["wrong_rate"] += 1
            return f"sample rate is not {self.options.rate_hz:g} Hz"
        return ""

    def rows(self, samples: Samples, at_ns: int, quality: Quality) -> Iterator[Reading]:
        """One reading for each sample; sample i has the time `at_ns + i / rate`."""
        values = self._values(samples, quality)
        rate = self.options.rate_hz
        self._continuity(at_ns, len(values))
        stream, name, last_ns = self._stream, self._name, self._last_ns
        whole = NS_PER_S % rate == 0
        period_ns = int(NS_PER_S // rate)
        for index, value in enumerate(values):
            time_ns = at_ns + (index * period_ns if whole else round(index * NS_PER_S / rate))
            own = quality
            if value is None:
                own = Quality.BAD
            elif time_ns <= last_ns:
                own = Quality.TIME_REPEATED if time_ns == last_ns else Quality.TIME_BACKWARD
            yield Reading(stream, time_ns, {name: value}, quality=own)
        if values:
            self._last_ns = max(last_ns, time_ns)
            self._next_ns = at_ns + round(len(values) * NS_PER_S / rate)

    def _values(self, samples: Samples, quality: Quality) -> list[float | None]:
        parts = samples.raw.split(samples.separator)
        if samples.factor is None or quality is Quality.BAD:
            self._counters["invalid_samples"] += len(parts)
            return [None] * len(parts)
        factor, offset = samples.factor, samples.offset
        if not samples.invalid.intersection(parts) and not samples.raw.translate(
            None, _PLAIN + samples.separator
        ):
            try:  # the usual case: only plain numbers
                return [value * factor + offset for value in map(float, parts)]
            except ValueError:
                pass
        found = [
            float(part) * factor + offset if part not in samples.invalid and _NUMBER.fullmatch(part) else None
            for part in parts
        ]
        if None in found:
            self._counters["invalid_samples"] += found.count(None)
        return found

    def _continuity(self, at_ns: int, count: int) -> None:
        """Count a gap or overlap with the message before; less than half a sample is neither."""
        if self._next_ns is None or not count:
            return
        late_ns, period_ns = at_ns - self._next_ns, NS_PER_S / self.options.rate_hz
        if late_ns > period_ns / 2:
            self._counters["waveform_gaps"] += 1
            self._counters["missing_samples"] += round(late_ns / period_ns)
        elif late_ns < -period_ns / 2:
            self._counters["waveform_overlaps"] += 1
