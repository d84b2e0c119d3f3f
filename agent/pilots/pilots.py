"""Takes the frozen plan of a pilot from `desired/pilot`; a refused one leaves the one before in use."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.inference.signing.trust import Trust
from agent.pilots.plan_file import KeptPlan, PlanFile
from agent.pilots.signature_check import check
from agent.pilots.signatures import PlanRefused, valid_keys
from agent.remote.desired import NotAcceptable, Report, read_desired
from wire.clock import Clock
from wire.errors import EdgebedError, WireError
from wire.messages import Desired, Event, Reported
from wire.pilot.frozen import Opened, SignedPlan, read_signed
from wire.pilot.plan import Plan
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because
from wire.topics import Address

log = logging.getLogger("edgebed.agent")

EVENT = "pilot"
_PAUSE_S = 0.5  # between two plans: a flood of them costs little


@dataclass(frozen=True, slots=True)
class PilotHooks:
    """What a node gives: `record` puts an event into the outbox, `changed` gets each new outcome.

    `unable` gives the reason why the node cannot follow a plan.
    """

    record: Callable[[Event], None]
    changed: Callable[[], None]
    trust: Callable[[], Trust]
    unable: Callable[[Plan], Reason] = lambda _plan: NO_REASON


class Pilots:
    """The plan of one node. `take` returns at once; `run` judges what came, one plan at a time."""

    def __init__(
        self, address: Address, state: Path, clock: Clock, hooks: PilotHooks, *, least_signers: int = 1
    ) -> None:
        self._address = str(address)
        self._file = PlanFile(state)
        self._clock = clock
        self._hooks = hooks
        self._least_signers = least_signers
        self._kept = KeptPlan()
        self._current: Opened | None = None
        self._note: Report | None = None  # of a message that is not kept
        self._next: tuple[bytes, bool] | None = None
        self._look_at_keys = True
        self._asked = asyncio.Event()
        self._stopping = threading.Event()

    @property
    def current(self) -> Opened | None:
        """The plan that this node follows."""
        return self._current

    def start(self) -> None:
        """Read the plan of before; blocks."""
        self._kept = self._file.load()
        self._current = self._kept.opened()

    def take(self, body: bytes, signed: bool) -> None:
        """Take a message on `desired/pilot`; returns at once. Of several that wait, the newest is used.

        `signed`: its mac was checked.
        """
        self._next = body, signed
        self._asked.set()

    def trust_changed(self) -> None:
        """End a plan that too few keys signed now; returns at once."""
        self._look_at_keys = True
        self._asked.set()

    async def run(self) -> None:
        """Judge what comes, until cancelled."""
        try:
            self._asked.set()  # a key may have been revoked meanwhile
            await self._record()  # the last run may have ended before that
            while True:
                await self._asked.wait()
                self._asked.clear()
                if self._look_at_keys:
                    self._look_at_keys = False
                    if await asyncio.to_thread(self.revoke):
                        await self._record()
                        self._hooks.changed()
                if self._next is not None:
                    (body, signed), self._next = self._next, None
                    await asyncio.to_thread(self.judge, body, signed)
                    await self._record()
                    self._hooks.changed()
                    await asyncio.sleep(_PAUSE_S)
        finally:
            self._stopping.set()

    def judge(self, body: bytes, signed: bool) -> None:
        """Follow the plan in a message, or report why not; blocks."""
        try:
            desired, doc = read_desired(body, self._clock.now_ms())
        except NotAcceptable as error:
            self._refuse(None, error, signed=signed)
            return
        if self._is_old(desired, signed):
            log.warning("the plan in message %d is older than the newest one and is ignored", desired.ver)
            return
        try:
            if not doc:
                self._withdraw(desired, signed)
            else:
                self._follow(desired, doc, signed)
        except (PlanRefused, WireError) as error:
            self._refuse(desired, error, signed=signed)
        except OSError as error:
            text = f"{self._file.path.name} cannot be written: {error.strerror}"
            self._note = self._report(desired, "failed", because(text, "disk-failed"), signed=signed)

    def reported(self) -> Reported | None:
        """The body of `reported/pilot`."""
        kept, note, current = self._kept, self._note, self._current  # at once: `judge` runs in another thread
        if (report := note or kept.report) is None:
            return Reported(ver=0, state="applied", ts=self._clock.now_ms())
        return report.reported("" if current is None else current.hash)

    def _is_old(self, desired: Desired, signed: bool) -> bool:
        """Whether a message with a mac is one of before, which another client can send again."""
        known = self._kept.report
        return signed and known is not None and known.signed and desired.ver < known.ver

    def _follow(self, desired: Desired, doc: dict[str, Any], signed: bool) -> None:
        body = msgspec.json.encode(doc)
        try:
            opened = read_signed(body)
        except WireError as error:
            raise PlanRefused(str(error)).coded("pilot-unreadable", detail=str(error)) from error
        envelope = msgspec.json.decode(body, type=SignedPlan)
        if self._kept.signed == envelope:
            self._note = None
            self._kept = replace(
                self._kept, report=self._report(desired, "applied", NO_REASON, signed=signed)
            )
            self._file.save(self._kept)
            return
        plan = opened.plan.plan
        if self._address not in plan.nodes:
            text = f"the plan of the pilot {plan.pilot} does not name this node"
            raise PlanRefused(text).coded("pilot-other-node", pilot=plan.pilot)
        self._require_next(opened)
        if (unable := self._hooks.unable(plan)).why:
            raise PlanRefused(unable.why).coded(unable.code, **unable.args)
        trust = self._hooks.trust()
        names = check(body, trust, self._stopping)
        if len(names) < self._least_signers:
            text = f"{len(names)} trusted keys signed the plan, and this node asks for {self._least_signers}"
            raise PlanRefused(text).coded("pilot-not-signed", keys=len(names), of=self._least_signers)
        kept = KeptPlan(
            signed=envelope,
            signed_by=names,
            signed_keys=tuple(sorted({key for key, _ in opened.signatures} & valid_keys(trust).keys())),
            is_recorded=False,
            report=self._report(desired, "applied", NO_REASON, signed=signed, digest=opened.hash),
        )
        self._file.save(kept)
        self._kept, self._current, self._note = kept, opened, None
        log.info("this node follows the pilot %s, version %d", plan.pilot, opened.plan.version)

    def _require_next(self, opened: Opened) -> None:
        """Raise for a plan that does not come after the one that this node follows."""
        now, current = self._clock.now_ms(), self._current
        pilot = opened.plan.plan.pilot
        if opened.plan.schedule.trial_ms[1] <= now:
            text = f"the trial of the pilot {pilot} is over"
            raise PlanRefused(text).coded("pilot-over", pilot=pilot)
        if current is None or current.hash == opened.hash:
            return
        before, version = current.plan, opened.plan.version
        if before.plan.pilot != pilot:
            # a node has one plan: another one would end the pilot before its trial
            if now < before.schedule.trial_ms[1]:
                text = f"the trial of the pilot {before.plan.pilot}, which this node follows, is not over"
                raise PlanRefused(text).coded("pilot-overlaps", pilot=before.plan.pilot)
        elif version <= before.version:
            text = f"version {version} of the plan is not above {before.version}, which this node follows"
            raise PlanRefused(text).coded("pilot-older", version=version, newest=before.version)
        elif version == before.version + 1 and opened.plan.previous != current.hash:
            text = f"version {version} amends another plan than the one that this node follows"
            raise PlanRefused(text).coded("pilot-amends-other", version=version)

    def _withdraw(self, desired: Desired, signed: bool) -> None:
        if self._current is None and self._kept.report is None:
            return
        pilot = None if self._current is None else self._current.plan.plan.pilot
        kept = KeptPlan(
            is_recorded=self._current is None,
            withdrawn="" if self._current is None else self._current.hash,
            ended={} if pilot is None else {"pilot": pilot, "by": desired.by, "mac": signed},
            report=self._report(desired, "applied", NO_REASON, signed=signed),
        )
        if pilot is not None:
            who = printable(desired.by, 128) or "a controller"
            log.warning("the pilot %s ends here: %s withdrew its plan", pilot, who)
        self._file.save(kept)
        self._kept, self._current, self._note = kept, None, None

    def revoke(self) -> bool:
        """End the plan if too few of its keys count now; returns whether it did. Blocks."""
        trust = self._hooks.trust()
        if (current := self._current) is None or trust.broken:
            return False
        valid = valid_keys(trust)
        names = {valid[key] for key in self._kept.signed_keys if key in valid}
        if len(names) >= self._least_signers:
            return False
        pilot = current.plan.plan.pilot
        text = f"{len(names)} keys that count now signed the plan of {pilot}: it ends here"
        why = because(text, "pilot-not-signed", keys=len(names), of=self._least_signers)
        log.error("%s", text)
        before = self._kept.report
        self._kept = KeptPlan(
            is_recorded=False,
            withdrawn=current.hash,
            ended={"pilot": pilot, "by": "", "code": why.code},
            report=None
            if before is None
            else replace(before, state="rejected", ts=self._clock.now_ms(), **why.fields()),
        )
        self._current = self._note = None
        try:
            self._file.save(self._kept)
        except OSError as error:  # the next start ends it again
            log.error("%s cannot be written: %s", self._file.path, error.strerror)
        return True

    async def _record(self) -> None:
        """Put the newest change into the outbox, unless it is there."""
        if self._kept.is_recorded:
            return
        detail: dict[str, Any] = {"withdrawn": self._kept.withdrawn, **self._kept.ended}
        if self._current is not None:
            frozen = self._current.plan
            detail = {
                "pilot": frozen.plan.pilot,
                "hash": self._current.hash,
                "version": frozen.version,
                "previous": frozen.previous,
                "signed_by": list(self._kept.signed_by),
                "trial": list(frozen.schedule.trial_ms),
            }
        self._hooks.record(Event(ts=self._clock.now_ms(), type=EVENT, detail=detail))
        self._kept = replace(self._kept, is_recorded=True)
        try:
            await asyncio.to_thread(self._file.save, self._kept)
        except OSError as error:  # the next start records it once more, which is harmless
            log.error("%s cannot be written: %s", self._file.path, error.strerror)

    def _refuse(self, desired: Desired | None, error: EdgebedError, *, signed: bool) -> None:
        log.error("the plan of a pilot is refused: %s", printable(error, 2_000))
        self._note = self._report(desired, "rejected", error.reason, signed=signed)

    def _report(
        self, desired: Desired | None, state: Any, why: Reason, *, signed: bool, digest: str | None = None
    ) -> Report:
        if digest is None:
            digest = "" if self._current is None or state != "applied" else self._current.hash
        ver = 0 if desired is None else desired.ver
        return Report(
            ver=ver, digest=digest, state=state, ts=self._clock.now_ms(), signed=signed, **why.fields()
        )
