"""The dashboard's files: found by name in one folder, packed once, cached by the browser by content."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_PACKED = (".html", ".js", ".mjs", ".css", ".json", ".svg", ".webmanifest")


@dataclass(frozen=True, slots=True)
class _Asset:
    stamp: tuple[int, int]  # modification time and size: a changed file is read again
    body: bytes
    packed: bytes
    etag: str
    type: str


class Assets:
    """Serves the files below `folder`, of known types only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._known: dict[str, _Asset] = {}

    def answer(self, name: str, request: Request) -> Response:
        """The file, or 304 when the browser has it, or 404."""
        asset = self._find(name)
        if asset is None:
            return Response("not here\n", 404, media_type="text/plain")
        headers = {"etag": asset.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        body = asset.body
        if asset.packed and "gzip" in request.headers.get("accept-encoding", ""):
            body, headers["content-encoding"] = asset.packed, "gzip"
        return Response(body, headers=headers, media_type=asset.type)

    def _find(self, name: str) -> _Asset | None:
        kind = TYPES.get(Path(name).suffix)
        if kind is None or not _NAME.fullmatch(name) or ".." in name or "node_modules" in name:
            return None
        path = self._folder / name
        try:
            found = path.stat()
            known = self._known.get(name)
            stamp = (found.st_mtime_ns, found.st_size)
            if known is not None and known.stamp == stamp:
                return known
            if not path.resolve().is_relative_to(self._folder):
                return None
            body = path.read_bytes()
        except OSError:
            return None
        packed = gzip.compress(body, 9, mtime=0) if path.suffix in _PACKED and len(body) > 500 else b""
        etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        self._known[name] = _Asset(stamp, body, packed, etag, kind)
        return self._known[name]
