"""Guards every answer: host names, who asks, where a change comes from, and headers for browsers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from collector.rights.accounts import TOKEN
from collector.rights.directory import Directory
from collector.rights.user import LOCAL, TOKEN_FILE, User
from collector.web.node_access import NodeAccess
from wire.errors import TryAgain
from wire.node_token import PREFIX as NODE_TOKEN

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "font-src 'self'; frame-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
COOKIE = "edgebed"  # of `http.token_file`
LOGIN = "/api/v1/login"
MAX_URL = 4096  # bytes of path and query
NO_TLS = (
    "logins and API tokens are refused without TLS: set http.cert_file and http.key_file in the collector's "
    "config, or list the proxy that does TLS under http.proxies and have it send X-Forwarded-Proto"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of the one that was asked for; `code` is for the page."""

    status: int
    why: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Door:
    """What decides who needs a login."""

    directory: Directory
    is_local: bool  # only this machine can connect
    token: str | None = None  # of `http.token_file`
    nodes: NodeAccess | None = None

    @property
    def is_open(self) -> bool:
        """Whether everyone who can connect may do everything: on loopback, until a user or a token exists.

        Raises:
            TryAgain: the users cannot be read.
        """
        return self.is_local and not self.token and not self.directory.has_users


class Guard:
    """ASGI middleware: puts the `User` who asks into the scope; `/api/` requires one.

    With `http.token_file`, `/?token=...` sets the cookie and redirects to an address without the token. The
    page itself has no data, so every client that can connect gets it.
    """

    def __init__(self, app: ASGIApp, *, names: Iterable[str], door: Door) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}
        self._door = door
        self._token = door.token
        self._cookie = hashlib.sha256(door.token.encode()).hexdigest() if door.token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(guarded, refusal)
        elif self._token and scope["path"] == "/" and b"token=" in scope["query_string"]:
            await self._log_in(scope, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Refusal | None:  # noqa: PLR0911
        headers = Headers(scope=scope)
        if not self._is_served(headers.get("host", "")):
            return Refusal(421, "this host name is not served: add it to http.names of the collector")
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            return Refusal(414, f"the address is longer than {MAX_URL} bytes")
        if scope["method"] not in ("GET", "HEAD") and not is_own(scope, headers):
            return Refusal(
                403,
                "a change must come from the collector's own page (header Origin) or from a program with a "
                "bearer token",
            )
        if not scope["path"].startswith("/api/"):
            return None
        try:
            found = self._who(scope, headers)
        except TryAgain as error:
            return Refusal(503, str(error) if is_private(scope) else "the users cannot be read: try again")
        if isinstance(found, User):
            scope["user"] = found
            return None
        return None if scope["path"] == LOGIN else found

    def _is_served(self, host: str) -> bool:
        """Whether a host is served: names are checked against DNS rebinding, addresses cannot be rebound."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _who(self, scope: Scope, headers: Headers) -> User | Refusal:  # noqa: PLR0911
        """The user of the credential that a request has."""
        bearer, cookies = _bearer(headers), cookie_parser(headers.get("cookie", ""))
        if self._token and same(bearer or "", self._token):
            return TOKEN_FILE
        if self._token and bearer is None and same(cookies.get(COOKIE, ""), self._cookie):
            return TOKEN_FILE
        if bearer is not None and bearer.startswith(NODE_TOKEN) and self._door.nodes is not None:
            return self._node(bearer, scope, self._door.nodes)
        if self._door.is_open:
            return LOCAL
        directory = self._door.directory
        session = None if bearer else cookies.get(cookie_name(scope, directory.store_id))
        if (session or (bearer or "").startswith(TOKEN)) and not is_private(scope):
            return Refusal(403, NO_TLS, "no-tls")
        if bearer is not None:
            why = "this token is not valid: it is wrong, has expired, or was removed"
            return directory.token(bearer) or Refusal(401, why, "token")
        if session is not None:
            why = "the session has ended: log in again"
            return directory.session(session) or Refusal(401, why, "session-ended")
        return self._needs(scope)

    def _node(self, bearer: str, scope: Scope, nodes: NodeAccess) -> User | Refusal:
        """The node that asks."""
        if not is_private(scope):
            return Refusal(403, NO_TLS, "no-tls")
        path, query = scope.get("raw_path") or b"", scope["query_string"]
        target = (path + b"?" * bool(query) + query).decode("latin-1")
        found = nodes.who(bearer, scope["method"], target)
        return Refusal(401, found, "token") if isinstance(found, str) else found

    def _needs(self, scope: Scope) -> Refusal:
        """What a request without a credential needs."""
        if not self._door.directory.has_users:
            if self._token:
                why = "a token is needed: open the page once with /?token=..., or send it as a bearer token"
                return Refusal(401, why, "token")
            why = "no user exists yet: make one on the collector's machine with `edgebed user add`"
            return Refusal(401, why, "no-user")
        if not is_private(scope):
            return Refusal(401, NO_TLS, "no-tls")
        return Refusal(401, "log in on the page, or send an API token as a bearer token", "login")

    async def _log_in(self, scope: Scope, send: Send) -> None:
        given = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20).get("token", [""])[0]
        if not self._token or not same(given, self._token):
            await _answer(send, Refusal(401, "this is not the token"))
            return
        cookie = f"{COOKIE}={self._cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
        if scope["scheme"] == "https":
            cookie += "; Secure"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def same(left: str, right: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(left.encode("utf-8", "replace"), right.encode("utf-8", "replace"))


def is_private(scope: Scope) -> bool:
    """Whether no other machine can read the request: TLS, here or in a proxy, or it is from this machine."""
    if scope["scheme"] == "https":
        return True
    try:
        return ipaddress.ip_address((scope.get("client") or ("", 0))[0]).is_loopback
    except ValueError:
        return False


def is_own(scope: Scope, headers: Headers) -> bool:
    """Whether a change comes from the collector's own page, or from a program, which no cookie betrays."""
    origin = headers.get("origin")
    if origin is None:
        return _bearer(headers) is not None
    try:
        asked = urlsplit(origin)
    except ValueError:
        return False
    served = headers.get("host", "")
    if scope["scheme"] == "https" and asked.scheme != "https":
        return False
    return asked.scheme in ("http", "https") and _plain(asked.netloc) == _plain(served)


def cookie_name(scope: Scope, store_id: str) -> str:
    """The cookie of a session. Cookies of a host go to all its ports, so the name has the store's own."""
    name = f"edgebed-{store_id}"
    return f"__Host-{name}" if scope["scheme"] == "https" else name


def _plain(netloc: str) -> str:
    """A host and port without the ports that are left out by default."""
    return netloc.lower().removesuffix(":80").removesuffix(":443")


def _bearer(headers: Headers) -> str | None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else None


async def _answer(send: Send, refusal: Refusal) -> None:
    body = msgspec.json.encode({"error": refusal.why, **({"code": refusal.code} if refusal.code else {})})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
