"""The page over TLS: login, renewal, files that cannot be used, and what a proxy must send."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collector.app import Collector
from collector.config import Http
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.web.tls import ServerTls
from tests.unit.collector.web.serving import serving
from wire.errors import ConfigError

PASSWORD = " ".join(["a", "password", "of", "kim"])
NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
LOGIN, ME = "/api/v1/login", "/api/v1/me"


def make(folder: Path, days: int = 365) -> tuple[Path, Path]:
    """Write a self-signed certificate of localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - dt.timedelta(days=365))
        .not_valid_after(dt.datetime.now(dt.UTC) + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "page.crt", folder / "page.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    key_file.chmod(0o600)
    return cert_file, key_file


def ask(collector: Collector, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """Ask over TLS; returns the answer with its JSON and the certificate of the collector."""
    port = collector.socket.getsockname()[1]
    context = ssl.create_default_context(cafile=str(collector.config.http.cert_file))
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=20)
    headers = {"Origin": f"https://localhost:{port}", "Content-Type": "application/json", **headers}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    certificate = connection.sock.getpeercert(binary_form=True)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), json.loads(answer.read()), certificate
    connection.close()
    return found


def add_user(collector: Collector) -> None:
    collector.directory.accounts.add("kim", hashed(PASSWORD), Grant("viewer", ("*",)))
    collector.directory.refresh()


async def test_a_session_over_tls_and_a_renewed_certificate(tmp_path: Path) -> None:
    cert_file, key_file = make(tmp_path)
    async with serving(tmp_path, cert_file=cert_file, key_file=key_file, host="127.0.0.1") as (collector, _):
        assert collector.url.startswith("https://")
        add_user(collector)
        login = {"name": "kim", "password": PASSWORD}
        status, headers, _, first = await asyncio.to_thread(ask, collector, "POST", LOGIN, login)
        assert status == 200
        cookie = headers["set-cookie"]
        assert cookie.startswith("__Host-edgebed-")
        assert {"Secure", "HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        status, _, me, _ = await asyncio.to_thread(ask, collector, "GET", ME, Cookie=cookie.split(";")[0])
        assert (status, me["name"]) == (200, "kim")
        plain = {"Origin": f"http://localhost:{collector.socket.getsockname()[1]}"}
        assert (await asyncio.to_thread(ask, collector, "POST", LOGIN, login, **plain))[0] == 403
        make(tmp_path)
        collector._judge_tls()
        *_, second = await asyncio.to_thread(ask, collector, "GET", ME)
        assert second != first
        key_file.write_text("not a key")
        collector._judge_tls()
        (found,) = [one for one in collector.current_problems() if one.code == "tls-certificate"]
        assert "page.key" in found.why
        *_, third = await asyncio.to_thread(ask, collector, "GET", ME)
        assert third == second


async def test_a_peer_without_a_handshake_takes_no_place_for_long(tmp_path: Path) -> None:
    cert_file, key_file = make(tmp_path)
    options: dict[str, Any] = {"cert_file": cert_file, "key_file": key_file, "connections_per_address": 10}
    async with serving(tmp_path, proxies=[], **options) as (collector, _), asyncio.timeout(60):
        port = collector.socket.getsockname()[1]
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "one more is closed"
        for _, each in (*silent, (reader, writer)):
            each.close()
        while True:
            try:
                assert (await asyncio.to_thread(ask, collector, "GET", ME))[0] == 200
                break
            except OSError:
                await asyncio.sleep(0.05)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    cert_file, key_file = make(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, other_key = make(other)
    for cert, key in (
        (cert_file, other_key), (cert_file, cert_file), (cert_file, tmp_path / "absent"),
        (tmp_path / "absent", key_file), (key_file, key_file),
    ):  # fmt: skip
        if key.exists():
            key.chmod(0o600)
        with pytest.raises(ConfigError, match=r"http\.cert_file .*: .*; are they PEM, of one pair"):
            ServerTls(cert, key)
    key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="has mode 0644: other users could read it; run chmod 600"):
        ServerTls(cert_file, key_file)


def test_a_certificate_that_ends_soon_is_named(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    assert ServerTls(*make(tmp_path, days=8)).expiry(now) == ""
    soon = ServerTls(*make(tmp_path, days=5))
    assert "ends on" in soon.expiry(now)
    assert "ended on" in soon.expiry(now + dt.timedelta(days=6))


async def test_without_tls_only_this_machine_logs_in(tmp_path: Path) -> None:
    async with serving(tmp_path, host="0.0.0.0") as (collector, get):
        assert [one.code for one in collector.current_problems() if one.code == "no-tls"] == ["no-tls"]
        nobody = await get(ME)
        assert (nobody.status, nobody.json()["code"]) == (401, "no-user")
        add_user(collector)
        _, token = collector.directory.accounts.add_token("kim", "", Grant("viewer", ("*",)), 1)
        collector.directory.refresh()
        body, port = {"name": "kim", "password": PASSWORD}, collector.socket.getsockname()[1]
        origins = {scheme: {"Origin": f"{scheme}://127.0.0.1:{port}"} for scheme in ("http", "https")}
        bearer = {"Authorization": f"Bearer {token}"}
        far = {"X-Forwarded-For": "192.0.2.7"}
        # a proxy on this machine, which does no TLS
        assert (await get(LOGIN, "POST", body, **far, **origins["http"])).status == 403
        for headers in (far, {**far, **bearer}, {**far, "Cookie": f"edgebed-{collector.state.store_id()}=x"}):
            answer = await get(ME, **headers)
            assert answer.status in (401, 403)
            assert answer.json()["code"] == "no-tls"
            assert "X-Forwarded-Proto" in answer.json()["error"]
        # one that does
        secure = {**far, "X-Forwarded-Proto": "https"}
        answer = await get(LOGIN, "POST", body, **secure, **origins["https"])
        assert answer.status == 200
        assert answer.headers["set-cookie"].startswith("__Host-edgebed-")
        assert (await get(ME, **secure, **bearer)).status == 200
        # this machine itself
        assert (await get(LOGIN, "POST", body, **origins["http"])).status == 200
        assert (await get(ME, **bearer)).status == 200


async def test_headers_of_a_peer_that_is_not_a_proxy_are_not_believed(tmp_path: Path) -> None:
    async with serving(tmp_path, host="0.0.0.0", proxies=["192.0.2.9"]) as (collector, get):
        add_user(collector)
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        answer = await get(LOGIN, "POST", {"name": "kim", "password": PASSWORD}, **headers)
        assert answer.status == 200, "from this machine, whatever the headers say"
        assert "Secure" not in answer.headers["set-cookie"]
        assert not [one for one in collector.current_problems() if one.code == "no-tls"], "a proxy is named"


def test_half_of_a_pair_is_a_mistake(tmp_path: Path) -> None:
    assert Http().tls() is None
    assert Http(cert_file=tmp_path / "x").tls() is None
