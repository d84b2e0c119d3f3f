"""What a new process finds in the day files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from collector.store.sqlite_source import SqliteSource


def stored(folder: Path) -> list[int]:
    """Every seq in the day files, once per stored message."""
    with closing(SqliteSource(folder)) as reader:
        return sorted(seq for _, _, seqs, _ in reader.all_chunks() for seq in seqs)
