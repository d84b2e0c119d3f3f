"""Model packages over the HTTP of a real collector: pushed by the command, read in ranges, within rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from collector.app import Collector
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.rollout.packages import FOLDER
from collector.state.audit import Audit
from edgebed.commands.model import command
from tests.unit.collector.web.serving import Answer, Get, serving
from wire.model_package import Listing, PackedFile

PACKAGE = Path(__file__).parents[4] / "models" / "joint-anomaly"
MANIFEST = b"name: m\nversion: '1'\n"
LISTING = Listing({"manifest.yaml": PackedFile(sha256(MANIFEST).hexdigest(), len(MANIFEST))})
BODY = msgspec.json.encode(LISTING) + b"\n" + MANIFEST
PATH = f"/api/v1/models/acme/{LISTING.digest}"


@dataclass
class Place:
    """A collector with users of two companies."""

    collector: Collector
    get: Get
    folder: Path
    tokens: dict[str, str]

    async def ask(self, who: str, path: str, method: str = "GET", body: bytes | None = None) -> Answer:
        return await self.get(path, method, body, Authorization=f"Bearer {self.tokens[who]}")

    async def command(self, *words: str, who: str = "operator") -> Result:
        (self.folder / "token").write_text(self.tokens[who])
        args = [*words, "--url", self.collector.url, "--token-file", str(self.folder / "token")]
        return await asyncio.to_thread(CliRunner().invoke, command, args)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with serving(tmp_path) as (collector, get):
        accounts, tokens = collector.directory.accounts, {}
        for name, grant in (
            ("operator", Grant("operator", ("acme/*",))),
            ("of-a-pilot", Grant("operator", ("acme/trial/*",))),
            ("viewer", Grant("viewer", ("acme/*",))),
            ("foreign", Grant("admin", ("hanbit/*",))),
        ):
            accounts.add(name, hashed("a password of kim"), grant)
            tokens[name] = accounts.add_token(name, "", grant, 1)[1]
        collector.directory.refresh()
        yield Place(collector, get, tmp_path, tokens)


async def test_a_package_is_pushed_listed_and_removed(place: Place) -> None:
    done = await place.command("push", str(PACKAGE), "--tenant", "acme")
    assert done.exit_code == 0, done.output
    digest = done.output.strip().rpartition(":")[2]
    shown = (await place.ask("viewer", f"/api/v1/models/acme/{digest}")).json()
    assert (shown["name"], shown["tenant"]) == ("joint-anomaly", "acme")
    for name, file in shown["listing"]["files"].items():
        answer = await place.ask("viewer", f"/api/v1/models/acme/{digest}/files/{name}")
        assert answer.body == (PACKAGE / name).read_bytes()
        assert sha256(answer.body).hexdigest() == file["sha256"]
    assert digest in (await place.command("pushed", "--tenant", "acme", who="viewer")).output
    assert (await place.command("pushed", "--tenant", "hanbit", who="foreign")).output == ""
    gone = await place.command("pushed", "--tenant", "acme", "--remove", f"sha256:{digest}")
    assert gone.exit_code == 0, gone.output
    assert (await place.ask("viewer", "/api/v1/models")).json() == {"models": []}
    acts = {(one.who, one.what, one.result) for one in Audit(place.collector.state).newest(10)}
    assert {("operator", "model pushed", "done"), ("operator", "model removed", "done")} <= acts


async def test_a_range_of_a_file_is_read(place: Place) -> None:
    assert (await place.ask("of-a-pilot", PATH, "PUT", BODY)).status == 201
    path, token = f"{PATH}/files/manifest.yaml", f"Bearer {place.tokens['viewer']}"
    answer = await place.get(path, Authorization=token, Range="bytes=5-")
    assert (answer.status, answer.body) == (206, MANIFEST[5:])
    assert (await place.get(path, Authorization=token, Range="bytes=900-")).status == 416


async def test_who_may_not_is_refused(place: Place) -> None:
    for who, status in (("viewer", 403), ("foreign", 404)):
        answer = await place.ask(who, PATH, "PUT", BODY)
        assert (answer.status, b"error" in answer.body) == (status, True)
    assert (await place.ask("operator", PATH, "PUT", BODY)).status == 201
    for path in (PATH, f"{PATH}/files/manifest.yaml"):
        there = await place.ask("foreign", path)
        unknown = await place.ask("foreign", path.replace(LISTING.digest, "0" * 64))
        assert (there.status, there.body) == (404, unknown.body)
    assert (await place.ask("foreign", PATH, "DELETE", b"")).status == 404
    assert (await place.ask("viewer", PATH, "DELETE", b"")).status == 403


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "does not begin with a line"),
        (b"x" * 2_000_000, "does not begin with a line"),
        (b"{}\n", "cannot be read"),
        (BODY[:-1], "ended within"),
        (BODY + b"x", "goes on after"),
        (BODY[:-3] + b"xyz", "is not the file"),
        (BODY.replace(b"manifest.yaml", b"../../../../x"), "is not a path inside"),
    ],
)
async def test_another_body_is_refused_and_leaves_nothing(place: Place, body: bytes, why: str) -> None:
    answer = await place.ask("operator", PATH, "PUT", body)
    assert (answer.status, why in answer.body.decode()) == (400, True), answer.body
    assert not [path for path in (place.folder / "store" / FOLDER).glob("*") if any(path.rglob("*"))]
    (act,) = [one for one in Audit(place.collector.state).newest(10) if one.what == "model pushed"]
    assert act.result.startswith("refused: ")


async def test_another_digest_is_refused(place: Place) -> None:
    answer = await place.ask("operator", f"/api/v1/models/acme/{'0' * 64}", "PUT", BODY)
    assert (answer.status, b"have the digest" in answer.body) == (400, True)
    for wrong in ("acme/x", f"acme/{'A' * 64}", f"ACME/{LISTING.digest}"):
        assert (await place.ask("operator", f"/api/v1/models/{wrong}", "PUT", BODY)).status == 404


async def test_a_tenant_has_a_quota(tmp_path: Path) -> None:
    async with serving(tmp_path, {"models_mb": 0}) as (_, get):
        answer = await get(PATH, "PUT", BODY)
        assert (answer.status, b"models_mb" in answer.body) == (413, True)
