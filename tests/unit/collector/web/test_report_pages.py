"""The report of a pilot as page and PDF, and its verdict, over real HTTP: who may have them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.app import Collector
from collector.pilots.report import making
from collector.pilots.report.canonical_report import read_report, report_bytes
from collector.pilots.report.pages import pdf as pdf_module
from collector.rights.user import Grant
from tests.unit.collector.web.serving import NODE, Get, fill, serving
from tests.unit.wire.pilot.plans import signed_plan
from wire.errors import EdgebedError
from wire.pilot.frozen import read_signed

SECOND = "acme/trial/hall/cobot-02"
PLAN = signed_plan(("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}, {SECOND}]"))
PATH = "/api/v1/pilots/acme/trial-1"


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[tuple[Collector, Get]]:
    async with serving(tmp_path) as (collector, get):
        for node in (NODE, SECOND):
            fill(collector, node)
            collector.documents.put(node, PLAN, by="who", at_ms=1, what="pilot")
        yield collector, get


async def test_it_is_there_as_json_and_as_a_page_in_both_languages(there: tuple[Collector, Get]) -> None:
    _, get = there
    answer = await get(f"{PATH}/report")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    report = read_report(answer.body)
    assert report_bytes(report) == answer.body
    assert report.plan_hash == read_signed(msgspec.json.encode(PLAN)).hash
    verdict = (await get(f"{PATH}/verdict")).json()
    assert (verdict["word"], verdict["reason"]) == (report.word, report.reason)
    for lang, word in (("en", "It helps."), ("ko", "도움이 된다.")):
        page = await get(f"{PATH}/report.html?lang={lang}&until={report.until_ms}")
        text = page.body.decode()
        assert word in text
        assert "<script" not in text
        assert page.headers["x-frame-options"] == "SAMEORIGIN"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "sandbox allow-same-origin allow-modals" in policy
        style = re.search("style-src '(sha256-[^']+)'", policy)
        assert style is not None
        assert style[1] in text, "the page allows the same sheet, and nothing else"


async def test_the_pdf_is_made_of_the_page(there: tuple[Collector, Get]) -> None:
    pytest.importorskip("weasyprint")
    _, get = there
    answer = await get(f"{PATH}/report.pdf?lang=ko")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.body.startswith(b"%PDF-")


async def test_what_a_pdf_lacks_is_named(
    there: tuple[Collector, Get], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(_html: str) -> bytes:
        raise EdgebedError("no PDF: install it")

    monkeypatch.setattr(pdf_module, "pdf", lacks)
    answer = await there[1](f"{PATH}/report.pdf")
    assert (answer.status, answer.json()["error"]) == (503, "no PDF: install it")


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        (f"{PATH}/report.html?lng=ko", 400, "parameter lng is unknown"),
        (f"{PATH}/report.html?lang=de", 400, "lang de is unknown"),
        (f"{PATH}/verdict?until=soon", 400, "whole number"),
        ("/api/v1/pilots/acme/trial-2/report.html", 404, "no such plan"),
        ("/api/v1/pilots/hanbit/trial-1/verdict", 404, "no such plan"),
    ],
)
async def test_a_wrong_question_is_named(
    there: tuple[Collector, Get], path: str, status: int, sentence: str
) -> None:
    answer = await there[1](path)
    assert answer.status == status
    assert sentence in answer.json()["error"]


async def test_who_does_not_see_every_node_gets_the_answer_for_no_pilot(
    there: tuple[Collector, Get],
) -> None:
    collector, get = there
    accounts = collector.directory.accounts
    tokens = {}
    for name, prefixes in (("one", (NODE,)), ("both", (NODE, SECOND)), ("other", ("hanbit/*",))):
        accounts.add(name, "secret", Grant("viewer", prefixes))
        tokens[name] = accounts.add_token(name, "", Grant("viewer", prefixes), 1)[1]
    collector.directory.refresh()
    for part in ("report.html", "report.pdf", "verdict"):
        found = {
            name: await get(f"{PATH}/{part}", Authorization=f"Bearer {token}")
            for name, token in tokens.items()
            if (name, part) != ("both", "report.pdf")
        }
        none = await get(f"/api/v1/pilots/acme/none/{part}", Authorization=f"Bearer {tokens['one']}")
        assert found["one"].status == found["other"].status == none.status == 404
        assert found["one"].body == found["other"].body == none.body
        assert "both" not in found or found["both"].status == 200


async def test_the_verdict_of_a_pilot_that_is_over_is_made_once(
    there: tuple[Collector, Get], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, get = there
    over = signed_plan(
        ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}]"), ("trial-1", "old"),
        ("2027-02-01, to: 2027-03-01", "2026-02-01, to: 2026-03-01"),
        ("2027-03-01 06:00, to: 2027-03-07 22:00", "2026-03-01 06:00, to: 2026-03-07 22:00"),
    )  # fmt: skip
    collector.documents.put(NODE, over, by="who", at_ms=2, what="pilot")
    made: list[int] = []
    make = making.ReportMaker.report

    async def counted(self: Any, versions: Any, until_ms: int, **user: str) -> Any:
        made.append(until_ms)
        return await make(self, versions, until_ms, **user)

    monkeypatch.setattr(making.ReportMaker, "report", counted)
    path = "/api/v1/pilots/acme/old/verdict"
    first = (await get(path)).json()
    assert first["word"] == "not-shown"
    assert (await get(path)).json() == first
    assert len(made) == 1
    assert (await get(f"{path}?until={first['until']}")).json() == first
    assert len(made) == 2, "who asks for a moment gets a report of it"
    for _ in range(2):
        assert (await get(f"{PATH}/verdict")).status == 200
    assert len(made) == 4, "a trial that is not over has no verdict yet"


async def test_a_verdict_made_at_the_end_of_a_trial_is_made_again_when_data_may_have_come(
    there: tuple[Collector, Get], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, get = there
    made: list[int] = []
    make = making.ReportMaker.report

    async def counted(self: Any, versions: Any, until_ms: int, **user: str) -> Any:
        made.append(until_ms)
        return await make(self, versions, until_ms, **user)

    monkeypatch.setattr(making.ReportMaker, "report", counted)
    end_ms = read_signed(msgspec.json.encode(PLAN)).plan.schedule.trial_ms[1]
    for after_s, reports in ((60, 1), (300, 1), (700, 2), (1_200, 2), (86_400, 3), (150_000, 3)):
        monkeypatch.setattr(collector.clock, "now_ms", lambda at=end_ms + 1_000 * after_s: at)
        assert (await get(f"{PATH}/verdict")).json()["until"] == end_ms
        assert len(made) == reports, after_s
