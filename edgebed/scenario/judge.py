"""Check the assertions of a scenario: each gives a sentence, what was expected and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgebed.scenario.document import Check, Scenario, percent
from edgebed.scenario.evidence import Evidence, StreamEvidence
from edgebed.scenario.judge_pilot import Judged, judge_pilot
from edgebed.scenario.play import Run
from wire.clock import NS_PER_MS
from wire.messages import Quality


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one assertion; `skipped` when its device did not take part."""

    name: str
    state: Literal["ok", "failed", "skipped"]
    expected: str
    found: str


def judge(scenario: Scenario, evidence: Evidence) -> list[Verdict]:
    """Return a verdict for each assertion, in the order of the file."""
    verdicts = []
    for check in scenario.checks:
        device = _subject(check).partition("/")[0]
        if check.pilot:
            device = scenario.pilots[check.pilot].plant
        if device in evidence.absent:
            agent = evidence.absent[device]
            why = f"agent {agent} did not take part: {evidence.left_out[agent]}"
            verdicts.append(Verdict(_name(check), "skipped", "", why))
            continue
        if why := _too_late(check, scenario, evidence):
            verdicts.append(Verdict(_name(check), "skipped", "", why))
            continue
        for ok, name, expected, found in _judged(check, scenario, evidence):
            verdicts.append(Verdict(name, "ok" if ok else "failed", expected, found))
    return verdicts


def _too_late(check: Check, scenario: Scenario, evidence: Evidence) -> str:
    """Return why the plant left a model no time for its alarm; "" where it did."""
    if not check.after or check.after not in evidence.began:
        return ""
    happening, begin_s = scenario.happening(check.after), evidence.began[check.after]
    simulator = f"the simulator of {happening.device}"
    if begin_s is None:
        return f"{simulator} had no chance for {happening.fault} before the end: try another seed"
    if begin_s + (check.within_s or 0.0) > scenario.duration_s:
        return f"{simulator} began {happening.fault} only {begin_s:.1f} s after the start: try another seed"
    return ""


def _judged(check: Check, scenario: Scenario, evidence: Evidence) -> list[Judged]:
    judges: dict[str, Callable[[], list[Judged]]] = {
        "stream": lambda: _stream(check, evidence),
        "counts": lambda: [_counts(check, evidence)],
        "alarm": lambda: [_alarm(check, scenario, evidence)],
        "quiet": lambda: [_quiet(check, scenario, evidence)],
        "quality": lambda: [_quality(check, evidence)],
        "events": lambda: [_events(check, evidence)],
        "units": lambda: [_units(evidence)],
        "pilot": lambda: judge_pilot(check.pilot, evidence.pilots[check.pilot]),
    }
    return next((judge() for head, judge in judges.items() if getattr(check, head)), None) or _ledger(
        check, evidence
    )


def _subject(check: Check) -> str:
    named = (check.stream, check.counts, check.alarm, check.quiet, check.quality, check.events)
    return next((each for each in named if each), "")


def _name(check: Check) -> str:
    given = {name: getattr(check, name) for name in check.__struct_fields__}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value not in ("", None, []))


def _missing(evidence: Evidence, name: str, sentence: str) -> Judged:
    known = ", ".join(evidence.streams) or "nothing"
    return False, sentence, f"a stream {name}", f"the collector has {known}"


# --- streams


def _stream(check: Check, evidence: Evidence) -> list[Judged]:
    stream, judged = evidence.streams.get(check.stream), []
    if stream is None:
        return [_missing(evidence, check.stream, f"{check.stream} is stored")]
    if check.rows is not None:
        judged.append(_rows(check, stream))
    if check.equals_truth is not None:
        judged.append(_truth(check, stream))
    return judged


def _rows(check: Check, stream: StreamEvidence) -> Judged:
    found = len(stream.table)
    if check.rows != "all":
        least = check.rows or 0
        return (
            found >= least,
            f"{stream.name} has at least {least:,} rows",
            f">= {least:,} rows",
            f"{found:,} rows",
        )
    sentence = f"every row of {stream.name} is stored once"
    if stream.expected is None:
        return (
            False,
            sentence,
            "all rows",
            f"{found:,} rows; the stream has no rate: give a number of rows",
        )
    again = found - len({at_us for at_us, _, _ in stream.table})
    holds = abs(found - stream.expected) <= stream.slack and not again
    doubles = f", {again:,} of them with a time that another row has" if again else ""
    return holds, sentence, f"{stream.expected:,} rows", f"{found:,} rows{doubles}"


def _truth(check: Check, stream: StreamEvidence) -> Judged:
    limit = check.equals_truth if isinstance(check.equals_truth, (int, float)) else None
    names = check.fields or stream.compared
    within = "the transmitted decimals" if limit is None else f"{limit:g}"
    sentence = f"{stream.name} is the simulator's truth within {within}"
    worst, shown = 0.0, ""
    for name in names:
        error = stream.error(name)
        if error is None:
            return False, sentence, f"a truth for {name}", "the simulator gives none"
        allowed = stream.tolerance(name) if limit is None else limit
        # floating point may add a little to the half of the last decimal
        over = error[1] / (allowed * (1 + 1e-6) + 1e-9)
        if over >= worst:
            worst, shown = over, f"{name}: {error[0]:.3g} on average, {error[1]:.3g} at most"
    if not names or not len(stream.table):
        return (
            False,
            sentence,
            "rows to compare",
            f"{len(stream.table)} rows, {len(names)} fields with a truth",
        )
    return worst <= 1.0, sentence, f"differences of {within}", f"worst is {shown}"


def _counts(check: Check, evidence: Evidence) -> Judged:
    sentence = f"{check.counts} counts correctly within {check.within} on average"
    stream = evidence.streams.get(check.counts)
    if stream is None:
        return _missing(evidence, check.counts, sentence)
    fields = stream.declared.fields
    names = [name for name in stream.compared if name in fields and fields[name].t == "i64"]
    if not names:
        return False, sentence, "counts with a truth", "no such field in this stream"
    means = [stream.mean(name) for name in (["n"] if "n" in names else names)]
    stored, true = sum(mean[0] for mean in means), sum(mean[1] for mean in means)
    off = abs(stored - true) / true if true else math.inf if stored else 0.0
    return (
        off <= (percent(check.within) or 0.0),
        sentence,
        f"{true:.3f} on average",
        f"{stored:.3f} on average, {100 * off:.1f} % off",
    )


def _quality(check: Check, evidence: Evidence) -> Judged:
    sentence = f"{check.good} of the rows of {check.quality} are good"
    stream = evidence.streams.get(check.quality)
    if stream is None:
        return _missing(evidence, check.quality, sentence)
    grades = [quality for _, _, quality in stream.table]
    share = grades.count(0) / len(grades) if grades else 0.0
    bad = {Quality(each).name.lower() for each in set(grades) & {*Quality} - {0}}
    found = f"{100 * share:.2f} % of {len(grades):,} rows" + (
        f", others {', '.join(sorted(bad))}" if bad else ""
    )
    return share >= (percent(check.good) or 0.0), sentence, f">= {check.good}", found


def _units(evidence: Evidence) -> Judged:
    wrong, fields = [], 0
    for stream in evidence.streams.values():
        configured = stream.configured.fields if stream.configured else {}
        for name in stream.table.fields:
            fields += 1
            want, have = configured.get(name), stream.declared.fields.get(name)
            if want is None or have is None or (want.unit, want.t) != (have.unit, have.t):
                wrong.append(f"{stream.name} {name}")
    found = f"{fields} fields, {len(wrong)} differ" + (f": {', '.join(wrong[:5])}" if wrong else "")
    return bool(fields) and not wrong, "every stored field has its declared unit and type", "all", found


# --- events


def _alarm(check: Check, scenario: Scenario, evidence: Evidence) -> Judged:
    begin_s = _begin_s(check.after, scenario, evidence)
    of = f" of {check.part}" if check.part else ""
    since = f" after {check.after}" if check.after else ""
    sentence = f"{check.alarm} raises an alarm{of} within {check.within_s:g} s{since}"
    times = [at_s for at_s in _alarms(check.alarm, check.part, evidence) if at_s >= begin_s]
    if not times:
        return False, sentence, f"<= {check.within_s:g} s", "no such alarm"
    delay_s = times[0] - begin_s
    return delay_s <= (check.within_s or 0.0), sentence, f"<= {check.within_s:g} s", f"{delay_s:.2f} s"


def _begin_s(name: str, scenario: Scenario, evidence: Evidence) -> float:
    """Return when a line of the timeline began, in seconds since T0: a fault, when its plant began it."""
    if not name:
        return 0.0
    began_s = evidence.began.get(name)
    return scenario.happening(name).at_s if began_s is None else began_s


def _quiet(check: Check, scenario: Scenario, evidence: Evidence) -> Judged:
    end_s = _begin_s(check.before, scenario, evidence) if check.before else scenario.duration_s
    of, until = f" of {check.part}" if check.part else "", f" before {check.before}" if check.before else ""
    sentence = f"{check.quiet} raises no alarm{of}{until}"
    times = [at_s for at_s in _alarms(check.quiet, check.part, evidence) if 0 <= at_s < end_s]
    found = f"{len(times)} alarms" + (f", the first at {times[0]:.2f} s" if times else "")
    return not times, sentence, "0 alarms", found


def _alarms(name: str, part: str, evidence: Evidence) -> list[float]:
    """Return the times of the alarms of device/model in seconds since T0, oldest first.

    An alarm of a classifier is a result `part`.
    """
    device, _, slot = name.partition("/")
    return [
        seconds(evidence.run, event["ts"])
        for event in evidence.events.get(device, [])
        if event.get("slot") == slot
        and (event.get("top") == part if part else event["type"] == "anomaly")
        and event["type"] in ("anomaly", "classification")
    ]


def _events(check: Check, evidence: Evidence) -> Judged:
    device, _, kind = check.events.partition("/")
    found = sum(
        event["type"] == kind and seconds(evidence.run, event["ts"]) >= 0
        for event in evidence.events.get(device, [])
    )
    least, most = check.at_least or 0, math.inf if check.at_most is None else check.at_most
    bounds = [f">= {least}"] if check.at_least is not None else []
    bounds += [f"<= {most}"] if check.at_most is not None else []
    expected = " and ".join(bounds)
    return least <= found <= most, f"events {check.events}: {expected}", expected, str(found)


# --- custody


def _ledger(check: Check, evidence: Evidence) -> list[Judged]:
    totals, judged = evidence.totals, list[Judged]()
    if check.lost is not None:
        lost = totals["gap_count"] + totals["missing_count"] + totals["waiting"]
        found = f"{lost} lost of {totals['taken']:,} taken, {totals['stored']:,} stored"
        holds = lost <= check.lost and totals["taken"] > 0
        judged.append((holds, "every message that was taken is stored", f"<= {check.lost} lost", found))
    if check.duplicates is not None:
        found = f"{evidence.twice} stored twice; {totals['duplicates']} came again and were dropped"
        holds = evidence.twice <= check.duplicates
        judged.append((holds, "no message is stored twice", f"<= {check.duplicates}", found))
    return judged


def seconds(run: Run, at_ms: int) -> float:
    """Return a time in seconds since T0."""
    return (at_ms - run.t0_ns / NS_PER_MS) / 1000
