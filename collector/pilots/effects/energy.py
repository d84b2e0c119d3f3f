"""The labels of ASHRAE Guideline 14 for an energy KPI. The interval is that of `before_after`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collector.pilots.effects import numbers, phases

MONTH_H = 27 * 24  # a February that loses an hour is a month
# the largest CV(RMSE) and NMBE of a good model of the baseline, by month and of shorter periods
LIMITS = {"monthly": (0.15, 0.05), "hourly": (0.30, 0.10)}


def labels(
    baseline: numbers.Values,
    covariates: Sequence[numbers.Values] = (),
    *,
    period_h: float,
    times: numbers.Values | None = None,
) -> dict[str, float | str]:
    """How well weekdays and drivers explain the baseline: `cv_rmse`, `nmbe`, `ashrae_n`, `ashrae`.

    They are shares of the mean. `ashrae_n` is the number of independent periods that the baseline is worth.
    `ashrae` names the limits and whether they hold. Without enough numbers there are no labels.
    """
    (values, at, *columns), _ = numbers.by_time(baseline, times, *covariates)
    if not len(values) or numbers.overlap(at):
        return {}
    matrix = np.column_stack(phases.independent(columns, len(values)))
    free = len(values) - matrix.shape[1]
    scaled = np.ldexp(values, -numbers.unit(values))
    level = numbers.mean(scaled)
    if free < 1 or level <= 1e-12:
        return {}
    rest = phases.residuals(scaled[:, None], matrix)[:, 0]
    cv_rmse, nmbe = math.sqrt(math.fsum(rest**2) / free) / level, math.fsum(rest) / free / level
    kind = "monthly" if period_h >= MONTH_H else "hourly"
    is_within = cv_rmse <= LIMITS[kind][0] and abs(nmbe) <= LIMITS[kind][1]
    correlation = float(phases.lag_one(rest[:, None])[0]) if cv_rmse > 1e-12 else 0.0
    return {
        "cv_rmse": round(cv_rmse, 8),
        "nmbe": round(nmbe, 8) + 0.0,
        "ashrae_n": round(independent_periods(len(values), correlation), 6),
        "ashrae": f"{kind}-{'within' if is_within else 'beyond'}",
    }


def independent_periods(periods: int, correlation: float) -> float:
    """n' of Guideline 14: how many independent periods these are worth; never more than there are."""
    return periods * (1 - correlation) / (1 + correlation) if correlation > 0 else float(periods)
