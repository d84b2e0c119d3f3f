"""Bodies of changes: JSON, small, in time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from collector.web import bodies
from tests.unit.collector.web.serving import serving

LOGIN = "/api/v1/login"


async def test_a_wrong_body_has_one_sentence_and_the_right_status(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, get):
        for body, status in {
            b"": 400, b"{": 400, b"[]": 400, b"null": 400, b"\xff\xfe": 400, b"[" * 3000: 400, b"{}": 400,
            b'{"name": "kim"}': 400, b'{"name": 1, "password": "x"}': 400,
            b'{"name": "kim", "password": "x", "more": 1}': 400, b'{"name": "", "password": "x"}': 400,
            b'{"name": "kim", "password": "' + b"x" * 500 + b'"}': 400,
            b'{"name": "kim", "password": "' + b"x" * 5000 + b'"}': 413, b" " * 1_000_000: 413,
        }.items():  # fmt: skip
            answer = await get(LOGIN, "POST", body)
            assert answer.status == status, body[:40]
            assert answer.json()["error"].count("\n") == 0
            assert len(answer.json()["error"]) < 300
        for media in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
        ):
            answer = await get(LOGIN, "POST", b"{}", **{"Content-Type": media})
            assert answer.status == 415, media


async def test_a_slow_and_an_endless_body_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_S", 0.2)
    names = "Host: localhost\r\nOrigin: http://localhost\r\nContent-Type: application/json\r\n"
    head = f"POST {LOGIN} HTTP/1.1\r\n{names}"
    sent = {"Content-Length: 100\r\n\r\n{": b" 408 ", "Transfer-Encoding: chunked\r\n\r\n": b" 413 "}
    async with serving(tmp_path) as (collector, _), asyncio.timeout(60):
        for rest, status in sent.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", collector.socket.getsockname()[1])
            writer.write((head + rest).encode())
            if "chunked" in rest:
                writer.write((b"2000\r\n" + b" " * 8192 + b"\r\n") * 10)
            assert status in await reader.readline()
            writer.close()
