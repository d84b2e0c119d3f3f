"""`edgebed sim run SCENARIO`: play a scenario, print the verdicts, write the reports."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from edgebed import signals
from edgebed.scenario.document import find
from edgebed.scenario.pilot_reports import FOLDER
from edgebed.scenario.report import Report
from edgebed.scenario.run import run as play
from wire.errors import ConfigError, on_purpose, unwritable


def run(what: str, given: dict[str, Any], as_json: bool) -> int:
    """Play the scenario of a name or file; return the exit code.

    Raises:
        EdgebedError: the scenario cannot be played, or its report cannot be written.
    """
    try:
        path = find(what)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    for target in (given.get("junit"), given.get("report")):
        if target is not None:
            _write(target, "")  # fails now rather than after the run
    kept: Path | None = given.get("keep")
    if kept is not None and kept.exists() and any(kept.iterdir()):
        raise ConfigError(f"--keep {kept} is not empty: name a new folder")
    # SQLite and MQTT release the interpreter thousands of times a second: a wait of 5 ms each is too long
    sys.setswitchinterval(0.001)
    with tempfile.TemporaryDirectory(prefix="edgebed-scenario-") as folder:
        try:
            report = asyncio.run(_play(path, kept or Path(folder), given))
        except asyncio.CancelledError:
            return 130
        except BaseExceptionGroup as group:
            raise on_purpose(group) or group from group
    click.echo(json.dumps(report.document(), indent=2) if as_json else "\n".join(report.text()))
    if report.evidence.pilots:
        where = f"are in {kept / FOLDER}" if kept else "are written with --keep FOLDER"
        click.echo(f"the reports of its pilots {where}", err=True)
    if "junit" in given:
        _write(given["junit"], report.junit())
    if "report" in given:
        _write(given["report"], report.markdown())
    return report.exit_code if "asserted" in given else 0


async def _play(path: Path, folder: Path, given: dict[str, Any]) -> Report:
    me = asyncio.current_task()
    if me is not None:
        signals.on_end(lambda _: me.cancel())
    say: Callable[[str], None] = partial(click.echo, err=True)
    say(f"{path.stem}: starting broker, collector, devices and agents ...")
    handler = await asyncio.to_thread(_log_to, folder)
    try:
        return await play(path, folder, rate=given.get("rate"), seed=given.get("seed"), say=say)
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _log_to(folder: Path) -> logging.Handler:
    """Log all parts to a file: lost links are part of a scenario and do not belong on the terminal."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / "scenario.log")
    except OSError as error:
        raise unwritable(f"folder {folder}", error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for package in ("edgebed", "agent", "adapters", "collector", "wire"):
        logging.getLogger(package).setLevel(logging.INFO)
    return handler


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(str(path), error) from error
