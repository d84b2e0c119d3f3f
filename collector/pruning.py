"""Applies retention rules and quotas to the day files that ended, one file at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from collector.store.day_schema import Damaged, StoreBusy, identity
from collector.store.folder import day_files, day_of
from collector.store.prune import Due, Leaving, bytes_in, planned
from collector.store.retention import Class, Quota, Retention, today_of
from collector.store.snapshot import Step
from collector.store.store import SqliteStore, peek
from wire.clock import Clock
from wire.errors import EdgebedError

log = logging.getLogger(__name__)

GB = 10**9
PRUNE = "prune"  # what `edgebed collector prune` asks for


class Planned(NamedTuple):
    """What would go from one day file."""

    path: Path
    gone: Leaving


def by_age(retention: Retention, day: date, today: date) -> Due:
    """What the rules remove from the file of a day."""
    age = (today - day).days
    known: dict[tuple[str, Class], bool] = {}

    def due(node: str, cls: Class) -> bool:
        pilot = "/".join(node.split("/", 2)[:2])
        found = known.get((pilot, cls))
        if found is None:
            keep = retention.keep_days(pilot, cls)
            found = known[(pilot, cls)] = 0 < keep < age
        return found

    return due


def due_now(folder: Path, retention: Retention, clock: Clock) -> list[Planned]:
    """What the rules remove from a store, the oldest first; a collector may run. Nothing is changed.

    Raises:
        EdgebedError: a file cannot be read now.
    """
    days = {path: day_of(path) for path in day_files(folder)[:-1]}
    today = today_of(list(days.values()), clock)
    due = (Planned(path, planned(path, by_age(retention, day, today))) for path, day in days.items())
    return [one for one in due if one.gone]


def nodes_of(folder: Path) -> set[str]:
    """The nodes that have messages in a store."""
    return {mark.node for mark in peek(folder).marks}


class Pruner:
    """Decides what goes; for one thread beside the writer. `written_today` has bytes of today by tenant."""

    def __init__(
        self,
        store: SqliteStore,
        quotas: Sequence[Quota] = (),
        written_today: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.full: frozenset[str] = frozenset()  # tenants whose messages are refused
        self.problem = ""  # why something that is due cannot go
        self.store = store
        self._quotas = {one.tenant: one for one in quotas}
        self._written_today = written_today
        self._looked: dict[Path, tuple[object, date]] = {}  # files in which nothing was due, and when
        self._sizes: dict[Path, tuple[object, Counter[str]]] = {}  # bytes by tenant of files that ended
        status = store.status()
        self._begun = store.folder / status.day if status.day and quotas else None  # before this start
        self._begun_size = self._measured(self._begun) if self._begun else Counter[str]()

    def step(self, step: Step) -> Planned | None:
        """Prune one day file; None when nothing is due.

        Raises:
            Stopped: `step` was stopped.
            OSError: the disk fails.
        """
        self.problem = ""
        done = self._by_quotas(step) or self._by_rules(step)  # a long backlog of rules delays no quota
        if done is not None:
            for (node, cls), (count, size) in sorted(done.gone.sizes.items()):
                log.info(
                    "%s: retention removed %d of class %s of %s, %d bytes",
                    done.path.name,
                    count,
                    cls,
                    node,
                    size,
                )
        return done

    def _by_rules(self, step: Step) -> Planned | None:
        retention = self.store.retention
        if not retention.rules:
            return None  # whole days go by themselves
        today = self.store.retention_day()
        for path, day in self.store.ended_days().items():
            now = (identity(path), today)
            if self._looked.get(path) == now:
                continue
            gone = self._pruned(path, by_age(retention, day, today), step)
            if gone:
                return Planned(path, gone)
            if gone is not None:
                self._looked[path] = now
        return None

    def _by_quotas(self, step: Step) -> Planned | None:
        """Remove the oldest day of a tenant that is over its quota, and note whose messages are refused."""
        if not self._quotas:
            return None
        files = {path: self._size(path) for path in self.store.ended_days()}
        used = sum(files.values(), self._today())
        over = [one for one in self._quotas.values() if used[one.tenant] >= one.gb * GB]
        refused = {one.tenant for one in over if one.when_full == "refuse"}
        self.full = frozenset(refused | (self.full & {one.tenant for one in over}))
        for quota in over:
            if quota.when_full == "refuse":
                continue
            for path in (path for path, sizes in files.items() if sizes[quota.tenant]):
                gone = self._pruned(path, _all_of(quota.tenant), step)
                if gone:
                    return Planned(path, gone)
                if gone is None:
                    break  # a newer day does not go before an older one
            refused.add(quota.tenant)
        self.full = frozenset(refused)
        return None

    def used(self) -> Mapping[str, int]:
        """About how many bytes the day files have of each tenant."""
        return sum((self._size(path) for path in self.store.ended_days()), self._today())

    def _today(self) -> Counter[str]:
        found = Counter(dict(self._written_today()))
        if self._begun is not None and self._begun.name == self.store.status().day:
            found.update(self._begun_size)
        return found

    def _size(self, path: Path) -> Counter[str]:
        now = identity(path)
        known = self._sizes.get(path)
        if known is None or known[0] != now:
            known = self._sizes[path] = (now, self._measured(path))
        return known[1]

    def _measured(self, path: Path) -> Counter[str]:
        found: Counter[str] = Counter()
        try:
            for node, size in bytes_in(path).items():
                found[node.partition("/")[0]] += size
        except (OSError, EdgebedError) as error:
            log.warning("%s cannot be measured: %s", path.name, error)
        return found

    def _pruned(self, path: Path, due: Due, step: Step) -> Leaving | None:
        """What went from one file; None: it cannot be changed now."""
        try:
            return self.store.prune(path, due, step)
        except (Damaged, StoreBusy) as error:
            self.problem = f"{error}: what is due stays in it"
            return None


def _all_of(tenant: str) -> Due:
    return lambda node, cls: cls != "quarantine" and node.partition("/")[0] == tenant
