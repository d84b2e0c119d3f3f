"""JPEG pictures as RTP packets (RFC 2435), with sender reports (RFC 3550)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from wire.clock import NS_PER_S
from wire.errors import EdgebedError

CLOCK_HZ = 90_000  # of RTP timestamps, fixed for video
JPEG_TYPE = 26  # static payload type
MAX_SIDE = 2_040  # px: the header has one byte for a side in units of 8 px

_PAYLOAD = 1_400  # bytes of one packet's payload: fits an Ethernet frame with its headers
_NTP_EPOCH_S = 2_208_988_800  # 1900 to 1970
_TABLES_IN_BAND = 255  # Q value: quantisation tables travel with every picture


class JpegError(EdgebedError):
    """RTP cannot carry this JPEG: not baseline, not 4:2:0 or 4:2:2, or with restart markers."""


@dataclass(frozen=True, slots=True)
class _Scan:
    width: int
    height: int
    kind: int  # RFC 2435: 0 = 4:2:2, 1 = 4:2:0
    tables: bytes
    data: memoryview


class Packetizer:
    """One RTP source: makes, numbers and counts packets.

    Every viewer gets the same packets, so a picture is divided into packets once.
    """

    def __init__(self, ssrc: int, first: int = 0) -> None:
        self.ssrc = ssrc
        self.next = first & 0xFFFF  # number of the next packet
        self.timestamp = 0  # of the newest picture
        self._packets = 0
        self._octets = 0

    def packets(self, jpeg: bytes, timestamp: int) -> list[bytes]:
        """The RTP packets of one picture; `timestamp` in 1/90000 s.

        Raises:
            JpegError: RTP cannot carry this JPEG.
        """
        scan = _parse(jpeg)
        self.timestamp = timestamp & 0xFFFF_FFFF
        out: list[bytes] = []
        at, size = 0, len(scan.data)
        tables = struct.pack("!BBH", 0, 0, len(scan.tables)) + scan.tables
        while at < size:
            room = _PAYLOAD - (len(tables) if at == 0 else 0)
            part = scan.data[at : at + room]
            last = at + len(part) >= size
            out.append(
                struct.pack(
                    "!BBHIIIBBBB",
                    0x80,
                    JPEG_TYPE | (0x80 if last else 0),
                    self.next,
                    self.timestamp,
                    self.ssrc,
                    at,
                    scan.kind,
                    _TABLES_IN_BAND,
                    scan.width // 8,
                    scan.height // 8,
                )
                + (tables if at == 0 else b"")
                + part
            )
            self.next = (self.next + 1) & 0xFFFF
            at += len(part)
        self._packets += len(out)
        self._octets += sum(map(len, out)) - 12 * len(out)
        return out

    def report(self, at_ns: int) -> bytes:
        """A compound RTCP packet: the newest picture has the time `at_ns`, Unix nanoseconds."""
        seconds, rest = divmod(at_ns, NS_PER_S)
        sender = struct.pack(
            "!BBHIIIIII",
            0x80,
            200,
            6,
            self.ssrc,
            (seconds + _NTP_EPOCH_S) & 0xFFFF_FFFF,
            (rest << 32) // NS_PER_S,
            self.timestamp,
            self._packets & 0xFFFF_FFFF,
            self._octets & 0xFFFF_FFFF,
        )
        name = b"edgebed"
        item = struct.pack("!IBB", self.ssrc, 1, len(name)) + name
        item += bytes(4 - len(item) % 4)
        return sender + struct.pack("!BBH", 0x81, 202, len(item) // 4) + item

    def goodbye(self) -> bytes:
        """RTCP BYE."""
        return struct.pack("!BBHI", 0x81, 203, 1, self.ssrc)


def _parse(jpeg: bytes) -> _Scan:
    """Parse a JPEG file: RTP carries the scan and the tables, and the receiver restores the rest."""
    if not jpeg.startswith(b"\xff\xd8"):
        raise JpegError("not a JPEG")
    tables: dict[int, bytes] = {}
    shape: tuple[int, int, int] | None = None
    at = 2
    while at + 4 <= len(jpeg):
        marker, size = struct.unpack_from("!HH", jpeg, at)
        body = jpeg[at + 4 : at + 2 + size]
        if marker == 0xFFDB:
            tables.update(_quantisers(body))
        elif marker == 0xFFC0:
            shape = _shape(body)
        elif marker == 0xFFDD and body != b"\0\0":
            raise JpegError("the JPEG has restart markers")
        elif 0xFFC1 <= marker <= 0xFFCF and marker != 0xFFC4:
            raise JpegError("the JPEG is not a baseline JPEG")
        elif marker == 0xFFDA:
            if shape is None or sorted(tables) != [0, 1]:
                raise JpegError("the JPEG has no frame header, or not two tables")
            end = jpeg.rfind(b"\xff\xd9")
            data = memoryview(jpeg)[at + 2 + size : end if end > 0 else len(jpeg)]
            return _Scan(*shape, tables=tables[0] + tables[1], data=data)
        at += 2 + size
    raise JpegError("the JPEG ends before its picture")


def _quantisers(body: bytes) -> dict[int, bytes]:
    found = {}
    for at in range(0, len(body) - 64, 65):
        if body[at] >> 4:
            raise JpegError("the JPEG has 16 bit tables")
        found[body[at] & 15] = body[at + 1 : at + 65]
    return found


def _shape(body: bytes) -> tuple[int, int, int]:
    if len(body) < 15:
        raise JpegError("the JPEG has a short frame header, or not three colours")
    height, width = struct.unpack_from("!HH", body, 1)
    kind = {0x21: 0, 0x22: 1}.get(body[7])
    if kind is None or body[5] != 3 or body[10] != 0x11 or body[13] != 0x11:
        raise JpegError("the JPEG is neither 4:2:0 nor 4:2:2")
    if width > MAX_SIDE or height > MAX_SIDE or width % 8 or height % 8:
        raise JpegError(f"the JPEG has {width}x{height} px; sides must be multiples of 8 up to {MAX_SIDE}")
    return width, height, kind
