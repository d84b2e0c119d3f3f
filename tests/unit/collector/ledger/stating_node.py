"""A node that sends numbered messages and signed statements, for the tests of this room."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from collector.mqtt.received import Received
from wire.codec import encode
from wire.custody import digest, signed_form
from wire.messages import Batch, Event
from wire.topics import parse

NODE, OTHER, EP = "acme/trial/hall/cobot-01", "acme/trial/hall/cobot-02", "00112233aabbccdd"


T0 = 1_795_356_000_000


KEY = Ed25519PrivateKey.from_private_bytes(b"1" * 32)


NEW_KEY = Ed25519PrivateKey.from_private_bytes(b"2" * 32)


class Node:
    """Makes an agent's messages: numbers, rows, statements; the test sends them or not."""

    def __init__(self, *, node: str = NODE, ep: str = EP, key: Ed25519PrivateKey = KEY, run: int = 1) -> None:
        self.node, self.ep, self.key = node, ep, key
        self.restart(run)

    def restart(self, run: int = 0) -> None:
        self.seq = run - 1 if run else self.seq
        self.run = self.seq + 1
        self.n, self.prev, self.rows = 0, "", dict[str, int]()
        self.turn("2026-11-22")

    def turn(self, day: str) -> None:
        self.day, self.first, self.streams = day, self.seq + 1, dict[str, list[int]]()

    def number(self, stream: str, rows: int) -> tuple[int, tuple[int, int]]:
        self.seq += 1
        first = self.rows.get(stream, 0) + 1
        self.rows[stream] = first + rows - 1
        known = self.streams.setdefault(stream, [0, first, 0])
        known[0], known[2] = known[0] + 1, first + rows - 1
        return self.seq, (self.run, first)

    def data(self, rows: int = 10, stream: str = "joints") -> Received:
        seq, no = self.number(f"data/arm/{stream}", rows)
        body = encode(Batch(ep=self.ep, seq=seq, no=no, t0=T0, per=20, n=rows, f={"j1": [1.0] * rows}))
        return received(f"tb1/{self.node}/data/arm/{stream}", body, T0 + seq)

    def detail(self, **changes: Any) -> dict[str, Any]:
        self.n += 1
        said: dict[str, Any] = {
            "v": 1, "n": self.n, "prev": self.prev, "key": self.key.public_key().public_bytes_raw().hex(),
            "boot": "00ff00ff", "run": self.run, "day": self.day, "first": self.first, "upto": self.seq,
            "streams": {name: list(three) for name, three in self.streams.items()}, "clk": 1, **changes,
        }  # fmt: skip
        form = signed_form(said, self.node, self.ep)
        self.prev = digest(form)
        return {**said, "sig": self.key.sign(form).hex()}

    def state(self, **changes: Any) -> Received:
        detail = self.detail(**changes)
        seq, no = self.number("event/_/custody", 1)
        return self.event("custody", seq, no, detail=detail)

    def gap(self, lost: list[tuple[int, int]]) -> Received:
        seq, no = self.number("event/_/gap", 1)
        return self.event("gap", seq, no, lost=lost, why="quota")

    def event(self, kind: str, seq: int, no: tuple[int, int], **fields: Any) -> Received:
        event = Event(ep=self.ep, seq=seq, no=no, ts=T0 + seq, type=kind, **fields)
        return received(f"tb1/{self.node}/event/_/{kind}", encode(event), T0 + seq)


def received(topic: str, body: bytes, at_ms: int) -> Received:
    return Received(topic, body, at_ms, False, (1, 1), parsed=parse(topic))
