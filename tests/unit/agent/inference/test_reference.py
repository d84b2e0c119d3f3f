"""reference.json: what is made of input, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.reference import FILE, MAX_BYTES, Reference, Summary, make, range_of, written
from wire.clock import NS_PER_S

RNG = np.random.default_rng(7)


def made(seconds: int = 200) -> Reference:
    """Two features at 10 Hz: a normal one, and one that stays 3."""
    rows = np.column_stack([RNG.normal(5, 2, seconds * 10), np.full(seconds * 10, 3.0)])
    return make(["a", "b"], 10, [[(at * NS_PER_S // 10, row[None, :]) for at, row in enumerate(rows)]])


@pytest.fixture
def package(packages: Any) -> Path:
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4, "hop": 2}
    output = {"decoder": "anomaly", "threshold": 10}
    return packages.write(packages.constant(np.ones(1)), name="mean", input=window, output=output)


def test_a_reference_is_part_of_the_manifest_and_of_its_hash(package: Path) -> None:
    plain = load_package(package).manifest
    assert plain.reference is None
    found = made()
    (package / FILE).write_bytes(written(found))
    with_reference = load_package(package).manifest
    assert with_reference.reference == found
    assert with_reference.hash != plain.hash
    assert (found.windows, found.rows, found.features["b"].bins) == (19, 100, [3.0])


Spoil = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda it: it["features"]["a"]["bins"].reverse(), "features.a: bins must rise"),
        (lambda it: it["features"]["a"]["bins"].__setitem__(1, it["features"]["a"]["bins"][0]), "must rise"),
        (lambda it: it["features"]["a"].update(bins=list(range(1_000))), "length <= 31"),
        (lambda it: it["features"]["a"]["low"].pop(), "low and high must have 14 numbers"),
        (lambda it: it["features"]["a"]["low"].__setitem__(0, 2), "low must not be above high"),
        (lambda it: it["features"]["a"]["high"].__setitem__(0, 1e300), "<= 1"),
        (lambda it: it["features"]["a"]["high"].__setitem__(0, None), "got `null`"),
        (
            lambda it: it["features"].update(z=it["features"].pop("a")),
            "features.z: the input has no such",
        ),
        (lambda it: it["features"].clear(), "length >= 1"),
        (lambda it: it.update(window_s=0.001), ">= 10"),
        (lambda it: it.update(windows=2), ">= 8"),
        (lambda it: it.update(rows=0), ">= 1"),
        (lambda it: it.update(v=2), "<= 1"),
        (lambda it: it.update(more=1), "unknown field"),
    ],
)
def test_a_hostile_reference_is_refused_with_its_line(package: Path, spoil: Spoil, why: str) -> None:
    document = json.loads(written(made()))
    spoil(document)
    (package / FILE).write_text(json.dumps(document))
    with pytest.raises(ModelError) as caught:
        load_package(package)
    assert why in str(caught.value)
    assert FILE in str(caught.value)
    assert "manifest.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"v":NaN}', b"[" * 100_000, written(made()).replace(b"3.0", b"NaN")],
)
def test_a_reference_that_cannot_be_read_is_refused(package: Path, body: bytes) -> None:
    (package / FILE).write_bytes(body)
    with pytest.raises(ModelError, match="make it again: edgebed model reference"):
        load_package(package)


def test_a_million_bins_and_links_are_refused(package: Path, tmp_path: Path) -> None:
    document = json.loads(written(made()))
    document["features"]["a"]["bins"] = list(range(1_000_000))
    (package / FILE).write_text(json.dumps(document))
    assert (package / FILE).stat().st_size > MAX_BYTES
    with pytest.raises(ModelError, match=r"reference\.json"):
        load_package(package)
    (package / FILE).unlink()
    (tmp_path / "other.json").write_bytes(written(made()))
    (package / FILE).symlink_to(tmp_path / "other.json")
    with pytest.raises(ModelError, match="not a regular file: it is a link"):
        load_package(package)


def test_merged_summaries_are_those_of_all_rows() -> None:
    rows = RNG.normal([1_000, -3, 0], [0.1, 5, 0], (999, 3))
    bins = [[999.9, 1_000.1], [-3.0], []]
    whole, parts = Summary(bins), Summary(bins)
    whole.add(rows)
    for part in np.array_split(rows, 7):
        one = Summary(bins)
        one.add(part)
        parts.merge(one)
    np.testing.assert_array_equal(parts.counts, whole.counts)
    np.testing.assert_allclose(parts.derived(), whole.derived(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.mean, rows.mean(0))
    np.testing.assert_allclose(np.sqrt(whole.m2 / 999), rows.std(0), atol=1e-12)
    assert whole.counts.sum(1).tolist() == [999] * 3
    assert whole.numbers(1, 1)[0] == 999
    assert len(whole.numbers(1, 1)) == 5 + 2


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("many", [1, 2, 63, 70_000])
def test_a_summary_is_that_of_numpy_feature_by_feature(kind: Any, many: int) -> None:
    """Numbers on an edge, beside it, and of any size; 0.1 is between two numbers of 32 bits."""
    edges = [[-1e30, -0.1, 0.1, 0.3, 16_777_217.0], [0.0], [], [1e-42, 0.7, 1e30]]
    beside = [one for each in edges for edge in each for one in (np.float32(edge), edge)]
    beside += [
        np.nextafter(np.float32(edge), np.float32(way)) for edge in beside for way in (-np.inf, np.inf)
    ]
    rng = np.random.default_rng(many)
    rows = np.where(rng.random((many, 4)) < 0.5, rng.choice(beside, (many, 4)), rng.normal(0, 1, (many, 4)))
    rows = rows.astype(kind)
    summary = Summary(edges)
    summary.add(rows)
    for at, bins in enumerate(edges):
        column = rows[:, at].astype(np.float64)
        counts = np.bincount(np.digitize(column, bins), minlength=len(bins) + 1)
        assert summary.counts[at, : len(bins) + 1].tolist() == counts.tolist()
        assert (summary.low[at], summary.high[at]) == (column.min(), column.max())
        assert summary.mean[at] == pytest.approx(column.mean(), rel=1e-12, abs=1e-12 * np.abs(column).max())
        assert summary.m2[at] == pytest.approx(((column - column.mean()) ** 2).sum(), rel=1e-9)
    assert summary.n == many
    assert summary.counts.sum(1).tolist() == [many] * 4


def test_the_range_has_every_window_of_the_reference() -> None:
    rows = RNG.normal(5, 2, (2_000, 2))
    found = make(["a", "b"], 10, [[(at * NS_PER_S // 10, row[None, :]) for at, row in enumerate(rows)]])
    low, high = range_of(found)
    for begin in range(0, 1_900, 100):
        summary = Summary([each.bins for each in found.features.values()])
        summary.add(rows[begin : begin + 100])
        assert (summary.derived() >= low - 1e-4).all()
        assert (summary.derived() <= high + 1e-4).all()


def test_a_short_recording_gives_no_reference() -> None:
    with pytest.raises(ModelError, match="have 6 whole windows of 10 s; a reference needs 8: record longer"):
        made(65)


@pytest.mark.parametrize("far", [3.3e38, -1e31, 1e308, np.inf, np.nan])
def test_a_recording_with_a_number_that_no_reference_has_gives_none(far: float) -> None:
    rows = np.zeros((2_000, 2))
    rows[5, 1] = far
    with pytest.raises(ModelError, match=r"in b: a reference has numbers up to 1e\+30"):
        make(["a", "b"], 10, [[(at * NS_PER_S // 10, row[None, :]) for at, row in enumerate(rows)]])
