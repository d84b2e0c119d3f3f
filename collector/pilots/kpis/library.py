"""The formulas of `wire.pilot.formulas` by their words: how each is calculated, its names and its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collector.pilots.kpis import events, steps
from collector.pilots.kpis.inputs import PAIRED_US, Inputs
from collector.pilots.kpis.steps import Floats
from collector.pilots.kpis.units import factor
from wire.pilot import expression
from wire.pilot.plan import Kpi

Flags = NDArray[np.bool_]
_US = 1_000_000
ISO = "ISO 22400-2:2014"


@dataclass(frozen=True, slots=True)
class Parts:
    """A value as `numerator / denominator`, in `unit`."""

    numerator: float
    denominator: float
    unit: str = "1"


@dataclass(frozen=True, slots=True)
class Entry:
    """A formula of the library; `better` is the direction in which it is usually better."""

    kpi_class: str
    en: str
    ko: str
    text: str
    better: str
    source: str
    parts: Callable[[Inputs], Parts | None]


def parts(kpi: Kpi, inputs: Inputs) -> Parts | None:
    """The value of a KPI in its unit; None where data are missing, a denominator of 0 where it has no value.

    Raises:
        WireError: its unit has another dimension.
    """
    if not expression.is_expression(kpi.formula):
        found = LIBRARY[kpi.formula].parts(inputs)
        if found is None:
            return None
        scale = factor(found.unit, kpi.unit)
        return Parts(found.numerator * float(scale), found.denominator, kpi.unit)
    part = expression.parse(kpi.formula)
    if isinstance(part, expression.Operation) and part.sign == "/":
        above = expression.evaluate(part.left, inputs.given, inputs.value)
        below = expression.evaluate(part.right, inputs.given, inputs.value)
        return None if above is None or below is None else Parts(above, below, kpi.unit)
    value = expression.evaluate(part, inputs.given, inputs.value)
    return None if value is None else Parts(value, 1.0, kpi.unit)


def _share_us(inputs: Inputs) -> tuple[int, int, int] | None:
    """Time in us: running while planned, planned, and how often it stopped meanwhile."""
    running = planned = stops = 0
    start, end = inputs.span
    for flag, beside in inputs.together("running", "planned"):
        is_planned = beside != 0
        planned += flag.where(is_planned).between(start, end).time_us
        running += flag.where(is_planned & (flag.values != 0)).between(start, end).time_us
        stops += steps.falls(flag, beside, start)
    return (running, planned, stops) if inputs.facts.known.get("running") else None


def _oee(inputs: Inputs) -> Parts | None:
    times, made, bad = _share_us(inputs), inputs.moved("parts"), inputs.moved("rejects")
    if times is None or made is None or bad is None:
        return None
    # availability x effectiveness x quality ratio: running time and parts cancel
    return Parts((made - bad) * inputs.given["ideal_s"], times[1] / _US)


def _availability(inputs: Inputs) -> Parts | None:
    times = _share_us(inputs)
    return None if times is None else Parts(times[0] / _US, times[1] / _US)


def _performance(inputs: Inputs) -> Parts | None:
    times, made = _share_us(inputs), inputs.moved("parts")
    return None if times is None or made is None else Parts(made * inputs.given["ideal_s"], times[0] / _US)


def _units_per_hour(inputs: Inputs) -> Parts | None:
    made = inputs.moved("parts")
    if made is None:
        return None
    if not inputs.has("planned"):
        return Parts(made, inputs.hours * len(inputs.rows("parts")), "/h")
    hours = inputs.value("time", "planned")
    return None if hours is None else Parts(made, hours, "/h")


def _quality(inputs: Inputs) -> Parts | None:
    made, bad = inputs.moved("parts"), inputs.moved("rejects")
    return None if made is None or bad is None else Parts(made - bad, made)


def _defects(inputs: Inputs) -> Parts | None:
    made, bad = inputs.moved("parts"), inputs.moved("rejects")
    return None if made is None or bad is None else Parts(bad, made)


def _hits(inputs: Inputs) -> tuple[int, int, int, int]:
    """Alarms, those near a true event, true events, and those near an alarm."""
    within_us = round(inputs.given["within_s"] * _US)
    alarms = inputs.events("alarms", before_us=within_us, after_us=within_us)
    truth = inputs.events("truth", before_us=within_us, after_us=within_us)
    mine, true = inputs.inside(alarms), inputs.inside(truth)
    all_alarms, all_truth = ([one.at_us for one in each] for each in (alarms, truth))
    return (
        len(mine),
        events.near(mine, all_truth, within_us),
        len(true),
        events.near(true, all_alarms, within_us),
    )


def _false_alarms(inputs: Inputs) -> Parts | None:
    alarms, right, _, _ = _hits(inputs)
    return Parts(float(alarms - right), inputs.known_hours("alarms"), "/h")


def _sensitivity(inputs: Inputs) -> Parts | None:
    _, _, true, found = _hits(inputs)
    return Parts(float(found), float(true))


def _alarms(inputs: Inputs) -> Parts | None:
    return Parts(float(len(inputs.inside(inputs.events("alarms")))), inputs.known_hours("alarms"), "/h")


def _precision(inputs: Inputs) -> Parts | None:
    alarms, right, _, _ = _hits(inputs)
    return Parts(float(right), float(alarms))


def _patient_days(inputs: Inputs) -> Parts | None:
    count = float(len(inputs.inside(inputs.events("alarms"))))
    hours = inputs.value("time", "present") if inputs.has("present") else inputs.known_hours("alarms")
    return None if hours is None else Parts(count, hours / 24, "/d")


def _conflicts(inputs: Inputs) -> Parts | None:
    users = inputs.moved("users")
    count = float(len(inputs.inside(inputs.events("conflicts"))))
    return None if users is None else Parts(count, users / 1000)


def _time_where(inputs: Inputs, name: str, chosen: Callable[[Floats], Flags]) -> Parts | None:
    """The time in which a field has chosen values, and that in which it is known, in s."""
    held = [steps.between(*inputs.span) for _, steps in inputs.rows(name)]
    known = sum(each.time_us for each in held)
    found = sum(each.where(chosen(each.values)).time_us for each in held)
    return Parts(found / _US, known / _US) if known else None


def _share_above(inputs: Inputs) -> Parts | None:
    return _time_where(inputs, "level", lambda values: values > inputs.given["limit"])


def _state_time(inputs: Inputs) -> Parts | None:
    found = _time_where(inputs, "state", lambda values: values == inputs.given["state_value"])
    return None if found is None else Parts(found.numerator, 1.0, "s")


def _emissions(inputs: Inputs) -> Parts | None:
    used = inputs.moved("energy")
    if used is None:
        return None
    return Parts(used * float(factor(inputs.unit("energy"), "kW.h")) * inputs.given["g_per_kwh"], 1.0, "g")


def _energy(inputs: Inputs) -> Parts | None:
    used = inputs.moved("energy")
    return None if used is None else Parts(used, 1.0, inputs.unit("energy"))


def _energy_per(other: str) -> Callable[[Inputs], Parts | None]:
    def found(inputs: Inputs) -> Parts | None:
        used, way = inputs.moved("energy"), inputs.moved(other)
        unit = f"{inputs.unit('energy')}/{inputs.unit(other) or '1'}"
        return None if used is None or way is None else Parts(used, way, unit)

    return found


def _durations(inputs: Inputs) -> list[int]:
    starts, ends = (inputs.events(name, before_us=PAIRED_US) for name in ("start", "end"))
    ended = {each.id for each in ends if each.at_us >= inputs.span[0]}
    if ended - {each.id for each in starts} - {""}:
        inputs.doubt_pairs("start")
    return events.durations(starts, ends, inputs.span)


def _lead_time(inputs: Inputs) -> Parts | None:
    found = _durations(inputs)
    return Parts(sum(found) / _US, float(len(found)), "s")


def _on_time(inputs: Inputs) -> Parts | None:
    found = _durations(inputs)
    limit_us = inputs.given["within_s"] * _US
    return Parts(float(sum(each <= limit_us for each in found)), float(len(found)))


def _downtime(inputs: Inputs) -> Parts | None:
    times = _share_us(inputs)
    return None if times is None else Parts((times[1] - times[0]) / _US, 1.0, "s")


def _stops(inputs: Inputs) -> Parts | None:
    times = _share_us(inputs)
    return None if times is None else Parts(float(times[2]), 1.0)


def _mtbf(inputs: Inputs) -> Parts | None:
    times = _share_us(inputs)
    return None if times is None else Parts(times[0] / _US, float(times[2]), "s")


def _mttr(inputs: Inputs) -> Parts | None:
    times = _share_us(inputs)
    return None if times is None else Parts((times[1] - times[0]) / _US, float(times[2]), "s")


_MORE, _LESS = "increase", "decrease"
LIBRARY: dict[str, Entry] = {
    "oee": Entry(
        "P",
        "OEE index",
        "설비종합효율(OEE)",
        "(parts - rejects) · ideal / planned time = availability · performance · quality ratio",
        _MORE,
        ISO,
        _oee,
    ),
    "availability": Entry(
        "P", "availability", "시간가동률", "running time / planned time", _MORE, ISO, _availability
    ),
    "performance": Entry(
        "P",
        "performance (effectiveness)",
        "성능가동률",
        "parts · ideal / running time",
        _MORE,
        ISO,
        _performance,
    ),
    "units-per-hour": Entry(
        "P",
        "throughput rate",
        "시간당 생산량(UPH)",
        "parts / hours, of planned time if it is given",
        _MORE,
        ISO,
        _units_per_hour,
    ),
    "quality-ratio": Entry("Q", "quality ratio", "양품률", "(parts - rejects) / parts", _MORE, ISO, _quality),
    "defect-rate": Entry("Q", "defect rate", "불량률", "rejects / parts", _LESS, ISO, _defects),
    "false-alarms-per-hour": Entry(
        "Q",
        "false alarms per hour",
        "시간당 오경보",
        "alarms without a true event at most `within_s` before or after / hours",
        _LESS,
        "EEMUA 191",
        _false_alarms,
    ),
    "alarms-per-hour": Entry(
        "S", "alarms per hour", "시간당 알람", "alarms / hours", _LESS, "EEMUA 191", _alarms
    ),
    "alarms-per-patient-day": Entry(
        "S",
        "alarms per patient day",
        "환자일당 알람",
        "alarms / days, of the time in which `present` is true if it is given",
        _LESS,
        "own",
        _patient_days,
    ),
    "detection-sensitivity": Entry(
        "Q",
        "sensitivity",
        "민감도(재현율)",
        "true events with an alarm at most `within_s` before or after / true events",
        _MORE,
        "STARD 2015",
        _sensitivity,
    ),
    "detection-precision": Entry(
        "Q",
        "precision",
        "정밀도",
        "alarms with a true event at most `within_s` before or after / alarms",
        _MORE,
        "STARD 2015",
        _precision,
    ),
    "share-above": Entry(
        "Q",
        "share of time above a limit",
        "기준 초과 시간 비율",
        "time with `level` > `limit` / time in which it is known",
        _LESS,
        "own",
        _share_above,
    ),
    "conflicts-per-1000": Entry(
        "S",
        "conflicts per 1,000 road users",
        "통행 1,000건당 상충",
        "conflicts / (users / 1,000)",
        _LESS,
        "FHWA-HRT-08-051",
        _conflicts,
    ),
    "energy": Entry("E", "energy", "에너지 사용량", "energy", _LESS, "ISO 50006", _energy),
    "energy-per-part": Entry(
        "C",
        "specific energy",
        "개당 에너지(원단위)",
        "energy / parts",
        _LESS,
        "ISO 50006",
        _energy_per("parts"),
    ),
    "energy-per-distance": Entry(
        "E",
        "energy per distance",
        "거리당 에너지",
        "energy / distance",
        _LESS,
        "ISO 50006",
        _energy_per("distance"),
    ),
    "emissions": Entry(
        "E",
        "emissions of energy used",
        "온실가스 배출량",
        "energy · `g_per_kwh`",
        _LESS,
        "GHG Protocol, scope 2",
        _emissions,
    ),
    "lead-time": Entry(
        "D",
        "lead time",
        "리드타임",
        "mean time from `start` to `end`, of those that end in the period",
        _LESS,
        ISO,
        _lead_time,
    ),
    "on-time-share": Entry(
        "D",
        "on-time share",
        "납기준수율",
        "those that took at most `within_s` / those that end in the period",
        _MORE,
        "SCOR RL.2.2",
        _on_time,
    ),
    "state-time": Entry(
        "A",
        "time in a state",
        "상태별 시간",
        "time with `state` = `state_value`",
        _LESS,
        "own",
        _state_time,
    ),
    "downtime": Entry(
        "P", "unplanned down time", "비계획 정지 시간", "planned time - running time", _LESS, ISO, _downtime
    ),
    "stops": Entry(
        "A",
        "unplanned stops",
        "비계획 정지 횟수",
        "times that `running` became false in planned time",
        _LESS,
        ISO,
        _stops,
    ),
    "mtbf": Entry(
        "A", "mean time between failures", "평균고장간격(MTBF)", "running time / stops", _MORE, ISO, _mtbf
    ),
    "mttr": Entry("A", "mean time to repair", "평균수리시간(MTTR)", "down time / stops", _LESS, ISO, _mttr),
}
