"""The rotation of a site's authorities with real mosquitto: two at a time, the end of the old one, kills."""

from __future__ import annotations

import json
import shutil
import ssl
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edgebed.processes import Child, edgebed_command
from edgebed.site.authorities import roots, serving_root, signing
from edgebed.site.certificates import is_signed_by, pem, read_certificates
from edgebed.site.enrolment import enrol, renew
from edgebed.site.layout import NEXT, OLD, Layout
from edgebed.site.nodes import issued
from edgebed.site.rotation import finish, left_nodes, start
from edgebed.site.settings import load
from edgebed.site.token_store import give
from tests.integration.test_enrolment import serving
from tests.integration.test_site_broker import ask
from tests.polling import wait_until
from tests.site_broker import Client, edgebed, new_site, node_credential, now, running
from wire.errors import ConfigError, EdgebedError, TryAgain
from wire.topics import Address

NODES = [Address("acme", "trial", "hall", f"n{at}") for at in range(1, 7)]


@pytest.fixture
def site(tmp_path: Path) -> Layout:
    return new_site(tmp_path / "site", viewers=["acme/trial"])


def credential(folder: Path, name: str = "node") -> tuple[Path, Path]:
    return folder / f"{name}.pem", folder / f"{name}.key"


def chain_of(folder: Path) -> list[x509.Certificate]:
    return read_certificates((folder / "node.pem").read_bytes(), folder)


def is_accepted(site: Layout, shown: tuple[Path, Path], port: int = 0) -> bool:
    """Whether the broker takes a client; a client of its own, as a device it may not trust the broker."""
    try:
        client = Client(site, shown, "probe", port=port)
    except (ssl.SSLError, OSError):
        return False
    try:
        return client.is_accepted()
    finally:
        client.close()


def test_two_authorities_at_a_time_then_one(site: Layout, tmp_path: Path) -> None:
    folder, first, second, third = str(site.folder), *(tmp_path / f"n{at}" for at in (1, 2, 3))
    collectors, port = site.path("collectors/collector-1"), site.site.collector_port
    before, during, after = (node.text for node in NODES[3:6])
    words = {before: give(site, NODES[3], now(), 1).text}
    late, gone = node_credential(site, NODES[1]), node_credential(site, NODES[2])
    old_root = roots(site)[0]
    old_collector = tmp_path / "collector"
    shutil.copytree(collectors, old_collector)
    with running(site), serving(site) as url:
        enrol(url, give(site, NODES[0], now(), 1).text, first, now())
        with (
            Client(site, credential(first)) as open_one,
            Client(site, late) as late_one,
            Client(site, credential(old_collector, "collector"), "c", port=port) as reader,
        ):
            reader.subscribe("tb1/#")
            done = edgebed("site", "rotate-ca", folder)
            assert done.code == 0, done.text
            assert roots(site)[1:] == [old_root]
            assert serving_root(site) == old_root
            assert "renewed until" in renew(first, now()), "it is not due, but the site has another root"
            assert is_signed_by(chain_of(first)[0], signing(site, "nodes").certificate)
            assert read_certificates((first / "ca.pem").read_bytes(), first) == roots(site)
            assert "nothing to do yet" in renew(first, now())
            with (
                Client(site, credential(first), "x"),
                Client(site, credential(site.path("viewers/viewer_acme_trial"), "viewer")) as viewer,
                Client(site, credential(collectors, "collector"), "d", port=port) as new_reader,
            ):
                viewer.subscribe("tb1/acme/trial/#")
                new_reader.subscribe("tb1/#")
                assert late_one.publish(NODES[1].topic("data", "_", "x"), b"of the old") in (0, 16)
                for one in (viewer, new_reader, reader):
                    one.wait_for(NODES[1].topic("data", "_", "x"), b"of the old")
            assert not late_one.ended.is_set(), "no connection is lost by the rotation"
            assert not reader.ended.is_set()
            wait_until(open_one.ended.is_set, "its client id was taken by its own new connection")
            # tokens of before and of now, and a revocation of each authority
            words[during] = give(site, NODES[4], now(), 1).text
            for node in (before, during):
                out = tmp_path / node.replace("/", "-")
                enrol(url, words[node], out, now())
                assert is_signed_by(chain_of(out)[0], signing(site, "nodes").certificate)
                assert is_accepted(site, credential(out))
                shutil.copytree(out, tmp_path / f"{out.name}-copy")
            assert is_accepted(site, gone)
            for node in (NODES[2].text, during):
                assert edgebed("node", "remove", node, "--site", folder).code == 0
            assert not is_accepted(site, gone), "revoked by the list of the old authority"
            assert not is_accepted(site, credential(tmp_path / during.replace("/", "-"))), "and of the new"
            # it does not end while a node is left
            assert left_nodes(site, now()) == [NODES[1].text]
            shown = edgebed("site", "show", folder)
            assert shown.code == 3
            assert f"1 node of 3 still on the old one: {NODES[1]}" in shown.text
            refused = edgebed("site", "rotate-ca", folder, "--finish")
            assert (refused.code, f"1 node would lose the site: {NODES[1]};" in refused.text) == (1, True)
            unused = give(site, NODES[5], now(), 1).text
            done = edgebed("site", "rotate-ca", folder, "--finish", "--force")
            assert done.code == 0, done.text
            wait_until(late_one.ended.is_set, "the node that was left is ended")
        assert roots(site) == [serving_root(site)]
        assert old_root not in roots(site)
        assert not is_accepted(site, late), "the old authority is refused"
        assert not is_accepted(site, credential(old_collector, "collector"), port)
        assert is_accepted(site, credential(first))
        assert is_accepted(site, credential(collectors, "collector"), port)
        # a device that was off all the time, a token of before and one of now
        with pytest.raises(EdgebedError, match="if the site has got another root while this device was off"):
            renew_of_old(url, late, old_root, third)
        with pytest.raises(EdgebedError, match="or has rotated its root since"):
            enrol(url, unused, third, now())
        assert not [
            line for line in edgebed("node", "ls", "--site", folder).text.splitlines() if "token" in line
        ]
        words[after] = give(site, NODES[5], now(), 1).text
        enrol(url, words[after], second, now())
        assert is_accepted(site, credential(second))
        assert "renewed until" in renew(first, now()), "it gets the file without the old root"
        assert read_certificates((first / "ca.pem").read_bytes(), first) == roots(site)
    assert not site.path(OLD).exists()
    shown = edgebed("site", "show", folder)
    assert (shown.code, "nothing to do" in shown.text) == (0, True), shown.text
    acts = [json.loads(line) for line in edgebed("site", "audit", folder, "--json").text.splitlines()]
    found = {(one["what"], one["subject"], one["result"]) for one in acts}
    assert {
        ("rotation", "*", "done"), ("rotation finished", "*", "done"), ("enrolment", before, "done"),
        ("renewal", NODES[0].text, "done"), ("removal", during, "done"),
    } <= found  # fmt: skip
    assert any(one["what"] == "rotation finished" and "would lose the site" in one["result"] for one in acts)


def renew_of_old(url: str, shown: tuple[Path, Path], root: x509.Certificate, folder: Path) -> None:
    """Renew as a device that has only the old root."""
    folder.mkdir()
    for path in shown:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "ca.pem").write_bytes(pem(root))
    (folder / "enrolment.json").write_text(json.dumps({"url": url}))
    try:
        renew(folder, now())
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_an_agent_and_a_collector_go_through_a_rotation(site: Layout, tmp_path: Path) -> None:
    """They run all the time; after the end the broker is restarted, so both connect with what is new."""
    out, node, folder = tmp_path / "device", NODES[0], str(site.folder)
    config = site.path("collectors/collector-1/collector.yaml")
    words = edgebed_command("collector", "run", str(config), "--port", "0")
    collector = Child("collector", words, tmp_path / "collector.log")
    with serving(site) as url, ExitStack() as first, collector:
        first.enter_context(running(site))
        enrol(url, give(site, node, now(), 1).text, out, now())
        (out / "rows.csv").write_text("x\n" + "".join(f"{at}\n" for at in range(100_000)))
        options = "{file: rows.csv, rate_hz: 50, fields: {x: x}}"
        (out / "agent.yaml").write_text(
            f"{(out / 'broker.yaml').read_text()}node: {node}\nstate: state\n"
            f"devices: {{d: {{adapter: replay, options: {options}}}}}\n"
        )
        sender = Child(
            "agent", edgebed_command("agent", "run", str(out / "agent.yaml")), tmp_path / "agent.log"
        )
        page = collector.first_line()

        def stored() -> int:
            found = ask(page, "ledger")["entries"]
            return max(
                (one["stored"] for one in found if one["node"] == str(node) and not one["missing"]), default=0
            )

        with sender:
            wait_until(lambda: stored() > 3, "messages are stored", 120)
            assert edgebed("site", "rotate-ca", folder).code == 0
            assert edgebed("agent", "renew", str(out)).text.startswith(f"{out}: renewed until")
            done = edgebed("site", "rotate-ca", folder, "--finish")
            assert done.code == 0, done.text
            before = stored()
            wait_until(lambda: stored() > before + 3, "no connection was lost", 120)
            log = (site.folder / "broker.log").read_bytes()
            first.close()
            with running(site):
                before = stored()
                wait_until(lambda: stored() > before + 3, "both connect with the new authority", 120)
    assert b"certificate" not in log.lower(), "no client was refused during the rotation"


class Killed(BaseException):
    """What a kill is to the code: nothing after it runs."""


@pytest.mark.parametrize("is_finish", [False, True])
def test_a_kill_at_each_step_is_completed_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_finish: bool
) -> None:
    """After each kill the broker's files still accept each node, and each device still trusts the server."""
    replace, rename = Path.replace, Path.rename
    left, at = 10_000, 0

    def counted(original):  # type: ignore[no-untyped-def]
        def step(self: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return original(self, target)  # type: ignore[no-any-return]

        return step

    monkeypatch.setattr(Path, "replace", counted(replace))
    monkeypatch.setattr(Path, "rename", counted(rename))

    def run(layout: Layout) -> None:
        act = finish if is_finish else start
        act(layout, now(), lambda _: None, lambda _: "")

    whole = new_site(tmp_path / "site").folder.rename(tmp_path / "whole")
    while True:
        left = 10_000
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        layout = Layout(tmp_path / "site", load(shutil.copytree(whole, tmp_path / "site")))
        key = node_credential(layout, NODES[0])
        old = read_certificates(key[0].read_bytes(), key[0])
        trusts = roots(layout)
        if is_finish:
            start(layout, now(), lambda _: None, lambda _: "")
            trusts = roots(layout)  # the nodes that are left have renewed
            key = node_credential(layout, NODES[0])
            old = read_certificates(key[0].read_bytes(), key[0])
        left = at
        try:
            run(layout)
            break
        except Killed:
            left = 10_000
        shown = read_certificates(layout.path("broker/broker.pem").read_bytes(), Path("broker.pem"))
        assert is_signed_by(shown[0], shown[1])
        assert any(is_signed_by(shown[1], one) for one in trusts), f"a device trusts the broker at step {at}"
        accepts = read_certificates(layout.path("broker/nodes-ca.pem").read_bytes(), Path("nodes-ca.pem"))
        assert any(is_signed_by(old[1], one) for one in accepts), f"the broker accepts the node at step {at}"
        try:
            node_credential(layout, NODES[1])
        except ConfigError as error:
            assert "was interrupted: run `edgebed site rotate-ca` again" in str(error)
        try:
            run(layout)
        except EdgebedError as error:
            assert is_finish, error
            assert "no rotation runs" in str(error)
        assert not layout.path(NEXT).exists()
        assert layout.path(OLD).exists() is not is_finish
        assert len(roots(layout)) == (1 if is_finish else 2)
        assert len(issued(layout, NODES[0])) == 1
        made = read_certificates(node_credential(layout, NODES[2])[0].read_bytes(), Path("node.pem"))
        assert is_signed_by(made[0], made[1])
        assert is_signed_by(made[1], roots(layout)[0])
        assert not list(layout.folder.rglob(".gone"))
        at += 1
    assert at > (9 if is_finish else 20)


def test_what_a_rotation_refuses(site: Layout, tmp_path: Path) -> None:
    def quiet(_: object) -> str:
        return ""

    with pytest.raises(EdgebedError, match="no rotation runs"):
        finish(site, now(), quiet, quiet)
    for days, kind in ((-400, TryAgain),):
        with pytest.raises(kind, match="set the clock"):
            start(site, now() + timedelta(days=days), quiet, quiet)
    assert not site.path(NEXT).exists()
    site.path("root-keep-offline").rename(tmp_path / "away")
    start(site, now(), quiet, quiet)  # the old root's key is not needed
    start(site, now(), quiet, quiet)  # again changes nothing
    assert len(roots(site)) == 2
    finish(site, now(), quiet, quiet)
    start(site, now(), quiet, quiet)  # a second rotation
    finish(site, now(), quiet, quiet)
    assert roots(site)[0].subject.rfc4514_string() == "CN=site root 3"
    nats = new_site(tmp_path / "nats", broker="nats", tenant="acme")
    with pytest.raises(ConfigError, match="a rotation needs mosquitto"):
        start(nats, now(), quiet, quiet)
    assert edgebed("site", "rotate-ca", str(site.folder), "--force").code == 2
