"""Encode and decode message bodies: JSON, optionally gzip or zstd, with limits against hostile senders."""

from __future__ import annotations

import gzip
import math
import zlib
from typing import TypeVar

import msgspec
from msgspec import Struct

from wire.errors import WireError
from wire.messages import BODIES, MAX_BODY, MAX_MS, Live, Scalar
from wire.topics import FIELD

MAX_PLAIN = 1_048_576  # bytes after decompression: a body of MAX_BODY never needs more, a bomb does
COMPRESS_FROM = 512  # bytes; below it a compressed body is larger than the plain one
GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW = (
    8 << 20
)  # bytes: what RFC 8878 asks every reader to support; zstd's own default level needs 2 MiB
_SEAL = b',"crc":"'  # eight hexadecimal digits and `"}` follow
_SEALED = len(_SEAL) + 10

_encoder = msgspec.json.Encoder()
_decoders = {body: msgspec.json.Decoder(body) for body in BODIES.values()}
_live_decoder = msgspec.json.Decoder(dict[str, Scalar])

M = TypeVar("M", bound=Struct)


def encode(message: Struct | Live) -> bytes:
    """UTF-8 JSON; NaN and infinities travel as null."""
    return _encoder.encode(message)


def decode(body: bytes, kind: type[M]) -> M:
    """Read a body of any encoding the contract allows.

    Raises:
        WireError: not of this kind; the text says where.
    """
    return decode_plain(plain(body), kind)


def decode_plain(text: bytes, kind: type[M]) -> M:
    """Read what `plain` returned.

    Raises:
        WireError: not of this kind; the text says where.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        raise TypeError(f"{kind.__name__} is not a body of the wire contract")
    try:
        return decoder.decode(unsealed(text))  # type: ignore[return-value]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a {kind.__name__}: {error}") from error


def decode_live(body: bytes, *, sealed: bool = False) -> Live:
    """Read a flat live body. `sealed` is for heartbeats: their `crc` is a checksum, not a field of a device.

    Raises:
        WireError: not flat JSON with a `ts` in milliseconds.
    """
    try:
        live = _live_decoder.decode(unsealed(plain(body)) if sealed else plain(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a flat live body: {error}") from error
    ts = live.get("ts")
    if not isinstance(ts, int) or isinstance(ts, bool) or not 0 <= ts <= MAX_MS:
        raise WireError("a live body needs ts, integer milliseconds before the year 10000")
    for name, value in live.items():
        if not FIELD.fullmatch(name):
            raise WireError(f"live field name {name!r} is not [a-z][a-z0-9_]*")
        if isinstance(value, float) and not math.isfinite(value):
            raise WireError(f"live field {name!r} is not finite")
    return live


def seal(body: bytes) -> bytes:
    """The JSON object with the CRC-32 of its bytes as last field, so that a reader detects damaged bytes.

    The checksum of TCP has 16 bits and misses some damage, and a changed digit is still valid JSON. TLS, gzip
    and zstd detect every change; the seal is for bodies without them.
    """
    return b'%s,"crc":"%08x"}' % (body[:-1], zlib.crc32(body)) if len(body) > 2 else body


def unsealed(body: bytes) -> bytes:
    """The JSON object without its seal; unchanged if it has none.

    Raises:
        WireError: the checksum does not match the bytes.
    """
    if body[-_SEALED : 8 - _SEALED] != _SEAL:
        return body
    inner = body[:-_SEALED] + b"}"
    if body[-10:] != b'%08x"}' % zlib.crc32(inner):
        raise WireError("the body was damaged in transit: its checksum does not match")
    return inner


def compress(body: bytes) -> bytes:
    """The body as gzip where that is smaller, else sealed; both have a checksum. For `data` and `event`."""
    if len(body) < COMPRESS_FROM:
        return seal(body)
    # level 4: 7 kB of columns to 40 % in 75 us; 6 needs 225 us for 38 %, 1 needs 55 us for 43 %
    packed = gzip.compress(body, compresslevel=4, mtime=0)
    return packed if len(packed) < len(body) else seal(body)


def plain_size(body: bytes) -> int:
    """The number of bytes that `plain` returns at most, without decompressing."""
    size = len(body)
    if size > MAX_BODY:
        return size
    if body.startswith(GZIP):
        size = max(size, int.from_bytes(body[-4:], "little"))
    elif body.startswith(_ZSTD):
        size = max(size, _declared(body))
    return min(size, MAX_PLAIN)


def first_bytes(body: bytes, count: int) -> bytes:
    """The first bytes of a JSON body, which may be gzip and is not read any further; none of a broken one."""
    if not body.startswith(GZIP):
        return body[:count]
    try:
        return zlib.decompressobj(wbits=31).decompress(body, count)
    except zlib.error:
        return b""


def plain(body: bytes) -> bytes:
    """Decompress gzip or zstd, detected by the first bytes; JSON is returned unchanged.

    Raises:
        WireError: too large, broken, or a decompression bomb.
    """
    if len(body) > MAX_PLAIN:
        raise WireError(f"body of {len(body)} bytes; {MAX_BODY} are allowed")
    if body.startswith(GZIP):
        return _gunzip(body)
    if body.startswith(_ZSTD):
        return _unzstd(body)
    return body


def _gunzip(body: bytes) -> bytes:
    size = int.from_bytes(body[-4:], "little")  # gzip ends with it
    if size > MAX_PLAIN:
        raise WireError(f"gzip body is cut off or unpacks to more than {MAX_PLAIN} bytes")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        out = unpacker.decompress(body, size + 1)
    except zlib.error as error:
        raise WireError(f"broken gzip body: {error}") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise WireError(f"gzip body is cut off or unpacks to more than {size} bytes")
    if unpacker.unused_data:
        raise WireError("bytes after the end of a gzip body")
    return out


def _declared(body: bytes) -> int:
    """The size in the head of a zstd body; MAX_PLAIN where it has none or cannot be read."""
    try:
        import zstandard
    except ImportError:
        return MAX_PLAIN
    try:
        size: int = zstandard.frame_content_size(body)
    except zstandard.ZstdError:
        return MAX_PLAIN
    return MAX_PLAIN if size < 0 else size


def _unzstd(body: bytes) -> bytes:
    try:
        import zstandard  # the collector's extra: no agent reads zstd
    except ImportError as error:
        raise WireError(
            "the body is zstd, and zstandard is not installed: pip install 'edgebed[collector]'"
        ) from error
    try:
        size = zstandard.frame_content_size(body)
        if size > MAX_PLAIN:
            raise WireError(f"zstd body unpacks to {size} bytes; {MAX_PLAIN} are allowed")
        unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        # without a declared size it is unpacked in steps: 64 bytes give 2 MiB at most
        step, at, out = (64 if size < 0 else len(body)), 0, bytearray()
        while at < len(body) and not unpacker.eof:
            out += unpacker.decompress(body[at : at + step])
            at += step
            if len(out) > MAX_PLAIN:
                raise WireError(f"zstd body unpacks to more than {MAX_PLAIN} bytes")
        if not unpacker.eof:
            raise WireError("zstd body is cut off")
        if unpacker.unused_data or at < len(body):
            raise WireError("bytes after the end of a zstd body")
        return bytes(out)
    except zstandard.ZstdError as error:
        raise WireError(f"broken zstd body: {error}") from error
