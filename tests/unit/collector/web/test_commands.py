"""Requests for commands, over real HTTP, without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.app import Collector
from collector.mqtt.received import Received
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.state.commands import MAX_OPEN, CommandRecord
from tests.unit.collector.web.serving import BASE, EP, NODE, Answer, Get, fill, serving, until_stored
from wire.codec import encode
from wire.messages import AgentInfo, Birth, Command
from wire.ulid import is_ulid

PATH = f"{BASE}/commands"
ID = "01JD3X5Y6Z7A8B9C0D1E2F3G4H"


@pytest.fixture
def declared(site: tuple[Collector, Get]) -> tuple[Collector, Get]:
    """A node whose birth declares two commands."""
    commands = [Command(name="ping"), Command(name="snapshot", device="*")]
    agent = AgentInfo(ver="0.1.0")
    birth = Birth(ts=5, boot="deadbeef", sess=2, ep=EP, agent=agent, cmds=commands)
    topic = f"tb1/{NODE}/birth"
    site[0].ingest.receive(Received(topic, encode(birth), site[0].clock.now_ms(), False, None))
    return site


async def ask(
    site: tuple[Collector, Get], method: str, path: str = PATH, body: Any = None, **who: str
) -> Answer:
    origin = f"http://127.0.0.1:{site[0].socket.getsockname()[1]}"
    return await site[1](path, method, body, Origin=origin, **who)


async def audit(site: tuple[Collector, Get]) -> list[tuple[str, str, str]]:
    entries = (await site[1]("/api/v1/audit")).json()["entries"]
    return [(each["what"], each["subject"], each["result"]) for each in entries]


async def test_a_request_is_kept_listed_and_withdrawn(declared: tuple[Collector, Get]) -> None:
    get = declared[1]
    assert (await get(PATH)).json() == {"node": NODE, "commands": [], "next": None}
    body = {"name": "snapshot", "device": "arm", "args": {"stream": "frames"}, "ttl_ms": 86_400_000, "id": ID}
    answer = await ask(declared, "POST", body=body)
    made = answer.json()
    assert answer.status == 201
    assert {name: made[name] for name in body} == body
    assert (made["state"], made["by"], made["node"], made["is_sent"]) == ("queued", "local", NODE, False)
    again = await ask(declared, "POST", body=body)
    assert (again.status, again.json()) == (200, made)
    other = await ask(declared, "POST", body={**body, "device": "_"})
    assert other.status == 409
    assert "id of another command" in other.json()["error"]
    assert (await get(f"{PATH}/{ID}")).json() == made
    second = (await ask(declared, "POST", body={"name": "ping"})).json()
    assert is_ulid(second["id"])
    first_page = (await get(f"{PATH}?limit=1")).json()
    assert [each["id"] for each in first_page["commands"]] == [second["id"]]
    assert (await get(f"{PATH}?limit=1&before={first_page['next']}")).json()["commands"] == [made]
    withdrawn = await ask(declared, "DELETE", f"{PATH}/{ID}")
    assert (withdrawn.status, withdrawn.json()["state"]) == (200, "withdrawn")
    subject = f"{NODE} snapshot {ID}".replace("snapshot", "arm/snapshot")
    assert await audit(declared) == [
        ("command withdrawn", subject, "done"),
        ("command", f"{NODE} _/ping {second['id']}", "queued"),
        ("command", f"{NODE} _/snapshot {ID}", f"refused: {other.json()['error']}"),
        ("command", subject, "queued"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"name": "fly"}, 400, "command fly is unknown; there are ping, snapshot"),
        ({"name": "pong"}, 400, "did you mean ping?"),
        ({"name": "../desired"}, 400, "is not the name of a command"),
        ({}, 400, "missing required field `name`"),
        ({"name": "ping", "args": []}, 400, "Expected `object`"),
        ({"name": "ping", "args": None}, 400, "Expected `object`"),
        ({"name": "ping", "args": {"a": "x" * 8_000}}, 413, "args have more than 8000 bytes"),
        ({"name": "ping", "args": {"a": "x" * 66_000}}, 413, "the body has more than"),
        (b'{"name":"ping","args":' + b'{"a":' * 70 + b"1" + b"}" * 71, 400, "args nest too deep"),
        (b'{"name":"ping","args":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001, 400, "the body is wrong"),
        ({"name": "ping", "ttl_ms": 0}, 400, "ttl_ms is not from 1 to 86400000, a day"),
        ({"name": "ping", "ttl_ms": -5}, 400, "ttl_ms is not from 1"),
        ({"name": "ping", "ttl_ms": 10**17}, 400, "ttl_ms is not from 1 to"),
        (b'{"name":"ping","ttl_ms":' + b"9" * 5_000 + b"}", 400, "wrong"),
        ({"name": "ping", "ttl_ms": 1.5}, 400, "Expected `int`"),
        ({"name": "ping", "id": "x"}, 400, "id 'x' is not a ULID"),
        ({"name": "ping", "id": ID + "\n"}, 400, "is not a ULID"),
        ({"name": "ping", "id": ID.lower()}, 400, "is not a ULID"),
        ({"name": "ping", "device": "+"}, 400, "device '+' is not a device"),
        ({"name": "ping", "device": "arm"}, 400, "ping is a command of the node itself: leave out device"),
        ({"name": "ping", "by": "root"}, 400, "unknown field"),
    ],
)
async def test_a_wrong_request_is_named_and_nothing_is_kept(
    declared: tuple[Collector, Get], body: Any, status: int, sentence: str
) -> None:
    answer = await ask(declared, "POST", body=body)
    assert (answer.status, sentence in answer.json()["error"]) == (status, True), answer.body
    assert (await declared[1](PATH)).json()["commands"] == []
    assert [(what, result.split(":")[0]) for what, _, result in await audit(declared)] == [
        ("command", "refused")
    ]


async def test_what_is_not_there(declared: tuple[Collector, Get]) -> None:
    absent = "/api/v1/nodes/acme/trial/hall/cobot-99/commands"
    for method, path in (("GET", absent), ("GET", f"{absent}/{ID}"), ("DELETE", f"{absent}/{ID}")):
        answer = await ask(declared, method, path)
        assert (answer.status, "cobot-01" in answer.json()["error"]) == (404, True)
    assert (await ask(declared, "POST", absent, {"name": "ping"})).status == 404
    for method in ("GET", "DELETE"):
        answer = await ask(declared, method, f"{PATH}/{ID}")
        assert answer.json() == {"error": f"the node has no command '{ID}'"}
    assert (await declared[1](f"{PATH}?limit=0")).status == 400
    assert (await declared[1](f"{PATH}?before=x")).status == 400


async def test_a_node_has_a_few_open_commands(declared: tuple[Collector, Get]) -> None:
    for _ in range(MAX_OPEN):
        assert (await ask(declared, "POST", body={"name": "ping"})).status == 201
    answer = await ask(declared, "POST", body={"name": "ping"})
    assert answer.status == 429
    assert f"{MAX_OPEN} commands that have not ended" in answer.json()["error"]


async def test_a_viewer_reads_and_is_refused_once_a_minute_in_the_audit(
    declared: tuple[Collector, Get],
) -> None:
    collector, get = declared
    accounts = collector.directory.accounts
    who = {}
    for name, role in (("kim", "viewer"), ("choi", "operator")):
        secret = hashed(f"some-words-of-{name}")
        accounts.add(name, secret, Grant(role, ("acme/*",)))
        who[name] = {
            "Authorization": f"Bearer {accounts.add_token(name, '', Grant(role, ('acme/*',)), 1)[1]}"
        }
    collector.directory.refresh()
    made = (await get(PATH, "POST", {"name": "ping"}, **who["choi"])).json()
    assert (await get(PATH, **who["kim"])).json()["commands"] == [made]
    for _ in range(3):
        refused = await get(PATH, "POST", {"name": "ping"}, **who["kim"])
        assert (refused.status, "a higher role may" in refused.json()["error"]) == (403, True)
    assert (await get(f"{PATH}/{made['id']}", "DELETE", **who["kim"])).status == 403
    entries = (await get("/api/v1/audit", **who["choi"])).json()["entries"]
    assert [(each["who"], each["what"]) for each in entries] == [
        ("kim", "command withdrawn"),
        ("kim", "command"),
        ("choi", "command"),
    ]


async def test_without_a_birth_the_node_itself_judges_the_name(site: tuple[Collector, Get]) -> None:
    assert (await ask(site, "POST", body={"name": "fly"})).status == 400
    site[0].fleet.reset(NODE)
    assert (await ask(site, "POST", body={"name": "fly"})).status == 201


async def test_commands_outlive_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        fill(site[0])
        await until_stored(site[0], 32)
        wanted = CommandRecord(NODE, ID, "_", "ping", {}, "kim", site[0].clock.now_ms(), 86_400_000)
        made, _ = site[0].commands.request(wanted, "127.0.0.1")
    async with serving(tmp_path) as site:
        assert (await site[1](PATH)).json()["commands"][0]["id"] == made.id
        assert await audit(site) == [("command", f"{NODE} _/ping {ID}", "queued")]
