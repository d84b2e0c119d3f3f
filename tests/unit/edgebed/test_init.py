"""`edgebed init`: every written config loads in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.config import load
from edgebed.cli import command
from edgebed.commands.init import testbeds as names
from wire.clock import Clock

AGENTS = [name for name in names() if name != "collector"]


def init(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["init", *arguments])


@pytest.mark.parametrize("testbed", AGENTS)
def test_a_ready_config_loads_wherever_it_is_put(testbed: str, tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    made = init(
        testbed, "-o", str(mine), "--node", "me/try/lab/box", "--broker", "mqtt://broker.example:1884"
    )
    assert made.exit_code == 0, made.output
    plan = load(mine, Clock(), files=True)
    assert str(plan.address) == "me/try/lab/box"
    assert plan.config.broker.url == "mqtt://broker.example:1884"
    assert plan.config.state == tmp_path / yaml.safe_load(mine.read_text())["state"]
    trusted = [path.name for path in plan.config.trust.keys]
    assert trusted == (["edgebed.pem"] if plan.config.models else [])


@pytest.mark.parametrize("testbed", AGENTS)
def test_a_ready_config_can_move_to_another_machine(testbed: str, tmp_path: Path) -> None:
    text = init(testbed).output
    values = list(leaves(yaml.safe_load(text)))
    assert not [
        value for value in values if isinstance(value, str) and (value.startswith("/") or "../" in value)
    ]
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "agent.yaml"
    moved.write_text(text)
    checked = CliRunner().invoke(command, ["agent", "check", str(moved)])
    assert checked.exit_code == 0, checked.output


def leaves(node: object) -> Iterator[object]:
    if isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from leaves(inner)
    else:
        yield node


def test_each_protocol_has_a_ready_config() -> None:
    assert {"mqtt", "modbus", "serial", "camera"} <= set(AGENTS)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "my.yaml"
    mine.write_text("precious")
    refused = init("robot", "-o", str(mine))
    assert refused.exit_code != 0
    assert mine.read_text() == "precious"
    assert init("robot", "-o", str(mine), "--force").exit_code == 0
    assert "adapter:" in mine.read_text()


def test_without_a_name_it_lists_and_a_wrong_one_is_helped() -> None:
    listed = init()
    assert [line.split()[0] for line in listed.output.splitlines()] == names()
    assert "robot" in init("robto").output
    assert init("robot", "--node", "Not/A/Node/x").exit_code == 2
    assert init("robot", "--broker", "my-broker").exit_code == 2
    assert yaml.safe_load(init("collector").output)["http"]["port"] == 8080


def test_two_ready_configs_in_one_folder_have_two_state_folders() -> None:
    states = [yaml.safe_load(init(testbed).output)["state"] for testbed in AGENTS]
    states += [yaml.safe_load(init("mqtt", "--node", f"a/b/{box}").output)["state"] for box in ("c/1", "d/1")]
    assert len(set(states)) == len(states), states


def test_a_config_of_the_other_daemon_is_named(tmp_path: Path) -> None:
    agent, collector = tmp_path / "agent.yaml", tmp_path / "collector.yaml"
    init("robot", "-o", str(agent))
    init("collector", "-o", str(collector))
    for arguments in (["check"], ["check", "--json"], ["run"], ["once"], ["status"]):
        refused = CliRunner().invoke(command, ["agent", *arguments, str(collector)])
        said = f"{collector}: this is a collector's config: use `edgebed collector check {collector}`"
        assert said in refused.output or str(refused.exception) == said, arguments
    for arguments in (["check"], ["run"]):
        refused = CliRunner().invoke(command, ["collector", *arguments, str(agent)])
        said = f"{agent}: this is an agent's config: use `edgebed agent check {agent}`"
        assert str(refused.exception) == said, arguments
    agent.write_text("store: here\n" + agent.read_text())  # a mistake in an agent's config, not another kind
    refused = CliRunner().invoke(command, ["agent", "check", str(agent)])
    assert "unknown key" in str(refused.exception)


@pytest.mark.parametrize("testbed", [*AGENTS, "collector"])
def test_another_broker_is_also_that_of_a_device_on_it(testbed: str) -> None:
    before, url = init(testbed).stdout, "mqtt://broker.example:1884"
    made = init(testbed, "--broker", url)
    old = yaml.safe_load(before)["broker"]["url"]
    values = list(leaves(yaml.safe_load(made.stdout)))
    assert old not in values
    assert values.count(url) == list(leaves(yaml.safe_load(before))).count(old)
    assert ("a device uses the same broker" in made.stderr) == (values.count(url) > 1)
    assert yaml.safe_load(made.stdout)["broker"] == {"url": url}
