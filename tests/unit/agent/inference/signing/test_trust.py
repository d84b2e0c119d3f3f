"""Which public keys count on a node: their files, folders of tenants, keys that are revoked or no keys."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent.inference.signing.signature import new_key
from agent.inference.signing.trust import (
    KeyMistake,
    Trust,
    TrustedKeys,
    TrustSettings,
    fingerprint,
    public_key,
    read,
)
from wire.printable import printable
from wire.topics import Address

NODE = Address.parse("acme/pilot-1/hall/box-1")
PEM, INFO = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo


def key() -> str:
    return new_key()[1].decode()


def put(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def trust(*paths: Path, node: Address = NODE) -> Trust:
    found = read(TrustSettings(keys=paths), node)
    assert found.mistakes == ()
    return found.trust


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda one: one.name)
def test_a_key_of_the_registry_is_written_as_openssl_writes_it(curve: ec.EllipticCurve) -> None:
    text = ec.generate_private_key(curve).public_key().public_bytes(PEM, INFO).decode()
    odd = "a comment\r\n" + text.replace("\n", "\r\n  ")
    assert public_key(odd) == public_key(text) == text
    assert fingerprint(text) == hashlib.sha256(text.encode()).hexdigest()


def compressed() -> str:
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    body = point.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    return pem_of(head + body)


def pem_of(der: bytes) -> str:
    from base64 import encodebytes

    return f"-----BEGIN PUBLIC KEY-----\n{encodebytes(der).decode()}-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a PEM text of a public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAA", "is not a PEM text of a public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAA\n-----END PUBLIC KEY-----", "is damaged: it is not base64"),
        (new_key()[0].decode(), "is a private key: put only the public key here"),
        (
            ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(PEM, INFO).decode(),
            "is an Ed25519 key: OpenSSF Model Signing takes uncompressed public keys of P-256, P-384, P-521",
        ),
        (
            rsa.generate_private_key(65537, 2048).public_key().public_bytes(PEM, INFO).decode(),
            "is another kind of key: OpenSSF Model Signing takes",
        ),
        (
            ec.generate_private_key(ec.SECP256K1()).public_key().public_bytes(PEM, INFO).decode(),
            "is another kind of key: OpenSSF Model Signing takes",
        ),
        (compressed(), "is another kind of key: OpenSSF Model Signing takes uncompressed"),
        (pem_of(b"\x30\x00"), "is another kind of key"),
    ],
)
def test_another_text_is_not_a_key(text: str, why: str) -> None:
    with pytest.raises(KeyMistake) as caught:
        public_key(text)
    assert str(caught.value).startswith(why)


def test_a_key_of_a_tenant_counts_only_for_its_nodes(tmp_path: Path) -> None:
    everyone = put(tmp_path / "everyone.pem", key())
    acme = put(tmp_path / "acme" / "maker.pem", key())
    pilot = put(tmp_path / "acme" / "pilot-1" / "maker.pem", key())
    put(tmp_path / "acme" / "pilot-2" / "maker.pem", key())
    other = put(tmp_path / "other" / "maker.pem", key())
    put(tmp_path / "README.txt", "these are keys")
    assert trust(tmp_path).trusted == {everyone: "everyone", acme: "maker", pilot: "maker"}
    assert trust(tmp_path, node=Address.parse("other/pilot-1/hall/box-1")).trusted.keys() == {everyone, other}
    assert trust(tmp_path / "other" / "maker.pem").trusted == {other: "maker"}, "a file that is named counts"
    assert trust().trusted == {}


def test_a_renamed_key_is_revoked_for_the_nodes_below_its_folder(tmp_path: Path) -> None:
    lost = put(tmp_path / "acme" / "lost.pem", key())
    (tmp_path / "acme" / "lost.pem").rename(tmp_path / "acme" / "lost.revoked")
    assert (trust(tmp_path).trusted, trust(tmp_path).revoked) == ({}, {lost: "lost"})
    assert trust(tmp_path, node=Address.parse("other/p/s/n")).revoked == {}


@pytest.mark.parametrize("name", ["old.REVOKED", "old.Revoked", "old.revoked.pem", "old.pem.revoked"])
def test_a_revoked_key_is_revoked_however_its_name_is_written(tmp_path: Path, name: str) -> None:
    text = put(tmp_path / name, key())
    other = put(tmp_path / "new.PEM", key())
    found = trust(tmp_path)
    assert ([*found.revoked], [*found.trusted]) == ([text], [other])


def test_a_name_that_is_not_text_is_shown_safely(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\x1b[2J.pem")).write_text("no key")
    (mistake,) = read(TrustSettings(keys=(tmp_path,)), NODE).mistakes
    assert mistake.isprintable()


def test_a_file_that_is_not_a_key_costs_no_other_key_and_is_reported(tmp_path: Path) -> None:
    good = put(tmp_path / "good.pem", key())
    put(tmp_path / "bad.pem", "-----BEGIN")
    put(tmp_path / "long.pem", "x" * 9_000)
    os.mkfifo(tmp_path / "pipe.pem")
    found = read(TrustSettings(keys=(tmp_path, tmp_path / "gone.pem", tmp_path / "no-ending")), NODE)
    assert (found.trust.trusted, found.trust.broken) == ({good: "good"}, "")
    assert found.mistakes == (
        f"{tmp_path}/bad.pem is not a PEM text of a public key",
        f"{tmp_path}/long.pem has more than 8192 bytes",
        f"{tmp_path}/pipe.pem is not a regular file",
        f"{tmp_path}/gone.pem cannot be read: No such file or directory",
        f"{tmp_path}/no-ending must end in .pem (trusted) or .revoked",
    )


def test_where_it_is_not_known_what_is_revoked_no_signature_counts(tmp_path: Path) -> None:
    put(tmp_path / "good.pem", key())
    put(tmp_path / "lost.revoked", "-----BEGIN")
    why = f"{tmp_path}/lost.revoked is not a PEM text of a public key"
    assert read(TrustSettings(keys=(tmp_path,)), NODE).trust.broken == why
    for at in range(64):
        put(tmp_path / f"{at}.pem", "x")
    assert read(TrustSettings(keys=(tmp_path,)), NODE).trust.broken == f"{tmp_path} has more than 64 keys"


@pytest.mark.parametrize("path", ["no\0path.pem", f"{'long' * 80}.pem", "file/key.pem"])
def test_a_path_that_cannot_be_is_a_mistake(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (why,) = read(TrustSettings(keys=(tmp_path / path,)), NODE).mistakes
    assert why.startswith(printable(tmp_path / path, 300))


def test_a_required_signature_without_a_key_is_a_mistake() -> None:
    (why,) = read(TrustSettings(require_signature=True), NODE).mistakes
    assert why == "require_signature is set, and no key is trusted: every model is refused"


def test_a_change_of_the_keys_is_seen_and_a_half_copied_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = put(tmp_path / "lost.pem", key())
    keys = TrustedKeys(TrustSettings(keys=(tmp_path,)), NODE)
    assert keys.changed() is None
    put(tmp_path / "lost.revoked", lost[:50])
    with caplog.at_level(logging.ERROR):
        assert keys.changed() is None
        assert keys.changed() is None
    assert (keys.trust.revoked, len(caplog.records)) == ({}, 1)
    put(tmp_path / "lost.revoked", lost)
    changed = keys.changed()
    assert changed is not None
    assert changed.revoked == {lost: "lost"}
    assert keys.changed() is None
    (tmp_path / "lost.pem").unlink()
    assert keys.changed() == Trust(revoked={lost: "lost"})
