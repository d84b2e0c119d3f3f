"""An RTSP server (RFC 2326) for one live video over TCP (interleaved) or UDP, with limits for clients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import re
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from simulators.devices.camera.rtp import CLOCK_HZ, JPEG_TYPE, Packetizer
from simulators.devices.camera.rtsp_text import (
    MAX_HEAD,
    Headers,
    RtspRefused,
    RtspRequest,
    framed,
    pair,
    read_request,
    response,
)
from simulators.devices.running import listening
from wire.errors import Unreachable
from wire.task_cancellation import end

MAX_VIEWERS = 32
SESSION_S = 60.0  # a viewer that sends nothing for this time is dropped (RFC 2326, 12.37)
_BEHIND = 1_048_576  # unsent bytes of one viewer: with more it misses pictures
_REPORT_S = 5.0
_METHODS = ("OPTIONS", "DESCRIBE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER")


class RtspServer:
    """Serves `rtsp://host:port/path`; `publish` sends one picture to every viewer that plays.

    `counters`: viewers that were too many and were refused, or too slow and were dropped, pictures they
    missed before that, requests that were refused.
    """

    def __init__(
        self,
        path: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate_hz: float = 10.0,
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
        session_s: float = SESSION_S,
        slow_s: float = 10.0,
    ) -> None:
        self.path, self.host, self.port = path.strip("/"), host, port
        self.rate_hz = rate_hz
        self.counters = dict.fromkeys(
            ("viewers_refused", "viewers_dropped", "pictures_missed", "requests_refused"), 0
        )
        self.someone_plays = asyncio.Event()
        self.is_busy: Callable[[], bool] = bool  # whether new viewers are refused
        self.session_s, self._slow_s = session_s, slow_s
        self._login = base64.b64encode(f"{user}:{password}".encode()) if user or password else b""
        self._tls = tls
        self.source = Packetizer(secrets.randbits(32), secrets.randbits(16))
        self._viewers: dict[asyncio.Task[None], _Viewer] = {}
        self._server: asyncio.Server | None = None
        self._udp: tuple[asyncio.DatagramTransport, asyncio.DatagramTransport] | None = None
        self._outlet = _Outlet()
        self._reported = -1e9

    @property
    def url(self) -> str:
        """The URL for viewers, without credentials."""
        scheme = "rtsps" if self._tls else "rtsp"
        return f"{scheme}://{self.host}:{self.port}/{self.path}"

    @property
    def viewers(self) -> int:
        """The number of connections, playing or not."""
        return len(self._viewers)

    def publish(
        self, jpeg: bytes, timestamp: int, at_ns: int, loses: Callable[[], bool] | None = None
    ) -> None:
        """Send a picture taken at `at_ns` (Unix nanoseconds); `timestamp` in 1/90000 s.

        `loses` decides for each packet whether it is lost.

        Raises:
            JpegError: RTP cannot carry this JPEG.
        """
        packets = self.source.packets(jpeg, timestamp)
        if loses is not None:
            packets = [packet for packet in packets if not loses()]
        now = asyncio.get_running_loop().time()
        report = b""
        if now - self._reported >= _REPORT_S:
            report, self._reported = self.source.report(at_ns), now
        for viewer in self._viewers.values():
            if viewer.playing:
                self._send(viewer, packets, report or viewer.first_report(self.source, at_ns), now)

    async def __aenter__(self) -> Self:
        with listening("the camera", self.host, self.port):
            self._server = await asyncio.start_server(
                self._welcome, self.host, self.port, limit=MAX_HEAD, ssl=self._tls, backlog=64
            )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for viewer in self._viewers.values():
            if viewer.playing:
                self._send(viewer, [], self.source.goodbye(), 0.0)
        await end(self._viewers)
        for transport in self._udp or ():
            transport.close()
        self._udp = None
        await asyncio.sleep(0)  # transports close their sockets one turn later

    # --- pictures out

    def _send(self, viewer: _Viewer, packets: list[bytes], report: bytes, now: float) -> None:
        if viewer.udp is not None and self._udp is not None:
            (host, rtp, rtcp), (data, control) = viewer.udp, self._udp
            if self._outlet.full:
                self.counters["pictures_missed"] += 1
                return
            if report:
                control.sendto(report, (host, rtcp))
            for packet in packets:
                data.sendto(packet, (host, rtp))
            return
        transport = viewer.writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > _BEHIND:
            self.counters["pictures_missed"] += 1
            viewer.slow_since = viewer.slow_since or now
            if now - viewer.slow_since >= self._slow_s:
                self.counters["viewers_dropped"] += 1
                transport.abort()
            return
        viewer.slow_since = 0.0
        parts = [framed(viewer.channel + 1, report)] if report else []
        parts += [framed(viewer.channel, packet) for packet in packets]
        viewer.writer.write(b"".join(parts))

    # --- requests in

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._viewers) >= MAX_VIEWERS:
            self.counters["viewers_refused"] += 1
            writer.transport.abort()
            return
        viewer = _Viewer(reader, writer)
        task = asyncio.create_task(self._serve(viewer), name="rtsp-viewer")
        self._viewers[task] = viewer
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._viewers.pop(task, None)
        self._note_players()

    def _note_players(self) -> None:
        if any(viewer.playing for viewer in self._viewers.values()):
            self.someone_plays.set()
        else:
            self.someone_plays.clear()

    async def _serve(self, viewer: _Viewer) -> None:
        loop = asyncio.get_running_loop()
        viewer.heard = loop.time()
        try:
            while True:
                try:
                    async with asyncio.timeout_at(viewer.heard + self.session_s):
                        request = await read_request(viewer.reader)
                except TimeoutError:
                    if loop.time() - viewer.heard < self.session_s:
                        continue  # an RTCP report came over UDP
                    return
                viewer.heard = loop.time()
                if request is not None and not await self._answer(viewer, request):
                    return
        except RtspRefused as error:  # this is not RTSP: the start of the next request is unknown
            self.counters["requests_refused"] += 1
            viewer.writer.write(response(error.status, "0", [("X-Reason", error.reason)]))
        except (OSError, EOFError):
            return  # the viewer disconnected
        finally:
            viewer.playing = False
            viewer.writer.close()

    async def _answer(self, viewer: _Viewer, request: RtspRequest) -> bool:
        """Answer a request; return whether the connection continues."""
        try:
            self._check(request)
            headers, body = await self._handle(viewer, request)
            viewer.writer.write(response(200, request.cseq, headers, body))
            if request.method == "PLAY":
                viewer.playing = True
                self._note_players()
        except RtspRefused as error:
            self.counters["requests_refused"] += 1
            headers = [*error.headers, ("X-Reason", error.reason)]
            viewer.writer.write(response(error.status, request.cseq, headers))
        if viewer.writer.transport.get_write_buffer_size() > 2 * _BEHIND:
            return False  # it sends requests without reading the answers
        return request.method != "TEARDOWN"

    def _check(self, request: RtspRequest) -> None:
        if request.version != "RTSP/1.0":
            raise RtspRefused(505, "use RTSP/1.0")
        if request.method not in _METHODS:
            raise RtspRefused(501, "no such method", ("Public", ", ".join(_METHODS)))
        if request.method == "OPTIONS":
            return
        if self._login and not self._allowed(request):
            raise RtspRefused(401, "wrong or no password", ("WWW-Authenticate", 'Basic realm="edgebed"'))
        if not self._is_served(request.url):
            raise RtspRefused(404, f"the stream is /{self.path}")

    async def _handle(self, viewer: _Viewer, request: RtspRequest) -> tuple[Headers, bytes]:
        if request.method == "OPTIONS":
            return [("Public", ", ".join(_METHODS))], b""
        if request.method == "DESCRIBE":
            headers = [("Content-Type", "application/sdp"), ("Content-Base", self._base(request.url))]
            return headers, self._description()
        if request.method == "SETUP":
            reply = await self._set_up(viewer, request)
            return [("Transport", reply), self._session(viewer)], b""
        named = request.headers.get("session", "").partition(";")[0].strip()
        if not viewer.session or named != viewer.session:
            raise RtspRefused(454, "send SETUP first, on the same connection")
        if request.method == "PLAY":
            info = f"url={self._base(request.url)}track0;seq={self.source.next}"
            return [self._session(viewer), ("Range", "npt=now-"), ("RTP-Info", info)], b""
        if request.method in ("PAUSE", "TEARDOWN"):
            viewer.playing = False
            self._note_players()
        return [self._session(viewer)], b""

    async def _set_up(self, viewer: _Viewer, request: RtspRequest) -> str:
        """Choose a transport; return the Transport header."""
        if viewer.playing:
            raise RtspRefused(455, "the session plays already")
        if self.is_busy():
            raise RtspRefused(453, "no bandwidth is left")
        for offer in request.headers.get("transport", "").split(","):
            words = [word.strip().lower() for word in offer.split(";")]
            values = dict(word.split("=", 1) for word in words if "=" in word)
            if "multicast" in words:
                continue
            if words[0] == "rtp/avp/tcp":
                low, _ = pair(values.get("interleaved", "0-1"), 254)
                reply = f"RTP/AVP/TCP;unicast;interleaved={low}-{low + 1}"
                viewer.channel, viewer.udp = low, None
            elif words[0] in ("rtp/avp", "rtp/avp/udp") and "client_port" in values and not self._tls:
                ports = pair(values["client_port"], 65_535)
                own = await self._open_udp()
                # never to an address from the request: a client could flood another machine with it
                viewer.udp = (viewer.writer.get_extra_info("peername")[0], *ports)
                reply = f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]};server_port={own[0]}-{own[1]}"
            else:
                continue
            viewer.session = viewer.session or secrets.token_hex(8)
            return f"{reply};ssrc={self.source.ssrc:08X}"
        raise RtspRefused(461, "use unicast RTP/AVP/TCP;interleaved or RTP/AVP;client_port")

    def _allowed(self, request: RtspRequest) -> bool:
        scheme, _, word = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "basic" and hmac.compare_digest(word.strip().encode(), self._login)

    def _is_served(self, url: str) -> bool:
        found = re.fullmatch(r"rtsps?://[^/]*/([^?]*)(\?.*)?", url)
        return found is not None and found[1].strip("/") in (self.path, f"{self.path}/track0")

    def _session(self, viewer: _Viewer) -> tuple[str, str]:
        return "Session", f"{viewer.session};timeout={self.session_s:.0f}"

    def _base(self, url: str) -> str:
        return url.partition("?")[0].removesuffix("/track0").rstrip("/") + "/"

    def _description(self) -> bytes:
        lines = (
            "v=0",
            f"o=- {self.source.ssrc} 1 IN IP4 {self.host}",
            "s=edgebed street camera",
            "c=IN IP4 0.0.0.0",
            "t=0 0",
            "a=control:*",
            "a=range:npt=now-",
            f"m=video 0 RTP/AVP {JPEG_TYPE}",
            f"a=rtpmap:{JPEG_TYPE} JPEG/{CLOCK_HZ}",
            f"a=framerate:{self.rate_hz:g}",
            "a=control:track0",
        )
        return "".join(f"{line}\r\n" for line in lines).encode()

    async def _open_udp(self) -> tuple[int, int]:
        """Open one pair of ports for all viewers: an even one for RTP and the next for RTCP."""
        loop = asyncio.get_running_loop()
        if self._udp is None:
            data, control = _udp_pair(self.host)
            one, _ = await loop.create_datagram_endpoint(lambda: self._outlet, sock=data)
            two, _ = await loop.create_datagram_endpoint(lambda: _Reports(self._viewers), sock=control)
            self._udp = (one, two)
        one, two = self._udp
        return one.get_extra_info("sockname")[1], two.get_extra_info("sockname")[1]


@dataclass(eq=False, slots=True)
class _Viewer:
    """One connection and its session, which ends with the connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heard: float = 0.0
    session: str = ""
    playing: bool = False
    channel: int = 0
    udp: tuple[str, int, int] | None = None
    slow_since: float = 0.0
    reported: bool = False

    def first_report(self, source: Packetizer, at_ns: int) -> bytes:
        if self.reported:
            return b""
        self.reported = True
        return source.report(at_ns)


class _Outlet(asyncio.DatagramProtocol):
    """Notes when the machine accepts no more packets for now."""

    full = False

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False


class _Reports(asyncio.DatagramProtocol):
    """Keeps a session alive when its receiver reports come over UDP."""

    def __init__(self, viewers: dict[asyncio.Task[None], _Viewer]) -> None:
        self._viewers = viewers

    def datagram_received(self, _: bytes, addr: tuple[str, int]) -> None:
        for viewer in self._viewers.values():
            if viewer.udp is not None and (viewer.udp[0], viewer.udp[2]) == addr[:2]:
                viewer.heard = asyncio.get_running_loop().time()


def _udp_pair(host: str) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(50):
        data, control = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):  # the next port is in use: try another pair
            data.bind((host, 0))
            port = data.getsockname()[1]
            if port % 2 == 0 and port < 65_535:
                control.bind((host, port + 1))
                return data, control
        data.close()
        control.close()
    raise Unreachable(f"{host} has no free pair of UDP ports: end other programs or use TCP")
