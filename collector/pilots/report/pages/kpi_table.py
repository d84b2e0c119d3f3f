"""The table of the KPIs, grouped by class as in the forms of Korean smart-factory projects (P-Q-C-D)."""

from __future__ import annotations

from collector.pilots.report.document import EffectFound, KpiReport
from collector.pilots.report.pages import figures
from collector.pilots.report.pages.answer import target
from collector.pilots.report.pages.markup import Markup, join, tag
from collector.pilots.report.pages.view import CLASSES, DASH_MARKUP, SIDES, SideName, View, sign

COUNTED_AS = {
    "switchback-exact": "pairs",
    "ratio-jackknife": "pairs",
    "counts-hull": "pairs",
    "machines-t": "machines",
    "clusters-t": "clusters",
}


def section(view: View) -> Markup:
    """The table with a row for each KPI."""
    present = {side.name for kpi in view.report.kpis for side in kpi.sides}
    sides = [name for name in SIDES if name in present]
    keys = ["kpi", *(f"side.{name}" for name in sides)]
    keys += ["effect", "interval", "target", "verdict", "periods", "correlation"]
    heads = [view.column(key) for key in keys]
    bodies = []
    for each in CLASSES:
        kpis = [kpi for kpi in view.report.kpis if kpi.kpi_class == each]
        if kpis:
            rows = [_row(view, kpi, sides, heads) for kpi in sorted(kpis, key=lambda kpi: not kpi.primary)]
            name = join(tag("b", each, class_="class"), " ", view.texts(f"class.{each}"))
            bodies.append(
                tag("tbody", tag("tr", tag("th", name, colspan=len(keys), scope="rowgroup")), *rows)
            )
    return tag(
        "section",
        tag("h2", view.texts("heading.kpis")),
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
            *bodies,
            class_="kpis cards",
        ),
        tag("p", view.texts("kpis.note" if view.is_over else "kpis.note-so-far"), class_="note"),
        id="kpis",
    )


def _row(view: View, kpi: KpiReport, sides: list[SideName], heads: list[Markup]) -> Markup:
    word = kpi.word or "none" if view.is_over else "none"
    cells = [_name(view, kpi), *_values(view, kpi, sides), *_effect(view, kpi)]
    cells += [target(view, kpi), _verdict(view, kpi), _periods(view, kpi), _correlation(kpi.effect)]
    made = [tag("th", cells[0], scope="row")]
    for head, cell in zip(heads[1:], cells[1:], strict=True):
        made.append(tag("td", cell, data_label=head))
    return tag("tr", *made, class_=f"{word}{' primary' if kpi.primary else ''}", data_kpi=kpi.id)


def _name(view: View, kpi: KpiReport) -> Markup:
    unit, standard, name = view.unit(kpi), view.standard(kpi), view.name(kpi)
    under = [standard] if standard and standard != name else []
    under += [unit] if unit else []
    under += [view.texts("kpi.primary")] if kpi.primary else []
    return join(name, tag("small", ", ".join(under)) if under else None)


def _values(view: View, kpi: KpiReport, names: list[SideName]) -> list[Markup]:
    sides = [view.side(kpi, name) for name in names]
    shown = view.values(kpi, *(side.mean if side else None for side in sides))
    used = {flow.name: flow for flow in kpi.flow}
    cells = []
    for name, value in zip(names, shown, strict=True):
        flow = used.get(name)
        small = None if flow is None else view.texts("kpi.used", used=flow.used, planned=flow.planned)
        cells.append(join(value, tag("small", small) if small else None))
    return cells


def _effect(view: View, kpi: KpiReport) -> list[Markup]:
    found = kpi.effect
    if found is None or found.estimate is None:
        return [DASH_MARKUP, DASH_MARKUP]
    shown = view.effect(kpi, found)
    better = found.estimate * sign(kpi)
    word = "better" if better > 0 else "worse" if better < 0 else "same"
    about = join(view.compared(kpi), ", ", view.texts(f"effect.{word}"))
    return [join(f"{shown.estimate}{shown.unit}", tag("small", about)), shown.interval]


def _verdict(view: View, kpi: KpiReport) -> Markup:
    made = tag("b", view.verdict(kpi), class_="word")
    if view.is_over and kpi.word is None and kpi.guarded is not None:
        made = tag("small", view.texts("kpi.guarded", word=view.texts(f"guarded.{kpi.guarded}")))
    reason = kpi.refusal.code if kpi.refusal else kpi.reason
    if reason and (view.is_over or kpi.refusal):
        return join(made, tag("small", view.texts.code("short", reason)))
    return made


def _periods(view: View, kpi: KpiReport) -> Markup:
    if kpi.effect is None:
        return DASH_MARKUP
    return view.texts(f"n.{COUNTED_AS.get(kpi.effect.method, 'periods')}", n=view.count(kpi.effect.n))


def _correlation(found: EffectFound | None) -> Markup:
    if found is None or found.correlation is None:
        return DASH_MARKUP
    return join(figures.number(found.correlation, 2))
