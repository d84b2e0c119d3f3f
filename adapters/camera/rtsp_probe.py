"""Asks an RTSP server for its stream where FFmpeg failed, whose errors say less."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from adapters.base import DeviceUnreachable, OptionsError, ProtocolViolation
from adapters.camera.rtsp_status import sentence
from wire.printable import printable

_MAX_HEAD = 8_192  # bytes of an answer up to the blank line
_MAX_BODY = 65_536
_MAX_LINES = 500  # of a stream's description
# names in RTP of the videos that FFmpeg can receive
_RECEIVED = {
    *("H261", "H263", "H263-1998", "H263-2000", "H264", "H265", "HEVC", "JPEG", "MP4V-ES", "MPV", "MP2T"),
    *("THEORA", "VP8", "VP9", "AV1", "X-SV3V-ES", "X-SORENSON-VIDEO", "X-QT", "X-QUICKTIME", "RAW", "DV"),
    *("MP2P", "MP1S", "VC2"),
}
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


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    challenges: list[str]  # logins that the server accepts
    body: bytes
    certified: str = ""


async def probe(url: str, timeout_s: float, ca_file: Path | None = None) -> str:
    """A host name of the server's certificate, "" without `ca_file`.

    Returns only when the server offers a video, or may do so after a password.

    Raises:
        OptionsError: `ca_file` cannot be used.
        DeviceUnreachable: no answer, or no such stream.
        ProtocolViolation: the server is not a camera.
    """
    name = name_of(url)
    tls = _tls(ca_file) if parts_of(url).scheme == "rtsps" else None
    try:
        async with asyncio.timeout(timeout_s):
            answer = await _describe(url, tls)
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
        raise ProtocolViolation(f"{name} answers, but not in RTSP: {error}") from error
    _judge(name, url, answer)
    return answer.certified


def _judge(name: str, url: str, answer: _Answer) -> None:
    status = answer.status
    if status == 401:
        if not parts_of(url).username:
            raise DeviceUnreachable(
                f"{name} requires a user and password: rtsp://user:password@host:port/path"
            )
        _judge_logins(name, answer.challenges)
    elif status == 200:
        _judge_media(name, answer.body.decode("latin-1"))
    elif status not in (301, 302, 303):
        raise DeviceUnreachable(sentence(name, status))


def _judge_logins(name: str, challenges: list[str]) -> None:
    """Refuse a server whose logins are all unknown to FFmpeg, which would send a wrong one."""
    unknown = []
    for challenge in challenges:
        scheme, _, rest = challenge.strip().partition(" ")
        found = re.search(r'algorithm\s*=\s*"?([\w-]{1,30})', rest, re.IGNORECASE)
        algorithm = found[1].upper() if found else "MD5"
        if scheme.lower() == "basic" or (scheme.lower() == "digest" and algorithm in ("MD5", "MD5-SESS")):
            return
        unknown.append(f"{algorithm} digest" if scheme.lower() == "digest" else printable(scheme, 30))
    if unknown:
        raise DeviceUnreachable(
            f"{name} accepts only a login by {' or '.join(unknown)}, which is not supported: "
            "allow MD5 digest in the camera's settings"
        )


def _judge_media(name: str, description: str) -> None:
    """Refuse a stream without a video, or with one in a format that cannot be received."""
    offered: dict[str, list[str]] = {}  # kind -> formats
    kind = ""
    for line in description.splitlines()[:_MAX_LINES]:
        if line.startswith("m="):
            kind = line[2:].partition(" ")[0]
            offered.setdefault(kind, [])
        elif kind and (found := re.match(r"a=rtpmap:\d+ +([^/\s]{1,40})", line)):
            offered[kind].append(found[1])
    if "video" not in offered:
        instead = " and ".join(
            f"{key} ({', '.join(names)})" if names else key for key, names in offered.items()
        )
        what = f", only {printable(instead, 100)}" if instead else ""
        raise ProtocolViolation(f"{name} offers no video{what}: check the path of url")
    formats = [found.upper() for found in offered["video"]]
    if formats and not _RECEIVED & set(formats):
        raise ProtocolViolation(
            f"{name} sends video as {printable(' or '.join(formats), 100)}, which cannot be read: "
            "set the camera to H.264 or H.265"
        )


async def _describe(url: str, tls: ssl.SSLContext | None) -> _Answer:
    """The answer to DESCRIBE without a password."""
    parts = parts_of(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=_MAX_HEAD)
    try:
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        lines = (f"DESCRIBE {bare} RTSP/1.0", "CSeq: 1", "Accept: application/sdp", "User-Agent: edgebed")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await _answer(reader)
        certificate = writer.get_extra_info("peercert") if tls is not None else None
        return replace(answer, certified=_host_of(certificate or {}))
    finally:
        writer.transport.abort()


def _host_of(certificate: dict[str, Any]) -> str:
    """A host name that the certificate is valid for."""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    names += [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return str(names[0]).replace("*", "camera") if names else ""


async def _answer(reader: asyncio.StreamReader) -> _Answer:
    first = await reader.readexactly(5)
    if first != b"RTSP/":
        raise _NotRtspError(_other_protocol(first))
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _NotRtspError("is the port right?") from None
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) < 2 or not words[1].isdecimal() or len(words[1]) != 3:
        raise _NotRtspError("is the port right?")
    length, challenges = 0, []
    for line in lines[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-length" and value.strip().isdecimal():
            length = min(int(value.strip()[:9]), _MAX_BODY)
        if key.strip().lower() == "www-authenticate":
            challenges.append(value)
    return _Answer(int(words[1]), challenges, await reader.readexactly(length))


def _other_protocol(first: bytes) -> str:
    """What to check where a server begins its answer with these bytes."""
    if first.startswith(b"HTTP/"):
        return "HTTP answers on this port, the stream has another one, usually 554"
    if first[:1] in b"\x15\x16" and first[1:2] == b"\x03":
        return "TLS answers on this port: use rtsps://"
    return "is the port right?"


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
