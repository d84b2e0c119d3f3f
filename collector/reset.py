"""Forgets what one node's forged or wrong numbers left; in a running collector, or in a store at rest."""

from __future__ import annotations

from pathlib import Path

from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Ledger
from collector.requests import ask
from collector.store.folder import day_files
from collector.store.group import Group, Saved
from collector.store.store import SqliteStore, peek
from wire.clock import Clock
from wire.config import did_you_mean
from wire.errors import EdgebedError, TryAgain

RESET = "reset-node"


def reset(ledger: Ledger, fleet: Fleet, node: str) -> list[str]:
    """Forget, and return a sentence for each thing forgotten; the writer's thread calls it."""
    return [*fleet.reset(node), *ledger.reset(node)]


def reset_node(folder: Path, node: str, clock: Clock) -> list[str]:
    """Reset a node in a store; a collector that runs on it does it itself.

    Raises:
        EdgebedError: the folder is not a store or cannot be written, or the node is unknown.
        TryAgain: the collector that owns it does not answer.
    """
    if not day_files(folder):
        raise EdgebedError(f"{folder} is not a store: it has no day files")
    names = known_nodes(peek(folder), clock)
    if node not in names:
        raise EdgebedError(f"unknown node {node}{did_you_mean(node, names)}")
    try:
        store = SqliteStore(folder, clock)
    except TryAgain:
        return ask(folder, RESET, node)
    try:
        saved = store.load()
        ledger = Ledger(saved.marks, saved.states)
        fleet = Fleet(clock, ledger)
        fleet.restore(saved.states)
        found = reset(ledger, fleet, node)
        store.commit(Group(clock.now_ms(), states=fleet.take_unsaved(), marks=ledger.marks()))
    finally:
        store.close()
    return found


def known_nodes(saved: Saved, clock: Clock) -> set[str]:
    """The nodes that have messages or a state in a store."""
    ledger = Ledger(saved.marks, saved.states)
    fleet = Fleet(clock, ledger)
    fleet.restore(saved.states)
    return ledger.names() | fleet.names()
