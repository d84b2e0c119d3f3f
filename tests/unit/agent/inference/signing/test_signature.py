"""Signatures of model packages: OpenSSF Model Signing v1.0, both ways with its reference implementation."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from agent.inference.decoders import ModelError
from agent.inference.signing import signature
from agent.inference.signing.trust import Trust

PAYLOAD_TYPE = "application/vnd.in-toto+json"
CURVES: list[tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = [
    (ec.SECP256R1(), hashes.SHA256()),
    (ec.SECP384R1(), hashes.SHA384()),
    (ec.SECP521R1(), hashes.SHA512()),
]
Change = Callable[[dict[str, Any]], object]


def private_pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
TRUST = Trust(trusted={public_pem(KEY): "maker"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some files, two of them in a folder; their sorted order differs from that of a walk."""
    made = tmp_path / "beam"
    for name in ("model.onnx", "manifest.yaml", "golden/b.npz", "golden/a.npz", "golden-notes.txt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(name.encode() * 1000)
    return made


def forged(
    folder: Path,
    statement_change: Change = lambda _: None,
    bundle_change: Change = lambda _: None,
    *,
    key: ec.EllipticCurvePrivateKey = KEY,
    hash_kind: hashes.HashAlgorithm = CURVES[0][1],
) -> None:
    """Write a `model.sig` from the words of the specification, with changes before and after it is signed."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each.name != "model.sig")
    digests = [hashlib.sha256(each.read_bytes()) for each in files]
    root = hashlib.sha256(b"".join(each.digest() for each in digests)).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": folder.name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ["model.sig"],
            },
            "resources": [
                {"name": str(each.relative_to(folder)), "algorithm": "sha256", "digest": digest.hexdigest()}
                for each, digest in zip(files, digests, strict=True)
            ],
            "later": "a field that this version does not know",
        },
    }
    statement_change(statement)
    payload = json.dumps(statement).encode()
    signed = b" ".join([b"DSSEv1", b"28", PAYLOAD_TYPE.encode(), str(len(payload)).encode(), payload])
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(public_pem(key).encode()).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"sig": base64.b64encode(key.sign(signed, ec.ECDSA(hash_kind))).decode(), "keyid": ""}
            ],
        },
    }
    bundle_change(bundle)
    (folder / "model.sig").write_text(json.dumps(bundle))


def refusal(folder: Path, trust: Trust = TRUST) -> str:
    with pytest.raises(ModelError) as caught:
        signature.verify(folder, trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def model_signing(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the reference implementation."""
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_reference_verifies_what_is_signed_here(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "maker.pem").write_text(public_pem(KEY))
    signature.sign(folder, private_pem(KEY))
    words = (
        "verify",
        "key",
        folder,
        "--signature",
        folder / "model.sig",
        "--public_key",
        tmp_path / "maker.pem",
    )
    assert model_signing(*words).returncode == 0


@pytest.mark.parametrize(
    "curve",
    [ec.SECP256R1(), pytest.param(ec.SECP384R1(), marks=pytest.mark.slow)],
    ids=lambda curve: curve.name,
)
def test_what_the_reference_signed_is_verified_here(
    folder: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    key = ec.generate_private_key(curve)
    (tmp_path / "maker.key").write_bytes(private_pem(key))
    words = (
        "sign",
        "key",
        folder,
        "--signature",
        folder / "model.sig",
        "--private_key",
        tmp_path / "maker.key",
    )
    assert model_signing(*words).returncode == 0
    trust = Trust(trusted={public_pem(OTHER): "other", public_pem(key): "maker"}, required=True)
    found = signature.verify(folder, trust)
    assert (found.by, len(found.files)) == ("maker", 5)
    (folder / "golden" / "a.npz").write_bytes(b"x")
    assert refusal(folder, trust) == "model.sig is refused: golden/a.npz has changed since it was signed"


@pytest.mark.parametrize(("curve", "kind"), CURVES, ids=lambda each: each.name)
def test_every_curve_of_the_registry_signs_and_verifies(
    folder: Path, curve: ec.EllipticCurve, kind: hashes.HashAlgorithm
) -> None:
    key = ec.generate_private_key(curve)
    trust = Trust(trusted={public_pem(key): "maker"}, required=True)
    forged(folder, key=key, hash_kind=kind)
    assert signature.verify(folder, trust).by == "maker"
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "make.pyc").write_bytes(b"")
    signature.sign(folder, private_pem(key))
    found = signature.verify(folder, trust)
    assert found.by == "maker"
    assert list(found.files) == [
        "golden-notes.txt",
        "golden/a.npz",
        "golden/b.npz",
        "manifest.yaml",
        "model.onnx",
    ]


def rename(at: int, name: str) -> Change:
    return lambda statement: statement["predicate"]["resources"][at].update(name=name)


def resources(statement: dict[str, Any]) -> list[dict[str, str]]:
    return statement["predicate"]["resources"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
            "its statement is https://in-toto.io/St",
        ),
        (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "its predicate is https"),
        (lambda s: s["subject"].append(s["subject"][0]), "its root digest does not fit its list of files"),
        (lambda s: s["subject"].clear(), "its root digest does not fit its list of files"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "its root digest does not fit"),
        (lambda s: s["subject"][0].update(digest={"sha512": "0" * 128}), "its root digest does not fit"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "it lists shards with sha256"),
        (
            lambda s: s["predicate"]["serialization"].update(hash_type="blake2b"),
            "it lists files with blake2b",
        ),
        (lambda s: resources(s)[0].update(algorithm="blake3"), "the digest of golden/a.npz is not a sha256"),
        (lambda s: resources(s)[0].update(digest="ab"), "the digest of golden/a.npz is not a sha256"),
        (lambda s: resources(s)[0].update(digest=5), "it cannot be read: Expected `str`, got `int`"),
        (lambda s: resources(s).append(resources(s)[0]), "it lists golden/a.npz twice"),
        (rename(0, "../a.npz"), "'../a.npz' is not a path inside the package"),
        (rename(0, "golden/../golden/a.npz"), "'golden/../golden/a.npz' is not a path inside the package"),
        (rename(0, "./golden/a.npz"), "'./golden/a.npz' is not a path inside the package"),
        (rename(0, "/etc/passwd"), "'/etc/passwd' is not a path inside the package"),
        (rename(0, ""), "'' is not a path inside the package"),
        (
            rename(0, "golden/a\x1b[2J\n.npz"),
            "golden-notes.txt|golden/a.npz is in the folder and is not signed",
        ),
        (rename(0, "golden/A.npz"), "golden/a.npz is in the folder and is not signed"),
        (rename(0, "model.sig"), "golden/a.npz is in the folder and is not signed"),
        (lambda s: s["predicate"].pop("resources"), "it cannot be read: Object missing required field"),
        (lambda s: s.update(predicate=None), "it cannot be read: Expected `object`, got `null`"),
    ],
)
def test_a_statement_that_is_wrong_is_refused_although_a_trusted_key_signed_it(
    folder: Path, change: Change, why: str
) -> None:
    forged(folder, change)
    assert any(refusal(folder).startswith(f"model.sig is refused: {each}") for each in why.split("|"))


def envelope(bundle: dict[str, Any]) -> dict[str, Any]:
    return bundle["dsseEnvelope"]


def raw(bundle: dict[str, Any]) -> None:
    """The signature as r and s beside each other, as JWS has it, instead of DER."""
    (only,) = envelope(bundle)["signatures"]
    r, s = decode_dss_signature(base64.b64decode(only["sig"]))
    only["sig"] = base64.b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")).decode()


def longer(bundle: dict[str, Any]) -> None:
    (only,) = envelope(bundle)["signatures"]
    only["sig"] = base64.b64encode(base64.b64decode(only["sig"]) + b"\0").decode()


def other_payload(bundle: dict[str, Any]) -> None:
    body = base64.b64decode(envelope(bundle)["payload"]).replace(b"golden/a.npz", b"golden/c.npz")
    envelope(bundle)["payload"] = base64.b64encode(body).decode()


NOT_BY = "it is not a signature by the key maker, which it names"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (raw, NOT_BY),
        (longer, NOT_BY),
        (other_payload, NOT_BY),
        (lambda b: envelope(b)["signatures"][0].update(sig=""), NOT_BY),
        (lambda b: envelope(b)["signatures"][0].update(sig="!!"), "it is damaged: a part is not base64"),
        (lambda b: envelope(b).update(payload="e30é"), "it is damaged: a part is not base64"),
        (lambda b: envelope(b).update(payload="e30="), NOT_BY),
        (
            lambda b: envelope(b)["signatures"].append(envelope(b)["signatures"][0]),
            "it has 2 signatures instead",
        ),
        (lambda b: envelope(b)["signatures"].clear(), "it has 0 signatures instead of one"),
        (
            lambda b: envelope(b).update(payloadType="text/plain"),
            f"its payload is text/plain, not {PAYLOAD_TYPE}",
        ),
        (lambda b: b.update(mediaType="application/json"), "it is application/json, not application/vnd"),
        (lambda b: b.pop("dsseEnvelope"), "it cannot be read: Object missing required field"),
        (
            lambda b: b.update(verificationMaterial={"certificate": {"rawBytes": "AAAA"}}),
            "it was made with a certificate or an identity",
        ),
        (
            lambda b: b["verificationMaterial"]["publicKey"].update(hint="0" * 64),
            "it names another key than maker, which signed it",
        ),
    ],
)
def test_an_envelope_that_is_wrong_is_refused(folder: Path, change: Change, why: str) -> None:
    forged(folder, bundle_change=change)
    assert refusal(folder).startswith(f"model.sig is refused: {why}")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "model.sig is refused: it cannot be read"),
        (b"\xff\xfe", "model.sig is refused: it cannot be read"),
        (b"[" * 1_900_000, "model.sig is refused: it cannot be read"),
        (b'{"mediaType":' + b'{"a":' * 300_000, "model.sig is refused: it cannot be read"),
        (b'{"later":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "model.sig is refused: it cannot be read"),
        (b" " * 2_000_001, "model.sig has 2000001 bytes; 2000000 are allowed"),
    ],
)
def test_a_file_that_is_not_a_bundle_is_refused(folder: Path, body: bytes, why: str) -> None:
    (folder / "model.sig").write_bytes(body)
    assert refusal(folder).startswith(why)


def test_a_statement_as_deep_as_a_well_is_refused_although_it_is_signed(folder: Path) -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    forged(folder, lambda statement: statement["predicate"].update(serialization=deep))
    assert refusal(folder).startswith("model.sig is refused: it cannot be read")


def test_an_added_file_is_refused_in_any_folder_and_under_any_name(folder: Path) -> None:
    for name in (
        "evil.onnx",
        ".hidden",
        "golden/c.npz",
        "new/deep/one",
        ".git",
        "golden/model.sig",
        "a\x1b.txt",
    ):
        forged(folder)
        added = folder / name
        added.parent.mkdir(parents=True, exist_ok=True)
        added.write_bytes(b"x")
        shown = name.replace("\x1b", "\\x1b")
        assert refusal(folder) == f"model.sig is refused: {shown} is in the folder and is not signed"
        added.unlink()
    added = folder / "not-utf8-\udcff"
    added.write_bytes(b"x")
    assert refusal(folder).endswith("is in the folder and is not signed")
    with pytest.raises(ModelError, match="its name is not UTF-8"):
        signature.sign(folder, private_pem(KEY))


def test_only_what_no_package_uses_can_be_left_out_of_a_signature(folder: Path) -> None:
    def ignore(statement: dict[str, Any]) -> None:
        statement["predicate"]["serialization"]["ignore_paths"] = ["golden", "README.md", "__pycache__"]

    forged(folder, ignore)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert signature.verify(folder, TRUST).by == "maker"
    (folder / "golden" / "c.npz").write_bytes(b"x")
    assert refusal(folder).endswith("golden/c.npz is in the folder and is not signed")


def test_a_missing_file_is_refused(folder: Path) -> None:
    forged(folder)
    (folder / "golden" / "b.npz").unlink()
    assert refusal(folder) == "model.sig is refused: golden/b.npz is signed and missing"


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def link_to_folder(path: Path) -> None:
    path.symlink_to("/etc")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("make", [link, link_to_folder, os.mkfifo, listening], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["golden/a.npz", "new", "model.sig"])
def test_what_is_not_a_file_is_refused(folder: Path, make: Callable[[Path], None], name: str) -> None:
    forged(folder)
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert f"{name} is not a regular file" in refusal(folder)
    if name != "model.sig":  # which `sign` replaces
        with pytest.raises(ModelError, match=f"{name} is not a regular file"):
            signature.sign(folder, private_pem(KEY))


def test_a_folder_in_place_of_the_signature_or_of_a_file_is_refused(folder: Path) -> None:
    (folder / "model.sig").mkdir()
    assert refusal(folder) == "model.sig is not a regular file"
    (folder / "model.sig").rmdir()
    forged(folder)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    assert refusal(folder) == "model.sig is refused: model.onnx is signed and missing"


def test_a_linked_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    forged(folder)
    (folder / "golden").rename(tmp_path / "elsewhere")
    (folder / "golden").symlink_to(tmp_path / "elsewhere")
    assert refusal(folder).startswith("golden is not a regular file: it is a link")


def test_too_many_files_are_refused_before_they_are_read(folder: Path) -> None:
    forged(folder)
    (folder / "many").mkdir()
    for at in range(2_001):
        (folder / "many" / str(at)).touch()
    assert refusal(folder) == "it has more than 2000 files, or folders deeper than 8"


def test_a_signature_by_another_key_does_not_count(folder: Path) -> None:
    forged(folder, key=OTHER)
    assert signature.verify(folder, TRUST).by == ""
    required = Trust(trusted=TRUST.trusted, required=True)
    assert refusal(folder, required).startswith("model.sig is by a key that is not trusted here (hint ")
    hint = hashlib.sha256(public_pem(KEY).encode()).hexdigest()
    forged(
        folder, bundle_change=lambda b: b["verificationMaterial"]["publicKey"].update(hint=hint), key=OTHER
    )
    assert refusal(folder) == f"model.sig is refused: {NOT_BY}"
    forged(folder, bundle_change=lambda b: b["verificationMaterial"].update(publicKey={}), key=OTHER)
    assert signature.verify(folder, TRUST).by == ""
    (folder / "model.onnx").write_bytes(b"x")
    assert refusal(folder) == "model.sig is refused: model.onnx has changed since it was signed"


def test_a_revoked_key_is_refused_even_where_it_is_trusted_too(folder: Path) -> None:
    forged(folder)
    both = Trust(trusted=TRUST.trusted, revoked={public_pem(KEY): "stolen"})
    assert refusal(folder, both) == "model.sig is by the key stolen, which is revoked"
    forged(folder, bundle_change=lambda b: b["verificationMaterial"].update(publicKey={}))
    assert refusal(folder, Trust(revoked=both.revoked)) == "model.sig is by the key stolen, which is revoked"
    unknown = Trust(trusted=TRUST.trusted, broken="keys/x.revoked is not a PEM text")
    assert refusal(folder, unknown).startswith("model.sig is refused: no signature counts: keys/x.revoked")


def test_two_keys_count_while_one_replaces_the_other(folder: Path) -> None:
    trust = Trust(trusted={public_pem(KEY): "2025", public_pem(OTHER): "2026"}, required=True)
    for key, name in ((KEY, "2025"), (OTHER, "2026")):
        forged(folder, key=key)
        assert signature.verify(folder, trust).by == name


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (private_pem(ed25519.Ed25519PrivateKey.generate()), "of another kind: make a P-256 key"),
        (
            private_pem(ec.generate_private_key(ec.SECP256K1())),
            "takes uncompressed public keys of P-256, P-384",
        ),
        (public_pem(KEY).encode(), "not a PEM text of a private key"),
        (b"", "not a PEM text of a private key"),
        (
            KEY.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"x"),
            ),
            "has a passphrase",
        ),
    ],
)
def test_a_key_that_cannot_sign_is_refused_and_leaves_the_folder_as_it_was(
    folder: Path, key: bytes, why: str
) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(ModelError, match=why):
        signature.sign(folder, key)
    assert sorted(folder.rglob("*")) == before
