"""Desired documents: what is one, and the file that keeps it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from agent.remote.desired import DesiredFile, Document, Kept, NotAcceptable, read_document
from wire.messages import Desired

NOW = 1_795_356_000_000
DAY_MS = 86_400_000


def body(**changes: Any) -> bytes:
    return json.dumps({"ver": 7, "ts": NOW, "doc": {"devices": {}}, **changes}).encode()


def test_the_digest_is_of_the_content_alone() -> None:
    one = read_document(body(doc={"devices": {"a": {"x": 1, "y": 2}}}), NOW)
    two = read_document(b'{"doc":{"devices":{"a":{"y":2,"x":1}}},"ts":1,"ver":8}', NOW)
    assert one.digest == two.digest
    assert (one.ver, two.ver, one.withdraws) == (7, 8, False)


def test_an_empty_body_and_an_empty_doc_withdraw() -> None:
    assert read_document(b"", NOW).withdraws
    assert read_document(body(doc={}), NOW).withdraws


@pytest.mark.parametrize("ts", [0, NOW - 4_000 * DAY_MS, NOW + DAY_MS])
def test_a_document_may_be_old(ts: int) -> None:
    assert read_document(body(ts=ts), NOW).ts == ts


def test_a_document_of_the_future_is_named() -> None:
    with pytest.raises(NotAcceptable, match="dated 366 days after") as caught:
        read_document(body(ts=NOW + 366 * DAY_MS), NOW)
    assert caught.value.reason.args == {"seconds": 366 * DAY_MS // 1000}


def test_the_file_is_replaced_whole_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = DesiredFile(tmp_path)
    assert file.load() == Kept()
    kept = Kept(used=Document(ver=1, ts=NOW, digest="d", doc={"publish": {}}), starts=1)
    file.save(kept)
    assert file.load() == kept
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["desired.yaml"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"v":1,"used":3}', b"[" * 100_000])
def test_a_damaged_file_counts_as_a_new_one(tmp_path: Path, content: bytes) -> None:
    file = DesiredFile(tmp_path)
    file.path.write_bytes(content)
    assert file.load() == Kept()


def test_the_body_is_the_one_of_the_contract() -> None:
    assert {"ver", "ts", "by", "doc"} <= set(Desired.__struct_fields__)
