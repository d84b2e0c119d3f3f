"""Every route x every credential, made from the table of routes: no tenant learns anything of another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Route

from collector.app import Collector
from collector.rights.passwords import hashed
from collector.rights.user import ROLES, Grant, User
from collector.rollout.engine import Device as RolloutDevice
from collector.rollout.engine import Rollout
from collector.rollout.packages import Packages
from collector.state.audit import Audit, AuditEntry
from collector.state.commands import CommandRecord
from collector.web import access
from collector.web.rules import FILTERED, NODE, PUBLIC, WHOLE, Ruled
from tests.unit.collector.web.serving import EP, Answer, Get, fill, serving, until_stored
from tests.unit.wire.pilot.plans import changed, signed_plan
from wire.messages import Arm, DeviceState, Evidence, ModelState, Status
from wire.model_package import Listing, PackedFile

HERS, OTHER, NONE = "acme/trial/hall/cobot-01", "hanbit/trial/hall/cobot-01", "acme/trial/hall/cobot-02"
PASSWORD = "-".join(["a", "password", "of", "kim"])
HAN = "han"  # a user of acme that each credential tries to change
COMMAND = "0" * 26
MANIFEST = b"name: m\nversion: '1' # of acme\n"
PACKED = Listing({"manifest.yaml": PackedFile(sha256(MANIFEST).hexdigest(), len(MANIFEST))})
# the signed plan of a pilot of each tenant
PLANS = {
    tenant: signed_plan(
        ("owner: acme", f"owner: {tenant}"),
        ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{tenant}/trial/hall/cobot-01, {tenant}/trial/hall/cobot-02]"),
    )
    for tenant in ("acme", "hanbit")
}
# what a route is asked for, with {node}; a new route needs a line here
SAMPLES: dict[str, dict[str, Any]] = {
    "/": {},
    "/api/v1/fleet": {},
    "/api/v1/nodes/{t}/{p}/{s}/{n}": {},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/stored": {},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/outboxes/{ep}": {},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/outboxes/{ep}/messages": {"query": "?first=1&last=99"},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/devices/{d}/series": {"query": "?stream=joints&field=j1&from=1"},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/devices/{d}/rows": {"query": "?stream=joints&from=1"},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/devices/{d}/events": {},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/devices/{d}/snapshot/{stream}.jpg": {},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/devices/{d}/snapshot/{stream}": {},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/devices/{d}/events/counts": {"query": "?from=1&step=100000000000"},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/desired": {"body": {"publish": {"arm": {"raw": False}}}},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/pilot": {"body": PLANS["acme"]},
    "/api/v1/pilots": {},
    "/api/v1/pilots/plans": {},
    "/api/v1/pilots/{tenant}/{pilot}": {"body": {}},
    "/api/v1/pilots/{owner}/{pilot}/report": {},
    "/api/v1/pilots/{owner}/{pilot}/report.html": {"query": "?lang=ko"},
    "/api/v1/pilots/{owner}/{pilot}/report.pdf": {},
    "/api/v1/pilots/{owner}/{pilot}/verdict": {},
    "/api/v1/pilots/values": {"body": {"plan": changed(("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{HERS}]"))}},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/commands": {"body": {"name": "ping"}},
    "/api/v1/nodes/{t}/{p}/{s}/{n}/commands/{id}": {"body": {}},
    "/api/v1/models": {},
    "/api/v1/models/{tenant}/{digest}": {"body": msgspec.json.encode(PACKED) + b"\n" + MANIFEST},
    "/api/v1/models/{tenant}/{digest}/files/{file:path}": {},
    "/api/v1/rollouts": {},
    "/api/v1/rollouts/{tenant}": {"body": {"model": "m@1", "slot": "other", "nodes": "*"}},
    "/api/v1/rollouts/{tenant}/promote": {"body": {"model": "m@1", "slot": "other", "nodes": "*"}},
    "/api/v1/candidates": {},
    "/api/v1/rollouts/{tenant}/{id}": {},
    "/api/v1/rollouts/{tenant}/{id}/{act}": {"body": {}},
    "/api/v1/newest": {},
    "/api/v1/usage": {},
    "/api/v1/ledger": {},
    "/api/v1/outboxes": {},
    "/api/v1/quarantine": {},
    "/api/v1/audit": {},
    "/api/v1/health": {},
    "/api/v1/stream": {"method": "HEAD"},  # its frames have a test of their own
    "/api/v1/login": {"method": "POST", "body": {"name": "kim", "password": "wrong"}},
    "/api/v1/logout": {"method": "POST", "body": {}},
    "/api/v1/me": {},
    "/api/v1/users": {
        "body": {"name": "new", "password": PASSWORD, "role": "viewer", "prefixes": [f"{HERS}"]},
    },
    "/api/v1/users/{name}/password": {"body": {"password": PASSWORD}},
    "/api/v1/users/{name}/tokens": {"body": {"label": "export"}},
    "/api/v1/users/{name}/tokens/{token}": {"body": {}},
    "/api/v1/users/{name}": {"body": {}},
}


# more ways to ask: none of them shows a node of another tenant, nor that there is one
MORE = (
    "/api/v1/fleet?limit=1", "/api/v1/fleet?limit=5&filter=cobot", f"/api/v1/fleet?limit=5&node={HERS}",
    f"/api/v1/ledger?node={HERS}", "/api/v1/ledger?pilot=acme/trial", "/api/v1/ledger?stream=arm/joints",
    "/api/v1/ledger?days=4000", f"/api/v1/outboxes?node={HERS}", "/api/v1/quarantine?limit=1",
    "/api/v1/audit?limit=1", "/api/v1/usage?to=2026-11-02",
    "/api/v1/newest?limit=1", f"/api/v1/newest?after={NONE}/a",
)  # fmt: skip


def keep_package(store: Path, tenant: str) -> None:
    push = Packages(store, 10_000).push(tenant, PACKED.digest, PACKED)
    push.write(MANIFEST)
    push.finish()
    push.close()


def keep_rollout(collector: Collector, node: str) -> None:
    """Keep a rollout of a tenant."""
    tenant = node.split("/", maxsplit=1)[0]
    identity = COMMAND if tenant == "acme" else COMMAND[:-1] + "1"
    made = Rollout(
        id=identity, tenant=tenant, slot="s", digest="0" * 64, ref="m@2", by="who", ts=1, stages=[1],
        devices={node: RolloutDevice()},
    )  # fmt: skip
    entry = AuditEntry(1, "who", "w", node, "o", "done", node)
    collector.rollouts.start(made, entry)


def try_model(collector: Collector, node: str) -> None:
    """Have a node report a second model in shadow."""
    evidence = Evidence(state="ok", n=1, b=Arm(name="m", ver="2", sha256="0" * 64))
    models = {"s": ModelState(state="ok", name="m", ver="1", evidence=evidence)}
    status = Status(
        state="online", ts=1, boot="deadbeef", sess=1, devices={"arm": DeviceState(state="ok")}, models=models
    )
    collector.fleet.on_status(node, status, collector.clock.now_ms(), retained=False)


@dataclass
class Site:
    """A collector with two tenants, and one credential of each kind."""

    collector: Collector
    get: Get
    headers: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def routes(self) -> list[Ruled]:
        served = self.collector.app.routes
        assert [each.path for each in served if not isinstance(each, Ruled)] == ["/static"]
        return [each for each in served if isinstance(each, Ruled)]

    async def ask(self, route: Route, who: str, node: str = "") -> Answer:
        sample = SAMPLES[route.path]
        path = route.path
        for name, value in zip("tpsn", node.split("/") if node else (), strict=False):
            path = path.replace(f"{{{name}}}", value)
        tokens = [
            one.id for one in self.collector.directory.accounts.read().tokens.values() if one.user == HAN
        ]
        token = tokens[0] if tokens else "none"
        path = path.replace("{tenant}", HERS.split("/", maxsplit=1)[0]).replace(
            "{file:path}", "manifest.yaml"
        )
        values = {
            "digest": PACKED.digest,
            "act": "abort",
            "d": "arm",
            "stream": "frames",
            "ep": EP,
            "name": HAN,
            "token": token,
            "id": COMMAND,
            "owner": "acme",
            "pilot": "trial-1",
        }
        for name, value in values.items():
            path = path.replace(f"{{{name}}}", value)
        path += sample.get("query", "")
        method = sample.get("method") or next(iter((route.methods or {"GET"}) - {"HEAD"}))
        body = None if method in ("GET", "HEAD") else sample["body"]
        return await self.get(path, method, body, **self.headers[who])


def users(collector: Collector) -> dict[str, dict[str, str]]:
    """Make users, and return the headers of a request with each credential."""
    accounts = collector.directory.accounts

    def session(name: str, role: str, *prefixes: str) -> dict[str, str]:
        secret = hashed(f"{PASSWORD} {name}")
        accounts.add(name, secret, Grant(role, prefixes))
        cookie = accounts.open_session(name, secret, "127.0.0.1", 3_600_000)
        return {"Cookie": f"edgebed-{collector.state.store_id()}={cookie}"}

    def token(name: str, role: str, *prefixes: str, days: int = 1) -> dict[str, str]:
        return {"Authorization": f"Bearer {accounts.add_token(name, '', Grant(role, prefixes), days)[1]}"}

    found = {
        "none": {},
        "foreign viewer": session("lee", "viewer", "hanbit/*"),
        "foreign admin": session("park", "admin", "hanbit/*"),
        "viewer": session("kim", "viewer", "acme/*"),
        "operator": session("choi", "operator", "acme/*"),
        "admin": session("root", "admin", "*"),
        "removed": session("gone", "admin", "*"),
    }
    session(HAN, "viewer", "acme/*")
    token(HAN, "viewer", "acme/*")
    found["read-only token"] = token("choi", "viewer", "acme/*")
    found["foreign token of an admin"] = token("root", "admin", "hanbit/*")
    found["expired token"] = token("root", "admin", "*", days=0)
    found["half a token"] = {"Authorization": found["read-only token"]["Authorization"][:-4]}
    found["cookie of another collector"] = {"Cookie": "edgebed-0123456789abcdef=" + "x" * 43}
    accounts.remove("gone")
    collector.directory.refresh()
    return found


STRANGERS = ("none", "removed", "expired token", "half a token", "cookie of another collector")
FOREIGN = ("foreign viewer", "foreign admin", "foreign token of an admin")
OWN = ("viewer", "operator", "admin", "read-only token")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path) as (collector, get):
        fill(collector, HERS)
        fill(collector, OTHER)
        for node in (HERS, OTHER):
            keep_package(tmp_path / "store", node.split("/")[0])
            keep_rollout(collector, node)
            collector.documents.put(node, PLANS[node.split("/")[0]], by="who", at_ms=1, what="pilot")
            try_model(collector, node)
            Audit(collector.state).add(AuditEntry(1, f"who of {node}", "w", node, "o", "done", node))
            collector.commands.request(
                CommandRecord(node, COMMAND, "_", "ping", {}, "who", 1, 86_400_000), "o"
            )
        await until_stored(collector, 64)
        yield Site(collector, get, users(collector))


def is_of_a_node(route: Ruled) -> bool:
    return "{n}" in route.path


async def leaks(site: Site, route: Ruled, who: str) -> bool:
    """Whether an answer to a foreigner shows that acme is there."""
    if "{pilot}" in route.path:  # a PDF is packed, and a verdict has no name
        return (await site.ask(route, who)).status != 404
    if not is_of_a_node(route):
        return b"acme" in (await site.ask(route, who)).body
    there, unknown = await site.ask(route, who, HERS), await site.ask(route, who, NONE)
    text = there.body.replace(HERS.encode(), NONE.encode())
    return (there.status, text) != (unknown.status, unknown.body)


def test_every_route_has_a_rule_and_a_sample(site_routes: list[Ruled]) -> None:
    assert {route.path for route in site_routes} == SAMPLES.keys(), "add a sample of the new route"
    for route in site_routes:
        assert route.rule in (PUBLIC, FILTERED, WHOLE) or is_of_a_node(route) or route.rule.action
        assert (route.rule is NODE or bool(route.rule.action)) or not is_of_a_node(route)
    assert {route.path for route in site_routes if route.rule is PUBLIC} == {"/", "/api/v1/login"}


@pytest.fixture
async def site_routes(site: Site) -> list[Ruled]:
    return site.routes


async def test_a_stranger_gets_401_everywhere(site: Site) -> None:
    for who in STRANGERS:
        for route in site.routes:
            answer = await site.ask(route, who, HERS if is_of_a_node(route) else "")
            assert b"acme/" not in answer.body, (who, route.path)
            if route.rule is not PUBLIC:
                assert answer.status == 401, (who, route.path)


async def test_a_foreigner_learns_nothing(site: Site) -> None:
    for who in FOREIGN:
        for path in MORE:
            answer = await site.get(path, **site.headers[who])
            assert answer.status == 200, path
            assert b"acme" not in answer.body, (who, path)
        for route in site.routes:  # the last one is the logout
            assert not await leaks(site, route, who), (who, route.path)


async def test_the_usage_of_a_foreign_pilot_is_like_that_of_none(site: Site) -> None:
    for who in FOREIGN:
        texts = []
        for pilot in ("acme/trial", "acme/trail"):
            answer = await site.get(f"/api/v1/usage?pilot={pilot}", **site.headers[who])
            texts.append((answer.status, answer.body.replace(pilot.encode(), b"")))
        assert texts[0] == texts[1], who
        assert texts[0][0] == 404
    for who in OWN:
        answer = await site.get("/api/v1/usage?pilot=acme/trial", **site.headers[who])
        assert [one["node"] for one in answer.json()["nodes"]] == [HERS], who


async def test_who_may_see_it_does(site: Site) -> None:
    for who in OWN:
        for route in site.routes:
            if route.path in ("/api/v1/logout", "/api/v1/login", "/") or route.rule.action:
                continue
            if route.path.endswith(".pdf"):  # its maker may be missing; test_report_pages.py has it
                continue
            answer = await site.ask(route, who, HERS if is_of_a_node(route) else "")
            assert answer.status == 200, (who, route.path, answer.body)
            if route.path.endswith(("/fleet", "/ledger", "/quarantine", "/audit", "/usage")):
                assert b"acme/" in answer.body, (who, route.path)


async def test_a_role_that_is_too_low_is_refused(site: Site) -> None:
    for route in site.routes:
        action = route.rule.action
        if action is None or route.rule is WHOLE:
            continue
        for who, role in {"viewer": 0, "operator": 1, "admin": 2, "read-only token": 0}.items():
            answer = await site.ask(route, who, HERS if is_of_a_node(route) else "")
            may = any(Grant(ROLES[role], ("*",)).allows(action, node) for node in ("", HERS))
            assert (answer.status == 403) is not may, (who, route.path, answer.body)


async def test_each_check_can_fail(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `may` switched off, every answer that depends on it leaks."""
    monkeypatch.setattr(User, "allows", lambda *_: True)
    for route in site.routes:
        # neither of these shows a node
        if route.rule is PUBLIC or route.path.endswith(("/me", "/logout", "/health", "/stream")):
            continue
        assert await leaks(site, route, "foreign viewer"), route.path
    assert "received" in (await site.get("/api/v1/health", **site.headers["foreign viewer"])).json()


async def test_each_login_check_can_fail(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access.Door, "is_open", True)
    for route in site.routes:
        if route.rule is not PUBLIC:
            answer = await site.ask(route, "none", HERS if is_of_a_node(route) else "")
            assert answer.status != 401, route.path


def normal(body: Any) -> Any:
    """An answer without times."""
    if isinstance(body, dict):
        return {key: normal(value) for key, value in body.items() if key not in ("uptime_s", "id")}
    if isinstance(body, list):
        return [normal(each) for each in body]
    return "time" if isinstance(body, int) and body > 1_600_000_000_000 else body


async def test_nothing_depends_on_what_another_tenant_has(tmp_path: Path) -> None:
    """The answers to a tenant are the same, counts included, whether or not another one has data."""
    found = []
    for nodes in ((HERS,), (HERS, OTHER)):
        folder = tmp_path / str(len(nodes))
        async with serving(folder) as (collector, get):
            for node in nodes:
                fill(collector, node)
            await until_stored(collector, 32 * len(nodes))
            site = Site(collector, get, users(collector))
            answers = {}
            for route in site.routes:
                if route.path in ("/", "/api/v1/login", "/api/v1/logout", "/api/v1/stream"):
                    continue
                answer = await site.ask(route, "viewer", HERS if is_of_a_node(route) else "")
                is_json = answer.headers["content-type"] == "application/json"
                found_there = normal(answer.json()) if is_json else answer.body
                if route.path.endswith("/series"):  # its buckets depend on the time of asking
                    found_there = (found_there["source"], sum(found_there["n"]), found_there["gaps"])
                if route.path.endswith("/messages"):  # their checksums depend on their times
                    found_there = answer.body.count(b"\n")
                answers[route.path] = found_there
            for path in MORE:
                answers[path] = normal((await get(path, **site.headers["viewer"])).json())
            found.append(answers)
    assert found[0] == found[1]


async def frames(collector: Collector, path: str, headers: dict[str, str]) -> AsyncIterator[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", collector.socket.getsockname()[1])
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
    try:
        while part := await reader.read(65536):
            yield part
    finally:
        writer.close()


@pytest.mark.parametrize("query", ["", "?limit=5", f"?node={HERS}&device=arm", f"?node={OTHER}&limit=1"])
@pytest.mark.parametrize("is_checked", [True, False])
async def test_no_frame_of_another_tenant(
    site: Site, monkeypatch: pytest.MonkeyPatch, query: str, is_checked: bool
) -> None:
    if not is_checked:
        monkeypatch.setattr(User, "allows", lambda *_: True)
    collector = site.collector
    collector.problems.report(problem_of(HERS), f"tb1/{HERS}")
    text = b""
    async with (
        asyncio.timeout(60),
        aclosing(frames(collector, f"/api/v1/stream{query}", site.headers["foreign viewer"])) as stream,
    ):
        async for part in stream:
            text += part
            if b"event: hello" in text and b"sent" not in text:
                fill(collector, HERS)
                fill(collector, OTHER)
                text += b"sent"
            # the fleet comes once a second, after everything that was sent before
            if b"event: fleet" in text.partition(b"sent")[2] and (is_checked or b"acme" in text):
                break
    assert b"hanbit" in text, "its own frames arrive"
    assert (b"acme" in text) is not is_checked


def problem_of(node: str) -> Any:
    from wire.reasons import because

    return because(f"{node}: too much", "messages-refused", sender=node)


async def test_a_stream_ends_with_the_right_to_it(site: Site) -> None:
    collector = site.collector
    async with (
        asyncio.timeout(60),
        aclosing(frames(collector, "/api/v1/stream", site.headers["viewer"])) as stream,
    ):
        async for part in stream:
            if b"event: hello" in part:
                await asyncio.to_thread(collector.directory.accounts.remove, "kim")
                collector.directory.refresh()
        # it has ended
    assert collector.hub.viewers == 0
    assert (await site.get("/api/v1/me", **site.headers["viewer"])).status == 401
