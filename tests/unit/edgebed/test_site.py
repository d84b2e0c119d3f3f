"""`edgebed site init` and `show`: keys are kept, changes by hand too, and a killed run is completed."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from agent.config import load as load_agent
from collector.config import load as load_collector
from collector.rights.accounts import Accounts
from collector.rights.passwords import fits
from collector.rights.user import Grant
from collector.state.state_file import StateFile
from edgebed.cli import command
from edgebed.site.certificates import (
    hosts_of,
    is_signed_by,
    key_pem,
    name_of,
    new_key,
    read_certificates,
    read_crls,
)
from edgebed.site.files import locked
from edgebed.site.layout import Layout
from edgebed.site.make import make
from edgebed.site.nodes import issue, issued
from edgebed.site.settings import load
from edgebed.site.show import overview
from tests.site_broker import now
from wire.clock import Clock
from wire.errors import ConfigError, EdgebedError, TryAgain
from wire.topics import Address

ARGUMENTS = ("--host", "broker.example", "--host", "127.0.0.1", "--broker-user", getpass.getuser())
NODE = Address("acme", "trial", "hall", "n1")


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    exit_code: int
    output: str


def run(*arguments: str, group: str = "site") -> Done:
    done = CliRunner().invoke(command, [group, *arguments])
    if isinstance(done.exception, EdgebedError):  # `edgebed.cli.main` prints it
        return Done(done.exception.exit_code, f"{done.output}{done.exception}")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.output)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A new site with one viewer."""
    folder = tmp_path / "site"
    done = run("init", str(folder), *ARGUMENTS, "--viewer", "acme/trial")
    assert done.exit_code == 0, done.output
    return folder


def again(site: Path, at: datetime | None = None) -> list[str]:
    """Make the site again, at another time; what it reports."""
    done: list[str] = []
    make(Layout(site, load(site)), at or now(), done.append)
    return done


def contents(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def problems(site: Path, at: datetime | None = None) -> list[str]:
    """The problems that `show` has, without those of the folders above the test's own."""
    found = overview(Layout(site, load(site)), at or now()).problems
    return [each for each in found if "may not enter" not in each]


def test_a_second_run_changes_nothing(site: Path) -> None:
    before = contents(site)
    done = run("init", str(site))
    assert done.exit_code == 0
    assert "nothing to do" in done.output
    assert contents(site) == before
    assert problems(site) == []


def test_secrets_have_their_modes_whatever_the_umask_is(tmp_path: Path) -> None:
    for umask in (0, 0o077):
        site = tmp_path / f"umask-{umask:o}"
        script = "import sys; from edgebed.cli import main; sys.argv[0] = 'edgebed'; main()"
        words = [sys.executable, "-c", script, "site", "init", str(site), *ARGUMENTS]
        subprocess.run(words, check=True, umask=umask, capture_output=True)
        modes = {str(path.relative_to(site)): stat.S_IMODE(path.stat().st_mode) for path in site.rglob("*")}
        secret = {name for name in modes if name.endswith(".key")} | {"broker/acl"}
        assert len(secret) == 9
        assert {modes[name] for name in secret} == {0o600}
        assert {modes[name] for name in modes if name.endswith((".pem", ".conf", ".yaml"))} == {0o644}
        assert {modes[name] for name in ("root-keep-offline", "authority", "collectors/collector-1")} == {
            0o700
        }
        assert modes["broker"] == 0o755


@pytest.mark.parametrize(
    "name", ["authority/nodes.key", "broker/broker.key", "viewers/viewer_acme_trial/viewer.key"]
)
def test_wrong_rights_are_shown_and_corrected(site: Path, name: str) -> None:
    (site / name).chmod(0o644)
    shown = run("show", str(site))
    assert shown.exit_code == 3
    assert f"{name}: mode 0644 instead of 0600: chmod 600" in shown.output
    key = (site / name).read_bytes()
    assert any(line.startswith(f"{name}: corrected") for line in again(site))
    assert (site / name).read_bytes() == key
    assert problems(site) == []


def test_the_configs_load_and_trust_the_broker(site: Path) -> None:
    config = load_collector(site / "collectors/collector-1/collector.yaml")
    assert config.broker.url == "mqtts://broker.example:8884"
    assert isinstance(config.broker.ssl_context(), ssl.SSLContext)
    device = site.parent / "device"
    device.mkdir()
    key = new_key()
    (device / "node.key").write_bytes(key_pem(key))
    (device / "node.pem").write_bytes(issue(Layout(site, load(site)), NODE, key.public_key(), now()))
    (device / "ca.pem").write_bytes((site / "agent/ca.pem").read_bytes())
    rows = device / "rows.csv"
    rows.write_text("t,x\n1,2\n")
    (device / "agent.yaml").write_text(
        (site / "agent/broker.yaml").read_text()
        + f"node: {NODE}\nstate: state\n"
        + "devices: {d: {adapter: replay, options: {file: rows.csv, rate_hz: 1, fields: {x: x}}}}\n"
    )
    plan = load_agent(device / "agent.yaml", Clock(), files=True)
    assert plan.config.broker.url == "mqtts://broker.example:8883"
    assert plan.config.trust.require_signature
    assert [path.name for path in plan.config.trust.keys] == ["edgebed.pem"]


def test_the_page_of_a_collector_has_a_certificate(site: Path) -> None:
    path = site / "collectors/collector-1/collector.yaml"
    path.write_text(path.read_text().replace("# http: ", "http: "))
    http = load_collector(path).http
    tls = http.tls()
    assert tls is not None
    assert tls.context.get_ca_certs() == []
    assert http.names == ["broker.example", "127.0.0.1"]
    certificate, authority = read_certificates((path.parent / "page.pem").read_bytes(), path)
    assert hosts_of(certificate) == ["broker.example", "127.0.0.1"]
    root = read_certificates((path.parent / "ca.pem").read_bytes(), path)[0]
    assert is_signed_by(certificate, authority)
    assert is_signed_by(authority, root)


def test_what_was_changed_by_hand_is_kept(site: Path) -> None:
    config = site / "mosquitto.conf"
    config.write_text(config.read_text() + "max_connections 500\n")
    mine = config.read_bytes()
    assert again(site) == [], "the text that was changed is still the one that would be written"
    settings = site / "site.yaml"
    settings.write_text(settings.read_text().replace("port: 8883", "port: 9883"))
    done = again(site)
    assert (
        "mosquitto.conf: changed by hand, so it is kept; what it would be now is in mosquitto.conf.new"
        in done
    )
    assert "agent/broker.yaml: updated" in done
    assert config.read_bytes() == mine
    assert "listener 9883" in (site / "mosquitto.conf.new").read_text()
    assert any("mosquitto.conf: changed by hand" in each for each in problems(site))
    config.write_bytes((site / "mosquitto.conf.new").read_bytes())
    assert again(site) == []
    assert problems(site) == []


def test_a_certificate_of_another_authority_is_kept(site: Path, tmp_path: Path) -> None:
    run("init", str(tmp_path / "other"), *ARGUMENTS)
    mine = (tmp_path / "other/broker/broker.pem").read_bytes()
    (site / "broker/broker.pem").write_bytes(mine)
    assert again(site) == ["broker/broker.pem: not signed by this site's authority, so it is kept"]
    assert (site / "broker/broker.pem").read_bytes() == mine


@pytest.mark.parametrize(
    "name", ["root-keep-offline/root.key", "authority/nodes.key", "ca.pem", "broker/crl.pem"]
)
def test_a_damaged_file_is_named_and_nothing_is_written(site: Path, name: str) -> None:
    (site / name).write_bytes(b"-----BEGIN EC PRIVATE KEY-----\nx\n-----END X509 CRL-----\n")
    if name.endswith("root.key"):
        (site / "authority/nodes.pem").unlink()  # the root's key is read only when it is needed
    before = contents(site)
    done = run("init", str(site))
    assert done.exit_code == 78
    assert str(site / name) in done.output
    assert "Traceback" not in done.output
    assert contents(site) == before


def test_a_lost_key_of_an_authority_is_not_replaced(site: Path) -> None:
    (site / "authority/nodes.key").unlink()
    with pytest.raises(ConfigError, match=r"nodes\.key is not there, but its certificate is"):
        again(site)
    (site / "authority/nodes.key").write_bytes(key_pem(new_key()))
    with pytest.raises(ConfigError, match="is not the key of its certificate"):
        again(site)


def test_certificates_are_renewed_after_two_thirds_with_the_same_keys(site: Path) -> None:
    before = contents(site)
    assert again(site, now() + timedelta(days=480)) == []
    later = now() + timedelta(days=490)
    assert again(site, later) == [
        "broker/broker.pem: renewed",
        "collectors/collector-1/collector.pem: renewed",
        "collectors/collector-1/page.pem: renewed",
        "viewers/viewer_acme_trial/viewer.pem: renewed",
    ]
    changed = {name for name, data in contents(site).items() if before[name] != data}
    assert all(name.endswith(".pem") for name in changed)
    assert len(changed) == 4


def test_what_ends_within_thirty_days_is_shown(site: Path) -> None:
    assert problems(site, now() + timedelta(days=699)) == []
    due = problems(site, now() + timedelta(days=701))
    assert len(due) == 4
    assert "broker/broker.pem: it ends on" in due[0]
    assert "it ended on" in problems(site, now() + timedelta(days=731))[0]


def test_an_authority_is_renewed_with_the_roots_key_only(site: Path) -> None:
    layout = Layout(site, load(site))
    node = read_certificates(issue(layout, NODE, new_key().public_key(), now()), site)[0]
    away = site.parent / "disk-kept-apart"
    (site / "root-keep-offline").rename(away)
    assert again(site) == [], "the root's key is not needed from day to day"
    later = now() + timedelta(days=7 * 365)
    done = again(site, later)
    assert any("authority/nodes.pem: two thirds of its life have passed; bring back" in line for line in done)
    assert any("bring back root.key and run" in each for each in problems(site, later))
    away.rename(site / "root-keep-offline")
    assert "authority/nodes.pem: renewed" in again(site, later)
    renewed = read_certificates((site / "authority/nodes.pem").read_bytes(), site)[0]
    root = read_certificates((site / "ca.pem").read_bytes(), site)[0]
    assert is_signed_by(renewed, root)
    assert is_signed_by(node, renewed), "nodes keep their certificates"
    assert (site / "broker/nodes-ca.pem").read_bytes().startswith((site / "authority/nodes.pem").read_bytes())


def test_a_clock_that_is_wrong_by_a_year_renews_nothing(site: Path) -> None:
    before = contents(site)
    with pytest.raises(TryAgain, match=r"the clock of this machine shows .*: set the clock"):
        again(site, now() - timedelta(days=366))
    assert contents(site) == before
    assert "and the clock of this machine shows" in problems(site, now() - timedelta(days=366))[0]


def test_a_viewer_that_is_taken_out_is_revoked_and_can_come_back(site: Path) -> None:
    settings = site / "site.yaml"
    with_viewer = settings.read_text()
    settings.write_text(with_viewer.replace('["acme/trial"]', "[]"))
    assert again(site) == ["broker/crl.pem: updated", "broker/acl: updated"]
    assert "user viewer_acme_trial\ntopic deny #" in (site / "broker/acl").read_text()
    revoked, collectors = read_crls((site / "broker/crl.pem").read_bytes(), site)
    (pem,) = (site / "viewers").rglob("viewer.pem")
    serial = read_certificates(pem.read_bytes(), pem)[0].serial_number
    assert [one.serial_number for one in revoked] == [serial]
    assert list(collectors) == []
    assert any("not in site.yaml any more" in each for each in problems(site))
    settings.write_text(with_viewer)
    assert "viewers/viewer_acme_trial/viewer.pem: made again, because it was revoked" in again(site)
    assert problems(site) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('hosts: ["bro ker"]', "'bro ker' is neither a host name nor an IP address"),
        ("hosts: []", "hosts"),
        ('hosts: ["a"]\nlisten: everywhere', "'everywhere' is not an IP address"),
        ('hosts: ["a"]\nport: 8884', "8884 is the port of the nodes"),
        ('hosts: ["a"]\nport: 70000', "70000"),
        ('hosts: ["a"]\nviewers: [acme]', "'acme' is not tenant/pilot"),
        ('hosts: ["a"]\nviewers: [acme/trial, acme/trial]', "twice"),
        (f'hosts: ["a"]\nviewers: ["{"a" * 32}/{"b" * 32}"]', "too long"),
        ('hosts: ["a"]\ncollectors: [Collector]', "'Collector' is not an id"),
        ('hosts: ["a"]\nbroker_user: "a\\nb"', "is not the name of a user"),
        ('hosts: ["a"]\ncolour: red', "colour"),
        ('hosts: ["a"]\nbroker: nats', "a nats broker needs its company"),
        ('hosts: ["a"]\nbroker: nats\ntenant: acme\nviewers: [beta/trial]', "of another company than acme"),
        ('hosts: ["a"]\ntenant: acme', "mosquitto serves each company"),
    ],
)
def test_a_mistake_in_the_settings_is_named_and_nothing_is_written(
    tmp_path: Path, line: str, sentence: str
) -> None:
    (tmp_path / "site.yaml").write_text(line + "\n")
    done = run("init", str(tmp_path))
    assert done.exit_code == 78, done.output
    assert sentence in done.output
    assert f"{tmp_path}/site.yaml:" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["site.yaml"]


def test_wrong_options_write_nothing(tmp_path: Path, site: Path) -> None:
    done = run("init", str(tmp_path / "new"), "--viewer", "acme")
    assert done.exit_code == 2
    assert "is not tenant/pilot" in done.output
    assert not (tmp_path / "new").exists()
    other = run("init", str(site), "--port", "9000")
    assert other.exit_code == 2
    assert "has another value of port: change it there" in other.output
    none = run("show", str(tmp_path / "none"))
    assert none.exit_code == 78
    assert "is not a site" in none.output
    assert run("init", str(tmp_path / "none/deep")).exit_code == 78


def test_two_runs_at_once_do_not_meet(site: Path) -> None:
    with locked(site):
        done = run("init", str(site))
    assert done.exit_code == 75
    assert "another command changes" in done.output


def test_a_node_whose_name_is_too_long_gets_no_certificate(site: Path) -> None:
    with pytest.raises(ConfigError, match="a certificate takes 64"):
        issue(Layout(site, load(site)), Address("a" * 32, "b" * 32, "c", "d"), new_key().public_key(), now())


def test_show_as_json(site: Path) -> None:
    found = json.loads(run("show", str(site), "--json").output)
    assert found["name"] == "site"
    assert len(found["ca_sha256"]) == 64
    assert {one["file"] for one in found["certificates"]} >= {"ca.pem", "broker/broker.pem"}
    assert {one["mode"] for one in found["secrets"]} == {"0600"}
    assert not [path for path in site.rglob("*.key") if path.read_text()[60:90] in json.dumps(found)]


_KILLED = """
import json, os, signal, sys
from pathlib import Path
from edgebed.site.layout import Layout
from edgebed.site.make import make
from edgebed.site.settings import Site, load, text
from edgebed.site.show import overview
from tests.site_broker import now

base, user = Path(sys.argv[1]), sys.argv[2]
fsync = os.fsync
for last in range(1, 200):
    folder = base / str(last)
    folder.mkdir()
    (folder / "site.yaml").write_text(text(Site(hosts=["a"], broker_user=user, viewers=["acme/trial"])))
    child = os.fork()
    if not child:
        calls = [0]
        def counting(handle):
            calls[0] += 1
            if calls[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(handle)
        os.fsync = counting
        make(Layout(folder, load(folder)), now(), lambda line: None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        print(json.dumps(last))
        break
    keys = {path: path.read_bytes() for path in folder.rglob("*.key") if not path.name.startswith(".")}
    layout = Layout(folder, load(folder))
    make(layout, now(), lambda line: None)
    left = [str(path) for path in folder.rglob("*") if path.name.endswith(".new")]
    wrong = [each for each in overview(layout, now()).problems if "may not enter" not in each]
    changed = [str(path) for path, data in keys.items() if path.read_bytes() != data]
    assert not (left or wrong or changed), (last, left, wrong, changed)
"""


def test_a_run_that_is_killed_at_any_write_is_completed_by_the_next(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _KILLED, str(tmp_path), getpass.getuser()]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40, "it was killed at each write of a file and of a folder"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that another user may not enter")
def test_a_folder_that_the_broker_may_not_enter_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    run("init", str(closed / "site"), "--host", "a", "--broker-user", "daemon")
    shown = run("show", str(closed / "site"))
    assert shown.exit_code == 3
    assert "user daemon of the broker may not enter" in shown.output
    shown = run("show", str(closed / "site"), "--json")
    broken = [each for each in json.loads(shown.output)["secrets"] if each["owner"] == "daemon"]
    assert {each["file"] for each in broken} == {"broker/broker.key", "broker/acl"}


def node(*arguments: str) -> Done:
    return run(*arguments, group="node")


def test_a_node_gets_a_folder_to_carry_to_its_device(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "device"
    done = node("add", str(NODE), "--site", str(site), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {
        "node.key": 0o600,
        "mac.key": 0o600,
        "custody.key": 0o600,
        "node.pem": 0o644,
        "ca.pem": 0o644,
        "broker.yaml": 0o644,
    }
    certificate = read_certificates((out / "node.pem").read_bytes(), out)[0]
    assert name_of(certificate) == str(NODE)
    assert not list((site / "nodes").rglob("*.key")), "the site keeps no key of a node"
    listed = node("ls", "--site", str(site)).output
    assert str(NODE) in listed
    assert "364 days" in listed or "365 days" in listed
    assert problems(site, now() + timedelta(days=340))[-1].startswith(f"{NODE}: it ends on")


def test_a_second_certificate_must_be_asked_for(site: Path, tmp_path: Path) -> None:
    add = ("add", str(NODE), "--site", str(site), "--out")
    node(*add, str(tmp_path / "first"))
    again = node(*add, str(tmp_path / "second"))
    assert again.exit_code == 1
    assert "--renew makes another one" in again.output
    assert not (tmp_path / "second").exists()
    over = node(*add, str(tmp_path / "first"), "--renew")
    assert over.exit_code == 78
    assert "name a new folder" in over.output
    assert node(*add, str(tmp_path / "second"), "--renew").exit_code == 0
    assert len(list(issued(Layout(site, load(site)), NODE))) == 2


def test_a_removal_without_a_broker_says_what_is_left_to_do(site: Path, tmp_path: Path) -> None:
    add = ("add", str(NODE), "--site", str(site), "--out")
    node(*add, str(tmp_path / "first"))
    node(*add, str(tmp_path / "second"), "--renew")
    done = node("remove", str(NODE), "--site", str(site))
    assert done.exit_code == 3
    assert "reload the broker where it runs" in done.output
    (revoked, _) = read_crls((site / "broker/crl.pem").read_bytes(), site)
    assert len(list(revoked)) == 2, "both certificates"
    assert f"user {NODE}\ntopic deny #" in (site / "broker/acl").read_text()
    assert f"{NODE}".ljust(64) + " removed" in node("ls", "--site", str(site)).output
    again = node("remove", str(NODE), "--site", str(site))
    assert again.exit_code == 1
    assert "has no certificate of this site" in again.output
    assert node(*add, str(tmp_path / "third")).exit_code == 0
    assert str(NODE) not in (site / "broker/acl").read_text()
    (revoked, _) = read_crls((site / "broker/crl.pem").read_bytes(), site)
    assert len(list(revoked)) == 2
    assert problems(site) == []


def test_rules_that_were_changed_by_hand_are_kept_and_the_removal_says_so(site: Path, tmp_path: Path) -> None:
    node("add", str(NODE), "--site", str(site), "--out", str(tmp_path / "first"))
    rules = site / "broker/acl"
    rules.write_text(rules.read_text() + "topic read mine\n")
    done = node("remove", str(NODE), "--site", str(site))
    assert done.exit_code == 3
    assert "broker/acl.new: take it over, then reload the broker" in done.output
    assert "topic deny #" in (site / "broker/acl.new").read_text()


@pytest.mark.parametrize(
    ("name", "sentence"), [("acme/trial", "is not tenant/pilot/site/node"), ("A/b/c/d", "is not an id")]
)
def test_a_wrong_name_of_a_node_is_refused(site: Path, tmp_path: Path, name: str, sentence: str) -> None:
    for words in (("add", name, "--out", str(tmp_path / "x")), ("remove", name)):
        done = node(*words, "--site", str(site))
        assert done.exit_code == 1
        assert sentence in done.output
    assert not (tmp_path / "x").exists()


def openssl(folder: Path, require: Callable[[str], str], name: str, *key: str) -> Path:
    """A request that a device makes with openssl, as docs/sharing.md shows."""
    words = [require("openssl"), "req", "-new", "-nodes", "-newkey", *key, "-keyout", "node.key"]
    words += ["-subj", "/CN=" + name.replace("/", "\\/"), "-out", "node.csr"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / "node.csr"


P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def test_a_device_can_keep_its_key(site: Path, tmp_path: Path, require: Callable[[str], str]) -> None:
    request, out = openssl(tmp_path, require, str(NODE), *P256), tmp_path / "device"
    done = node("add", str(NODE), "--site", str(site), "--out", str(out), "--request", str(request))
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"node.pem", "ca.pem", "broker.yaml", "mac.key"}
    context = ssl.create_default_context(cafile=str(out / "ca.pem"))
    context.load_cert_chain(out / "node.pem", tmp_path / "node.key")  # the certificate is for that key


@pytest.mark.parametrize(
    ("name", "key", "change", "sentence"),
    [
        ("acme/trial/hall/n2", P256, None, "is for 'acme/trial/hall/n2', not for acme/trial/hall/n1"),
        ("collector-1", P256, None, "is for 'collector-1', not for"),
        (str(NODE), ("rsa:2048",), None, "is for a key that is not EC P-256"),
        (str(NODE), ("ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"), None, "not EC P-256"),
        (str(NODE), P256, lambda pem: pem[: len(pem) // 2], "is not a certificate request in PEM"),
        (str(NODE), P256, lambda pem: b"", "is not a certificate request in PEM"),
        (str(NODE), P256, "other signature", "is not signed with its own key"),
    ],
)
def test_a_request_that_does_not_fit_gets_nothing(
    site: Path,
    tmp_path: Path,
    require: Callable[[str], str],
    name: str,
    key: tuple[str, ...],
    change: Callable[[bytes], bytes] | str | None,
    sentence: str,
) -> None:
    request, out = openssl(tmp_path, require, name, *key), tmp_path / "device"
    if callable(change):
        request.write_bytes(change(request.read_bytes()))
    elif change:
        der = bytearray(
            ssl.PEM_cert_to_DER_cert(request.read_text().replace("CERTIFICATE REQUEST", "CERTIFICATE"))
        )
        der[-1] ^= 1
        pem = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
        request.write_text(pem)
    done = node("add", str(NODE), "--site", str(site), "--out", str(out), "--request", str(request))
    assert done.exit_code == 78, done.output
    assert sentence in done.output
    assert not out.exists()
    assert issued(Layout(site, load(site)), NODE) == []


def test_the_first_administrator_gets_a_password_that_is_shown_once(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    done = run("init", str(folder), *ARGUMENTS, "--admin", "hana")
    assert done.exit_code == 0, done.output
    (password,) = [line for line in done.output.splitlines() if len(line) == 20 and " " not in line]
    store = folder / "collectors/collector-1/store"
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    with closing(StateFile(store)) as state:
        (account,) = Accounts(state, Clock()).read().accounts.values()
    assert (account.name, account.grant) == ("hana", Grant("admin", ("*",)))
    assert fits(password, account.secret)
    assert not [
        path for path in folder.rglob("*") if path.is_file() and password.encode() in path.read_bytes()
    ]
    again = run("init", str(folder), "--admin", "mallory")
    assert again.exit_code == 0
    assert "has users already" in again.output
    with closing(StateFile(store)) as state:
        assert set(Accounts(state, Clock()).read().accounts) == {"hana"}
    assert problems(folder) == []


def test_a_wrong_name_of_an_administrator_is_refused(site: Path) -> None:
    for folder in (site, site.with_name("new")):
        done = run("init", str(folder), "--admin", "Hana Kim")
        assert done.exit_code == 1
        assert "Hana Kim" in done.output
    assert not folder.exists(), "nothing is made before"


def test_names_and_addresses_of_the_broker_may_have_any_form(tmp_path: Path) -> None:
    folder, long = tmp_path / "site", ".".join(["a" * 60] * 4)
    hosts = [word for host in (long, "0:0:0::1", "127.0.0.1") for word in ("--host", host)]
    assert run("init", str(folder), *hosts, "--broker-user", getpass.getuser()).exit_code == 0
    again = run("init", str(folder))
    assert "nothing to do" in again.output
    certificate = read_certificates((folder / "broker/broker.pem").read_bytes(), folder)[0]
    assert hosts_of(certificate) == [long, "::1", "127.0.0.1"]


_WITHOUT_ROOT = """
import os, sys
from pathlib import Path
from edgebed.site.layout import Layout
from edgebed.site.make import make
from edgebed.site.settings import Site, load, text
from edgebed.site.show import overview
from tests.site_broker import now

folder = Path(sys.argv[1])
(folder / "site.yaml").write_text(text(Site(hosts=["a"], broker_user="daemon")))
site = load(folder)  # all that is imported late: another user may not read this environment
(folder / "warm").mkdir()
make(Layout(folder / "warm", site), now(), lambda line: None)
overview(Layout(folder / "warm", site), now())
os.chown(folder, 65534, 65534)
os.setegid(65534)
os.seteuid(65534)
make(Layout(folder, site), now(), lambda line: None)
again = []
make(Layout(folder, site), now(), again.append)
assert again == [], again
for secret in overview(Layout(folder, site), now()).secrets:
    print(secret.file, secret.problem)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_without_root_the_owner_is_left_to_the_operator_and_named(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        words = [sys.executable, "-c", _WITHOUT_ROOT, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    assert "broker/broker.key it does not belong to user daemon: chown daemon" in done.stdout
