"""docs/topics.md is public API: its examples decode, and it names every class of the contract."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from agent.outbox.gaps import GAP_REASONS
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


def test_a_gap_has_a_reason_that_an_agent_can_send() -> None:
    """Decoding accepts any text as `why`, so the values of the page are compared with those of the code."""
    gaps = [
        event for cls, body in EXAMPLES if cls == "event" and (event := json.loads(body))["type"] == "gap"
    ]
    assert gaps
    for event in gaps:
        assert event["why"] in GAP_REASONS
        assert event["n"] == sum(last - first + 1 for first, last in event["lost"])
    table = PAGE.split("| `why` of a gap |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(GAP_REASONS)


def test_every_class_has_a_row_and_an_example() -> None:
    assert {cls for cls, _ in EXAMPLES} == set(CLASSES)
    for cls in CLASSES:
        assert re.search(rf"^\| \[`{cls}[`/]", PAGE, re.MULTILINE), f"no row for {cls} in docs/topics.md"


def test_the_statement_of_the_page_is_checked_as_the_page_says() -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from wire import custody

    (event,) = [json.loads(body) for _, body in EXAMPLES if '"type":"custody"' in body]
    snippet = PAGE.split("```python\n")[1].split("```")[0]
    known = {"json": json, "Ed25519PublicKey": Ed25519PublicKey, "node": "acme/trial/hall/cobot-01"}
    known |= {"detail": event["detail"], "ep": event["ep"]}
    exec(snippet, known)  # noqa: S102 - code that the page shows for readers to run
    assert known["form"] == custody.signed_form(event["detail"], known["node"], event["ep"]).decode()
    assert custody.read(event["detail"]).upto < event["seq"]
    with pytest.raises(InvalidSignature):
        exec(snippet, known | {"node": "acme/trial/hall/cobot-02"})  # noqa: S102 - the same
