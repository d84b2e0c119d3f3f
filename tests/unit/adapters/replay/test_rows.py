"""Rows of recordings with various time formats, missing cells and torn ends."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import AdapterError, OptionsError, ProtocolViolation
from adapters.replay.options import Column, ReplayLayout, ReplayOptions
from adapters.replay.rows import NO_TIME, RecordedRows, Row, open_text
from wire.messages import Quality

TEN_NS = 1_700_000_000_000_000_000


def rows(path: Path, **options: Any) -> tuple[list[Row], Counter[str]]:
    chosen = ReplayOptions(**{"file": path, "fields": {"a": "a"}, "time": "t", **options})
    counters: Counter[str] = Counter()
    with open_text(chosen) as file:
        return list(RecordedRows(ReplayLayout.of(chosen), file, counters)), counters


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("2023-11-14T22:13:20Z", {}),
        ("2023-11-14 22:13:20", {}),
        ("2023-11-15 07:13:20", {"timezone": "Asia/Seoul"}),
        ("2023-11-15T07:13:20+09:00", {"timezone": "Asia/Seoul"}),
        ("1700000000", {}),
        ("1700000000.0", {}),
        ("1700000000000", {"time_unit": "ms"}),
        ("1700000000000000000", {"time_unit": "ns"}),
        ("14/11/2023 22.13.20", {"time_format": "%d/%m/%Y %H.%M.%S"}),
    ],
)
def test_times_in_every_usual_spelling(tmp_path: Path, cell: str, options: dict[str, Any]) -> None:
    found, _ = rows(write(tmp_path / "r.csv", f"t,a\n{cell},1\n"), **options)
    assert found == [(TEN_NS, {"a": 1.0}, Quality.GOOD)]


def test_a_time_in_two_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "Date,Time,a\n14/11/2023,22:13:20,1\n")
    found, _ = rows(path, time=["Date", "Time"], time_format="%d/%m/%Y %H:%M:%S")
    assert found[0][0] == TEN_NS


def test_the_same_rows_from_json_lines_and_packed(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"t": 1_700_000_000 + i, "a": i / 2, "n": i}) + "\n" for i in range(5))
    table = "n,t,a\n" + "".join(f"{i},{1_700_000_000 + i},{i / 2}\n" for i in range(5))
    files = [
        write(tmp_path / "r.jsonl", lines),
        write(tmp_path / "r.jsonl.gz", gzip.compress(lines.encode())),
        write(tmp_path / "r.csv.gz", gzip.compress(table.encode())),
        write(tmp_path / "r.csv", b"\xef\xbb\xbf" + table.replace("\n", "\r\n").encode()),
    ]
    fields = {"a": "a", "n": Column(column="n", t="i64")}
    results = [rows(path, fields=fields) for path in files]
    assert all(result == results[0] for result in results)
    assert results[0][0][3] == (TEN_NS + 3_000_000_000, {"a": 1.5, "n": 3}, Quality.GOOD)


def test_missing_and_bad_cells_are_null_flagged_and_counted(tmp_path: Path) -> None:
    cells = ["1.5", "", "-200", "-200.0", "NA", "abc", "nan", "inf", "1_0"]
    text = "t,a\n" + "".join(f"{1_700_000_000 + i},{cell}\n" for i, cell in enumerate(cells))
    found, counters = rows(write(tmp_path / "r.csv", text), missing=[-200, "NA"])
    assert [row[1]["a"] for row in found] == [1.5] + [None] * 8
    bad = [Quality.WRONG_TYPE, Quality.NOT_FINITE, Quality.NOT_FINITE, Quality.WRONG_TYPE]
    assert [row[2] for row in found] == [Quality.GOOD] * 5 + bad
    assert counters == {"missing_cells": 4, "bad_cells": 4}


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("f64", "1e-3", 0.001),
        ("f64", "1_0", None),
        ("i64", "-7", -7),
        ("i64", "1.5", None),
        ("bool", "True", True),
        ("bool", "0", False),
        ("bool", "maybe", None),
        ("str", "서울", "서울"),
    ],
)
def test_cells_become_the_declared_type(tmp_path: Path, kind: Any, cell: str, value: object) -> None:
    path = write(tmp_path / "r.csv", f"t,a\n1700000000,{cell}\n".encode("cp949"))
    found, _ = rows(path, encoding="cp949", fields={"a": Column(column="a", t=kind)})
    assert found[0][1] == {"a": value}
    assert (found[0][2] is Quality.WRONG_TYPE) == (value is None)


@pytest.mark.parametrize(
    ("name", "content", "left", "counted"),
    [
        ("r.csv", "t,a,b\n1700000000,1,2\n1700000001,1", 1, {"torn_lines": 1}),
        ("r.csv", "t,a,b\n1700000000,1,2\n17000", 1, {"torn_lines": 1}),
        ("r.csv", 't,a,b\n1700000000,1,2\n1700000001,1,"x', 1, {"torn_lines": 1}),
        ("r.csv", "t,a,b\n1700000000,1,2\n1700000001,1,2", 2, {"unfinished_lines": 1}),
        ("r.csv", "t,a,b\n1700000000,1,2\nnever,1,2\n", 1, {"bad_times": 1}),
        ("r.jsonl", '{"t":1700000000,"a":1}\n{"t":17000', 1, {"torn_lines": 1}),
        ("r.jsonl", '{"t":1700000000,"a":1}\n{"t":1700000001,"a":2}', 2, {}),
        ("r.jsonl", '{"t":1700000000,"a":1}\n[1,2]\n{}\n' + "[" * 100_000 + "\n", 1, None),
        ("r.csv", "", 0, None),
    ],
)
def test_torn_and_bad_lines_are_left_out_and_counted(
    tmp_path: Path, name: str, content: str, left: int, counted: dict[str, int] | None
) -> None:
    path = write(tmp_path / name, content)
    if not content:
        with pytest.raises(ProtocolViolation, match="no column"):
            rows(path)
        return
    found, counters = rows(path)
    assert len(found) == left
    if counted is not None:
        assert counters == counted
    if "unfinished_lines" in counters:
        assert [row[2] for row in found] == [Quality.GOOD, Quality.UNCERTAIN]


def test_a_packed_file_that_was_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    text = "t,a\n" + "".join(f"{1_700_000_000 + i},{i * 0.37}\n" for i in range(5_000))
    path = write(tmp_path / "r.csv.gz", gzip.compress(text.encode())[:-2_000])
    found, counters = rows(path)
    assert 100 < len(found) < 5_000
    assert counters["torn_lines"] == 1


def test_without_a_time_column_rows_have_no_time(tmp_path: Path) -> None:
    found, _ = rows(write(tmp_path / "r.csv", "a\n1\n2\n"), time="", rate_hz=10)
    assert [(row[0], row[1]["a"]) for row in found] == [(NO_TIME, 1.0), (NO_TIME, 2.0)]


def test_a_missing_or_double_column_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "t,b,b,c\n")
    with pytest.raises(ProtocolViolation, match=r"no column 'a'; there are t, b, b, c"):
        rows(path)
    with pytest.raises(ProtocolViolation, match="2 columns 'b'"):
        rows(path, fields={"a": "b"})


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "t,a\n1700000000," + "1" * 3_000_000)
    with pytest.raises(ProtocolViolation, match="a line of more than"):
        rows(path)


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"time": ""}, "rate_hz"),
        ({"rate": "asap"}, "recorded"),
        ({"rate": 0.0}, "above 0"),
        ({"timezone": "Mars/Olympus"}, "timezone 'Mars/Olympus' is not known on this machine: use"),
        ({"encoding": "klingon"}, "klingon"),
        ({"file": Path("r.parquet")}, "format"),
        ({"fields": {"A B": "a"}}, "field name"),
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(OptionsError, match=part):
        ReplayLayout.of(ReplayOptions(**{"file": Path("r.csv"), "fields": {"a": "a"}, "time": "t", **wrong}))


@given(content=st.binary(max_size=200), name=st.sampled_from(["r.csv", "r.jsonl", "r.csv.gz"]))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = write(tmp_path_factory.getbasetemp() / name, b"t,a\n" + content if name == "r.csv" else content)
    try:
        for _, values, _ in rows(path)[0]:
            assert set(values) == {"a"}
    except AdapterError:
        pass
