"""`edgebed ledger --against`: what it prints, its exit codes, and peers that are not what they should be."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgebed import against
from edgebed.cli import command as edgebed
from tests.polling import until
from tests.unit.collector.web.serving import fill, serving
from wire.errors import EdgebedError, Unreachable

NODE, EP = "acme/trial/hall/cobot-01", "00112233aabbccdd"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "SETTLE_S", 0.2)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(edgebed, ["ledger", *arguments])


async def test_two_collectors_with_and_without_a_difference(tmp_path: Path) -> None:
    async with serving(tmp_path / "one") as (one, _), serving(tmp_path / "two") as (two, _):
        urls = [f"http://127.0.0.1:{each.socket.getsockname()[1]}" for each in (one, two)]
        for each in (one, two):
            fill(each)
            await until(lambda each=each: each.ingest.counters.stored == 32, "it has stored all")
        same = await asyncio.to_thread(run, "--url", urls[0], "--against", urls[1])
        assert same.exit_code == 0, same.output
        assert same.stdout == "collector-1 and collector-1 have the same 32 messages\n"


@contextmanager
def peer(*answers: Any) -> Iterator[str]:
    """A server that gives these answers, one after the other, to every question but that for its health."""
    left = list(answers)

    class Peer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = {"id": "collector-2"} if "health" in self.path else left.pop(0)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Peer) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join()


def outboxes(*stored: tuple[int, int], lost: tuple[tuple[int, int], ...] = (), rows: int = 9) -> Any:
    return {"outboxes": [{"node": NODE, "ep": EP, "rows": rows, "stored": stored, "lost": lost}]}


def test_a_difference_that_stays_is_named() -> None:
    with peer(outboxes((1, 5)), outboxes((1, 6))) as here, peer(*[outboxes((2, 9), (12, 12))] * 2) as there:
        found = run("--url", here, "--against", there)
    assert found.exit_code == 3
    assert found.stdout.splitlines() == [
        f"{NODE}  ep {EP}",
        "  collector-2 lacks 4: 7-9, 12",
        "  collector-2 lacks 1: 1",
        "collector-2 lacks 4 messages; collector-2 lacks 1 message",
    ]


def test_the_difference_as_json() -> None:
    with peer(*[outboxes((1, 5), lost=((7, 9),))] * 2) as here, peer(*[outboxes((1, 9))] * 2) as there:
        found = run("--url", here, "--against", there, "--json")
    assert found.exit_code == 3
    (one,) = json.loads(found.stdout)["outboxes"]
    assert (one["here_lacks"], one["there_lacks"], one["here_lost"]) == ([[6, 9]], [], 3)


def test_other_rows_in_the_same_messages() -> None:
    with peer(*[outboxes((1, 5), rows=9)] * 2) as here, peer(*[outboxes((1, 5), rows=10)] * 2) as there:
        found = run("--url", here, "--against", there)
    assert found.exit_code == 3
    assert "has 1 row more than" in found.stdout


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[" * 100_000,
        [],
        {"outboxes": 7},
        {"outboxes": [{"node": NODE}]},
        {"outboxes": [{"node": NODE, "ep": EP, "stored": [[5, 1]]}]},
        {"outboxes": [{"node": NODE, "ep": EP, "stored": [[0, 2**70]]}]},
        {"outboxes": [], "next": "\x00"},
    ],
    ids=["page", "deep", "list", "number", "half", "backward", "huge", "endless"],
)
def test_a_peer_that_is_not_a_collector(answer: Any) -> None:
    with peer(*[outboxes((1, 5))] * 2) as here, peer(*[answer] * 4) as there:
        found = run("--url", here, "--against", there)
    assert isinstance(found.exception, EdgebedError), found.output
    assert "\n" not in str(found.exception)


def test_a_peer_that_is_not_there() -> None:
    with peer() as gone:
        pass
    with peer(outboxes((1, 5))) as here:
        found = run("--url", here, "--against", gone)
    assert isinstance(found.exception, Unreachable)


@pytest.mark.parametrize(
    "more", [["--audit", "--store", "."], ["--day", "2026-11-22"], ["--stream", "arm/joints"]]
)
def test_what_cannot_be_compared(more: list[str]) -> None:
    found = run("--against", "http://127.0.0.1:9", *more)
    assert found.exit_code == 2
    assert "--against compares whole outboxes" in found.output
