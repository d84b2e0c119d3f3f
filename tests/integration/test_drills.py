"""Drills on both brokers: no message is lost or stored twice, the order is kept, the ledger is exact."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edgebed.broker import Kind, find
from edgebed.drill.check import Kept, kept
from edgebed.drill.faults import FAULTS
from edgebed.drill.installation import BOXES
from edgebed.drill.run import plan, run
from edgebed.installation import Installation
from edgebed.processes import edgebed_command
from tests.brokers import LONG_TEST_KINDS
from wire.errors import Unreachable

SEED = 20_261_122
MIXED = [fault for fault in FAULTS.values() if not fault.alone]


@pytest.mark.timeout(580)
@pytest.mark.parametrize("rounds", [5, pytest.param(14, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", LONG_TEST_KINDS)
async def test_mixed_rounds_lose_nothing(kind: Kind, rounds: int, tmp_path: Path, require: Any) -> None:
    try:
        find(kind)
    except Unreachable:
        require("mosquitto")
    said: list[str] = []
    result = await run(tmp_path, kind, "mixed", rounds, SEED + rounds, MIXED, said.append)
    assert result.violations == [], said[-3:]
    assert (len(result.rounds), len(said)) == (rounds, rounds)
    assert result.taken == result.stored + result.declared
    assert result.stored > 5 * rounds  # something ran in each round; how much depends on the machine
    _tampered(tmp_path / "store")


def _tampered(store: Path) -> None:
    """The check finds a message that is deleted from the store, and one that is stored twice."""
    boxes = {key: found for key, found in kept(store).items() if key[0].endswith(BOXES)}
    key, sound = max(boxes.items(), key=lambda item: len(item[1].rows))
    head = max(sound.stored)
    assert sound.violations(head, 1000) == []
    day = max(store.glob("0*.db"))
    with closing(sqlite3.connect(day)) as database, database:
        (chunk,) = database.execute("SELECT max(id) FROM chunk WHERE ep = ?", (key[1],)).fetchone()
        database.execute(
            "INSERT INTO chunk SELECT NULL, stream, first_us, last_us, recv_ms, late, rows, ep, seq_a, seq_b,"
            " body FROM chunk WHERE id = ?",
            (chunk,),
        )
    assert "stored twice" in "".join(kept(store)[key].violations(head, 1000))
    with closing(sqlite3.connect(day)) as database, database:
        database.execute("DELETE FROM chunk WHERE ep = ? AND id < ?", (key[1], chunk))
    assert "neither stored nor declared" in "".join(kept(store)[key].violations(head, 1000))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_faults_that_lose_data_are_in_the_ledger(tmp_path: Path) -> None:
    alone = [fault.name for fault in FAULTS.values() if fault.alone]
    report = tmp_path / "drills.xml"
    command = edgebed_command("drill", "run", *alone, "--seed", str(SEED), "--json", "--junit", str(report))
    done = subprocess.run(command, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["kept"]
    drills = {each["name"]: each for each in document["drills"]}
    assert drills.keys() == set(alone)
    assert drills["collector-restored"]["missing"] > 0, "the backup lacks messages, and the ledger shows them"
    assert {"torn", "damaged"} & set(drills["outbox-corrupt"]["reasons"])
    if drills["agent-disk-full"]["skipped"]:
        pytest.skip(drills["agent-disk-full"]["skipped"])
    assert drills["agent-disk-full"]["declared"] > 0, "the disk was full, and the ledger shows the loss"
    assert drills["collector-disk-full"]["declared"] == 0
    assert len(ET.parse(report).getroot()) == len(alone)  # noqa: S314 - our own file


@pytest.mark.parametrize(
    "names", [[], ["agent-kill", "outbox-corrupt"], ["outbox-corrupt", "collector-restored"]]
)
@pytest.mark.parametrize("rounds", [1, 2, 3, 12, 60])
def test_each_broker_gets_the_rounds_that_were_asked_for(names: list[str], rounds: int) -> None:
    planned = plan(names, rounds, ["nats", "mosquitto"], SEED)
    for broker in ("nats", "mosquitto"):
        assert sum(share for of, _, share, _ in planned if of == broker) == rounds
    assert planned == plan(names, rounds, ["nats", "mosquitto"], SEED), "the seed decides"
    assert len({seed for *_, seed in planned}) == len(planned)


def test_each_line_of_a_drill_is_printed_once() -> None:
    command = edgebed_command("drill", "run", "agent-kill", "--rounds", "1", "--seed", str(SEED))
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=170, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert len(lines) == len(set(lines))
    assert sum("messages stored" in line for line in lines) == 1


def test_the_check_finds_wrong_order_and_jumps() -> None:
    assert Kept(rows={1: [0, 1], 2: [2]}).violations(2, 0) == []
    assert "out of order" in Kept(rows={1: [2], 2: [0, 1]}).violations(2, 5)[0]
    assert "jumps" in Kept(rows={1: [0], 2: [5]}).violations(2, 0)[0]
    assert Kept(rows={1: [0], 3: [5]}, lost={2}).violations(3, 0) == []
    assert "beyond the head" in Kept(rows={1: [0], 2: [1]}).violations(1, 0)[0]


def test_an_unknown_fault_gets_a_suggestion() -> None:
    done = subprocess.run(
        edgebed_command("drill", "run", "agent-kil"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "agent-kill" in done.stderr


async def test_a_sites_own_installation_gets_its_certificate(tmp_path: Path) -> None:
    """The drill knows the site's broker and collector only by their addresses."""
    own = tmp_path / "own"
    async with Installation(own, [], broker="nats") as site:
        config = tmp_path / "site.yaml"
        config.write_text(
            f"node: acme/acceptance/hall\nbroker: {{url: '{site.broker.url}'}}\n"
            f"collector: {{url: '{site.url}'}}\ncommands: {{broker-stop: 'kill -HUP {site.broker.pid}'}}\n"
        )
        command = edgebed_command(
            "drill", "run", "agent-kill", "link-rst", "broker-stop", "--rounds", "4", "--seed", "3", "--json",
            "--against", str(config),
        )  # fmt: skip
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=170, check=False
        )
        assert done.returncode == 0, done.stderr
        (drill,) = json.loads(done.stdout)["drills"]
        assert drill["taken"] == drill["stored"] > 10
        assert set(drill["rounds"]) <= {"agent-kill", "link-rst", "broker-stop"}
        config.write_text(config.read_text().replace("broker-stop", "device-nan"))
        refused = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
        )
    assert refused.returncode == 78
    assert "site.yaml:4" in refused.stderr
