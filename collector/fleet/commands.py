"""Sends commands to nodes until they answer, and follows each one to its end."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from collector.fleet.fleet import Fleet
from collector.state.commands import CommandRecord, CommandRecords, kept_answer
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.log_rate_limit import LogRateLimit
from wire.messages import Cmd, Res
from wire.reasons import Reason, because
from wire.topics import NODE_ITSELF, ROOT, Topic

log = logging.getLogger(__name__)

AT_ONCE = 4  # commands of one node that were sent and have not ended: an agent runs 8
AGAIN_S = 5.0  # a command without an answer is sent again
TRAVEL_MS = 10_000  # after its time: an answer may still be in flight
ANSWER_MS = 90_000  # after its time: an agent ends a command within 60 s
LATE_MS = 3_600_000  # how long an answer may replace what was concluded without one

_LOG_LIMIT = LogRateLimit()
_RANKS = {"queued": 0, "delivered": 1, "running": 2}
_LAST = 3
# state of an answer -> state of the command
_MEANS = {
    "accepted": "delivered",
    "duplicate": "delivered",  # of an agent before this release, or of one that has forgotten its answer
    "running": "running",
    "done": "done",
    "failed": "failed",
    "rejected": "rejected",
    "expired": "expired",
}
Key = tuple[str, str]  # node, id


class NotQueued(EdgebedError):
    """A command cannot be withdrawn any more."""


@dataclass(slots=True)
class _Followed:
    """A command whose last answer has not arrived."""

    record: CommandRecord
    rank: int  # of the newest answer that arrived
    again_s: float = 0.0  # when it is sent again


class CommandDispatch:
    """The commands that a collector follows.

    The receiving thread calls `on_answer`, which never waits; the others wait for `state.db`. `send` gets a
    topic and a Cmd, `shown` each record that changed, `wake` asks for `step` soon.
    """

    def __init__(
        self,
        records: CommandRecords,
        fleet: Fleet,
        clock: Clock,
        send: Callable[[str, Cmd], None],
        shown: Callable[[CommandRecord], None],
    ) -> None:
        self._records = records
        self._fleet = fleet
        self._clock = clock
        self._send = send
        self._shown = shown
        self.wake: Callable[[], None] = _nobody
        self._followed: dict[Key, _Followed] = {}
        self._answers: deque[tuple[Key, Res, int]] = deque()  # bounded: three of each followed command
        self._is_loaded = False
        self._turn = threading.Lock()  # one thread at a time reads and writes records

    def request(self, wanted: CommandRecord, origin: str) -> tuple[CommandRecord, bool]:
        """Keep a command to be sent; returns it and whether it is new. Raises as `CommandRecords.add`."""
        now = self._clock.now_ms()
        wanted = replace(wanted, changes=[("queued", now)])
        with self._turn:
            entry = wanted.audited(now, "command", origin, "queued")
            record, is_new = self._records.add(wanted, entry)
            if is_new:
                self._followed[record.node, record.id] = _Followed(record, 0)
                self._shown(record)
        self.wake()
        return record, is_new

    def withdraw(self, node: str, identity: str, by: str, origin: str) -> CommandRecord | None:
        """End a command that was not sent yet; None where there is none.

        Raises:
            NotQueued: it was sent, or has ended.
            EdgebedError: as `StateFile.transaction`.
        """
        with self._turn:
            record = self._records.get(node, identity)
            if record is None or record.state == "withdrawn":
                return record
            if record.state != "queued" or record.sent_ms:
                where = record.state if record.state != "queued" else "in flight to the node"
                raise NotQueued(f"command {identity} cannot be withdrawn: it is {where}")
            now = self._clock.now_ms()
            ended = replace(_changed(record, "withdrawn", now), by_node=True)
            entry = replace(record, by=by).audited(now, "command withdrawn", origin, "done")
            self._records.save(ended, entry)
            self._followed.pop((node, identity), None)
        self._shown(ended)
        return ended

    def on_answer(self, topic: Topic, answer: Res, recv_ms: int) -> None:
        """Take an answer of a node; one that does not fit its command is ignored."""
        key = str(topic.address), answer.id
        followed = self._followed.get(key)
        if followed is None or not followed.record.sent_ms:
            return
        state = _MEANS[answer.state]
        rank = _RANKS.get(state, _LAST)
        command = followed.record
        is_refusal = answer.err_code == "commands-too-many"  # it is sent again
        if (
            (topic.device, topic.name) != (command.device, command.name)
            or rank <= followed.rank
            or is_refusal
        ):
            return
        if state == "expired" and followed.rank:  # the node had it in time
            return
        if not command.is_open and state in ("delivered", "running", "expired"):
            return
        followed.rank = rank
        self._answers.append((key, answer, recv_ms))
        self.wake()

    def step(self, *, online: bool) -> None:
        """Take the answers, end what has no time left, and send what waits; `online`: to the broker."""
        with self._turn:
            try:
                if not self._is_loaded:
                    self._followed |= {
                        (one.node, one.id): _Followed(one, _RANKS[one.state]) for one in self._records.open()
                    }
                    self._is_loaded = True
                self._take_answers()
                self._judge()
                if online:
                    self._send_all()
            except EdgebedError as error:  # the collector reports a state.db that cannot be used
                if _LOG_LIMIT.since("state") is not None:
                    log.warning("commands wait: %s", error)

    def _take_answers(self) -> None:
        while self._answers:
            key, answer, recv_ms = self._answers[0]
            followed = self._followed.get(key)
            if followed is not None:
                self._take_answer(followed, answer, recv_ms)
            self._answers.popleft()

    def _take_answer(self, followed: _Followed, answer: Res, recv_ms: int) -> None:
        state, record = _MEANS[answer.state], followed.record
        if _RANKS.get(state, _LAST) < _LAST:
            if record.is_open and _RANKS[state] > _RANKS[record.state]:
                self._save(followed, _changed(record, state, recv_ms))
            return
        ended = replace(_changed(record, state, recv_ms), answer=kept_answer(answer), by_node=True)
        self._save(followed, ended, "node")
        del self._followed[record.node, record.id]

    def _judge(self) -> None:
        """End the commands whose answer will not come, and forget those whose answer is too late."""
        now = self._clock.now_ms()
        for key, followed in list(self._followed.items()):
            record = followed.record
            if not record.is_open:
                if now > record.changes[-1][1] + LATE_MS:
                    del self._followed[key]
            elif record.state != "queued":
                if now > record.ends_ms + ANSWER_MS:
                    text = "the node had the command, and its answer did not arrive: it may have taken effect"
                    self._conclude(followed, "failed", because(text, "command-unanswered"))
            elif now > record.ends_ms + (TRAVEL_MS if record.sent_ms else 0):
                text = "the node did not take the command within its time"
                self._conclude(followed, "expired", because(text, "command-not-taken"))

    def _conclude(self, followed: _Followed, state: str, why: Reason) -> None:
        answer = {"code": 0, "err": why.why, "err_code": why.code, "args": {}}
        now = self._clock.now_ms()
        self._save(followed, replace(_changed(followed.record, state, now), answer=answer), "collector")

    def _send_all(self) -> None:
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic()
        under_way = Counter(
            one.record.node for one in self._followed.values() if one.record.sent_ms and one.record.is_open
        )
        for followed in list(self._followed.values()):
            record = followed.record
            # of one that the node has only the answer is wanted, also after its time
            is_wanted = record.is_open and (followed.rank > 0 or now_ms <= record.ends_ms)
            if not is_wanted or now_s < followed.again_s or not self._fleet.is_online(record.node):
                continue
            if not record.sent_ms:
                if under_way[record.node] >= AT_ONCE:
                    continue
                under_way[record.node] += 1
                # on disk first: what may have left cannot be withdrawn any more
                self._save(followed, replace(record, sent_ms=now_ms))
            followed.again_s = now_s + AGAIN_S
            self._send(f"{ROOT}/{record.node}/cmd/{record.device}/{record.name}", record.message())

    def _save(self, followed: _Followed, record: CommandRecord, ended_by: str = "") -> None:
        """Keep a change, with an entry of the audit where the command ended."""
        entry = None
        if ended_by:
            why = (record.answer or {}).get("err", "")
            result = f"{record.state}: {why}" if why else record.state
            entry = record.audited(self._clock.now_ms(), "command ended", ended_by, result)
        self._records.save(record, entry)
        followed.record = record
        self._shown(record)


def frame_of(record: CommandRecord) -> tuple[str, dict[str, object], str, str]:
    """The frame of a command for the pages that show its node, as `Hub.post` takes it."""
    return "command", record.shown(), record.node, NODE_ITSELF


def _changed(record: CommandRecord, state: str, now_ms: int) -> CommandRecord:
    return replace(record, state=state, changes=[*record.changes, (state, now_ms)])


def _nobody() -> None:
    """Wake nothing."""
