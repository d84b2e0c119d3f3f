"""The desired document of a node: what is kept of it, and the plan that it makes of the operator's file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from agent.config import AgentPlan, load_over
from agent.remote.allowed import Allowed
from agent.remote.desired import MAX_STARTS, DesiredFile, Document, Kept, Report, ReportedState
from wire.clock import Clock
from wire.errors import ConfigError
from wire.messages import Reported
from wire.reasons import NO_REASON, Reason, because

log = logging.getLogger("edgebed.agent")


@dataclass(frozen=True, slots=True)
class Start:
    """What a daemon runs first; `before` is what it goes back to if `plan` is on trial and does not work."""

    plan: AgentPlan
    before: AgentPlan | None = None


class DesiredConfig:
    """The documents of one node. Every change is on disk before it is applied. Methods block for the disk."""

    def __init__(self, base: AgentPlan, clock: Clock) -> None:
        self.kept = Kept()
        self._enabled = base.config.remote.config
        self._file = DesiredFile(base.config.state)
        self._clock = clock
        self._unusable = False  # `kept.used` does not work over the file of this start
        self._note: Report | None = None  # of a message that is not kept; it hides `kept.report`

    def start(self, base: AgentPlan) -> Start:
        """What to run now; a trial that the daemon did not survive starts again, twice at most."""
        if not self._enabled:
            return Start(base)
        self.kept = self._file.load()
        used = self._used_over(base)
        trial = self.kept.trial
        if trial is None:
            return Start(used)
        if self.kept.starts >= MAX_STARTS:
            times = self.kept.starts + 1
            text = f"the agent ended {times} times while the document was on trial"
            self.end_trial(because(text, "config-crashed", times=times))
            return Start(used)
        try:
            plan = self.plan(base, trial)
            self._save(replace(self.kept, starts=self.kept.starts + 1, state="soaking"))
        except ConfigError as error:
            self.end_trial(invalid(error), "rejected")
            return Start(used)
        except OSError as error:  # a start that is not counted could repeat without end
            self.note(trial, "failed", _unsaved(error))
            return Start(used)
        return Start(plan, used)

    def _used_over(self, base: AgentPlan) -> AgentPlan:
        if self.kept.used is None:
            return base
        try:
            return self.plan(base, self.kept.used)
        except ConfigError as error:
            why = invalid(error)
            log.error("the desired document %d cannot be used, the file is: %s", self.kept.used.ver, why.why)
            self.note(self.kept.used, "failed", why)
            self._unusable = True
            return base

    def plan(self, base: AgentPlan, document: Document | None) -> AgentPlan:
        """The operator's file with a document over it.

        Raises:
            ConfigError: it cannot be used; lists every mistake.
        """
        if document is None or document.withdraws:
            return base
        config = base.config
        allowed = Allowed.by(config.remote.files, config.state, config.devices, config.models)
        return load_over(base, document.doc, allowed, self._clock)

    def is_done(self, document: Document) -> bool:
        """Whether this very document was judged before: a broken one is not tried again and again."""
        known = self.kept.report
        return known is not None and (known.ver, known.digest) == (document.ver, document.digest)

    @property
    def kept_ver(self) -> int:
        """The version of the newest document that was judged and whose mac was checked; else 0."""
        known = self.kept.report
        return known.ver if known is not None and known.signed else 0

    def is_old(self, document: Document) -> bool:
        """Whether a document with a mac is one of before, which another client can send again."""
        return document.signed and document.ver <= self.kept_ver

    def begin_trial(self, document: Document, excused: frozenset[str]) -> None:
        """Note on disk that a document will be tried.

        Raises:
            OSError: the disk takes nothing: the document must not be tried.
        """
        report = self._report(document, "soaking", NO_REASON)
        self._save(
            replace(
                self.kept, trial=document, state="pending", starts=0, excused=sorted(excused), report=report
            )
        )
        self._note = None

    def soaking(self) -> None:
        """Note that the document of the trial runs."""
        self._keep(replace(self.kept, state="soaking"))

    def confirm(self) -> None:
        """Use the document of the trial from now on."""
        if (trial := self.kept.trial) is not None:
            self._keep(Kept(used=trial, report=self._report(trial, "applied", NO_REASON)))
            self.usable()

    def end_trial(self, why: Reason, state: ReportedState = "rolled_back") -> None:
        """Go back to the document before the trial."""
        if (trial := self.kept.trial) is not None:
            self._keep(Kept(used=self.kept.used, report=self._report(trial, state, why)))

    def stopped(self) -> None:
        """Note that the daemon was stopped on request: the trial did not end it."""
        if self.kept.trial is not None:
            self._keep(replace(self.kept, starts=0))

    def use(self, document: Document) -> None:
        """Use a document without a trial: one that withdraws, or that says what is used already.

        Raises:
            OSError: the disk takes nothing: nothing must change.
        """
        used = None if document.withdraws else document
        self._save(Kept(used=used, report=self._report(document, "applied", NO_REASON)))
        self.usable()

    def reject(self, document: Document, why: Reason) -> None:
        """Note that a document cannot be used."""
        self._note = None
        self._keep(replace(self.kept, report=self._report(document, "rejected", why)))

    def note(self, document: Document | None, state: ReportedState, why: Reason) -> None:
        """Report about a message without keeping it: it is judged again when it comes again."""
        self._note = self._report(document, state, why)

    def forget_note(self) -> None:
        """Report what is kept again, unless the note is about a document that cannot be used."""
        if self._note is not None and not self._note.digest:
            self._note = None

    def usable(self) -> None:
        """Note that the document that is used works over the file, which has changed."""
        self._note, self._unusable = None, False

    @property
    def report(self) -> Report | None:
        """What became of the newest message."""
        return self._note or self.kept.report

    @property
    def problem(self) -> Reason:
        """Why the newest document is not in use; `NO_REASON` where it is."""
        return NO_REASON if self.report is None else self.report.reason

    def reported(self) -> Reported | None:
        """The body of `reported/config`; None where this agent takes no documents."""
        if not self._enabled:
            return None
        used = self.kept.trial or (None if self._unusable else self.kept.used)
        active = "" if used is None else used.digest
        if (report := self.report) is None:
            return Reported(ver=0, state="applied", ts=self._clock.now_ms())
        return report.reported(active)

    def document(self) -> dict[str, Any]:
        """The newest document for status.json."""
        if (report := self.report) is None:
            return {}
        return {
            "desired": {
                "ver": report.ver,
                "state": report.state,
                "ts": report.ts,
                **report.reason.fields(),
            }
        }

    def _report(self, document: Document | None, state: ReportedState, why: Reason) -> Report:
        fields = why.fields()
        now = self._clock.now_ms()
        if document is None:
            return Report(ver=0, digest="", state=state, ts=now, **fields)
        ver, digest, signed = document.ver, document.digest, document.signed
        return Report(ver=ver, digest=digest, state=state, ts=now, signed=signed, **fields)

    def _save(self, kept: Kept) -> None:
        self._file.save(kept)
        self.kept = kept

    def _keep(self, kept: Kept) -> None:
        """Save what is decided in any case: on a full disk, the next start decides it again."""
        self.kept = kept
        try:
            self._file.save(kept)
        except OSError as error:
            log.error("%s", _unsaved(error).why)


def invalid(error: ConfigError) -> Reason:
    """Why a config with these mistakes is not in use."""
    if error.reason_code:
        return error.reason
    return because(str(error), "config-invalid", detail=error.mistakes[0])


def _unsaved(error: OSError) -> Reason:
    return because(f"{error.filename or 'desired.yaml'} cannot be written: {error.strerror}", "disk-failed")
