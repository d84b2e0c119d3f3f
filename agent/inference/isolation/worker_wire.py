"""What an agent and the worker process of a model send each other: one packet for each message.

The packets of a socket of the kind SEQPACKET keep their bounds: neither side can be made to wait for the
rest of a message. The agent treats a worker as hostile: a model may have taken it over.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.inference.declared import MAX_BYTES, MAX_FIELDS, plain, require_declared
from agent.inference.decoders import ModelError, Result
from agent.inference.session import Scanned
from agent.inference.tuning import Tuned
from wire.messages import Field
from wire.topics import FIELD

MAX_PACKET = MAX_BYTES  # bytes; the kernel's buffer of a socket takes a little more
MAX_INLINE = 64 << 10  # bytes of an input that a packet takes; larger ones are in shared memory
KEPT = 4  # parts of the shared memory that a worker keeps mapped: the newest


class Opening(Struct, frozen=True, array_like=True):
    """Agent to worker, first: the package to open."""

    folder: bytes  # names of files need not be text
    hash: str  # of the manifest
    providers: list[str]
    scanned: Scanned | None  # None: the worker scans the file itself


class Job(Struct, frozen=True, array_like=True):
    """Agent to worker: one picture or window; in `data`, or in the part `part` of the shared memory.

    A descriptor of the part comes with the packet, unless the worker has it mapped.
    """

    number: int
    shape: tuple[int, ...]
    dtype: str
    data: bytes = b""
    part: int = 0
    stream: str = ""  # of a model with state: what its windows belong to, and the row at the end of this one
    end: int = 0
    tuned: Tuned | None = None  # the number that the decoder has instead of its own


class Opened(Struct, frozen=True, tag="opened", array_like=True):
    """Worker to agent: the model is open, or why it is not."""

    why: Annotated[str, Meta(max_length=4_000)] = ""
    provider: Annotated[str, Meta(max_length=64)] = ""
    fields: Annotated[dict[str, Field], Meta(max_length=MAX_FIELDS)] = {}
    stateful: bool = False
    wide: bool = False


class Answer(Struct, frozen=True, tag="answer", array_like=True):
    """Worker to agent: the result of the job of this number, or why it has none."""

    number: int
    why: Annotated[str, Meta(max_length=4_000)] = ""
    result: Result | None = None


_opened, _answer = msgspec.msgpack.Decoder(Opened), msgspec.msgpack.Decoder(Answer)
opening, job = msgspec.msgpack.Decoder(Opening), msgspec.msgpack.Decoder(Job)


def packet(message: Struct) -> bytes:
    """The packet of a message.

    Raises:
        ModelError: it is too large.
    """
    body = msgspec.msgpack.encode(message, enc_hook=plain)
    if len(body) > MAX_PACKET:
        raise ModelError(f"its result takes {len(body)} bytes; {MAX_PACKET} are allowed")
    return body


def opened(body: bytes, provider: str) -> Opened:
    """The message of a worker that was asked to open a model.

    Raises:
        ValueError: it is not one, or not for this provider.
    """
    found = _opened.decode(body)
    if not found.why:
        for name in found.fields:
            if not FIELD.fullmatch(name):
                raise ValueError("it declares a field whose name is not one")
        if found.provider != provider:
            raise ValueError(f"it runs on another provider than {provider}")
    return found


def answer(body: bytes, number: int, fields: dict[str, Field]) -> Answer:
    """The answer to the job `number` by a model with these `fields`.

    Raises:
        ValueError: it is not one: garbage, for another job, or beyond what was declared.
    """
    found = _answer.decode(body)
    if found.number != number:
        raise ValueError("it answers a job that it was not given")
    if found.result is not None:
        require_declared(found.result, fields)
    elif not found.why:
        raise ValueError("it gives neither a result nor a reason")
    return found
