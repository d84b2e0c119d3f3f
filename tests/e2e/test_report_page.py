"""The page of a report in a browser: it fits a phone, and its policy stops nothing of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Browser

from collector.pilots.report.pages import page
from tests.unit.collector.pilots.report.pages import reports
from wire.pilot.plan import Text

LONG = Text(en="A title of a pilot that does not end " * 8, ko="이음매없이긴낱말로된지표" * 12)

COVERED = """() => [...document.querySelectorAll('svg.area')].flatMap(svg => {
    const boxes = [...svg.querySelectorAll('text')].map(each => each.getBoundingClientRect());
    const edge = svg.getBoundingClientRect();
    const covers = (one, other) => one.left < other.right - 1 && other.left < one.right - 1 &&
        one.top < other.bottom - 4 && other.top < one.bottom - 4;
    return boxes.filter((one, at) => one.left < edge.left - 12 || one.right > edge.right + 12 ||
        boxes.some((other, to) => to > at && covers(one, other))).map(() => svg.textContent);
})"""


@pytest.mark.parametrize("width", [390, 700, 1280])
@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_page_fits_and_nothing_of_it_is_blocked(
    browser: Browser, tmp_path: Path, lang: str, width: int
) -> None:
    report = reports.switchback_report()
    kpis = (report.kpis[0], msgspec.structs.replace(report.kpis[1], title=LONG), *report.kpis[2:])
    made = page(msgspec.structs.replace(report, kpis=kpis), "ko" if lang == "ko" else "en")
    file = tmp_path / "report.html"
    file.write_text(made)
    shown = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(file.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert said == []
    assert asked == [file.as_uri()]
    # texts of the charts stay within their chart, and none covers another
    covered = shown.evaluate(COVERED)
    assert covered == []
    assert len(shown.query_selector_all("svg.area text")) > 40
    shown.close()
