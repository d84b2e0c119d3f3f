"""Downloads of model packages from a real collector over a proxy that breaks connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.inference import package_files
from agent.inference.signing import signature
from agent.slots.download import Download
from agent.slots.model_store import ModelStore
from agent.slots.settings import VersionSettings
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.rollout.engine import Device, Rollout
from collector.rollout.packages import Packages
from collector.state.audit import AuditEntry
from tests.polling import wait_until
from tests.unit.collector.web.serving import serving
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.mac import node_key
from wire.model_package import Listing, PackedFile
from wire.topics import Address

PACKAGE = Path(__file__).parents[4] / "models" / "joint-anomaly"
NODE = Address.parse("acme/trial/hall/cobot-01")
CHILD = """
import asyncio, sys
from pathlib import Path
from agent.slots.download import Download
from agent.slots.model_store import ModelStore
from agent.slots.settings import VersionSettings
from wire.clock import Clock
from wire.topics import Address
url, state, digest, rate = sys.argv[1:]
settings = VersionSettings(url=url, kb_per_s=float(rate))
node = Address.parse("acme/trial/hall/cobot-01")
asyncio.run(Download(settings, node, None, ModelStore(Path(state)), Clock())("joints", digest))
"""


class Proxy:
    """Passes connections on; ends each one after `most` bytes of an answer, and counts what it passed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.most = 10**9
        self.refuses = 0  # connections that are ended at once
        self.asked: list[str] = []
        self.passed = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self.refuses:
                self.refuses -= 1
                return
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.decode())
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            with contextlib.closing(back):
                back.write(head)
                left = self.most
                while left and (part := await there.read(min(4_096, left))):
                    writer.write(part)
                    await writer.drain()
                    left -= len(part)
                    self.passed += len(part)


class Place:
    def __init__(self, folder: Path, proxy: Proxy, url: str, digest: str) -> None:
        self.folder, self.proxy, self.url, self.digest = folder, proxy, url, digest
        self.kept = folder / "store/models/acme" / digest / "files"
        self.store = ModelStore(folder / "state")

    async def fetch(self, rate: float = 0.0, max_mb: float = 1_000.0, url: str = "") -> None:
        settings = VersionSettings(url=url or self.url, kb_per_s=rate, max_mb=max_mb)
        download = Download(settings, NODE, None, self.store, Clock(200.0))
        async with asyncio.timeout(60):
            await download("joints", self.digest)


def package(folder: Path, more: int = 400_000) -> Path:
    """A package with a file of a size that can be broken off."""
    shutil.copytree(PACKAGE, folder)
    (folder / "zz.bin").write_bytes(os.urandom(more))
    return folder


def keep(store: Path, source: Path) -> str:
    names = [*signature.digests(source), signature.FILE]
    sums = {name: package_files.sha256(source, name, 10**9) for name in sorted(names)}
    listing = Listing({name: PackedFile(*each) for name, each in sums.items()})
    push = Packages(store, 10**9).push("acme", listing.digest, listing)
    for name in listing.files:
        push.write((source / name).read_bytes())
    push.finish()
    push.close()
    return listing.digest


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with serving(tmp_path) as (collector, _):
        proxy = Proxy(collector.socket.getsockname()[1])
        server = await asyncio.start_server(proxy.take, "127.0.0.1", 0)
        digest = await asyncio.to_thread(keep, tmp_path / "store", package(tmp_path / "package"))
        yield Place(tmp_path, proxy, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", digest)
        server.close()
        await server.wait_closed()


async def test_a_package_is_downloaded_with_its_signature(place: Place) -> None:
    await place.fetch()
    assert place.store.damage(place.digest) == ""
    found = place.store.path(place.digest) / signature.FILE
    assert found.read_bytes() == (PACKAGE / signature.FILE).read_bytes()
    assert not list((place.folder / "state/models/incoming").iterdir())


async def test_broken_connections_are_continued(place: Place) -> None:
    place.proxy.most, place.proxy.refuses = 30_000, 2
    await place.fetch()
    assert place.store.damage(place.digest) == ""
    assert any("Range: bytes=" in head for head in place.proxy.asked)
    size = sum(path.stat().st_size for path in (place.folder / "package").rglob("*") if path.is_file())
    heads = 2_000 * len(place.proxy.asked) + 30_000
    assert place.proxy.passed < size + heads, "nothing is asked for twice"


def kill_halfway(place: Place) -> None:
    args = [sys.executable, "-c", CHILD, place.url, str(place.folder / "state"), place.digest, "200"]
    child = subprocess.Popen(args)
    try:
        file = place.store.incoming(place.digest) / "zz.bin"
        wait_until(lambda: file.exists() and file.stat().st_size > 100_000)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


async def test_a_kill_loses_little(place: Place) -> None:
    await asyncio.to_thread(kill_halfway, place)
    place.proxy.asked.clear()
    await place.fetch()
    assert any("Range: bytes=" in head for head in place.proxy.asked)
    assert place.store.damage(place.digest) == ""


async def test_what_a_power_cut_left_is_downloaded_again(place: Place) -> None:
    folder = place.store.incoming(place.digest)
    (folder / "manifest.yaml").write_bytes(b"\0" * 100)  # shorter than it is
    model = next(path for path in PACKAGE.glob("*.onnx"))
    (folder / model.name).write_bytes(b"\0" * (model.stat().st_size + 9))  # longer
    (folder / "golden").write_bytes(b"a file, not a folder")
    (folder / "other/deep").mkdir(parents=True)
    (folder / "other/deep/file").write_bytes(b"of another package")
    await place.fetch()
    assert place.store.damage(place.digest) == ""


async def test_another_file_is_refused(place: Place) -> None:
    path = place.kept / "manifest.yaml"
    body = path.read_bytes()
    for other in (body.replace(b"name", b"nome", 1), body + b"#"):
        path.write_bytes(other)
        if len(other) == len(body):
            with pytest.raises(EdgebedError, match="is not the file that was listed") as error:
                await place.fetch()
            assert error.value.reason_code == "slot-download-wrong"
        else:
            await place.fetch()  # what was listed is read, and no more
    assert place.store.has(place.digest)


async def test_another_listing_is_refused(place: Place) -> None:
    other = "0" * 64
    (place.folder / "store/models/acme" / other).mkdir()
    for content in (b"{}", msgspec.json.encode(Listing({"manifest.yaml": PackedFile("1" * 64, 1)}))):
        (place.folder / "store/models/acme" / other / "listing.json").write_bytes(content)
        place.digest = other
        with pytest.raises(EdgebedError, match="answers 404") as error:
            await place.fetch()
        assert error.value.reason_code == "slot-download-refused"
    assert not place.store.has(other)


async def test_a_package_that_is_too_large_is_refused(place: Place) -> None:
    big = package(place.folder / "big", 1_100_000)
    place.digest = await asyncio.to_thread(keep, place.folder / "store", big)
    with pytest.raises(EdgebedError, match=r"more than `versions\.max_mb`") as error:
        await place.fetch(max_mb=1.0)
    assert error.value.reason_code == "slot-store-full"
    assert place.proxy.passed < 10_000


async def test_a_full_disk_refuses(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agent.slots.download._remove_others", full)
    with pytest.raises(EdgebedError, match="the disk is full") as error:
        await place.fetch()
    assert error.value.reason_code == "disk-full"


async def test_a_download_that_would_fill_the_disk_does_not_begin(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.slots.download._SPARE_BYTES", 2**62)
    with pytest.raises(
        EdgebedError, match=r"are missing of the package, and the disk of .* free some space"
    ) as e:
        await place.fetch()
    assert e.value.reason_code == "disk-full"
    assert place.proxy.passed < 10_000


async def test_a_redirect_is_not_followed(place: Place) -> None:
    async def redirect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {place.url}/\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(redirect, "127.0.0.1", 0)
    with pytest.raises(EdgebedError, match="answers 302"):
        await place.fetch(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()
    assert place.proxy.asked == []


@pytest.mark.slow
async def test_a_cancelled_download_ends(place: Place) -> None:
    task = asyncio.create_task(place.fetch(rate=0.1))
    await asyncio.to_thread(wait_until, lambda: place.proxy.passed > 10_000)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await place.fetch()  # it waits until the thread of the first one has ended
    assert place.store.damage(place.digest) == ""


async def test_an_enrolled_node_downloads_with_its_own_token(tmp_path: Path) -> None:
    secret = b"\xab" * 32
    (tmp_path / "enrolled").write_text(f"{NODE} 1 -\nother/trial/hall/n1 1 -\nacme/trial/hall/n2 1 -\n")
    site = {"mac_file": _key(tmp_path / "mac.key", secret), "enrolled_file": tmp_path / "enrolled"}
    async with serving(tmp_path, site) as (collector, get):
        collector.directory.accounts.add("kim", hashed("a password of kim"), Grant("admin", ("*",)))
        collector.directory.refresh()
        digest = await asyncio.to_thread(keep, tmp_path / "store", package(tmp_path / "package"))
        url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
        rollout = Rollout(
            id="r1", tenant="acme", slot="joints", digest=digest, ref="m@1", by="kim", ts=1, stages=[1],
            devices={NODE.text: Device(state="offered")},
        )  # fmt: skip
        collector.rollouts.records.add(rollout, AuditEntry(1, "kim", "rollout", "r1", "test", "done"))

        async def download(node: Address, identity: str) -> ModelStore:
            folder = tmp_path / identity if identity else None
            if folder is not None:
                _key(folder / "mac.key", node_key(secret, node.text, 1))
            store = ModelStore(tmp_path / f"state-{node.tenant}-{identity}")
            settings = VersionSettings(url=url)
            async with asyncio.timeout(60):
                await Download(settings, node, folder, store, Clock())("joints", digest)
            return store

        assert (await get(f"/api/v1/models/acme/{digest}")).status == 401, "not without a token"
        store = await download(NODE, "identity")
        assert store.damage(digest) == ""
        for other in ("other/trial/hall/n1", "acme/trial/hall/n2"):
            with pytest.raises(EdgebedError, match=r"answers 404") as caught:
                await download(Address.parse(other), "another")
            assert caught.value.reason_code == "slot-download-refused"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await download(NODE, "")  # 401 may be a wrong clock: it is tried again


def _key(path: Path, key: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(key.hex() + "\n")
    path.chmod(0o600)
    return path
