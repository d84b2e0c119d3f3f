"""The enrolment service of a site: HTTPS on the machine of the site's folder, which signs for devices."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from edgebed.site.admins import find
from edgebed.site.broker_config import agent
from edgebed.site.certificates import utc
from edgebed.site.credential import requested
from edgebed.site.custody import proven
from edgebed.site.enrolled import mac_key, note_node
from edgebed.site.enrolment_wire import (
    ENROL_PATH,
    MAX_BODY,
    RENEW_PATH,
    ROOT_PATH,
    Credential,
    Enrol,
    Refusal,
    Renew,
)
from edgebed.site.files import locked, read
from edgebed.site.layout import CA, Layout
from edgebed.site.node_routes import ACTS
from edgebed.site.nodes import issued
from edgebed.site.running import admit
from edgebed.site.settings import load
from edgebed.site.site_audit import note
from edgebed.site.token_store import node_of, used
from wire.clock import Clock
from wire.errors import ConfigError, EdgebedError, TryAgain, WireError
from wire.printable import printable
from wire.topics import Address

log = logging.getLogger(__name__)

_AT_ONCE = 32  # connections
_SILENCE_S, _WHOLE_S = 10.0, 30.0  # of one connection
_LOCK_S = 5.0  # another command may change the site


class EnrolmentService(ThreadingHTTPServer):
    """Serves until `shutdown`; each connection has its thread, a limit of time and of bytes."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, layout: Layout, host: str, port: int, clock: Clock) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.folder = layout.folder
        self.clock = clock
        self.turn = threading.Lock()
        self._free = threading.Semaphore(_AT_ONCE)
        self._context(layout)  # files that cannot be used are reported now
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, or close it when too many are open."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake, then answer."""
        request.settimeout(_SILENCE_S)
        context = self._context(Layout(self.folder, load(self.folder)))  # certificates may be new by now
        with context.wrap_socket(request, server_side=True) as tls:
            limit = threading.Timer(_WHOLE_S, _abort, [tls])
            limit.daemon = True
            limit.start()
            try:
                _Handler(tls, client_address, self)
            finally:
                limit.cancel()

    def server_bind(self) -> None:
        """Bind without asking the resolver for a name, which can take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its base calls it
        """Ignore a connection that broke; a fault of this program is logged."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log.error("a request of %s failed: please report this", client_address[0], exc_info=error)

    @staticmethod
    def _context(layout: Layout) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        clients = "clients-ca.pem" if layout.site.broker == "nats" else "nodes-ca.pem"
        try:
            context.load_cert_chain(layout.path("broker/broker.pem"), layout.path("broker/broker.key"))
            context.load_verify_locations(layout.path(f"broker/{clients}"))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the certificate in {layout.folder}/broker cannot be used: {error}") from error
        context.verify_mode = ssl.CERT_OPTIONAL  # a device that enrols has none yet
        return context


class _Handler(BaseHTTPRequestHandler):
    """One request of a device."""

    server: EnrolmentService
    who = "unknown"  # in the audit
    server_version, sys_version = "edgebed", ""

    def do_GET(self) -> None:
        """The root, which a device compares with its token."""
        if self.path != ROOT_PATH:
            self._answer(404, Refusal("there is nothing here"))
            return
        self._send(200, "application/x-pem-file", read(self.server.folder / CA) or b"")

    def do_POST(self) -> None:
        """A certificate for a token, or for an earlier certificate."""
        acts: dict[str, Callable[[bytes], Struct]] = {ENROL_PATH: self._enrol, RENEW_PATH: self._renew}
        acts |= dict.fromkeys(ACTS, self._manage)
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() and len(length) < 7 else 0
        body = self.rfile.read(min(size, 4 * MAX_BODY))  # a client that still sends would not read the answer
        if self.path not in acts:
            self._answer(404, Refusal("there is nothing here"))
        elif not length.isdecimal() or len(length) > 6 or size > MAX_BODY:
            self._answer(413, Refusal(f"a request has a Content-Length of at most {MAX_BODY} bytes"))
        else:
            try:
                with self.server.turn:
                    found = acts[self.path](body)
                self._answer(200, found)
            except msgspec.MsgspecError as error:
                self._answer(400, Refusal(f"the request cannot be read: {printable(error)}"))
            except TryAgain as error:
                self._answer(503, Refusal(str(error)))
            except (EdgebedError, WireError) as error:
                log.warning("refused %s: %s", self.client_address[0], error)
                self._note("request", self.path, f"refused: {error}", is_refusal=True)
                self._answer(403, Refusal(str(error)))

    def _enrol(self, body: bytes) -> Credential:
        asked = msgspec.json.decode(body, type=Enrol)
        secret = bytes.fromhex(asked.secret)
        layout, now = self._site()
        with _patient(layout):
            node = node_of(layout, secret, now)
            key = requested(asked.request.encode(), "the certificate request", node)
            custody = proven(asked, node.text)
            with used(layout, secret):
                found = self._admitted(layout, node, key, now)
                note_node(layout, node, custody)
            self._note("enrolment", node.text)
            return found

    def _renew(self, body: bytes) -> Credential:
        asked = msgspec.json.decode(body, type=Renew)
        layout, now = self._site()
        shown = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        if not shown:
            raise EdgebedError("a renewal needs the certificate of the node: enrol with a token")
        try:
            node = Address.parse(_common_name(shown))
        except WireError as error:
            raise EdgebedError("this is not the certificate of a node") from error
        with _patient(layout):
            if int(str(shown["serialNumber"]), 16) not in [one.serial_number for one in issued(layout, node)]:
                raise EdgebedError(f"this certificate of {node} is revoked: enrol with a new token")
            key = requested(asked.request.encode(), "the certificate request", node)
            custody = proven(asked, node.text)
            found = self._admitted(layout, node, key, now)
            if not note_node(layout, node, custody, is_renewal=True):
                log.warning(
                    "%s has another key of its statements than at its enrolment, which stays: enrol it again",
                    node,
                )
            self._note("renewal", node.text)
            return found

    def _manage(self, body: bytes) -> Struct:
        """What an administrator asks for."""
        layout, now = self._site()
        scheme, _, secret = self.headers.get("Authorization", "").partition(" ")
        with _patient(layout):
            admin = find(layout, secret if scheme == "Bearer" else "", now)
            self.who = f"administrator {admin.name}"
            return ACTS[self.path](layout, now, admin, body, self._note)

    def _admitted(
        self, layout: Layout, node: Address, key: ec.EllipticCurvePublicKey, now: datetime
    ) -> Credential:
        certificate, left = admit(layout, node, key, now)
        log.info("a certificate for %s was given to %s", node, self.client_address[0])
        for line in left:
            log.warning("%s", line)
        root = read(layout.path(CA)) or b""
        return Credential(certificate.decode(), root.decode(), agent(layout.site), mac_key(layout, node))

    def _site(self) -> tuple[Layout, datetime]:
        folder = self.server.folder
        return Layout(folder, load(folder)), utc(self.server.clock.now_ms())

    def _note(self, what: str, subject: str, result: str = "done", *, is_refusal: bool = False) -> None:
        origin = str(self.client_address[0])
        who = self.who if is_refusal or self.path in ACTS else subject
        folder, clock = self.server.folder, self.server.clock
        note(folder, what, subject, result, who=who, origin=origin, is_refusal=is_refusal, clock=clock)

    def _answer(self, status: int, body: Struct) -> None:
        self._send(status, "application/json", msgspec.json.encode(body))

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base has this name
        """Log nothing of each request: refusals and certificates are logged."""


@contextlib.contextmanager
def _patient(layout: Layout) -> Iterator[None]:
    """Lock the site, and wait a little for a command that changes it."""
    until = time.monotonic() + _LOCK_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(layout.folder))
                break
            except TryAgain:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield


def _common_name(shown: Any) -> str:
    return "".join(value for part in shown.get("subject", ()) for key, value in part if key == "commonName")


def _abort(tls: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        tls.shutdown(socket.SHUT_RDWR)
