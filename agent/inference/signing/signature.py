"""Signs and verifies model packages: OpenSSF Model Signing v1.0, `model.sig` in the folder, a key of a curve.

On a device `signature_check` runs `verify` in a child process: `cryptography` costs memory, and a signature
comes from outside.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct, field

from agent.inference import package_files
from agent.inference.decoders import ModelError
from agent.inference.signing.trust import KeyMistake, Trust, fingerprint, public_key
from agent.state_dir import keep
from wire.printable import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

FILE = "model.sig"
# What no package uses and tools leave in its folder; a file there is left out if the signature names it
IGNORED = ("__pycache__", ".git", ".gitattributes", ".github", ".gitignore")
_MOST_BYTES = 4_000_000_000  # of all files
_MOST_SIGNATURE = 2_000_000
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_SHA256 = re.compile("[0-9a-f]{64}")


S = TypeVar("S")


class Signed(Struct, kw_only=True, frozen=True):
    """What a signature that may be relied on says."""

    by: str = ""  # name of the trusted key; empty for a signature by another one
    files: dict[str, str] = {}  # name and sha256 of every file of the package


class _Hint(Struct):
    hint: str = ""


class _Material(Struct):
    public_key: _Hint | None = field(name="publicKey", default=None)


class _Signature(Struct):
    sig: str


class _Envelope(Struct):
    payload: str
    payload_type: str = field(name="payloadType")
    signatures: list[_Signature]


class _Bundle(Struct):
    media_type: str = field(name="mediaType")
    material: _Material = field(name="verificationMaterial")
    envelope: _Envelope = field(name="dsseEnvelope")


class _Subject(Struct):
    digest: dict[str, str]
    name: str = ""


class _Serialization(Struct):
    method: str
    hash_type: str
    allow_symlinks: bool = False
    ignore_paths: list[str] = []


class _Resource(Struct):
    name: str
    digest: str
    algorithm: str


class _Predicate(Struct):
    serialization: _Serialization
    resources: list[_Resource]


class _Statement(Struct):
    type: str = field(name="_type")
    subject: list[_Subject]
    predicate_type: str = field(name="predicateType")
    predicate: _Predicate


def sign(folder: Path, private_pem: bytes) -> str:
    """Write `model.sig` into the package; returns the fingerprint of the key.

    Raises:
        ModelError: the key cannot sign, or the folder has a link or another thing than files.
        OSError: the file cannot be written.
    """
    listed = digests(folder)
    if odd := [name for name in (folder.resolve().name, *listed) if not _is_utf8(name)]:
        raise ModelError(f"{folder}: {printable(odd[0])} cannot be signed: its name is not UTF-8")
    statement = _Statement(
        type=_STATEMENT,
        subject=[_Subject(name=folder.resolve().name, digest={"sha256": root(listed.values())})],
        predicate_type=_PREDICATE,
        predicate=_Predicate(
            serialization=_Serialization("files", "sha256", ignore_paths=[FILE, *IGNORED]),
            resources=[_Resource(name, digest, "sha256") for name, digest in listed.items()],
        ),
    )
    payload = msgspec.json.encode(statement)
    keyid, made = sign_message(private_pem, _pae(payload))
    bundle = _Bundle(
        media_type=_BUNDLE,
        material=_Material(public_key=_Hint(keyid)),
        envelope=_Envelope(
            payload=base64.b64encode(payload).decode(),
            payload_type=_PAYLOAD,
            signatures=[_Signature(base64.b64encode(made).decode())],
        ),
    )
    keep(folder / FILE, msgspec.json.format(msgspec.json.encode(bundle), indent=1) + b"\n")
    return keyid


def verify(folder: Path, trust: Trust) -> Signed:
    """Check `model.sig` of a package: who signed it, and that the folder has what was signed and no more.

    A signature by a key that is not in `trust` is checked as far as it can be; `by` is then empty.

    Raises:
        ModelError: the package must not be used, with the reason.
    """
    bundle = _decoded(package_files.read(folder, FILE, _MOST_SIGNATURE), _Bundle)
    payload, signer = _opened(bundle, trust)
    statement = _decoded(payload, _Statement)
    listed = _listed(statement)
    ignored = statement.predicate.serialization.ignore_paths
    found = _digests(folder, (FILE, *(name for name in IGNORED if name in ignored)))
    if more := found.keys() - listed.keys():
        raise bad(f"{printable(min(more))} is in the folder and is not signed")
    if less := listed.keys() - found.keys():
        raise bad(f"{printable(min(less))} is signed and missing")
    if changed := [name for name, digest in found.items() if digest != listed[name]]:
        raise bad(f"{printable(changed[0])} has changed since it was signed")
    if not signer and trust.required:
        raise ModelError(
            f"{FILE} is by a key that is not trusted here (hint {printable(_hint(bundle)[:12])})"
        ).coded("model-key-unknown")
    return Signed(by=signer, files=listed)


def _opened(bundle: _Bundle, trust: Trust) -> tuple[bytes, str]:
    """The signed bytes, and the name of the trusted key that signed them; "" for a key that is not known."""
    envelope = bundle.envelope
    if bundle.media_type != _BUNDLE:
        raise bad(f"it is {printable(bundle.media_type)}, not {_BUNDLE}")
    if bundle.material.public_key is None:
        raise bad("it was made with a certificate or an identity; only the method `key` is supported")
    if envelope.payload_type != _PAYLOAD:
        raise bad(f"its payload is {printable(envelope.payload_type)}, not {_PAYLOAD}")
    if len(envelope.signatures) != 1:
        raise bad(f"it has {len(envelope.signatures)} signatures instead of one")
    if trust.broken:
        raise bad(f"no signature counts: {trust.broken}")
    payload = _bytes(envelope.payload)
    signature, hint = _bytes(envelope.signatures[0].sig), _hint(bundle)
    keys = trust.trusted | trust.revoked
    signer = next((pem for pem in keys if is_by(pem, signature, _pae(payload))), None)
    if signer is None:
        if name := next((name for pem, name in keys.items() if fingerprint(pem) == hint), ""):
            raise bad(f"it is not a signature by the key {name}, which it names")
        return payload, ""
    if hint and hint != fingerprint(signer):
        raise bad(f"it names another key than {keys[signer]}, which signed it")
    if signer in trust.revoked:
        name = trust.revoked[signer]
        raise ModelError(f"{FILE} is by the key {name}, which is revoked").coded(
            "model-key-revoked", key=name
        )
    return payload, trust.trusted[signer]


def _hint(bundle: _Bundle) -> str:
    return "" if bundle.material.public_key is None else bundle.material.public_key.hint


def _listed(statement: _Statement) -> dict[str, str]:
    """Name and sha256 of every file that a statement lists."""
    if statement.type != _STATEMENT:
        raise bad(f"its statement is {printable(statement.type)}, not {_STATEMENT}")
    if statement.predicate_type != _PREDICATE:
        raise bad(f"its predicate is {printable(statement.predicate_type)}, not {_PREDICATE}")
    how, resources = statement.predicate.serialization, statement.predicate.resources
    if (how.method, how.hash_type) != ("files", "sha256"):
        what = f"{printable(how.method)} with {printable(how.hash_type)}"
        raise bad(f"it lists {what}; only files with sha256 are supported")
    found: dict[str, str] = {}
    for each in resources:
        shown, path = printable(each.name), PurePosixPath(each.name)
        if str(path) != each.name or path.is_absolute() or ".." in path.parts or not path.parts:
            raise bad(f"{shown!r} is not a path inside the package")
        if each.name in found:
            raise bad(f"it lists {shown} twice")
        if each.algorithm != "sha256" or not _SHA256.fullmatch(each.digest):
            raise bad(f"the digest of {shown} is not a sha256 in hexadecimal")
        found[each.name] = each.digest
    if len(statement.subject) != 1 or statement.subject[0].digest.get("sha256") != root(found.values()):
        raise bad("its root digest does not fit its list of files")
    return found


def _digests(folder: Path, skipped: Collection[str]) -> dict[str, str]:
    """Name and sha256 of every file of the package, in the order of the names."""
    found, left = {}, _MOST_BYTES
    for name in package_files.every(folder, skipped):
        found[name], size = package_files.sha256(folder, name, left)
        left -= size
    return found


def digests(folder: Path) -> dict[str, str]:
    """Name and sha256 of every file of a package that a signature covers, in the order of the names.

    Raises:
        ModelError: it has a link or another thing than files, or cannot be read.
    """
    try:
        return _digests(folder, (FILE, *IGNORED))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def package_digest(folder: Path) -> str:
    """The root digest of a package, by which stores keep it; blocks. Raises ModelError, as `digests` does."""
    return root(digests(folder).values())


def root(each: Iterable[str]) -> str:
    """The root digest of OpenSSF Model Signing over the digests of files in the order of their names."""
    return hashlib.sha256(bytes.fromhex("".join(each))).hexdigest()


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in name)


def _pae(payload: bytes) -> bytes:
    """What is signed, by DSSE's pre-authentication encoding."""
    return f"DSSEv1 {len(_PAYLOAD)} {_PAYLOAD} {len(payload)} ".encode() + payload


def _decoded(body: bytes, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise bad(f"it cannot be read: {printable(error)}") from error


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad("it is damaged: a part is not base64") from error


def bad(why: str) -> ModelError:
    """The error for a signature that refuses its package."""
    return ModelError(f"{FILE} is refused: {why}").coded("model-signature-bad", detail=why)


# -- what needs cryptography -------------------------------------------------------------------------------


def new_key() -> tuple[bytes, bytes]:
    """A new P-256 key pair as PEM texts: the private and the public key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, _pem_of(key.public_key()).encode()


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise ModelError("the key has a passphrase: decrypt it first, as with `openssl pkey`") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ModelError("the key is not a PEM text of a private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ModelError("the key is of another kind: make a P-256 key with `edgebed key signing`")
    try:
        public_key(_pem_of(key.public_key()))
    except KeyMistake as error:
        raise ModelError(f"the key {error}") from error
    return key


def sign_message(private_pem: bytes, message: bytes) -> tuple[str, bytes]:
    """The fingerprint of a key, and its signature of a message.

    Raises:
        ModelError: the key cannot sign.
    """
    key = _private_key(private_pem)
    return fingerprint(_pem_of(key.public_key())), key.sign(message, _ecdsa(key))


def is_by(pem: str, signature: bytes, message: bytes) -> bool:
    """Whether a key signed a message."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(pem.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, message, _ecdsa(key))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):  # ValueError: not a point of the curve
        return False
    return True


def _ecdsa(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> ec.ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size])


def _pem_of(key: ec.EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
