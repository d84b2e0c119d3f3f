"""Measure the collector under a flood of logins and 200 viewers of two tenants, while nodes send.

Runs of the same fleet without and with both take turns at one collector; `--seconds` is the time of each.
`python -m bench.logins` prints the table in two minutes and ends with 1 if a viewer saw a foreign name.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.fleet import run_fleet
from collector.rights.accounts import Accounts
from collector.rights.attempts import ALL
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.state.state_file import StateFile
from edgebed.fleet.site import OwnSite, own_site
from edgebed.processes import edgebed_command
from wire.clock import Clock

NODES, RATE, SAMPLES, SECONDS, TURNS = 100, 10.0, 1, 12, 3
LOGINS_HZ, ADDRESSES, USERS = 50, 20, 100
VIEWERS = 200
TENANTS = ("sim", "other")  # the fleet that is measured is of the first; a few nodes of the second send too


def run(seconds: int = SECONDS, turns: int = TURNS) -> list[dict[str, Any]]:
    """Return how many logins reach scrypt, the delay of an acknowledgement beside one without, and leaks."""
    runs: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    answers, seen = Counter[Any](), Counter[str]()
    with own_site("mosquitto") as site, _second_tenant(site):
        tokens = _users(site.folder / "store")
        for _ in range(turns):
            runs[False].append(run_fleet(site, NODES, RATE, SAMPLES, seconds))
            with _viewing(site, tokens, seen), _flooding(site, answers):
                runs[True].append(run_fleet(site, NODES, RATE, SAMPLES, seconds))
    took_s = answers.pop("ms") / 1000
    if wrong := answers.keys() - {401, 429, 503}:  # 503: too many checks wait
        raise RuntimeError(f"logins were answered with {sorted(map(str, wrong))}: {dict(answers)}")
    allowed = answers[401] + answers[503] - turns * ALL.burst
    name = f"{LOGINS_HZ} logins/s of {ADDRESSES} addresses, {VIEWERS} viewers"
    return [
        {"what": f"{name}: attempts", "ours": answers.total() / took_s, "unit": "a second"},
        {
            "what": f"{name}: that may reach scrypt, after the burst of {ALL.burst}",
            "ours": allowed / took_s,
            "unit": "a second",
            "limit": 1 / ALL.every_s,
        },
        _beside(f"{name}: publish to ack, p99, beside without", "ms", runs, "publish_to_ack_ms", "p99"),
        _beside(f"{name}: publish to ack, p50, beside without", "ms", runs, "publish_to_ack_ms", "p50"),
        _beside(
            f"{name}: CPU of the collector, beside without",
            "us a message", runs, "cost", "collector", "cpu_us_per_message",
        ),
        {"what": f"{name}: names of nodes to those who may see them", "ours": seen["own"], "unit": ""},
        {"what": f"{name}: viewers that saw their own nodes", "ours": seen["viewers"], "limit": VIEWERS},
        {"what": f"{name}: names of nodes to the others", "ours": seen["leaked"], "unit": "", "limit": 0},
    ]  # fmt: skip


def _beside(what: str, unit: str, runs: dict[bool, list[dict[str, Any]]], *keys: str) -> dict[str, Any]:
    """The median of a figure of the runs with a flood, beside that of those without."""

    def middle(reports: list[Any]) -> float:
        for key in keys:
            reports = [report[key] for report in reports]
        return float(statistics.median(reports))

    ours, peer = middle(runs[True]), middle(runs[False])
    return {"what": what, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": unit}


@contextmanager
def _second_tenant(site: OwnSite) -> Iterator[None]:
    """A few nodes of the second tenant, which send all the time."""
    load = ["--site", f"{TENANTS[1]}/fleet/hall", "--nodes", "10", "--rate", "1", "--for", "3600"]
    command = edgebed_command("sim", "fleet", *load, "--broker", site.broker.url)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as fleet:
        try:
            yield
        finally:
            fleet.terminate()


@contextmanager
def _viewing(site: OwnSite, tokens: dict[str, str], seen: Counter[str]) -> Iterator[None]:
    """Streams of two tenants, half of them each; counts the names of nodes that they get."""
    stop = threading.Event()
    streams = [_open(site, tokens[TENANTS[number % 2]], number) for number in range(VIEWERS)]
    names = [f'"{tenant}/'.encode() for tenant in TENANTS]
    ends, satisfied = [b""] * VIEWERS, set[int]()

    def read() -> None:
        while not stop.is_set():
            for number, stream in enumerate(streams):
                try:
                    part = ends[number] + stream.recv(1_000_000)
                except BlockingIOError:
                    continue
                ends[number] = part[1 - max(map(len, names)) :]  # shorter than a name: none counts twice
                own, foreign = (part.count(names[(number + other) % 2]) for other in (0, 1))
                seen["own"] += own
                seen["leaked"] += foreign
                if own:
                    satisfied.add(number)
            stop.wait(0.1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join()
        seen["viewers"] = len(satisfied)
        for stream in streams:
            stream.close()


def _open(site: OwnSite, token: str, number: int) -> socket.socket:
    """A stream of the fleet from an address of its own, as a proxy would bring it."""
    stream = socket.create_connection(_address(site), timeout=30)
    stream.sendall(
        f"GET /api/v1/stream?limit=200 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"X-Forwarded-For: 198.51.100.{number}\r\nX-Forwarded-Proto: https\r\n\r\n".encode()
    )
    head = stream.recv(4096)
    if b" 200 " not in head:
        raise RuntimeError(f"the stream is refused: {head.decode()}")
    stream.setblocking(False)
    return stream


@contextmanager
def _flooding(site: OwnSite, answers: Counter[Any]) -> Iterator[None]:
    """Guess passwords at `LOGINS_HZ`; counts the answers by status, and the time in ms."""
    stop, lock = threading.Event(), threading.Lock()
    began_s = time.monotonic()

    def flood(first: int) -> None:
        host, port = _address(site)
        for number in range(first, 10**9, ADDRESSES):
            if stop.wait(max(0.0, began_s + number / LOGINS_HZ - time.monotonic())):
                return
            body = json.dumps({"name": f"user{number % USERS}", "password": f"guess {number}"})
            with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
                headers = {
                    "Content-Type": "application/json", "Origin": f"https://{host}:{port}",
                    "X-Forwarded-For": f"203.0.113.{number % ADDRESSES}", "X-Forwarded-Proto": "https",
                }  # fmt: skip
                try:
                    connection.request("POST", "/api/v1/login", body, headers)
                    status: Any = connection.getresponse().status
                except (OSError, http.client.HTTPException) as error:
                    status = repr(error)
                with lock:
                    answers[status] += 1

    threads = [threading.Thread(target=flood, args=(first,)) for first in range(ADDRESSES)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        answers["ms"] += round((time.monotonic() - began_s) * 1000)


def _users(store: Path) -> dict[str, str]:
    """Users to guess, and a token of a viewer of each tenant."""
    secret = hashed("a password that no guess has")
    with closing(StateFile(store)) as state:
        accounts = Accounts(state, Clock())
        for number in range(USERS):
            accounts.add(f"user{number}", secret, Grant("viewer", ("*",)))
        tokens = {}
        for tenant in TENANTS:
            grant = Grant("viewer", (f"{tenant}/*",))
            accounts.add(tenant, secret, grant)
            tokens[tenant] = accounts.add_token(tenant, "bench", grant, 1)[1]
    time.sleep(3)  # the collector follows
    return tokens


def _address(site: OwnSite) -> tuple[str, int]:
    host, _, port = site.collector.first_line().removeprefix("http://").rpartition(":")
    return host, int(port)


def main() -> int:
    """Print the table; returns 1 if a viewer saw a foreign name, or too few saw their own."""
    from bench.__main__ import table

    parser = argparse.ArgumentParser(prog="python -m bench.logins", description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each run of the fleet (default: 12)")
    parser.add_argument("--turns", type=int, default=TURNS, help="runs without and with (default: 3 each)")
    given = parser.parse_args()
    rows = run(given.seconds, given.turns)
    print(table(rows))
    *_, satisfied, leaked = (row["ours"] for row in rows)
    return int(leaked > 0 or satisfied < VIEWERS)


if __name__ == "__main__":
    sys.exit(main())
