"""The `broker:` section: its values, its mistakes, and secrets from files."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wire.broker import Broker
from wire.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884, False),
        ("mqtt://broker", "broker", 1883, False),
        ("mqtts://broker.example", "broker.example", 8883, True),
        ("mqtts://[::1]:9999/", "::1", 9999, True),
    ],
)
def test_urls(url: str, host: str, port: int, tls: bool) -> None:
    broker = Broker(url=url)
    assert list(broker.mistakes()) == []
    assert (broker.host, broker.port, broker.tls) == (host, port, tls)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "is not mqtt://"),
        ("broker:1883", "is not mqtt://"),
        ("http://broker", "is not mqtt://"),
        ("mqtt://", "is not mqtt://"),
        ("mqtt://broker:0", "is not mqtt://"),
        ("mqtt://broker:70000", "write mqtt://host:port"),
        ("mqtt://broker:x", "write mqtt://host:port"),
        ("mqtt://[::1", "write mqtt://host:port"),
        ("mqtt://user:secret@broker", "use the keys username and password_file"),
        ("mqtt://user:secret@broker:70000", "use the keys username and password_file"),
        ("http://user:secret@broker", "use the keys username and password_file"),
        ("mqtt://user:secret@[::1", "use the keys username and password_file"),
        ("mqtt://user:se/secret@broker", "use the keys username and password_file"),
        ("mqtt://broker/topic", "remove it"),
    ],
)
def test_wrong_urls_have_one_sentence(url: str, sentence: str) -> None:
    (mistake,) = Broker(url=url).mistakes(("broker",))
    assert mistake[0] == ("broker", "url")
    assert sentence in mistake[1]
    assert "secret" not in mistake[1]


@pytest.mark.parametrize(
    ("keys", "key", "sentence"),
    [
        ({"cert_file": Path("a")}, "cert_file", "key_file"),
        ({"key_file": Path("a")}, "key_file", "cert_file"),
    ],
)
def test_half_a_client_certificate(keys: dict[str, Path], key: str, sentence: str) -> None:
    ((path, text),) = Broker(url="mqtts://b", **keys).mistakes()  # type: ignore[arg-type]
    assert path == (key,)
    assert sentence in text


def test_certificates_without_tls() -> None:
    mistakes = dict(Broker(url="mqtt://b", ca_file=Path("x")).mistakes())
    assert "mqtts://" in mistakes[("ca_file",)]


def test_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("geheim 비밀\nsecond line\n")
    assert Broker(url="mqtt://b", password_file=file).password() == "geheim 비밀"
    assert Broker(url="mqtt://b").password() is None


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 5_000, b"\xff\xfe"])
def test_no_password_in_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="password"):
        Broker(url="mqtt://b", password_file=file).password()


def test_no_password_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Broker(url="mqtt://b", password_file=tmp_path / "absent").password()


def test_tls_verifies_the_broker() -> None:
    context = Broker(url="mqtts://b").ssl_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert Broker(url="mqtt://b").ssl_context() is None


def test_wrong_certificate_files(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(ConfigError, match="ca_file"):
        Broker(url="mqtts://b", ca_file=junk).ssl_context()
    with pytest.raises(ConfigError, match="cert_file"):
        Broker(url="mqtts://b", cert_file=junk, key_file=junk).ssl_context()


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(tmp_path: Path) -> None:
    """Without this check OpenSSL asks on the terminal, and the command hangs."""
    key, locked = ec.generate_private_key(ec.SECP256R1()), tmp_path / "locked.key"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"geheim")))
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")]), datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    cert = tmp_path / "node.pem"
    cert.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(form[0]))
    broker = Broker(url="mqtts://b", cert_file=cert, key_file=locked)
    with pytest.raises(ConfigError, match=r"locked\.key"):
        broker.ssl_context()


@pytest.mark.parametrize(
    ("server_name", "verified"), [("", "10.0.0.7"), ("broker.example", "broker.example")]
)
def test_the_name_in_the_certificate_may_be_another_than_the_host(server_name: str, verified: str) -> None:
    context = Broker(url="mqtts://10.0.0.7", server_name=server_name).ssl_context()
    assert context is not None
    ours, theirs = socket.socketpair()
    with (
        theirs,
        context.wrap_socket(ours, server_hostname="10.0.0.7", do_handshake_on_connect=False) as wrapped,
    ):
        assert wrapped.server_hostname == verified


def test_mistakes_of_each_key_have_a_sentence() -> None:
    file = Path("x")
    broker = Broker(url="mqtt://b", ca_file=file, cert_file=file, server_name="y")
    assert list(broker.mistakes(("a", "broker"))) == [
        (("a", "broker", "cert_file"), "cert_file needs key_file beside it"),
        (("a", "broker", "ca_file"), "ca_file needs a url that starts with mqtts://"),
        (("a", "broker", "cert_file"), "cert_file needs a url that starts with mqtts://"),
        (("a", "broker", "server_name"), "server_name needs a url that starts with mqtts://"),
    ]
    assert list(Broker(url="mqtts://b", ca_file=file, cert_file=file, key_file=file).mistakes()) == []
    assert [text for _, text in Broker(url="mqtts://b", key_file=file).mistakes()] == [
        "key_file needs cert_file beside it"
    ]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "mqtt://a:b@c",
            "broker url contains a user or password; use the keys username and password_file",
        ),
        ("mqtt://b:x", "broker url 'mqtt://b:x': Port could not be cast to integer value as 'x'; write mqtt://host:port"),
        ("tcp://b", "broker url 'tcp://b' is not mqtt://host[:port] or mqtts://host[:port]"),
        ("mqtt://b:0", "broker url 'mqtt://b:0' is not mqtt://host[:port] or mqtts://host[:port]"),
        ("mqtt://b/?x", "broker url 'mqtt://b/?x' has text after the host and port; remove it"),
        ("mqtt://b/#x", "broker url 'mqtt://b/#x' has text after the host and port; remove it"),
        ("mqtt://b/x", "broker url 'mqtt://b/x' has text after the host and port; remove it"),
    ],
)  # fmt: skip
def test_sentences_of_wrong_urls(url: str, sentence: str) -> None:
    assert list(Broker(url=url).mistakes()) == [(("url",), sentence)]


def test_a_password_may_have_4096_bytes(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"x" * 4_096)
    assert Broker(url="mqtt://b", password_file=file).password() == "x" * 4_096
    file.write_bytes(b"x\n" + b" " * 4_095)
    with pytest.raises(ConfigError) as caught:
        Broker(url="mqtt://b", password_file=file).password()
    assert str(caught.value) == f"broker.password_file {file}: its first line must be the password"


def test_the_section_is_as_documented() -> None:
    broker = Broker(url="mqtt://b")
    assert (broker.username, broker.server_name, broker.protocol) == ("", "", "auto")
    files = (broker.password_file, broker.ca_file, broker.cert_file, broker.key_file)
    assert files == (None, None, None, None)
