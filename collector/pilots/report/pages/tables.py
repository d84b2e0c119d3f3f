"""A plain table whose rows become cards on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from collector.pilots.report.pages.markup import Child, Markup, tag
from collector.pilots.report.pages.view import View


def table(
    view: View, columns: Sequence[str], rows: Iterable[Sequence[Child]], class_: str = "cards"
) -> Markup:
    """A table; `columns` are keys of `column.KEY`, and the first cell of a row is its head.

    With `class_` `dense` it stays a table on a phone.
    """
    heads = [view.column(key) for key in columns]
    body = []
    for first, *rest in rows:
        cells = [tag("td", cell, data_label=head) for head, cell in zip(heads[1:], rest, strict=True)]
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    head = tag("tr", *(tag("th", each, scope="col") for each in heads))
    return tag("table", tag("thead", head), tag("tbody", *body), class_=class_)


def section(view: View, name: str, *children: Child) -> Markup:
    """A section with the heading `heading.NAME`."""
    return tag("section", tag("h2", view.texts(f"heading.{name}")), *children, id=name)
