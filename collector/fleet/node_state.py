"""What came from one node, and what follows from it and the time: its state, refusals, held-back data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from collector.ledger.plausible import MAX_SESSIONS, Rising
from collector.store.clock_skew import Skew
from wire.messages import Birth, Live, Status, is_id
from wire.reasons import NO_REASON, Reason, because, no_ack_from

REFUSED_MS = 30_000  # how long a refusal stays a problem after its end: the node sends again in this time
SILENT_MS = 45_000  # three heartbeats
NO_DATA_MS = 60_000  # a node sends a reading within a second
RESENT_MS = 660_000  # it sends a message again within ten minutes

FENCE_CODES = ("fence-memory", "fence-uplink")  # of a node; those of its models are in their states

_INT64 = 2**63


@dataclass(slots=True)
class NodeState:
    """What came from one node."""

    status: Status | None = None
    since_ms: int = 0  # of the status' state; the status is sent again when something else in it changes
    birth: Birth | None = None
    streams: dict[str, msgspec.Raw] | None = None  # that the birth declares, encoded: device -> its streams
    beat: Live = field(default_factory=dict)
    seen_ms: int = 0
    skew: Skew = field(default_factory=Skew)
    quarantined_ms: int = 0
    rising: Rising = field(default_factory=lambda: Rising(MAX_SESSIONS))  # `sess` of the statuses
    online_ms: int = 0  # when the status of its newest session arrived as online; 0 if it was retained
    beat_ms: int = 0  # when the newest heartbeat arrived that was not retained
    data_ms: int = 0  # when the newest numbered message arrived
    refused: Reason = NO_REASON  # why messages were refused last
    refused_ms: int = 0  # until when

    @property
    def is_online(self) -> bool:
        """Whether the newest status is `online`; the node may be silent since."""
        return self.status is not None and self.status.state == "online"

    def saw(self, recv_ms: int) -> bool:
        """Note a sign of life; True when the node was silent before."""
        was_silent = recv_ms - self.seen_ms > SILENT_MS
        self.seen_ms = max(self.seen_ms, recv_ms)
        return was_silent

    def condition(self, now: int) -> tuple[str, int, Reason]:
        """State, since when, and why; the state of a silent node decays to `unknown`."""
        status = self.status
        if status is None:
            return "unknown", self.seen_ms, because("no status has arrived yet", "no-status")
        if status.state == "online" and self.seen_ms <= 0:
            why = because("the broker kept its status, and it gave no sign of life since", "only-retained")
            return "unknown", self.since_ms, why
        silent_ms = now - self.seen_ms
        if status.state == "online" and silent_ms > SILENT_MS:
            silent_s = silent_ms // 1000
            why = because(f"no sign of life for {silent_s} s", "node-silent", seconds=silent_s)
            return "unknown", self.seen_ms + SILENT_MS, why
        return status.state, self.since_ms, Reason(status.reason, status.code, status.args)

    def refusal(self, node: str, now: int) -> Reason:
        """Why its messages wait because a collector refuses or refused them."""
        if now < self.refused_ms:
            return self.refused
        return after_refusal([node]) if self.waits(now) else NO_REASON

    def waits(self, now: int) -> bool:
        """Whether it states that it sends nothing because it was refused, and no data arrived since."""
        waits = self.says_refused and now - self.beat_ms < SILENT_MS
        # data that arrived lately show that it does not wait: some shares refuse only a part of the messages
        return waits and self.is_online and now >= self.refused_ms and now - self.data_ms >= REFUSED_MS

    @property
    def says_refused(self) -> bool:
        """Whether its newest heartbeat states that it exceeds a share."""
        code = self.beat.get("refused_code")
        # after an overload they come back within seconds
        return isinstance(code, str) and code.startswith("share-") and code != "share-overload"

    def behind(self, now: int) -> Reason:
        """The collector that acknowledges nothing, as its newest heartbeat states."""
        by, seconds = self.beat.get("behind"), number(self.beat, "behind_s")
        if not isinstance(by, str) or not is_id(by) or seconds is None or now - self.beat_ms >= SILENT_MS:
            return NO_REASON
        return no_ack_from(by, seconds)

    def fenced(self, now: int) -> Reason:
        """The limit of its fence that it has reached, as its newest heartbeat states."""
        code, why = self.beat.get("fence_code"), self.beat.get("fence")
        if code not in FENCE_CODES or not isinstance(why, str) or now - self.beat_ms >= SILENT_MS:
            return NO_REASON
        args = {"rss_mb": "rss_mb", "limit_mb": "fence_memory_mb"} if code == "fence-memory" else {}
        return Reason(why[:200], str(code), {name: number(self.beat, key) for name, key in args.items()})

    def has_no_data(self, since_ms: int, now: int) -> bool:
        """Whether only its data are held back since then, as by an access rule of the broker."""
        if not self.is_online or self.behind(now).why:  # then what waits is perhaps stored here
            return False
        first = self.data_ms < since_ms
        wait_ms = NO_DATA_MS if first and not self.waits(now) else RESENT_MS
        if now - max(since_ms, self.data_ms) < wait_ms:
            return False
        if self.beat_ms >= since_ms:
            return now - self.beat_ms < SILENT_MS and (number(self.beat, "oldest_s") or 0) * 1000 > NO_DATA_MS
        return first and since_ms <= self.online_ms < now - NO_DATA_MS

    def turns(self, now: int) -> Iterable[int]:
        """When its state or a refusal changes by time alone, ms; moments that are over may be among them."""
        if self.is_online and self.seen_ms > 0:
            silent_ms = now - self.seen_ms
            if silent_ms <= SILENT_MS:
                yield self.seen_ms + SILENT_MS + 1
            else:  # for how long it is silent is shown in steps, after an hour of a minute
                yield now + max(1_000, silent_ms // 60)
        if self.behind(now).why or self.fenced(now).why:
            yield self.beat_ms + SILENT_MS
        if self.refused_ms:
            yield self.refused_ms
        if self.says_refused:
            yield self.beat_ms + SILENT_MS
            yield self.data_ms + REFUSED_MS


def number(live: Live, name: str) -> float | None:
    """A number in a flat body that fits into 64 bits, else None."""
    value = live.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if -_INT64 <= value < _INT64 else None


def clock_state(beat: Live) -> int | None:
    """The clock state in a heartbeat."""
    value = number(beat, "clk")
    return int(value) if value in (0, 1, 2) else None


def after_refusal(nodes: Sequence[str]) -> Reason:
    """The reason of nodes that send nothing yet because they were refused before."""
    who = nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes, such as {nodes[0]},"
    text = f"messages of {who} were refused before and wait there: a node sends them again within ten minutes"
    return because(text, "waits-after-refusal", n=len(nodes), node=nodes[0])
