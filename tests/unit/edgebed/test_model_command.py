"""`edgebed model`: its output for the shipped package, and one sentence for a wrong folder."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.inference.decoders import ModelError
from edgebed.cli import command, main

PACKAGE = Path(__file__).parents[3] / "models/street-detector"


def test_check_reports() -> None:
    done = CliRunner().invoke(command, ["model", "check", str(PACKAGE), "--json"])
    report = json.loads(done.output)
    assert done.exit_code == 0
    assert report["provider"] == "CPUExecutionProvider"
    assert report["golden"] >= 2
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    shown = CliRunner().invoke(command, ["model", "check", str(PACKAGE)]).output
    assert "street-detector@1.0.0: ok on CPUExecutionProvider" in shown
    assert "golden vectors agree" in shown


def test_what_is_no_package_ends_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such model package"):
        CliRunner().invoke(command, ["model", "check", str(tmp_path / "none")], catch_exceptions=False)


def test_draft_prints_a_manifest() -> None:
    done = CliRunner().invoke(command, ["model", "draft", str(PACKAGE / "model.onnx")])
    assert done.exit_code == 0
    assert "head: fastestdet" in done.output
    assert "size: [320, 240]" in done.output


@pytest.mark.parametrize("task", ["check", "draft"])
def test_an_error_shows_an_odd_name_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    path = tmp_path / "\x1b[31m\u202ered\nb"
    path.write_text("not a model")
    monkeypatch.setattr(sys, "argv", ["edgebed", "model", task, str(path)])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as caught:
            main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    shown = capsys.readouterr().err
    assert caught.value.code == 1
    assert r"\x1b[31m\u202ered" in shown
    assert all(line.isprintable() for line in shown.splitlines())
