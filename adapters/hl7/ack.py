"""Builds answers to a monitor, ACK messages with ERR segments, and remembers the messages answered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal
from weakref import ReferenceType as WeakReference
from weakref import WeakKeyDictionary

from adapters.hl7.message import Hl7Message, Mismatch, Separators
from wire.clock import NS_PER_MS, Clock

Verdict = Literal["A", "E", "R"]  # accepted, error (read in part), rejected
_MAX_ERRORS = 20
_REMEMBERED = 4_096
_RESENT_S = 60.0  # a copy that comes on a new connection more than this after the answer is a new message
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ack_code(message: Hl7Message | None, mode: str, verdict: Verdict) -> str:
    """MSA-1 of the answer; empty if the monitor does not ask for an answer. HL7 v2.6 chapter 2.9.

    AA, AE or AR without MSH-15 and MSH-16 (original mode), or if an application acknowledgement is requested.
    CA, CE or CR with MSH-15 alone (enhanced mode).
    """
    if mode == "never":
        return ""
    if mode == "application" or message is None:
        return "A" + verdict
    accept, application = message.msh(15).upper(), message.msh(16).upper()
    if not accept and not application:
        return "A" + verdict
    if _requests(application, verdict):
        return "A" + verdict
    return "C" + verdict if _requests(accept, verdict) else ""


def _requests(condition: bytes, verdict: Verdict) -> bool:
    # HL7 table 0155
    return condition in (b"AL", b"SU" if verdict == "A" else b"ER")


class AckBuilder:
    """Builds acknowledgements; their MSH-10 is the time in ms and a number that counts up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent = 0

    def build(self, message: Hl7Message | None, code: str, mismatches: Sequence[Mismatch] = ()) -> bytes:
        """An ACK to `message`, or to an unreadable message if it is None."""
        now_ms = self._clock.now_ns() // NS_PER_MS
        at = (_EPOCH + timedelta(milliseconds=now_ms)).strftime("%Y%m%d%H%M%S.%f")[:-3] + "+0000"
        self._sent += 1
        s = message.separators if message is not None else Separators()
        empty = [b""] * 19
        header = [*message.header, *empty] if message is not None else empty
        trigger = message.msh(9, 2) if message is not None else b"R01"
        msh = [b""] * 19
        msh[0] = b"MSH"
        msh[2] = s.component + s.repetition + s.escape + s.subcomponent
        msh[3], msh[5], msh[6] = b"edgebed", header[3], header[4]
        msh[7] = at.encode()
        msh[9] = s.component.join((b"ACK", trigger or b"R01", b"ACK"))
        msh[10] = f"{now_ms:x}-{self._sent:x}".encode()
        msh[11], msh[12], msh[18] = header[11] or b"P", header[12] or b"2.6", header[18]
        segments = [
            s.field.join([msh[0], *msh[2:]]),
            s.field.join((b"MSA", code.encode(), header[10])),
            *(_err(mismatch, s) for mismatch in mismatches[:_MAX_ERRORS]),
        ]
        return b"\r".join(segments) + b"\r"


def _err(mismatch: Mismatch, s: Separators) -> bytes:
    place = (mismatch.segment, mismatch.number, mismatch.field or "")
    location = s.component.join(str(word).encode() for word in place)
    text = mismatch.text.encode().translate(None, s.all)  # without separators it needs no escapes
    return s.field.join((b"ERR", b"", location, str(mismatch.code).encode(), b"E", b"", b"", b"", text))


@dataclass(slots=True)
class TakenMessage:
    """A message whose readings were taken: where it came from, the verdict, and when it was answered."""

    sender: bytes  # MSH-3 and MSH-4; empty if the monitor sends neither
    peer: str  # address of the monitor
    verdict: Verdict
    connection: WeakReference[object]
    answered_s: float | None = None  # None: no acknowledgement reached the connection

    def came_again(self, sender: bytes, peer: str, connection: object, at_s: float) -> bool:
        """Whether a copy of this message that arrived at `at_s` is the same message, sent again.

        A monitor sends again because it got no acknowledgement. So a copy that comes on the same connection
        after the acknowledgement is a new measurement with the same values, and so is a copy of another
        monitor.
        """
        if peer != self.peer and (not sender or sender != self.sender):
            return False
        if self.answered_s is None or at_s < self.answered_s:
            return True
        return self.connection() is not connection and at_s - self.answered_s <= _RESENT_S

    def answered(self, at_s: float) -> None:
        """Note the first acknowledgement: later ones must not prolong the time for copies."""
        if self.answered_s is None:
            self.answered_s = at_s


@dataclass(slots=True)
class AnsweredMessages:
    """The messages of one device that were answered, and its patients.

    They must outlive an adapter, which lives for one connection, because a monitor resends messages after
    a connection broke. A restart of the agent forgets them: a message that was read but not acknowledged
    before the restart is then read twice.
    """

    taken: OrderedDict[bytes, TakenMessage] = field(default_factory=OrderedDict)
    ids: OrderedDict[tuple[bytes, bytes], bytes] = field(default_factory=OrderedDict)
    patients: dict[str, tuple[str | None, int]] = field(default_factory=dict)

    def reused(self, sender: bytes, control_id: bytes, digest: bytes) -> bool:
        """Whether an earlier message had this MSH-10 and other contents: the id does not identify it."""
        return self.ids.get((sender, control_id), digest) != digest

    def keep(self, sender: bytes, control_id: bytes, digest: bytes, message: TakenMessage) -> None:
        """Remember a message, and forget the oldest messages."""
        self.taken[digest] = message
        self.taken.move_to_end(digest)
        self.ids[sender, control_id] = digest
        self.ids.move_to_end((sender, control_id))
        for table in (self.taken, self.ids):
            while len(table) > _REMEMBERED:
                table.popitem(last=False)


# by clock: several agents in one process (tests, scenarios) must not share them
_answered: WeakKeyDictionary[Clock, dict[str, AnsweredMessages]] = WeakKeyDictionary()


def answered_messages(clock: Clock, url: str) -> AnsweredMessages:
    """The answered messages of the device at `url`."""
    return _answered.setdefault(clock, {}).setdefault(url, AnsweredMessages())
