"""The desired documents in `state.db`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from collector.state.desired import DesiredDocuments
from collector.state.state_file import StateFile
from wire.codec import decode, encode
from wire.messages import Desired

NODE, OTHER = "acme/trial/hall/cobot-01", "acme/trial/hall/cobot-02"


def test_each_request_has_a_higher_version_also_after_a_restart(tmp_path: Path) -> None:
    doc = {"publish": {"arm": {"raw": False}}}
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        documents = DesiredDocuments(state)
        assert documents.get(NODE) is None
        assert documents.put(NODE, doc, by="kim", at_ms=5).ver == 1
        assert documents.put(NODE, doc, by="kim", at_ms=6, after=40).ver == 41
        assert documents.put(OTHER, {}, by="lee", at_ms=7).ver == 1
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        documents = DesiredDocuments(state)
        assert documents.put(NODE, doc, by="kim", at_ms=8, after=3).ver == 42
        assert [(each.node, each.ver, each.doc) for each in documents.all()] == [
            (NODE, 42, doc),
            (OTHER, 1, {}),
        ]
        found = documents.get(NODE)
    assert found is not None
    message = decode(encode(found.message()), Desired)
    assert (message.ver, message.ts, message.by, message.doc) == (42, 8, "kim", doc)


def test_a_withdrawal_travels_as_an_empty_document(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        made = DesiredDocuments(state).put(NODE, {}, by="kim", at_ms=5)
    assert b'"doc":{}' in encode(made.message())
