"""`make bench`: measure the figures of the README; print them and write them to bench/results.md."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wire.clock import NS_PER_S, Clock

PARTS = {
    "inference": "Model runs: the agent's path beside a hand-written loop",
    "isolation": "Models in a process of their own beside models in a thread",
    "model_swap": "Versions of a model: a swap and a roll-back under load, beside the same load alone",
    "shadow": "A second model beside that of a slot",
    "frames": "The camera agent: CPU per frame beside a hand-written capture-infer-decode loop",
    "adapters": "Adapters: CPU per reading and highest rate beside the bare library",
    "cameras": "Four cameras on one agent, and a model too slow for them",
    "outbox": "The outbox: durable 250-byte records in groups of 10, live drain",
    "wear": "Wear: what the device writes for a durable 250-byte record, beside a bare append and SQLite",
    "backlog": "A backlog that drains: how fresh new readings are meanwhile, how fast, how much memory",
    "copies": "Two copies: a node whose messages two collectors must have, beside one",
    "ingest": "The collector: durable samples per second beside mosquitto_sub merely reading",
    "footprint": "The daemon: memory and start",
    "scenarios": "Scenarios: accelerated time, and the same payload at any pace",
    "stall": "A link that stalls for 40 s, and a stop under load, beside ThingsBoard's gateway",
    "fleet": "Wide fleets: CPU of the collector a message, delays and memory with an open page",
    "logins": "A flood of logins and 200 viewers of two tenants while nodes send",
    "history": "Questions to a month of 1,000 nodes while more arrives",
    "dashboard": "The dashboard: first paint and the cost of a further viewer",
    "fleet_page": "The page of a wide fleet: CPU of a page, of a delta, and of a collector while one is open",
}
_SHARED = "Each part is one run; its section names the machine. Machines are shared: compare the ratios."
RESULTS = Path(__file__).parent / "results.md"


def main(wanted: Sequence[str]) -> int:
    """Run the named parts, by default all; each replaces its own section of results.md and no other."""
    unknown = set(wanted) - set(PARTS)
    if unknown:
        print(
            f"unknown part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}", file=sys.stderr
        )
        return 2
    for part in wanted or PARTS:
        print(f"... {part}", file=sys.stderr)
        began_s = Clock().monotonic()
        rows = importlib.import_module(f"bench.{part}").run()
        took_s = Clock().monotonic() - began_s
        section = f"{machine()} Took {took_s:.0f} s.\n\n{table(rows)}\n"
        print(f"## {PARTS[part]}\n\n{section}")
        replace(PARTS[part], section)
    return 0


def replace(title: str, section: str) -> None:
    """Replace one section of results.md, or add it in the order of the parts; every other section stays."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    sections = dict(each.split("\n", 1) for each in f"{text}\n".split("\n## ")[1:])
    if title not in sections:  # it comes before the parts that follow it, and those after it keep their order
        parts = list(PARTS.values())
        later = set(
            parts[parts.index(title) :] if title in parts else []
        )  # a part that runs by itself is last
        at = next((place for place, each in enumerate(sections) if each in later), len(sections))
        listed = list(sections.items())
        sections = dict([*listed[:at], (title, ""), *listed[at:]])
    sections[title] = section
    kept = [f"## {name}\n\n{body.strip()}\n" for name, body in sections.items()]
    RESULTS.write_text("\n".join([f"# Measured by `make bench`\n\n{_SHARED}\n", *kept]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows with the keys of the bench as a Markdown table."""
    lines = ["| what | edgebed | peer or limit | ratio | unit | target |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [_show(row.get(key)) for key in ("what", "ours", "peer", "ratio", "unit", "limit")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> str:
    """The day and the machine, for a section."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    total = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    day = datetime.fromtimestamp(Clock().now_ns() / NS_PER_S, UTC).date()
    kernel = platform.release().partition("-")[0]
    return (
        f"{day}, {cpu}, {os.cpu_count()} cores, {int(total) / 2**20:.0f} GiB, Linux {kernel}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end."
    )


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
