"""`reset-node`: a node whose numbers were forged is itself again, with all its rows."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from collector.app import Collector
from collector.config import CollectorConfig, Http
from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Ledger
from collector.reset import RESET, reset_node
from collector.state.audit import Audit
from collector.state.state_file import StateFile
from collector.store.group import Group
from collector.store.marks import Account, Claim
from collector.store.store import SqliteStore
from edgebed.cli import command as main
from wire.broker import Broker
from wire.clock import Clock
from wire.messages import Status
from wire.ranges import Ranges

NODE, OTHER, EP, T0 = (
    "acme/trial/hall/cobot-01",
    "acme/trial/hall/cobot-02",
    "00112233aabbccdd",
    1_795_356_000_000,
)


def poisoned(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    """A store as an earlier release left it after forged numbers."""
    store = SqliteStore(folder, clock)
    ledger, group = Ledger(), Group(clock.now_ms())
    fleet = Fleet(clock, ledger)
    for node in (NODE, OTHER):
        commit(store, ledger, [batch(seq, node=node) for seq in range(1, 6)])
        status = Status(state="lost", ts=T0, boot="deadbeef", sess=2**53)
        fleet.on_status(node, status, T0, retained=False)
        group.marks.append(
            Account(
                node,
                EP,
                Ranges([(1, 5), (2**62, 2**62)]),
                [(6, 6, "quota"), (1, 2**61, "spoof")],
                rows=6,
                claim=Claim(2**53, 0, 0, 9, T0),
            )
        )
    group.states = fleet.take_unsaved()
    store.commit(group)
    store.close()


def state(folder: Path, clock: Any, node: str) -> tuple[int, int, int, bool]:
    store = SqliteStore(folder, clock)
    saved = store.load()
    store.close()
    (entry,) = Ledger(saved.marks, saved.states).entries(node)
    return entry.taken, entry.stored, entry.missing_count, f"status/{node}" in saved.states


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(RESET)]


def test_a_store_at_rest(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    poisoned(folder, clock, batch, commit)
    done = CliRunner().invoke(main, ["collector", "reset-node", NODE, "--store", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"{NODE}: forgot its status 'lost' of session {2**53}",
        f"{NODE}: forgot ep {EP}: that its newest number is {2**53}",
        f"{NODE}: forgot ep {EP}: 1 stored numbers far above the others",
        f"{NODE}: forgot ep {EP}: 1 declared gaps far above the others",
    ]
    assert state(folder, clock, NODE) == (6, 5, 0, False)
    assert state(folder, clock, OTHER)[0] == 2**62
    done = CliRunner().invoke(main, ["collector", "reset-node", NODE, "--store", str(folder)])
    assert done.output.startswith(f"{NODE}: nothing: ")
    with closing(StateFile(folder)) as file:
        acts = [(one.what, one.subject, one.result) for one in Audit(file).newest(9)]
        assert {one.scope for one in Audit(file).newest(9)} == {NODE}, "its tenant sees it"
    assert acts == [("reset-node", NODE, "done")] * 2


def test_a_folder_that_is_not_a_store_and_a_wrong_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["collector", "reset-node", NODE, "--store", str(tmp_path)])
    assert done.exit_code
    assert list(tmp_path.iterdir()) == []
    done = CliRunner().invoke(main, ["collector", "reset-node", "no node", "--store", str(tmp_path)])
    assert done.exit_code


async def test_a_collector_that_runs_does_it_itself(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    poisoned(folder, clock, batch, commit)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{probe.getsockname()[1]}"  # nothing listens there
    collector = Collector(CollectorConfig(store=folder, broker=Broker(url=url), http=Http(port=0)), Clock())
    running = asyncio.create_task(collector.run())
    try:
        found = await asyncio.to_thread(reset_node, folder, NODE, Clock())
    finally:
        collector.stop()
        await running
    assert f"ep {EP}: that its newest number is {2**53}" in found
    assert state(folder, clock, NODE) == (6, 5, 0, False)
    assert leftovers(folder) == []


def test_an_unknown_node_is_named_with_the_closest_one(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    poisoned(folder, clock, batch, commit)
    wrong = NODE.replace("cobot", "cobto")
    done = CliRunner().invoke(main, ["collector", "reset-node", wrong, "--store", str(folder)])
    assert done.exit_code
    assert f"unknown node {wrong}; did you mean '{NODE}'?" in (done.output or str(done.exception))
