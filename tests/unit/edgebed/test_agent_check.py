"""`edgebed agent check` prints what pilots may write, and whether their plans are followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.inference.signing.signature import new_key
from agent.inference.signing.trust import public_key
from edgebed.cli import command

DEVICE = """
  air:
    adapter: modbus
    options:
      url: tcp://127.0.0.1:502
      registers: {fan: {register: 0, kind: holding}}
"""
WRITE = """      allow_write: true
      write: {register: fan, min: 10, max: 60, safe: 20}
"""


def check(folder: Path, devices: str, *more: str, words: tuple[str, ...] = ()) -> Result:
    (folder / "acme.pem").write_text(public_key(new_key()[1].decode()))
    text = f"node: acme/p1/s1/n1\nstate: {folder / 'state'}\nbroker: {{url: mqtt://127.0.0.1}}\ndevices:{devices}"
    (folder / "agent.yaml").write_text("\n".join((text, *more)))
    return CliRunner().invoke(command, ["agent", "check", str(folder / "agent.yaml"), *words])


def test_a_node_without_pilots_prints_one_line(tmp_path: Path) -> None:
    done = check(tmp_path, DEVICE)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ((), "no plan of a pilot is followed: remote.pilot is not true"),
        (
            ("trust: {keys: [acme.pem]}", "remote: {pilot: true, pilot_signers: 1}"),
            "plans of pilots are followed with 1 signature by a key of trust.keys: acme.pem",
        ),
    ],
)
def test_what_may_be_written_is_printed_with_its_limits(
    tmp_path: Path, more: tuple[str, ...], line: str
) -> None:
    done = check(tmp_path, DEVICE + WRITE, *more)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout.splitlines()[1:] == ["  a pilot may set fan of air: 10 to 60, safe 20", f"  {line}"]
    found = json.loads(check(tmp_path, DEVICE + WRITE, *more, words=("--json",)).stdout)
    assert found["set_points"] == [{"device": "air", "name": "fan", "min": 10.0, "max": 60.0, "safe": 20.0}]
    assert (found["pilot"], found["pilot_signers"]) == (bool(more), 1)
