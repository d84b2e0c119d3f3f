"""Codes of the reasons that the store and the ledger keep as text: losses, quarantine, refused statements.

A file format with a column for the code would not help with the rows that are stored already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from collector.ledger.balance import GONE, NEVER, OUTBOX_LOST, RESTORED
from wire.reasons import Reason

GAPS = ("quota", "disk", "torn", "damaged", "too-large", "unencodable", "overload")  # `why` of a gap event

# the beginning of a text, or all of it; a named group is an arg
_TEXTS = (
    (r"quarantined: (?P<detail>.*)", "quarantined"),
    (r"set aside: it ended the collector (?P<count>\d+) times, see (?P<file>\S+) in the store$", "set-aside"),
    (r"no reason given$", "no-reason-given"),
    (rf"{NEVER}$", "never-arrived"),
    (rf"{OUTBOX_LOST}: the node goes on as ep (?P<ep>\w+)$", "outbox-lost"),
    (rf"{RESTORED}$", "store-restored"),
    (rf"{GONE}$", "day-file-gone"),
    (r"day file (?P<day>\S+) is damaged$", "day-file-damaged"),
    (
        r"day file (?P<day>\S+) is damaged: (?:at least )?(?P<rows>\d+) rows cannot be read$",
        "rows-unreadable",
    ),
    (r"the body was damaged in transit", "body-damaged"),
    (r"body of \d+ bytes; ", "body-too-large"),
    (r"not a (?:[A-Z]\w+|flat live body): ", "body-invalid"),
    (r"a live body needs |live field |the picture of a snapshot |rows before 1970", "body-invalid"),
    (r"(?:broken )?(?:gzip|zstd) body|bytes after the end of a (?:gzip|zstd) body", "encoding-broken"),
    (r"not numbered: ", "not-numbered"),
    (r"topic |unknown class |class |device '|name '|(?:tenant|pilot|site|node) '", "topic-invalid"),
    (r"its signature does not fit ", "signature-invalid"),
    (r"its key (?P<key>\S+) is not accepted", "key-not-accepted"),
    (r"it does not continue the statement before it", "statement-forked"),
    (r"a statement with this number arrived before", "statement-repeated"),
)
_PATTERNS = [(re.compile(pattern, re.DOTALL), code) for pattern, code in _TEXTS]


def reason_of(why: str) -> Reason:
    """The text with its code and args, without a code if the text is unknown."""
    if why in GAPS:
        return Reason(why, why)
    for pattern, code in _PATTERNS:
        if (found := pattern.match(why)) is not None:
            return Reason(why, code, found.groupdict())
    return Reason(why)


def table(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Code and args of each text that has a code."""
    reasons = (reason_of(why) for why in dict.fromkeys(texts))
    return {reason.why: reason.coded() for reason in reasons if reason.code}
