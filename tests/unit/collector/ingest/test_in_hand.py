"""A message that ends the process twice is set aside before it is decoded a third time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from collector.ingest.group_builder import _head_number
from collector.ingest.in_hand import FOLDER, InHand
from tests.unit.collector.stored import stored

# a collector's writer that gets 20 messages; decoding number 13 ends the process, as a lack of memory does
RUN = """
import gzip, os, sys
from pathlib import Path
from collector.fleet.fleet import Fleet
from collector.ingest import group_builder, writer
from collector.ingest.writer import Ingest, IngestSettings
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store.store import SqliteStore
from collector.web.event_stream import Hub
from wire.clock import Clock
from wire.codec import encode
from wire.messages import Batch

folder, mode, recv = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
clock = Clock()
store = SqliteStore(folder, clock)
saved = store.load()
ledger = Ledger(saved.marks, saved.states)
ingest = Ingest(store, Fleet(clock, ledger), Hub(), clock, IngestSettings("collector-1"))

def dying(real):
    def decode(body, *more):
        if b"6.66" in body:
            os._exit(9)
        return real(body, *more)
    return decode

if mode == "pack":
    writer.unpack = lambda message, topic: os._exit(9)
group_builder.plain = dying(group_builder.plain)

class Link:
    acked = []
    def settle(self, tokens, acks=()):
        for _, body in acks:
            self.acked.append(body)

NODE = "tb1/acme/trial/hall/cobot-01"
for seq in range(1, 21):
    value = 6.66 if seq == 13 else 1.0
    body = encode(Batch(ep="00112233aabbccdd", seq=seq, t0=recv, per=1, n=1, f={"x": [value]}))
    topic = f"{NODE}/data/arm/joints"
    if mode == "pack":
        topic, body = f"{NODE}/pack", gzip.compress(body, mtime=0)
    ingest.receive(Received(topic, body, recv, False, (1, seq)))
    if mode == "pack":
        break
ingest.start(Link())
ingest.stop()
store.close()
(entry,) = ledger.entries() or (None,)
print(entry and (entry.stored, entry.gap_count, entry.missing_count), ingest.counters.quarantined)
"""
RECV = 1_795_356_000_000


def run(folder: Path, mode: str, recv: int = RECV) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), mode, str(recv)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout.strip() or done.stderr


def test_a_message_that_ends_the_process(folder: Path) -> None:
    assert run(folder, "data")[0] == 9
    assert run(folder, "data")[0] == 9, "alone this time, after those before it were stored"
    assert stored(folder) == list(range(1, 13))
    code, said = run(folder, "data")
    assert (code, said) == (0, "(19, 0, 1) 1"), "not decoded a third time"
    assert stored(folder) == [seq for seq in range(1, 21) if seq != 13]
    (kept,) = (folder / FOLDER).iterdir()
    assert b"6.66" in kept.read_bytes()
    assert run(folder, "data")[0] == 0, "nor later"


def test_a_pack_that_ends_the_process(folder: Path) -> None:
    assert [run(folder, "pack")[0] for _ in range(3)] == [9, 9, 0]
    assert len(list((folder / FOLDER).iterdir())) == 1


def test_a_clean_stop_leaves_nothing_in_hand(folder: Path, batch: Any) -> None:
    folder.mkdir()
    journal = InHand(folder)
    with journal.holding([batch(1), batch(2)]):
        pass
    journal.close()
    journal = InHand(folder)
    assert journal.parts([batch(1), batch(2)]) == [[batch(1), batch(2)]]
    journal.close()


def test_innocent_messages_are_cleared_after_one_pass_alone(folder: Path, batch: Any) -> None:
    folder.mkdir()
    some = [batch(seq) for seq in range(1, 5)]
    journal = InHand(folder)
    with journal.holding(some):
        left = (folder / "in-hand").read_bytes()
    journal.close()
    (folder / "in-hand").write_bytes(left)  # as the end of the process leaves it
    journal = InHand(folder)
    assert journal.parts([*some, batch(9)]) == [[some[0]], [some[1]], [some[2]], [some[3]], [batch(9)]]
    for part in journal.parts(some):
        with journal.holding(part):
            pass
    assert journal.parts(some) == [some]
    journal.close()


@pytest.mark.parametrize("raw", [b"", b"\xff" * 7, b"\xff" * 4000, b"\0" * 16 + b"\1\0\0\0", b"\1" * 40])
def test_a_damaged_file_harms_nothing(folder: Path, batch: Any, raw: bytes) -> None:
    folder.mkdir()
    for name in ("in-hand", "in-hand.json"):
        (folder / name).write_bytes(raw)
    journal = InHand(folder)
    assert journal.parts([batch(1), batch(2)]) == [[batch(1), batch(2)]]
    journal.close()


def test_the_number_is_read_without_decoding_the_body() -> None:
    import gzip

    body = b'{"v":1,"ep":"00112233aabbccdd","seq":17,"f":' + b"[" * 100_000
    for one in (body, gzip.compress(body)):
        found = _head_number(one)
        assert found is not None
        assert (found.ep, found.seq) == ("00112233aabbccdd", 17)
    assert _head_number(b"\x1f\x8b broken") is None
    assert _head_number(b"[[[") is None
