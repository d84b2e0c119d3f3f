"""A custody statement: its fields and limits, and the bytes that are signed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.wire.contract import contract, schema
from wire.custody import CUSTODY, MAX_STREAMS, Statement, digest, key_id, read, signed_form
from wire.errors import WireError

KEY = "0f" * 32


def detail(**changes: Any) -> dict[str, Any]:
    whole = {"n": 1, "prev": "", "key": KEY, "boot": "00ff00ff", "run": 3, "day": "2026-11-22", "first": 3}
    return {**whole, "upto": 9, "streams": {"data/arm/joints": [2, 1, 20]}, **changes}


def test_a_statement_is_as_the_contract_has_it() -> None:
    assert CUSTODY == "custody"
    assert schema(Statement) == contract("statement")


def test_a_statement_is_read() -> None:
    found = read(detail(first=9, run=9))
    assert (found.run, found.first, found.upto) == (9, 9, 9)
    assert found.streams == {"data/arm/joints": (2, 1, 20)}
    assert read(detail(streams={"data/a/b": [20, 1, 20]})).streams["data/a/b"][0] == 20, "one row each"
    assert len(read(detail(streams={f"data/a/{n}": [1, 1, 1] for n in range(MAX_STREAMS)})).streams) == 1_000


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run": 4}, "run, first and upto are not in ascending order"),
        ({"upto": 2}, "run, first and upto are not in ascending order"),
        (
            {"streams": {f"data/a/{n}": [1, 1, 1] for n in range(MAX_STREAMS + 1)}},
            "1001 streams; 1000 are allowed",
        ),
        ({"streams": {"data/a/b": [21, 1, 20]}}, "21 messages with rows 1..20: some would be empty"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WireError) as caught:
        read(detail(**changes))
    assert str(caught.value) == f"not a custody statement: {sentence}"


def test_the_signed_form_is_one_text_for_every_library() -> None:
    form = signed_form({"n": 1, "sig": "ab", "day": "2026-11-22", "clk": 0}, "a/b/c/d", "00ff00ff")
    assert form == b'{"clk":0,"day":"2026-11-22","ep":"00ff00ff","n":1,"node":"a/b/c/d"}'


def test_hashes_of_a_form_and_of_a_key() -> None:
    # SHA-256 of "abc", from FIPS 180-2
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert key_id(b"abc".hex()) == "ba7816bf8f01cfea"
