"""`edgebed sim`: the URL comes first, time or a signal ends it, mistakes have exit codes."""

from __future__ import annotations

import inspect
import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

import simulators
from edgebed.cli import command
from edgebed.processes import Child, edgebed_command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        edgebed_command("sim", *arguments), capture_output=True, text=True, timeout=60, check=False
    )


def test_every_kind_is_listed() -> None:
    done = run("list", "--json")
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == list(simulators.KINDS)


def test_it_says_where_and_ends_in_time() -> None:
    done = run("run", "opcua", "--for", "0.2", "--json", "--fault", "friction:3@1-2x0.5")
    assert done.returncode == 0
    assert json.loads(done.stdout)["url"].startswith("opc.tcp://127.0.0.1:")
    assert done.stderr == ""


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_by_signal(tmp_path: Path, how: signal.Signals, status: int) -> None:
    child = Child("sim", edgebed_command("sim", "run", "opcua"), tmp_path / "sim.log")
    with child:
        assert child.first_line().startswith("opc.tcp://")
        assert child.end(how) == status
    assert child.tail() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["opcua", "--clip", __file__], "opcua does not have --clip"),
        (["camera", "--fault", "spike:1"], "fault 'spike' is not one of"),
        (["camera", "--option", "colour=red"], "camera does not have --option colour"),
        (["camera", "--option", "clock=1"], "is not KEY=VALUE"),
        (["camera", "--option", "size={"], "--option"),
        (["camera", "--junit", "out.xml"], "--junit does not apply"),
        (["robot", "--port", "1"], "robot is a scenario: --port does not apply"),
        (["opcua", "--fault", "rust:1"], "rust"),
        (["opcua", "--rate", "0"], "rate"),
        (["opcua", "--rate", "nan"], "nan is not a finite number"),
        (["opcua", "--for", "inf"], "inf is not a finite number"),
        (["opcua", "--port", "99999"], "99999"),
        (["toaster"], "toaster"),
    ],
)
def test_mistakes_are_usage_errors(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(command, ["sim", "run", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


LISTENING = [
    kind
    for kind in simulators.KINDS
    if "broker_url" not in inspect.signature(simulators.load(kind)).parameters
]


@pytest.mark.parametrize("kind", LISTENING)
def test_a_port_in_use_is_told_as_such(kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("run", kind, "--port", str(port))
    assert done.returncode == 75
    assert f"127.0.0.1:{port}: " in done.stderr
    assert "address already in use" in done.stderr.lower()
    assert "Traceback" not in done.stderr
