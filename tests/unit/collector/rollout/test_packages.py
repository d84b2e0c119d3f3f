"""The packages of a collector on a real disk: whole or not there, within the quota of a tenant."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from collector.rollout.packages import FOLDER, NoRoom, PackageRefused, Packages, Push
from wire.model_package import SIGNATURE, Listing, PackedFile

BODY = b"x" * 1000
FILES = {
    "manifest.yaml": b"name: m\nversion: 1.0.0\n",
    "a/b.onnx": b"x" * 1000,
    "empty": b"",
    SIGNATURE: b"s",
}


def listed(files: dict[str, bytes]) -> Listing:
    return Listing({name: PackedFile(sha256(body).hexdigest(), len(body)) for name, body in files.items()})


def body(files: dict[str, bytes]) -> bytes:
    return b"".join(files[name] for name in sorted(files))


def push(packages: Packages, files: dict[str, bytes] = FILES, tenant: str = "acme", step: int = 7) -> str:
    listing, content = listed(files), body(files)
    one = packages.push(tenant, listing.digest, listing)
    try:
        for at in range(0, len(content), step):
            one.write(content[at : at + step])
        return one.finish().digest
    finally:
        one.close()


def write(one: Push, content: bytes) -> None:
    one.write(content)
    one.finish()


@pytest.mark.parametrize(
    "manifest",
    [
        b'name: "m\\n"\nversion: 1.0.0\n',
        b'name: "m\\e[31m<b>"\nversion: 1.0.0\n',
        b'name: m\nversion: "1\\n"\n',
        b'name: m\nversion: "1@2"\n',
        b"name: sha256:aa\nversion: 1.0.0\n",
        b"name: m\n",
    ],
)
def test_a_name_that_no_agent_takes_is_refused(tmp_path: Path, manifest: bytes) -> None:
    with pytest.raises(PackageRefused, match="no name and version that an agent takes"):
        push(Packages(tmp_path, 10_000), FILES | {"manifest.yaml": manifest})
    assert left(tmp_path) == []


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / FOLDER).glob(".new-*")]


@pytest.mark.parametrize("step", [1, 1000, 100_000])
def test_a_package_is_kept_whole(tmp_path: Path, step: int) -> None:
    packages = Packages(tmp_path, 10_000)
    digest = push(packages, step=step)
    (kept,) = Packages(tmp_path, 10_000).ls()
    assert (kept.ref, kept.digest, kept.size, kept.signed) == ("m@1.0.0", digest, len(body(FILES)), True)
    for name, content in FILES.items():
        path = packages.file("acme", digest, name)
        assert path is not None
        assert path.read_bytes() == content
    assert packages.file("acme", digest, "../listing.json") is None
    assert packages.get("hanbit", digest) is None
    assert left(tmp_path) == []


def test_another_signature_replaces_the_package(tmp_path: Path) -> None:
    packages = Packages(tmp_path, 2_000)
    digest = push(packages)
    assert push(packages, {**FILES, SIGNATURE: b"another"}) == digest
    path = packages.file("acme", digest, SIGNATURE)
    assert path is not None
    assert path.read_bytes() == b"another"
    assert len(packages.ls()) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (body(FILES)[:-1], "ended within"),
        (body(FILES) + b"x", "goes on after"),
        (body(FILES).replace(b"x", b"y", 1), "is not the file"),
        (b"", "ended within"),
    ],
)
def test_another_body_leaves_nothing(tmp_path: Path, content: bytes, why: str) -> None:
    packages, listing = Packages(tmp_path, 10_000), listed(FILES)
    one = packages.push("acme", listing.digest, listing)
    with pytest.raises(PackageRefused, match=why):
        write(one, content)
    one.close()
    assert packages.ls() == []
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"name: m\n", b"name: {}\nversion: 1\n", b"\xff", b"&a [*a]"]
)
def test_a_manifest_without_name_is_refused(tmp_path: Path, manifest: bytes) -> None:
    with pytest.raises(PackageRefused, match="has no name and version"):
        push(Packages(tmp_path, 10_000), {"manifest.yaml": manifest})


def test_a_tenant_has_its_quota(tmp_path: Path) -> None:
    packages = Packages(tmp_path, 2_500)
    digest = push(packages)
    files = {**FILES, "c": b"c" * 400}
    other = listed(files)
    waiting = packages.push("acme", other.digest, other)  # counts before it has arrived
    third = {**FILES, "d": b"d" * 400}
    with pytest.raises(NoRoom, match="acme has"):
        push(packages, third)
    push(packages, third, tenant="hanbit")
    waiting.close()
    packages.push("acme", listed(third).digest, listed(third)).close()  # it has room now
    assert packages.remove("acme", digest)
    assert not packages.remove("acme", digest)
    assert [one.tenant for one in packages.ls()] == ["hanbit"]


def test_few_packages_arrive_at_once(tmp_path: Path) -> None:
    packages, listing = Packages(tmp_path, 100_000), listed(FILES)
    pushes = [packages.push("acme", listing.digest, listing) for _ in range(4)]
    with pytest.raises(NoRoom, match="4 packages are being pushed"):
        packages.push("acme", listing.digest, listing)
    for one in pushes:
        one.close()
    push(packages)


def test_a_start_removes_what_was_left(tmp_path: Path) -> None:
    packages, listing = Packages(tmp_path, 10_000), listed(FILES)
    one = packages.push("acme", listing.digest, listing)
    assert left(tmp_path)
    Packages(tmp_path, 10_000)
    assert left(tmp_path) == []
    one.close()


def test_a_damaged_listing_is_not_a_package(tmp_path: Path) -> None:
    packages = Packages(tmp_path, 10_000)
    digest = push(packages)
    (tmp_path / FOLDER / "acme" / digest / "listing.json").write_bytes(b"{}")
    assert packages.ls() == []
    assert packages.file("acme", digest, "manifest.yaml") is None
    push(packages)
    assert len(packages.ls()) == 1
