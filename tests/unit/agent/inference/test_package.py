"""A package is checked from its files alone, before onnxruntime is imported."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from agent.inference.decoders import ModelError
from agent.inference.package import check_package, load_package

ONE = np.ones((1, 1), np.float32)


def test_a_package_has_its_manifest_and_hash(packages) -> None:
    folder = packages.write(packages.constant(ONE))
    package = load_package(folder)
    assert (package.path, package.manifest.name) == (folder, "m")
    assert package.sha256 == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()


def test_a_folder_without_a_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such model package"):
        load_package(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("sha256", "a" * 64, "it is another file, or the manifest was not updated"),
        ("file", "other.onnx", "is missing"),
        ("file", "../m2/model.onnx", "not a path inside the package"),
    ],
)
def test_a_manifest_that_names_another_file_is_refused(packages, key: str, value: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        check_package(packages.write(packages.constant(ONE), **{key: value}))


def test_a_file_over_the_limit_is_not_read(packages) -> None:
    folder = packages.write(packages.constant(ONE))
    with pytest.raises(ModelError, match="bytes; 100 are allowed"):
        load_package(folder, max_bytes=100)


def test_an_onnx_file_that_is_refused_is_named(packages) -> None:
    folder = packages.write(b"garbage" * 50)
    with pytest.raises(ModelError, match=r"model\.onnx: is not an ONNX file"):
        check_package(folder)
