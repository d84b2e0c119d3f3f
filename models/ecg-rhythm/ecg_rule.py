"""What needs no model: R peaks by slope, and the spans between them; the baseline of this package."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

ECG_HZ = 250
Array = np.ndarray[Any, np.dtype[Any]]


class Seen(NamedTuple):
    """What the rule looks at in a window."""

    spans: Array  # s from R peak to R peak
    noisy: float  # slope between the peaks, as a share of the slope at the peaks


class Plain(NamedTuple):
    """Thresholds of the simplest rule; labels as in make.py: 0 N, 1 AF, 2 PVC, 3 unreadable."""

    irregular: float  # a mean step from span to span of more than this share of the usual span is AF
    early: float  # a span of less than this share of the usual one, and after it
    late: float  # one of more than this share, is a PVC, where that is not the rule

    def judge(self, seen: Seen) -> int:
        spans = seen.spans
        if len(spans) < 3 or np.median(spans) < 0.28:
            return 3
        usual = float(np.median(spans))
        pauses = int(((spans[:-1] < self.early * usual) & (spans[1:] > self.late * usual)).sum())
        irregular = bool(np.abs(np.diff(spans)).mean() > self.irregular * usual)
        if irregular and pauses < 0.25 * len(spans):
            return 1
        return 2 if pauses else int(irregular)


class Paired(NamedTuple):
    """Thresholds of a rule that looks for pauses which make up for an early beat, and for noise."""

    irregular: float  # a mean step from span to span of more than this share of a span is AF
    early: float  # a beat after less than this share of the usual span, and a pause after it that makes
    late: float  # the two together as long as two usual ones, to within this share, is a PVC
    noisy: float  # more slope between the peaks than this cannot be read
    least: int = 4  # nor fewer R peaks than these

    def judge(self, seen: Seen) -> int:
        spans = seen.spans
        if len(spans) + 1 < self.least or seen.noisy > self.noisy:
            return 3
        usual = float(np.median(spans))
        pairs = (spans[:-1] < self.early * usual) & (
            np.abs(spans[:-1] + spans[1:] - 2 * usual) < self.late * usual
        )
        premature = np.append(pairs, False) | np.insert(pairs, 0, False)
        rest = spans[~premature]
        if len(rest) > 2 and np.abs(np.diff(rest)).mean() > self.irregular * usual:
            return 1
        return 2 if pairs.any() else 0


def look(window: Array) -> Seen:
    """R peaks by squared, smoothed slope (after Pan and Tompkins, 1985) in ten seconds of mV at 250 Hz."""
    hz = np.fft.rfftfreq(len(window), 1 / ECG_HZ)
    band = np.fft.irfft(np.fft.rfft(window) * ((hz > 5) & (hz < 18)), len(window))
    energy = np.convolve(np.gradient(band) ** 2, np.ones(25) / 25, "same")
    usual = np.sort(energy.reshape(10, -1).max(axis=1))[
        4
    ]  # of the seconds' tops: a burst is not what is usual
    if usual < 1e-9:
        return Seen(np.zeros(0), 0.0)
    reach = ECG_HZ // 5  # no heart beats twice in so short a time
    padded = np.pad(energy, reach, constant_values=-1.0)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    peaks = np.flatnonzero((energy > 0.25 * usual) & (energy == highest))
    return Seen(np.diff(peaks) / ECG_HZ, float(np.median(energy) / usual))
