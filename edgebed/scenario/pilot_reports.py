"""Writes the reports of a scenario's pilots beside its data: JSON, and a page in each language."""

from __future__ import annotations

from pathlib import Path

from collector.pilots.report.assemble import assemble
from collector.pilots.report.canonical_report import report_bytes
from collector.pilots.report.pages.figures import Lang
from collector.pilots.report.pages.page import page
from collector.store.source import Source
from edgebed.scenario.play import Run
from wire.errors import unwritable

FOLDER = "reports"
_LANGUAGES: tuple[Lang, ...] = ("en", "ko")


def write(folder: Path, source: Source, run: Run, until_ms: int) -> None:
    """Write the report of each pilot, from a store at rest, into a folder of `folder`. Blocks."""
    target = folder / FOLDER
    for name, opened in run.pilots.items():
        report = assemble([opened], source, run.ledger, until_ms)
        try:
            target.mkdir(exist_ok=True)
            (target / f"{name}.json").write_bytes(report_bytes(report))
            for lang in _LANGUAGES:
                (target / f"{name}.{lang}.html").write_text(page(report, lang), encoding="utf-8")
        except OSError as error:
            raise unwritable(f"folder {target}", error) from error
