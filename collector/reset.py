"""Forgets what one node's forged or wrong numbers left; in a running collector, or in a store at rest."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Ledger
from collector.store.folder import day_files
from collector.store.group import Group, Saved
from collector.store.store import SqliteStore, peek
from wire.clock import Clock
from wire.config import did_you_mean
from wire.errors import EdgebedError, TryAgain

REQUEST, ANSWER = "reset-node.request", "reset-node.answer"
WAIT_S = 30.0
_MAX_BYTES = 1_000


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
        return _ask(folder, node)
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


def _ask(folder: Path, node: str) -> list[str]:
    answer, end = folder / ANSWER, time.monotonic() + WAIT_S
    try:
        answer.unlink(missing_ok=True)
        (folder / f"{REQUEST}.new").write_text(node)
        (folder / f"{REQUEST}.new").replace(folder / REQUEST)
        while time.monotonic() < end:
            if answer.exists():
                found = msgspec.json.decode(answer.read_bytes(), type=list[str])
                answer.unlink()
                return found
            time.sleep(0.1)
        (folder / REQUEST).unlink(missing_ok=True)
    except (OSError, msgspec.MsgspecError) as error:
        raise EdgebedError(f"{folder}: {error}; run this as the collector's user") from error
    raise TryAgain(f"the collector that owns {folder} does not answer: try again, or stop it first")


def requested(folder: Path) -> str:
    """The node that a command asks to reset, taken once; "" when none is asked for."""
    path = folder / REQUEST
    try:
        with path.open("rb") as file:
            node = file.read(_MAX_BYTES).decode("ascii", "replace").strip()
        path.unlink()
    except OSError:
        return ""
    return node


def answer(folder: Path, found: list[str]) -> None:
    """Answer the command that waits.

    Raises:
        OSError: the folder is not writable.
    """
    work = folder / f"{ANSWER}.new"
    work.write_bytes(msgspec.json.encode(found))
    work.replace(folder / ANSWER)
