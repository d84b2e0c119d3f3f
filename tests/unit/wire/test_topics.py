"""The topic grammar: formatted topics parse back, and errors name the wrong part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.contract import contract
from wire.errors import WireError
from wire.messages import BODIES
from wire.topics import CLASSES, NODE_ITSELF, ROOT, Address, parse

ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)


@given(st.tuples(ids, ids, ids, ids), st.sampled_from(list(CLASSES)), ids, ids)
def test_a_topic_comes_back_as_it_went(
    parts: tuple[str, str, str, str], cls: str, device: str, name: str
) -> None:
    address = Address(*parts)
    tail = (device, name)[2 - CLASSES[cls] :]
    topic = parse(address.topic(cls, *tail))
    assert (topic.address, topic.cls) == (address, cls)
    assert topic.name == (tail[-1] if tail else "")
    assert Address.parse(str(address)) == address


@given(st.text(max_size=80))
def test_any_text_gives_a_topic_or_one_wire_error(text: str) -> None:
    for candidate in (text, f"tb1/{text}", f"tb1/a/b/c/d/{text}", f"tb1/a/b/c/d/data/{text}"):
        try:
            parse(candidate)
        except WireError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("tb2/a/b/c/d/status", "not tb1"),
        ("tb1/a/b/c/d", "not tb1"),
        ("tb1/A/b/c/d/status", "tenant 'A'"),
        ("tb1/a/b/c//status", "node ''"),
        ("tb1/a/b/c/d/stats", "unknown class"),
        ("tb1/a/b/c/d/data/arm", "takes 2 more"),
        ("tb1/a/b/c/d/data/arm/x/y", "takes 2 more"),
        ("tb1/a/b/c/d/data/+/x", "device '+'"),
        ("tb1/a/b/c/d/data/arm/#", "name '#'"),
        ("tb1/a/b/c/d/data/_/" + "x" * 300, "256"),
    ],
)
def test_a_wrong_topic_is_refused_with_the_reason(topic: str, why: str) -> None:
    with pytest.raises(WireError) as error:
        parse(topic)
    assert why in str(error.value)


def test_the_classes_are_those_of_the_contract() -> None:
    assert contract("classes") == CLASSES
    assert (ROOT, NODE_ITSELF) == ("tb1", "_")


def test_every_body_has_a_class() -> None:
    assert set(BODIES) | {"live"} == set(CLASSES)
