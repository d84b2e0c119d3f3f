"""Takes a pack apart: each message in it is handled as if it had arrived alone."""

from __future__ import annotations

import functools

from collector.ingest.inbox import Received
from collector.mqtt.connection import Incoming
from wire.codec import decode
from wire.errors import WireError
from wire.messages import MAX_BODY, Pack
from wire.topics import Topic, parse

NUMBERED = ("data", "event")

parse_topic = functools.lru_cache(maxsize=65_536)(parse)


def unpack(message: Incoming, topic: Topic) -> list[Received]:
    """The messages of a pack in their order; one with a wrong topic gets a `fault`.

    The last one carries the pack's token: messages are committed in order, so settling it settles the pack.

    Raises:
        WireError: the body is not a pack.
    """
    if len(message.body) > MAX_BODY:
        raise WireError(f"body of {len(message.body)} bytes; {MAX_BODY} are allowed")
    base, found = topic.address.base, []
    packed = decode(message.body, Pack).m
    for at, (tail, raw) in enumerate(packed, 1):
        token = message.token if at == len(packed) else None
        one = Incoming(f"{base}/{tail}", bytes(raw), message.recv_ms, message.retained, token, message.dup)
        try:
            inner = parse_topic(one.topic)
        except WireError as error:
            found.append(Received(one, None, str(error)))
            continue
        fault = (
            "" if inner.cls in NUMBERED else f"class {inner.cls!r} in a pack; only data and event are allowed"
        )
        found.append(Received(one, inner, fault))
    return found
