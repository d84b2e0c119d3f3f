"""The audit has who was refused a change, and why."""

from __future__ import annotations

from collector.app import Collector
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from tests.unit.collector.conftest import NODE
from tests.unit.collector.web.serving import Get

PASSWORD = " ".join(["correct", "horse", "battery"])
DESIRED = f"/api/v1/nodes/{NODE}/desired"


async def refused(get: Get, path: str, method: str, body: object, secret: str) -> tuple[int, str]:
    answer = await get(path, method, body, Authorization=f"Bearer {secret}")
    return answer.status, str(answer.json()["error"])


async def test_each_refused_change_is_in_the_audit_once_a_minute(site: tuple[Collector, Get]) -> None:
    collector, get = site
    accounts, secrets = collector.directory.accounts, {}
    for name, role, prefix in (
        ("root", "admin", "*"), ("ana", "admin", "acme/*"), ("kim", "viewer", "acme/*"),
        ("dan", "admin", "acme2/*"),
    ):  # fmt: skip
        accounts.add(name, hashed(PASSWORD), Grant(role, (prefix,)))
        secrets[name] = accounts.add_token(name, "", Grant(role, (prefix,)), 1)[1]
    collector.directory.refresh()
    new = {"name": "eve", "password": PASSWORD, "role": "admin", "prefixes": ["*"]}
    document = {"publish": {"arm": {"live_hz": 1}}}
    for _ in range(3):
        for name, path, method, body, status in (
            ("kim", DESIRED, "PUT", document, 403),
            ("kim", DESIRED, "DELETE", {}, 403),
            ("kim", "/api/v1/users", "POST", new, 403),
            ("ana", "/api/v1/users", "POST", new, 403),
            ("ana", DESIRED, "PUT", {"broker": {}}, 400),
            ("dan", DESIRED, "PUT", document, 404),
            ("dan", f"/api/v1/nodes/{NODE}/commands", "POST", {"name": "ping"}, 404),
        ):
            answer = await refused(get, path, method, body, secrets[name])
            assert answer[0] == status, answer
    shown = await get("/api/v1/audit", Authorization=f"Bearer {secrets['ana']}")
    found = [(one["who"], one["what"], one["scope"], one["result"]) for one in shown.json()["entries"]]
    higher = f"refused: kim may see {NODE}, but not configure it: a higher role may"
    own = "refused: ana manages users of acme/* alone: ask for prefixes inside it"
    assert found[::-1] == [
        ("kim", "desired configuration", NODE, higher),
        ("kim", "desired configuration withdrawn", NODE, higher),
        ("kim", "user add", "acme/*", "refused: kim may not manage users: an administrator may"),
        ("ana", "user add", "acme/*", own),
        ("ana", "desired configuration", NODE, found[0][3]),
    ]
    assert "unknown field" in found[0][3]
    foreign = await get("/api/v1/audit", Authorization=f"Bearer {secrets['dan']}")
    assert foreign.json()["entries"] == [], "a tenant sees none of it, and leaves none at another one"
