"""Model packages on disk: a folder with a manifest and an ONNX file, and the checks on both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from agent.inference import manifest
from agent.inference.decoders import ModelError
from agent.inference.manifest import Manifest
from agent.inference.onnx_scan import scan

MAX_MODEL = 200_000_000  # bytes of an ONNX file


@dataclass(frozen=True, slots=True)
class Package:
    """A folder with a checked manifest and an ONNX file of the declared hash."""

    path: Path
    manifest: Manifest
    sha256: str


def load_package(path: Path, *, max_bytes: int = MAX_MODEL) -> Package:
    """Check a package folder: manifest, paths, sizes, hash, operators. Does not import onnxruntime.

    Raises:
        ModelError: with every mistake of the manifest, or what is wrong with the ONNX file.
    """
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such model package (a folder with {manifest.FILE})")
    found = manifest.load(path)
    body = read_model(path, found, max_bytes)
    try:
        scan(body)
    except ModelError as error:
        raise ModelError(f"{path / found.file}: {error}") from error
    return Package(path, found, found.sha256)


def read_model(folder: Path, found: Manifest, max_bytes: int = MAX_MODEL) -> bytes:
    """Read the ONNX file of a package and compare its hash with the manifest.

    Raises:
        ModelError: the file cannot be read, is too large, or has another hash.
    """
    path = manifest.inside(folder, found.file)
    body = read_capped(path, max_bytes)
    sha256 = hashlib.sha256(body).hexdigest()
    if sha256 != found.sha256:
        raise ModelError(
            f"{path} has sha256 {sha256}, the manifest has {found.sha256}: "
            "it is another file, or the manifest was not updated"
        )
    return body


def read_capped(path: Path, max_bytes: int = MAX_MODEL) -> bytes:
    """Read a file of at most `max_bytes`.

    Raises:
        ModelError: the file cannot be read or is larger.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ModelError(f"{path} has {size} bytes; {max_bytes} are allowed")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
