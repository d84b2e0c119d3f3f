"""Print the rows of all nodes of a pilot as they arrive, once each.

Run it with `python rows.py mqtt://HOST TENANT/PILOT`. It reads single messages and packs,
and needs `pip install "edgebed[subscriber]"`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import zstandard

LARGEST = 1_048_576  # bytes of a body when it is unpacked
REMEMBERED = 100_000  # messages: one may come again if its acknowledgement was lost


def unpacked(body: bytes) -> dict[str, Any]:
    """The content of a body, which may be compressed; raises ValueError."""
    if body.startswith(b"\x1f\x8b"):
        body = zlib.decompressobj(wbits=31).decompress(body, LARGEST)
    elif body.startswith(b"\x28\xb5\x2f\xfd"):
        body = zstandard.ZstdDecompressor().decompress(body, max_output_size=LARGEST)
    content = json.loads(body)
    if not isinstance(content, dict):
        raise TypeError("it is not an object")
    return content


def batches(topic: str, body: bytes) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Node, stream and content of each batch in a message."""
    _, tenant, pilot, site, node, kind, *rest = topic.split("/")
    content = unpacked(body)
    each = content["m"] if kind == "pack" else [["/".join((kind, *rest)), content]]
    for tail, batch in each:
        kind, _, stream = tail.partition("/")
        if kind == "data":
            yield f"{tenant}/{pilot}/{site}/{node}", stream, batch


def rows(batch: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Time (Unix, in ms) and values of each row of a batch; a value is None if the device sent none."""
    unit = 1_000 if batch.get("tu") == "us" else 1
    offsets = batch["dt"] if "dt" in batch else [at * batch["per"] for at in range(batch["n"])]
    for at, offset in enumerate(offsets):
        yield batch["t0"] + offset / unit, {name: column[at] for name, column in batch["f"].items()}


async def main(url: str, pilot: str) -> None:
    """Subscribe to the data of a pilot, and print them until the broker ends the connection."""
    address = urlsplit(url)
    seen: dict[tuple[str, str, int], None] = {}  # node, ep and seq, the oldest first
    async with aiomqtt.Client(address.hostname or "", address.port or 1883) as client:
        await client.subscribe([(f"tb1/{pilot}/+/+/data/#", 1), (f"tb1/{pilot}/+/+/pack", 1)])
        print("subscribed", flush=True)
        async for message in client.messages:
            try:
                found = list(batches(str(message.topic), bytes(message.payload)))
                for node, stream, batch in found:
                    number = node, batch["ep"], batch["seq"]
                    if number in seen:
                        continue
                    seen[number] = None
                    if len(seen) > REMEMBERED:
                        del seen[next(iter(seen))]
                    for at_ms, values in rows(batch):
                        print(node, stream, at_ms, json.dumps(values), flush=True)
            except (ValueError, TypeError, LookupError, zlib.error, zstandard.ZstdError) as error:
                print(f"{message.topic}: not a batch ({error})", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
