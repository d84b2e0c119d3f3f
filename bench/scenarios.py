"""Measure the simulated seconds per real second of each testbed; compare the data at x1 and x50."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import yaml

from edgebed.scenario.document import find
from edgebed.scenario.report import Report
from edgebed.scenario.run import run as play

TESTBEDS = ("robot", "mobility", "healthcare", "smart-city")
FAST = 50.0
COMPARED_S = 10  # the part that is played at x1 too


def run() -> list[dict[str, Any]]:
    """Return two rows per testbed: its speed at x50 at most, and the streams equal at x1 and x50."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgebed-scenarios-") as name:
        for testbed in TESTBEDS:
            rows += _measure(Path(name), testbed)
    return rows


def _measure(folder: Path, testbed: str) -> list[dict[str, Any]]:
    whole = _play(find(testbed), folder / f"{testbed}-whole", FAST)
    short = _short(find(testbed), folder)
    slow, quick = (_hashes(_play(short, folder / f"{testbed}-{rate:g}", rate)) for rate in (1.0, FAST))
    same = [name for name in slow if slow[name] == quick.get(name)]
    return [
        {
            "what": f"{testbed}: simulated seconds a second",
            "ours": whole.evidence.run.rate,
            "peer": FAST,
            "ratio": whole.evidence.run.rate / FAST,
            "unit": f"x; asked for x{FAST:g}; {_held(whole)}",
        },
        {
            "what": f"{testbed}: streams whose payload is the same at x1 and x{FAST:g}",
            "ours": len(same),
            "peer": len(slow),
            "unit": f"streams, {COMPARED_S} s of each" + _others(slow, same),
            "limit": "all",
        },
    ]


def _play(path: Path, folder: Path, rate: float) -> Report:
    return asyncio.run(play(path, folder, rate=rate, seed=None, say=lambda _: None))


def _short(path: Path, folder: Path) -> Path:
    document = yaml.safe_load(path.read_text())
    for agent in document["agents"].values():
        agent["config"] = str((path.parent / agent["config"]).resolve())
    document |= {"duration_s": COMPARED_S, "timeline": [], "assert": [{"lost": 0, "duplicates": 0}]}
    short = folder / path.name
    short.write_text(yaml.safe_dump(document))
    return short


def _hashes(report: Report) -> dict[str, str]:
    streams = report.evidence.streams.items()
    return {name: stream.sha256 for name, stream in streams if len(stream.table)}


def _held(report: Report) -> str:
    held = sum(verdict.state == "ok" for verdict in report.verdicts)
    return f"{held} of {len(report.verdicts)} assertions hold"


def _others(slow: dict[str, str], same: list[str]) -> str:
    others = [name for name in slow if name not in same]
    return f"; not {', '.join(others)}" if others else ""
