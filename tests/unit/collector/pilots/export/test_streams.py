"""The rows of a stream: windows, types that change meanwhile, and what cannot be sorted."""

from __future__ import annotations

from contextlib import closing

import pytest

from collector.pilots.export import streams
from collector.pilots.export.findings import NOT_COMPARED, Findings
from collector.pilots.export.streams import StreamRows
from collector.store.sqlite_source import SqliteSource
from tests.unit.collector.pilots.kpis.stored_rows import HOUR, NODE, T0, Plant
from wire.errors import EdgebedError, TryAgain

KEY = (NODE, "cell", "production")
SPAN = (T0 * 1000, (T0 + HOUR) * 1000)


@pytest.mark.parametrize("later", ["text", True, 0.5])
def test_a_type_that_comes_while_it_is_exported_is_not_bent(plant: Plant, later: object) -> None:
    plant.commit([plant.data(T0, {"parts": [1, 2]})])
    with closing(SqliteSource(plant.folder)) as source:
        rows = StreamRows(source, KEY, SPAN, Findings())
        assert [each.kind for each in rows.columns() if each.name == "parts"] == ["int"]
        plant.commit([plant.data(T0 + 60_000, {"parts": [later]})])
        with pytest.raises(TryAgain, match="cell/production/parts got values of another type meanwhile"):
            list(rows.batches())


def test_too_many_rows_at_one_moment_are_refused_not_held(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES", 2_000)
    plant.commit([plant.data(T0, {"parts": [1]}) for _ in range(60)])
    with closing(SqliteSource(plant.folder)) as source:
        rows = StreamRows(source, KEY, SPAN, Findings())
        rows.columns()
        with pytest.raises(EdgebedError, match="too many rows at one moment"):
            list(rows.batches())


def test_a_few_rows_are_read_at_a_time(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ROWS", 30)
    for each in plant.series({"parts": list(range(360))}, batch=10):
        plant.commit([each])
    with closing(SqliteSource(plant.folder)) as source:
        rows = StreamRows(source, KEY, SPAN, Findings())
        rows.columns()
        found = [each["parts"].tolist() for each in rows.batches()]
    assert [value for each in found for value in each] == list(range(360))
    assert max(map(len, found)) <= 30


def test_rows_that_were_not_compared_are_named(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_BYTES", 4_000)
    plant.commit([plant.data(T0 + 20_000, {"parts": list(range(200))}, per=100)])
    findings = Findings()
    with closing(SqliteSource(plant.folder)) as source:
        rows = StreamRows(source, KEY, SPAN, findings)
        rows.columns()
        found = [value for each in rows.batches() for value in each["parts"].tolist()]
    assert found == list(range(200))
    assert {each.code for each in findings} == {NOT_COMPARED}


def test_a_stream_without_rows_in_the_span_has_no_columns(plant: Plant) -> None:
    plant.commit([plant.data(T0 - HOUR, {"parts": [1]})])
    with closing(SqliteSource(plant.folder)) as source:
        assert StreamRows(source, KEY, SPAN, Findings()).columns() == []
