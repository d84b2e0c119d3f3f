"""Guards every answer: token, host names, and the headers that limit what a browser may do."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
COOKIE = "edgebed"
MAX_URL = 4096  # bytes of path and query


class Guard:
    """ASGI middleware. With a token, the API requires it as `Authorization: Bearer` or in the cookie.

    `/?token=...` sets the cookie and redirects to an address without the token. The page itself has no data,
    so every client that can connect gets it.
    """

    def __init__(self, app: ASGIApp, *, names: Iterable[str], token: str | None) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}
        self._token = token
        self._cookie = hashlib.sha256(token.encode()).hexdigest() if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(guarded, *refusal)
        elif self._token and scope["path"] == "/" and b"token=" in scope["query_string"]:
            await self._log_in(scope, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if not self._is_served(headers.get("host", "")):
            return 421, "this host name is not served: add it to http.names in the collector's config"
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "only GET and HEAD are served"
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            return 414, f"the address is longer than {MAX_URL} bytes"
        if self._token and scope["path"].startswith("/api/") and not self._is_known(headers):
            return 401, "a token is needed: open the page once with /?token=..., or send it as a bearer token"
        return None

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

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if self._token and scheme.lower() == "bearer" and same(given.strip(), self._token):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and same(morsel.value, self._cookie)

    async def _log_in(self, scope: Scope, send: Send) -> None:
        given = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20).get("token", [""])[0]
        if not self._token or not same(given, self._token):
            await _answer(send, 401, "this is not the token")
            return
        cookie = f"{COOKIE}={self._cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def same(left: str, right: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


async def _answer(send: Send, status: int, why: str) -> None:
    body = msgspec.json.encode({"error": why})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
