"""The listing of a model package, which comes from outside on both of its ways."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from agent.inference.signing import signature
from wire.errors import WireError
from wire.model_package import MAX_FILES, MAX_LISTING, Listing, PackedFile, read_listing

PACKAGE = Path(__file__).parents[3] / "models" / "joint-anomaly"
SHA = "0" * 64


def body(*names: str) -> bytes:
    return json.dumps({"files": {name: {"sha256": SHA, "size": 1} for name in names}}).encode()


def digest_of(*names: str) -> str:
    return Listing({name: PackedFile(SHA, 1) for name in names}).digest


def test_the_digest_is_that_of_the_signature() -> None:
    digests = signature.digests(PACKAGE)
    files = {name: PackedFile(digest, 1) for name, digest in digests.items()}
    assert Listing(files).digest == signature.root(digests.values())
    signed = {**files, signature.FILE: PackedFile(SHA, 9)}
    assert Listing(signed).digest == Listing(files).digest
    assert Listing(signed).size == len(files) + 9


def test_a_listing_is_read() -> None:
    names = ("manifest.yaml", "golden/a.npz", "모델.onnx")
    assert read_listing(body(*names), digest_of(*names)).files.keys() == set(names)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("../a",), "not a path inside"),
        (("/a",), "not a path inside"),
        (("a/../b",), "not a path inside"),
        (("a//b",), "not a path inside"),
        (("a/",), "not a path inside"),
        (("",), "not a path inside"),
        (("./a",), "not a path inside"),
        (("a\\b",), "not a path inside"),
        (("a\nb",), "not a path inside"),
        (("a\0",), "not a path inside"),
        (("\x1b[2J",), "not a path inside"),
        (("a", "a/b"), "in a folder that is a file"),
        ((".git/config",), "not covered by a digest"),
        (("/".join("abcdefghi"),), "more than 8 folders"),
        (("가" * 86,), "more than 255 bytes"),
        ((), "1 to 2,000 files"),
        (tuple(map(str, range(MAX_FILES + 1))), "1 to 2,000 files"),
    ],
)
def test_a_name_that_is_not_inside_the_package_is_refused(names: tuple[str, ...], why: str) -> None:
    with pytest.raises(WireError, match=why) as error:
        read_listing(body(*names), digest_of(*names))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"files": {"a": {"sha256": "x", "size": 1}}}',
        b'{"files": {"a": {"sha256": "%s", "size": -1}}}' % SHA.encode(),
        b'{"files": {"a": {"sha256": "%s", "size": 5000000000}}}' % SHA.encode(),
        b'{"files": {"a": {"sha256": "%s", "size": 1, "url": "http://a"}}}' % SHA.encode(),
        b"[" * 100_000,
        b" " * (MAX_LISTING + 1),
    ],
)
def test_another_body_is_refused(text: bytes) -> None:
    with pytest.raises(WireError, match="listing of a package"):
        read_listing(text, SHA)


def test_another_digest_is_refused() -> None:
    with pytest.raises(WireError, match="have the digest"):
        read_listing(body("a"), hashlib.sha256(b"other").hexdigest())
