"""What a plan can show, from the values that the periods of its baseline had."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from collector.pilots.effects import planning
from collector.pilots.effects.effect import Refused
from wire.errors import ConfigError, EdgebedError
from wire.pilot.plan import Plan

_MOST_BYTES = 1_000_000
_MISSING = ("", "-", "nan", "null")


@dataclass(frozen=True, slots=True)
class Outlook:
    """The power of a plan to show its effect, and what it says in sentences."""

    power: float
    sentences: tuple[str, ...]


def values(file: Path) -> list[float]:
    """The values of the periods, one a line; NaN for a period without one.

    Raises:
        ConfigError: the file cannot be read, or a line is not a number.
    """
    try:
        with file.open("rb") as opened:
            lines = opened.read(_MOST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    found, mistakes = [], []
    for number, line in enumerate(lines, 1):
        text = line.strip().lower()
        try:
            found.append(math.nan if text in _MISSING else float(text))
        except ValueError:
            mistakes.append(f"{file}:{number}: {line.strip()[:40]!r} is not a number")
    if mistakes:
        raise ConfigError(*mistakes)
    return found


def outlook(plan: Plan, baseline: Sequence[float], asked: float) -> Outlook:
    """What the plan can show of its primary KPI, with noise like that of the baseline.

    Raises:
        EdgebedError: the plan or the baseline gives no answer; the sentence says why.
    """
    kpi, design = plan.primary, plan.design
    if design.kind not in ("switchback", "before-after"):
        raise EdgebedError(f"a {design.kind} design is not planned from a baseline: see docs/pilots.md")
    target = kpi.target
    effect = plan.sample.min_effect or (target.effect if target else None)
    if target is None or effect is None or effect <= target.min:
        raise EdgebedError(
            f"write which effect of {kpi.id} you expect, target.effect or sample.min_effect, above "
            "target.min: one at the target itself is shown by chance only"
        )
    relative = target.scale == "relative"
    size, least = (_log(kpi.sign, each) if relative else each for each in (effect, target.min))
    found = planning.noise(baseline, relative=relative)
    if isinstance(found, Refused):
        raise EdgebedError(f"{kpi.id}: {found.sentence}")
    shown = f"{effect:.3g}" if not relative else f"{effect:.1%}"
    pairs = planning.switchback_pairs(found.step_sd, size - least)
    head = f"{kpi.id}: {found.periods} periods, correlation of neighbours {found.correlation:.2f}"
    if design.kind == "switchback":
        z = (size - least) / (found.step_sd or 1e-300) * math.sqrt(max(0, design.periods // 2 - 2))
        power = NormalDist().cdf(z - NormalDist().inv_cdf(1 - plan.analysis.alpha / 2))
        needed = max(2 * pairs, planning.ASKED_PERIODS)
        return Outlook(power, (head, *_sentences(design.periods, needed, shown, power, asked)))
    made = planning.before_after_plan(
        found,
        trial=design.periods,
        effect=size,
        target=least,
        trend=plan.adjust.trend,
        alpha=plan.analysis.alpha,
        seed=design.seed,
    )
    beside = f"a switchback shows it in {made.switchback_periods} periods, where the change can be switched"
    return Outlook(
        made.power, (head, *_sentences(design.periods, made.needed, shown, made.power, asked), beside)
    )


def _log(sign: int, share: float) -> float:
    """The size of a relative change as a difference of logarithms."""
    if sign < 0 and share >= 1:
        raise EdgebedError("nothing decreases by 100 % or more: state the target as an absolute one")
    return abs(math.log1p(sign * share))


def _sentences(planned: int, needed: int | None, shown: str, power: float, asked: float) -> Iterator[str]:
    yield f"{planned} periods show an effect of {shown} in {power:.0%} of pilots"
    if power < asked:
        longest = f"more than {planning.LONGEST}" if needed is None else str(needed)
        share = f"{planning.ASKED_POWER:.0%} of pilots"
        yield f"with your baseline you need {longest} periods to show it in {share}"
