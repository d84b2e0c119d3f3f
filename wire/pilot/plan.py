"""`pilot.yaml`: what a pilot asks, what it changes, when, and by which KPIs it is judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from wire import config
from wire.pilot.formulas import FORMULAS, Estimand

PLAN_FORMAT = "edgebed-pilot/1"
MAX_PERIODS = 500  # of a window: the schedule travels with the plan in one message

_WORD = "[a-z0-9][a-z0-9-]{0,31}"
_NAME = "[a-z][a-z0-9_]{0,47}"
_WORD_FORM = "up to 32 characters of a-z, 0-9 and -"


def _form(pattern: str, description: str, max_length: int | None = None) -> Meta:
    """A text of this form; a mistake names the form by its `description`."""
    return Meta(pattern=rf"^{pattern}\Z", description=description, max_length=max_length)


Word = Annotated[str, _form(_WORD, _WORD_FORM)]
Name = Annotated[str, _form(_NAME, "a name of a-z, 0-9 and _ that begins with a letter")]
NodeAddress = Annotated[str, _form(f"{_WORD}(/{_WORD}){{3}}", "an address tenant/pilot/site/node")]
Machine = Annotated[str, _form(f"{_WORD}(/{_WORD}){{3,4}}", "tenant/pilot/site/node, or one of its devices")]
FieldPath = Annotated[str, _form(f"{_WORD}/{_WORD}/{_NAME}", "device/stream/field")]
EventPath = Annotated[str, _form(f"(_|{_WORD})/{_WORD}", "device/name of an event")]
Line = Annotated[str, Meta(min_length=1, max_length=300)]
Unit = Annotated[str, _form("[!-~]*", "a UCUM code such as kW.h, without spaces", max_length=64)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
LocalTime = Annotated[
    str,
    _form(
        "[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?)?",
        "a local time such as 2027-03-01 06:00, in the zone of windows.tz",
    ),
]
Clock = Annotated[str, _form("(?:[01][0-9]|2[0-3]):[0-5][0-9]", "a time of the day such as 06:00")]
Duration = Annotated[
    str, _form("(?:day|shift|[1-9][0-9]{0,5}(?:s|min|h))", "day, shift, or a time such as 8h, 30min or 20s")
]
Sha256 = Annotated[str, _form("[0-9a-f]{64}", "64 hexadecimal digits")]
ModelRef = Annotated[
    str, _form("[a-z0-9][a-z0-9._-]{0,63}@[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", "name@version of a model")
]
Magnitude = Annotated[float, Meta(gt=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1)]


class _Part(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Text(_Part, kw_only=True, frozen=True):
    """A text in both languages of the report."""

    en: Line
    ko: Line


class Input(_Part, kw_only=True, frozen=True):
    """One input of a KPI: a field of a stream, `device/stream/field`, or an event, `device/name`.

    `unit` is the UCUM code that the field has in the declaration of its device. `node` limits the input to
    one node of the plan. `hold_s` is how long a value holds without another row; unset: three times the usual
    step between rows, 10 s at least and 1 h at most.
    """

    field: FieldPath | None = None
    event: EventPath | None = None
    unit: Unit = ""
    node: NodeAddress | None = None
    # UNSET: the hash of a plan without it is that of earlier releases
    hold_s: Annotated[float, Meta(gt=0, le=604_800)] | UnsetType = UNSET


class Intervention(_Part, kw_only=True, frozen=True):
    """What is switched on and off.

    `model`: the model in `slot` acts while it is on, and runs in shadow while it is off. `threshold`: the
    number `parameter` of the model in `slot` is `on` or `off`. `set-point`: a `register` or a `topic` of
    `device` gets `on` or `off`, always within `min` and `max`, and `safe` when the agent stops.
    """

    kind: Literal["model", "threshold", "set-point"]
    what: Text
    slot: Word | None = None
    model: ModelRef | None = None
    sha256: Sha256 | None = None
    off_state: Literal["shadow"] = "shadow"
    parameter: Name | None = None
    device: Word | None = None
    register: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    topic: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    on: float | None = None
    off: float | None = None
    min: float | None = None
    max: float | None = None
    safe: float | None = None


class Groups(_Part, kw_only=True, frozen=True):
    """The machines of a parallel or paired design; `treated` of them are drawn, and one of `starts`."""

    machines: Annotated[tuple[Machine, ...], Meta(max_length=200)]
    treated: Annotated[int, Meta(ge=1, le=199)] | None = None
    starts: Annotated[tuple[LocalTime, ...], Meta(max_length=50)] = ()


class Design(_Part, kw_only=True, frozen=True):
    """How the trial is arranged.

    `unit` is the length of a period: a day, a shift (`shifts` are their starts), or a time such as `8h`.
    `washout_s` is cut from the start of each period of the trial, `settle_s` from the start of the trial.
    `carry_over_s` is the longest time for which a period can still be affected by the one before.
    """

    kind: Literal["switchback", "before-after", "parallel", "paired"]
    unit: Duration
    periods: Annotated[int, Meta(ge=1, le=MAX_PERIODS)]
    seed: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    shifts: Annotated[tuple[Clock, ...], Meta(max_length=12)] = ()
    washout_s: Seconds = 0.0
    settle_s: Seconds = 0.0
    carry_over_s: Seconds = 0.0
    groups: Groups | None = None


class Window(_Part, kw_only=True, frozen=True, rename={"start": "from", "end": "to"}):
    """A time in the zone of the plan; `to` is the first moment after it."""

    start: LocalTime
    end: LocalTime


class Windows(_Part, kw_only=True, frozen=True):
    """When the baseline and the trial are; `tz` is a zone such as Asia/Seoul."""

    tz: Annotated[str, Meta(min_length=1, max_length=64)]
    trial: Window
    baseline: Window | None = None


class Target(_Part, kw_only=True, frozen=True):
    """What counts as success: an improvement of at least `min`; `effect` is the one that is expected.

    Both are positive in the KPI's direction: with `relative`, 0.1 is 10 % better than without the change.
    """

    min: Annotated[float, Meta(ge=0, le=1e9)]
    effect: Magnitude | None = None
    scale: Literal["relative", "absolute"] = "relative"


class Guardrail(_Part, kw_only=True, frozen=True):
    """How much worse the KPI may get, as a positive number against its direction."""

    worse_than: Annotated[float, Meta(ge=0, le=1e9)]
    scale: Literal["relative", "absolute"] = "relative"


class Kpi(_Part, kw_only=True, frozen=True, rename={"inputs": "from", "kpi_class": "class"}):
    """A KPI: `formula` is a word of `wire.pilot.formulas.FORMULAS`, or an expression over the inputs.

    `class` is that of Korean smart-factory forms: productivity, quality, cost, delivery; with E energy and
    environment, S safety, A assets. `estimand` is what is compared; None is that of the formula.
    """

    id: Word
    title: Text | None = None
    kpi_class: Literal["P", "Q", "C", "D", "E", "S", "A"]
    formula: Line
    inputs: Annotated[dict[Name, Input], Meta(max_length=16)]
    unit: Unit
    direction: Literal["increase", "decrease"]
    given: Annotated[dict[Name, float], Meta(max_length=16)] = {}
    estimand: Estimand | None = None
    primary: bool = False
    target: Target | None = None
    guardrail: Guardrail | None = None

    @property
    def sign(self) -> Literal[1, -1]:
        """+1 where more is better, else -1."""
        return 1 if self.direction == "increase" else -1

    @property
    def compared(self) -> Estimand:
        """How periods are compared: as the plan states, else as the formula."""
        known = FORMULAS.get(self.formula)
        return self.estimand or (known.estimand if known else "mean")


class Adjust(_Part, kw_only=True, frozen=True):
    """What the comparison allows for."""

    weekday: bool = False
    covariates: Annotated[dict[Name, Input], Meta(max_length=8)] = {}
    trend: Literal["none", "check", "linear"] = "check"
    reason: Annotated[str, Meta(max_length=300)] = ""


class Condition(_Part, kw_only=True, frozen=True, rename={"inputs": "from"}):
    """A comparison over inputs that leaves out each period in which it is true."""

    id: Word
    when: Line
    inputs: Annotated[dict[Name, Input], Meta(max_length=16)]
    given: Annotated[dict[Name, float], Meta(max_length=16)] = {}
    why: Annotated[str, Meta(max_length=300)] = ""


class LeftOut(Window, kw_only=True, frozen=True):
    """A time that is known not to count, such as a holiday."""

    why: Line


class Exclude(_Part, kw_only=True, frozen=True):
    """Periods that do not count; more than `max_share` of them in an arm hold the verdict back."""

    when: Annotated[tuple[Condition, ...], Meta(max_length=16)] = ()
    times: Annotated[tuple[LeftOut, ...], Meta(max_length=50)] = ()
    max_share: Share = 0.2


class Data(_Part, kw_only=True, frozen=True):
    """What a period needs to count."""

    min_complete: Share = 0.95
    clock_max_ms: Annotated[float, Meta(gt=0, le=3_600_000)] = 1_000.0


class Analysis(_Part, kw_only=True, frozen=True):
    """How the effect is judged."""

    alpha: Annotated[float, Meta(ge=0.001, le=0.2)] = 0.05
    sensitivity: tuple[Literal["trend", "exclusions", "washout", "scale"], ...] = ()


class Sample(_Part, kw_only=True, frozen=True):
    """What the plan must be able to show."""

    power: Annotated[float, Meta(ge=0.5, le=0.99)] = 0.8
    min_effect: Magnitude | None = None


class Plan(_Part, kw_only=True, frozen=True):
    """The content of `pilot.yaml`."""

    pilot: Word
    title: Text
    owner: Word
    testbed: Line
    question: Text
    nodes: Annotated[tuple[NodeAddress, ...], Meta(min_length=1, max_length=200)]
    intervention: Intervention
    design: Design
    windows: Windows
    kpis: Annotated[tuple[Kpi, ...], Meta(min_length=1, max_length=16)]
    adjust: Adjust = Adjust()
    exclude: Exclude = Exclude()
    data: Data = Data()
    analysis: Analysis = Analysis()
    sample: Sample = Sample()
    stop: Annotated[tuple[Line, ...], Meta(max_length=16)] = ()

    @property
    def primary(self) -> Kpi:
        """The KPI that decides."""
        return next(kpi for kpi in self.kpis if kpi.primary)

    def inputs(self) -> Iterator[tuple[config.KeyPath, Input]]:
        """Each input of a KPI, a covariate or a condition, with its place in the file."""
        for at, kpi in enumerate(self.kpis):
            for name, each in kpi.inputs.items():
                yield ("kpis", at, "from", name), each
        for name, each in self.adjust.covariates.items():
            yield ("adjust", "covariates", name), each
        for at, condition in enumerate(self.exclude.when):
            for name, each in condition.inputs.items():
                yield ("exclude", "when", at, "from", name), each

    @property
    def named(self) -> set[str]:
        """Every node that it names: a plan that was made by hand may measure others than `nodes`."""
        machines = self.design.groups.machines if self.design.groups is not None else ()
        return {
            *self.nodes,
            *(each.node for _, each in self.inputs() if each.node is not None),
            *("/".join(each.split("/")[:4]) for each in machines),
        }


def load(path: Path, *more: config.Check[Plan]) -> Plan:
    """Read `pilot.yaml`; `more` checks find further mistakes in the same pass.

    Raises:
        ConfigError: it cannot be used; lists every mistake with its line.
    """
    return config.load(path, Plan, _every(more))


def parse(text: str, name: str) -> Plan:
    """Like `load`, for a text; `name` is printed in front of each mistake. Raises as `load`."""
    return config.parse(text, Plan, name=name, folder=Path(), check=_every(()))


def _every(more: Iterable[config.Check[Plan]]) -> config.Check[Plan]:
    """All checks; those after the first need a plan without other mistakes."""
    from wire.pilot.checks import check
    from wire.pilot.contradictions import contradictions

    def every(plan: Plan, marks: config.Marks) -> Iterator[config.Mistake]:
        for each in (check, contradictions, *more):
            mistakes = list(each(plan, marks))
            yield from mistakes
            if mistakes or marks.found:  # placeholders name what the user did not write
                return

    return every
