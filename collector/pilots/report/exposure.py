"""What was applied in each period of the trial, from the switches that the nodes recorded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from collector.pilots.report.document import Finding, ModelRan, Ran, Switch
from collector.pilots.report.stored_events import PilotEvents, Stated
from wire.pilot.frozen import Opened
from wire.pilot.schedule import Arm, Period, counted

MAX_LISTED = 5_000  # switches in the report
_NOT_KEPT = 0.001  # of a period: the agent looks at the clock once a second at most
_LATE_MS = 2_000

Applied = Literal["on", "off", "other"]
Piece = tuple[int, int, Applied]  # from, to, what was applied


@dataclass(frozen=True, slots=True)
class Exposed:
    """What ran: by period, every switch, models, the share off schedule, and what is wrong."""

    ran: tuple[Ran, ...]
    switches: tuple[Switch, ...]
    models: tuple[ModelRan, ...]
    off_schedule: float
    findings: tuple[Finding, ...]


def exposed(versions: Sequence[Opened], events: PilotEvents, until_ms: int) -> Exposed:
    """What the nodes of the newest version did in the periods that are over.

    A switch of the trial counts up to the end of its period: at each next one the agent states what is the
    case. What no node stated is `other`: not known.
    """
    newest = versions[-1]
    stated: dict[str, list[Stated]] = {node: [] for node in newest.plan.plan.nodes}
    for one in events.switches:
        stated[one[0].node].append(one)
    ends = {node: [at for whose, at, _, _ in events.withdrawn if whose == node] for node in stated}
    for each in events.changed.get("exposure", ()):
        ends[each.node] += [] if each.at_ms is None else [each.at_ms]  # what was applied then is not known
    shares = {
        node: list(_of_node(versions, _pieces(versions, mine, ends[node]), mine, node, until_ms))
        for node, mine in stated.items()
    }
    wrong_ms_in_all = sum(each.wrong_ms for several in shares.values() for each in several)
    whole_ms_in_all = sum(each.whole_ms for several in shares.values() for each in several)
    switches = tuple(switch for switch, _, _ in events.switches)
    return Exposed(
        ran=tuple(_ran(newest, shares)),
        switches=switches[:MAX_LISTED],
        models=tuple(_models(newest, events)),
        off_schedule=wrong_ms_in_all / whole_ms_in_all if whole_ms_in_all else 0.0,
        findings=(*_findings(newest, events, shares), *_of_many(switches)),
    )


@dataclass(frozen=True, slots=True)
class _Share:
    """One period at one node."""

    number: int  # of the trial
    index: int  # of the schedule
    planned: Arm
    times: Mapping[str, int]  # ms by what was applied
    late_ms: int | None

    @property
    def whole_ms(self) -> int:
        return sum(self.times.values())

    @property
    def wrong_ms(self) -> int:
        return self.whole_ms - self.times[self.planned]


def planned_at(opened: Opened, node: str, period: Period) -> Arm:
    """What the plan has for a node in a period of the trial."""
    plan, treated = opened.plan.plan, opened.plan.schedule.treated
    if plan.design.kind == "paired":
        return "off"  # a model that is compared with a rule runs in shadow
    if plan.design.kind == "parallel" and not is_treated(node, treated):
        return "off"
    return period.arm


def is_treated(node: str, treated: Sequence[str]) -> bool:
    """Whether a node, or one of its devices, has the intervention."""
    return any(machine == node or machine.startswith(f"{node}/") for machine in treated)


def _of_node(
    versions: Sequence[Opened], pieces: list[Piece], stated: Sequence[Stated], node: str, until_ms: int
) -> Iterator[_Share]:
    newest = versions[-1]
    plan, schedule = newest.plan.plan, newest.plan.schedule
    starts = [start for start, _, _ in pieces]
    first_ms, number = schedule.trial_ms[0], -1
    firsts = _first_of_each(stated, newest.hash)
    for index, period in enumerate(schedule.periods):
        number += period.phase == "trial"
        if period.phase != "trial" or period.end_ms > until_ms:
            continue
        span = counted(period, plan, first_ms)
        times = {"on": 0, "off": 0, "other": 0}
        for start, end, applied in pieces[max(0, bisect_right(starts, span[0]) - 1) :]:
            if start >= span[1]:
                break
            times[applied] += max(0, min(end, span[1]) - max(start, span[0]))
        times["other"] += span[1] - span[0] - sum(times.values())
        switched = firsts.get(number)
        late_ms = None if switched is None else max(0, switched - period.start_ms)
        yield _Share(number, index, planned_at(newest, node, period), times, late_ms)


def _pieces(versions: Sequence[Opened], stated: Sequence[Stated], ends: Sequence[int]) -> list[Piece]:
    """What was applied from each switch to the next one, or to the end of its period if that is earlier.

    `ends` are times from which on nothing is known up to the next switch, such as the end of the plan: the
    agent then releases all, and states nothing more.
    """
    trials = {each.hash: each.plan.schedule.trial for each in versions}
    found: list[Piece] = []
    edges = [switch.ts for switch, _, _ in stated]
    for (start, next_ms), (switch, digest, _) in zip(pairwise([*edges, 2**60]), stated, strict=True):
        trial = trials.get(digest)
        if trial is None:
            continue  # of another plan: what it has done is not known
        end = next_ms
        if switch.phase == "trial":
            if not 0 <= switch.period < len(trial):
                continue
            end = min(next_ms, trial[switch.period].end_ms)
        end = min([end, *(each for each in ends if each >= start)])
        if start < end:
            found.append((start, end, switch.actual))
    return found


def _first_of_each(stated: Sequence[Stated], digest: str) -> dict[int, int]:
    """When a node stated first that what was planned is the case, by period of the trial."""
    found: dict[int, int] = {}
    for switch, mine, _ in stated:
        if mine == digest and switch.phase == "trial" and switch.actual == switch.planned:
            found.setdefault(switch.period, switch.ts)
    return found


def _ran(newest: Opened, shares: Mapping[str, Sequence[_Share]]) -> Iterator[Ran]:
    plan, schedule = newest.plan.plan, newest.plan.schedule
    acting = [node for node in shares if plan.design.kind != "parallel" or is_treated(node, schedule.treated)]
    for several in zip(*(shares[node] for node in acting), strict=True):
        one, period = several[0], schedule.periods[several[0].index]
        whole = sum(each.whole_ms for each in several)
        share = {
            name: sum(each.times[name] for each in several) / whole if whole else 0.0 for name in one.times
        }
        late = [each.late_ms for each in several]
        yield Ran(
            period=one.number,
            start_ms=period.start_ms,
            end_ms=period.end_ms,
            planned=one.planned,
            late_ms=None if None in late else max(each for each in late if each is not None),
            **share,
        )


def _findings(
    newest: Opened, events: PilotEvents, shares: Mapping[str, Sequence[_Share]]
) -> Iterator[Finding]:
    for node, several in shares.items():
        wrong = [each for each in several if each.wrong_ms > _NOT_KEPT * each.whole_ms and _is_wrong(each)]
        if wrong:
            yield Finding(
                code="schedule-not-kept",
                where=node,
                periods=tuple(each.index for each in wrong),
                args={
                    "periods": len(wrong),
                    "of": len(several),
                    "seconds": round(sum(each.wrong_ms for each in wrong) / 1000),
                },
            )
        if late := [each for each in several if each.late_ms is not None and each.late_ms > _LATE_MS]:
            longest = max(each.late_ms or 0 for each in late)
            yield Finding(
                code="switched-late",
                where=node,
                periods=tuple(each.index for each in late),
                args={"periods": len(late), "seconds": round(longest / 1000)},
            )
    yield from _restarts(newest, events)
    yield from _swapped(newest, events)
    yield from _changed_setups(newest, events)


def _is_wrong(each: _Share) -> bool:
    return each.wrong_ms > _LATE_MS or each.wrong_ms > 0.05 * each.whole_ms


def _restarts(newest: Opened, events: PilotEvents) -> Iterator[Finding]:
    """The agents that were down over a switch: the first event of the next run is of another period."""
    before: dict[str, Switch] = {}
    found: dict[str, list[int]] = {}
    for switch, _, _ in events.switches:
        last = before.get(switch.node)
        if switch.restart and last is not None and (last.phase, last.period) != (switch.phase, switch.period):
            found.setdefault(switch.node, []).append(switch.period)
        before[switch.node] = switch
    for node, periods in sorted(found.items()):
        yield Finding(
            code="down-over-switch",
            where=node,
            periods=_indices(newest, periods),
            args={"times": len(periods)},
        )


def _swapped(newest: Opened, events: PilotEvents) -> Iterator[Finding]:
    by_code: dict[tuple[str, str, str], list[int]] = {}
    for switch, _, args in events.switches:
        if switch.code:
            model = str(args.get("model") or "")[:128] if switch.code == "pilot-model-other" else ""
            by_code.setdefault((switch.node, switch.code, model), []).append(switch.period)
    for (node, code, model), periods in sorted(by_code.items()):
        is_swap = code == "pilot-model-other"
        yield Finding(
            code="model-swapped" if is_swap else "not-applied",
            where=node,
            periods=_indices(newest, periods),
            args={"model": model, "planned": newest.plan.plan.intervention.model or ""}
            if is_swap
            else {"code": code},
        )


def _changed_setups(newest: Opened, events: PilotEvents) -> Iterator[Finding]:
    """The nodes whose devices or models were changed while they followed the plan."""
    before: dict[str, str] = {}
    found: dict[str, list[int]] = {}
    for switch, digest, _ in events.switches:
        if digest != newest.hash or not switch.setup:
            continue
        if before.setdefault(switch.node, switch.setup) != switch.setup:
            found.setdefault(switch.node, []).append(switch.period)
        before[switch.node] = switch.setup
    for node, periods in sorted(found.items()):
        yield Finding(
            code="setup-changed",
            where=node,
            periods=_indices(newest, periods),
            args={"times": len(periods)},
        )


def _models(newest: Opened, events: PilotEvents) -> Iterator[ModelRan]:
    """The models in the slot, as the switches state them: the agent compares the SHA-256 at each."""
    what = newest.plan.plan.intervention
    if what.kind != "model":
        return
    known: set[tuple[str, str]] = set()
    for switch, digest, args in events.switches:
        is_other = switch.code == "pilot-model-other"
        if (
            digest != newest.hash
            or (switch.code and not is_other)
            or (switch.planned != "on" and not is_other)
        ):
            continue  # what is in the slot is stated where it should act
        model = str(args.get("model") or "")[:128] if is_other else what.model or ""
        if (switch.node, model) not in known:
            known.add((switch.node, model))
            yield ModelRan(
                node=switch.node,
                slot=what.slot or "",
                model=model,
                sha256="" if is_other else what.sha256 or "",
                from_ms=switch.ts,
                is_planned=not is_other,
            )


def _indices(newest: Opened, periods: Sequence[int]) -> tuple[int, ...]:
    """Numbers of the trial as numbers of the whole schedule."""
    first = len(newest.plan.schedule.periods) - len(newest.plan.schedule.trial)
    return tuple(sorted({first + each for each in periods if 0 <= each < len(newest.plan.schedule.trial)}))


def _of_many(switches: Sequence[Switch]) -> Iterator[Finding]:
    if len(switches) > MAX_LISTED:
        yield Finding(code="switches-not-listed", args={"switches": len(switches), "listed": MAX_LISTED})
