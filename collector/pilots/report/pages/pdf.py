"""A page as PDF, made by WeasyPrint in a process of its own with limits (docs/decisions/0058)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec

from wire.errors import EdgebedError

SECONDS = 180  # 500 periods x 16 KPIs take about 10 s of CPU time
_TAG = re.compile(r"(<[^>]*>)")
_WORD = re.compile(r"\S+")
_KOREAN = re.compile(r"[가-힣]")
LONGEST_WORD = 24  # a longer one may be cut: it could be wider than its place
_AS_IT_IS = {"<style>": "</style>", "<title>": "</title>", "<svg": "</svg>"}
_CHILD = "collector.pilots.report.pages.pdf_process"
# exits of the process, and what is missing then
NO_FONT, NO_LIBRARY = 3, 4
_MISSING = {
    NO_FONT: "no font of this machine has Korean letters: install one, e.g. fonts-nanum or fonts-noto-cjk",
    NO_LIBRARY: "WeasyPrint needs Pango: install libpango-1.0-0, libpangoft2-1.0-0 and libharfbuzz-subset0",
}


def pdf(html: str) -> bytes:
    """The page as PDF. Blocks for seconds.

    Raises:
        EdgebedError: the extra `report`, a library of the system or a Korean font is missing, or it takes
            longer than it may; the text says what to install or to do.
    """
    if find_spec("weasyprint") is None:
        raise EdgebedError(
            "no PDF: WeasyPrint is missing: pip install 'edgebed[report]', or use --format html"
        )
    try:
        made = subprocess.run(
            [sys.executable, "-P", "-m", _CHILD, str(os.getpid())],
            input=whole_words(html).encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EdgebedError(f"the PDF was not made within {SECONDS} s: use --format html") from error
    if made.returncode in _MISSING:
        raise EdgebedError(f"no PDF: {_MISSING[made.returncode]}, or use --format html")
    if made.returncode or not made.stdout.startswith(b"%PDF-"):
        why = made.stderr.decode(errors="replace").strip().splitlines()
        raise EdgebedError(f"the PDF was not made: {why[-1][:300] if why else 'the process ended'}")
    return made.stdout


def whole_words(html: str) -> str:
    """The page with Korean words that stay on one line: WeasyPrint does not know `word-break: keep-all`."""
    made: list[str] = []
    until = ""
    for piece in _TAG.split(html):  # texts are escaped, so `<` starts a tag and nothing else
        if until:
            until = "" if piece == until else until
        elif piece.startswith("<"):
            until = next((end for start, end in _AS_IT_IS.items() if piece.startswith(start)), "")
        else:
            piece = _WORD.sub(_whole, piece)  # noqa: PLW2901
        made.append(piece)
    return "".join(made)


def _whole(word: re.Match[str]) -> str:
    is_whole = len(word[0]) <= LONGEST_WORD and _KOREAN.search(word[0])
    return f'<span class="w">{word[0]}</span>' if is_whole else word[0]
