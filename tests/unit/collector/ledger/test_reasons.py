"""Codes of stored texts: the texts of this release are recognised, others stay without a code."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from agent.outbox.gaps import GAP_REASONS
from collector.ledger import statements
from collector.ledger.balance import GONE, NEVER, OUTBOX_LOST, RESTORED
from collector.ledger.reasons import GAPS, reason_of, table
from wire import codec, topics
from wire.errors import WireError
from wire.messages import MAX_BODY, Batch, Event


def test_the_reasons_of_gaps_are_those_of_the_agent() -> None:
    assert GAPS == GAP_REASONS
    assert [reason_of(why).code for why in GAPS] == list(GAPS)


@pytest.mark.parametrize(
    ("fails", "code"),
    [
        (lambda: codec.decode(b"{", Batch), "body-invalid"),
        (lambda: codec.decode(b'{"ts":"x"}', Event), "body-invalid"),
        (lambda: codec.decode_live(b'{"ts":1,"BAD":2}'), "body-invalid"),
        (lambda: codec.decode(b'{"v":1,"crc":"00000000"}', Event), "body-damaged"),
        (lambda: codec.decode(b" " * (codec.MAX_PLAIN + 1), Event), "body-too-large"),
        (lambda: codec.decode(b"\x1f\x8bxx", Event), "encoding-broken"),
        (lambda: codec.decode(gzip.compress(b"{}", mtime=0)[:-4], Event), "encoding-broken"),
        (lambda: codec.decode(b"\x28\xb5\x2f\xfdxx", Event), "encoding-broken"),
        (lambda: codec.decode(gzip.compress(b"{}", mtime=0) + b"x\x02\0\0\0", Event), "encoding-broken"),
        (lambda: codec.decode(zstandard.compress(b"{}") + b"x", Event), "encoding-broken"),
        (lambda: topics.parse("tb1/a/b/c/d/nonsense"), "topic-invalid"),
        (lambda: topics.parse("tb1/a/b/c/d/data/arm"), "topic-invalid"),
        (lambda: topics.parse("tb1/A/b/c/d/status"), "topic-invalid"),
        (lambda: topics.parse("other/a/b/c/d/status"), "topic-invalid"),
        (lambda: topics.parse("tb1/a/b/c/d/data/ARM/x"), "topic-invalid"),
    ],
)
def test_what_cannot_be_read_has_a_code(fails: Callable[[], Any], code: str) -> None:
    with pytest.raises(WireError) as caught:
        fails()
    assert reason_of(str(caught.value)).code == code, str(caught.value)


@pytest.mark.parametrize(
    ("why", "code", "args"),
    [
        (NEVER, "never-arrived", {}),
        (
            f"{OUTBOX_LOST}: the node goes on as ep 00112233aabbccdd",
            "outbox-lost",
            {"ep": "00112233aabbccdd"},
        ),
        (RESTORED, "store-restored", {}),
        (GONE, "day-file-gone", {}),
        ("no reason given", "no-reason-given", {}),
        ("quarantined: not a Batch: x", "quarantined", {"detail": "not a Batch: x"}),
        ("day file 2026-11-29.db is damaged", "day-file-damaged", {"day": "2026-11-29.db"}),
        (
            "day file 000001-2026-11-29.db is damaged: at least 7 rows cannot be read",
            "rows-unreadable",
            {"day": "000001-2026-11-29.db", "rows": "7"},
        ),
        (statements._NOT_ACCEPTED.format("ab12"), "key-not-accepted", {"key": "ab12"}),
        (f"body of 70000 bytes; {MAX_BODY} are allowed", "body-too-large", {}),
        ("not numbered: ep and seq are needed", "not-numbered", {}),
        ("a text of another release", "", {}),
        ("", "", {}),
        ("constructor", "", {}),
    ],
)
def test_a_stored_text_has_its_code_and_args(why: str, code: str, args: dict[str, str]) -> None:
    found = reason_of(why)
    assert (found.why, found.code, found.args) == (why, code, args)


def test_the_table_has_each_text_with_a_code_once() -> None:
    assert table(["quota", "quota", "unknown text", NEVER]) == {
        "quota": {"code": "quota", "args": {}},
        NEVER: {"code": "never-arrived", "args": {}},
    }
