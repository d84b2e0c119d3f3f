"""Files of a package are regular files inside it; everything else is one sentence, without a read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.inference import package_files
from agent.inference.decoders import ModelError

Make = Callable[[Path], object]


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


MAKE: dict[str, tuple[Make, str]] = {
    "fifo": (os.mkfifo, "golden/a.npz is not a regular file"),
    "socket": (bound, "golden/a.npz is not a regular file"),
    "folder": (Path.mkdir, "golden/a.npz is not a regular file"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "golden/a.npz is not a regular file"),
    "link out": (lambda path: path.symlink_to("/etc/passwd"), "golden/a.npz is not a regular file"),
    "link inside": (lambda path: path.symlink_to("../here"), "golden/a.npz is not a regular file"),
    "link to itself": (lambda path: path.symlink_to("a.npz"), "golden/a.npz is not a regular file"),
    "sparse": (sparse, "golden/a.npz has 1000000000000 bytes; 100 are allowed"),
    "nothing": (lambda path: None, "golden/a.npz is missing"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "p"
    (made / "golden").mkdir(parents=True)
    (made / "here").write_bytes(b"content")
    return made


@pytest.mark.parametrize("case", MAKE)
def test_what_is_not_a_small_regular_file_is_refused(
    folder: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reason = MAKE[case]
    monkeypatch.chdir(folder / "golden")  # a socket's path is short
    make(Path("a.npz"))
    with pytest.raises(ModelError) as caught:
        package_files.read(folder, "golden/a.npz", 100)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../q/here", "golden/../../q", "a\0b"])
def test_a_path_that_leaves_the_package_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ModelError, match="is not a path inside the package"):
        package_files.read(folder, name, 100)


def test_a_linked_folder_inside_is_not_followed_and_the_package_itself_may_be_a_link(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "sub").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="links are not followed"):
        package_files.read(folder, "sub/p/here", 100)
    (folder / "golden").rmdir()
    (folder / "golden").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="golden is not a folder"):
        package_files.entries(folder, "golden", ".npz")
    (tmp_path / "link").symlink_to(folder)
    assert package_files.read(tmp_path / "link", "here", 7) == b"content"


def test_names_are_escaped_and_cut(folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        package_files.read(folder, "\x1b[2J\n" + "x" * 300, 100)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_the_user_may_name_a_link_but_not_a_fifo(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder / "here")
    assert package_files.read_file(tmp_path / "link", 100) == b"content"
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ModelError, match="is not a regular file"):
        package_files.read_file(tmp_path / "fifo", 100)


def test_a_fingerprint_changes_with_the_files(folder: Path) -> None:
    before = package_files.fingerprint(folder, ["here", "gone"])
    assert package_files.fingerprint(folder, ["here", "gone"]) == before
    os.utime(folder / "here", (1, 1))
    touched = package_files.fingerprint(folder, ["here", "gone"])
    (folder / "gone").write_bytes(b"")
    assert (
        len({str(each) for each in (before, touched, package_files.fingerprint(folder, ["here", "gone"]))})
        == 3
    )


def test_no_descriptor_is_left_open(folder: Path) -> None:
    os.mkfifo(folder / "golden" / "a.npz")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("golden/a.npz", "here", "golden/none", "none/x", "golden"):
        try:
            package_files.read(folder, name, 100)
        except ModelError:
            continue
    package_files.entries(folder, "golden", ".npz")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
