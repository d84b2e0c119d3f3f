"""Measure the page in a real browser, and the collector's cost of a viewer beside one that polls."""

from __future__ import annotations

import csv
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.footprint import cpu_s, ready_agent
from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from simulators.plants.cobot import SIGNALS, Cobot

NODE = "bench/dashboard/here/node-1"
LOADS = 5
VIEWERS = 20  # in addition to the first
WATCH_S = 8.0
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
_PAINT = """() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null"""
_BYTES = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter((entry) => !entry.name.includes("/api/")).reduce((sum, entry) => sum + entry.transferSize, 0)"""


def run() -> list[dict[str, Any]]:
    """Return the rows: first paint, bytes, and the cost of a further viewer of 18 signals at 50 Hz."""
    with tempfile.TemporaryDirectory() as name, _site(Path(name)) as (url, pid):
        return [*_page(url), *_viewers(url, pid)]


@contextmanager
def _site(work: Path) -> Iterator[tuple[str, int]]:
    """Run broker, collector and agent; yield the collector's address and process id."""
    recording, config = work / "arm.csv", work / "agent.yaml"
    block = Cobot(seed=3).block(0, 500)
    with recording.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *SIGNALS])
        writer.writerows([index / 50, *map(float, row)] for index, row in enumerate(block))
    fields = {name: {"column": name, "dec": 4} for name in SIGNALS}
    options = {
        "file": str(recording),
        "time": "time",
        "stream": "joints",
        "loop": True,
        "rate_hz": 50,
        "fields": fields,
    }
    with ExitStack() as stack:
        broker = stack.enter_context(BrokerProcess("nats", work / "broker"))
        command = ["collector", "run", "--store", str(work / "store"), "--broker", broker.url, "--port", "0"]
        collector = stack.enter_context(Child("collector", edgebed_command(*command), work / "collector.log"))
        agent = {
            "node": NODE,
            "broker": {"url": broker.url},
            "state": "state",
            "devices": {"arm": {"adapter": "replay", "options": options}},
        }
        config.write_text(yaml.safe_dump(agent))
        stack.enter_context(ready_agent(config))
        time.sleep(3)  # its first rows are stored
        yield collector.first_line(), collector.pid


def _page(url: str) -> list[dict[str, Any]]:
    from playwright.sync_api import sync_playwright

    device = f"{url}/#/device/{NODE}/arm"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        ours = [_load(browser, url, ".fleet-row[data-node]") for _ in range(LOADS)]
        least = [_load(browser, f"{url}/api/v1/health", "body") for _ in range(LOADS)]
        chart = [_load(browser, device, ".live-chart[data-edge]") for _ in range(3)]
        browser.close()

    def middle(loads: list[dict[str, float]], key: str) -> float:
        return statistics.median(load[key] for load in loads)

    paint, bare = middle(ours, "paint"), middle(least, "paint")
    return [
        {
            "what": "first contentful paint, cold cache, beside a bare JSON document from the same server",
            "ours": paint,
            "peer": bare,
            "ratio": paint / bare,
            "unit": "ms",
        },
        {"what": "fleet shown, cold cache", "ours": middle(ours, "shown"), "unit": "ms"},
        {"what": "device page with running chart, cold cache", "ours": middle(chart, "shown"), "unit": "ms"},
        {
            "what": "page, scripts and styles of the first load",
            "ours": middle(ours, "bytes") / 1000,
            "unit": "kB",
        },
        {"what": "the same with the device page's", "ours": middle(chart, "bytes") / 1000, "unit": "kB"},
        {"what": "the same on a second visit", "ours": middle(ours, "again") / 1000, "unit": "kB"},
    ]


def _load(browser: Any, url: str, ready: str) -> dict[str, float]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(ready)
    shown = page.evaluate("() => performance.now()")
    page.wait_for_function(_PAINT.replace("?? null", "?? 0"))
    found = {"shown": shown, "paint": page.evaluate(_PAINT), "bytes": page.evaluate(_BYTES)}
    page.reload()
    page.wait_for_selector(ready)
    found["again"] = page.evaluate(_BYTES)
    context.close()
    return found


def _viewers(url: str, pid: int) -> list[dict[str, Any]]:
    watch = f"/api/v1/stream?node={NODE}&device=arm"
    one = _cost(url, pid, 1, lambda count, sock, stop: _listen(count, sock, stop, watch))
    many = _cost(url, pid, 1 + VIEWERS, lambda count, sock, stop: _listen(count, sock, stop, watch))
    poll = _cost(url, pid, 1 + VIEWERS, _poll)
    further = (many["cpu"] - one["cpu"]) / VIEWERS
    polling = (poll["cpu"] - one["cpu"]) / VIEWERS
    return [
        {
            "what": "collector CPU per further viewer of a 50 Hz device, beside one that polls each second",
            "ours": further,
            "peer": polling,
            "ratio": further / polling if polling > 0 else None,
            "unit": "% of a core",
        },
        {
            "what": "bytes a second per viewer of 18 signals at 50 Hz",
            "ours": many["bytes"] / (1 + VIEWERS) / 1000,
            "peer": poll["bytes"] / (1 + VIEWERS) / 1000,
            "ratio": many["bytes"] / poll["bytes"],
            "unit": "kB/s",
        },
    ]


Viewer = Callable[[list[int], socket.socket, threading.Event], None]


def _cost(url: str, pid: int, viewers: int, view: Viewer) -> dict[str, float]:
    """Return the collector's CPU in % of a core and bytes per second with this many viewers."""
    counts: list[list[int]] = [[0] for _ in range(viewers)]
    stop = threading.Event()
    threads = []
    for count in counts:
        host, port = url.removeprefix("http://").split(":")
        sock = socket.create_connection((host, int(port)), timeout=2)
        threads.append(threading.Thread(target=view, args=(count, sock, stop), name="viewer"))
        threads[-1].start()
    time.sleep(1)
    before, began = cpu_s(pid), time.monotonic()
    at = sum(count[0] for count in counts)
    time.sleep(WATCH_S)
    took = time.monotonic() - began
    found = {
        "cpu": (cpu_s(pid) - before) / took * 100,
        "bytes": (sum(count[0] for count in counts) - at) / took,
    }
    stop.set()
    for thread in threads:
        thread.join()
    return found


def _listen(count: list[int], sock: socket.socket, stop: threading.Event, path: str) -> None:
    with sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        while not stop.is_set():
            try:
                piece = sock.recv(65_536)
            except TimeoutError:
                continue
            if not piece:
                break
            count[0] += len(piece)


def _poll(count: list[int], sock: socket.socket, stop: threading.Event) -> None:
    """Poll as a page without a stream does: every second the fleet, and one second of six signals."""
    series = f"/api/v1/nodes/{NODE}/devices/arm/series?stream=joints&points=50"
    with sock:
        while not stop.wait(1.0):
            now = time.time_ns() // 1_000_000  # noqa: TID251 - the machine's clock, as in a browser
            span = f"&from={now - 1000}&to={now}"
            paths = ["/api/v1/fleet", *(f"{series}&field={name}{span}" for name in SIGNALS[:6])]
            for path in paths:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                count[0] += _answer(sock)


def _answer(sock: socket.socket) -> int:
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65_536)
    header, _, body = head.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in header.split(b"\r\n")[1:])
    length, got = int(fields[b"content-length"]), len(body)
    while got < length:
        got += len(sock.recv(65_536))
    return len(header) + 4 + got
