"""The texts of a report in English and Korean: one table each, with equal keys and placeholders."""

from __future__ import annotations

from collector.pilots.report.pages.figures import Lang
from collector.pilots.report.pages.markup import Markup, fill
from collector.pilots.report.pages.texts.en import EN
from collector.pilots.report.pages.texts.ko import KO

TABLES: dict[Lang, dict[str, str]] = {"en": EN, "ko": KO}


class Texts:
    """The texts of one language."""

    def __init__(self, lang: Lang) -> None:
        self.lang: Lang = lang
        self._table = TABLES[lang]

    def __call__(self, key: str, /, **parts: object) -> Markup:
        """The text of a key, with its parts."""
        return fill(self._table[key], **parts)

    def has(self, key: str) -> bool:
        """Whether there is a text of this key."""
        return key in self._table

    def code(self, kind: str, code: str, /, **parts: object) -> Markup:
        """The text of a code of the report; an unknown code, or one with other parts, stands for itself."""
        key = f"{kind}.{code}"
        try:
            return fill(self._table[key], **parts)
        except KeyError:
            shown = ", ".join(f"{name} {value}" for name, value in parts.items())
            return fill("{code}{more}", code=code, more=f" ({shown})" if shown else "")
