"""Write JUnit XML, which every CI reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from wire.errors import unwritable


@dataclass(frozen=True, slots=True)
class Case:
    """One test case: it passed unless `failed` or `skipped` gives the reason."""

    group: str
    name: str
    seconds: float = 0.0
    failed: str = ""
    skipped: str = ""
    output: str = ""  # what was found, in a case that passed


def text(suite: str, cases: Sequence[Case]) -> str:
    """Return the report of one suite."""
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
        output = case.output if not case.failed + case.skipped else ""
        for tag, content in (("failure", case.failed), ("skipped", case.skipped), ("system-out", output)):
            if content:
                ET.SubElement(found, tag, message=_plain(content).partition("\n")[0]).text = _plain(content)
    ET.indent(root)
    made: str = ET.tostring(root, encoding="utf-8", xml_declaration=True).decode()
    return made + "\n"


def write(path: Path, suite: str, cases: Sequence[Case]) -> None:
    """Write the report of one suite.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(text(suite, cases), encoding="utf-8")
    except OSError as error:
        raise unwritable(str(path), error) from error


def _plain(text: str) -> str:
    """Replace control characters, which XML 1.0 does not allow: reasons may come from other machines."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)
