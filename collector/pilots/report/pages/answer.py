"""The head of the page: the question, the answer in one sentence, and what was tried."""

from __future__ import annotations

import re

from collector.pilots.report.document import KpiReport
from collector.pilots.report.pages import figures
from collector.pilots.report.pages.markup import SPACE, Markup, join, tag
from collector.pilots.report.pages.view import View

_LONGEST_UNIT = 3  # letters of a unit in lower case


def head(view: View) -> Markup:
    """Title, question and answer, and a list of the facts of the pilot."""
    report = view.report
    word = report.word if view.is_over else report.state
    return tag(
        "header",
        tag("p", view.texts("kicker", pilot=report.pilot, owner=report.owner), class_="kicker"),
        tag("h1", view.words(report.title)),
        tag("p", view.words(report.question), class_="question"),
        tag(
            "div",
            tag("strong", view.texts(f"word.{word}"), class_="word"),
            tag("p", sentence(view)),
            class_=f"answer {word}",
        ),
        _facts(view),
    )


def sentence(view: View) -> Markup:
    """The answer: the effect of the primary KPI, its interval, the target, and what follows from them."""
    told = _answer(view)
    first = told.partition(" ")[0]
    # it may start with the title of a KPI; a unit such as km or kWh stays as it is
    if view.lang == "en" and first.isalpha() and first.islower() and len(first) > _LONGEST_UNIT:
        return Markup(told[:1].upper() + told[1:])
    return told


def _answer(view: View) -> Markup:
    report, kpi = view.report, view.primary
    if report.state == "planned":
        return view.texts("answer.planned", start=view.times.at(report.trial_ms[0]))
    if kpi is None:
        return view.texts("answer.no-primary")
    told = _effect(view, kpi)
    if not view.is_over:
        return _so_far(view, kpi, told)
    if report.reason == "guardrail-broken":
        broken = [view.name(each) for each in report.kpis if each.guarded == "broken"]
        return view.texts("answer.guardrail-broken", effect=told, kpis=", ".join(broken))
    if kpi.effect is None:
        return _refused(view, kpi)
    return view.texts(f"answer.{report.word}", effect=told, why=view.reason(report.reason))


def _effect(view: View, kpi: KpiReport) -> Markup:
    if kpi.effect is None or kpi.effect.estimate is None:
        return view.texts("answer.no-effect", kpi=view.name(kpi), target=target(view, kpi))
    shown = view.effect(kpi, kpi.effect)
    return view.texts(
        "answer.effect",
        kpi=view.name(kpi),
        estimate=f"{shown.estimate}{shown.unit}",
        interval=shown.interval,
        level=view.percent(1 - kpi.effect.alpha, 0),
        target=target(view, kpi),
    )


def _so_far(view: View, kpi: KpiReport, told: Markup) -> Markup:
    report = view.report
    over = [each for each in report.ran if each.end_ms <= report.until_ms]
    to_come = max((sum(flow.to_come for flow in each.flow) for each in report.kpis), default=0)
    return view.texts(
        "answer.so-far",
        done=len(over),
        planned=max(len(report.ran), len(over) + to_come),
        effect=told,
        why="" if kpi.effect or not kpi.refusal else view.reason(kpi.refusal.code),
        end=view.times.at(report.trial_ms[1]),
    )


def _refused(view: View, kpi: KpiReport) -> Markup:
    code = kpi.refusal.code if kpi.refusal else kpi.reason
    return view.texts("answer.refused", kpi=view.name(kpi), target=target(view, kpi), why=view.reason(code))


def target(view: View, kpi: KpiReport) -> Markup:
    """The target of a KPI, such as `≤ -10 %`."""
    value = view.target(kpi)
    if value is None:
        return view.texts("target.none")
    side = "≤" if kpi.direction == "decrease" else "≥"
    return join(f"{side}{SPACE}{view.change(kpi, value, relative=kpi.target_scale == 'relative')}")


def _facts(view: View) -> Markup:
    report, texts = view.report, view.texts
    facts: list[tuple[str, object]] = [
        ("testbed", report.testbed),
        ("intervention", _intervention(view)),
        ("design", texts(f"design.{report.design}")),
        ("unit", _unit(view)),
        *([("baseline", _window(view, report.baseline_ms))] if report.baseline_ms else []),
        ("trial", _window(view, report.trial_ms)),
        ("state", texts(f"state.{report.state}", until=view.times.at(report.until_ms))),
        ("times", view.times.name),
    ]
    if report.treated:
        facts.insert(4, ("treated", ", ".join(report.treated)))
    rows = [join(tag("dt", texts(f"fact.{key}")), tag("dd", value)) for key, value in facts]  # type: ignore[arg-type]
    return tag("dl", *rows, class_="facts")


def _unit(view: View) -> Markup:
    report = view.report
    cuts = [
        view.texts(f"fact.{name}", span=view.span(seconds))
        for name, seconds in (
            ("washout", report.washout_s),
            ("settle", report.settle_s),
            ("carry-over", report.carry_over_s),
        )
        if seconds
    ]
    name = f"unit.{report.unit}"
    length = re.fullmatch(r"([0-9]+)(s|min|h)", report.unit)
    unit: str = view.texts(name) if view.texts.has(name) else report.unit
    if length:
        unit = length[1] + figures.suffix(figures.unit_text(length[2], view.lang), view.lang)
    return join(unit, *(join("; ", cut) for cut in cuts))


def _window(view: View, window: tuple[int, int]) -> str:
    return f"{view.times.at(window[0])} {figures.DASH} {view.times.at(window[1])}"


def _intervention(view: View) -> Markup:
    what = view.report.intervention
    if what.kind == "model":
        detail = view.texts("intervention.model", model=what.model or "", slot=what.slot or "")
    else:
        name = what.parameter or what.register or what.topic or ""
        shown = ("" if each is None else f"{each:,g}" for each in (what.on, what.off))
        on, off = shown
        detail = view.texts(
            f"intervention.{what.kind}", name=name, on=on, off=off, at=what.slot or what.device or ""
        )
    return join(view.words(what.what), " (", detail, ")")
