"""The promise of docs/privacy.md: no patient name is on disk, in a log or on the network.

Whole agent, real broker, real collector; monitors report Korean and other names in two character sets.
The test then searches everything written or sent for each name, id, birth date, address and note.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import sqlite3
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import yaml
import zstandard

from adapters.hl7.deidentify import Deidentifier, create_key, read_key
from edgebed.broker import Kind, find, free_port
from edgebed.installation import AgentSetup, Installation
from simulators.devices.hl7.device import BedsideMonitor
from simulators.devices.hl7.messages import Envelope, PatientIdentity, vitals_message
from tests import paho_client
from wire.clock import NS_PER_S, Clock
from wire.errors import Unreachable

BEDS = {  # node and device -> seed, character set, faults
    "bed-a": (11, "UNICODE UTF-8", ["korean", "unit@8-9", "large@10-11x0.2"]),
    "bed-b": (12, "ISO IR149", ["korean@4", "half@6-7", "resend@8-9", "time-back@10-11", "charset@12"]),
    "bed-c": (13, "UNICODE UTF-8", ["korean", "other-device"]),  # refused: its errors are sent, too
}
READ = ("bed-a", "bed-b")
PERSONS = [  # the patients of these beds
    *(PatientIdentity.of(seed, korean=True) for seed in (11, 1011, 12, 1012, 13)),
    PatientIdentity.of(12),
]
_SHORTEST = 6  # bytes: shorter words appear in noise by chance


class Tap:
    """Reads everything on a broker, starting before the first reading."""

    def __init__(self, port: int) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="tap")
        self._client.on_message = lambda _c, _u, message: self.bodies.append((message.topic, message.payload))
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._port = port

    def heard(self, *words: bytes) -> bool:
        """Whether each of these words was in a body."""
        plain = [plain for _, body in list(self.bodies) for plain in _unpacked(body)]
        return all(any(word in body for body in plain) for word in words)

    def __enter__(self) -> Tap:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        paho_client.end(self._client)


@pytest.fixture
def ports() -> dict[str, int]:
    return {bed: free_port() for bed in BEDS}


@pytest.fixture
def config(tmp_path: Path, ports: dict[str, int]) -> Path:
    """The agents of three monitors: one agent connects to its monitor, the other monitors connect."""
    key = tmp_path / "pseudonym.key"
    create_key(key)

    def device(bed: str) -> dict[str, Any]:
        options = {
            "url": f"{'mllp' if bed == 'bed-a' else 'mllp-listen'}://127.0.0.1:{ports[bed]}",
            "application": "EDGEBED_MONITOR",
            "patient_key_file": str(key),
        }
        return {"adapter": "hl7", "options": options}

    document = {
        "node": "acme/privacy/ward/bed",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "state": "state",
        "devices": {bed: device(bed) for bed in BEDS},
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
async def monitors(ports: dict[str, int]) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_no_name_leaves_the_adapter(
    tmp_path: Path, config: Path, ports: dict[str, int], monitors: AsyncExitStack, require: Any
) -> None:
    kind: Kind = "mosquitto"
    try:
        find(kind)
    except Unreachable:
        require("mosquitto")
    deidentifier = Deidentifier(read_key(tmp_path / "pseudonym.key"), Counter())
    made = {
        seed: deidentifier.pseudonym(PatientIdentity.of(seed).number, issuer="EDGEHOSP").encode()
        for seed in (11, 12, 1011, 1012)
    }
    setups = [AgentSetup(bed, config, bed, arguments=("--log", "debug")) for bed in BEDS]
    outbox = tmp_path / "outbox-as-it-was"
    async with Installation(tmp_path / "installation", setups, broker=kind) as installation:
        with Tap(installation.broker.port) as tap:
            await installation.until(
                "the agents run", lambda: all(installation.agent_status(bed)["running"] for bed in BEDS)
            )
            there = {bed: await monitors.enter_async_context(_monitor(bed, ports[bed])) for bed in BEDS}
            await installation.until("the beds are read", lambda: tap.heard(made[11], made[12]))
            await installation.until(
                "what goes wrong has", lambda: min(_second(there[bed]) for bed in READ) > 14
            )
            for bed in READ:
                installation.links[bed].refuse()
                installation.links[bed].cut()
                there[bed].inject("other-patient")
            await installation.until(
                "the outboxes hold it", lambda: _kept(installation, outbox, made[1011], made[1012])
            )
            for bed in READ:
                installation.links[bed].heal()
            await installation.until("it is sent", lambda: tap.heard(made[1011], made[1012]))
        tails = [f"{bed}{tail}" for bed in BEDS for tail in ("", f"/devices/{bed}/events")]
        served = [await installation.api(f"/api/v1/nodes/acme/privacy/ward/{tail}") for tail in tails]
    status = {bed: installation.agent_status(bed)["devices"][bed] for bed in BEDS}
    for bed in READ:
        assert status[bed]["identifiers_seen"] == status[bed]["deidentified"] > 300
        assert "stopped_at_gate" not in status[bed]
        assert status[bed]["patient_changed"] == 1
    assert (
        "MSH-3" in (tmp_path / "installation" / "agent-bed-c.log").read_text()
    )  # another device was refused
    sent = [body for topic, body in tap.bodies for body in (topic.encode(), body)]
    places = {
        "outbox": list(_files(outbox)),
        "folder": list(_files(tmp_path / "installation")),
        "store": list(_cells(tmp_path / "installation" / "store")),
        "network": [plain for body in sent for plain in _unpacked(body)],
        "API": [json.dumps(served, ensure_ascii=False).encode()],
    }
    _check_the_search_itself()
    for place, blobs in places.items():
        assert blobs, f"nothing to search in: {place}"
        everything = b"\n".join(set(blobs))
        for form, name in _needles().items():
            assert not _stands_in(form, everything), f"{name!r} is in: {place}"
    for place, seeds in {"outbox": (1011, 1012), "store": made, "network": made}.items():
        for seed in seeds:
            assert any(made[seed] in blob for blob in places[place]), f"patient {seed} is missing in: {place}"


def _monitor(bed: str, port: int) -> BedsideMonitor:
    seed, charset, faults = BEDS[bed]
    towards: dict[str, Any] = {"port": port} if bed == "bed-a" else {"connect": f"127.0.0.1:{port}"}
    return BedsideMonitor(seed=seed, clock=Clock(4.0), charset=charset, faults=faults, ack_s=0.5, **towards)


def _second(monitor: BedsideMonitor) -> float:
    return (monitor.clock.now_ns() - monitor.start_ns) / NS_PER_S


def _kept(installation: Installation, where: Path, *words: bytes) -> bool:
    """Copy the agents' state folders; returns whether these words are in them."""
    try:
        for bed in READ:
            shutil.copytree(installation.folder / f"state-{bed}", where / bed, dirs_exist_ok=True)
    except shutil.Error:  # a file was replaced while it was copied
        return False
    return all(any(word in blob for blob in _files(where)) for word in words)


# --- everything that was written, unpacked and decoded


def _files(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".key":
            yield path.name.encode()
            yield from _unpacked(path.read_bytes())


def _cells(store: Path) -> Iterator[bytes]:
    """Every cell of every table of every day file: a chunk may be spread over the pages of its file."""
    for day in sorted(store.glob("*.db")):
        with closing(sqlite3.connect(f"file:{day}?mode=ro", uri=True)) as database:
            tables = [
                name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
            ]
            for table in tables:
                for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - names it gave itself
                    for cell in row:
                        raw = cell.encode() if isinstance(cell, str) else cell
                        if isinstance(raw, bytes):
                            yield from _unpacked(raw)


def _unpacked(blob: bytes) -> Iterator[bytes]:
    """The bytes themselves, and the content packed in them with gzip or zstd."""
    yield blob
    for found in re.finditer(rb"\x1f\x8b\x08|\x28\xb5\x2f\xfd", blob):
        packed = blob[found.start() :]
        try:
            if found[0][0] == 0x1F:
                yield zlib.decompressobj(wbits=31).decompress(packed)
            else:
                yield zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        except (zlib.error, zstandard.ZstdError):
            continue  # not gzip or zstd after all


# --- the words to search for


def _needles() -> dict[bytes, str]:
    """The words that name a person, in every encoding they could be written in."""
    found: dict[bytes, str] = {}
    for person in PERSONS:
        words = [*person.identifiers, f"{person.family}^{person.given}", person.family + person.given]
        for word in words:
            for form in _forms(word):
                if len(form) >= _SHORTEST:
                    found[form] = word
    return found


def _stands_in(form: bytes, blob: bytes) -> bool:
    if form not in blob:
        return False
    # digits within a longer number are another number
    return not form.isdigit() or bool(re.search(rb"(?<![0-9])%s(?![0-9])" % form, blob))


def _forms(word: str) -> Iterator[bytes]:
    plain = [word.encode(), word.encode("utf-16-le"), word.encode("cp949", "replace")]
    yield from plain
    yield json.dumps(word)[1:-1].encode()
    yield word.encode().hex().encode()
    for raw in plain:
        for shift in range(3):  # its position in the encoded bytes decides how it looks
            text = base64.b64encode(bytes(shift) + raw)
            yield text[(0, 2, 3)[shift] : len(text) // 4 * 4 - 4]


def _check_the_search_itself() -> None:
    """Check that the search finds a name in each kind of place."""
    person = PatientIdentity.of(11, korean=True)
    needles = _needles()
    for charset, codec in (("UNICODE UTF-8", "utf-8"), ("ISO IR149", "cp949")):
        raw = vitals_message(Envelope("1", 0, person, charset, codec), 0, {"spo2": 98.0})
        hidden = [
            raw,
            b"xx" + zlib.compress(raw, wbits=31),
            zstandard.compress(raw),
            base64.b64encode(raw),
            json.dumps(raw.decode(codec)).encode(),
        ]
        for blob in hidden:
            plain = b"\n".join(_unpacked(blob))
            for word in (person.number, person.street, person.note, person.birth):
                assert any(_stands_in(form, plain) for form, name in needles.items() if name == word)
