"""Docstrings, comments, texts and pages do not use words that are hard to read or to translate.

Run this file as a program for a report on all folders, or on the folders and files that are its arguments.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[3]

# The words to avoid, and what to write instead.
AVOID = {
    r"told|tells?|telling": "report, state, show, log, detect, distinguish",
    r"nobody|whoever": "name the subject: no client, each process",
    r"anew": "again",
    r"for ever|forever": "permanently, without end",
    r"of which": "a second sentence",
    r"so many|as many as there are": "this many, all, the number",
    r"hereafter|hence|henceforth|whence|thence|thereof|therein|thereby|whereby": "so, from there, of it",
    r"(?<!there )(is|are|was|were|be) (no (?!longer\b|(more|less|fewer) than\b)|(?-i:none)\b)": "is not a",
    r"(says?|said|saying) so|it is said": "name the statement",
    r"lied|lying": "is in, contains; violates the protocol",
    r"stands? in|standing in|stood in": "is in, replaces",
    r"strangers?": "unknown client, hostile publisher",
    r"harm(s|ed)?": "fault, damage",
    r"troubled?|troubles": "problem",
    r"ours|theirs": "the noun",
    r"in (our|its|their) (own )?words": "in the terms of",
    r"(has|have|had|said) against": "problem",
    r"(let|lets|letting) go": "release",
    r"a hand on": "access to",
    r"kin": "similar, related",
    r"(go|goes|went|going) without": "does not need, is left out",
    r"on (its|their) way": "in flight",
    r"wants(?!=)": "needs, requires",
    r"elder|younger": "older, newer",
    r"mend(s|ed|ing)?": "repair, fix",
    r"trying on": "retrying",
    r"to be had": "available",
}
WORDS = {re.compile(rf"\b({pattern})\b", re.IGNORECASE): instead for pattern, instead in AVOID.items()}

# (file, phrase, reason): the exceptions, at most 20.
ALLOWED: tuple[tuple[str, str, str], ...] = (
    ("tests/e2e/test_dashboard.py", "] .trouble", "a CSS class of the page, named like the key of the API"),
    ("tests/integration/test_old_state.py", "this is no batch", "the bytes of a fixture that 0.1.0 wrote"),
)

FOLDERS = (
    *("agent", "adapters", "collector", "wire", "simulators", "edgebed", "bench"),
    *("models", "configs", "deploy", "docs", "tests"),
)
PAGES = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *("Makefile", "pyproject.toml", "hatch_build.py", ".ci/run", ".github"),
)
SUFFIXES = {".py", ".md", ".yaml", ".js", ".sh", ".conf", ".example", ".service", ".html"}


class Finding(NamedTuple):
    """A word to avoid in a file."""

    file: str
    line: int
    word: str
    context: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.context!r}: write instead: {self.instead}"


def findings(where: str) -> Iterator[Finding]:
    """The words to avoid in a file or folder of the repository."""
    path = ROOT / where
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = file.relative_to(ROOT).as_posix()
        if file == Path(__file__) or "/vendor/" in name or "__pycache__" in name or name.endswith("/ko.js"):
            continue
        if file.is_file() and (file.suffix in SUFFIXES or name in PAGES):
            allowed = [phrase for one, phrase, _ in ALLOWED if one == name]
            for line, text in texts(file):
                for match, instead in words(text):
                    context = text[max(0, match.start() - 50) : match.end() + 30]
                    if not any(phrase in context for phrase in allowed):
                        yield Finding(name, line, match[0].lower().strip(), context, instead)


def words(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each word to avoid in a text, and what to write instead."""
    for pattern, instead in WORDS.items():
        for match in pattern.finditer(text):
            yield match, instead


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The (line, text) of each paragraph, docstring, message and comment of a file, on one line each."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        found = _python(source)
    elif file.suffix == ".js":
        found = _javascript(source)
    else:
        found = _paragraphs(source, markdown=file.suffix == ".md")
    for line, text in found:
        yield line, re.sub(r"`[^`]*`", "``", " ".join(text.split()))


def _python(source: str) -> Iterator[tuple[int, str]]:
    """Docstrings and all other texts of two or more words, then each block of comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    for _, block in groupby(enumerate(comments), key=lambda each: each[1][0] - each[0]):
        lines = [comment for _, comment in block]
        yield lines[0][0], " ".join(text.lstrip("# ") for _, text in lines)


def _javascript(source: str) -> Iterator[tuple[int, str]]:
    """Comments, and texts of two or more words, line by line; names of CSS classes are not texts."""
    text = r"""(?<!:)//.*|/?\*\s.*|"[^"\n]* [^"\n]*"|'[^'\n]* [^'\n]*'"""
    for at, line in enumerate(source.splitlines(), 1):
        for found in re.findall(text, re.sub(r'class="[^\n]*?"(?=[ >]|$)', "", line)):
            yield at, found


def _paragraphs(source: str, *, markdown: bool) -> Iterator[tuple[int, str]]:
    """Paragraphs without the signs of comments and, of Markdown, without code."""
    if markdown:
        source = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), source, flags=re.DOTALL)
        source = re.sub(r"^    .*$", "", source, flags=re.MULTILINE)
    at = 1
    for part in re.split(r"(\n\s*\n)", source):
        yield at, re.sub(r"^\s*(#|//)+", "", part, flags=re.MULTILINE)
        at += part.count("\n")


@pytest.mark.parametrize("where", [*PAGES, *FOLDERS])
def test_the_words_to_avoid_are_not_used(where: str) -> None:
    found = [str(each) for each in findings(where)]
    assert not found, "\n".join(found)


def test_the_list_of_exceptions_is_short_and_in_use() -> None:
    assert len(ALLOWED) <= 20
    for file, phrase, reason in ALLOWED:
        assert reason
        assert any(phrase in text for _, text in texts(ROOT / file)), f"{file} no longer has {phrase!r}"


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.py", '"""It is told."""\n', ["told"]),
        ("a.py", "# It is None.\n\n# It is none.\n", ["is none"]),
        ("a.py", 'raise OSError(f"{1} is no name")\n', ["is no"]),
        ("a.py", "x = 1  # let\ngo = 1  # go\n\n# it\n\n# told\n", ["let go", "told"]),
        ("a.py", "# it lets\n# go\nnobody = 1\n", ["lets go"]),
        ("a.md", "A `told` word.\n\n    told\n\nThere is no\nharm; it is no\nlonger so.\n", ["harm"]),
        ("a.md", "```\ntold\n```\ntold\n", ["told"]),
        ("a.yaml", "a: 1\n# it\n# wants\nb: 1  # it is\n\n# no name\n", ["wants"]),
        ("a.js", "const trouble = told('trouble');  // told\nt(\"it\", 'is told');\n", ["told", "told"]),
        ("a.service", "Wants=network.target\n# for\n# ever\n", ["for ever"]),
    ],
)
def test_the_words_are_found(tmp_path: Path, name: str, source: str, expected: list[str]) -> None:
    (tmp_path / name).write_text(source)
    found = [match[0].strip() for _, text in texts(tmp_path / name) for match, _ in words(text)]
    assert found == expected


def report(names: list[str]) -> Iterator[str]:
    """Each word found (only if `names` are given), then the counts by folder and by word."""
    folders: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for finding in (found for name in names or [*FOLDERS, *PAGES] for found in findings(name)):
        folders["/".join(finding.file.split("/")[: 2 if names else 1])] += 1
        counts[finding.word] += 1
        if names:
            yield str(finding)
    yield from (f"{count:6} {folder}" for folder, count in folders.most_common())
    yield ", ".join(f"{word} {count}" for word, count in counts.most_common())


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in report(sys.argv[1:]))
