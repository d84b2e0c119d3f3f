"""Users over HTTP: who manages whom, what is refused, and what the audit has of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from collector.app import Collector
from collector.rights.passwords import fits, hashed
from collector.rights.user import Grant
from collector.state.audit import Audit
from edgebed.cli import command as main
from tests.unit.collector.web.serving import Get, serving
from wire.errors import EdgebedError

PASSWORD = " ".join(["correct", "horse", "battery"])
HASH = hashed(PASSWORD)
USERS = "/api/v1/users"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[Collector, Get]]:
    async with serving(tmp_path) as (collector, get):
        accounts = collector.directory.accounts
        for name, role, prefix in (
            ("root", "admin", "*"), ("ana", "admin", "acme/*"), ("bob", "operator", "acme/*"),
            ("cho", "viewer", "acme/line/*"), ("dan", "admin", "hanbit/*"),
        ):  # fmt: skip
            accounts.add(name, HASH, Grant(role, (prefix,)))
        collector.directory.refresh()
        yield collector, get


def bearer(collector: Collector, name: str, role: str = "admin", *prefixes: str) -> str:
    accounts = collector.directory.accounts
    own = accounts.read().accounts[name].grant.prefixes
    secret = accounts.add_token(name, "", Grant(role, prefixes or own), 1)[1]
    collector.directory.refresh()
    return secret


def new(
    name: str = "eve", role: str = "viewer", *prefixes: str, password: str = PASSWORD
) -> dict[str, object]:
    return {"name": name, "password": password, "role": role, "prefixes": prefixes or ("acme/line/*",)}


async def test_an_administrator_of_a_tenant_manages_its_users_alone(site: tuple[Collector, Get]) -> None:
    collector, get = site
    headers = {"Authorization": f"Bearer {bearer(collector, 'ana')}"}
    listed = (await get(USERS, **headers)).json()["users"]
    assert [one["name"] for one in listed] == ["ana", "bob", "cho"]
    assert "scrypt" not in json.dumps(listed)
    assert (await get(USERS, "POST", new(), **headers)).status == 200
    account = collector.directory.account("eve")
    assert account is not None
    assert fits(PASSWORD, account.secret)
    assert account.grant == Grant("viewer", ("acme/line/*",))
    for name in ("dan", "root", "nobody"):
        for path, method, body in (
            ("", "DELETE", {}), ("/password", "PUT", {"password": PASSWORD}), ("/tokens", "POST", {}),
            ("/tokens/0", "DELETE", {}),
        ):  # fmt: skip
            answer = await get(f"{USERS}/{name}{path}", method, body, **headers)
            assert answer.status == 404
            assert answer.json()["error"].startswith(f"there is no user '{name}'")
    before = collector.directory.accounts.read()
    for role, prefixes in (
        ("viewer", ("*",)),
        ("admin", ("acme/*", "hanbit/*")),
        ("viewer", ("hanbit/a/*",)),
    ):
        refused = await get(USERS, "POST", new("fox", role, *prefixes), **headers)
        assert refused.status == 403
        raised = await get(f"{USERS}/ana/tokens", "POST", {"role": role, "prefixes": prefixes}, **headers)
        assert raised.status == 403, "and it cannot raise itself"
        assert "ana manages users of acme/* alone" in refused.json()["error"]
    assert collector.directory.accounts.read() == before


async def test_who_may_not_manage_users(site: tuple[Collector, Get]) -> None:
    collector, get = site
    for secret in (bearer(collector, "bob"), bearer(collector, "ana", "viewer")):
        answer = await get(USERS, Authorization=f"Bearer {secret}")
        assert (answer.status, "an administrator may" in answer.json()["error"]) == (403, True)
    narrow = {"Authorization": f"Bearer {bearer(collector, 'ana', 'admin', 'acme/line/*')}"}
    assert [one["name"] for one in (await get(USERS, **narrow)).json()["users"]] == ["cho"]
    assert (await get(f"{USERS}/ana/tokens", "POST", {"role": "admin"}, **narrow)).status == 404


async def test_no_first_user_over_http(tmp_path: Path) -> None:
    async with serving(tmp_path) as (collector, get):
        answer = await get(USERS, "POST", new("eve", "admin", "*"))
        assert answer.status == 403
        assert "make the first user on the collector's machine" in answer.json()["error"]
        assert not collector.directory.has_users


async def test_the_last_administrator_stays(site: tuple[Collector, Get]) -> None:
    collector, get = site
    headers = {"Authorization": f"Bearer {bearer(collector, 'root')}"}
    answer = await get(f"{USERS}/root", "DELETE", {}, **headers)
    assert (answer.status, "is the last administrator of its nodes" in answer.json()["error"]) == (409, True)
    assert (await get(f"{USERS}/dan", "DELETE", {}, **headers)).status == 200, "root covers its nodes"
    assert (await get(USERS, "POST", new("second", "admin", "*"), **headers)).status == 200
    two = {"Authorization": f"Bearer {bearer(collector, 'second')}"}
    both = await asyncio.gather(
        get(f"{USERS}/root", "DELETE", {}, **two), get(f"{USERS}/second", "DELETE", {}, **headers)
    )
    assert sorted(one.status for one in both) in ([200, 401], [200, 409]), "one of both stays"


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (new("Eve!"), 400, "is not a user name"),
        (new("bob"), 409, "user bob exists already"),
        (new("eve", "emperor"), 400, "role 'emperor' is not one of viewer, operator, admin"),
        (new("eve", "viewer", "acme/**"), 400, "prefix 'acme/**' is not"),
        ({**new(), "prefixes": []}, 400, "name at least one prefix"),
        (new(password="x" * 9), 400, "a password has 10 to 200 characters"),
        ({**new(), "extra": 1}, 400, "the body is wrong"),
        (new(password="x" * 201), 400, "the body is wrong"),
    ],
)
async def test_a_wrong_request_changes_nothing(
    site: tuple[Collector, Get], body: dict[str, object], status: int, why: str
) -> None:
    collector, get = site
    headers = {"Authorization": f"Bearer {bearer(collector, 'root')}"}
    before = collector.directory.accounts.read()
    answer = await get(USERS, "POST", body, **headers)
    assert (answer.status, why in answer.json()["error"]) == (status, True), answer.json()
    assert collector.directory.accounts.read() == before


async def test_passwords_are_hashed_within_the_limits_of_logins(site: tuple[Collector, Get]) -> None:
    collector, get = site
    headers = {"Authorization": f"Bearer {bearer(collector, 'ana')}"}

    short = {"password": "x" * 9}  # scrypt does not run: the limit must come before it
    found = [await get(f"{USERS}/cho/password", "PUT", short, **headers) for _ in range(6)]
    assert [one.status for one in found] == [400] * 5 + [429]
    assert int(found[5].headers["retry-after"]) >= 1
    assert (await get(USERS, "POST", new(), **headers)).status == 429
    assert collector.app.state.sign_in.worker.checked == 5


async def test_the_audit_has_each_act_and_shows_it_to_its_tenant(site: tuple[Collector, Get]) -> None:
    collector, get = site
    headers = {"Authorization": f"Bearer {bearer(collector, 'ana')}"}
    made = (await get(f"{USERS}/cho/tokens", "POST", {"label": "x", "days": 2}, **headers)).json()
    assert made["token"].startswith("ebt_")
    await get(f"{USERS}/cho/tokens/{made['id']}", "DELETE", {}, **headers)
    await get(f"{USERS}/cho/password", "PUT", {"password": PASSWORD + "?"}, **headers)
    await get(f"{USERS}/cho", "DELETE", {}, **headers)
    acts = [
        (one.who, one.what, one.subject, one.result, one.scope) for one in Audit(collector.state).newest(9)
    ]
    assert acts == [
        ("ana", "user remove", "cho", "done", "acme/line/*"),
        ("ana", "user passwd", "cho", "done", "acme/line/*"),
        ("ana", "token remove", f"cho {made['id']}", "done", "acme/line/*"),
        ("ana", "token add", "cho: viewer of acme/line/* for 2 days", "done", "acme/line/*"),
    ]
    text = json.dumps([str(one) for one in acts])
    assert PASSWORD not in text
    assert made["token"] not in text


async def test_the_commands_ask_a_running_collector(site: tuple[Collector, Get], tmp_path: Path) -> None:
    collector, _ = site
    url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
    file = tmp_path / "token"
    file.write_text(bearer(collector, "ana"))
    file.chmod(0o600)

    async def run(*words: str, line: str | None = None, at: str = url) -> Result:
        given = ["--password-file", "-"] if line is not None else []
        command = ["user", *words, "--url", at, "--token-file", str(file), *given]
        return await asyncio.to_thread(CliRunner().invoke, main, command, f"{line}\n")

    done = await run("add", "eve", "--role", "viewer", "--prefix", "acme/line/*", line=PASSWORD)
    assert (done.exit_code, done.stdout) == (0, "eve: viewer of acme/line/*\n")
    assert (await run("passwd", "eve", line=PASSWORD + "!")).stdout.startswith("eve: new password")
    account = collector.directory.account("eve")
    assert account is not None
    assert fits(PASSWORD + "!", account.secret)
    secret = (await run("token", "eve", "--days", "3")).stdout.strip()
    assert secret.startswith("ebt_")
    listed = [json.loads(line) for line in (await run("ls", "--json")).stdout.splitlines()]
    assert [one["name"] for one in listed] == ["ana", "bob", "cho", "eve"]
    assert "dan" not in (await run("ls")).stdout
    gone = await run("token", "eve", "--remove", listed[3]["tokens"][0]["id"])
    assert gone.exit_code == 0
    assert (await run("remove", "eve")).stdout == "eve: removed\n"
    refused = await run("add", "eve", "--role", "admin", "--prefix", "*", line=PASSWORD)
    assert isinstance(refused.exception, EdgebedError)
    assert "answers 403 ana manages users of acme/* alone" in str(refused.exception)
    assert (await run("ls", at="http://192.0.2.1")).exit_code == 2, "no token goes out without TLS"
    file.write_text("ebt_" + "x" * 43)
    assert "answers 401 this token is not valid" in str((await run("ls")).exception)
    file.chmod(0o644)
    assert "run chmod 600" in str((await run("ls")).exception)


@pytest.mark.parametrize("words", [[], ["--store", ".", "--url", "https://a"], ["--url", "https://a"]])
def test_the_collector_is_named_in_one_way(words: list[str]) -> None:
    done = CliRunner().invoke(main, ["user", "ls", *words])
    assert (done.exit_code, isinstance(done.exception, SystemExit | click.UsageError)) == (2, True)
