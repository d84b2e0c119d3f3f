"""Access: host names, the token, and the headers of every answer."""

from __future__ import annotations

from pathlib import Path

from collector.app import Collector
from collector.web.access import CSP
from tests.unit.collector.web.serving import BASE, TOKEN, Get, serving


async def test_every_answer_is_guarded(site: tuple[Collector, Get]) -> None:
    _, get = site
    for path in (
        "/",
        "/static/app.js",
        "/api/v1/fleet",
        "/nowhere",
        f"{BASE}/devices/arm/snapshot/frames.jpg",
    ):
        headers = (await get(path)).headers
        assert headers["content-security-policy"] == CSP
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    assert "unsafe" not in CSP
    assert (await get("/api/v1/fleet")).headers["cache-control"] == "no-store"


async def test_foreign_host_names_are_refused(site: tuple[Collector, Get]) -> None:
    _, get = site
    for host, status in {
        "localhost": 200, "127.0.0.1:8080": 200, "[::1]:80": 200, "10.1.2.3": 200, "LOCALHOST:1": 200,
        "evil.example": 421, "127.0.0.1.evil.example": 421, "": 421, "a b": 421, "[": 421,
    }.items():  # fmt: skip
        assert (await get("/api/v1/fleet", Host=host)).status == status, host


async def test_a_token_guards_the_data(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    async with serving(tmp_path, token_file=secret, names=["pilot.example"]) as (_, get):
        assert (await get("/api/v1/fleet")).status == 401
        assert (await get("/api/v1/fleet", Authorization=f"Bearer {TOKEN}x")).status == 401
        assert (await get("/api/v1/fleet", Authorization=f"Bearer {TOKEN}")).status == 200
        assert (await get("/api/v1/fleet", Cookie="edgebed=x")).status == 401
        assert (await get("/", Host="pilot.example")).status == 200, "the page itself has no data"
        assert (await get("/?token=wrong")).status == 401
        entered = await get(f"/?token={TOKEN}")
        assert (entered.status, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert (await get("/api/v1/fleet", Cookie=cookie.split(";")[0])).status == 200
