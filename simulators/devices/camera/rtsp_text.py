"""The text of RTSP: reads requests within limits, writes answers, frames packets between them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

MAX_HEAD = 8_192  # bytes of a request up to the blank line; also the limit of the stream it is read from
_MAX_BODY = 4_096

Headers = list[tuple[str, str]]
_REASONS = {
    200: "OK",
    400: "Bad RtspRequest",
    401: "Unauthorized",
    404: "Not Found",
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    461: "Unsupported Transport",
    501: "Not Implemented",
    505: "RTSP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class RtspRequest:
    method: str
    url: str
    version: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def cseq(self) -> str:
        word = self.headers.get("cseq", "0")
        return word if word.isdigit() and len(word) < 12 else "0"


class RtspRefused(Exception):
    """The error answer to a request."""

    def __init__(self, status: int, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


async def read_request(reader: asyncio.StreamReader) -> RtspRequest | None:
    """Read the next request; None for an interleaved packet or a blank line, which are discarded."""
    first = await reader.readexactly(1)
    if first == b"$":
        head = await reader.readexactly(3)
        await reader.readexactly(int.from_bytes(head[1:], "big"))
        return None
    if first in b"\r\n":
        return None
    try:
        head = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise RtspRefused(400, f"the request has more than {MAX_HEAD} bytes") from error
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("RTSP/"):
        raise RtspRefused(400, "not RTSP")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if not (length.isdigit() and len(length) < 8 and int(length) <= _MAX_BODY):
        raise RtspRefused(400, f"the body has more than {_MAX_BODY} bytes")
    await reader.readexactly(int(length))
    return RtspRequest(words[0], words[1], words[2], headers)


def response(status: int, cseq: str, headers: Headers, body: bytes = b"") -> bytes:
    lines = [f"RTSP/1.0 {status} {_REASONS[status]}", f"CSeq: {cseq}", "Server: edgebed"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def framed(channel: int, packet: bytes) -> bytes:
    return b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet


def pair(text: str, highest: int) -> tuple[int, int]:
    low, _, high = text.partition("-")
    high = high or str(int(low) + 1 if low.isdigit() and len(low) < 6 else "")
    if not (low.isdigit() and high.isdigit() and len(low) < 6 and len(high) < 6):
        raise RtspRefused(400, f"a pair of numbers is needed, not {text[:20]!r}")
    if int(low) > highest or int(high) > highest:
        raise RtspRefused(400, f"numbers up to {highest} are possible, not {text[:20]!r}")
    return int(low), int(high)
