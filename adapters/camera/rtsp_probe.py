"""Asks an RTSP server for its stream before OpenCV does, whose only error would be "not opened"."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from adapters.base import DeviceUnreachable, OptionsError, ProtocolViolation

_MAX_HEAD = 8_192  # bytes of an answer up to the blank line
_MAX_BODY = 65_536
_PORTS = {"rtsp": 554, "rtsps": 322}


def parts_of(url: str) -> SplitResult:
    """Split a URL into its parts.

    Raises:
        OptionsError: it is not rtsp:// or rtsps:// with a host; the text contains nothing of the URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise OptionsError(
            "url has an impossible host or port: it must be like rtsp://host:554/path"
        ) from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise OptionsError("url must be rtsp://host:port/path or rtsps://host:port/path")
    if any(letter.isspace() or not letter.isprintable() for letter in url):
        raise OptionsError("url holds a blank or a control character: write it as %20")
    return parts


def name_of(url: str) -> str:
    """The part of a URL that may be shown: no user, password, path or query, which can hold secrets."""
    parts = parts_of(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"camera {parts.scheme}://{host}:{parts.port or _PORTS[parts.scheme]}"


async def probe(url: str, timeout_s: float, ca_file: Path | None = None) -> bool:
    """Whether the server asks for a password. Returns only when it offers a video, or may after a password.

    Raises:
        OptionsError: `ca_file` cannot be used.
        DeviceUnreachable: no answer, or no such stream.
        ProtocolViolation: the server is not a camera.
    """
    name = name_of(url)
    tls = _tls(ca_file) if parts_of(url).scheme == "rtsps" else None
    try:
        async with asyncio.timeout(timeout_s):
            status, body = await _describe(url, tls)
    except TimeoutError as error:
        raise DeviceUnreachable(
            f"{name} does not answer within {timeout_s:g} s: check its power, cable and address"
        ).at(name, error) from error
    except ConnectionRefusedError as error:
        raise DeviceUnreachable(f"{name} refuses connections: is it on, and the port right?").at(
            name, error
        ) from error
    except socket.gaierror as error:
        raise DeviceUnreachable(f"{name}: the host name is unknown: is it spelled right?").at(
            name, error
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise ProtocolViolation(f"{name} shows a certificate that ca_file does not vouch for") from error
    except ssl.SSLError as error:
        raise DeviceUnreachable(f"{name} does not speak TLS: try rtsp:// instead of rtsps://") from error
    except asyncio.IncompleteReadError as error:
        raise DeviceUnreachable(f"{name} closes the connection without an answer") from error
    except OSError as error:
        raise DeviceUnreachable(f"{name} cannot be reached: {error.strerror or error}").at(
            name, error
        ) from error
    except _NotRtspError as error:
        raise ProtocolViolation(f"{name} answers, but not in RTSP: is the port right?") from error
    _judge(name, url, status, body)
    return status == 401


def _judge(name: str, url: str, status: int, body: bytes) -> None:
    if status == 401 and not parts_of(url).username:
        raise DeviceUnreachable(f"{name} requires a user and password: rtsp://user:password@host:port/path")
    if status == 404:
        raise DeviceUnreachable(f"{name} has no such stream: check the path of url")
    if status == 200 and b"m=video" not in body:
        raise ProtocolViolation(f"{name} offers no video")
    if status not in (200, 401, 301, 302, 303):
        raise DeviceUnreachable(f"{name} refuses the stream with status {status}")


async def _describe(url: str, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    """The status and body of the answer to DESCRIBE without a password."""
    parts = parts_of(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=_MAX_HEAD)
    try:
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        lines = (f"DESCRIBE {bare} RTSP/1.0", "CSeq: 1", "Accept: application/sdp", "User-Agent: edgebed")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return await _answer(reader)
    finally:
        writer.transport.abort()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first = await reader.readexactly(5)
    if first != b"RTSP/":
        raise _NotRtspError
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _NotRtspError from None
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) < 2 or not words[1].isdecimal() or len(words[1]) != 3:
        raise _NotRtspError
    length = 0
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-length" and value.strip().isdecimal():
            length = min(int(value.strip()[:9]), _MAX_BODY)
    return int(words[1]), await reader.readexactly(length)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # cameras have self-signed certificates with arbitrary names
    if ca_file is None:
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise OptionsError(f"ca_file {ca_file} cannot be used: {error.strerror or error}") from error
    return context


class _NotRtspError(Exception):
    """The bytes are not an RTSP answer."""
