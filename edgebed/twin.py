"""The collector from which a store is filled, over HTTP."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import msgspec

from collector.ledger.holdings import Holding, Record
from collector.ledger.report import ReportFilter
from collector.store.marks import Key
from collector.store.messages import End, Line, Span
from edgebed.against import of_collector
from edgebed.collector_api import CollectorApi
from wire.errors import EdgebedError

_MAX_LINE = 16_000_000  # bytes
_MAX_LINES = 100_000


class HttpTwin:
    """`Twin` of a running collector."""

    def __init__(self, api: CollectorApi, wanted: ReportFilter) -> None:
        self._api = api
        self._wanted = wanted

    def outboxes(self) -> Iterator[Holding]:
        """What it has of the wanted outboxes."""
        return of_collector(self._api, self._wanted)

    def record(self, key: Key) -> Record:
        """One outbox as its ledger keeps it."""
        node, ep = key
        try:
            return msgspec.json.decode(self._api.read(f"nodes/{node}/outboxes/{ep}"), type=Record)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise EdgebedError(f"{self._api.url} is not a collector: {error}") from error

    def messages(self, span: Span) -> tuple[list[Line], bool]:
        """The messages of a span, and whether there are more."""
        found: list[Line] = []
        asked = {"first": str(span.first), "last": str(span.last)}
        try:
            with self._api.open(f"nodes/{span.node}/outboxes/{span.ep}/messages", asked) as answer:
                while len(found) <= _MAX_LINES and (line := answer.readline(_MAX_LINE)):
                    if line.startswith(b"["):
                        found.append(msgspec.json.decode(line, type=Line))
                        continue
                    end = msgspec.json.decode(line, type=End)
                    if end.end == len(found):
                        return found, end.cut
                    break
        except (msgspec.MsgspecError, RecursionError) as error:
            raise EdgebedError(f"{self._api.url} is not a collector: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise EdgebedError(f"{self._api.url}: the answer ended early: {error}; run this again") from error
        raise EdgebedError(f"{self._api.url}: the answer ended early; run this again")
