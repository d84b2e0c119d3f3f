"""The file of accepted keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.ledger.accepted_keys import FILE, AcceptedKeys, accept
from tests.unit.collector.ledger.stating_node import NODE
from wire.errors import EdgebedError


def test_accepted_keys_are_read_again_when_they_change(tmp_path: Path) -> None:
    keys = AcceptedKeys(tmp_path)
    assert keys.of(NODE) == frozenset()
    accept(tmp_path, NODE, "0123456789abcdef", "why not")
    path = tmp_path / FILE
    path.write_bytes(
        path.read_bytes() + b"\xff\xfe rubbish of no sense \n\n# a remark whose line an editor left open"
    )
    assert keys.of(NODE) == {"0123456789abcdef"}
    accept(tmp_path, NODE, "fedcba9876543210", "another")
    assert keys.of(NODE) == {"0123456789abcdef", "fedcba9876543210"}
    (tmp_path / FILE).unlink()
    assert keys.of(NODE) == frozenset()
    with pytest.raises(EdgebedError, match="cannot be written"):
        accept(tmp_path / "nowhere", NODE, "0123456789abcdef", "")
