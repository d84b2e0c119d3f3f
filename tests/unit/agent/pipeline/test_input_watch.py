"""Drift, signals that stand still, and bad pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from agent.inference.reference import PICTURE, Reference, make
from agent.pipeline.input_watch import MAX_SENT, InputSummary, InputWatch, measured
from agent.pipeline.windows import Window
from simulators.plants.cobot import RATE_HZ, SIGNALS, Cobot
from wire.clock import NS_PER_S
from wire.messages import Quality

HOP = 25
Rows = Any


def pieces(rows: Rows) -> Iterator[tuple[int, Rows]]:
    for end in range(HOP, len(rows) + 1, HOP):
        yield round(end / RATE_HZ * NS_PER_S), rows[end - HOP : end].astype(np.float32)


def robot(seed: int, seconds: int, start_s: int = 0) -> Rows:
    return Cobot(seed).block(round(start_s * RATE_HZ), round(seconds * RATE_HZ))


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of six robots, ten minutes each."""
    return make(SIGNALS, 60, [list(pieces(robot(seed, 601))) for seed in range(1_000, 1_006)])


class Watched:
    def __init__(self, reference: Reference | None, names: Any = SIGNALS) -> None:
        self.counters: Counter[str] = Counter()
        self.watch = InputWatch(reference, names, self.counters)
        self.sent: list[InputSummary] = []
        self._end = 0
        self._at_ns = 0

    def rows(self, rows: Rows) -> str:
        for _, piece in pieces(rows):
            self._at_ns += round(HOP / RATE_HZ * NS_PER_S)
            self._end += HOP
            self.watch.came += HOP
            self._keep(self.watch.window(self._at_ns, Window(piece, Quality.GOOD, self._end)))
        return self.watch.reason.code

    def pictures(self, make_one: Callable[[int], Any], many: int, hz: int = 10) -> str:
        for at in range(many):
            self._at_ns += NS_PER_S // hz
            self._keep(self.watch.picture(self._at_ns, make_one(at)))
        return self.watch.reason.code

    def _keep(self, summary: InputSummary | None) -> None:
        if summary is not None:
            self.sent.append(summary)


def changed(rows: Rows, signal: str, change: Callable[[Rows], Rows]) -> Rows:
    rows = rows.copy()
    rows[:, SIGNALS.index(signal)] = change(rows[:, SIGNALS.index(signal)])
    return rows


def test_a_robot_of_the_reference_does_not_drift(reference: Reference) -> None:
    seen = Watched(reference)
    assert seen.rows(robot(1_003, 600)) == ""
    assert seen.counters["input_drift"] == 0
    assert seen.sent == []


@pytest.mark.parametrize(
    ("signal", "change"),
    [
        ("j2_torque", lambda values: values * 2),
        ("j2_position", lambda values: values + 10),
        ("j2_position", np.radians),
        ("j2_velocity", np.negative),
    ],
)
def test_a_changed_sensor_is_named_after_two_windows_and_ends(
    reference: Reference, signal: str, change: Callable[[Rows], Rows]
) -> None:
    seen = Watched(reference)
    rows = robot(1_003, 400)
    assert seen.rows(changed(rows[:4_600], signal, change)) == "", "one window is not enough"
    assert seen.rows(changed(rows[4_600:7_600], signal, change)) == "model-input-drift"
    assert seen.watch.drift.args == {"features": signal}
    assert signal in seen.watch.drift.why
    assert seen.rows(rows[7_600:]) == ""
    assert [each.reason.code for each in seen.sent] == ["model-input-drift", ""]
    assert next(iter(seen.sent[0].detail["features"])) == signal, "what drifted comes first"
    assert seen.sent[0].detail["rows"] == 6_000
    assert seen.counters["input_drift"] >= 2


def test_a_signal_that_stands_still(reference: Reference) -> None:
    seen = Watched(reference)
    still = changed(robot(1_003, 200), "j3_torque", lambda values: np.full_like(values, values.mean()))
    assert seen.rows(still) == "model-input-constant"
    assert seen.watch.reason.args == {"features": "j3_torque"}
    assert seen.rows(robot(1_003, 200)) == ""


def test_a_signal_that_always_stood_still_may() -> None:
    rows = np.column_stack([np.random.default_rng(3).normal(0, 1, 30_000), np.full(30_000, 7.0)])
    seen = Watched(make(["a", "b"], 60, [list(pieces(rows))]), ["a", "b"])
    assert seen.rows(rows) == ""
    rows[:, 1] = 8
    assert seen.rows(rows[:9_100]) == "model-input-drift"


def test_the_columns_are_found_by_name(reference: Reference) -> None:
    less = msgspec.structs.replace(
        reference, features={name: reference.features[name] for name in ("j6_torque", "j1_position")}
    )
    seen = Watched(less)
    assert seen.rows(robot(1_003, 300)) == ""
    assert seen.rows(changed(robot(1_003, 300), "j1_position", lambda values: values + 30))
    assert seen.watch.reason.args == {"features": "j1_position"}


def test_windows_with_gaps_are_not_judged(reference: Reference) -> None:
    """A tenth of the rows of each minute: a cut of the motion that no window of the reference has."""
    watch = InputWatch(reference, SIGNALS, counters := Counter())
    rows = robot(1_003, 6)
    for minute in range(8):
        for at_ns, piece in pieces(rows):
            watch.window(minute * 60 * NS_PER_S + at_ns, Window(piece * 3, Quality.GOOD, 0))
    assert (watch.reason.code, counters) == ("", Counter())


def test_the_summary_is_sent_each_hour_and_fits_a_message() -> None:
    names = [f"s{at}" for at in range(1_024)]
    rows = np.random.default_rng(4).normal(0, 1e6, (400, 1_024))
    found = make(names, 10, [[(at * NS_PER_S, row[None, :]) for at, row in enumerate(rows)]])
    watch, sent = InputWatch(found, names, Counter()), []
    for at in range(7_300):
        window = Window(rows[at % 400][None, :].astype(np.float32), Quality.GOOD, at)
        watch.came, watch.flagged = watch.came + 1, watch.flagged + (at % 2 == 0)
        sent.append(watch.window(at * NS_PER_S, window))
    summaries = [each for each in sent if each is not None]
    assert [each.at_ns // NS_PER_S for each in summaries] == [3_600, 7_200]
    detail = summaries[0].detail
    assert len(msgspec.json.encode(detail)) < MAX_SENT + 1_000
    assert detail["left_out"] + len(detail["features"]) == 1_024
    assert detail["rows"] == 3_600
    assert detail["flagged"] == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("change", "drifts"), [(lambda rows: rows / 1_000, True), (lambda rows: rows * 0.9, False)]
)
def test_a_smaller_unit_of_a_quantity_with_a_wide_range_is_seen(
    sign: int, change: Callable[[Rows], Rows], drifts: bool
) -> None:
    """Of a range from 5 to 500 the margin alone reaches beyond 0, so that any smaller number was inside."""
    rng = np.random.default_rng(8)
    minutes = np.concatenate([[5, 500], rng.uniform(5, 500, 38)])
    rows = sign * np.concatenate([level * rng.uniform(0.8, 1.2, (3_000, 1)) for level in minutes])
    seen = Watched(make(["a"], 60, [list(pieces(rows))]), ["a"])
    assert seen.rows(rows[: 6 * 3_000]) == ""
    assert seen.rows(change(rows[: 4 * 3_000])) == ("model-input-drift" if drifts else "")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("many", [1, HOP, 700])
def test_what_is_sent_is_that_of_all_rows_however_they_come(
    reference: Reference, kind: Any, many: int
) -> None:
    """Windows of any size and overlap, more rows than are kept, and features in another order."""
    names = list(reversed(SIGNALS))
    rows = (robot(1_003, 240)[:, ::-1] * 2).astype(kind)  # that drifts, so it is sent after two windows
    watch, sent = InputWatch(reference, names, Counter()), []
    for end in range(many, len(rows) + 1, many):
        window = Window(rows[max(0, end - many - 10) : end], Quality.GOOD, end)
        sent.append(watch.window(round((end - many) / RATE_HZ * NS_PER_S), window))
    summary = next(each for each in sent if each is not None)
    seen = rows[: summary.detail["rows"]].astype(np.float64)
    assert len(seen) > 100 * RATE_HZ
    for at, name in enumerate(names):
        column, bins = seen[:, at], reference.features[name].bins
        numbers = [column.mean(), ((column - column.mean()) ** 2).sum(), column.min(), column.max()]
        counts = np.bincount(np.digitize(column, bins), minlength=len(bins) + 1)
        expected = [len(seen), *(float(f"{number:.6g}") for number in numbers), *counts.tolist()]
        assert summary.detail["features"][name] == expected, name


def test_numbers_near_the_largest_end_nothing() -> None:
    rows = np.random.default_rng(5).normal(0, 1, (9_000, 1))
    seen = Watched(make(["a"], 10, [list(pieces(rows))]), ["a"])
    huge = Window(np.full((HOP, 1), 1.7e308), Quality.GOOD, 0)
    for at in range(200):
        seen._keep(seen.watch.window(at * NS_PER_S, huge))
    assert seen.watch.drift.code == "model-input-drift"
    assert msgspec.json.encode([each.detail for each in seen.sent])


# -- pictures ----------------------------------------------------------------------------------------------

SCENE = cv2.resize(np.random.default_rng(6).integers(0, 256, (60, 80, 3), dtype=np.uint8), (640, 480))


def scene(at: int) -> Any:
    noise = np.random.default_rng(at).integers(0, 12, SCENE.shape, dtype=np.uint8)
    return cv2.add(np.roll(SCENE, 5 * at, axis=1), noise)


@pytest.mark.parametrize(
    ("picture", "code"),
    [
        (lambda at: scene(at) // 32, "model-input-dark"),
        (lambda at: np.full((480, 640, 3), 255, np.uint8), "model-input-bright"),
        (lambda at: cv2.GaussianBlur(scene(at), (0, 0), 6), "model-input-blurred"),
    ],
)
def test_bad_pictures_are_named_and_end(picture: Callable[[int], Any], code: str) -> None:
    found = make(PICTURE, 10, [[(at * NS_PER_S, measured(scene(at))[None, :]) for at in range(100)]])
    seen = Watched(found, PICTURE)
    assert seen.pictures(scene, 60) == ""
    assert seen.pictures(picture, 12) == "", "one or two looks are not enough"
    assert seen.pictures(picture, 20) == code
    assert seen.counters[code.replace("model-", "").replace("-", "_")] >= 3
    assert seen.pictures(scene, 40) == ""


def test_without_a_reference_only_light_is_judged() -> None:
    seen = Watched(None, PICTURE)
    assert seen.pictures(lambda at: cv2.GaussianBlur(scene(at), (0, 0), 6), 50) == ""
    assert seen.pictures(lambda at: np.zeros((480, 640, 3), np.uint8), 50) == "model-input-dark"
    assert seen.pictures(scene, 50) == ""
    assert (
        seen.pictures(lambda at: np.full((480, 640, 3), 90 + at % 3, np.uint8), 50) == "model-input-blurred"
    )
    assert seen.sent == []


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((2, 9, 3), np.uint8),
        np.zeros((3, 3, 3), np.uint8),
    ],
)
def test_a_picture_of_any_shape_ends_nothing(picture: Any) -> None:
    assert Watched(None, PICTURE).pictures(lambda _at: picture, 20) in ("", "model-input-dark")
