"""Finds out in a child process whether a key that counts on this node signed a model package.

The child that runs the model must not decide it: a hostile model may take that process over.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from agent.inference import gate_process, package_files, remembered
from agent.inference.decoders import ModelError
from agent.inference.package import Package
from agent.inference.signing import signature
from agent.inference.signing.signature import FILE, Signed
from agent.inference.signing.trust import Trust
from wire.plugins import version
from wire.printable import printable
from wire.reasons import Reason, because

_WALL_S = 90.0
_LONGEST = 400  # characters of a reason
UNSIGNED = Signed()


class Verdict(Struct, kw_only=True):
    """The answer of the child; `why` is empty for a package that may be used."""

    why: str = ""
    code: str = ""
    args: dict[str, Any] = {}
    signed: Signed = UNSIGNED


def check(
    package: Package,
    trust: Trust,
    *,
    memory: Path | None = None,
    stopping: threading.Event | None = None,
) -> Signed:
    """Find out who signed the package; remembers the answer until the package or the keys change.

    What `package` was read from has been signed too, and the hash of its ONNX file.

    Raises:
        ModelError: the signature is wrong, its key is revoked, or a required one is missing.
    """
    try:
        if not os.path.lexists(package.path / FILE):
            if trust.required:
                text = f"it is not signed: it has no {FILE}, and `trust.require_signature` is set"
                raise ModelError(text).coded("model-not-signed")
            return UNSIGNED
        key = _key(package, trust)
        saved = None if memory is None else memory / f"{key}.json"
        verdict = None if saved is None else remembered.read(saved, Verdict)
        if verdict is None:
            verdict, lasting = _in_child(package, trust, stopping or threading.Event())
            if saved is not None and lasting and key == _key(package, trust):
                remembered.write(saved, verdict)
        if verdict.why:
            raise ModelError(verdict.why).coded(verdict.code, **verdict.args)
    except ModelError as error:
        raise ModelError(f"{package.path}: {error}").coded(error.reason_code, **error.reason_args) from error
    return verdict.signed


def _key(package: Package, trust: Trust) -> str:
    """A key of what the kernel knows about every file, of the keys and of the versions."""
    names = package_files.every(package.path)
    files = package_files.fingerprint(package.path, names)
    parts = [files, _used(package), trust, version("edgebed"), version("cryptography")]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _used(package: Package) -> dict[str, str]:
    """Name and sha256 of the files that the agent has read or will compare when it reads them."""
    return package.manifest.files | {str(PurePosixPath(package.manifest.file)): package.sha256}


def _in_child(package: Package, trust: Trust, stopping: threading.Event) -> tuple[Verdict, bool]:
    texts = [msgspec.json.encode(each).decode() for each in (trust, _used(package))]
    arguments = [str(package.path.resolve()), *texts]
    done = gate_process.run(arguments, _WALL_S, stopping, "agent.inference.signing.signature_check")
    if done.failure is not None:
        return _refused(done.failure), done.lasting
    try:
        return msgspec.json.decode(done.report, type=Verdict), True
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        why = f"the check of {FILE} failed: {printable(error)}"
        return _refused(because(why, "model-refused")), False


def _refused(reason: Reason) -> Verdict:
    return Verdict(why=printable(reason.why, _LONGEST), code=reason.code, args=dict(reason.args))


# -- the child ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """`python -m agent.inference.signing.signature_check ... FOLDER TRUST USED`, the last two as JSON."""
    gate_process.answer(arguments, _report, lambda reason: msgspec.json.encode(_refused(reason)))


def _report(arguments: Sequence[str]) -> bytes:
    folder, trust, used = arguments
    return msgspec.json.encode(
        Verdict(
            signed=verified(
                Path(folder),
                msgspec.json.decode(trust, type=Trust),
                msgspec.json.decode(used, type=dict[str, str]),
            )
        )
    )


def verified(folder: Path, trust: Trust, used: Mapping[str, str]) -> Signed:
    """What the signature of a package says, whose `used` files have this name and sha256.

    Raises:
        ModelError: the package must not be used, with the reason.
    """
    try:
        found = signature.verify(folder, trust)
    except ImportError as error:
        raise ModelError(
            f"{FILE} cannot be checked: install edgebed with its library cryptography"
        ) from error
    for name, digest in used.items():
        if found.files.get(name) != digest:
            raise ModelError(f"{FILE} is refused: {printable(name)} is not the file that was signed").coded(
                "model-signature-bad", detail=f"{printable(name)} is not the file that was signed"
            )
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
