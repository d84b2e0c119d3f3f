"""The signed statement of a node about the messages it has taken: the body of `event/_/custody`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, UnsetType

from wire.errors import WireError
from wire.messages import Epoch, Seq

CUSTODY = "custody"
MAX_STREAMS = 1_000  # of one statement: more would not fit into a message

Count = Annotated[int, Meta(ge=0, le=2**62)]
Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Statement(Struct, kw_only=True, omit_defaults=True):
    """`detail` of a custody event: what one run of a daemon took in one part of a UTC day.

    A part is the sequence numbers `first..upto`. `streams` maps the tail of a topic (`data/arm/joints`) to
    the number of its messages, and the numbers of their first and last row. `prev` is the SHA-256 of the
    previous statement in this run, "" for the first. The counters are those of the whole outbox at the time
    of the statement. `sig` is an Ed25519 signature of `signed_form`.
    """

    v: Annotated[int, Meta(ge=1)] = 1
    n: Seq
    prev: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    key: Key
    boot: Epoch
    run: Seq
    day: Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
    first: Seq
    upto: Seq
    streams: dict[Annotated[str, Meta(max_length=128)], tuple[Seq, Seq, Seq]]
    stored: Count = 0  # every number up to here is on the disk of the node, or declared lost there
    acked: Count = 0  # every number up to here is acknowledged
    sent: Count = 0  # messages sent since the daemon started, repetitions included
    # since the daemon started: class -> reason -> messages, rows
    dropped: dict[str, dict[str, tuple[Count, Count]]] = {}
    clk: Annotated[int, Meta(ge=0, le=2)] = 0
    sig: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")] | UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not self.run <= self.first <= self.upto:
            raise ValueError("run, first and upto are not in ascending order")
        if len(self.streams) > MAX_STREAMS:
            raise ValueError(f"{len(self.streams)} streams; {MAX_STREAMS} are allowed")
        for messages, first, last in self.streams.values():
            if messages > last - first + 1:
                raise ValueError(f"{messages} messages with rows {first}..{last}: some would be empty")


def read(detail: Mapping[str, Any]) -> Statement:
    """The statement in the `detail` of an event.

    Raises:
        WireError: `detail` is not a statement.
    """
    try:
        return msgspec.convert(dict(detail), Statement)
    except msgspec.ValidationError as error:
        raise WireError(f"not a custody statement: {error}") from error


def signed_form(detail: Mapping[str, Any], node: str, ep: str) -> bytes:
    """The bytes that are signed: `detail` without `sig`, with `node` and `ep`, keys sorted, no spaces.

    A statement has only whole numbers and ASCII text, so every JSON library writes the same bytes.
    """
    stated = {name: value for name, value in detail.items() if name != "sig"}
    return msgspec.json.encode({**stated, "node": node, "ep": ep}, order="sorted")


def digest(form: bytes) -> str:
    """The hash that the next statement carries as `prev`."""
    return hashlib.sha256(form).hexdigest()


def key_id(key: str) -> str:
    """The short form of a public key for people: the first 16 digits of its SHA-256."""
    return hashlib.sha256(bytes.fromhex(key)).hexdigest()[:16]
