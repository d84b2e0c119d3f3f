"""What the numbers rest on: findings, exclusions, completeness, the plan, sensitivity, and the hashes."""

from __future__ import annotations

import hashlib

import msgspec

from collector.pilots.report.document import Custody, Finding, KpiReport, PlanVersion, Report, Variant
from collector.pilots.report.pages import figures
from collector.pilots.report.pages.markup import SPACE, Markup, join, tag
from collector.pilots.report.pages.tables import section, table
from collector.pilots.report.pages.view import View, ranges
from wire.pilot.canonical import canonical

DASH = figures.DASH


def findings(view: View) -> Markup:
    """What a reader must know, each in words."""
    lines = []
    for each in view.report.findings:
        said = view.texts.code("finding", each.code, **_args(view, each))
        numbers = view.texts("finding.periods", periods=ranges(list(each.periods))) if each.periods else None
        lines.append(tag("li", said, tag("small", " ", numbers) if numbers else None, data_code=each.code))
    body = tag("ul", *lines, class_="findings") if lines else tag("p", view.texts("findings.none"))
    return section(view, "findings", body)


def _args(view: View, found: Finding) -> dict[str, object]:
    """The args of a finding as they are shown."""
    args = {**found.args, "where": found.where}
    shown = {name: each if isinstance(each, str) else view.count(each) for name, each in args.items()}
    if "code" in shown:
        shown["code"] = view.texts.code("exposure", shown["code"])
    if "kpis" in shown:  # their ids: a reader knows the titles
        titles = {kpi.id: view.name(kpi) for kpi in view.report.kpis}
        shown["kpis"] = ", ".join(titles.get(each, each) for each in shown["kpis"].split(", "))
    return {**shown}


def exclusions(view: View) -> Markup:
    """The flow of the periods of each KPI: planned, left out with the reasons, used."""
    rows = []
    for kpi in view.report.kpis:
        for flow in kpi.flow:
            reasons = [
                join(tag("li", view.texts("flow.reason", n=many, why=view.texts.code("left-out", code))))
                for code, many in sorted(flow.left_out.items(), key=lambda each: (-each[1], each[0]))
            ]
            rows.append(
                (
                    view.name(kpi),
                    view.texts(f"side.{flow.name}"),
                    flow.planned,
                    flow.to_come or DASH,
                    tag("ul", *reasons) if reasons else DASH,
                    tag("b", flow.used),
                )
            )
    columns = ("kpi", "side", "planned-periods", "to-come", "left-out", "used")
    note = view.texts(
        "flow.note",
        share=view.percent(view.report.min_complete, 0),
        clock=view.span(view.report.clock_max_ms / 1000),
    )
    return section(view, "exclusions", table(view, columns, rows), tag("p", note, class_="note"))


def completeness(view: View) -> Markup:
    """The messages of each node by the ledger, and the error of its clock."""
    rows = [_node(view, each) for each in view.report.custody]
    columns = ("node", "taken", "stored", "lost", "missing", "waiting", "pruned", "damaged", "clock")
    return section(
        view,
        "completeness",
        table(view, columns, rows),
        tag("p", view.texts("completeness.note"), class_="note"),
    )


def _node(view: View, each: Custody) -> tuple[str, ...]:
    counts = (each.taken, each.stored, each.lost, each.missing, each.waiting, each.pruned, each.damaged)
    clock = view.texts("clock.unknown") if each.clock_ms is None else view.span(each.clock_ms / 1000)
    return (each.node, *(view.count(number) for number in counts), clock)


def versions(view: View) -> Markup:
    """When the plan was frozen and recorded, and its amendments."""
    made = [_version(view, each) for each in view.report.versions]
    return section(view, "plan", *made)


def _version(view: View, each: PlanVersion) -> Markup:
    lines = [view.texts("version.hash", hash=tag("code", each.hash))]
    if each.previous:
        lines.append(
            view.texts("version.amends", hash=tag("code", each.previous[:16]), reason=each.reason or DASH)
        )
    lines.append(view.texts("version.keys", keys=tag("code", ", ".join(each.keys) or DASH), n=len(each.keys)))
    lines.append(view.texts("version.in-time" if each.in_time else "version.late"))
    for node in view.report.nodes:
        if node in each.nodes:
            in_time = each.nodes[node] < view.report.trial_ms[0]
            key = "version.node" if in_time else "version.node-late"
            lines.append(view.texts(key, node=node, at=view.times.at(each.nodes[node])))
        else:
            lines.append(view.texts("version.not-recorded", node=node))
    if each.trial_rows or each.previous:
        lines.append(view.texts("version.rows", rows=view.count(each.trial_rows)))
    return join(
        tag("h3", view.texts("version", n=each.version)),
        tag("ul", *(tag("li", line) for line in lines), data_version=each.version),
    )


def sensitivity(view: View) -> Markup | None:
    """The same analysis with one choice changed."""
    rows = [_variant(view, kpi, each) for kpi in view.report.kpis for each in kpi.sensitivity]
    if not rows:
        return None
    columns = ("kpi", "variant", "effect", "interval", "verdict")
    return section(view, "sensitivity", table(view, columns, rows))


def _variant(view: View, kpi: KpiReport, each: Variant) -> tuple[str | Markup, ...]:
    shown = view.effect(kpi, each.effect) if each.effect else None
    reason = each.refusal.code if each.refusal else None
    verdict = view.texts(f"verdict.{each.word}") if view.is_over else view.texts("verdict.none-yet")
    name = each.name
    if name == "trend" and kpi.effect and kpi.effect.method.endswith("linear-trend"):
        name = "no-trend"  # the plan has the trend, so the variant is without it
    return (
        view.name(kpi),
        view.texts.code("variant", name),
        f"{shown.estimate}{shown.unit}" if shown else DASH,
        shown.interval if shown else view.texts.code("short", reason or "no-effect"),
        DASH if reason == "not-applicable" else verdict,
    )


def guardrails(view: View) -> Markup | None:
    """What must not get worse, and whether it did."""
    rows = [_guardrail(view, kpi) for kpi in view.report.kpis if kpi.guardrail is not None]
    if not rows:
        return None
    columns = ("kpi", "effect", "interval", "limit", "guarded")
    return section(view, "guardrails", table(view, columns, rows))


def _guardrail(view: View, kpi: KpiReport) -> tuple[str | Markup, ...]:
    shown = view.effect(kpi, kpi.effect) if kpi.effect else None
    limit = view.guardrail(kpi) or 0.0
    side = "≤" if kpi.direction == "decrease" else "≥"
    word = (
        view.texts(f"guarded.{kpi.guarded}")
        if kpi.guarded and view.is_over
        else view.texts("verdict.none-yet")
    )
    reason = kpi.refusal.code if kpi.refusal else kpi.guarded_reason
    return (
        view.name(kpi),
        f"{shown.estimate}{shown.unit}" if shown else DASH,
        shown.interval if shown else DASH,
        f"{side}{SPACE}{view.change(kpi, limit, relative=kpi.guardrail_scale == 'relative')}",
        join(tag("b", word), tag("small", view.texts.code("short", reason)) if reason else None),
    )


def limits(view: View) -> Markup:
    """What this design cannot show."""
    lines = [tag("li", view.texts.code("limit", code), data_code=code) for code in view.report.limits]
    body = tag("ul", *lines) if lines else tag("p", view.texts("limits.none"))
    return section(view, "limits", body)


def recompute(view: View) -> Markup:
    """The hashes, and the command that makes every number again."""
    report = view.report
    digest = hashlib.sha256(canonical(msgspec.to_builtins(report))).hexdigest()
    facts = [
        ("plan-hash", tag("code", report.plan_hash)),
        ("report-hash", tag("code", digest)),
        ("software", f"edgebed {report.software}, {report.format}"),
        ("seed", str(report.seed)),
        ("until", view.times.at(report.until_ms, "%Y-%m-%d %H:%M:%S")),
    ]
    rows = [join(tag("dt", view.texts(f"fact.{key}")), tag("dd", value)) for key, value in facts]
    return section(
        view,
        "recompute",
        tag("dl", *rows, class_="facts"),
        tag("p", view.texts("recompute.text")),
        tag("pre", command(report)),
    )


def command(report: Report) -> str:
    """The command that computes the report again; `freeze` and `amend` give a `pilot.yaml` these names."""
    names = ["" if each.version == 1 else f"-v{each.version}" for each in report.versions] or [""]
    older, newest = ([f"pilot{name}.plan.json" for name in part] for part in (names[:-1], names[-1:]))
    words = ["edgebed", "pilot", "report", *newest]
    words += [word for name in older for word in ("--after", name)]
    # nothing of the report but numbers: somebody pastes it into a shell, and a report may come from anybody
    return " ".join([*words, "--store", "STORE", "--recompute", "report.json"])


def sources(view: View) -> Markup | None:
    """The appendix: the SHA-256 of what the numbers were computed from."""
    if not view.report.sources:
        return None
    rows = [(name, tag("code", digest)) for name, digest in sorted(view.report.sources.items())]
    return section(view, "sources", table(view, ("source", "digest"), rows))
