"""The Korean page of the first pilot has the commands of the English one, and as many steps."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [(DOCS / name).read_text(encoding="utf-8") for name in ("pilot-guide.md", "pilot-guide.ko.md")]


def test_both_languages_have_the_same_commands() -> None:
    english, korean = (re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for text in PAGES)
    assert english == korean
    assert len(english) >= 5


def test_both_languages_have_the_same_steps_and_tables() -> None:
    counts = [[len(re.findall(each, text, re.MULTILINE)) for each in ("^## ", r"^\|")] for text in PAGES]
    assert counts[0] == counts[1]
