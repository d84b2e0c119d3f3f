"""`edgebed sim fleet`: the plan follows from the seed, delays are counted, mistakes have exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgebed.broker import free_port
from edgebed.cli import command
from edgebed.fleet.figures import Costs, Delays, Figures, Usage
from edgebed.fleet.node import FleetNode
from edgebed.fleet.plan import FIELDS, FLOOD_FACTOR, FleetPlan
from edgebed.fleet.report import failures
from edgebed.processes import edgebed_command
from wire.clock import Clock
from wire.codec import encode
from wire.messages import Ack

SITE = "acme/trial/hall"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = edgebed_command("sim", "fleet", *arguments)
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def schedule(plan: FleetPlan) -> list[object]:
    nodes = [plan.node(number) for number in range(plan.nodes)]
    return [
        (node.fault, node.cut_s(0), node.message_s(0), node.message_s(7), plan.columns(node.number, 3))
        for node in nodes
    ]


def test_the_same_seed_gives_the_same_fleet() -> None:
    faults = {"drop": 0.1, "reconnect": 0.1, "flood": 0.1}
    one, same, other = (FleetPlan(nodes=50, samples=3, seed=seed, **faults) for seed in (7, 7, 8))
    assert schedule(one) == schedule(same)
    assert schedule(one) != schedule(other)
    assert one.faults != other.faults


def test_each_fault_has_its_share_of_the_nodes_and_one_at_least() -> None:
    plan = FleetPlan(nodes=200, drop=0.1, reconnect=0.05, flood=0.001)
    assert Counter(plan.faults.values()) == {"drop": 20, "reconnect": 10, "flood": 1}
    with pytest.raises(ValueError, match="drop and flood need 3 nodes together, and the fleet has 2"):
        FleetPlan(nodes=2, drop=1, flood=0.1)


def test_a_plan_has_a_rate_and_rows_for_every_message() -> None:
    plan = FleetPlan(nodes=3, rate=0.5, samples=1000, flood=0.3)
    for node in map(plan.node, range(3)):
        period_s = 2 / (FLOOD_FACTOR if node.fault == "flood" else 1)
        assert 0 <= node.message_s(0) < period_s
        assert node.message_s(5) - node.message_s(4) == pytest.approx(period_s)
        for message in (0, 1, 9_999):
            columns = plan.columns(node.number, message)
            assert tuple(columns) == FIELDS
            assert {len(column) for column in columns.values()} == {1000}


def test_percentiles_are_at_most_one_per_cent_too_high() -> None:
    delays = Delays()
    assert delays.percentile_s(0.99) == 0
    for number in range(1, 1001):
        delays.add(number / 1000)
    for share, exact_s in ((0.5, 0.5), (0.9, 0.9), (0.99, 0.99), (1.0, 1.0)):
        assert exact_s <= delays.percentile_s(share) <= 1.011 * exact_s
    assert delays.most_s == 1.0


def test_the_cost_of_a_process_is_read_from_the_kernel() -> None:
    before = Usage.of(os.getpid())
    assert before is not None
    assert before.rss_mb > 1
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        costs = Costs({"child": child.pid})
        costs.begin()
        costs.end()
        assert costs.per_message(10)["child"]["rss_mb"] > 1
        child.communicate(b"\n")
    assert Usage.of(child.pid) is None
    costs.end()
    assert "child" in costs.per_message(10), "what an ended process cost before stays"


def acked(node: FleetNode, first: int, last: int) -> None:
    node.on_ack(encode(Ack(ep=node.ep, ok=[(first, last)], by="c", ts=1)), 1.0)


def test_an_acknowledgement_of_what_was_never_sent_is_wrong() -> None:
    figures = Figures(Costs({}))
    node = FleetNode(FleetPlan(nodes=1).node(0), SITE, "run", figures, Clock(), signs=False)
    node.take()  # it has no connection
    acked(node, 1, 1)
    assert (figures.offered, figures.acknowledged, figures.wrong_count) == (1, 0, 1)
    acked(node, 1, 3)
    assert figures.wrong_count == 3, "1 was never sent, 3 does not exist"
    node.on_ack(b"{", 1.0)
    assert figures.wrong_count == 4
    figures.unacknowledged = 1
    assert [text[:40] for text in failures(figures)] == [
        "1 messages were not acknowledged",
        "4 acknowledgements are wrong, such as ac",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "0"], "--nodes"),
        (["--nodes", "10001"], "--nodes"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--samples", "0"], "--samples"),
        (["--for", "inf"], "--for"),
        (["--for", "-1"], "--for"),
        (["--heartbeat", "nan"], "--heartbeat"),
        (["--drop", "1.5"], "--drop"),
        (["--drop", "0.6", "--flood", "0.6"], "the fleet has 100"),
        (["--site", "acme/trial"], "tenant/pilot/site"),
        (["--site", "Acme/trial/hall"], "tenant/pilot/site"),
        (["--broker", "rabbit"], "rabbit"),
        (["--broker", "mqtts://h"], "only plain mqtt://"),
        (["--broker", "mqtt://u:p@h"], "user or password"),
        (["--broker-pid", "1"], "--broker URL"),
        (["--broker", "mqtt://h", "--collector-pid", "4194999"], "no such process"),
        (["--connections", "2", "--drop", "0.1"], "--connections"),
        (["--connections", "-1"], "--connections"),
        (["robot"], "robot"),
    ],
)
def test_mistakes_are_usage_errors(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(command, ["sim", "fleet", *arguments])
    assert (done.exit_code, done.stdout) == (2, ""), done.stderr
    assert isinstance(done.exception, SystemExit), "not a traceback"
    assert said in done.stderr


def test_too_few_open_files_is_one_sentence() -> None:
    words = ["sh", "-c", 'ulimit -n 500; exec "$@"', "sh", *edgebed_command("sim", "fleet")]
    done = subprocess.run(
        [*words, "--nodes", "1000"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("edgebed: 1,000 connections need 1,200 open files, and this process may")
    assert "--connections 150" in done.stderr


def test_a_broker_that_is_not_there_and_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    done = run("--nodes", "2", "--broker", url)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("edgebed: ")
    assert len(done.stderr.splitlines()) == 1
    done = run("--nodes", "2", "--broker", url, "--json", str(tmp_path / "no" / "f.json"))
    assert done.returncode == 78
    assert "f.json" in done.stderr
