"""How often pilots of a plan show an effect: each frozen analysis on noise like that of a baseline.

An improvement is positive in the KPI's direction, in the scale of the plan: a share, or the KPI's unit. A
pilot shows it if the limit of its interval on the worse side is at `least` or beyond it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Literal

import numpy as np

from collector.pilots.effects import counts, phases, planning, student_t
from collector.pilots.effects.clusters import LEAST_CLUSTERS
from collector.pilots.effects.planning import Noise
from collector.pilots.effects.student_t import Floats
from wire.pilot.plan import MAX_PERIODS

LEAST_PAIRS = 6
EXACT_UP_TO = 12  # pairs; above it the exact interval and Student's t are alike
_EXACT_RUNS, _AT_ONCE = 4_000, 500
_COUNT_RUNS = 1_000
_MACHINE_RUNS = 4_000
_MOST_MACHINES = 100  # a group
_STEP, _MOST_STEPS = 0.05, 60  # of the logarithm of a ratio's level
_ANY_SEED = 20_261_130  # of draws that do not depend on the plan

Sign = Literal[1, -1]


@dataclass(frozen=True, kw_only=True)
class Power(ABC):
    """The power of one analysis; `kept` is the share of periods that count, as in the baseline."""

    sign: Sign
    relative: bool
    alpha: float
    kept: float = 1.0
    in_logs: bool = True  # of a share; else it is compared as it is

    @abstractmethod
    def of(self, size: int, true: float, least: float) -> float:
        """The share of pilots of this size that show an effect beyond `least` when it is `true`."""

    @property
    @abstractmethod
    def sizes(self) -> Sequence[int]:
        """The sizes that a plan may have, ascending."""

    def needed(self, true: float, least: float, asked: float) -> int | None:
        """The smallest size that shows it in the share `asked` of pilots; None if all are too small."""
        low, high = 0, len(self.sizes)
        while low < high:
            middle = (low + high) // 2
            if self.of(self.sizes[middle], true, least) >= asked:
                high = middle
            else:
                low = middle + 1
        return self.sizes[low] if low < len(self.sizes) else None

    def smallest(self, size: int, least: float, asked: float) -> float | None:
        """The smallest improvement that a pilot of this size shows in the share `asked`; None: there is none.

        It has 2 % of its own size as tolerance.
        """
        most = 0.999 if self.relative and self.sign < 0 else 1e3 if self.relative else 1e12
        low, high = 0.0, max(least, 1e-12)
        while self.of(size, min(high, most), least) < asked:
            if high >= most:
                return None
            low, high = high, 2 * high
        high = min(high, most)
        while high - low > 0.02 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.of(size, middle, least) >= asked else (middle, high)
        return high

    def analysed(self, each: float) -> float:
        """An improvement in the scale of the analysis: of a share the logarithm."""
        if not (self.relative and self.in_logs):
            return each
        ratio = 1 + self.sign * each
        return self.sign * math.log(ratio) if ratio > 0 else math.copysign(math.inf, each)


@dataclass(frozen=True, kw_only=True)
class OfPairs(Power):
    """A switchback of values (`exact`), or of a ratio of sums, from the sd of neighbouring differences."""

    step_sd: float
    exact: bool

    @property
    def sizes(self) -> Sequence[int]:
        """Whole pairs, in periods."""
        return range(2 * LEAST_PAIRS, MAX_PERIODS + 1, 2)

    def of(self, size: int, true: float, least: float) -> float:
        """By simulation of the exact interval where pairs are few, by the noncentral t else."""
        pairs, gap = kept_pairs(size, self.kept), self.analysed(true) - self.analysed(least)
        if pairs < LEAST_PAIRS:
            return 0.0
        shift = gap / self.step_sd if self.step_sd else math.copysign(math.inf, gap)
        if self.exact and pairs <= EXACT_UP_TO:
            return float((_exact_lows(pairs, self.alpha) + shift >= 0).mean())
        return t_power(shift * math.sqrt(pairs), pairs - 1, self.alpha)


@dataclass(frozen=True, kw_only=True)
class OfCounts(Power):
    """A switchback of rare events: the frozen rule on drawn counts.

    `rate` is that of the baseline, `spread` the variance that its periods have beyond that of Poisson, as a
    share of the square of the mean, and `shared` the part of it that neighbours have in common.
    """

    rate: float
    exposures: Floats
    spread: float
    shared: float
    seed: int

    @property
    def sizes(self) -> Sequence[int]:
        """A ladder of whole pairs: each step is simulated."""
        return (
            12,
            14,
            16,
            18,
            20,
            24,
            28,
            32,
            36,
            40,
            48,
            56,
            64,
            80,
            96,
            112,
            140,
            168,
            224,
            280,
            350,
            420,
            500,
        )

    def of(self, size: int, true: float, least: float) -> float:
        """By simulation."""
        pairs = kept_pairs(size, self.kept)
        if pairs < LEAST_PAIRS:
            return 0.0
        shown = [self._shows(*each, least) for each in self._drawn(pairs, 1 + self.sign * true)]
        return sum(shown) / len(shown)

    def events(self, size: int, true: float) -> float:
        """The events that both arms together have, on average."""
        pairs = kept_pairs(size, self.kept)
        return self.rate * float(self.exposures.mean()) * pairs * (2 + self.sign * true)

    def _drawn(self, pairs: int, ratio: float) -> list[tuple[Floats, Floats, Floats, Floats]]:
        drawn = np.random.Generator(np.random.PCG64(self.seed))
        shape = (_COUNT_RUNS, pairs)
        both = _scatter(drawn, self.shared, shape)
        own = (self.spread - self.shared) / (1 + self.shared)
        arms = []
        for factor in (max(0.0, ratio), 1.0):
            per = drawn.choice(self.exposures, size=shape)
            arms += [drawn.poisson(self.rate * factor * per * both * _scatter(drawn, own, shape)), per]
        on, on_per, off, off_per = arms
        return [(on[run], off[run], on_per[run], off_per[run]) for run in range(_COUNT_RUNS)]

    def _shows(self, on: Floats, off: Floats, on_per: Floats, off_per: Floats, least: float) -> bool:
        """Whether both intervals of `counts.pairs` are beyond a limit; it costs less than the intervals."""
        hits, others = int(on.sum()), int(off.sum())
        if hits + others < counts.LEAST_EVENTS:
            return False
        ratio = 1 + self.sign * least
        low, high = counts.fieller(on / on_per, off / off_per, self.alpha)
        if (low < ratio) if self.sign > 0 else (high > ratio):
            return False
        share = ratio / (ratio + float(off_per.sum() / on_per.sum()))
        # the exact limit is beyond `share` where this number of events would be rare with that share
        tail = (
            student_t.beta_cdf(hits, others + 1, share)
            if self.sign > 0
            else 1 - student_t.beta_cdf(hits + 1, others, share)
        )
        return tail <= self.alpha / 2


@dataclass(frozen=True, kw_only=True)
class OfPhases(Power):
    """Before and after: the frozen rule on series with the noise of the baseline."""

    noise: Noise
    trend: phases.Trend
    seed: int
    weekdays: Callable[[int], Sequence[Floats]] = field(default=lambda _periods: ())  # of all periods
    by_chance: float = 0.0  # the part of the variance that counting makes: it follows the level itself
    _known: dict[tuple[int, float], Floats] = field(default_factory=dict)

    @property
    def sizes(self) -> Sequence[int]:
        """The ladder of the lengths that are simulated."""
        return planning.LADDER

    def of(self, size: int, true: float, least: float) -> float:
        """By simulation; the limits of one length, and of a ratio of about one effect, are drawn once."""
        trial = round(size * self.kept)
        if trial < phases.LEAST_PERIODS:
            return 0.0
        level = self._level(true)
        if (trial, level) not in self._known:
            self._known[trial, level] = self._limits(trial, level)
        beyond = self.analysed(true) - self.sign * (level - 1)
        return float((self._known[trial, level] + beyond >= self.analysed(least)).mean())

    def _level(self, true: float) -> float:
        """The level of the trial by that before, in steps of 5 %; 1 where the noise does not depend on it."""
        if self.in_logs or not self.relative:
            return 1.0
        step = math.log(max(1 + self.sign * true, math.exp(-_MOST_STEPS * _STEP)))
        return math.exp(_STEP * round(step / _STEP))

    def _limits(self, trial: int, level: float) -> Floats:
        share = None
        if self.relative and not self.in_logs:
            noise = math.sqrt(self.by_chance * level + (1 - self.by_chance) * level**2)
            share = planning.Share(level, noise, self.sign)
        return planning.lower_limits(
            self.noise,
            trial=trial,
            trend=self.trend,
            alpha=self.alpha,
            seed=self.seed,
            covariates=self.weekdays(self.noise.periods + trial),
            share=share,
        )


@dataclass(frozen=True, kw_only=True)
class OfMachines(Power):
    """Machines with the change and others without: t on the differences after minus before of each.

    `differences` are drawn from the noise of the baselines. The size is the number of all machines.
    """

    differences: Floats
    treated: int | None = None  # as planned; another size has two equal groups
    planned: int = 0
    seed: int = 0

    @property
    def sizes(self) -> Sequence[int]:
        """Two equal groups."""
        return range(4, 2 * _MOST_MACHINES + 1, 2)

    def of(self, size: int, true: float, least: float) -> float:
        """By drawing machines."""
        treated = self.treated if self.treated is not None and size == self.planned else size // 2
        lows = self._lows(size, treated)
        return float((lows + self.analysed(true) >= self.analysed(least)).mean())

    def _lows(self, size: int, treated: int) -> Floats:
        drawn = np.random.Generator(np.random.PCG64(self.seed))
        found = drawn.choice(self.differences, size=(_MACHINE_RUNS, size))
        groups = found[:, :treated], found[:, treated:]
        squares = sum((each.var(axis=1) * each.shape[1] for each in groups), np.zeros(_MACHINE_RUNS))
        error = np.sqrt(squares / (size - 2) * (1 / treated + 1 / (size - treated)))
        means = [each.mean(axis=1) for each in groups]
        return np.asarray(means[0] - means[1] - student_t.quantile(1 - self.alpha / 2, size - 2) * error)


@dataclass(frozen=True, kw_only=True)
class OfClusters(Power):
    """A model against a rule: t on the means of the machines or places, from the sd of these means."""

    sd: float

    @property
    def sizes(self) -> Sequence[int]:
        """From the least number of clusters."""
        return range(LEAST_CLUSTERS, 201)

    def of(self, size: int, true: float, least: float) -> float:
        """By the noncentral t."""
        gap = self.analysed(true) - self.analysed(least)
        shift = gap / self.sd if self.sd else math.copysign(math.inf, gap)
        return t_power(shift * math.sqrt(size), size - 1, self.alpha) if size >= self.sizes[0] else 0.0


def kept_pairs(periods: int, kept: float) -> int:
    """The whole pairs that are left when each period counts with the chance `kept`."""
    return round(periods // 2 * kept**2)


@lru_cache(maxsize=1_024)
def t_power(shift: float, df: int, alpha: float) -> float:
    """The chance that the lower limit of a t interval is above 0; `shift` is the mean in standard errors."""
    # the chance given the estimated sd, averaged over the distribution of that sd
    spread = 8 / math.sqrt(2 * df)
    sds = np.linspace(max(1e-9, 1 - spread), 1 + spread, 2_001)
    log_density = (df - 1) * np.log(sds) - df / 2 * (sds**2 - 1)
    weights = np.exp(log_density - log_density.max())
    reach = student_t.quantile(1 - alpha / 2, df)
    below = np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in shift - reach * sds])
    return float((weights * below).sum() / weights.sum())


@cache
def _exact_lows(pairs: int, alpha: float) -> Floats:
    """The lower limits of the exact interval, of drawn differences around 0 with sd 1."""
    outside = math.floor(alpha * 2**pairs / 2 + 1e-9)  # as `subsets.limits`
    if outside < 1:
        return np.full(_EXACT_RUNS, -math.inf)
    drawn = np.random.Generator(np.random.PCG64(_ANY_SEED))
    lows = []
    for _ in range(_EXACT_RUNS // _AT_ONCE):
        sums, sizes = np.zeros((1, _AT_ONCE)), np.zeros(1)
        for each in drawn.standard_normal((pairs, _AT_ONCE)):
            sums, sizes = np.concatenate([sums, sums + each]), np.concatenate([sizes, sizes + 1])
        lows.append(np.partition(sums[1:] / sizes[1:, None], outside - 1, axis=0)[outside - 1])
    return np.concatenate(lows)


def _scatter(drawn: np.random.Generator, variance: float, shape: tuple[int, int]) -> Floats:
    """Factors with mean 1 and this variance."""
    return np.ones(shape) if variance <= 0 else drawn.gamma(1 / variance, variance, size=shape)
