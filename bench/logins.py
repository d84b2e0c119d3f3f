"""Measure the collector under a flood of logins and 200 viewers of two tenants, while nodes send."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.fleet import run_fleet
from collector.rights.accounts import Accounts
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.state.state_file import StateFile
from edgebed.fleet.site import OwnSite, own_site
from wire.clock import Clock

NODES, RATE, SAMPLES, SECONDS = 100, 10.0, 1, 40
LOGINS_HZ, ADDRESSES, USERS = 50, 20, 100
VIEWERS = 200
TENANTS = ("sim", "other")  # the nodes of `edgebed sim fleet` are of the first


def run() -> list[dict[str, Any]]:
    """Return how many logins reach scrypt, and the delay of an acknowledgement beside one without a flood."""
    with own_site("mosquitto") as site:
        without = run_fleet(site, NODES, RATE, SAMPLES, SECONDS)
    with own_site("mosquitto") as site:
        tokens = _users(site.folder / "store")
        with _viewing(site, tokens) as seen, _flooding(site) as answers:
            found = run_fleet(site, NODES, RATE, SAMPLES, SECONDS)
        took_s = answers.pop("ms") / 1000
        reached = answers[401]
    cost, alone = (each["cost"]["collector"]["cpu_us_per_message"] for each in (found, without))
    delay, bare = (each["publish_to_ack_ms"]["p99"] for each in (found, without))
    name = f"{LOGINS_HZ} logins/s of {ADDRESSES} addresses, {VIEWERS} viewers"
    return [
        {"what": f"{name}: attempts", "ours": sum(answers.values()) / took_s, "unit": "a second"},
        {"what": f"{name}: that reach scrypt", "ours": reached / took_s, "unit": "a second", "limit": 2.5},
        {
            "what": f"{name}: publish to ack, p99, beside without",
            "ours": delay,
            "peer": bare,
            "ratio": delay / bare,
            "unit": "ms",
        },
        {
            "what": f"{name}: CPU of the collector, beside without",
            "ours": cost,
            "peer": alone,
            "ratio": cost / alone,
            "unit": "us a message",
        },
        {"what": f"{name}: names of nodes to those who may see them", "ours": seen["own"], "unit": ""},
        {"what": f"{name}: names of nodes to the others", "ours": seen["leaked"], "unit": "", "limit": 0},
    ]


@contextmanager
def _viewing(site: OwnSite, tokens: dict[str, str]) -> Iterator[Counter[str]]:
    """Streams of two tenants, half of them each; counts what they get."""
    seen: Counter[str] = Counter()
    stop = threading.Event()
    streams = [_open(site, tokens[TENANTS[number % 2]], number) for number in range(VIEWERS)]

    def read() -> None:
        while not stop.is_set():
            for number, stream in enumerate(streams):
                try:
                    part = stream.recv(1_000_000)
                except BlockingIOError:
                    continue
                seen["leaked" if number % 2 else "own"] += part.count(TENANTS[0].encode() + b"/")
            stop.wait(0.1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        stop.set()
        reader.join()
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
def _flooding(site: OwnSite) -> Iterator[Counter[Any]]:
    """Guess passwords at `LOGINS_HZ`; counts the answers by status, and the time in ms."""
    answers: Counter[Any] = Counter()
    stop = threading.Event()
    began_s = time.monotonic()

    def flood(first: int) -> None:
        host, port = _address(site)
        for number in range(first, 10**9, 5):
            if stop.wait(max(0.0, began_s + number / LOGINS_HZ - time.monotonic())):
                return
            body = json.dumps({"name": f"user{number % USERS}", "password": f"guess {number}"})
            with closing(http.client.HTTPConnection(host, port, timeout=30)) as connection:
                headers = {
                    "Content-Type": "application/json", "Origin": f"https://{host}:{port}",
                    "X-Forwarded-For": f"203.0.113.{number % ADDRESSES}", "X-Forwarded-Proto": "https",
                }  # fmt: skip
                connection.request("POST", "/api/v1/login", body, headers)
                answers[connection.getresponse().status] += 1

    threads = [threading.Thread(target=flood, args=(first,)) for first in range(5)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        answers["ms"] = round((time.monotonic() - began_s) * 1000)


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
