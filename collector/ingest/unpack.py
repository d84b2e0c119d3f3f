"""Takes a pack apart: each message in it is handled as if it had arrived alone."""

from __future__ import annotations

import functools

from collector.mqtt.received import Received
from wire.codec import decode
from wire.errors import WireError
from wire.messages import MAX_BODY, Pack
from wire.topics import Topic, parse

NUMBERED = ("data", "event")

parse_topic = functools.lru_cache(maxsize=65_536)(parse)


def unpack(message: Received, topic: Topic) -> list[Received]:
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
        one = Received(f"{base}/{tail}", bytes(raw), message.recv_ms, message.retained, token, message.dup)
        try:
            one.parsed = parse_topic(one.topic)
            if one.parsed.cls not in NUMBERED:
                one.fault = f"class {one.parsed.cls!r} in a pack; only data and event are allowed"
        except WireError as error:
            one.fault = str(error)
        found.append(one)
    return found
