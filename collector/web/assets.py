"""The dashboard's files: Starlette's StaticFiles with an ETag of the content and bodies packed once."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import NotModifiedResponse, PathLike, StaticFiles
from starlette.types import Scope

# The `mimetypes` of the machine decide otherwise: in Python 3.11 they differ by machine and lack woff2.
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
_PACKED = (".html", ".js", ".mjs", ".css", ".json", ".svg", ".webmanifest")
_FILES = 500  # whose bodies are kept


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    packed: bytes  # b"" where packing is not worth it
    etag: str


class Assets(StaticFiles):
    """Serves the files below a folder, of known types only.

    Starlette finds the file and refuses paths outside the folder. Its ETag is made of time and size, and all
    files of a wheel have one time: after an upgrade a browser would keep a changed file of the same size. Its
    gzip middleware packs at each request.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder)

    def file_response(
        self, full_path: PathLike, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or 304 when the browser has it."""
        path = Path(full_path)
        if path.suffix not in TYPES:
            raise HTTPException(404)
        asset = _read(path, stat_result.st_mtime_ns, stat_result.st_size)
        headers = {"etag": asset.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        request = Headers(scope=scope)
        if self.is_not_modified(Headers(headers), request):
            return NotModifiedResponse(Headers(headers))
        body = asset.body
        if asset.packed and "gzip" in request.get("accept-encoding", ""):
            body, headers["content-encoding"] = asset.packed, "gzip"
        return Response(body, status_code, headers, TYPES[path.suffix])


@lru_cache(maxsize=_FILES)
def _read(path: Path, _mtime_ns: int, _size: int) -> _Asset:
    """A file, read again when its time or size changes."""
    body = path.read_bytes()
    packed = gzip.compress(body, 9, mtime=0) if path.suffix in _PACKED and len(body) > 500 else b""
    return _Asset(body, packed, f'"{hashlib.sha256(body).hexdigest()[:24]}"')
