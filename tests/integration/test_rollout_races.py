"""Operators who act at once while the collector is killed, and a store from a backup in mid-rollout."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgebed.processes import edgebed_command
from tests.integration.test_rollout import Site
from tests.polling import wait_until
from tests.running_agent import GUARD_S

pytestmark = pytest.mark.slow
NAMES = ("n1", "n2")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, NAMES)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def run(*words: str) -> tuple[int, str]:
    """Exit code and output of an `edgebed` process."""
    done = subprocess.run(
        edgebed_command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=GUARD_S
    )
    return done.returncode, done.stdout


def again(site: Site) -> None:
    site.collector.kill()
    site.collector.start()
    site.collector.online()


def all_run(site: Site, name: str) -> None:
    wait_until(lambda: site.running() == [name] * len(NAMES), f"all run {name}: {site.running()}", GUARD_S)


def test_of_operators_who_act_at_once_one_wins(site: Site) -> None:
    digests = {name: site.push(site.constant(name, value)) for name, value in (("x", 1.0), ("y", 2.0))}

    def begun(name: str) -> tuple[int, str]:
        wanted = ("--slot", "m", "--nodes", "t/*", "--confirm", "results>=5", "--json", "--url", site.url)
        return run("rollout", "start", f"sha256:{digests[name]}", *wanted)

    def act(act: str, rollout: str) -> tuple[int, str]:
        return run("rollout", act, rollout, "--url", site.url)

    with ThreadPoolExecutor(4) as operators:
        found = list(operators.map(begun, ("x", "y")))
        assert sorted(code == 0 for code, _ in found) == [False, True], found
        (won,) = (json.loads(text) for code, text in found if code == 0)
        (lost,) = (text for code, text in found if code)
        assert f"is in rollout {won['id']} of {won['ref']}: end it first" in lost
        assert lost.strip().count("\n") == 0, lost
        again(site)
        acts = list(operators.map(act, ("abort", "rollback"), [won["id"]] * 2))
        assert {code for code, _ in acts} <= {0, 1}
        assert 0 in {code for code, _ in acts}, acts
        for code, text in acts:
            assert code == 0 or "answers 409 the rollout is" in text, text
        again(site)
        ends = site.until(won["id"], lambda now: not now["is_open"], "it has ended")
        all_run(site, "base")
        assert {one["state"] for one in ends["devices"]} <= {"undone", "waiting"}, ends
        next_one = json.loads(begun("y")[1])
        paused, refused = operators.map(act, ("pause", "pause"), [next_one["id"]] * 2)
        assert sorted((paused[0] == 0, refused[0] == 0)) == [False, True], (paused, refused)
        assert act("resume", next_one["id"])[0] == 0
        site.until(next_one["id"], lambda now: now["state"] == "done", "it is done")
    all_run(site, "y")


def test_a_store_from_a_backup_in_a_rollout_flips_no_node(site: Site) -> None:
    store, saved = site.folder / "site" / "store", site.folder / "saved"
    (site.agents["n2"].state / "models").mkdir(parents=True, exist_ok=True)
    hold = site.agents["n2"].state / "models" / "hold"
    hold.touch()
    digest = site.push(site.constant("good", 1.0))
    rollout = site.begin(digest, "1,100%")

    def states(now: dict[str, Any]) -> dict[str, str]:
        return {one["node"][-2:]: one["state"] for one in now["devices"]}

    site.until(rollout, lambda now: states(now) == {"n1": "confirmed", "n2": "offered"}, "n2 holds it back")
    code, text = run("collector", "backup", str(store), str(saved))
    assert code == 0, text
    site.run("rollout", "rollback", rollout)
    site.until(rollout, lambda now: now["state"] == "rolled-back", "an operator took it back")
    hold.unlink()
    all_run(site, "base")
    site.collector.kill()
    shutil.move(store, site.folder / "away")
    code, text = run("collector", "restore", str(saved), str(store))
    assert code == 0, text
    site.collector.start()
    site.collector.online()

    def is_compared(now: dict[str, Any]) -> bool:
        return now["code"] == "rollout-restored" and set(states(now).values()) == {"failed"}

    found = site.until(rollout, is_compared, "it waits, and shows what differs")
    assert found["state"] == "paused"
    assert {one["code"] for one in found["devices"]} == {"slot-undone"}
    names = {
        one["name"]
        for node in NAMES
        for one in site.collector.ask(f"nodes/t/p/s/{node}/commands")["commands"]
    }
    assert "model-undo" not in names, "those that it requested are not in the backup, and it requests none"
    assert site.running() == ["base"] * 2
    site.run("rollout", "abort", rollout)
    site.until(rollout, lambda now: not now["is_open"], "it has ended")
    site.push(site.constant("good", 1.0))
    site.until(site.begin(digest), lambda now: now["state"] == "done", "another one goes through")
    all_run(site, "good")
