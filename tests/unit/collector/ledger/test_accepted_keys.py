"""The file of accepted keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.ledger.accepted_keys import FILE, AcceptedKeys, accept
from collector.ledger.enrolled import EnrolledNodes
from tests.unit.collector.ledger.stating_node import NODE
from wire.custody import key_id
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


def test_the_key_of_an_enrolment_is_accepted_and_closes_the_list(tmp_path: Path) -> None:
    path = tmp_path / "enrolled"
    path.write_text(f"{NODE} 1 {'ab' * 32}\na/b/c/d 2 removed\ne/f/g/h 1 -\n")
    keys = AcceptedKeys(tmp_path, EnrolledNodes(path))
    assert keys.of(NODE) == {key_id("ab" * 32)}
    accept(tmp_path, NODE, "0123456789abcdef", "by hand")
    assert keys.of(NODE) == {key_id("ab" * 32), "0123456789abcdef"}
    assert [keys.is_closed(one) for one in (NODE, "a/b/c/d", "e/f/g/h", "x/x/x/x")] == [
        True,
        True,
        False,
        False,
    ]
    assert keys.of("a/b/c/d") == frozenset()


def test_a_line_has_a_node_and_a_key_and_a_remark(tmp_path: Path) -> None:
    accept(tmp_path, NODE, "0123456789abcdef", "for ß")
    assert (tmp_path / FILE).read_bytes() == f"{NODE} 0123456789abcdef  # for ?\n".encode()
    (tmp_path / FILE).write_text("a/b/c/d 11 # one\na/b/c/d\t22\n#a/b/c/d 33\na/b/c/d 44 55\nx/b/c/d 66")
    keys = AcceptedKeys(tmp_path)
    assert (keys.of("a/b/c/d"), keys.of("x/b/c/d")) == ({"11", "22"}, {"66"})
    accept(tmp_path, "x/b/c/d", "77", "")
    assert keys.of("x/b/c/d") == {"66", "77"}, "the open line was ended"
    assert FILE == "accepted-keys"


def test_a_file_that_cannot_be_read_now_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / FILE
    accept(tmp_path, NODE, "11", "")
    keys = AcceptedKeys(tmp_path)
    assert keys.of(NODE) == {"11"}
    path.unlink()
    path.mkdir()
    assert keys.of(NODE) == {"11"}
    path.rmdir()
    path.write_text(f"{NODE} 22\n" + "#" * 999_999 + f"\n{NODE} 33\n")
    assert keys.of(NODE) == {"22"}, "a megabyte is read"
