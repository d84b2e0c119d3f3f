"""Windows are contiguous, at the model's rate, never across a gap, and without aliases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET
from numpy.typing import NDArray

from agent.inference.inputs import WindowInput
from agent.inference.manifest import load
from agent.pipeline.resampler import HALF_WIDTH, MOST, resampled
from agent.pipeline.windows import Window, Windows, input_mismatch
from wire.messages import Field, Quality, Stream

P = 20_000_000  # ns at 50 Hz
T0 = 1_760_000_000 * 10**9


def windows(
    length: int = 10, hop: int = 5, source_hz: float | None = 50, held: Sequence[bool] = ()
) -> tuple[Windows, Counter[str]]:
    counters: Counter[str] = Counter()
    spec = WindowInput(kind="window", name="x", signals=["a", "b"], rate_hz=50, length=length, hop=hop)
    fields = {
        name: Field(t="bool" if is_held else "f64")
        for name, is_held in zip("ab", held or (False, False), strict=True)
    }
    rate_hz = UNSET if source_hz is None else source_hz
    return Windows(spec, Stream(fields=fields, rate_hz=rate_hz), counters), counters


def feed(made: Windows, times: list[int]) -> list[NDArray[np.float32]]:
    found = [made.add(at, {"b": -float(at - T0) / P, "a": float(at - T0) / P}) for at in times]
    return [window.rows for window in found if window is not None]


def test_windows_are_contiguous_in_order_and_every_hop_rows() -> None:
    made, counters = windows()
    found = feed(made, [T0 + i * P for i in range(30)])
    assert [window[:, 0].tolist() for window in found] == [
        list(range(start, start + 10)) for start in (0, 5, 10, 15, 20)
    ]
    assert all(window.shape == (10, 2) and window.dtype == np.float32 for window in found)
    assert np.array_equal(found[0][:, 1], -found[0][:, 0])
    assert not counters
    found[0][:] = 99
    assert feed(made, [T0 + i * P for i in range(30, 35)])[0].max() == 34, "a window is the caller's to keep"


def test_one_missing_row_is_filled_and_two_are_a_gap() -> None:
    made, counters = windows()
    found = feed(made, [T0 + i * P for i in range(12) if i != 4])
    assert found[0][:, 0].tolist() == list(range(10))
    assert counters == {"filled": 1}
    made, counters = windows()
    found = feed(made, [T0 + i * P for i in range(22) if i not in (7, 8)])
    assert counters == {"gaps": 1}
    assert [window[:, 0].tolist() for window in found] == [list(range(9, 19))], "no window spans the gap"


def test_jitter_of_the_stamps_is_no_gap() -> None:
    rng = np.random.default_rng(1)
    times = [T0 + i * P + int(rng.uniform(-0.2, 0.2) * P) for i in range(100)]
    made, counters = windows()
    assert len(feed(made, times)) == 19
    assert not counters


def test_repeated_rows_are_dropped_and_a_step_back_starts_again() -> None:
    made, counters = windows()
    assert not feed(made, [T0, T0, *[T0 + i * P for i in range(1, 9)]])
    assert counters == {"repeated": 1}
    assert not feed(made, [T0 - P * 50 + i * P for i in range(9)])
    assert counters == {"repeated": 1, "gaps": 1}
    assert len(feed(made, [T0 - P * 41])) == 1


def test_a_missing_value_makes_no_window() -> None:
    made, counters = windows()
    for i in range(30):
        window = made.add(T0 + i * P, {"a": 1.0, "b": None if i == 12 else 2.0})
        assert window is None or np.isfinite(window.rows).all()
    assert counters == {"incomplete": 2}


def qualities(
    made: Windows, flags: dict[int, Quality], missing: int | None = None, step: int = P
) -> list[int]:
    """Of the windows, one a row, of rows 0 to 39: `flags` by row."""
    found = [
        made.add(T0 + i * P, {"a": 1.0, "b": 2.0}, flags.get(i, Quality.GOOD))
        for i in range(40)
        if i != missing
    ]
    return [int(window.quality) for window in found if window is not None]


@pytest.mark.parametrize("flag", [Quality.OUT_OF_RANGE, Quality.UNCERTAIN, Quality.BAD, Quality.NOT_FINITE])
def test_a_window_with_a_flagged_row_is_uncertain_and_the_next_without_it_is_not(flag: Quality) -> None:
    made, _ = windows(hop=1)
    # windows end in rows 9 to 39; row 15 is in those that end in 15 to 24
    assert qualities(made, {15: flag}) == [0] * 6 + [Quality.UNCERTAIN] * 10 + [0] * 15


def test_a_window_with_a_row_that_never_came_is_uncertain() -> None:
    made, counters = windows(hop=1)
    found = qualities(made, {}, missing=15)
    # the window that would end in the filled row gives way to the one that ends in the row after it
    assert found == [0] * 6 + [Quality.UNCERTAIN] * 9 + [0] * 15
    assert counters == {"filled": 1}


def test_a_flag_is_forgotten_when_a_window_starts_again() -> None:
    made, counters = windows(hop=1)
    for i in range(12):
        made.add(T0 + i * P, {"a": 1.0, "b": 2.0}, Quality.UNCERTAIN)
    for back in (-500 * P, 500 * P):  # a clock that is set back, and forward
        found = [made.add(T0 + back + i * P, {"a": 1.0, "b": 2.0}) for i in range(12)]
        assert [window.quality for window in found if window is not None] == [Quality.GOOD] * 3
    assert counters == {"gaps": 2}


def test_a_repeated_time_adds_no_row_and_no_flag() -> None:
    made, counters = windows(hop=1)
    found = []
    for i in range(12):
        found.append(made.add(T0 + i * P, {"a": float(i), "b": 2.0}))
        assert made.add(T0 + i * P, {"a": 99.0, "b": 2.0}, Quality.TIME_REPEATED) is None
    last = found[-1]
    assert last is not None
    assert last.rows[:, 0].tolist() == list(range(2, 12))
    assert last.quality is Quality.GOOD
    assert counters == {"repeated": 12}


def tone(share: float, source_hz: float, jitter: float = 0.0) -> float:
    """Level in dB of a sine at `share` of 50 Hz in a faster stream, after resampling."""
    made, counters = windows(200, 200, source_hz)
    rng = np.random.default_rng(3)
    for i in range(round(source_hz / 50 * 240)):
        at_s = (i + rng.uniform(-jitter, jitter)) / source_hz
        window = made.add(T0 + round(at_s * 1e9), {"a": np.sin(2 * np.pi * 50 * share * at_s), "b": 1.0})
        if window is not None:
            assert not counters
            assert np.allclose(window.rows[:, 1], 1.0, atol=1e-6), "what stands still is as high as before"
            return float(20 * np.log10(window.rows[:, 0].std() * np.sqrt(2)))
    raise AssertionError("no window")


@pytest.mark.parametrize("source_hz", [60, 72, 100, 1000])
def test_frequencies_above_the_models_rate_are_filtered_out(source_hz: float) -> None:
    for share in (0.05, 0.2, 0.4):
        assert tone(share, source_hz) == pytest.approx(0, abs=0.05), f"{share:g} of the rate passes"
    for share in (0.6, 0.75, 0.9, 0.99, 1.02, 3.1, 7.7):
        if share * 50 < source_hz / 2:
            assert tone(share, source_hz) < -58, f"{share:g} of the rate would fold"


@pytest.mark.parametrize("source_hz", [72, 100, 1000])
def test_a_recording_is_brought_to_the_rate_as_a_stream_is(source_hz: float) -> None:
    made, _ = windows(20, 20, source_hz)
    rows = np.random.default_rng(5).standard_normal((round(source_hz), 2)).astype(np.float32)
    times = [T0 + round(i * 1e9 / source_hz) for i in range(len(rows))]
    found = [made.add(at, {"a": float(a), "b": float(b)}) for at, (a, b) in zip(times, rows, strict=True)]
    streamed = next(window.rows for window in found if window is not None)
    np.testing.assert_allclose(resampled(rows, source_hz, 50)[:20], streamed, atol=1e-4)
    np.testing.assert_allclose(resampled(rows[:, 0], source_hz, 50)[:20], streamed[:, 0], atol=1e-4)


def test_stamps_that_jitter_do_not_open_the_filter() -> None:
    assert tone(0.3, 200, jitter=0.3) == pytest.approx(0, abs=0.1)
    assert tone(0.9, 200, jitter=0.3) < -20, "what is left is spread thin and folds nowhere"


def test_a_stream_at_the_rate_is_not_filtered() -> None:
    for source_hz in (50, 52, None):
        made, _ = windows(source_hz=source_hz)
        found = [made.add(T0 + i * P, {"a": float(i % 2), "b": 1.0}) for i in range(10)]
        assert found[-1] is not None
        assert found[-1].rows[:, 0].tolist() == [0, 1] * 5


def test_a_faster_stream_is_resampled_nine_rows_behind() -> None:
    made, counters = windows(source_hz=120)
    found = feed(made, [T0 + i * 10**9 // 120 for i in range(80)])
    assert len(found) == 2
    assert np.allclose(found[0][:, 0], HALF_WIDTH + np.arange(10), atol=1e-3)
    assert np.allclose(found[1][:, 0], HALF_WIDTH + 5 + np.arange(10), atol=1e-3)
    assert not counters


def test_the_filter_looks_back_over_no_gap() -> None:
    made, counters = windows(source_hz=200)
    times = [T0 + i * P // 4 for i in range(400) if not 150 <= i < 165]  # three rows and a bit of the model's
    found = [(at, made.add(at, {"a": 0.0 if at < T0 + 150 * P // 4 else 1.0, "b": 1.0})) for at in times]
    windows_after = [(at, window) for at, window in found if window is not None and at > T0 + 150 * P // 4]
    assert counters == {"gaps": 1}
    assert windows_after[0][0] - (T0 + 165 * P // 4) >= (2 * HALF_WIDTH + 9) * P
    assert all((window.rows[:, 0] == 1.0).all() for _, window in windows_after), "nothing of what was before"


def test_a_missing_value_or_a_flag_reaches_as_far_as_the_filter() -> None:
    made, counters = windows(hop=1, source_hz=200)
    found = []
    for i in range(600):
        flag = Quality.UNCERTAIN if i == 400 else Quality.GOOD
        found.append(made.add(T0 + i * P // 4, {"a": None if i == 200 else 1.0, "b": 1.0}, flag))
    made_windows = [window for window in found if window is not None]
    assert counters == {"incomplete": 2 * HALF_WIDTH + 9}
    assert sum(window.quality is Quality.UNCERTAIN for window in made_windows) >= 2 * HALF_WIDTH + 9
    assert made_windows[-1].quality is Quality.GOOD


def test_a_faster_stream_that_leaves_out_rows_of_the_model_is_uncertain() -> None:
    made, counters = windows(hop=1, source_hz=200)
    found: list[Window | None] = [
        made.add(T0 + i * P // 4, {"a": 1.0, "b": 1.0}) for i in range(400) if not 200 <= i < 207
    ]
    doubtful = [window for window in found if window is not None and window.quality]
    assert counters == {"filled": 1}
    assert len(doubtful) >= 10
    assert all(np.allclose(window.rows, 1.0) for window in doubtful)


def test_a_switch_is_on_or_off_and_never_between() -> None:
    for source_hz, missing in ((50.0, 5), (200.0, None)):
        made, _ = windows(length=20, hop=20, source_hz=source_hz, held=[True, False])
        step = round(1e9 / source_hz)
        found = [
            made.add(T0 + i * step, {"a": float(i * step >= 14 * P), "b": float(i * step >= 14 * P)})
            for i in range(250)
            if i != missing
        ]
        rows = next(window.rows for window in found if window is not None)
        assert set(rows[:, 0].tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("declared", "real"), [(100, 200), (400, 41)])
def test_a_faster_stream_that_comes_at_another_rate_than_declared_is_not_inferred(
    declared: float, real: float
) -> None:
    made, counters = windows(source_hz=declared)
    assert not feed(made, [T0 + round(i * 1e9 / real) for i in range(round(real * 2))])
    assert counters["wrong_rate"] > 10


def test_a_stream_that_comes_at_another_rate_than_declared_is_not_inferred() -> None:
    made, counters = windows(source_hz=None)
    assert not feed(made, [T0 + i * P // 2 for i in range(60)])
    assert counters["wrong_rate"] == 11


def test_a_long_window_is_held_to_its_rate_as_a_short_one_cannot_be() -> None:
    for factor, wrong in ((0.96, 0), (1.04, 0), (0.93, 1), (1.07, 1)):
        made, counters = windows(length=500, hop=500, source_hz=None)
        found = feed(made, [T0 + round(i * P * factor) for i in range(500)])
        assert (len(found), counters["wrong_rate"]) == (1 - wrong, wrong)
    made, counters = windows(length=4, hop=4, source_hz=None)
    assert not feed(made, [T0 + i * P // 2 for i in range(4)])
    assert counters == {"wrong_rate": 1}, "four rows at twice the rate are known as well"


@pytest.mark.parametrize("hop", [1, 10])
def test_every_row_is_in_length_over_hop_windows(hop: int) -> None:
    made, _ = windows(hop=hop)
    found = feed(made, [T0 + i * P for i in range(100)])
    assert len(found) == (91 if hop == 1 else 10)


def test_a_stream_a_thousand_times_as_fast_is_too_much() -> None:
    manifest = load(Path(__file__).resolve().parents[4] / "models" / "news2")
    assert isinstance(manifest.input, WindowInput)
    fields = {name: Field() for name in manifest.input.signals}
    assert "let the device send less" in input_mismatch(
        manifest, "d/s", Stream(rate_hz=MOST + 1.0, fields=fields)
    )
    assert not input_mismatch(manifest, "d/s", Stream(rate_hz=MOST, fields=fields))


def test_the_end_of_a_window_shows_whether_it_follows_on() -> None:
    made, _ = windows()
    rows = [*range(20), *range(60, 90)]
    found = [made.add(T0 + i * P, {"a": float(i), "b": 0.0 if i != 74 else None}) for i in rows]
    steps = np.diff([window.end for window in found if window is not None]).tolist()
    assert steps[:2] == [5, 5]
    assert steps[2] > 5, "a gap"
    assert steps[3] > 5, "windows with a missing value are not made"
    assert steps[4:] == [5]


def test_a_wide_window_keeps_64_bits() -> None:
    spec = WindowInput(kind="window", name="x", signals=["a"], rate_hz=50, length=1)
    stream = Stream(fields={"a": Field(t="i64")}, rate_hz=50)
    made = Windows(spec, stream, Counter(), wide=True)
    found = made.add(T0, {"a": 2**53 - 1})
    assert found is not None
    assert int(found.rows[0, 0]) == 2**53 - 1
