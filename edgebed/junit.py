"""JUnit XML, as every CI reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from wire.errors import unwritable


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was looked at: fine unless `failed` or `skipped` says why not."""

    group: str
    name: str
    seconds: float = 0.0
    failed: str = ""
    skipped: str = ""
    said: str = ""  # what was found, where it is fine


def text(suite: str, cases: Sequence[Case]) -> str:
    """A report of one suite."""
    root = ET.Element(
        "testsuite",
        name=_plain(suite),
        tests=str(len(cases)),
        failures=str(sum(bool(case.failed) for case in cases)),
        skipped=str(sum(bool(case.skipped) for case in cases)),
        time=f"{sum(case.seconds for case in cases):.3f}",
    )
    for case in cases:
        found = ET.SubElement(
            root, "testcase", classname=_plain(case.group), name=_plain(case.name), time=f"{case.seconds:.3f}"
        )
        fine = case.said if not case.failed + case.skipped else ""
        for word, words in (("failure", case.failed), ("skipped", case.skipped), ("system-out", fine)):
            if words:
                ET.SubElement(found, word, message=_plain(words).partition("\n")[0]).text = _plain(words)
    ET.indent(root)
    made: str = ET.tostring(root, encoding="utf-8", xml_declaration=True).decode()
    return made + "\n"


def write(path: Path, suite: str, cases: Sequence[Case]) -> None:
    """Write a report of one suite.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(text(suite, cases), encoding="utf-8")
    except OSError as error:
        raise unwritable(str(path), error) from error


def _plain(text: str) -> str:
    """XML 1.0 has no control characters, and reasons come from outside."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)
