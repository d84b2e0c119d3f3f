"""The SQL of the questions to a day file."""

from __future__ import annotations

from collector.store.day_file import SPARSE

ALL = 2**62
EVENTS = """
SELECT id, ts, recv, type, sev, body FROM event INDEXED BY event_by_time
WHERE node = ? AND device = ? AND ts <= ? AND (ts < ? OR id < ?) AND (? = '' OR type = ?)
ORDER BY ts DESC, id DESC LIMIT ?"""
STREAM = "(SELECT id FROM stream WHERE node = ? AND device = ? AND name = ?)"
CHUNK = "ep, late, first_us, last_us, rows, body FROM chunk"
SPAN = f"stream = {STREAM} AND last_us >= ? AND first_us <= ?"
IN_SPAN = f"SELECT id, {CHUNK} WHERE {SPAN}"
SPARSE_IN_SPAN = f"SELECT {CHUNK} INDEXED BY chunk_sparse WHERE late >= {SPARSE} AND {SPAN}"
MINUTES = (
    f"SELECT minute, n, total, low, high, late FROM rollup WHERE stream = {STREAM}"  # noqa: S608 - constants
    " AND field = (SELECT id FROM field WHERE name = ?) AND minute BETWEEN ? AND ?"
)
BY_ID = f"SELECT id, {CHUNK} NOT INDEXED WHERE {SPAN} AND id BETWEEN ? AND ?"
# the chunks before and after a span; their `late` is null because their rows are not in it
ASIDE = f"SELECT ep, NULL, first_us, last_us, rows, body FROM chunk WHERE stream = {STREAM} AND "  # noqa: S608 - a constant
BEFORE = ASIDE + "last_us < ? ORDER BY last_us DESC LIMIT 1"
AFTER = ASIDE + "last_us > ?4 AND first_us > ?4 ORDER BY last_us LIMIT 1"
