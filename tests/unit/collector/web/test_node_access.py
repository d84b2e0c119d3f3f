"""An enrolled node reads what concerns itself from a real collector, with the function of the agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.site_access import fetch
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from tests.unit.collector.web.serving import Get, fill, serving, until_stored
from wire.clock import NS_PER_S, Clock
from wire.errors import ConfigError, EdgebedError, Unreachable
from wire.mac import node_key
from wire.node_token import LIFE_S, make_token

HERS, OTHER = "acme/trial/hall/cobot-01", "acme/trial/hall/cobot-02"
SECRET = b"\xab" * 32
YEAR_S = 365 * 86_400


class Place:
    """A collector with two nodes, and the folder of the enrolment of one."""

    def __init__(self, folder: Path, get: Get, port: int) -> None:
        self.identity, self.get = folder / "identity", get
        self.url = f"http://127.0.0.1:{port}"
        self.key = node_key(SECRET, HERS, 1)

    async def fetch(self, path: str, node: str = HERS, ahead_s: int = 0) -> Any:
        clock = Clock(1.0, Clock().now_ns() + ahead_s * NS_PER_S)
        return json.loads(await asyncio.to_thread(fetch, self.url + path, node, self.identity, clock))

    async def status(self, path: str, token: str, method: str = "GET") -> tuple[int, str]:
        body = None if method == "GET" else {}
        answer = await self.get(path, method, body, Authorization=f"Bearer {token}")
        return answer.status, answer.body.decode()


def write_key(path: Path, key: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(key.hex() + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    (tmp_path / "enrolled").write_text(f"{HERS} 1 -\nacme/trial/hall/gone 2 removed\n")
    site = {"mac_file": write_key(tmp_path / "mac.key", SECRET), "enrolled_file": tmp_path / "enrolled"}
    write_key(tmp_path / "identity/mac.key", node_key(SECRET, HERS, 1))
    async with serving(tmp_path, site) as (collector, get):
        for node in (HERS, OTHER):
            fill(collector, node)
        await until_stored(collector, 64)
        collector.directory.accounts.add("kim", hashed("a password of kim"), Grant("admin", ("*",)))
        collector.directory.refresh()
        yield Place(tmp_path, get, collector.socket.getsockname()[1])


async def test_a_node_reads_its_own_and_nothing_else(place: Place) -> None:
    assert (await place.fetch(f"/api/v1/nodes/{HERS}"))["node"] == HERS
    assert (await place.fetch(f"/api/v1/nodes/{HERS}/desired"))["desired"] is None
    found = await place.fetch("/api/v1/ledger?days=10")
    assert {one["node"] for one in found["entries"]} == {HERS}
    assert OTHER not in json.dumps(await place.fetch("/api/v1/fleet"))
    for path in (f"/api/v1/nodes/{OTHER}", f"/api/v1/nodes/{OTHER}/desired"):
        with pytest.raises(EdgebedError, match="answers 404"):
            await place.fetch(path)
    with pytest.raises(EdgebedError, match="answers 403"):
        await place.fetch("/api/v1/users")
    now, path = Clock().now_ms(), f"/api/v1/nodes/{HERS}/desired"
    for method in ("PUT", "DELETE"):
        token = make_token(place.key, HERS, method, path, now)
        assert (await place.status(path, token, method))[0] == 403, "it may read alone"


async def test_another_token_is_refused_with_one_sentence(place: Place) -> None:
    path, now = f"/api/v1/nodes/{HERS}", Clock().now_ms()
    token = make_token(place.key, HERS, "GET", path, now)
    assert (await place.status(path, token))[0] == 200
    end = now // 1000 + LIFE_S
    for bad, why in (
        (make_token(place.key, HERS, "GET", "/api/v1/ledger", now), "not for this request"),
        (make_token(place.key, HERS, "POST", path, now), "not for this request"),
        (make_token(place.key, HERS, "GET", path + "?x=1", now), "not for this request"),
        (make_token(place.key, OTHER, "GET", path, now), "not of this node"),
        (make_token(node_key(SECRET, HERS, 2), HERS, "GET", path, now), "not of this node"),
        (make_token(node_key(b"x" * 32, HERS, 1), HERS, "GET", path, now), "not of this node"),
        (token[:-1] + ("0" if token[-1] != "0" else "1"), "not of this node"),
        (token.replace(str(end), str(end + 1)), "not of this node"),
        (token[:-2], "not the token of a node"),
        (token + "00", "not the token of a node"),
        ("edgebed-node:", "not the token of a node"),
        ("edgebed-node:" + "a" * 3_000, "not the token of a node"),
        (
            make_token(node_key(SECRET, "acme/trial/hall/gone", 2), "acme/trial/hall/gone", "GET", path, now),
            "not the",
        ),
        (make_token(place.key, HERS, "GET", path, now - LIFE_S * 1000), "this token ended"),
        (make_token(place.key, HERS, "GET", path, now - YEAR_S * 1000), "this token ended"),
        (make_token(place.key, HERS, "GET", path, now + YEAR_S * 1000), "set the clock"),
    ):
        status, text = await place.status(path, bad)
        assert (status, why in text) == (401, True), (bad, text)
        assert "\n" not in text
    for ahead_s in (YEAR_S, -YEAR_S):
        with pytest.raises(EdgebedError, match=r"answers 401.*set the clock"):
            await place.fetch(path, ahead_s=ahead_s)


async def test_the_device_says_what_is_missing(place: Place, tmp_path: Path) -> None:
    clock, path = Clock(), f"/api/v1/nodes/{HERS}"
    for url in ("ftp://a", "no", "http:///x"):
        with pytest.raises(ConfigError, match="is not http"):
            fetch(url, HERS, place.identity, clock)
    with pytest.raises(ConfigError, match="enrol with"):
        fetch(place.url + path, HERS, tmp_path / "none", clock)
    with pytest.raises(EdgebedError, match="more than 10 bytes"):
        await asyncio.to_thread(fetch, place.url + path, HERS, place.identity, clock, 10)
    with pytest.raises(Unreachable, match="does not answer"):
        fetch("http://127.0.0.1:1/x", HERS, place.identity, clock)
    (place.identity / "mac.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        fetch(place.url + path, HERS, place.identity, clock)


async def test_a_collector_without_the_secret_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, get):
        token = make_token(node_key(SECRET, HERS, 1), HERS, "GET", "/api/v1/me", Clock().now_ms())
        answer = await get("/api/v1/me", Authorization=f"Bearer {token}")
        assert (answer.status, b"set mac_file in its config" in answer.body) == (401, True)
