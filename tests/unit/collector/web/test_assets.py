"""The dashboard's files: cached by content, packed once, and none outside the folder or of another type."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from collector.web import assets as module
from collector.web.assets import Assets

TEXT = b"const answer = 42;\n" * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "dashboard"
    (root / "charts").mkdir(parents=True)
    (root / "app.js").write_bytes(TEXT)
    (root / "charts" / "dot.png").write_bytes(b"\x89PNG" * 500)
    (root / "small.css").write_bytes(b"a{}")
    (root / "notes.txt").write_bytes(b"not for the page")
    (root / ".npmrc").write_bytes(b"x=1")
    (tmp_path / "secret.js").write_bytes(b"outside")
    (root / "link.js").symlink_to(tmp_path / "secret.js")
    return root


async def get(assets: Assets, name: str, **headers: str) -> Any:
    raw = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return await assets.get_response(name, {"type": "http", "method": "GET", "headers": raw})


async def test_a_file_has_its_type_and_is_asked_for_again_by_content(folder: Path) -> None:
    answer = await get(Assets(folder), "app.js")
    assert (answer.status_code, answer.body) == (200, TEXT)
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    again = await get(Assets(folder), "app.js", if_none_match=answer.headers["etag"])
    assert (again.status_code, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    other = await get(Assets(folder), "app.js", if_none_match='"of another version"')
    assert other.status_code == 200


async def test_a_changed_file_of_the_same_size_and_time_is_sent_after_a_restart(folder: Path) -> None:
    """All files of a wheel have one time, so an ETag of time and size would hide an upgrade."""
    before = await get(Assets(folder), "app.js")
    stat = (folder / "app.js").stat()
    (folder / "app.js").write_bytes(TEXT.replace(b"42", b"43"))
    os.utime(folder / "app.js", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    module._read.cache_clear()
    after = await get(Assets(folder), "app.js", if_none_match=before.headers["etag"])
    assert (after.status_code, after.body[:18]) == (200, b"const answer = 43;")


async def test_a_file_that_changes_while_the_collector_runs_is_read_again(folder: Path) -> None:
    assets = Assets(folder)
    before = await get(assets, "app.js")
    (folder / "app.js").write_bytes(TEXT + b"more")
    after = await get(assets, "app.js", if_none_match=before.headers["etag"])
    assert (after.status_code, after.body) == (200, TEXT + b"more")


async def test_text_is_packed_for_browsers_that_take_it(folder: Path) -> None:
    assets = Assets(folder)
    packed = await get(assets, "app.js", accept_encoding="br, gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == TEXT
    assert packed.headers["vary"] == "accept-encoding"
    for name in ("charts/dot.png", "small.css"):
        plain = await get(assets, name, accept_encoding="gzip")
        assert "content-encoding" not in plain.headers, name


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js", "../secret.js", "charts/../../secret.js", "link.js", "/etc/passwd", "charts",
        "notes.txt", ".npmrc", "app.js\0", "x" * 5_000 + ".js", "app.js/more.js",
    ],
)  # fmt: skip
async def test_other_files_are_not_found(folder: Path, name: str) -> None:
    with pytest.raises(HTTPException) as refused:
        await get(Assets(folder), name)
    assert refused.value.status_code == 404
