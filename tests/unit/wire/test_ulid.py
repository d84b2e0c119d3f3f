"""Ids of commands."""

from __future__ import annotations

import pytest

from wire.codec import decode, encode
from wire.messages import Cmd
from wire.ulid import is_ulid, new_ulid


def test_a_new_id_is_one_and_sorts_by_time() -> None:
    made = [new_ulid(1_795_356_000_000 + step) for step in range(50)]
    assert made == sorted(made)
    assert len(set(made)) == 50
    assert all(is_ulid(each) and each.startswith("01M") for each in made)
    assert decode(encode(Cmd(id=made[0], ts=1, ttl_ms=1)), Cmd).id == made[0]
    assert new_ulid(0) != new_ulid(0)


@pytest.mark.parametrize(
    "text",
    ["", "1" * 25, "1" * 27, "8" + "0" * 25, "I" * 26, "0" * 25 + "a", "0" * 26 + "\n", "é" * 26],
)
def test_what_is_not_one(text: str) -> None:
    assert not is_ulid(text)
