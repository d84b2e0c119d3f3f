"""Nodes that the site removes, and users whose rights end, while a rollout runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.rights.passwords import hashed
from collector.rights.user import Action, Grant
from collector.rollout.engine import Rollout, roll_back, step
from collector.rollout.packages import Packages
from tests.polling import until
from tests.unit.collector.rollout.test_engine import Node, World, fleet
from tests.unit.collector.rollout.test_packages import push
from tests.unit.collector.rollout.test_rollouts import NODES, fill, start
from tests.unit.collector.web.serving import serving

PASSWORD = "-".join(["a", "long", "password"])


class Gone(Node):
    """A node that the site removes."""

    is_removed = False

    def report(self, identity: str) -> Any:
        found = super().report(identity)
        return type(found)(
            online=found.online and not self.is_removed, slot=found.slot, answer=found.answer,
            is_removed=self.is_removed,
        )  # fmt: skip


def of(count: int) -> tuple[World, list[Gone]]:
    nodes = {name: Gone() for name in fleet(count)}
    return World(dict(nodes)), list(nodes.values())


def test_a_rollout_does_not_wait_for_a_node_that_was_removed() -> None:
    world, nodes = of(4)
    world.run(1)
    assert world.states()[0] == "offered"
    nodes[0].is_removed = True
    nodes[3].is_removed = True
    world.run(30)
    assert world.states() == ["left-out", "confirmed", "confirmed", "left-out"]
    assert world.rollout.devices["acme/p/s/n3"].code == "rollout-removed"
    assert (world.rollout.state, world.rollout.of_state("failed")) == ("done", [])


def test_a_node_that_is_enrolled_again_gets_it() -> None:
    world, nodes = of(2)
    nodes[1].is_removed = True
    nodes[0].takes = 20
    world.run(5)
    assert world.states() == ["offered", "left-out"]
    nodes[1].is_removed = False
    world.run(40)
    assert (world.states(), world.rollout.state) == (["confirmed"] * 2, "done")


def test_a_roll_back_ends_without_a_node_that_was_removed() -> None:
    world, nodes = of(2)
    world.run(20)
    nodes[1].is_removed = True
    world.rollout = roll_back(world.rollout, "kim", world.now, world.id)
    world.run(5)
    assert (world.states(), world.rollout.state) == (["undone", "left-out"], "rolled-back")
    assert step(world.rollout, {}, world.now, world.id) == (world.rollout, [])


@pytest.mark.parametrize("right", ["removed", "a viewer", "of another part"])
async def test_a_rollout_of_a_user_without_its_rights_is_paused(tmp_path: Path, right: str) -> None:
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        push(Packages(tmp_path / "store", 10_000))
        accounts, tokens = collector.directory.accounts, {}
        for name in ("kim", "lee"):
            accounts.add(name, hashed(PASSWORD), Grant("operator", ("acme/*",)))
            tokens[name] = accounts.add_token(name, "", Grant("operator", ("acme/*",)), 1)[1]
        accounts.add("root", hashed(PASSWORD), Grant("admin", ("*",)))
        collector.directory.refresh()
        status, begun = await start(get, tokens["kim"])
        assert (status, begun["by"]) == (201, "kim")

        def now() -> Rollout:
            found = collector.rollouts.records.get("acme", begun["id"])
            assert found is not None
            return found

        await until(lambda: now().devices[NODES[0]].state == "offered", "it is offered")
        accounts.remove("kim")
        other = {
            "a viewer": Grant("viewer", ("acme/*",)),
            "of another part": Grant("admin", ("acme/trial/*",)),
        }
        if right in other:
            accounts.add("kim", hashed(PASSWORD), other[right])
        await until(lambda: now().state == "paused", "it is paused")
        node = NODES[2] if right == "of another part" else NODES[0]
        assert (now().code, now().args) == ("rollout-not-allowed", {"by": "kim", "node": node})
        await until(lambda: now().devices[NODES[0]].state == "waiting", "what was not sent is withdrawn")
        path, lee = f"/api/v1/rollouts/acme/{begun['id']}", {"Authorization": f"Bearer {tokens['lee']}"}
        assert (await get(f"{path}/resume", "POST", {}, **lee)).status == 200
        await until(lambda: now().devices[NODES[0]].state == "offered", "it goes on")
        assert (now().by, now().state) == ("lee", "running")


async def test_what_needed_no_user_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (collector, _):
        collector.directory.accounts.add("kim", hashed(PASSWORD), Grant("viewer", ("*",)))
        collector.directory.refresh()
        may = collector.directory.still_may
        found = {
            name: may(Action.CONFIGURE, name, NODES[0]) for name in ("local", "token_file", "kim", "eve")
        }
        assert found == {"local": True, "token_file": True, "kim": False, "eve": False}


async def test_a_removed_node_is_known_from_the_file_of_the_site(tmp_path: Path) -> None:
    enrolled = tmp_path / "enrolled"
    enrolled.write_text(f"{NODES[0]} 2 removed\n{NODES[1]} 1 -\n")
    async with serving(tmp_path, {"enrolled_file": enrolled}) as (collector, get):
        await fill(collector)
        push(Packages(tmp_path / "store", 10_000))
        _, begun = await start(get)

        def states() -> list[str]:
            found = collector.rollouts.records.get("acme", begun["id"])
            assert found is not None
            return [found.devices[node].state for node in NODES]

        await until(lambda: states() == ["left-out", "offered", "waiting"], f"{states()}")
