"""The page's arithmetic, run in a real browser."""

from __future__ import annotations

from typing import Any

import pytest

BUFFER = """async () => {
    const { LiveBuffer, Playhead } = await import("/static/charts/buffer.js");
    const found = {};
    const rows = (from, n, late = 0) => ({
        t: Array.from({ length: n }, (_, i) => from + 20 * i), late,
        f: { a: Array.from({ length: n }, (_, i) => from + 20 * i) },
    });
    const long = new LiveBuffer(30_000);
    for (let at = 0; at < 3_600_000; at += 2000) long.push(rows(at, 100));
    found.bounded = long.t.length;
    found.newest = long.newest("a");

    const mixed = new LiveBuffer(30_000);
    mixed.push(rows(0, 100));
    mixed.push(rows(6000, 100));
    found.holes = mixed.aligned(["a"]).data[1].filter((y) => y === null).length;
    mixed.push(rows(2000, 200, 1));
    mixed.push(rows(2000, 200, 1));
    found.filled = mixed.aligned(["a"]).data[1].filter((y) => y === null).length;
    found.ordered = mixed.t.every((at, i) => i === 0 || at > mixed.t[i - 1]);
    found.count = mixed.t.length;
    found.late = mixed.aligned(["a"]).lateSpans;
    mixed.push({ t: [9000], late: 0, f: { b: [true] } });
    const { a, b } = mixed.columns;
    found.columns = [a.at(-1), b.at(-1), b.length === mixed.t.length];

    const head = new Playhead();
    let edge = 0, backwards = 0, ahead = 0;
    for (let at = 0; at < 20_000; at += 33) {
        const second = Math.floor(at / 1000);
        if (second !== head.second) {
            head.second = second;
            head.arrived(1_000_000 + second * 1000, at + 120);
        }
        const next = head.edge(at + 120, 33);
        if (next < edge) backwards += 1;
        if (at > 5000 && next > head.end) ahead += 1;
        edge = next;
    }
    found.playhead = [backwards, ahead];

    const opened = new Playhead();
    opened.began(1_000_000, 4000, 90_000);
    found.stored = [opened.edge(90_000, 33), opened.edge(91_000, 1000), 90_000 - opened.heard];
    opened.arrived(1_004_200, 91_100); // its wait is not the delay of a row
    opened.began(1_000_000, 4000, 91_100);
    found.first = [opened.edge(91_100, 100), opened.delays.length, opened.heard];

    const jerky = new Playhead();
    found.ranBack = 0;
    for (let at = 0, before = 0; at < 20_000; at += 33) {
        const kept = Math.floor(at / 1000) % 5 < 3 ? 120 : 2500; // now and then a line is slow
        if (at % 990 === 0) jerky.arrived(1_000_000 + at - kept, at);
        const next = jerky.edge(at, 33);
        if (next < before) found.ranBack += 1;
        before = next;
    }
    return found;
}"""

SAMPLED = """async () => {
    const { sampled } = await import("/static/charts/buffer.js");
    const series = (width, to) => {
        const t = Array.from({ length: Math.floor(to / width) }, (_, i) => (i + 0.5) * width);
        return { t, mean: t };
    };
    const times = series(50, 30_000).t;
    const error = (x, i) => (x === null ? 0 : Math.abs(x - times[i]));
    const off = (answer) => Math.max(...sampled(answer, times).map(error));
    return {
        same: off(series(50, 30_000)),
        other: off(series(46, 30_000)),
        short: sampled(series(46, 29_000), times).filter((x) => x === null).length,
        none: sampled({ t: [], mean: [] }, [0, 50]),
    };
}"""

SHAPE = """async () => {
    const { shape } = await import("/static/charts/series.js");
    const answer = (t, late = []) => ({
        t, mean: t.map(() => 1), min: t.map(() => 0), max: t.map(() => 2), n: t.map(() => 1),
        late: t.map((at) => (late.includes(at) ? 1 : 0)), gaps: [], from: 0, to: 60_000,
    });
    const seconds = (from, to) => Array.from({ length: to - from }, (_, i) => (from + i) * 1000);
    const holed = answer([...seconds(0, 20), ...seconds(30, 60)], [30_000, 31_000]);
    const found = { hole: shape(holed, 60_000) };
    found.declared = shape({ ...holed, gaps: [[19_000, 31_000, "quota"]] }, 60_000).voids;
    const silent = answer(seconds(0, 30));
    found.trailing = shape(silent, 50_000).voids;
    found.future = shape(silent, 30_500).voids;
    const empty = answer([0, 500, 1000]);
    empty.mean = [null, null, null];
    found.empty = shape(empty, 60_000).x.length;
    return found;
}"""


@pytest.fixture
def page(watched: Any) -> Any:
    return watched.open(wait=".fleet-row[data-node]")


def test_the_live_buffer_is_bounded_ordered_and_knows_its_holes(page: Any) -> None:
    found = page.evaluate(BUFFER)
    assert found["bounded"] <= 30_000 * 1.5 / 20 + 101
    assert found["newest"] == 3_599_980
    assert (found["holes"], found["filled"]) == (1, 0)
    assert found["ordered"]
    assert found["count"] == 400
    assert found["late"] == [[2000, 5980]]
    assert found["columns"] == [None, 1, True]
    backwards, ahead = found["playhead"]
    assert backwards == 0
    assert ahead == 0, "the chart ran past its data"
    assert found["stored"] == [1_000_000, 1_000_000, 4_000]
    assert found["first"] == [1_004_200, 0, 91_100]
    assert found["ranBack"] == 0, "the chart ran backwards when data came late"


def test_series_with_other_points_keep_their_times(page: Any) -> None:
    found = page.evaluate(SAMPLED)
    assert found["same"] == 0
    assert 0 < found["other"] <= 23
    assert found["short"] == 19, "no value is invented after the last point"
    assert found["none"] == [None, None]


def test_holes_differ_from_declared_gaps_and_from_the_future(page: Any) -> None:
    found = page.evaluate(SHAPE)
    hole = found["hole"]
    assert hole["voids"] == [[20_000, 30_000]]
    assert hole["mean"].count(None) == 1
    assert [y for y in hole["late"] if y is not None] == [1, 1]
    assert hole["lateSpans"] == [[30_000, 32_000]]
    assert found["declared"] == []
    assert found["trailing"] == [[30_000, 50_000]]
    assert found["future"] == []
    assert found["empty"] == 0
