"""The report of a scenario, as text, Markdown, JSON and JUnit XML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgebed import junit
from edgebed.junit import Case
from edgebed.scenario.document import Scenario
from edgebed.scenario.evidence import Evidence, StreamEvidence
from edgebed.scenario.judge import Verdict

_SHOWN = 6  # fields per stream in the Markdown report; JSON has all


@dataclass(frozen=True)
class Report:
    """The result of a scenario."""

    name: str
    scenario: Scenario
    seed: int
    pace: float  # the requested pace
    evidence: Evidence
    verdicts: Sequence[Verdict]

    @property
    def exit_code(self) -> int:
        """0 when every assertion holds, 1 when one fails, 3 when an agent was left out."""
        if any(verdict.state == "failed" for verdict in self.verdicts):
            return 1
        return 3 if self.evidence.left_out else 0

    def line(self) -> str:
        """Return the closing line."""
        states = [verdict.state for verdict in self.verdicts]
        held, skipped = states.count("ok"), states.count("skipped")
        run = self.evidence.run
        return (
            f"{self.name}: {held} of {len(states)} assertions hold"
            + (f", {skipped} could not be judged" if skipped else "")
            + f"; {self.scenario.duration_s:g} s in {run.took_s:.1f} s (x{run.rate:.1f}),"
            f" up after {run.startup_s:.1f} s"
        )

    def text(self) -> Iterator[str]:
        """Yield the lines for a terminal."""
        marks = {"ok": "ok     ", "failed": "FAILED ", "skipped": "skipped"}
        for verdict in self.verdicts:
            expected = f" (expected {verdict.expected})" if verdict.state == "failed" else ""
            yield f"{marks[verdict.state]} {verdict.name}: {verdict.found}{expected}"
        yield ""
        for stream in self.evidence.streams.values():
            yield f"{stream.name}: {_rows(stream)}  sha256 {stream.sha256}"
        yield from (f"note: {note}" for note in self._notes())
        yield ""
        yield self.line()

    def _notes(self) -> list[str]:
        left_out = [f"agent {name} did not take part: {why}" for name, why in self.evidence.left_out.items()]
        return left_out + self.evidence.run.notes

    def markdown(self) -> str:
        """Return the report as a Markdown page: assertions, streams, truth and result, events."""
        run, out = self.evidence.run, [f"# {self.scenario.title or self.name}", ""]
        out += [self.line() + ".", ""]
        out += [f"Seed {self.seed}, pace x{self.pace:g} at most, {self.scenario.broker} broker.", ""]
        out += _table(
            ("", "assertion", "expected", "found"),
            [(verdict.state, verdict.name, verdict.expected, verdict.found) for verdict in self.verdicts],
        )
        out += ["", "## Streams", ""]
        out += _table(
            ("stream", "rows expected", "rows stored", "fields", "good", "sha256"),
            [
                (s.name, _or(s.expected), len(s.table), len(s.table.fields), _good(s), f"`{s.sha256[:16]}`")
                for s in self.evidence.streams.values()
            ],
        )
        out += ["", "## Truth and result", ""]
        out += _table(
            ("field", "unit", "true mean", "stored mean", "mean error", "largest"), list(self._errors())
        )
        out += ["", "## Events", ""]
        out += _table(("device", "type", "events"), list(self._events()))
        out += ["", "## Custody", "", ", ".join(f"{key} {value:,}" for key, value in run.totals.items()), ""]
        slow = sorted(run.held_s.items(), key=lambda item: -item[1])[:5]
        if slow:
            out += [
                "The clock waited longest for " + ", ".join(f"{n} ({s:.1f} s)" for n, s in slow) + ".",
                "",
            ]
        out += [f"- {note}" for note in self._notes()]
        return "\n".join(out) + "\n"

    def _errors(self) -> Iterator[tuple[object, ...]]:
        for stream in self.evidence.streams.values():
            for name in stream.compared[:_SHOWN]:
                error, (stored, true) = stream.error(name), stream.mean(name)
                info = stream.declared.fields.get(name)
                if error is not None:
                    figures = (_figure(true), _figure(stored), _figure(error[0]), _figure(error[1]))
                    yield (f"{stream.name} {name}", info.unit if info else "", *figures)
            if len(stream.compared) > _SHOWN:
                yield (f"{stream.name}: {len(stream.compared) - _SHOWN} more", "", "", "", "", "")

    def _events(self) -> Iterator[tuple[object, ...]]:
        for device, events in self.evidence.events.items():
            kinds = [event["type"] for event in events]
            yield from ((device, kind, kinds.count(kind)) for kind in sorted(set(kinds)))

    def document(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        run = self.evidence.run
        return {
            "scenario": self.name,
            "ok": self.exit_code == 0,
            "seed": self.seed,
            "duration_s": self.scenario.duration_s,
            "took_s": round(run.took_s, 3),
            "startup_s": round(run.startup_s, 3),
            "rate": round(run.rate, 2),
            "assertions": [asdict(verdict) for verdict in self.verdicts],
            "streams": {stream.name: self._stream(stream) for stream in self.evidence.streams.values()},
            "events": [dict(zip(("device", "type", "events"), row, strict=True)) for row in self._events()],
            "ledger": run.totals,
            "held_s": {name: round(held, 2) for name, held in run.held_s.items()},
            "left_out": self.evidence.left_out,
            "notes": run.notes,
        }

    def _stream(self, stream: StreamEvidence) -> dict[str, Any]:
        fields = {}
        for name in stream.table.fields:
            info, error = stream.declared.fields.get(name), stream.error(name)
            fields[name] = {
                "unit": info.unit if info else "",
                "mean_error": _finite(error[0]) if error else None,
                "max_error": _finite(error[1]) if error else None,
            }
        return {
            "node": stream.node,
            "expected": stream.expected,
            "rows": len(stream.table),
            "sha256": stream.sha256,
            "fields": fields,
        }

    def junit(self) -> str:
        """Return JUnit XML, one test case per assertion."""
        return junit.text(self.name, self._cases())

    def _cases(self) -> list[Case]:
        group = f"scenario.{self.name}"
        return [
            Case(
                group,
                verdict.name,
                failed=output if verdict.state == "failed" else "",
                skipped=verdict.found if verdict.state == "skipped" else "",
                output=output,
            )
            for verdict in self.verdicts
            for output in [f"expected {verdict.expected}, found {verdict.found}"]
        ]


def _rows(stream: StreamEvidence) -> str:
    found = len(stream.table)
    return f"{found:,} rows" if stream.expected is None else f"{found:,} of {stream.expected:,} rows"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines]


def _or(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _good(stream: StreamEvidence) -> str:
    grades = [quality for _, _, quality in stream.table]
    return f"{100 * grades.count(0) / len(grades):.1f} %" if grades else ""


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
