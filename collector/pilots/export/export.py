"""Writes the export of a pilot: a folder that is there when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from collector.ledger.ledger import Ledger
from collector.pilots.export import tables
from collector.pilots.export.croissant import About, croissant
from collector.pilots.export.findings import NAME_NOT_VALID, REPORT_NOT_MADE, Findings
from collector.pilots.export.parquet import Column, Written, arrow, write_file, write_table
from collector.pilots.export.streams import StreamRows
from collector.pilots.report.assemble import assemble
from collector.pilots.report.canonical_report import report_bytes
from collector.pilots.report.from_store import undisturbed
from collector.store.group import Saved
from collector.store.source import Source
from wire.codec import decode
from wire.errors import ConfigError, EdgebedError, TryAgain, WireError, unwritable
from wire.messages import Birth, Field
from wire.pilot.frozen import Opened
from wire.topics import ID, NODE_ITSELF

EXPORT_FORMAT = "edgebed-export/1"
STREAMS = "streams"


@dataclass(frozen=True, slots=True)
class Stored:
    """A store: what reads it and its ledger, and what it saved."""

    source: Source
    saved: Saved
    ledger: Callable[[], Ledger]  # as it is saved now: a collector may be running
    now_ms: int  # periods that end later are to come


@dataclass(frozen=True, slots=True)
class Made:
    """An export that is whole."""

    files: list[Written]
    findings: Findings


def write(plans: Mapping[bytes, Opened], stored: Stored, out: Path, about: About, software: str) -> Made:
    """Write the data of a pilot to the new folder `out`; `plans` are the envelopes of its versions.

    Raises:
        ConfigError: the plans are not versions of one plan, or `out` is there or cannot be written.
        TryAgain: the disk is full.
        EdgebedError: the library is not installed; or as every question to a source.
    """
    arrow()
    ordered = _versions(plans)
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} is there already and stays as it is: choose another --out")
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise unwritable(str(out), error) from error
    try:
        found = _Export(ordered, stored, made, about, software).written()
        _sync(made)
        made.rename(out)
    except OSError as error:
        raise unwritable(str(out), error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return found


def _versions(plans: Mapping[bytes, Opened]) -> list[tuple[bytes, Opened]]:
    """The versions of a plan, the newest last."""
    ordered = sorted(plans.items(), key=lambda one: one[1].plan.version)
    for (_, before), (_, after) in pairwise(ordered):
        if after.plan.plan.pilot != before.plan.plan.pilot or after.plan.previous != before.hash:
            raise ConfigError(
                f"version {after.plan.version} of {after.plan.plan.pilot} does not follow version "
                f"{before.plan.version} of {before.plan.plan.pilot}: name the newest, or all of one plan"
            )
    return ordered


class _Export:
    """One export, in its temporary folder."""

    def __init__(
        self, plans: Sequence[tuple[bytes, Opened]], stored: Stored, root: Path, about: About, software: str
    ) -> None:
        self._plans = plans
        self._opened = plans[-1][1]
        self._stored = stored
        self._root = root
        self._about = about
        self._software = software
        self._findings = Findings()
        self._files: list[Written] = []
        self._outboxes: set[str] = set()
        periods = self._opened.plan.schedule.periods
        self._span = periods[0].start_ms * 1000, periods[-1].end_ms * 1000

    def written(self) -> Made:
        source, plan = self._stored.source, self._opened.plan.plan
        source.suspects = set()
        (self._root / STREAMS).mkdir()
        names: list[dict[str, Any]] = []
        for node in dict.fromkeys(plan.nodes):
            names += self._streams(node)
        events = tables.event_batches(source, plan.nodes, self._span)
        self._table("events.parquet", tables.EVENT_COLUMNS, events, "the events of the nodes")
        for each in tables.changed_events(source, plan.nodes, self._span):
            why = "an event does not agree with its checksum"
            self._findings.add_changed(
                each.why, why, (max(0, each.start_us), min(each.end_us, self._span[1]))
            )
        exposure = tables.exposure_batches(source, self._opened.plan, self._span[1] // 1000)
        self._table("exposure.parquet", tables.EXPOSURE_COLUMNS, exposure, "what was applied from when on")
        periods = [tables.batch(tables.PERIOD_COLUMNS, tables.period_rows(self._opened.plan))]
        self._table("periods.parquet", tables.PERIOD_COLUMNS, periods, "the schedule of the frozen plan")
        self._report()
        for envelope, opened in self._plans:
            file = f"plan-v{opened.plan.version}.plan.json"
            self._files.append(
                write_file(
                    self._root, file, envelope, f"the frozen plan, version {opened.plan.version}, signed"
                )
            )
        self._findings.add_files(source.suspects | source.damaged)
        self._findings.add_pruned(self._stored.ledger().pruned, plan.nodes, self._span)
        self._about_it(names)
        return Made(self._files, self._findings)

    def _table(self, file: str, columns: Sequence[Column], batches: Any, text: str) -> None:
        self._files.append(write_table(self._root, file, columns, batches, text))

    def _streams(self, node: str) -> Iterator[dict[str, Any]]:
        """Write the streams of a node, and name what each file has."""
        source = self._stored.source
        for device, streams in sorted(source.streams(node).items()):
            for stream in sorted(streams):
                if not ((device == NODE_ITSELF or ID.fullmatch(device)) and ID.fullmatch(stream)):
                    why = f"no node sends a stream {device[:40]!r}/{stream[:40]!r}: it is left out"
                    self._findings.add(NAME_NOT_VALID, node, why)
                    continue
                key, declared = (node, device, stream), self._declared(node, device, stream)
                rows = StreamRows(source, key, self._span, self._findings, declared)
                if not (columns := rows.columns()):
                    continue
                file = f"{STREAMS}/{'.'.join((*node.split('/'), device, stream))}.parquet"
                self._table(file, columns, rows.batches(), f"the rows of {device}/{stream} of {node}")
                self._outboxes |= {f"{node}:{ep}" for ep in rows.outboxes}
                yield {
                    "file": file,
                    "node": node,
                    "device": device,
                    "stream": stream,
                    "rows": self._files[-1].rows,
                }

    def _declared(self, node: str, device: str, stream: str) -> Mapping[str, Field]:
        """The fields of a stream as the newest birth of its node declares them."""
        try:
            birth = decode(self._stored.saved.states.get(f"birth/{node}", b""), Birth)
        except (WireError, msgspec.MsgspecError):
            return {}
        found = birth.devices.get(device)
        return found.streams[stream].fields if found and stream in found.streams else {}

    def _report(self) -> None:
        """Write the report and the KPIs of its periods, or note why there is none."""
        newest = self._stored.ledger
        try:
            versions = [opened for _, opened in self._plans]
            source, now_ms = self._stored.source, self._stored.now_ms
            report = undisturbed(newest, lambda ledger: assemble(versions, source, ledger, now_ms, newest))
        except TryAgain:
            raise
        except EdgebedError as error:  # such as too many rows in a period: the data are exported all the same
            self._findings.add(REPORT_NOT_MADE, "report.json", str(error))
            return
        rows = [
            tables.kpi_row(kpi.id, kpi.unit, msgspec.structs.asdict(each))
            for kpi in report.kpis
            for each in kpi.periods
        ]
        kpis = [tables.batch(tables.KPI_COLUMNS, rows)]
        self._table("kpis.parquet", tables.KPI_COLUMNS, kpis, "the KPIs of each period")
        self._files.append(
            write_file(self._root, "report.json", report_bytes(report), "the report of the pilot")
        )

    def _about_it(self, streams: Sequence[Mapping[str, Any]]) -> None:
        """Write `export.json`, `croissant.json`, and the sums of all files."""
        found = list(self._findings)
        document = {
            "format": EXPORT_FORMAT,
            "software": self._software,
            "pilot": self._opened.plan.plan.pilot,
            "plans": [opened.hash for _, opened in self._plans],
            "from_ms": self._span[0] // 1000,
            "to_ms": self._span[1] // 1000,
            "streams": streams,
            "tables": {each.file: each.rows for each in self._files if each.columns},
            "findings": found,
            "more_findings": self._findings.more,
        }
        self._json("export.json", document, "what the export has, and what is damaged, changed or gone")
        doubts = [f"{each.where}: {each.why}" for each in found]
        outboxes = sorted(self._outboxes)
        self._json(
            "croissant.json",
            croissant(self._opened, self._about, self._files, outboxes, self._software, doubts=doubts),
            "",
        )
        lines = "".join(f"{each.sha256}  {each.file}\n" for each in self._files)
        write_file(self._root, "SHA256SUMS", lines.encode())

    def _json(self, file: str, document: Any, text: str) -> None:
        content = msgspec.json.format(msgspec.json.encode(document, order=None), indent=1) + b"\n"
        self._files.append(write_file(self._root, file, content, text))


def _sync(folder: Path) -> None:
    """Have the files of a folder on disk before it gets its name."""
    for path in (*sorted(folder.rglob("*")), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
