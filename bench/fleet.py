"""Measure the collector with fleets of `edgebed sim fleet`: its CPU per message, delays, and an open page."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import threading
import time
import urllib.request
from typing import Any

from edgebed.fleet.site import OwnSite, own_site
from edgebed.processes import edgebed_command

CELLS = ((1, 1000.0), (40, 25.0), (1000, 1.0), (5000, 0.2), (10_000, 0.1))  # nodes, messages/s of each
SAMPLES = (1, 10, 100)
SECONDS, PAGE_SECONDS = 15, 40
LIMIT_US, LIMIT_MS, PAGE_MS = 250, 2_000, 50
ASKED = 40  # times that a page of the fleet is asked for


def run() -> list[dict[str, Any]]:
    """Return a row per cell, and the rows of two wide fleets with an open page."""
    return [*_cells(), *_pages(10_000, 0.1), *_pages(1_000, 1.0)]


def _cells() -> list[dict[str, Any]]:
    rows = []
    for samples in SAMPLES:
        narrow = None
        for nodes, rate in CELLS:
            with own_site("mosquitto") as site:
                found = run_fleet(site, nodes, rate, samples, SECONDS)
            cost = found["cost"]["collector"]["cpu_us_per_message"]
            narrow = narrow or cost
            what = f"collector, {nodes:,} nodes x {rate:g}/s of {samples} rows, beside one node"
            limit = LIMIT_US if (nodes, samples) == (1000, 1) else ""
            rows.append(_row(what, cost, "us of CPU a message", narrow, limit))
    return rows


def _pages(nodes: int, rate: float) -> list[dict[str, Any]]:
    """The same fleet without and with a viewer of the fleet page."""
    with own_site("mosquitto") as site:
        without = run_fleet(site, nodes, rate, 1, PAGE_SECONDS)
    with own_site("mosquitto") as site:
        url = site.collector.first_line()
        asked: list[float] = []
        counted = [0]
        stop = threading.Event()
        viewer = threading.Thread(target=_view, args=(url, counted, stop))
        asking = threading.Thread(target=_ask, args=(url, asked, stop))
        viewer.start()
        asking.start()
        try:
            found = run_fleet(site, nodes, rate, 1, PAGE_SECONDS)
        finally:
            stop.set()
            viewer.join()
            asking.join()
    name = f"{nodes:,} nodes x {rate:g}/s, a fleet page open"
    ours, alone = (each["cost"]["collector"]["cpu_us_per_message"] for each in (found, without))
    delay, bare = (each["publish_to_ack_ms"]["p99"] for each in (found, without))
    memory = found["cost"]["collector"]["rss_mb"]
    return [
        _row(f"{name}: CPU, beside no page", ours, "us a message", alone),
        _row(f"{name}: publish to ack, p99, beside no page", delay, "ms", bare, limit=LIMIT_MS),
        _row(f"{name}: memory of the collector", memory, "MB"),
        _row(f"{name}: a page of 200, p50", statistics.median(asked), "ms", limit=PAGE_MS),
        _row(f"{name}: a page of 200, p99", _p99(asked), "ms"),
        _row(f"{name}: sent to the page", counted[0] / PAGE_SECONDS / 1000, "kB/s"),
    ]


def _row(what: str, ours: float, unit: str, peer: float | None = None, limit: object = "") -> dict[str, Any]:
    ratio = None if peer is None else ours / peer
    return {"what": what, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "limit": limit}


def run_fleet(site: OwnSite, nodes: int, rate: float, samples: int, seconds: int) -> dict[str, Any]:
    """Run a fleet against a site; returns its report.

    Raises:
        subprocess.CalledProcessError: a message was not acknowledged.
    """
    report = site.folder / "fleet.json"
    pids = ["--broker-pid", str(site.broker.pid), "--collector-pid", str(site.collector.pid)]
    load = ["--nodes", str(nodes), "--rate", str(rate), "--samples", str(samples), "--for", str(seconds)]
    command = [
        "sim",
        "fleet",
        *load,
        "--drain",
        "60",
        "--broker",
        site.broker.url,
        *pids,
        "--json",
        str(report),
    ]
    subprocess.run(edgebed_command(*command), check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def _view(url: str, counted: list[int], stop: threading.Event) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=0.5) as sock:
        sock.sendall(b"GET /api/v1/stream?limit=200 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while not stop.is_set():
            try:
                counted[0] += len(sock.recv(262_144))
            except TimeoutError:
                continue


def _ask(url: str, asked: list[float], stop: threading.Event) -> None:
    host = url.removeprefix("http://")
    while not stop.wait(PAGE_SECONDS / ASKED):
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://{host}/api/v1/fleet?limit=200", timeout=30) as answer:
            answer.read()
        asked.append((time.perf_counter() - began) * 1000)


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0
