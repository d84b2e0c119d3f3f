"""Exports of real day files, read back with another library than the one that wrote them."""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
import zstandard
from click.testing import CliRunner

from collector.pilots.export import streams, tables
from collector.pilots.report.canonical_report import read_report
from collector.store import source
from collector.store.chunk import ChunkRows, pack
from collector.store.clock_skew import Offset
from collector.store.folder import day_files
from edgebed.cli import command
from tests.unit.collector.pilots.export.conftest import Export, opened
from tests.unit.collector.pilots.kpis.stored_rows import HOUR, NODE, OTHER, T0, Plant
from wire.codec import encode
from wire.errors import ConfigError, EdgebedError
from wire.messages import AgentInfo, Birth, ClockState, Device, Field, Quality, Stream
from wire.pilot.frozen import envelope, read_signed

FILE = "streams/acme.trial.hall.cell-01.cell.production.parquet"


def read(path: Path, query: str = "select * from '{}'") -> list[tuple[Any, ...]]:
    with duckdb.connect() as db:
        db.execute("SET TimeZone='UTC'")
        return db.execute(query.format(path)).fetchall()


def types(path: Path) -> dict[str, str]:
    return {name: kind for name, kind, *_ in read(path, "describe select * from '{}'")}


def sums_of(folder: Path) -> dict[str, str]:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {file: digest for digest, file in (line.split("  ", 1) for line in lines)}


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((folder / "export.json").read_bytes())
    return found


def test_rows_that_come_during_an_export_are_not_called_added(
    plant: Plant, exported: Export, tmp_path: Path
) -> None:
    times = iter(range(3 * HOUR, 9 * HOUR, HOUR))
    for each in plant.series({"rows": list(range(180)), "parts": [each * 60 for each in range(180)]}):
        plant.commit([each])
    exported("out", meanwhile=lambda: plant.commit([plant.data(T0 + next(times), {"parts": [9_000.0]})]))
    findings = read_report((tmp_path / "out/report.json").read_bytes()).findings
    assert not [each for each in findings if each.code.startswith("rows-")]


def test_rows_that_retention_removes_during_an_export_are_called_removed(
    plant: Plant, exported: Export, tmp_path: Path, clock: Any
) -> None:
    for each in plant.series({"parts": list(range(360))}):
        plant.commit([each])
    clock.ms += 24 * HOUR
    plant.commit([plant.data(T0 + 24 * HOUR, {"parts": [9_000.0]})])
    for _ in range(3):
        clock.ms += 2_000
        plant.store.work()
    times = iter((True,))

    def prune() -> None:
        if next(times, False):
            plant.store.prune(day_files(plant.folder)[0], lambda *_: True, lambda _size: None)

    found = exported("out", meanwhile=prune).findings
    assert [each.code for each in found] == ["data-pruned"]
    report = read_report((tmp_path / "out/report.json").read_bytes())
    assert "rows-fewer" not in {each.code for each in report.findings}
    assert {each.code for each in report.kpis[0].periods} == {"data-pruned"}


def test_rows_come_back_in_the_order_of_time_with_their_types(
    plant: Plant, exported: Export, tmp_path: Path
) -> None:
    columns = {"running": [True, None], "parts": [7, None], "load": [0.5, None], "state": ["a", None]}
    sent = plant.series({"rows": list(range(120)), **{name: each * 60 for name, each in columns.items()}})
    random.Random(1).shuffle(sent)
    for each in sent:
        plant.commit([each])
    made = exported("out")
    assert not made.findings, list(made.findings)
    kinds = types(tmp_path / "out" / FILE)
    assert kinds["_time"] == "TIMESTAMP WITH TIME ZONE"
    assert (kinds["running"], kinds["parts"], kinds["load"], kinds["state"]) == (
        "BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR",
    )  # fmt: skip
    asked = "select epoch_us(_time), rows, running, parts, load, state, _quality, _clock, _late from '{}'"
    rows = read(tmp_path / "out" / FILE, asked)
    assert [row[:2] for row in rows] == [((T0 + at * 10_000) * 1000, at) for at in range(120)]
    assert rows[0][2:] == (True, 7, 0.5, "a", 0, None, False)
    assert rows[1][2:] == (None, None, None, None, 0, None, False)
    stored = sum(one.rows_stored for one in plant.ledger.entries())
    assert stored == len(rows) == made.files[0].rows, "as many as the ledger counts"


def test_only_the_span_of_the_plan_is_exported(plant: Plant, exported: Export, tmp_path: Path) -> None:
    plant.commit(plant.series({"parts": list(range(1_000))}, start_ms=T0 - HOUR))
    for at in (T0 - 1, T0, T0 + 2 * HOUR - 1, T0 + 2 * HOUR):
        plant.commit([plant.event(at, "cell/alarm")])
    exported("out", opened(hours=(0, 1, 1.5, 2)))
    times = read(tmp_path / "out" / FILE, "select min(epoch_ms(_time)), max(epoch_ms(_time)) from '{}'")
    assert times == [(T0, T0 - HOUR + 999 * 10_000)]
    events = read(tmp_path / "out/events.parquet", "select epoch_ms(time) from '{}'")
    assert events == [(T0,), (T0 + 2 * HOUR - 1,)]
    periods = read(tmp_path / "out/periods.parquet", "select period, arm, epoch_ms(counted_from) from '{}'")
    assert periods == [(0, "off", T0), (1, "on", T0 + HOUR), (2, "off", T0 + HOUR * 3 // 2)]


def test_flags_of_time_and_quality_come_with_each_row(plant: Plant, exported: Export, tmp_path: Path) -> None:
    graded = [int(Quality.GOOD), int(Quality.OUT_OF_RANGE), int(Quality.NOT_FINITE)]
    plant.offset = Offset(40, 5)
    plant.commit([plant.data(T0, {"load": [1.0, 99.0, None]}, q=graded, clk=int(ClockState.NTP))])
    exported("out")
    names = "load, _quality, _clock, _clock_behind_ms, _clock_error_ms"
    rows = read(tmp_path / "out" / FILE, "select * from '{}'".replace("*", names))
    assert rows == [(1.0, 0, 1, 40, 5), (99.0, 1, 1, 40, 5), (None, 2, 1, 40, 5)]


def test_values_that_differ_in_type_are_json_and_nothing_is_lost(
    plant: Plant, exported: Export, tmp_path: Path
) -> None:
    long = "가" * 4_000
    for at, columns in enumerate(
        (
            {
                "mixed": [1, "1", True, None],
                "large": [2**53 + 1, None, -(2**63), 2**63 - 1],
                "text": [long] * 4,
            },
            {"mixed": [0.5] * 4, "half": [1, 2, 3, 4], "text": ["\0;'\"\n", "", None, "../../x"]},
            {"half": [0.5, None, 2.5, 3.5], "none": [None] * 4, "flag": [True] * 4},
        )
    ):
        plant.commit([plant.data(T0 + at * HOUR // 2, columns)])
    assert not exported("out").findings
    kinds = types(tmp_path / "out" / FILE)
    assert {name: kinds[name] for name in ("mixed", "large", "half", "none", "flag")} == {
        "mixed": "VARCHAR", "large": "BIGINT", "half": "DOUBLE", "none": "DOUBLE", "flag": "BOOLEAN",
    }  # fmt: skip
    rows = read(tmp_path / "out" / FILE, "select mixed, large, half, text, flag from '{}'")
    assert [row[0] for row in rows] == ["1", '"1"', "true", None, *["0.5"] * 4, *[None] * 4]
    assert [row[1] for row in rows[:4]] == [2**53 + 1, None, -(2**63), 2**63 - 1]
    assert [row[2] for row in rows[4:]] == [1.0, 2.0, 3.0, 4.0, 0.5, None, 2.5, 3.5]
    assert [row[3] for row in rows[3:8]] == [long, "\0;'\"\n", "", None, "../../x"]
    assert [row[4] for row in rows] == [*[None] * 8, *[True] * 4]


def test_units_and_texts_of_the_declaration_are_in_the_files(
    plant: Plant, exported: Export, tmp_path: Path, empty_group: Any
) -> None:
    import arro3.io

    fields = {"load": Field(unit="N.m", desc="torque 토크"), "doc": Field(t="json")}
    device = Device(type="cell", streams={"production": Stream(fields=fields)})
    born = Birth(
        ts=T0, boot="ab" * 4, sess=1, ep="ab" * 4, agent=AgentInfo(ver="1"), devices={"cell": device}
    )
    plant.commit([plant.data(T0, {"load": [1.0], "doc": ["{}"]})])
    group = empty_group()
    group.states = {f"birth/{NODE}": encode(born)}
    plant.store.commit(group)
    exported("out")
    schema = arro3.io.read_parquet(tmp_path / "out" / FILE).schema
    assert schema.field("load").metadata_str == {"unit": "N.m", "description": "torque 토크"}
    assert schema.field("doc").metadata_str == {"encoding": "json"}
    assert "unit N.m" in (tmp_path / "out/croissant.json").read_text()


def test_events_and_switches_have_their_detail(plant: Plant, exported: Export, tmp_path: Path) -> None:
    detail = {
        "pilot": "trial-1",
        "hash": "ab" * 32,
        "phase": "trial",
        "period": 0,
        "planned": "on",
        "from": T0 - 5,
    }
    other = {**detail, "pilot": "other"}
    wrong: dict[str, Any] = {**detail, "period": "x", "planned": 3, "from": True, "value": "high"}
    plant.commit(
        [
            plant.event(
                T0 - 5,
                "_/exposure",
                detail={**detail, "actual": "off", "restart": True},
                code="pilot-not-able",
            ),
            plant.event(T0 + 1, "_/exposure", detail=other),
            plant.event(T0 + 2, "_/exposure", detail=wrong),
            plant.event(
                T0 + 3, "cell/found", sev=3, model="m@1", value=2, clk=1, n=4, detail={"b": [1], "a": None}
            ),
        ]
    )
    exported("out")
    names = 'epoch_ms(time), plan, period, planned, actual, epoch_ms("from"), value, restart, code'
    assert read(tmp_path / "out/exposure.parquet", "select * from '{}'".replace("*", names)) == [
        (T0 - 5, "ab" * 32, 0, "on", "off", T0 - 5, None, True, "pilot-not-able"),
        (T0 + 2, "ab" * 32, None, None, None, None, None, False, None),
    ]
    asked = "select device, type, severity, model, value, clock, detail, more from '{}' where device = 'cell'"
    (event,) = read(tmp_path / "out/events.parquet", asked)
    assert event == ("cell", "found", 3, "m@1", 2.0, 1, '{"a":null,"b":[1]}', '{"n":4}')


def test_the_kpis_of_each_period_are_those_of_the_evaluation(
    plant: Plant, exported: Export, tmp_path: Path
) -> None:
    plant.commit(plant.series({"parts": list(range(720))}))
    exported("out", opened(hours=(0, 1, 2)))
    asked = "select kpi, period, arm, status, value, rows, completeness from '{}'"
    found = read(tmp_path / "out/kpis.parquet", asked)
    values = plant.values(opened()[1].plan.plan.kpis[0], hours=(0, 1, 2))
    assert found == [
        ("asked", one.index, one.arm, one.status, one.value, one.rows, one.completeness) for one in values
    ]
    assert found[0][4] == 359.0


def test_the_report_is_that_of_the_same_store(plant: Plant, exported: Export, tmp_path: Path) -> None:
    plant.commit(plant.series({"parts": list(range(720))}))
    exported("out", opened(hours=(0, 1, 2)))
    report = read_report((tmp_path / "out/report.json").read_bytes())
    assert report.plan_hash == opened(hours=(0, 1, 2))[1].hash
    assert [each.value for each in report.kpis[0].periods] == [359.0, 360.0]
    plan = opened(hours=(0, 1, 2))[1].plan
    wrong = msgspec.structs.replace(plan.plan, kpis=(msgspec.structs.replace(plan.plan.primary, unit="kg"),))
    body = msgspec.json.encode(envelope(msgspec.structs.replace(plan, plan=wrong).payload))
    exported("large", (body, read_signed(body)))
    (found,) = about(tmp_path / "large")["findings"]
    assert (found["code"], found["where"]) == ("report-not-made", "report.json")
    assert "kg" in found["why"]
    assert read(tmp_path / "large" / FILE, "select count(*) from '{}'") == [(720,)], "the rows are exported"
    assert not (tmp_path / "large/report.json").exists()


def test_the_same_data_give_the_same_bytes(
    plant: Plant, exported: Export, tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in (NODE, OTHER):
        for each in plant.series({"parts": list(range(720)), "state": ["a", None, "bc"] * 240}, node=node):
            plant.commit([each])
        plant.commit([plant.event(T0 + at, "cell/alarm", node=node) for at in range(300)])
    plan = opened(NODE, OTHER)
    exported("first", plan)
    clock.ms += 700_000
    for _ in range(3):  # packs the rows that came one by one
        plant.store.work()
        clock.ms += 2_000
    exported("packed", plan)
    monkeypatch.setattr(streams, "ROWS", 50)
    monkeypatch.setattr(streams, "MAX_BYTES", 5_000)
    monkeypatch.setattr(tables, "EVENTS", 20)
    monkeypatch.setattr(source, "EVENTS_A_PAGE", 7)
    made = exported("in-parts", plan)
    assert not made.findings
    assert sums_of(tmp_path / "first") == sums_of(tmp_path / "packed") == sums_of(tmp_path / "in-parts")
    for name in sums_of(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "in-parts" / name).read_bytes()
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "first", check=False)
    assert done.returncode == 0
    files = {str(path.relative_to(tmp_path / "first")) for path in (tmp_path / "first").rglob("*.*")}
    assert files == set(sums_of(tmp_path / "first")), "every file has its sum"


def test_a_message_in_two_day_files_comes_once(
    plant: Plant, exported: Export, tmp_path: Path, clock: Any
) -> None:
    sent = plant.series({"parts": list(range(120))})
    plant.commit(sent)
    clock.ms += 86_400_000
    again = Plant.__new__(Plant)
    from collector.ledger.ledger import Ledger

    again.store, again.ledger, again.offset = plant.store, Ledger(), plant.offset
    again.commit(sent)
    assert len(day_files(plant.folder)) == 2
    exported("out")
    assert read(tmp_path / "out" / FILE, "select count(*), count(distinct _time) from '{}'") == [(120, 120)]


def test_a_damaged_and_a_changed_day_file_are_named(
    plant: Plant, exported: Export, tmp_path: Path, packed_at_once: None
) -> None:
    plant.commit(plant.series({"level": [float(at % 7) for at in range(720)]}))
    plant.commit(plant.series({"level": [1.0] * 720}, path="cell/other"))
    plant.commit([plant.event(T0 + 1_000 * at, "cell/alarm") for at in range(3)])
    (path,) = day_files(plant.folder)
    with closing(sqlite3.connect(path)) as db:
        one, two = db.execute("SELECT id, body FROM chunk ORDER BY id").fetchall()
        plain = bytearray(zstandard.ZstdDecompressor().decompress(one[1]))
        plain[-8 * 400 : -8 * 399] = struct.pack("<d", 3.25)  # within its limits
        db.execute("UPDATE chunk SET body = ? WHERE id = ?", (zstandard.compress(bytes(plain)), one[0]))
        harmed = bytearray(two[1])
        harmed[len(harmed) // 2] ^= 4
        db.execute("UPDATE chunk SET body = ? WHERE id = ?", (bytes(harmed), two[0]))
        db.execute("UPDATE event SET ts = 0 WHERE id = 1")
        db.execute("UPDATE event SET sev = 4 WHERE id = 2")
        db.commit()
    exported("out")
    found = {(one["code"], one["where"]): one["why"] for one in about(tmp_path / "out")["findings"]}
    assert found[("data-changed", f"{NODE}/cell/production/level")].endswith("UTC differ from their sums")
    assert path.name in found[("data-damaged", f"{NODE}/cell/other")]
    events = [each for each in about(tmp_path / "out")["findings"] if "/event/" in each["where"]]
    assert {each["where"] for each in events} == {f"{NODE}/event/cell/alarm, {path.name}"}
    assert [each["from_ms"] - T0 for each in events] == [0, 1_000], "also the one that was moved away"
    marks = read(
        tmp_path / "out" / "events.parquet", "select more from '{}' where type = 'alarm' order by time"
    )
    assert marks == [('{"changed":true}',), (None,)]
    assert ("data-damaged", path.name) in found
    croissant = (tmp_path / "out/croissant.json").read_text()
    assert "differ from their sums" in croissant
    assert path.name in croissant


def test_what_retention_removed_is_named(plant: Plant, exported: Export, tmp_path: Path, clock: Any) -> None:
    for day in (0, 1):
        plant.commit(plant.series({"parts": list(range(360))}, start_ms=T0 + 24 * day * HOUR))
        clock.ms += 86_400_000
    plant.commit([plant.event(T0 + 50 * HOUR, "cell/alarm")])
    clock.ms += 700_000
    for _ in range(3):
        plant.store.work()
        clock.ms += 2_000
    assert plant.store.prune(day_files(plant.folder)[0], lambda _node, _cls: True, lambda _size: None)
    exported("out", opened(hours=(0, 24, 48)))
    (found,) = about(tmp_path / "out")["findings"]
    assert (found["code"], found["where"]) == ("data-pruned", NODE)
    assert "360 rows" in found["why"]
    assert read(tmp_path / "out" / FILE, "select count(*) from '{}'") == [(360,)]
    exported("later", opened(hours=(48, 49, 50)))
    assert not about(tmp_path / "later")["findings"], "what was received before the pilot is not of it"


def test_names_of_a_changed_day_file_stay_in_the_folder(
    plant: Plant, exported: Export, tmp_path: Path, packed_at_once: None
) -> None:
    plant.commit([plant.data(T0, {"parts": [1, 2]})])
    rows = ChunkRows(NODE, "cell", "production", "ab" * 8, 1, False, T0, messages=[(1, 2)], count=2)
    rows.times = [plant_times()]
    rows.columns = {"../parts": [1, 2], "_time": [3, 4], "good": [5, 6]}
    (path,) = day_files(plant.folder)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE chunk SET body = ?", (pack(rows).body,))
        db.execute(
            "INSERT INTO stream VALUES (90, ?, '../../up', 'x'), (91, ?, 'cell', '/tmp/x')", (NODE, NODE)
        )
        db.commit()
    exported("out")
    codes = [one["code"] for one in about(tmp_path / "out")["findings"]]
    assert codes.count("name-not-valid") == 4
    assert read(tmp_path / "out" / FILE, "select good from '{}'") == [(5,), (6,)]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "store"]


def plant_times() -> Any:
    import numpy as np

    return np.array([T0 * 1000, T0 * 1000 + 10_000_000])


def test_numbers_of_a_changed_day_file_are_left_out_not_fatal(
    plant: Plant, exported: Export, tmp_path: Path, packed_at_once: None
) -> None:
    plant.commit([plant.data(T0, {"parts": [1, 2]})])
    plant.commit([plant.event(T0 + at, "cell/alarm", sev=1, clk=1) for at in (1, 2, 3)])
    rows = ChunkRows(NODE, "cell", "production", "ab" * 8, 1, False, T0, count=2)
    rows.times, rows.columns = [plant_times()], {"parts": [5, 6]}
    rows.messages = [(2**64 - 1, 1), (7, 1)]  # 2**64 - 1 is beyond all numbers of messages
    (path,) = day_files(plant.folder)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE chunk SET body = ?", (pack(rows).body,))
        db.execute("UPDATE event SET ts = ts + 0.5, sev = 1.5, type = x'ff' WHERE seq = 2")
        db.execute(
            """UPDATE event SET body = '{"clk":true,"value":"x","why":7,"detail":[1]}' WHERE seq = 3"""
        )
        db.commit()
    exported("out")
    assert not (tmp_path / "out" / FILE).exists()
    found = {(one["code"], one["where"]): one["why"] for one in about(tmp_path / "out")["findings"]}
    assert path.name in found[("data-damaged", f"{NODE}/cell/production")]
    asked = "select epoch_ms(time), type, severity, clock, value, why, detail from '{}' order by received"
    assert read(tmp_path / "out/events.parquet", asked) == [
        (None, "", None, 1, None, None, None),
        (T0 + 2, "alarm", 1, None, None, None, "[1]"),
        (T0 + 3, "alarm", 1, 1, None, None, None),
    ]


def test_another_folder_is_never_written_over(plant: Plant, exported: Export, tmp_path: Path) -> None:
    plant.commit([plant.data(T0, {"parts": [1]})])
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "link"):
        with pytest.raises(ConfigError, match="is there already and stays as it is"):
            exported(name)
    with pytest.raises(ConfigError, match="create its folder"):
        exported("missing/out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "out", "store"]


def test_versions_that_do_not_follow_each_other_are_refused(
    plant: Plant, exported: Export, tmp_path: Path
) -> None:
    plant.commit([plant.data(T0, {"parts": [1]})])
    first = opened()
    second = opened(version=2, previous=first[1].hash, reason="target")
    with pytest.raises(ConfigError, match="version 2 of trial-1 does not follow version 1"):
        exported("out", first, opened(version=2, previous="ab" * 32, reason="target"))
    exported("out", second, first)
    assert about(tmp_path / "out")["plans"] == [first[1].hash, second[1].hash]
    assert (tmp_path / "out/plan-v1.plan.json").read_bytes() == first[0]


def test_without_its_library_an_export_says_what_to_install(
    exported: Export, plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant.commit([plant.data(T0, {"parts": [1]})])
    monkeypatch.setitem(sys.modules, "arro3.core", None)
    with pytest.raises(EdgebedError, match=r"pip install 'edgebed\[export\]'"):
        exported("out")
    assert not (tmp_path / "out").exists()


def command_words(plant: Plant, tmp_path: Path) -> list[str]:
    (tmp_path / "pilot.plan.json").write_bytes(opened()[0])
    words = ["export", tmp_path / "pilot.plan.json", "--store", plant.folder, "--out", tmp_path / "out"]
    return ["pilot", *map(str, words)]


def test_the_command_exports_beside_an_open_store(plant: Plant, tmp_path: Path) -> None:
    plant.commit(plant.series({"parts": list(range(120))}))
    words = [*command_words(plant, tmp_path), "--published", "2027-04-01", "--license", "CC-BY-4.0"]
    before = {path.name: path.stat().st_mtime_ns for path in day_files(plant.folder)}
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "10 files, 120 rows of streams" in done.output
    assert {path.name: path.stat().st_mtime_ns for path in day_files(plant.folder)} == before, "it only reads"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700, "only its owner reads it"
    plant.commit(plant.series({"parts": [1, 2]}, start_ms=T0 + HOUR))
    (path,) = day_files(plant.folder)
    again = CliRunner().invoke(command, words)
    assert isinstance(again.exception, ConfigError)
    (day := path.with_name("000000-2026-11-21.db")).write_bytes(b"not a day file")
    words[words.index(str(tmp_path / "out"))] = str(tmp_path / "doubtful")
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 3, (done.output, done.exception)
    assert day.name in done.output


def test_a_full_disk_leaves_nothing(plant: Plant, tmp_path: Path) -> None:
    plant.commit(plant.series({"load": [random.Random(at).random() for at in range(1_200)]}))
    words = command_words(plant, tmp_path)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    ignored = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    program = f"{ignored}; from edgebed.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 78, done.stderr
    assert "out cannot be written: File too large" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == ["pilot.plan.json", "store"]
