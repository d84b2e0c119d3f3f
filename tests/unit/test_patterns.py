"""Patterns of texts from outside end at the end of the text, and their digits are those of ASCII."""

import re
from pathlib import Path

import msgspec
import pytest

from wire.custody import Statement
from wire.messages import Event
from wire.pilot.plan import Duration, EventPath, FieldPath, Name, NodeAddress, Sha256, Unit, Word

REPO = Path(__file__).parents[2]
FOLDERS = ("wire", "agent", "adapters", "collector", "edgebed", "simulators")
PATTERN = re.compile(r"""(?:pattern=|_form\()\s*r?f?(["'])(.+?)\1""")


def test_no_pattern_takes_a_line_end_or_foreign_digits() -> None:
    patterns = [
        (path, match[2])
        for folder in FOLDERS
        for path in (REPO / folder).rglob("*.py")
        for match in PATTERN.finditer(path.read_text())
    ]
    assert len(patterns) > 30
    assert [each for each in patterns if each[1].endswith("$") or r"\d" in each[1]] == []


@pytest.mark.parametrize("form", [Word, Name, NodeAddress, FieldPath, EventPath, Unit, Duration, Sha256])
def test_a_form_of_a_plan_takes_no_line_end(form: object) -> None:
    for text in ("abc\n", "٢٠"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(text, form)


@pytest.mark.parametrize(
    ("kind", "name", "text"), [(Event, "type", "alarm\n"), (Statement, "day", "٢٠٢٦-01-01")]
)
def test_such_a_text_is_refused(kind: type[msgspec.Struct], name: str, text: str) -> None:
    declared = {field.name: field.type for field in msgspec.structs.fields(kind)}[name]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, declared)
