"""`edgebed node --url`: an administrator on another machine gives tokens, lists and removes."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgebed.cli import command
from edgebed.site.admins import FOLDER, give, listed
from edgebed.site.enrolment import enrol
from edgebed.site.layout import Layout
from edgebed.site.nodes import issued
from edgebed.site.remote_nodes import RemoteNodes
from edgebed.site.rotation import finish, start
from edgebed.site.site_audit import newest
from edgebed.site.token import parse, parse_admin
from edgebed.site.token_store import waiting
from tests.integration.test_enrolment import later, post, serving
from tests.polling import wait_until
from tests.site_broker import Client, edgebed, new_site, node_credential, now, running
from wire.errors import ConfigError, EdgebedError
from wire.topics import Address

NODE, OTHER = Address("acme", "trial", "hall", "n1"), Address("hanbit", "trial", "hall", "n1")


@pytest.fixture
def site(tmp_path: Path) -> Layout:
    return new_site(tmp_path / "site")


def token_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "admin.token"
    path.unlink(missing_ok=True)
    path.write_text(text + "\n")
    path.chmod(mode)
    return path


def admin(layout: Layout, *prefixes: str, name: str = "kim") -> str:
    return give(layout, name, list(prefixes) or ["acme/*"], now(), 30).text


def remote(url: str, tmp_path: Path, text: str) -> RemoteNodes:
    return RemoteNodes(url, token_file(tmp_path, text), now())


def test_a_node_from_the_token_to_its_end_on_another_machine(site: Layout, tmp_path: Path) -> None:
    folder = str(site.folder)
    made = edgebed("site", "admin-token", folder, "kim", "--prefix", "acme/*")
    word = made.text.splitlines()[0]
    assert parse_admin(word).name == "kim"
    assert "for kim, nodes of acme/*, until" in made.text
    assert edgebed("site", "admin-token", folder).text.startswith("kim  acme/*  until ")
    file, out = str(token_file(tmp_path, word)), tmp_path / "device"
    node_credential(site, OTHER)
    with running(site), serving(site) as url:
        where = ("--url", url, "--token-file", file)
        added = edgebed("node", "add", str(NODE), *where)
        assert added.code == 0, added.text
        enrol(url, added.text.splitlines()[0], out, now())
        again = edgebed("node", "add", str(NODE), *where)
        assert (again.code, "has a certificate until" in again.text) == (1, True)
        renewed = edgebed("node", "add", str(NODE), "--renew", "--hours", "2", *where).text.splitlines()[0]
        assert now() < parse(renewed).ends <= now() + timedelta(hours=2)
        listing = edgebed("node", "ls", *where).text
        assert listing.count(str(NODE)) == 2
        assert str(OTHER) not in listing, "only its own nodes are listed"
        with Client(site, (out / "node.pem", out / "node.key"), "x") as client:
            assert edgebed("node", "remove", str(NODE), *where).text == f"{NODE}: removed\n"
            wait_until(client.ended.is_set, "its connection is ended")
        assert issued(site, NODE) == []
        assert waiting(site, now()) == {}
    acts = [(one.who, one.what, one.subject, one.origin) for one in newest(site.folder, 99)]
    for what in ("token", "removal"):
        assert ("administrator kim", what, str(NODE), "127.0.0.1") in acts
    text = "".join(str(one) for one in acts)
    assert word not in text
    assert any(one[1:3] == ("administrator token", "kim acme/*") for one in acts)
    stored = b"".join(path.read_bytes() for path in site.path(FOLDER).iterdir())
    assert parse_admin(word).secret.hex().encode() not in stored


def test_an_administrator_manages_its_own_prefixes_alone(site: Layout, tmp_path: Path) -> None:
    node_credential(site, OTHER)
    with serving(site) as url:
        kim = remote(url, tmp_path, admin(site))
        for node in (str(OTHER), "acme2/trial/hall/n1"):
            with pytest.raises(EdgebedError, match=rf"kim manages nodes of acme/\* alone, not {node}"):
                kim.add(node, 1, renew=True)
            with pytest.raises(EdgebedError, match=rf"kim manages nodes of acme/\* alone, not {node}"):
                kim.remove(node)
        with pytest.raises(EdgebedError, match="hanbit/trial/hall/n2 has no certificate") as error:
            remote(url, tmp_path, admin(site, "hanbit/*", "acme/*", name="all")).remove(
                "hanbit/trial/hall/n2"
            )
        assert f"did you mean '{OTHER}'" in str(error.value)
        near = remote(url, tmp_path, admin(site, "hanbi/*", name="near"))
        with pytest.raises(EdgebedError, match=r"has no certificate of this site$"):
            near.remove("hanbi/trial/hall/n1")  # a node of another tenant is not suggested
        for wrong in ("acme", "acme/trial/hall/n1/x", "../../etc/passwd", "acme/+/hall/n1"):
            with pytest.raises(EdgebedError):
                kim.add(wrong, 1, renew=False)
        assert kim.all() == []
    assert len(issued(site, OTHER)) == 1
    assert waiting(site, now()) == {}
    assert {one.who for one in newest(site.folder, 99) if "refused" in one.result} >= {"administrator kim"}


def test_a_credential_that_is_wrong_changes_nothing(site: Layout, tmp_path: Path) -> None:
    word, out = admin(site), tmp_path / "away"
    ended = give(site, "old", ["*"], now() - timedelta(days=3), 1).text
    gone, replaced = admin(site, name="gone"), admin(site, name="twice")
    admin(site, name="twice")
    assert edgebed("site", "admin-token", str(site.folder), "gone", "--remove").code == 0
    foreign = admin(new_site(tmp_path / "other"))
    for text, why in (
        (word[:-2], "the token is cut off or changed: copy the whole line of `edgebed site admin-token`"),
        (word[:30] + ("A" if word[30] != "A" else "B") + word[31:], "the token is cut off or changed"),
        ("hunter2", "this is not a token of `edgebed site admin-token`"),
        (ended, "ended on .* and the clock of this machine shows .*: ask for a new token, or set the clock"),
    ):
        with pytest.raises((EdgebedError, ConfigError), match=why):
            remote("https://127.0.0.1:9", tmp_path, text)
    with pytest.raises(EdgebedError, match="ended on"):  # a clock that is ahead by a year
        RemoteNodes("https://127.0.0.1:9", token_file(tmp_path, word), now() + timedelta(days=365))
    with pytest.raises(ConfigError, match="chmod 600"):
        RemoteNodes("https://127.0.0.1:9", token_file(tmp_path, word, 0o644), now())
    with serving(site) as url:
        for text, why in (
            (gone, "does not know the token of the administrator, or it was taken back"),
            (replaced, "does not know the token of the administrator, or it was taken back"),
            (foreign, "has another root than the token"),
        ):
            with pytest.raises(EdgebedError, match=why):
                remote(url, tmp_path, text).add(str(NODE), 1, renew=False)
        for path in ("add", "list", "remove"):
            status, answer = post(url, f"/api/v1/nodes/{path}", json.dumps({"node": str(NODE)}).encode())
            assert (status, "needs the token of an administrator" in answer) == (403, True)
        for body in ('{"node": 1}', '{"node": "acme/trial/hall/n1", "hours": 1e9}', '{"x": 1}', ""):
            assert _post(url, word, body) == 400
        (path,) = (one for one in site.path(FOLDER).iterdir() if b'"kim"' in one.read_bytes())
        path.chmod(0o622)
        with pytest.raises(EdgebedError, match="other users may change"):
            remote(url, tmp_path, word).all()
        path.chmod(0o600)
        path.write_text("{}")
        with pytest.raises(EdgebedError, match="is damaged: make a new token"):
            remote(url, tmp_path, word).all()
    with serving(site, later(366)) as url, pytest.raises(EdgebedError, match="the token of twice ended on"):
        remote(url, tmp_path, admin(site, name="twice")).all()  # the clock of the service decides too
    assert waiting(site, now()) == {}
    assert not out.exists()


def _post(url: str, word: str, body: str) -> int:
    import http.client
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(url.removeprefix("https://"), timeout=60, context=context)
    headers = {"Authorization": f"Bearer {parse_admin(word).secret.hex()}"}
    try:
        connection.request("POST", "/api/v1/nodes/add", body.encode(), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_token_of_an_administrator_and_a_rotation(site: Layout, tmp_path: Path) -> None:
    def quiet(_: object) -> str:
        return ""

    before = admin(site)
    with serving(site) as url:
        start(site, now(), quiet, quiet)
        remote(url, tmp_path, before).all()
        remote(url, tmp_path, admin(site, name="lee")).all()
        finish(site, now(), quiet, quiet)
        with pytest.raises(EdgebedError, match="or has rotated its root since"):
            remote(url, tmp_path, before).all()
        remote(url, tmp_path, admin(site)).all()
    assert [one.name for one in listed(site)] == ["kim", "lee"]


@pytest.mark.parametrize(
    "words",
    [
        ["node", "ls"], ["node", "ls", "--url", "https://a"], ["node", "ls", "--site", ".", "--url", "https://a"],
        ["site", "admin-token", "SITE", "kim"], ["site", "admin-token", "SITE", "kim", "--prefix", "a/**"],
        ["site", "admin-token", "SITE", "Kim!", "--prefix", "acme/*"],
        ["site", "admin-token", "SITE", "nobody", "--remove"],
    ],
)  # fmt: skip
def test_wrong_options_change_nothing(site: Layout, words: list[str]) -> None:
    done = CliRunner().invoke(command, [str(site.folder) if word == "SITE" else word for word in words])
    assert isinstance(done.exception, EdgebedError) or done.exit_code == 2, done.output
    assert not list(site.path(FOLDER).glob("*"))
