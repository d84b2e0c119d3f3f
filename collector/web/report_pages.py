"""The report of a pilot as a page and as PDF, and its verdict alone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from typing import Any, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.web.bodies import json_answer
from collector.web.parameters import unknown
from collector.web.pilot_reports import PATH, PilotReportRoutes
from collector.web.rules import FILTERED, Ruled
from wire.errors import EdgebedError

VERDICT = PATH.removesuffix("report") + "verdict"
LANGUAGES = ("en", "ko")
MAX_VERDICTS = 500
KEEP_MS = 600_000  # for so long a verdict is known at least: data of the trial may come after its end


class ReportPages:
    """The routes. `reports` makes each report, and checks who may have it."""

    def __init__(self, reports: PilotReportRoutes) -> None:
        self._reports = reports
        self._one_pdf = asyncio.Lock()  # each is a process of its own
        # of pilots that are over, by hash, with the moment of their making
        self._verdicts: OrderedDict[str, tuple[dict[str, Any], int]] = OrderedDict()

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        return [
            Ruled(PATH + ".html", self.html, FILTERED),
            Ruled(PATH + ".pdf", self.pdf, FILTERED),
            Ruled(VERDICT, self.verdict, FILTERED),
        ]

    async def html(self, request: Request) -> Response:
        """The report as one page without scripts."""
        text = await self._page(request)
        headers = {"content-security-policy": policy_of(text), "x-frame-options": "SAMEORIGIN"}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)

    async def pdf(self, request: Request) -> Response:
        """The page as PDF."""
        from collector.pilots.report.pages.pdf import pdf

        text = await self._page(request)
        try:
            async with self._one_pdf:
                body = await asyncio.to_thread(pdf, text)
        except EdgebedError as error:
            raise HTTPException(503, str(error)) from error
        return Response(body, media_type="application/pdf")

    async def verdict(self, request: Request) -> Response:
        """The word and the reason; without `until` the known one of a pilot that is over.

        It is known for as long as the pilot was over when it was made: the later, the less can still come.
        """
        newest = (await self._reports.versions(request))[-1]
        now_ms = self._reports.clock.now_ms()
        known, made_ms = self._verdicts.get(newest.hash, ({}, 0))
        is_fresh = bool(known) and now_ms - made_ms < max(KEEP_MS, made_ms - known["until"])
        if is_fresh and "until" not in request.query_params:
            return json_answer(known)
        report = (await self._reports.made(request)).report
        found = {"word": report.word, "reason": report.reason, "until": report.until_ms}
        if report.state == "over":
            self._verdicts[newest.hash] = found, now_ms
            self._verdicts.move_to_end(newest.hash)
            while len(self._verdicts) > MAX_VERDICTS:
                self._verdicts.popitem(last=False)
        return json_answer(found)

    async def _page(self, request: Request) -> str:
        # the texts and the analysis are loaded with the first report
        from collector.pilots.report.pages.page import page

        lang = _language(request)
        return await asyncio.to_thread(page, (await self._reports.made(request)).report, lang)


def _language(request: Request) -> Literal["en", "ko"]:
    lang = request.query_params.get("lang", "en")
    if lang not in LANGUAGES:
        raise HTTPException(400, unknown("lang", lang, LANGUAGES))
    return "ko" if lang == "ko" else "en"


def policy_of(html: str) -> str:
    """The Content-Security-Policy of a report's page: one style sheet, no script, framed by this site alone.

    `allow-same-origin` lets the page around it measure its height, and `allow-modals` print it.
    """
    style = html.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'; sandbox allow-same-origin allow-modals"
    )
