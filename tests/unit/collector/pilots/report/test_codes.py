"""Every code that a report can have is in the list, with a sentence that its numbers fill."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from collector.pilots import report
from collector.pilots.report.codes import FINDINGS, LIMITS, REASONS
from collector.pilots.report.custody import DATA_CODES

ROOT = Path(__file__).parents[5]
MODULES = [each for each in Path(report.__file__).parent.glob("*.py") if each.name != "codes.py"]
TEXT = "\n".join(each.read_text() for each in MODULES)
ARGS = {
    "late_s", "version", "rows", "reason", "hash", "events", "periods", "of", "seconds", "times", "model",
    "planned", "code", "switches", "listed", "kpis", "counted", "days", "first", "last", "where",
}  # fmt: skip


def test_each_finding_of_the_code_is_in_the_list() -> None:
    written = set(re.findall(r'code="([a-z-]+)"', TEXT)) | set(DATA_CODES) | {"model-swapped", "not-applied"}
    assert written - REASONS.keys() <= FINDINGS.keys() <= written


def test_each_limit_of_the_code_is_in_the_list() -> None:
    text = (Path(report.__file__).parent / "limits.py").read_text()
    assert set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', text)) - {"before-after"} == LIMITS.keys()


@pytest.mark.parametrize("word", sorted(REASONS))
def test_each_reason_is_explained(word: str) -> None:
    effects = (ROOT / "collector/pilots/effects").glob("*.py")
    assert any(f'"{word}"' in text for text in (TEXT, *(each.read_text() for each in effects)))


@pytest.mark.parametrize("sentence", [*FINDINGS.values(), *LIMITS.values(), *REASONS.values()])
def test_each_sentence_has_only_known_names(sentence: str) -> None:
    assert {name for _, name, _, _ in Formatter().parse(sentence) if name} <= ARGS
