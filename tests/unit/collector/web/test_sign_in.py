"""Login, logout, sessions, and what a wrong one gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collector.app import Collector
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.state.audit import Audit, AuditEntry
from collector.state.state_file import STATE
from collector.web import sign_in as module
from tests.unit.collector.web.serving import Answer, Get, serving

PASSWORD = " ".join(["correct", "horse", "battery"])
LOGIN, LOGOUT, ME = "/api/v1/login", "/api/v1/logout", "/api/v1/me"
OK = {"name": "kim", "password": PASSWORD}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[Collector, Get]]:
    async with serving(tmp_path) as (collector, get):
        collector.directory.accounts.add("kim", hashed(PASSWORD), Grant("viewer", ("acme/*",)))
        collector.directory.refresh()
        yield collector, get


def noted(collector: Collector) -> list[AuditEntry]:
    return Audit(collector.state).newest(9)


def cookie_of(answer: Answer) -> str:
    return answer.headers["set-cookie"].split(";")[0]


async def test_a_login_opens_a_session_that_a_logout_ends(site: tuple[Collector, Get]) -> None:
    collector, get = site
    refused = await get(ME)
    assert (refused.status, refused.json()["code"]) == (401, "login")
    answer = await get(LOGIN, "POST", OK)
    shown = {"name": "kim", "kind": "session", "grants": [{"role": "viewer", "prefixes": ["acme/*"]}]}
    assert answer.status == 200
    assert answer.json() == {**shown, "ends": answer.json()["ends"]}
    header = answer.headers["set-cookie"]
    assert header.startswith(f"edgebed-{collector.state.store_id()}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(header.split("; "))
    assert "Secure" not in header, "this is plain HTTP on loopback"
    assert cookie_of(answer).split("=")[1].encode() not in (collector.store.folder / STATE).read_bytes()
    assert (await get(ME, Cookie=cookie_of(answer))).json() == answer.json()
    assert (await get(LOGOUT, "POST", {}, Cookie=cookie_of(answer))).status == 200
    ended = await get(ME, Cookie=cookie_of(answer))
    assert (ended.status, ended.json()["code"]) == (401, "session-ended")
    acts = [
        (one.who, one.what, one.origin, one.result, one.scope) for one in Audit(collector.state).newest(9)
    ]
    assert acts == [
        ("kim", "logout", "127.0.0.1", "done", "acme/*"),
        ("kim", "login", "127.0.0.1", "done", "acme/*"),
    ]


async def test_a_wrong_password_and_an_unknown_user_look_the_same(site: tuple[Collector, Get]) -> None:
    collector, get = site
    found = [await get(LOGIN, "POST", {"name": name, "password": "x"}) for name in ("kim", "lee", PASSWORD)]
    assert {(each.status, each.body) for each in found} == {(401, b'{"error":"user or password is wrong"}')}
    assert collector.app.state.sign_in.worker.checked == 3, "an unknown user takes as long"
    acts = [(one.who, one.what, one.result, one.scope) for one in noted(collector)]
    wrong = "wrong user or password"
    assert acts == [
        ("unknown user", "login failed", wrong, "*"),
        ("kim", "login failed", wrong, "acme/*"),
    ], "the second of an address within a minute waits, and what may be a password is not noted"


async def test_many_failures_are_noted_once_a_minute(
    site: tuple[Collector, Get], monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, get = site
    for _ in range(3):
        await get(LOGIN, "POST", {**OK, "password": "x"})
    monkeypatch.setattr(module, "QUIET_S", 0.0)
    await get(LOGIN, "POST", {**OK, "password": "x"})
    assert [one.result for one in Audit(collector.state).newest(9)] == [
        "wrong user or password, and 2 times before",
        "wrong user or password",
    ]


async def test_too_many_attempts_reach_no_check(site: tuple[Collector, Get]) -> None:
    collector, get = site
    found = [await get(LOGIN, "POST", {**OK, "password": "x"}) for _ in range(6)]
    assert [each.status for each in found[:5]] == [401] * 5
    assert (found[5].status, found[5].json()["error"]) == (
        429,
        "too many login attempts: wait, then try again",
    )
    assert 1 <= int(found[5].headers["retry-after"]) <= 10
    assert collector.app.state.sign_in.worker.checked == 5


async def test_a_change_needs_an_origin_of_its_own(site: tuple[Collector, Get]) -> None:
    collector, get = site
    port = collector.socket.getsockname()[1]
    for origin, status in {
        f"http://127.0.0.1:{port}": 401, f"http://evil.example:{port}": 403, "null": 403, "": 403,
        "http://127.0.0.1": 403, f"http://127.0.0.1:{port}.evil.example": 403, "http://[": 403,
        f"file://127.0.0.1:{port}": 403, f"http://kim@127.0.0.1:{port}": 403,
    }.items():  # fmt: skip
        answer = await get(LOGIN, "POST", {"name": "lee", "password": "x"}, Origin=origin)
        assert answer.status == status, origin


async def test_a_new_password_ends_the_sessions(site: tuple[Collector, Get]) -> None:
    collector, get = site
    cookie = cookie_of(await get(LOGIN, "POST", OK))
    collector.directory.accounts.change_password("kim", hashed(PASSWORD + "!"))
    collector.directory.refresh()
    assert (await get(ME, Cookie=cookie)).status == 401
    assert (await get(LOGIN, "POST", OK)).status == 401
    assert (await get(LOGIN, "POST", {**OK, "password": PASSWORD + "!"})).status == 200


async def test_users_that_cannot_be_read_open_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / STATE).write_bytes(b"x" * 5000)
    (store / STATE).chmod(0o600)
    async with serving(tmp_path) as (_, get):
        for path in (ME, "/api/v1/fleet", "/api/v1/health"):
            answer = await get(path)
            assert answer.status == 503
            assert "state.db is damaged" in answer.json()["error"]
        assert (await get(LOGIN, "POST", OK)).status == 503


async def test_on_loopback_without_a_user_nothing_asks_for_a_login(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, get):
        assert (await get(ME)).json() == {
            "name": "local", "kind": "local", "ends": None, "grants": [{"role": "admin", "prefixes": ["*"]}],
        }  # fmt: skip
        assert (await get("/api/v1/health")).json()["state"] in ("ok", "degraded")
        assert (await get(LOGIN, "POST", OK)).status == 401
