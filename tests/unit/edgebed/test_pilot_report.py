"""`edgebed pilot report`: the answer in plain text, the report as a file, and the same bytes once more."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from agent.inference.signing.signature import new_key
from agent.pilots.signatures import sign
from collector.store import landed
from collector.store.folder import day_files
from edgebed.cli import command
from tests.unit.collector.pilots.kpis.stored_rows import Plant
from tests.unit.collector.pilots.report.played_pilot import PLAN, PlayedPilot, changed
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.pilot.canonical import canonical
from wire.pilot.frozen import envelope

PRIVATE, PUBLIC = new_key()
OTHER = new_key()[1]


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[PlayedPilot]:
    plant = Plant(tmp_path / "store", Clock())
    made = PlayedPilot(plant, PLAN)
    made.play()
    signed = envelope(made.newest.payload, (sign(made.newest.payload, PRIVATE),))
    (tmp_path / "line.plan.json").write_bytes(msgspec.json.encode(signed))
    (tmp_path / "acme.pem").write_bytes(PUBLIC)
    (tmp_path / "other.pem").write_bytes(OTHER)
    yield made
    plant.store.close()


def run(folder: Path, *more: object, plan: str = "line.plan.json") -> Result:
    words = ["pilot", "report", folder / plan, "--store", folder / "store", *more]
    return CliRunner().invoke(command, list(map(str, words)))


def test_the_answer_is_one_sentence_with_its_numbers(tmp_path: Path, pilot: PlayedPilot) -> None:
    done = run(tmp_path, "--trust", tmp_path / "acme.pem", "--out", tmp_path / "report.json")
    assert done.exit_code == 0, done.output
    answer = done.output.splitlines()
    assert answer[:2] == ["line-1: Is the level lower?", "met"]
    assert answer[2].startswith("  level: on 7.9886 (10), off 10.0382 (10)")
    assert "effect -20.4% [-22.3%, -18.5%]; target -5.0%: met" in answer[2]
    assert answer[3] == f"as of 2026-11-23 09:20:00 Asia/Seoul, plan {pilot.newest.hash[:12]}, over"
    assert json.loads((tmp_path / "report.json").read_text())["word"] == "met"


def test_a_recomputed_report_is_equal_also_after_the_rows_were_packed(
    tmp_path: Path, pilot: PlayedPilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, "--out", tmp_path / "report.json").exit_code == 0
    again = run(tmp_path, "--recompute", tmp_path / "report.json")
    assert (again.exit_code, again.output.partition(": ")[2]) == (
        0, "equal, byte for byte, to the report that the stored data give\n",
    )  # fmt: skip
    monkeypatch.setattr(landed, "PACK_AFTER_MS", 0)
    monkeypatch.setattr("collector.store.store.WORK_EVERY_S", 0.0)  # the lines above may take less than that
    pilot.plant.store.work()
    with closing(sqlite3.connect(day_files(tmp_path / "store")[-1])) as db:
        assert db.execute("SELECT count(*) FROM raw").fetchone() == (0,)
    assert run(tmp_path, "--recompute", tmp_path / "report.json").exit_code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda doc: doc.update(word="not-met"), 'word is "not-met", and from the stored data it is "met"'),
        (lambda doc: doc["kpis"][0]["effect"].update(low=-0.5), "kpis[0].effect.low is -0.5, and from"),
        (lambda doc: doc["kpis"][0]["periods"].pop(), "kpis[0].periods[19] is not there, and from"),
        (lambda doc: doc["ran"][3].update(on=0.25), "ran[3].on is 0.25, and from the stored data it is"),
        (lambda doc: doc.update(software="0.0.1"), ""),  # another release
    ],
)
def test_a_changed_report_is_found_with_its_first_difference(
    tmp_path: Path, pilot: PlayedPilot, change: Any, said: str
) -> None:
    assert run(tmp_path, "--out", tmp_path / "report.json").exit_code == 0
    doc = json.loads((tmp_path / "report.json").read_text())
    change(doc)
    (tmp_path / "report.json").write_bytes(canonical(doc))
    done = run(tmp_path, "--recompute", tmp_path / "report.json")
    assert (done.exit_code, said in done.output) == (3 if said else 0, True), done.output


def test_rows_that_came_later_are_found(tmp_path: Path, pilot: PlayedPilot) -> None:
    assert run(tmp_path, "--out", tmp_path / "report.json").exit_code == 0
    start_ms = pilot.newest.plan.schedule.trial[4].start_ms
    pilot.plant.commit([pilot.plant.data(start_ms + 5_000, {"level": [50.0]})])
    done = run(tmp_path, "--recompute", tmp_path / "report.json")
    assert done.exit_code == 3
    assert "kpis[0].effect.estimate is" in done.output or "custody" in done.output, done.output
    assert done.output.endswith("; 1 message came since: make the report again\n"), done.output


def test_a_plan_that_no_trusted_key_signed_is_refused(tmp_path: Path, pilot: PlayedPilot) -> None:
    done = run(tmp_path, "--trust", tmp_path / "other.pem")
    assert isinstance(done.exception, EdgebedError)
    assert "is not signed by a key of --trust" in str(done.exception)


def test_a_tampered_plan_is_refused(tmp_path: Path, pilot: PlayedPilot) -> None:
    other = PlayedPilot(pilot.plant, changed(("min: 0.05", "min: 0.01"))).newest
    forged = envelope(other.payload, (sign(pilot.newest.payload, PRIVATE),))
    (tmp_path / "forged.plan.json").write_bytes(msgspec.json.encode(forged))
    done = run(tmp_path, "--trust", tmp_path / "acme.pem", plan="forged.plan.json")
    assert isinstance(done.exception, EdgebedError)
    assert "not a signature by the key acme" in str(done.exception)
    done = run(
        tmp_path, plan="forged.plan.json"
    )  # without keys its hash is not the one that the node recorded
    assert "never recorded the plan" in done.output
    assert "followed a plan that is not among these versions" in done.output
    assert "not shown: something else was applied than planned" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "http://127.0.0.1:1"], "name --store or --url, one of them"),
        (["--recompute", "r.json", "--until", "5"], "takes its moment from the report"),
        (["--until", "yesterday"], "'yesterday' is not a date and time"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    tmp_path: Path, pilot: PlayedPilot, words: list[str], said: str
) -> None:
    (tmp_path / "r.json").write_text("{}")
    done = run(tmp_path, *[str(tmp_path / each) if each == "r.json" else each for each in words])
    assert said in (done.output or "") + str(done.exception)


def test_a_report_on_the_way_has_no_verdict(tmp_path: Path, pilot: PlayedPilot) -> None:
    done = run(tmp_path, "--until", "2026-11-23 08:20")
    assert done.output.splitlines()[1] == "not shown: the trial is not over"
    assert "on 7.97" in done.output or "on 8.0" in done.output


@pytest.mark.parametrize(("name", "more"), [("report.html", []), ("report.txt", ["--format", "html"])])
def test_the_report_as_a_page_also_from_a_file(
    tmp_path: Path, pilot: PlayedPilot, name: str, more: list[str]
) -> None:
    out = tmp_path / name
    assert run(tmp_path, "--out", tmp_path / "report.json").exit_code == 0
    assert run(tmp_path, "--out", out, "--lang", "ko", *more).exit_code == 0
    direct = out.read_text()
    assert direct.startswith("<!doctype html>")
    assert "목표 달성" in direct
    words = ["pilot", "report", "--from", tmp_path / "report.json", "--out", out, "--lang", "ko", *more]
    done = CliRunner().invoke(command, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[1] == "met"
    assert out.read_text() == direct


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "report.json", "--url", "http://localhost:1"], "--from takes --out, --format and --lang"),
        (["--from", "report.json", "--format", "html"], "--format needs --out"),
        (["--url", "http://localhost:1"], "name FILE"),
        (["--from", "other.json"], "other.json: it is not a report of a pilot"),
    ],
)
def test_words_of_a_page_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "other.json").write_text('{"format": "other"}')
    done = CliRunner().invoke(command, ["pilot", "report", *words])
    assert done.exit_code != 0
    assert said in " ".join(f"{done.output} {done.exception}".split())


def test_a_report_of_another_release_or_without_a_primary_kpi_is_printed(
    tmp_path: Path, pilot: PlayedPilot
) -> None:
    path = tmp_path / "report.json"
    assert run(tmp_path, "--out", path).exit_code == 0
    found = json.loads(path.read_bytes())
    found["kpis"][0]["primary"] = False
    found["findings"] = [{"code": "newer", "where": "line", "args": {"rows": 3}}, {"code": "amended"}]
    path.write_bytes(canonical(found))
    done = CliRunner().invoke(command, ["pilot", "report", "--from", str(path)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "! newer: rows 3, where line" in done.output
