"""`make bench` writes its own sections of results.md and leaves the others as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench.__main__ as bench

FIRST, SECOND, THIRD = list(bench.PARTS.values())[:3]
HAND = "## Written by hand\n\nA line.\n\n| a |\n|---|\n| 1 |\n"


def titles(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results.md with two parts and, between them, a section of something else."""
    path = tmp_path / "results.md"
    path.write_text(f"# Measured\n\nOld.\n\n## {FIRST}\n\nold first\n\n{HAND}\n## {THIRD}\n\nold third\n")
    monkeypatch.setattr(bench, "RESULTS", path)
    return path


def test_a_part_replaces_its_section_and_no_other(results: Path) -> None:
    bench.replace(FIRST, "new first\n")
    text = results.read_text()
    assert titles(text) == [FIRST, "Written by hand", THIRD]
    assert HAND in text
    assert "new first" in text
    assert "old first" not in text
    assert text.endswith("old third\n")


def test_a_new_part_comes_before_the_parts_after_it(results: Path) -> None:
    bench.replace(SECOND, "new\n")
    assert titles(results.read_text()) == [FIRST, "Written by hand", SECOND, THIRD]


def test_the_first_part_makes_the_file(results: Path) -> None:
    results.unlink()
    bench.replace(SECOND, "new\n")
    bench.replace(FIRST, "new\n")
    assert titles(results.read_text()) == [FIRST, SECOND]


def test_the_sections_of_the_repository_stay_as_they_are(results: Path) -> None:
    before = (Path(bench.__file__).parent / "results.md").read_text()
    title = next(each for each in titles(before) if each in bench.PARTS.values())
    body = before.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    results.write_text(before)
    bench.replace(title, body)
    assert results.read_text() == before
