"""The formulas of KPIs by name: what each needs, and the units in which it may be given.

A formula is a word of `FORMULAS`, or an expression over the inputs of the KPI (`wire.pilot.expression`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Estimand = Literal["mean", "ratio", "count"]

SHARE = ("1", "%")
TIME = ("h", "min", "s")
COUNT = ("1", "{part}", "{piece}", "")
ENERGY = ("kW.h", "W.h", "J", "kJ", "MJ")
DISTANCE = ("km", "m")
EVENTS = None  # instead of units: the input is an event
Units = tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Formula:
    """`inputs` and `optional` map the name of an input to its units; an empty tuple allows every unit.

    `given` are numbers that the plan sets. `units` are those in which the result may be given. `estimand` is
    what is compared unless the plan names another: the mean of the values of the periods, the ratio of two
    sums over all periods, or the number of events per exposure.
    """

    units: tuple[str, ...]
    inputs: dict[str, Units]
    optional: dict[str, Units] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    estimand: Estimand = "mean"


_FLAG = ("1", "")  # true or false, 1 or 0
_RUN: dict[str, Units] = {"running": _FLAG}
_PLANNED: dict[str, Units] = {
    "planned": _FLAG
}  # time that is planned for production; all of the period where it is not set
_PARTS: dict[str, Units] = {"parts": COUNT}
_REJECTS: dict[str, Units] = {"rejects": COUNT}
MASS = ("kg", "g", "t")
_TRUTH: dict[str, Units] = {"alarms": EVENTS, "truth": EVENTS}

# word -> formula; ISO 22400-2 names oee and its parts availability, effectiveness and quality ratio
FORMULAS: dict[str, Formula] = {
    # productivity
    "oee": Formula(SHARE, {**_RUN, **_PARTS, **_REJECTS}, {**_PLANNED}, given=("ideal_s",)),
    "availability": Formula(SHARE, {**_RUN}, {**_PLANNED}),
    "performance": Formula(SHARE, {**_RUN, **_PARTS}, given=("ideal_s",)),
    "units-per-hour": Formula(("{part}/h", "/h"), {**_PARTS}, {**_PLANNED}, estimand="ratio"),
    # quality
    "quality-ratio": Formula(SHARE, {**_PARTS, **_REJECTS}, estimand="ratio"),
    "defect-rate": Formula(SHARE, {**_PARTS, **_REJECTS}, estimand="ratio"),
    "false-alarms-per-hour": Formula(("/h",), {**_TRUTH}, given=("within_s",), estimand="count"),
    "alarms-per-hour": Formula(("/h",), {"alarms": EVENTS}, estimand="count"),
    "alarms-per-patient-day": Formula(("/d",), {"alarms": EVENTS}, {"present": _FLAG}, estimand="count"),
    "detection-sensitivity": Formula(SHARE, {**_TRUTH}, given=("within_s",), estimand="ratio"),
    "detection-precision": Formula(SHARE, {**_TRUTH}, given=("within_s",), estimand="ratio"),
    "share-above": Formula(SHARE, {"level": ()}, given=("limit",)),
    # safety
    "conflicts-per-1000": Formula(
        ("1", "{conflict}"), {"conflicts": EVENTS, "users": COUNT}, estimand="count"
    ),
    # cost and energy
    "energy": Formula(ENERGY, {"energy": ENERGY}),
    "energy-per-part": Formula(
        tuple(f"{unit}/{{part}}" for unit in ENERGY), {"energy": ENERGY, **_PARTS}, estimand="ratio"
    ),
    "energy-per-distance": Formula(
        tuple(f"{unit}/{way}" for unit in ENERGY for way in DISTANCE),
        {"energy": ENERGY, "distance": DISTANCE},
        estimand="ratio",
    ),
    "emissions": Formula(MASS, {"energy": ENERGY}, given=("g_per_kwh",)),
    # delivery
    "lead-time": Formula(TIME, {"start": EVENTS, "end": EVENTS}),
    "on-time-share": Formula(SHARE, {"start": EVENTS, "end": EVENTS}, given=("within_s",), estimand="ratio"),
    # assets
    "state-time": Formula(TIME, {"state": ()}, given=("state_value",)),
    "downtime": Formula(TIME, {**_RUN}, {**_PLANNED}),
    "stops": Formula(("1",), {**_RUN}, {**_PLANNED}, estimand="count"),
    "mtbf": Formula(TIME, {**_RUN}, {**_PLANNED}, estimand="ratio"),
    "mttr": Formula(TIME, {**_RUN}, {**_PLANNED}, estimand="ratio"),
}

# given number -> the smallest and largest that make sense
GIVEN = {"ideal_s": (1e-6, 1e6), "within_s": (0.0, 2_592_000.0), "g_per_kwh": (1e-6, 1e6)}
# words whose upper part is a number of events or parts, and may be compared as a count
COUNTED = frozenset(word for word, each in FORMULAS.items() if each.estimand == "count") | {
    "units-per-hour",
    "quality-ratio",
    "defect-rate",
    "detection-sensitivity",
    "detection-precision",
    "on-time-share",
}
