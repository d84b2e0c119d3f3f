"""The store of model packages: whole packages by digest, its limit, and what a torn one does."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.inference.decoders import ModelError
from agent.inference.signing import signature
from agent.slots.model_store import ModelStore, digest_of
from agent.slots.slot_state import Slot
from wire.errors import EdgebedError, TryAgain


@pytest.fixture
def package(packages: Any) -> Path:
    made: Path = packages.write(packages.constant(np.zeros(1)), name="one")
    (made / "golden").mkdir()
    (made / "golden" / "note.txt").write_text("x")
    return made


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "state")


def listing(store: ModelStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - {"lock", "slots", "incoming"}


def test_a_package_is_kept_by_the_digest_of_its_files(store: ModelStore, package: Path) -> None:
    digest = store.add(package)
    assert digest == signature.root(signature.digests(package).values())
    assert (store.path(digest) / "golden" / "note.txt").read_text() == "x"
    assert store.damage(digest) == ""
    assert store.add(package) == digest
    (found,) = store.ls()
    assert (found.digest, found.name, found.ver, found.slots) == (digest, "one", "1.0", ())
    assert listing(store) == {digest}
    store.rm(digest)
    assert listing(store) == set()
    with pytest.raises(ModelError, match="is not in"):
        store.rm(digest)


def test_another_signature_of_the_same_files_replaces_the_first(store: ModelStore, package: Path) -> None:
    digest = store.add(package)
    private, _ = signature.new_key()
    signature.sign(package, private)
    assert store.add(package) == digest
    assert (store.path(digest) / signature.FILE).read_bytes() == (package / signature.FILE).read_bytes()
    assert listing(store) == {digest}


def _torn(folder: Path) -> None:
    os.truncate(folder / "model.onnx", 10)


def _more(folder: Path) -> None:
    (folder / "more.txt").write_text("x")


def _less(folder: Path) -> None:
    (folder / "golden" / "note.txt").unlink()


def _link(folder: Path) -> None:
    (folder / "golden" / "note.txt").unlink()
    (folder / "golden" / "note.txt").symlink_to("/etc/hostname")


def _gone(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("harm", [_torn, _more, _less, _link, _gone])
def test_a_package_that_changed_in_the_store_is_found_and_mended(
    store: ModelStore, package: Path, harm: Callable[[Path], None]
) -> None:
    digest = store.add(package)
    harm(store.path(digest))
    assert digest[:12] in store.damage(digest)
    assert store.add(package) == digest
    assert store.damage(digest) == ""


@pytest.mark.parametrize(
    "bad", ["", "..", "a" * 63, "A" * 64, "sha256:" + "a" * 64, "../../etc", "a" * 64 + "\n"]
)
def test_a_digest_is_never_a_path(store: ModelStore, bad: str) -> None:
    for use in (store.path, store.has, store.damage, store.rm, store.incoming, store.take):
        with pytest.raises(ModelError, match="is not a digest"):
            use(bad)
    assert digest_of("sha256:" + "a" * 64) == "a" * 64


def test_what_is_not_a_package_leaves_nothing(store: ModelStore, package: Path, tmp_path: Path) -> None:
    (package / "golden" / "link").symlink_to(tmp_path)
    for folder in (tmp_path, package, tmp_path / "nowhere"):
        with pytest.raises(ModelError):
            store.add(folder)
    assert not store.folder.exists() or listing(store) == set()


def test_the_oldest_that_no_slot_needs_make_room(tmp_path: Path, packages: Any) -> None:
    many = [
        packages.write(packages.constant(np.zeros(100_000) + at, shape=(1, 4, 2)), name=f"m{at}")
        for at in range(4)
    ]
    store = ModelStore(tmp_path / "state", max_mb=1.3)  # three packages of 0.4 MB
    digests = [store.add(folder) for folder in many[:3]]
    store.keep_slot("eye", Slot(state="confirmed", current=digests[0]))
    last = store.add(many[3])
    assert listing(store) == {digests[0], digests[2], last}
    assert {each.digest: each.slots for each in store.ls()}[digests[0]] == ("eye",)
    with pytest.raises(ModelError, match="needed by slot eye"):
        store.rm(digests[0])
    store.keep_slot("ear", Slot(state="confirmed", current=last, previous=digests[2]))
    with pytest.raises(ModelError, match="the store is full"):
        store.add(many[1])
    assert listing(store) == {digests[0], digests[2], last}
    store.keep_slot("ear", Slot(state="confirmed", current=last, earlier=("", digests[2])))
    with pytest.raises(ModelError, match="needed by slot ear"):
        store.rm(digests[2])
    assert store.add(many[1]) == digests[1]
    assert listing(store) == {digests[0], digests[1], last}, "an earlier version makes room"
    assert store.add(many[2]) == digests[2]
    assert listing(store) == {digests[0], digests[2], last}, "after what no slot could go back to"


def test_a_download_stays_until_it_is_whole(store: ModelStore, package: Path) -> None:
    digest = signature.root(signature.digests(package).values())
    folder = store.incoming(digest)
    shutil.copy(package / "manifest.yaml", folder)
    store.keep_slot("eye", Slot(state="downloading", candidate=digest))
    store.sweep()
    assert (store.incoming(digest) / "manifest.yaml").exists(), "it goes on where it stopped"
    shutil.copytree(package, folder, dirs_exist_ok=True)
    store.take(digest)
    assert store.damage(digest) == ""
    assert not folder.exists()


def test_a_download_of_something_else_is_removed(store: ModelStore, package: Path) -> None:
    digest = "a" * 64
    shutil.copytree(package, store.incoming(digest), dirs_exist_ok=True)
    with pytest.raises(ModelError, match="what arrived has the digest") as caught:
        store.take(digest)
    assert caught.value.reason_code == "slot-download-wrong"
    assert list((store.folder / "incoming").iterdir()) == []
    store.incoming(digest)
    store.sweep()
    assert list((store.folder / "incoming").iterdir()) == [], "no slot waits for it"


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(store: ModelStore) -> None:
    dead, alive = store.folder / ".new-dead", store.folder / ".new-alive"
    for folder in (dead, alive):
        folder.mkdir(parents=True)
    claim = os.open(alive, os.O_RDONLY)
    fcntl.flock(claim, fcntl.LOCK_EX)
    try:
        store.sweep()
        assert listing(store) == {".new-alive"}
    finally:
        os.close(claim)


def test_a_slot_is_kept_and_a_damaged_file_is_a_new_slot(store: ModelStore) -> None:
    kept = Slot(state="confirmed", current="a" * 64, previous="", judged={"a" * 64: 3}, args={"n": 1})
    store.keep_slot("eye", kept)
    assert store.slot("eye") == kept
    assert store.slot_names() == ["eye"]
    for body in (b"", b"{", b'{"state": "running"}', b"\xff", b"[" * 9_000):
        (store.folder / "slots" / "eye.json").write_bytes(body)
        assert store.slot("eye") == Slot()
    os.mkfifo(store.folder / "slots" / "fifo.json")
    (store.folder / "slots" / "folder.json").mkdir()
    (store.folder / "slots" / "link.json").symlink_to("nowhere")
    assert [store.slot(name) for name in ("fifo", "folder", "link")] == [Slot()] * 3
    store.sweep()  # it reads all of them


def test_a_store_that_cannot_be_written_gives_a_sentence(tmp_path: Path, package: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "models").write_text("a file")
    with pytest.raises(EdgebedError, match=r"model store .* cannot be written"):
        ModelStore(tmp_path / "state").add(package)


def test_a_full_disk_at_every_write_leaves_the_store_as_it_was(
    store: ModelStore, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that needs space fails once, at a time."""
    kept = store.add(package)
    (package / "golden" / "note.txt").write_text("another")
    calls, real = [0], os.fsync

    def failing(at: int) -> Callable[[int], None]:
        def fsync(handle: int) -> None:
            calls[0] += 1
            if calls[0] == at:
                raise OSError(28, "No space left on device")
            real(handle)

        return fsync

    for at in range(1, 40):
        calls[0] = 0
        monkeypatch.setattr(os, "fsync", failing(at))
        try:
            digest = store.add(package)
        except TryAgain as error:
            assert "the disk is full" in str(error)
            assert error.reason_code == "disk-full"
            monkeypatch.setattr(os, "fsync", real)
            for each in listing(store):
                assert store.damage(each) == ""
            assert kept in listing(store)
        else:
            break
    assert at > 5
    assert store.damage(digest) == ""


KILLED = """
import os, signal, sys
from pathlib import Path
from agent.slots.model_store import ModelStore
from agent.slots.slot_state import Slot

act, state, first, second = sys.argv[1:]
store = ModelStore(Path(state))
kept = store.add(Path(first))
offered = ""
STEPS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "open", "shutil.rmtree")
left = 0

def step(event, args):
    global left
    if event in STEPS and state in str(args[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

def work():
    if act == "add":
        store.add(Path(second))
    elif act == "rm":
        store.rm(kept)
    else:
        folder = store.incoming(offered)
        for path in Path(second).rglob("*"):
            if path.is_file():
                (folder / path.relative_to(second)).parent.mkdir(parents=True, exist_ok=True)
                (folder / path.relative_to(second)).write_bytes(path.read_bytes())
        store.take(offered)

if act == "take":
    other = ModelStore(Path(state).parent / "other")
    offered = other.add(Path(second))
    store.keep_slot("eye", Slot(state="downloading", candidate=offered))
for number in range(1, 1_000):
    child = os.fork()
    if not child:
        left = number
        sys.addaudithook(step)
        work()
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    store.sweep()
    names = {path.name for path in store.folder.iterdir()} - {"lock", "slots", "incoming"}
    whole = [name for name in names if not store.damage(name)]
    assert names == set(whole), (number, names)
    assert kept in names or act == "rm", number
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, (number, ended)
    if kept not in names:
        assert store.add(Path(first)) == kept
    elif act != "rm" and len(names) == 2:
        for name in names - {kept}:  # the kill came after the last step that counts
            store.keep_slot("eye", Slot())
            store.rm(name)
            store.keep_slot("eye", Slot(state="downloading", candidate=offered))
assert len(names) == (0 if act == "rm" else 2), names
print(number)
"""


@pytest.mark.parametrize("act", ["add", "take", "rm"])
def test_a_kill_at_each_step_leaves_whole_packages_alone(
    act: str, tmp_path: Path, package: Path, packages: Any
) -> None:
    another = packages.write(packages.constant(np.ones(1)), name="another")
    (another / "golden").mkdir()
    (another / "golden" / "note.txt").write_text("x")
    words = [sys.executable, "-c", KILLED, act, str(tmp_path / "state"), str(package), str(another)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 5
