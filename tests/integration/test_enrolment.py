"""Enrolment: a device gets its certificate with a one-time token, renews it, and a removal ends it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from agent.config import load as load_agent
from agent.custody.node_key import NodeKey
from agent.identity import mac_key as identity_key
from edgebed.processes import Child, edgebed_command
from edgebed.renewal import Renewal
from edgebed.site.certificates import name_of, new_key, read_certificates, utc
from edgebed.site.enrolled import Noted, mac_key, noted
from edgebed.site.enrolment import enrol, renew
from edgebed.site.enrolment_service import EnrolmentService
from edgebed.site.enrolment_wire import custody_form
from edgebed.site.layout import Layout
from edgebed.site.nodes import issued, take_away
from edgebed.site.token import parse
from edgebed.site.token_store import give
from tests.polling import wait_until
from tests.site_broker import HOST, Client, edgebed, new_site, now, running
from wire.clock import NS_PER_S, Clock
from wire.errors import ConfigError, EdgebedError, TryAgain, Unreachable
from wire.topics import Address

NODE = Address("acme", "trial", "hall", "n1")
DAY_S = 86_400


@pytest.fixture
def site(tmp_path: Path) -> Layout:
    return new_site(tmp_path / "site")


@contextmanager
def serving(layout: Layout, clock: Clock | None = None, port: int = 0) -> Iterator[str]:
    """The service in this process, with a clock of the test; its URL."""
    service = EnrolmentService(layout, HOST, port, clock or Clock())
    thread = threading.Thread(target=service.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"https://{HOST}:{service.server_port}"
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


def token(layout: Layout, node: Address = NODE, hours: float = 1) -> str:
    return give(layout, node, now(), hours).text


def later(days: float) -> Clock:
    """A clock that is ahead."""
    return Clock(1.0, Clock().now_ns() + int(days * DAY_S) * NS_PER_S)


def test_a_device_enrols_connects_and_is_removed_with_the_commands(site: Layout, tmp_path: Path) -> None:
    folder, out = str(site.folder), tmp_path / "device"
    words = edgebed_command("node", "serve", "--site", folder, "--listen", HOST, "--port", "0")
    service = Child("service", words, tmp_path / "service.log")
    with running(site), service:
        url = f"https://{HOST}:{service.first_line()}"
        added = edgebed("node", "add", str(NODE), "--site", folder)
        assert added.code == 0, added.text
        word = added.text.splitlines()[0]
        done = edgebed("agent", "enrol", url, word, "--out", str(out))
        assert done.code == 0, done.text
        assert stat.S_IMODE((out / "node.key").stat().st_mode) == 0o600
        assert not [path for path in site.folder.rglob("*") if path.is_file() and _has_key(path, out)]
        (out / "agent.yaml").write_text(
            (out / "broker.yaml").read_text()
            + f"node: {NODE}\nstate: state\n"
            + "devices: {d: {adapter: replay, options: {file: r.csv, rate_hz: 1, fields: {x: x}}}}\n"
        )
        settings = load_agent(out / "agent.yaml", Clock(), files=True).config
        assert settings.broker.tls
        assert settings.trust.require_signature
        with Client(site, (out / "node.pem", out / "node.key"), NODE.client_id) as client:
            assert client.publish(NODE.topic("data", "_", "x")) in (0, 16)
            assert edgebed("agent", "renew", str(out)).text.startswith(f"{out}: valid until")
            assert edgebed("agent", "renew", str(out), "--now").text.startswith(f"{out}: renewed until")
            again = edgebed("agent", "enrol", url, word, "--out", str(tmp_path / "again"))
            assert (again.code, "the token was used before" in again.text) == (1, True)
            assert edgebed("node", "remove", str(NODE), "--site", folder).code == 0
            wait_until(client.ended.is_set, "its connection is ended")
        refused = edgebed("agent", "renew", str(out), "--now")
        assert refused.code == 1
        assert "is revoked: enrol with a new token" in refused.text
        back = edgebed("node", "add", str(NODE), "--site", folder).text.splitlines()[0]
        assert edgebed("agent", "enrol", url, back, "--out", str(tmp_path / "back")).code == 0
        with Client(site, (tmp_path / "back/node.pem", tmp_path / "back/node.key"), "x") as client:
            assert client.publish(NODE.topic("data", "_", "x")) in (0, 16), "it has its rights back"
    assert word not in (tmp_path / "service.log").read_text()


def _has_key(path: Path, out: Path) -> bool:
    return (out / "node.key").read_bytes() in path.read_bytes()


def test_each_bad_token_is_one_sentence_and_changes_nothing(site: Layout, tmp_path: Path) -> None:
    other = new_site(tmp_path / "other")
    names = [Address("acme", "trial", "hall", f"n{at}") for at in range(1, 5)]
    whole, used, unknown = (token(site, name) for name in names[:3])
    ended = give(site, names[3], now() - timedelta(hours=2), 1).text
    (site.path("tokens") / f"{parse(unknown).name}.json").unlink()
    out = tmp_path / "device"
    with serving(site) as url:
        enrol(url, used, tmp_path / "first", now())
        before = without_audit(site)
        for text, sentence in (
            (whole[: len(whole) // 2], "the token is cut off or changed: copy the whole line"),
            (whole[:-1], "the token is cut off or changed"),
            (whole[:30] + ("A" if whole[30] != "A" else "B") + whole[31:], "the token is cut off or changed"),
            ("", "this is not a token of `edgebed node add`"),
            ("hunter2", "this is not a token of `edgebed node add`"),
            ("edgebed1-" + "A" * 10_000, "the token is cut off or changed"),
            (used, "the token was used before, or taken back: ask for a new one"),
            (ended, "the token ended on"),
            (unknown, "this site has not given out the token"),
            (token(other), "has another root than the token: it is not the site that made the token"),
        ):
            with pytest.raises(EdgebedError, match=sentence) as refused:
                enrol(url, text, out, now())
            assert refused.value.exit_code == 1, sentence
            assert "\n" not in str(refused.value)
            assert not out.exists()
        assert without_audit(site) == before
        enrol(url, whole, out, now())  # a token that is whole and unused still works


def test_a_token_is_taken_back_by_a_newer_one_and_by_a_removal(site: Layout, tmp_path: Path) -> None:
    first, folder, out = token(site), str(site.folder), tmp_path / "device"
    with serving(site) as url:
        second = edgebed("node", "add", str(NODE), "--site", folder).text.splitlines()[0]
        listed = edgebed("node", "ls", "--site", folder).text.splitlines()
        assert len(listed) == 1
        assert listed[0].startswith(str(NODE))
        assert listed[0].endswith("UTC, not used yet")
        with pytest.raises(EdgebedError, match="used before, or taken back"):
            enrol(url, first, out, now())
        done = edgebed("node", "remove", str(NODE), "--site", folder)
        assert (done.code, done.text) == (0, f"{NODE}: its token is taken back; it had no certificate\n")
        with pytest.raises(EdgebedError, match="used before, or taken back"):
            enrol(url, second, out, now())
        assert edgebed("node", "remove", str(NODE), "--site", folder).code == 1
        other = token(site, Address("acme", "trial", "hall", "n2"))
        enrol(url, token(site), out, now())
        token(site)  # one that is not used when the node is removed
        edgebed("node", "remove", str(NODE), "--site", folder)
        assert len(list(site.path("tokens").glob("*.json"))) == 1
        enrol(url, other, tmp_path / "other", now())


def test_a_renewal_keeps_what_was_changed_on_the_device(site: Layout, tmp_path: Path) -> None:
    out = tmp_path / "device"
    with serving(site) as url:
        enrol(url, token(site), out, now())
        (out / "broker.yaml").write_text("mine")
        before = (out / "node.pem").read_bytes()
        assert "renewed until" in renew(out, now(), is_forced=True)
    assert (out / "broker.yaml").read_text() == "mine"
    assert (out / "node.pem").read_bytes() != before


def test_an_agent_renews_by_itself_what_is_due(tmp_path: Path) -> None:
    layout, long_ago = new_site(tmp_path / "site", made=now() - timedelta(days=400)), timedelta(days=300)
    out = tmp_path / "device"
    word = give(layout, NODE, now() - long_ago, 1).text
    with serving(layout, later(-300)) as url:
        enrol(url, word, out, now() - long_ago)
    before, port = (out / "node.pem").read_bytes(), int(url.rsplit(":", 1)[1])
    renewal = Renewal(out / "node.pem", first_s=0.01)
    with serving(layout, port=port):
        renewal.start()
        wait_until(lambda: (out / "node.pem").read_bytes() != before, "the certificate is renewed")
        renewal.stop()
    certificate = read_certificates((out / "node.pem").read_bytes(), out)[0]
    assert certificate.not_valid_after_utc > now() + timedelta(days=360)


def test_a_renewal_that_fails_is_logged_and_leaves_the_agent_alone(
    site: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "device"
    with serving(site) as url:
        enrol(url, token(site), out, now())
    (out / "enrolment.json").write_text("{}")
    renewal = Renewal(out / "node.pem", first_s=0.01)
    for path in ("node.key", "ca.pem"):
        (out / path).rename(out / f"{path}.away")
    renewal.start()
    wait_until(lambda: "the certificate is not renewed" in caplog.text, "it is logged")
    renewal.stop()
    assert "is not a folder of `edgebed agent enrol`" in caplog.text
    for certificate in (None, site.path("ca.pem")):  # nothing was enrolled there
        other = Renewal(certificate, first_s=0.01)
        other.start()
        other.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_enrols_for_the_user_of_the_folder(site: Layout, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    with serving(site) as url:
        enrol(url, token(site), state / "identity", now())
        renew(state / "identity", now(), is_forced=True)
    assert {path.stat().st_uid for path in [state / "identity", *(state / "identity").iterdir()]} == {65534}


def test_the_service_itself_refuses_a_token_that_has_ended(site: Layout, tmp_path: Path) -> None:
    word = token(site)
    with (
        serving(site, later(1)) as url,
        pytest.raises(EdgebedError, match=r"refuses: the token ended on .*: ask for a new one"),
    ):
        enrol(url, word, tmp_path / "device", now())  # the clock of the device is behind


def test_clocks_that_are_wrong_by_a_year(site: Layout, tmp_path: Path) -> None:
    word, out = token(site), tmp_path / "device"
    with serving(site) as url:
        with pytest.raises(
            EdgebedError, match=r"and the clock of this device shows .*: ask for a new token, or set"
        ):
            enrol(url, word, out, now() + timedelta(days=365))
        enrol(url, word, out, now())
        for days, sentence in ((-365, "set the clock, then try again"), (366, "enrol with a new token")):
            before = (out / "node.pem").read_bytes()
            with pytest.raises(EdgebedError, match=sentence):
                renew(out, now() + timedelta(days=days))
            assert (out / "node.pem").read_bytes() == before
    with serving(site, later(-365)) as url, pytest.raises(TryAgain, match="the clock of this machine shows"):
        enrol(url, token(site), tmp_path / "second", now())
    assert not (tmp_path / "second").exists()


def test_a_request_with_another_name_is_refused_and_the_token_stays_unused(
    site: Layout, tmp_path: Path
) -> None:
    word = token(site)
    forged = json.dumps({"secret": parse(word).secret.hex(), "request": _csr("acme/trial/hall/n2")})
    with serving(site) as url:
        status, answer = post(url, "/api/v1/enrol", forged.encode())
        assert status == 403
        assert "is for 'acme/trial/hall/n2', not for acme/trial/hall/n1" in answer
        assert issued(site, NODE) == []
        enrol(url, word, tmp_path / "device", now())
        # a node renews under its own name alone
        status, answer = post(
            url,
            "/api/v1/renew",
            json.dumps({"request": _csr("acme/trial/hall/n2")}).encode(),
            tmp_path / "device",
        )
        assert status == 403
        assert "not for acme/trial/hall/n1" in answer
        # and a viewer or a client without a certificate does not renew at all
        assert "needs the certificate" in post(url, "/api/v1/renew", json.dumps({"request": "x"}).encode())[1]
    assert len(issued(site, NODE)) == 1


def test_of_two_requests_with_one_token_one_gets_a_certificate(site: Layout, tmp_path: Path) -> None:
    word, results = token(site), []

    def attempt(number: int) -> None:
        try:
            enrol(url, word, tmp_path / f"device-{number}", now())
            results.append("ok")
        except EdgebedError as error:
            results.append(str(error))

    with serving(site) as url:
        threads = [threading.Thread(target=attempt, args=(number,)) for number in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert results.count("ok") == 1
    assert len([each for each in results if "used before" in each]) == 5
    assert len(issued(site, NODE)) == 1


def test_a_certificate_is_renewed_after_two_thirds_and_both_are_revoked(site: Layout, tmp_path: Path) -> None:
    out = tmp_path / "device"
    with serving(site) as url:
        enrol(url, token(site), out, now())
        first = read_certificates((out / "node.pem").read_bytes(), out)[0]
        key = (out / "node.key").read_bytes()
        assert "nothing to do yet" in renew(out, now() + timedelta(days=240))
    due = later(245)
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(Unreachable, match="does not answer"):
        renew(out, utc(due.now_ms()))
    with serving(site, due, port):
        assert "renewed until" in renew(out, utc(due.now_ms()))
    second = read_certificates((out / "node.pem").read_bytes(), out)[0]
    assert second.serial_number != first.serial_number
    assert name_of(second) == str(NODE)
    assert (out / "node.key").read_bytes() == key
    assert {one.serial_number for one in issued(site, NODE)} == {first.serial_number, second.serial_number}
    take_away(site, NODE)
    assert issued(site, NODE) == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/v1/enrol", b"", 400),
        ("/api/v1/enrol", b"{}", 400),
        ("/api/v1/enrol", b'{"secret":"../../etc/passwd","request":""}', 400),
        ("/api/v1/enrol", b'{"secret":"' + b"0" * 32 + b'","request":"' + b"x" * 9_000 + b'"}', 400),
        ("/api/v1/enrol", b'{"secret":"' + b"0" * 32 + b'","request":""}', 403),
        ("/api/v1/enrol", b"x" * 20_000, 413),
        ("/api/v1/other", b"{}", 404),
        ("/../site.yaml", b"{}", 404),
    ],
)
def test_hostile_requests_get_an_answer_and_the_service_goes_on(
    site: Layout, tmp_path: Path, path: str, body: bytes, status: int
) -> None:
    with serving(site) as url:
        assert post(url, path, body)[0] == status
        enrol(url, token(site), tmp_path / "device", now())


def test_connections_that_say_nothing_do_not_stop_the_others(site: Layout, tmp_path: Path) -> None:
    with serving(site) as url:
        port = int(url.rsplit(":", 1)[1])
        silent = [socket.create_connection((HOST, port)) for _ in range(20)]
        silent[0].sendall(b"GET / HTTP/1.1\r\n\r\n")  # no TLS
        enrol(url, token(site), tmp_path / "device", now())
        for each in silent:
            each.close()


@pytest.mark.parametrize(
    "url", ["http://a", "https://", "https://u:p@a", "https://a/path", "https://a:x", "a:8885"]
)
def test_a_wrong_address_is_named(site: Layout, tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="is not https://host"):
        enrol(url, token(site), tmp_path / "device", now())


def without_audit(site: Layout) -> dict[Path, bytes]:
    """Every file of a site but those of its audit."""
    files = (path for path in site.folder.rglob("*") if path.is_file() and path.parent.name != "audit")
    return {path: path.read_bytes() for path in files}


def post(url: str, path: str, body: bytes, shown: Path | None = None) -> tuple[int, str]:
    """Post to the service without checks of the server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if shown is not None:
        context.load_cert_chain(shown / "node.pem", shown / "node.key")
    connection = http.client.HTTPSConnection(HOST, int(url.rsplit(":", 1)[1]), timeout=60, context=context)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _csr(name: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(new_key(), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def test_an_enrolment_binds_the_key_of_the_statements(site: Layout, tmp_path: Path) -> None:
    out, state, folder = tmp_path / "device", tmp_path / "state", str(site.folder)
    with serving(site) as url:
        enrol(url, token(site), out, now())
        key = NodeKey.read(out / "custody.key")
        assert stat.S_IMODE((out / "custody.key").stat().st_mode) == 0o600
        assert noted(site) == {str(NODE): Noted(1, key.public)}
        first = (out / "mac.key").read_text()
        assert first == mac_key(site, NODE) + "\n"
        renew(out, now(), is_forced=True)
        assert (NodeKey.read(out / "custody.key").public, (out / "mac.key").read_text()) == (
            key.public,
            first,
        )

        # another key with the right certificate: the first one stays, and the service reports it
        (out / "custody.key").write_bytes(NodeKey(bytes(32)).content)
        renew(out, now(), is_forced=True)
        assert noted(site)[str(NODE)] == Noted(1, key.public)

        # a token binds another one; an agent that ran before keeps its own
        state.mkdir()
        ran = NodeKey.open(state)
        assert ran is not None
        enrol(url, token(site), tmp_path / "again", now(), state)
        assert NodeKey.read(tmp_path / "again/custody.key").public == ran.public
        assert noted(site)[str(NODE)] == Noted(1, ran.public)

        assert edgebed("node", "remove", str(NODE), "--site", folder).code == 3  # no broker runs
        assert noted(site)[str(NODE)] == Noted(2, "removed")
        assert mac_key(site, NODE) + "\n" != first
        enrol(url, token(site), tmp_path / "third", now())
        third = NodeKey.read(tmp_path / "third/custody.key").public
        assert noted(site)[str(NODE)] == Noted(2, third)
        assert (tmp_path / "third/mac.key").read_text() == mac_key(site, NODE) + "\n" != first
    made = edgebed("node", "add", "acme/trial/hall/n9", "--site", folder, "--out", str(tmp_path / "carried"))
    assert made.code == 0
    carried = NodeKey.read(tmp_path / "carried/custody.key").public
    assert noted(site)["acme/trial/hall/n9"] == Noted(1, carried)


def test_a_node_of_an_earlier_release_gets_its_keys_with_a_renewal(site: Layout, tmp_path: Path) -> None:
    out, state = tmp_path / "device", tmp_path / "state"
    state.mkdir()
    own = NodeKey.open(state)
    assert own is not None
    with serving(site) as url:
        enrol(url, token(site), out, now())
        # what that release wrote
        for name in ("mac.key", "custody.key"):
            (out / name).unlink()
        (out / "enrolment.json").write_text(json.dumps({"url": url}))
        site.path("nodes/enrolled").write_text("")
        assert identity_key(out) is None
        renew(out, now(), is_forced=True)  # from a timer, without the state folder
        assert identity_key(out) is not None
        assert not (out / "custody.key").exists()
        assert noted(site)[str(NODE)] == Noted(1, "-")
        renew(out, now(), is_forced=True, state=state)  # as the agent does
        assert NodeKey.read(out / "custody.key").public == own.public
        assert noted(site)[str(NODE)] == Noted(1, own.public)
        (out / "mac.key").unlink()
        with pytest.raises(ConfigError, match="cannot be read"):
            identity_key(out)  # it had one: nothing else may take its place
        # a site that has no secret yet
        site.path("authority/mac.key").unlink()
        enrol(url, token(site, Address("acme", "trial", "hall", "n2")), tmp_path / "second", now())
        assert not (tmp_path / "second/mac.key").exists()
        assert identity_key(tmp_path / "second") is None


def test_a_key_that_is_not_proven_is_refused_and_costs_no_token(site: Layout, tmp_path: Path) -> None:
    word, request = token(site), _csr(str(NODE))
    mine, other = NodeKey(bytes(32)), NodeKey(b"1" * 32)
    form = custody_form(str(NODE), request)
    with serving(site) as url:
        for custody, proof, status in (
            (other.public, mine.sign(form), 403),
            (mine.public, "", 403),
            (mine.public, "00" * 64, 403),
            (mine.public, mine.sign(custody_form("acme/trial/hall/n2", request)), 403),
            (mine.public, mine.sign(custody_form(str(NODE), request + " ")), 403),
            ("ff" * 32, mine.sign(form), 403),
            ("zz" * 32, mine.sign(form), 400),
            (mine.public[:-2], mine.sign(form), 400),
        ):
            asked = {
                "secret": parse(word).secret.hex(),
                "request": request,
                "custody": custody,
                "proof": proof,
            }
            found, answer = post(url, "/api/v1/enrol", json.dumps(asked).encode())
            assert found == status, answer
            assert issued(site, NODE) == []
        # an older device sends neither
        asked = {"secret": parse(word).secret.hex(), "request": request}
        assert post(url, "/api/v1/enrol", json.dumps(asked).encode())[0] == 200
    assert noted(site)[str(NODE)] == Noted(1, "-")
