"""A pack taken apart: each message in it is received as if it had come alone."""

from __future__ import annotations

import functools

from collector.ingest.group_builder import Received
from collector.mqtt.link import Incoming
from wire.codec import decode
from wire.errors import WireError
from wire.messages import MAX_BODY, Pack
from wire.topics import Topic, parse

NUMBERED = ("data", "event")

parse_topic = functools.lru_cache(maxsize=65_536)(parse)


def unpack(message: Incoming, topic: Topic) -> list[Received]:
    """The messages of a pack in their order; what is none of its node's is given a fault.

    Settling the last one settles the pack: they are committed in their order.

    Raises:
        WireError: it is no pack.
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
