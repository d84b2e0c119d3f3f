"""A refusal: a message that exceeds a share is not acknowledged, and its node learns why and until when."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from collector.ingest.fair_rate import Scope, Wait
from wire.codec import GZIP, encode, first_bytes, seal
from wire.messages import Ack, Refused
from wire.reasons import Reason, because
from wire.topics import ROOT

ANSWER_EVERY_S = 1.0  # to one node
ANSWERS_PER_S = 1_000  # to all nodes: an unknown client may invent names
_EP = re.compile(rb'"ep"\s*:\s*"([0-9a-f]{8,32})"')
_END = 1_024  # bytes of a body, at its beginning and its end, in which its `ep` is looked for


class ShareExceeded(Exception):
    """A message that exceeds a share; nothing of it was taken."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason.why)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which share is exceeded, as its config key, and until when (ms) the node should wait."""

    scope: Scope
    key: str
    until_ms: int

    @classmethod
    def after(cls, wait: Wait, key: str, now_ms: int) -> Refusal:
        """The refusal that ends when `wait` does."""
        return cls(wait.scope, key, now_ms + int(1000 * wait.seconds))

    @property
    def code(self) -> str:
        """The code of the reason."""
        return SHARE_CODES[self.key]

    @property
    def is_overload(self) -> bool:
        """Whether the node keeps its shares, but the collector cannot store all that arrives."""
        return self.scope == "collector"

    @property
    def reason(self) -> Reason:
        """The reason for people and programs."""
        if self.is_overload:
            text = "the collector is slower than what arrives, and this node sends more than its part of it"
            return because(text, self.code)
        share = "quotas" if self.key == "quota" else f"shares.{self.scope}.{self.key}"
        return because(f"it exceeds {share} of the collector", self.code, share=share)


SHARE_CODES = {
    "overload": "share-overload",
    "messages_per_s": "share-messages",
    "plain_kb_per_s": "share-bytes",
    "values_per_s": "share-values",
    "nodes": "share-nodes",
    "streams": "share-streams",
    "names_per_stream": "share-names",
    "names": "share-names",
    "live_kb": "share-live",
    "disk_mb_per_day": "share-disk",
    "quota": "share-disk",
}


class Answers:
    """Makes the `ack` that reports a refusal to its node: one a second at most; for one thread."""

    def __init__(self, by: str) -> None:
        self.counts: Counter[tuple[Scope, str]] = Counter()  # scope and key -> messages
        self._by = by
        self._second = -1
        self._answered: set[bytes] = set()

    def answer(
        self, base: bytes, body: bytes, refusal: Refusal, now_ms: int, now_s: float
    ) -> tuple[str, bytes] | None:
        """Count a refused message; returns topic and body of the answer, None when none is due."""
        self.counts[(refusal.scope, refusal.key)] += 1
        second = int(now_s / ANSWER_EVERY_S)
        if second != self._second:
            self._second = second
            self._answered.clear()
        if base in self._answered or len(self._answered) >= ANSWERS_PER_S:
            return None
        ep = epoch_in(body)
        if not ep or not base.startswith(ROOT.encode()):
            return None
        self._answered.add(base)
        refused = Refused(code=refusal.code, until=refusal.until_ms, why=refusal.reason.why)
        ack = Ack(ep=ep, ok=[], packs=True, by=self._by, ts=now_ms, refused=refused)
        return f"{base.decode(errors='replace')}/ack", seal(encode(ack))


def epoch_in(body: bytes) -> str:
    """The `ep` near the beginning or the end of a body, which is not decoded; "" when it is not there.

    Only the beginning of a compressed body is searched.
    """
    ends = first_bytes(body[: 4 * _END], _END)
    if not body.startswith(GZIP):
        ends += body[_END:][-_END:]
    found = _EP.search(ends)
    return found[1].decode() if found else ""
