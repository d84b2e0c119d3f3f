"""Measure questions to a collector that has a month of a wide fleet in its store, while more arrives."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from collector.store.chunk import ChunkRows
from collector.store.folder import day_files
from collector.store.group import EventRow, Group
from collector.store.marks import Account
from collector.store.store import SqliteStore
from edgebed.broker import BrokerProcess, free_port
from edgebed.processes import Child, edgebed_command
from wire.clock import NS_PER_MS, Clock
from wire.ranges import Ranges

DAYS, NODES, MESSAGES_A_CHUNK = 30, 1_000, 10  # each node sends one message a minute
FAST = "bench/history/hall/fast"  # 10 Hz for the last day, in messages of a second; events for a week
CLASSES, EVENTS_AN_HOUR = 5, 20  # of each class
ASKED, LOAD_PER_NODE_S = 60, 0.5
EP, DAY_MS, MINUTE_MS = "00112233aabbccdd", 86_400_000, 60_000


def run() -> list[dict[str, Any]]:
    """Return a row per question: p50 and p99 beside the answer of the same server that needs no store."""
    now_ms = Clock().now_ms()
    with tempfile.TemporaryDirectory(prefix="edgebed-history-") as name:
        store = Path(name) / "store"
        size, bare = _fill(store, now_ms), NODES * DAYS * 1440 * 3 * 8
        return [
            {
                "what": f"{DAYS} days of {NODES:,} nodes, a message a minute, beside bare f64",
                "ours": size / 1e9,
                "peer": bare / 1e9,
                "ratio": size / bare,
                "unit": "GB",
            },
            *_questions(Path(name), now_ms),
        ]


class _SetClock(Clock):
    """The time of a day that is written now."""

    ms = 0

    def now_ns(self) -> int:
        return self.ms * NS_PER_MS


def _fill(store: Path, now_ms: int) -> int:
    """Write the days, each in a process; returns the size of all files."""
    store.mkdir()
    with ProcessPoolExecutor(2) as pool:
        for folder in pool.map(_write_day, [store] * DAYS, range(DAYS), [now_ms] * DAYS):
            for path in day_files(folder):
                day = int(folder.name.removeprefix("day-"))
                path.rename(store / f"{day + 1:06d}{path.name[6:]}")
            shutil.rmtree(folder)
    return sum(path.stat().st_size for path in store.iterdir())


def _write_day(store: Path, day: int, now_ms: int) -> Path:
    """Write one day into a store of its own with the collector's code; the last one ends now."""
    began_ms = now_ms // DAY_MS * DAY_MS - (DAYS - 1 - day) * DAY_MS
    ended_ms = min(began_ms + DAY_MS, now_ms)
    folder, clock = store / f"day-{day}", _SetClock()
    clock.ms = began_ms
    days = SqliteStore(folder, clock)
    step = MESSAGES_A_CHUNK * MINUTE_MS
    starts = range(began_ms, ended_ms - step + 1, step)
    for at_ms in starts:
        group = Group(at_ms, rows=list(_minutes(at_ms, day)))
        group.rows += _fast(at_ms, step, now_ms)
        group.events = list(_events(at_ms, step, now_ms))
        days.commit(group)
    # the number of messages written: the collector compares the ledger with the files at its start
    numbers = Ranges([(1, day * 1440 + len(starts) * MESSAGES_A_CHUNK)])
    marks = [Account(_node(n), EP, stored=numbers, rows=numbers.count()) for n in range(NODES)]
    days.commit(Group(ended_ms - 1, marks=marks))
    days.close()
    for path in folder.iterdir():
        if not path.name.endswith(".db") or path.name == "marks.db":
            path.unlink()
    return folder


def _node(number: int) -> str:
    return f"bench/history/hall/node-{number:05d}"


def _minutes(at_ms: int, day: int) -> Iterator[ChunkRows]:
    """The chunks of all nodes for some minutes: three fields, as of a meter."""
    minute = at_ms % DAY_MS // MINUTE_MS
    dice = np.random.default_rng(at_ms // MINUTE_MS)
    power = np.round(dice.normal(400, 30, (NODES, MESSAGES_A_CHUNK)), 1)
    energy = np.round(np.cumsum(power, axis=1) / 60_000 + minute, 3)
    times = (at_ms + np.arange(MESSAGES_A_CHUNK) * MINUTE_MS) * 1000
    first = day * 1440 + minute + 1
    messages = [(first + n, 1) for n in range(MESSAGES_A_CHUNK)]
    for number in range(NODES):
        rows = ChunkRows(_node(number), "meter", "readings", EP, 1, False, at_ms + 50)
        rows.columns = {"power_w": power[number].tolist(), "energy_kwh": energy[number].tolist()}
        rows.times, rows.messages, rows.count = [times], list(messages), MESSAGES_A_CHUNK
        rows.size = 180 * MESSAGES_A_CHUNK
        yield rows


def _fast(at_ms: int, step: int, now_ms: int) -> Iterator[ChunkRows]:
    """The chunks of the fast stream in this span: 30 messages of ten rows each."""
    for start in range(at_ms, at_ms + step, 30_000):
        if now_ms - start > DAY_MS + step:
            continue
        rows = ChunkRows(FAST, "arm", "joints", EP, 1, False, start + 30_000)
        values = np.sin((start / 100 + np.arange(300)) / 500)
        rows.columns = {f"j{n}": np.round(values * n, 4).tolist() for n in range(1, 7)}
        rows.times, rows.count = [(start + np.arange(300) * 100) * 1000], 300
        first = (start - now_ms // DAY_MS * DAY_MS + 2 * DAY_MS) // 1000
        rows.messages = [(first + n, 10) for n in range(30)]
        rows.size = 30 * 600
        yield rows


def _events(at_ms: int, step: int, now_ms: int) -> Iterator[EventRow]:
    count = CLASSES * EVENTS_AN_HOUR * step // 3_600_000
    for n in range(count if now_ms - at_ms < 7 * DAY_MS else 0):
        ts = at_ms + n * step // count
        body = msgspec.json.encode({"model": "demo", "detail": {"label": f"class-{n % CLASSES}"}})
        yield EventRow(FAST, "arm", f"class-{n % CLASSES}", 1, ts, ts + 50, EP, 10**7 + ts // 1000, body)


def _questions(work: Path, now_ms: int) -> Iterator[dict[str, Any]]:
    with BrokerProcess("mosquitto", work / "broker", persistent=False) as broker:
        port = free_port()
        command = [
            "collector",
            "run",
            "--store",
            str(work / "store"),
            "--broker",
            broker.url,
            "--port",
            str(port),
        ]
        with Child("collector", edgebed_command(*command), work / "collector.log") as collector:
            url = collector.first_line().removeprefix("http://")
            load = ["--nodes", str(NODES), "--rate", str(LOAD_PER_NODE_S), "--for", "600", "--drain", "1"]
            fleet = subprocess.Popen(
                edgebed_command("sim", "fleet", *load, "--site", "bench/load/hall", "--broker", broker.url),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                while _get(f"{url}/api/v1/health")["rows"] < 10 * NODES:
                    time.sleep(0.5)
                yield from _asked(url, now_ms)
            finally:
                fleet.terminate()
                fleet.wait()


def _asked(url: str, now_ms: int) -> Iterator[dict[str, Any]]:
    fast = f"{url}/api/v1/nodes/{FAST}/devices/arm"
    meter = f"{url}/api/v1/nodes/{_node(7)}/devices/meter/series?stream=readings&field=power_w"
    day, week, month = (f"from={now_ms - days * DAY_MS}&to={now_ms}" for days in (1, 7, 29))
    questions = {
        "24 h of 10 Hz as 1,000 points": f"{fast}/series?stream=joints&field=j3&points=1000&{day}",
        "29 days of a message a minute as 1,000 points": f"{meter}&points=1000&{month}",
        "newest values of 1,000 devices": f"{url}/api/v1/newest?limit=1000",
        "events a class and hour for a week": f"{fast}/events/counts?step=3600000&{week}",
    }
    bare = _percentiles([f"{url}/api/v1/health"])
    for name, question in questions.items():
        p50, p99 = _percentiles([question])
        yield {
            "what": f"{name}: p50",
            "ours": p50,
            "peer": bare[0],
            "ratio": p50 / bare[0],
            "unit": "ms; peer: /health",
        }
        yield {
            "what": f"{name}: p99",
            "ours": p99,
            "peer": bare[1],
            "ratio": p99 / bare[1],
            "unit": "ms; peer: /health",
        }


def _percentiles(urls: list[str]) -> tuple[float, float]:
    took = []
    for number in range(ASKED):
        began = time.perf_counter()
        _get(urls[number % len(urls)])
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(0.05)
    took.sort()
    return took[ASKED // 2], took[int(ASKED * 0.99)]


def _get(url: str) -> Any:
    with urllib.request.urlopen(f"http://{url}", timeout=60) as answer:
        return json.load(answer)
