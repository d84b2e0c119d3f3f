"""The report of a pilot as a document: codes, numbers and the texts of the plan, and no time of its making.

Its canonical bytes depend on the frozen plans, the stored data and `until_ms` alone: with
these, anybody makes the same bytes. Times are ms of UTC. A number that is not finite is None.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from collector.pilots.effects.verdict import GuardrailWord, Word
from wire.pilot.formulas import Estimand
from wire.pilot.plan import Intervention, Text
from wire.pilot.schedule import Arm, Phase

REPORT_FORMAT = "edgebed-report/1"

State = Literal["planned", "running", "over"]
Kind = Literal["switchback", "before-after", "parallel", "paired"]


class _Part(Struct, frozen=True):
    pass


class PlanVersion(_Part, frozen=True, kw_only=True):
    """One signed version of the plan. `trial_rows` of its KPIs were stored when the first node had it."""

    version: int
    hash: str
    previous: str = ""
    reason: str = ""
    keys: tuple[str, ...] = ()  # fingerprints of those that signed it
    first_ms: int | None = (
        None  # the first event `pilot` of a node with this hash; None: no node has recorded it
    )
    nodes: dict[str, int] = {}  # node -> when it recorded it
    trial_rows: int = 0
    in_time: bool = False  # every node recorded it before the first moment of the trial


class Switch(_Part, frozen=True, kw_only=True):
    """One event `exposure` of a node."""

    node: str
    ts: int
    period: int  # of the trial, from 0; -1 is outside of it
    phase: str
    planned: Arm | None
    actual: Literal["on", "off", "other"]
    value: float | None = None
    restart: bool = False
    setup: str = ""  # names the devices and models that ran
    code: str = ""
    why: str = ""


class Ran(_Part, frozen=True, kw_only=True):
    """What ran in one period of the trial, of all nodes: shares of its counted time."""

    period: int
    start_ms: int
    end_ms: int
    planned: Arm
    on: float
    off: float
    other: float  # neither, or not known
    late_ms: int | None = None  # from the start of the period to the switch of the slowest node


class ModelRan(_Part, frozen=True, kw_only=True):
    """A model in the slot of the intervention, as the births of a node declare it."""

    node: str
    slot: str
    model: str  # name@version
    sha256: str
    provider: str = ""
    from_ms: int = 0
    is_planned: bool = True


class Side(_Part, frozen=True, kw_only=True):
    """What the used periods of one side have: baseline, trial, on or off."""

    name: Literal["baseline", "trial", "on", "off"]
    periods: int
    mean: float | None = None  # of the values; of a ratio or count the quotient of the sums
    sd: float | None = None
    numerator: float | None = None
    denominator: float | None = None


class EffectFound(_Part, frozen=True, kw_only=True):
    """An effect with its interval. With `relative` they are shares: -0.25 is a quarter less."""

    estimate: float | None
    low: float | None
    high: float | None  # None: the data give no limit
    method: str
    n: int
    alpha: float
    relative: bool
    df: int | None = None
    p: float | None = None
    sd: float | None = None
    correlation: float | None = None
    noise_share: float | None = None
    difference_of_means: float | None = None
    extras: dict[str, float | int | str | None] = {}


class Refusal(_Part, frozen=True, kw_only=True):
    """Why there is no interval: a code of the table in docs/pilots.md."""

    code: str
    sentence: str
    extras: dict[str, float | int | str | None] = {}


class PeriodFound(_Part, frozen=True, kw_only=True):
    """A KPI in one period, as `PeriodValue` of the KPIs; `machine` of a parallel design."""

    index: int
    phase: Phase
    arm: Arm
    start_ms: int
    end_ms: int
    status: str
    code: str = ""
    why: str = ""
    value: float | None = None
    numerator: float | None = None
    denominator: float | None = None
    rows: int = 0
    left_out: int = 0
    completeness: float = 0.0
    clock_ms: int | None = None
    machine: str = ""


class Flow(_Part, frozen=True, kw_only=True):
    """How many periods one side has, and why some do not count: code -> periods."""

    name: Literal["baseline", "trial", "on", "off"]
    planned: int
    to_come: int = 0
    used: int = 0
    left_out: dict[str, int] = {}


class Variant(_Part, frozen=True, kw_only=True):
    """The same analysis with one choice changed: trend, exclusions, washout or scale."""

    name: str
    effect: EffectFound | None = None
    refusal: Refusal | None = None
    word: Word


class PlaceboDates(_Part, frozen=True, kw_only=True):
    """Fake dates in the baseline, and at how many the rule shows an effect."""

    dates: int
    shown: int


class KpiReport(_Part, frozen=True, kw_only=True):
    """One KPI: its periods, sides, effect and verdict. One of `effect` and `refusal` is there."""

    id: str
    title: Text
    kpi_class: Literal["P", "Q", "C", "D", "E", "S", "A"]
    formula: str
    unit: str
    direction: Literal["increase", "decrease"]
    estimand: Estimand
    primary: bool
    sides: tuple[Side, ...]
    flow: tuple[Flow, ...]
    effect: EffectFound | None = None
    refusal: Refusal | None = None
    target: float | None = None
    target_scale: Literal["relative", "absolute"] = "relative"
    word: Word | None = None  # of the target
    reason: str | None = None
    guardrail: float | None = None
    guardrail_scale: Literal["relative", "absolute"] = "relative"
    guarded: GuardrailWord | None = None
    guarded_reason: str | None = None
    placebo: PlaceboDates | None = None
    sensitivity: tuple[Variant, ...] = ()
    periods: tuple[PeriodFound, ...] = ()


class Custody(_Part, frozen=True, kw_only=True):
    """What the ledger knows of a node's messages, from the first to the last whose rows the report used."""

    node: str
    taken: int
    stored: int
    lost: int
    missing: int
    waiting: int
    pruned: int
    damaged: int = 0
    clock_ms: int | None = None  # the largest error of its clock that is known


class Finding(_Part, frozen=True, kw_only=True):
    """Something that a reader must know: a changed row, a swapped model, a missing day, a clock that jumped.

    The texts by code are those of the report's pages; `args` are their numbers and names.
    """

    code: str
    where: str = ""  # a node, a KPI, a day file or an outbox
    periods: tuple[int, ...] = ()  # of the whole schedule
    args: dict[str, str | int | float] = {}


class Report(_Part, frozen=True, kw_only=True):
    """The whole report."""

    format: str = REPORT_FORMAT
    software: str  # version of edgebed
    pilot: str
    owner: str
    testbed: str
    title: Text
    question: Text
    intervention: Intervention
    design: Kind
    unit: str
    seed: int
    washout_s: float
    settle_s: float
    carry_over_s: float
    tz: str
    baseline_ms: tuple[int, int] | None
    trial_ms: tuple[int, int]
    treated: tuple[str, ...] = ()
    nodes: tuple[str, ...]
    alpha: float
    min_complete: float
    clock_max_ms: float
    state: State
    until_ms: int  # periods that end later are to come
    word: Word  # of the pilot
    reason: str | None
    plan_hash: str
    versions: tuple[PlanVersion, ...]
    kpis: tuple[KpiReport, ...]
    ran: tuple[Ran, ...]
    switches: tuple[Switch, ...]
    models: tuple[ModelRan, ...]
    off_schedule: float  # share of the counted time in which something else was applied than planned
    custody: tuple[Custody, ...]
    findings: tuple[Finding, ...]
    limits: tuple[str, ...]  # codes of what this design cannot show
    sources: dict[
        str, str
    ] = {}  # what the numbers were computed from: day file or stream -> SHA-256 of its rows
