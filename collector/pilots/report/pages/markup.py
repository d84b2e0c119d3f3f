"""HTML and SVG built from elements: every text is escaped unless it is `Markup`."""

from __future__ import annotations

import html
import re

from wire.printable import printable

VOID = frozenset({"meta", "br", "line", "rect", "circle", "path"})
_PLACE = re.compile(r"\{([a-z_]+)\}")
SPACE = "\u00a0"  # which no line ends at; `printable` would write it as an escape
MAX_TEXT = 2_000  # of one text from outside


class Markup(str):
    """HTML that is safe to print as it is."""

    __slots__ = ()


Child = str | int | None


def text(value: object) -> Markup:
    """A text as HTML: control characters are shown as escapes, and nothing in it is markup."""
    if isinstance(value, Markup):
        return value
    shown = str(value)
    if shown.isprintable() and len(shown) <= MAX_TEXT:
        return Markup(html.escape(shown))
    pieces = shown[: MAX_TEXT + 1].split(SPACE)
    return Markup(SPACE.join(html.escape(printable(piece, MAX_TEXT)) for piece in pieces))


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element. `class_` is the attribute class, `data_of` is data-of; None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    content = join(*children)
    if name in VOID and not content:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{content}</{name}>")


def join(*children: Child) -> Markup:
    """Several children as one; None is left out."""
    return Markup("".join(text(child) for child in children if child is not None))


def fill(template: str, /, **parts: object) -> Markup:
    """A template with `{name}` for each part; what a part contains is not read as a template again."""
    return Markup(
        "".join(
            text(parts[piece]) if at % 2 else html.escape(piece)
            for at, piece in enumerate(_PLACE.split(template))
        )
    )


def places(template: str) -> set[str]:
    """The names of the parts of a template."""
    return set(_PLACE.findall(template))
