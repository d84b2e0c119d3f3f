"""Measure the page of a wide fleet: CPU time of a page, of a delta, and of a collector while one is open."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bench.footprint import cpu_s
from collector.fleet.board import Ask, Board
from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Draft, Ledger
from collector.web.event_stream import Hub
from collector.web.fleet_pages import FleetPages
from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from wire.clock import Clock
from wire.messages import AgentInfo, Birth, Device, DeviceState, Field, Live, Status, Stream
from wire.topics import parse

NODES = (1_000, 10_000)
TURNS = 5  # their median is taken
EP = "00112233aabbccdd"
LIVE_NODES, LIVE_RATE, LIVE_S = 1_000, 1.0, 20  # of `edgebed sim fleet`
PAIRS = 2


def run() -> list[dict[str, Any]]:
    """Return the rows: pages and deltas by size of the fleet, then a collector with and without a page."""
    return [row for nodes in NODES for row in _pages(nodes)] + _beside_a_fleet()


class _Site:
    """A fleet whose nodes all sent status, birth, a heartbeat and a message."""

    def __init__(self, nodes: int) -> None:
        self.clock = Clock()
        self.ledger = Ledger()
        self.fleet = Fleet(self.clock, self.ledger)
        self.names = [f"bench/wide/hall/node-{number:05}" for number in range(nodes)]
        now = self.clock.now_ms()
        fields = {f"j{joint}": Field(unit="rad") for joint in range(18)}
        arm = Device(type="cobot", streams={"joints": Stream(rate_hz=50.0, fields=fields)})
        for name in self.names:
            born = Birth(ts=now, boot="b", sess=1, ep=EP, agent=AgentInfo(ver="1"), devices={"arm": arm})
            self.fleet.on_birth(name, born)
            said = Status(state="online", ts=now, boot="b", sess=1, devices={"arm": DeviceState(state="ok")})
            self.fleet.on_status(name, said, now, retained=False)
        self.send(self.names)

    def send(self, names: list[str]) -> None:
        """Each of these nodes sends a message and a heartbeat."""
        draft = Draft(self.ledger)
        for name in names:
            account = self.ledger.account((name, EP))
            draft.add(name, EP, account.stored.highest() + 1 if account else 1, 1, self.clock.now_ms())
        self.ledger.accept(draft.accounts.values())
        for name in names:
            now = self.clock.now_ms()
            self.fleet.on_data(name, now)
            beat: Live = {
                "ts": now,
                "ep": EP,
                "head": 1,
                "depth": 0,
                "oldest_s": 0.0,
                "rss_mb": 58.0,
                "clk": 1,
            }
            self.fleet.on_live(parse(f"tb1/{name}/live/_/agent"), beat, now, retained=False)


def _pages(nodes: int) -> Iterator[dict[str, Any]]:
    site = _Site(nodes)
    board = Board(site.fleet, site.clock)
    pages = FleetPages(board, Hub())
    board.refresh(float("inf"))
    some = max(1, nodes // 5)  # as many as send something within two seconds, at one message in ten

    def all_views() -> None:
        msgspec.json.encode(site.fleet.views())

    def changed() -> None:
        site.send(site.names[:some])

    def made() -> None:
        changed()
        board.refresh(float("inf"))

    everything = _cpu_ms(all_views)  # the peer: what an open page cost each second before
    for what, limit, before, ask in (
        ("page of 200, every node changed since", "50", lambda: site.send(site.names), _answer(pages, Ask())),
        ("page of 200, nothing changed", "50", None, _answer(pages, Ask())),
        ("page with a filter of two words", "50", None, _answer(pages, Ask(words=("arm", "node-000")))),
        (f"views of {some:,} nodes that changed", None, changed, lambda: board.refresh(float("inf"))),
        ("delta of a page, those views made", "5", made, lambda: pages.frames({Ask()})),
    ):
        spent = _cpu_ms(ask, before)
        yield {
            "what": f"{nodes:,} nodes: {what}, beside every view",
            "ours": spent,
            "peer": everything,
            "ratio": spent / everything,
            "unit": "CPU ms",
            "limit": limit,
        }


def _answer(pages: FleetPages, ask: Ask) -> Callable[[], object]:
    return lambda: msgspec.json.encode(pages.answer(ask))


def _cpu_ms(what: Callable[[], object], before: Callable[[], None] | None = None) -> float:
    """The median CPU time of this thread, ms."""
    found = []
    for _ in range(TURNS):
        if before is not None:
            before()
        began = time.thread_time()
        what()
        found.append(1000 * (time.thread_time() - began))
    return sorted(found)[TURNS // 2]


def _beside_a_fleet() -> list[dict[str, Any]]:
    """CPU time of a collector a message, with and without an open page, taken in turn."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(PAIRS):
        for page, spent in found.items():
            spent.append(_us_a_message(page=page))
    without, beside = (sorted(found[page])[PAIRS // 2] for page in (False, True))
    return [
        {
            "what": f"collector of {LIVE_NODES:,} nodes with a fleet page open, beside none open",
            "ours": beside,
            "peer": without,
            "ratio": beside / without,
            "unit": "CPU us/message",
            "limit": "1.2 x",
        }
    ]


def _us_a_message(*, page: bool) -> float:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        broker = BrokerProcess("mosquitto", work / "broker", persistent=False)
        store = ["collector", "run", "--store", str(work / "store"), "--port", "0"]
        with (
            broker,
            Child("collector", edgebed_command(*store, "--broker", broker.url), work / "log") as child,
        ):
            url = child.first_line()
            report = work / "fleet.json"
            load = [
                "--nodes",
                str(LIVE_NODES),
                "--rate",
                str(LIVE_RATE),
                "--for",
                str(LIVE_S),
                "--samples",
                "1",
            ]
            sim = edgebed_command("sim", "fleet", *load, "--broker", broker.url, "--json", str(report))
            with _page(url) if page else nullcontext():
                began_s = cpu_s(child.pid)
                subprocess.run(sim, check=True, stdout=subprocess.DEVNULL)
                spent_s = cpu_s(child.pid) - began_s
            return 1e6 * spent_s / int(json.loads(report.read_text())["acknowledged"])


@contextmanager
def _page(url: str) -> Iterator[None]:
    """A viewer of the first page, which reads what it gets."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=300)
    connection.request("GET", "/api/v1/stream?limit=200")
    answer = connection.getresponse()

    def read() -> None:
        with suppress(OSError, ValueError, http.client.HTTPException):
            while answer.read1(65_536):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
        reader.join()
        connection.close()
