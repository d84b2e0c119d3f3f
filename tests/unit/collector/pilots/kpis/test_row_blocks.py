"""Blocks of rows beside a loop over every message, and messages that are there twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from collector.pilots.kpis import row_blocks
from collector.pilots.kpis.row_blocks import RowBlocks, Rows, numbered
from collector.store.chunk import ChunkHead, Unpacked
from collector.store.source import StoredChunk
from wire.messages import Quality

BACK = int(Quality.TIME_BACKWARD)


def chunk(dice: random.Random, ep: str, *, is_beside: bool = False) -> StoredChunk:
    """Some messages in any order, some of them there before, some without rows."""
    messages = [(dice.randint(1, 40), dice.choice([0, 1, 1, 2, 7])) for _ in range(dice.randint(1, 6))]
    messages.append((dice.randint(1, 40), 1))
    rows = sum(count for _, count in messages)
    times = np.array([dice.randint(0, 30) for _ in range(rows)], np.int64)
    columns = {"x": np.arange(rows) + 0.5} if dice.random() < 0.8 else {}
    grades = [dice.choice([0, 0, 1, BACK]) for _ in range(rows)]
    return StoredChunk(ep, False, is_beside, Unpacked(ChunkHead(messages, []), times, columns, grades))


def loop(chunks: list[StoredChunk]) -> tuple[list[tuple[float, ...]], set[tuple[str, int, int, int]]]:
    """Row by row: time, outbox, number, place, grade and value of the new ones; and the messages."""
    known, seen = set[tuple[str, int]](), set[tuple[str, int, int, int]]()
    rows: list[tuple[float, ...]] = []
    for each in chunks:
        times, grades, at = each.content.times.tolist(), each.content.quality, 0
        fresh = set(known)
        for seq, count in each.content.head.messages:
            part, at = range(at, at + count), at + count
            if not count or (each.ep, seq) in fresh:
                continue
            fresh.add((each.ep, seq))
            dated = [times[row] for row in part if grades[row] != BACK] or [times[row] for row in part]
            seen.add((each.ep, seq, min(dated), max(dated)))
            for place, row in enumerate(part):
                value = each.content.columns["x"][row] if "x" in each.content.columns else -1.0
                if not each.is_beside:
                    rows.append((times[row], "ab".index(each.ep), seq, place, grades[row], value))
        if not each.is_beside:
            known |= fresh
    return sorted(rows), seen


def listed(rows: Rows, outboxes: list[str]) -> Iterator[tuple[float, ...]]:
    columns = (rows.times, rows.outboxes, rows.seqs, rows.places, rows.grades, rows.values["x"], rows.is_new)
    for time, outbox, seq, place, grade, value, is_new in zip(
        *(each.tolist() for each in columns), strict=True
    ):
        if is_new:
            yield (
                time,
                "ab".index(outboxes[outbox]),
                seq,
                place,
                grade,
                -1.0 if np.isnan(value) else value,
            )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("at_once", [1, 15, 10_000])
def test_blocks_give_what_a_loop_over_messages_gives(
    seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_blocks, "_AT_ONCE", at_once)
    dice = random.Random(seed)
    chunks = [chunk(dice, dice.choice("ba"), is_beside=dice.random() < 0.2) for _ in range(12)]
    blocks, parts = RowBlocks(["x"]), list[Rows]()
    for each in chunks:
        is_new = blocks.add(each)
        assert len(is_new) == len(each.content.times)
        if blocks.is_full and (taken := blocks.take()) is not None:
            parts.append(taken)
    if (rest := blocks.take()) is not None:
        parts.append(rest)
    ordered = Rows.joined(parts, ["x"]).in_order(blocks.outboxes)
    found = list(listed(ordered, blocks.outboxes))
    rows, seen = loop(chunks)
    assert found == rows
    messages = blocks.messages()
    assert {(ep, *one) for ep, each in messages.items() for one in zip(*map(list, each), strict=True)} == seen
    for each in messages.values():
        assert all(before <= after for before, after in pairwise(each.seqs.tolist()))


def test_nothing_gives_no_rows_and_no_messages() -> None:
    blocks = RowBlocks(["x"])
    assert blocks.take() is None
    assert blocks.messages() == {}
    none = Rows.joined([], ["x"]).in_order([])
    assert (len(none.times), len(none.values["x"])) == (0, 0)


def test_a_number_that_comes_again_is_not_new() -> None:
    known = {4}
    seqs, counts, is_new = numbered([(3, 2), (4, 1), (5, 0), (3, 1), (6, 1)], known)
    assert (seqs.tolist(), counts.tolist()) == ([3, 4, 3, 6], [2, 1, 1, 1])
    assert is_new.tolist() == [True, False, False, True]
    assert known == {3, 4, 6}
    assert numbered([(7, 1)], known, note=False)[2].all()
    assert 7 not in known
