"""docs/topics.md is public API: its examples decode, and it names every class of the contract."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from wire import codec
from wire.messages import BODIES
from wire.topics import CLASSES

PAGE = (Path(__file__).parents[3] / "docs/topics.md").read_text()
EXAMPLES = re.findall(r"```json (\w+)\n(.*?)\n```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("cls", "body"), EXAMPLES, ids=[cls for cls, _ in EXAMPLES])
def test_the_example_decodes_and_loses_nothing(cls: str, body: str) -> None:
    if cls == "live":
        assert codec.decode_live(body.encode()) == msgspec.json.decode(body)
        return
    message = codec.decode(body.encode(), BODIES[cls])
    # what a struct does not know would be dropped in silence: re-encoding shows it
    assert msgspec.json.decode(codec.encode(message)) == msgspec.json.decode(body)


def test_every_class_has_a_row_and_an_example() -> None:
    assert {cls for cls, _ in EXAMPLES} == set(CLASSES)
    for cls in CLASSES:
        assert re.search(rf"^\| \[`{cls}[`/]", PAGE, re.MULTILINE), f"no row for {cls} in docs/topics.md"
