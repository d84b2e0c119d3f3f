"""The baseline rules of this package: R peaks by slope, and the intervals between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

ECG_HZ = 250
Array = np.ndarray[Any, np.dtype[Any]]


class Seen(NamedTuple):
    """The measurements of a window that the rules use."""

    spans: Array  # s from R peak to R peak
    noisy: float  # slope between the peaks, as a share of the slope of the peaks


class Plain(NamedTuple):
    """Thresholds of the simplest rule; labels as in make.py: 0 N, 1 AF, 2 PVC, 3 unreadable."""

    irregular: float  # AF: the mean change between spans is more than this share of the usual span
    early: float  # PVC: a span below this share of the usual span, followed by
    late: float  # a span above this share, if this is not the normal pattern

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
    """Thresholds of a rule that detects early beats with a compensating pause, and noise."""

    irregular: float  # AF: the mean change between spans is more than this share of a span
    early: float  # PVC: a span below this share of the usual span, and a pause after it;
    late: float  # both together are two usual spans long, within this share
    noisy: float  # unreadable: more slope between the peaks than this
    least: int = 4  # unreadable: fewer R peaks than this

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
    ]  # of the maxima of each second: a burst must not count
    if usual < 1e-9:
        return Seen(np.zeros(0), 0.0)
    reach = ECG_HZ // 5  # a heart cannot beat twice within this time
    padded = np.pad(energy, reach, constant_values=-1.0)
    highest = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    peaks = np.flatnonzero((energy > 0.25 * usual) & (energy == highest))
    return Seen(np.diff(peaks) / ECG_HZ, float(np.median(energy) / usual))
