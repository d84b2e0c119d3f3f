"""Drives the rollouts: gives the engine what nodes report, keeps its decisions, requests its commands."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msgspec import UNSET

from collector.fleet.commands import CommandDispatch, NotQueued
from collector.fleet.fleet import Fleet
from collector.rollout.engine import Report, Request, Rollout, restored, step, withheld
from collector.rollout.records import RolloutRecords
from collector.state.audit import AuditEntry
from collector.state.commands import CommandRecord, CommandRecords, TooManyCommands
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.log_rate_limit import LogRateLimit
from wire.model_offer import OFFER
from wire.reasons import Reason
from wire.topics import NODE_ITSELF
from wire.ulid import new_ulid

log = logging.getLogger(__name__)

_TTL_MS = 3_600_000
# ends of a command after which the node may not have taken it
_LOST = (
    "",
    "command-interrupted",
    "command-unanswered",
    "command-not-taken",
    "command-timeout",
    "command-expired",
)
_LOG_LIMIT = LogRateLimit()


@dataclass(frozen=True, slots=True)
class Standing:
    """What may have changed since a rollout was started."""

    may: Callable[[str, str], bool]  # whether the user may configure the node
    is_removed: Callable[[str], bool]  # whether the site has removed the node


class Rollouts:
    """The rollouts of a collector; any thread, every method blocks for `state.db`."""

    def __init__(
        self,
        records: RolloutRecords,
        commands: CommandRecords,
        dispatch: CommandDispatch,
        fleet: Fleet,
        clock: Clock,
        standing: Standing,
    ) -> None:
        self.records = records
        self._standing = standing
        self._commands = commands
        self._dispatch = dispatch
        self._fleet = fleet
        self._clock = clock
        self._turn = threading.Lock()
        self._is_compared = False

    def step(self) -> None:
        """Take every open rollout one step on."""
        with self._turn:
            try:
                self._compare()
                for rollout in self.records.open():
                    self._step(rollout)
            except EdgebedError as error:  # the collector reports a state.db that cannot be used
                if _LOG_LIMIT.since("state") is not None:
                    log.warning("rollouts wait: %s", error)

    def start(self, rollout: Rollout, entry: AuditEntry) -> Rollout:
        """Keep a new rollout. Raises as `RolloutRecords.add`."""
        with self._turn:
            self._compare()  # before anything is counted, or the older copy would not be found any more
            return self.records.add(rollout, entry)

    def change(
        self, tenant: str, identity: str, act: Callable[[Rollout], Rollout], entry: AuditEntry
    ) -> Rollout | None:
        """Change a rollout; None where there is none. Raises as `act` and `RolloutRecords.save`."""
        with self._turn:
            self._compare()
            found = self.records.get(tenant, identity)
            if found is None:
                return None
            after = act(found)
            self.records.save(after, entry)
            return after

    def offered(self, node: str, digest: str) -> bool:
        """Whether a rollout that is open has offered a digest to a node."""
        return any(
            rollout.digest == digest
            and node in rollout.devices
            and rollout.devices[node].state in ("offered", "confirmed")
            for rollout in self.records.open()
        )

    def in_use(self, tenant: str, digest: str) -> str:
        """Why a package must stay; "" where no rollout needs it."""
        for rollout in self.records.open():
            if (rollout.tenant, rollout.digest) == (tenant, digest):
                return f"{rollout.ref} is in the rollout {rollout.id}: end that first"
        return ""

    def new_id(self) -> str:
        """An id for a rollout or a command."""
        return new_ulid(self._clock.now_ms())

    def report(self, rollout: Rollout, node: str) -> Report:
        """What is known of a node now."""
        model, birth = self._fleet.model(node, rollout.slot), self._fleet.birth(node)
        slot = None if model is None or model.slot is UNSET else model.slot
        found = partial(
            Report,
            online=self._fleet.is_online(node),
            able=birth is None or any(one.name == OFFER for one in birth.cmds),
            slot=slot,
            signed_by="" if model is None else model.signed_by,
            is_removed=self._standing.is_removed(node),
        )
        device = rollout.devices[node]
        if device.state == "undoing" and (offer := self._wanted(rollout, node, device.offer)) is not None:
            found = partial(found, offer="open" if offer.is_open else "over")
        record = self._wanted(rollout, node, device.command, device.state == "offered")
        if record is None:
            return found()
        if record.is_open or record.state == "done":
            return found(answer="open" if record.is_open else "done")
        answer = record.answer or {}
        why = Reason(answer.get("err", ""), answer.get("err_code", ""), answer.get("args", {}))
        return found(answer="lost" if why.code in _LOST else "refused", why=why)

    def _compare(self) -> None:
        """Hold what an older copy of `state.db` has: its nodes have gone on since."""
        if self._is_compared:
            return
        if self.records.is_behind():
            held = [restored(one, self._clock.now_ms()) for one in self.records.open() if not one.is_restored]
            self.records.hold([(one, self._audited(one, one.state)) for one in held])
            for one in held:
                log.error("rollout %s: %s", one.id, one.why)
        self._is_compared = True

    def _wanted(
        self, rollout: Rollout, node: str, identity: str, is_offer: bool = True
    ) -> CommandRecord | None:
        """A command as it is kept; None where the node never gets it.

        An offer that was not sent is withdrawn when the rollout does not want it any more.
        """
        record = self._commands.get(node, identity) if identity else None
        if record is None or record.state == "withdrawn":
            return None
        if is_offer and rollout.state != "running" and record.state == "queued" and not record.sent_ms:
            try:
                self._dispatch.withdraw(node, identity, rollout.by, f"rollout {rollout.id}")
            except NotQueued:  # it has just been sent
                return self._commands.get(node, identity)
            return None
        return record

    def _step(self, rollout: Rollout) -> None:
        now, asked = self._clock.now_ms(), rollout
        ahead = rollout.of_state("waiting", "offered") if rollout.state == "running" else []
        if barred := [node for node in ahead if not self._standing.may(rollout.by, node)]:
            asked = withheld(rollout, barred[0], now)
        reports = {node: self.report(asked, node) for node in asked.devices}
        after, requests = step(asked, reports, now, self.new_id)
        if after != rollout:
            self.records.save(after, self._entry(rollout, after))
        for request in requests:
            if self._commands.get(request.node, request.id) is None:
                self._request(after, request)

    def _request(self, rollout: Rollout, request: Request) -> None:
        wanted = CommandRecord(
            request.node, request.id, NODE_ITSELF, request.name, request.args, rollout.by,
            self._clock.now_ms(), _TTL_MS,
        )  # fmt: skip
        try:
            self._dispatch.request(wanted, f"rollout {rollout.id}")
        except TooManyCommands as error:  # the next step tries again
            log.info("rollout %s: %s", rollout.id, error)

    def _entry(self, before: Rollout, after: Rollout) -> AuditEntry | None:
        """The entry of the audit where the state or the stage changed."""
        if (before.state, before.stage) == (after.state, after.stage):
            return None
        return self._audited(
            after, after.state if after.state != before.state else f"stage {after.stage + 1}"
        )

    def _audited(self, after: Rollout, result: str) -> AuditEntry:
        if after.why:
            result = f"{result}: {after.why}"
        subject = f"{after.ref} in {after.slot} {after.id}"
        scope = f"{after.tenant}/*"
        return AuditEntry(self._clock.now_ms(), after.by, "rollout", subject, "rollout", result[:300], scope)
