"""Model packages on disk: a folder with a manifest and an ONNX file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from agent.inference import manifest, package_files
from agent.inference.decoders import ModelError
from agent.inference.manifest import Manifest
from agent.inference.onnx_scan import scan

MAX_MODEL = 200_000_000  # bytes of an ONNX file


@dataclass(frozen=True, slots=True)
class Package:
    """A folder with a checked manifest and a regular ONNX file; its content is read by `read_model`."""

    path: Path
    manifest: Manifest

    @property
    def sha256(self) -> str:
        """The declared hash of the ONNX file; `read_model` compares it."""
        return self.manifest.sha256


def load_package(path: Path, *, max_bytes: int = MAX_MODEL) -> Package:
    """Check a package folder: its manifest, and that its ONNX file is there. Does not read the ONNX file.

    Raises:
        ModelError: with every mistake of the manifest, or what is wrong with the ONNX file.
    """
    try:
        there = path.is_dir()
    except OSError as error:  # as a name that is too long
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not there:
        raise ModelError(f"{path}: there is no such model package (a folder with {manifest.FILE})")
    found = manifest.load(path)
    try:
        with package_files.opened(path, found.file, max_bytes):
            return Package(path, found)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def read_model(package: Package, max_bytes: int = MAX_MODEL) -> bytes:
    """Read the ONNX file of a package and compare its hash with the manifest.

    Raises:
        ModelError: the file cannot be read, is too large, or has another hash.
    """
    found = package.manifest
    try:
        body = package_files.read(package.path, found.file, max_bytes)
    except ModelError as error:
        raise ModelError(f"{package.path}: {error}") from error
    sha256 = hashlib.sha256(body).hexdigest()
    if sha256 != found.sha256:
        raise ModelError(
            f"{package.path / found.file} has sha256 {sha256}, the manifest has {found.sha256}: "
            "it is another file, or the manifest was not updated"
        )
    return body


def check_package(path: Path) -> Package:
    """Check everything that needs no onnxruntime: `load_package`, the hash and the operators of the file.

    Raises:
        ModelError: with every mistake of the manifest, or what is wrong with the ONNX file.
    """
    package = load_package(path)
    body = read_model(package)
    try:
        scan(body)
    except ModelError as error:
        raise ModelError(f"{path / package.manifest.file}: {error}") from error
    return package
