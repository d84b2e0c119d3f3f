"""A page as PDF: readable Korean text on A4, and nothing fetched."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import msgspec
import pytest

from collector.pilots.report.pages import page, pdf, pdf_process
from tests.unit.collector.pilots.report.pages import reports
from wire.errors import EdgebedError
from wire.pilot.plan import Text

pypdf = pytest.importorskip("pypdf")
pytest.importorskip("weasyprint")


def read(made: bytes) -> tuple[str, list[tuple[float, float]]]:
    found = pypdf.PdfReader(io.BytesIO(made))
    sizes = [(float(each.mediabox.width), float(each.mediabox.height)) for each in found.pages]
    return " ".join("\n".join(each.extract_text() for each in found.pages).split()), sizes


def test_the_pdf_has_the_text_of_the_page_in_both_languages_of_the_plan() -> None:
    title = Text(en="<img src=file:///etc/passwd>", ko="관절별 <img src=file:///etc/passwd> 예지 정비")
    report = msgspec.structs.replace(reports.before_after_report(), title=title)
    text, sizes = read(pdf.pdf(page(report, "ko")))
    assert "관절별 <img src=file:///etc/passwd> 예지 정비" in text
    for words in ("목표 달성", "신뢰구간", "핵심성과지표(KPI, P-Q-C-D)", "이 실증으로 알 수 없는 것"):
        assert words in text
    assert "root:" not in text
    assert {(round(width), round(height)) for width, height in sizes} == {(595, 842)}  # A4


def test_a_screen_reader_is_told_what_headings_tables_and_charts_are() -> None:
    made = pypdf.PdfReader(io.BytesIO(pdf.pdf(page(reports.before_after_report(), "ko"))))
    root, found = made.trailer["/Root"], set()
    waiting = [root["/StructTreeRoot"]]
    while waiting:
        each = waiting.pop().get_object()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            found.add((each.get("/S"), each.get("/Alt")))
            waiting += [each["/K"]] if "/K" in each else []
    assert root["/Lang"] == "ko"
    assert {kind for kind, _ in found} >= {"/H1", "/H2", "/Table", "/TH", "/TD"}
    assert ("/Figure", "불량: 구간별 값의 추이") in found


def test_a_page_that_refers_to_something_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.svg"
    secret.write_text("<svg xmlns='http://www.w3.org/2000/svg'><text>secret</text></svg>")
    with pytest.raises(EdgebedError, match="FatalURLFetchingError"):
        pdf.pdf(f'<p>x<img src="{secret.as_uri()}"></p>')


def test_korean_words_stay_whole_and_the_text_is_the_same() -> None:
    html = page(reports.switchback_report(), "ko")
    made = pdf.whole_words(html)
    assert '<span class="w">목표</span> <span class="w">달성</span>' in made
    assert pdf.whole_words(f"<p>{'가' * 25} 나 x</p>") == f'<p>{"가" * 25} <span class="w">나</span> x</p>'
    assert re.sub(r'<span class="w">(.*?)</span>', r"\1", made) == html
    head = made[: made.index("</head>")]
    assert 'class="w"' not in head
    assert not [svg for svg in re.findall(r"<svg.*?</svg>", made, re.DOTALL) if 'class="w"' in svg]


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(EdgebedError, match=r"edgebed\[report\]"):
        pdf.pdf("<p>x</p>")


@pytest.mark.parametrize(
    ("code", "words"), [(pdf.NO_FONT, "fonts-nanum"), (pdf.NO_LIBRARY, "libpango"), (1, "a reason")]
)
def test_what_is_missing_is_named(
    code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "python"
    other.write_text(f"#!/bin/sh\necho 'a reason' >&2\nexit {code}\n")
    other.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(other))
    with pytest.raises(EdgebedError, match=words):
        pdf.pdf("<p>x</p>")


def test_fonts_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a config that names no folder, fontconfig has no font: asked in a process of its own."""
    empty = tmp_path / "fonts.conf"
    empty.write_text(f"<fontconfig><dir>{tmp_path}</dir><cachedir>{tmp_path}</cachedir></fontconfig>")
    assert pdf_process.has_korean_font()
    monkeypatch.setenv("FONTCONFIG_FILE", str(empty))
    with pytest.raises(EdgebedError, match="Korean letters"):
        pdf.pdf("<p>가나다</p>")
