"""JSON bodies: reads that of a change into a struct, within limits of size and time, and makes answers."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

MOST = 65_536  # bytes
READ_S = 10.0

T = TypeVar("T")


async def read_body(request: Request, kind: type[T], most: int = MOST) -> T:
    """The body as `kind`.

    Raises:
        HTTPException: 415 it is not JSON, 413 it is too large, 408 it is too slow, 400 it is wrong.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HTTPException(415, "send the body as application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(READ_S):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise HTTPException(413, f"the body has more than {most} bytes")
    except TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {READ_S:.0f} s") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection ended within the body") from error
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body is wrong: {str(error)[:200]}") from error


def json_answer(body: object, status: int = 200) -> Response:
    """An answer with a JSON body."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")
