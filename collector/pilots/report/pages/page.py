"""A report as one HTML file: no script, nothing from the network, and every text escaped."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from collector.pilots.report.document import Report
from collector.pilots.report.pages import answer, conduct, kpi_details, kpi_table, proof
from collector.pilots.report.pages.figures import Lang
from collector.pilots.report.pages.markup import Markup, join, tag
from collector.pilots.report.pages.view import View


def page(report: Report, lang: Lang) -> str:
    """The whole page in one language."""
    view = View(report, lang)
    sections = (
        kpi_table.section,
        proof.findings,
        kpi_details.section,
        conduct.section,
        proof.guardrails,
        proof.exclusions,
        proof.completeness,
        proof.versions,
        proof.sensitivity,
        proof.limits,
        proof.recompute,
        conduct.switches,
        proof.sources,
    )
    body = tag("main", answer.head(view), *(each(view) for each in sections))
    return "<!doctype html>\n" + tag("html", _head(view), tag("body", body), lang=lang) + "\n"


def _head(view: View) -> Markup:
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # one style sheet by its hash: not even a style attribute counts, should an element get one
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = view.texts("page.title", title=view.words(view.report.title))
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        join(Markup(f"<style>{style}</style>")),
    )
