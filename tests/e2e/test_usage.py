"""Two pilots on one machine, one over its fence: what the API and the page show of both."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from tests.e2e.conftest import Watched
from tests.polling import wait_until
from tests.running_agent import RunningAgent
from tests.unit.agent.conftest import Packages

FENCED, FREE = "acme/fenced", "other/free"
LIMITS = {"inferences_per_s": 1, "disk_mb": 64}


class Site:
    """A collector on mosquitto, and real agents of two pilots."""

    def __init__(self, folder: Path, broker: BrokerProcess, collector: Child) -> None:
        self.folder = folder
        self.url = collector.first_line()
        self.agents = {
            pilot: self._agent(pilot, broker, fence)
            for pilot, fence in ((FENCED, {"inferences_per_s": 1}), (FREE, {}))
        }

    def _agent(self, pilot: str, broker: BrokerProcess, fence: dict[str, Any]) -> RunningAgent:
        folder = self.folder / pilot.replace("/", "-")
        folder.mkdir()
        model = {
            "package": str(self.folder / "m"),
            "input": "arm/rows",
            "events": "never",
        }
        more = {"fence": fence, "outbox": {"max_mb": 64}}
        return RunningAgent(folder, broker.url, node=f"{pilot}/s/n", models={"m": model}, **more)

    def ask(self, path: str) -> Any:
        where = f"{self.url}/api/v1/{path}"
        with urllib.request.urlopen(where, timeout=60) as answer:  # noqa: S310 - the test's collector
            return json.load(answer)

    def has_all(self, pilot: str) -> bool:
        """Whether everything that the node of a pilot took is stored."""
        ledger = self.ask(f"nodes/{pilot}/s/n")["ledger"]
        return bool(ledger["taken"] == ledger["stored"] > 0)


@pytest.fixture
def pilots(tmp_path: Path) -> Iterator[Site]:
    packages = Packages(tmp_path)
    packages.write(packages.constant(np.array(1.0)))
    with BrokerProcess("mosquitto", tmp_path / "broker") as broker:
        command = edgebed_command(
            "collector", "run", "--store", str(tmp_path / "store"), "--broker", broker.url, "--port", "0"
        )
        with Child("collector", command, tmp_path / "collector.log") as collector:
            made = Site(tmp_path, broker, collector)
            try:
                yield made
            finally:
                for agent in made.agents.values():
                    agent.child.stop()


@pytest.mark.slow
def test_a_pilot_over_its_fence_and_the_other_one(
    browser: Browser, pilots: Site, picture: Callable[[Page, str], None]
) -> None:
    for agent in pilots.agents.values():
        agent.start()
    pages = Watched(browser, pilots.url)
    try:
        _runs(pilots, pages, picture)
    finally:
        pages.close()
    assert pages.errors == []


def _runs(pilots: Site, pages: Watched, picture: Callable[[Page, str], None]) -> None:
    fenced, free = pilots.agents[FENCED], pilots.agents[FREE]

    def node() -> Any:
        (found,) = pilots.ask(f"usage?pilot={FENCED}")["nodes"]
        return found if found["trouble"] else None

    shown = wait_until(node, "the limit is named", 240.0)
    assert (shown["fence"], shown["by"], shown["metered"]) == (LIMITS, "agent", True)
    assert [one["reason"]["code"] for one in shown["trouble"]] == ["fence-inferences"]
    page = pages.open("usage", wait=f'[data-pilot="{FENCED}"] [data-code="fence-inferences"]')
    card = page.locator(f'[data-pilot="{FENCED}"]')
    expect(card.locator("[data-limits]")).to_contain_text("outbox, most 64 MB, inferences 1/s")
    expect(card.locator("[data-limits]")).to_contain_text("limits kept by the agent itself")
    page.goto(page.url.partition("#")[0] + f"#/device/{FENCED}/s/n/arm")
    expect(page.locator(".usage")).to_contain_text("limit 64 MB")

    before = [one.status()["devices"]["arm"]["readings"] for one in (fenced, free)]
    free.until(lambda now: total(now["usage"].values())["inferences"] >= 200, "the other runs")
    after = [one.status()["devices"]["arm"]["readings"] for one in (fenced, free)]
    read, other = (late - early for late, early in zip(after, before, strict=True))
    assert read > 0.5 * other, "readings of a fenced pilot are not slowed"
    assert other > 0.5 * read, "the other pilot keeps its rate"

    for agent in (fenced, free):
        assert agent.child.stop() == 0
    slowed, whole = (total(one.status()["usage"].values()) for one in (fenced, free))
    assert slowed["inferences"] < 0.5 * whole["inferences"]
    sums = {}
    for pilot in (FENCED, FREE):
        wait_until(lambda p=pilot: pilots.has_all(p), f"all of {pilot} is stored", 240.0)
        sums[pilot] = total(days := pilots.ask(f"usage?pilot={pilot}")["days"])
    assert 0 < sums[FENCED]["skipped"] <= slowed["skipped"]
    assert sums[FREE]["skipped"] == 0
    assert 0 < sums[FREE]["inferences"] <= whole["inferences"]

    free.start()  # the record of the next run has what the first one used
    free.until(lambda now: total(now["usage"].values())["inferences"] > whole["inferences"], "it goes on")
    assert free.child.stop() == 0
    wait_until(lambda: pilots.has_all(FREE), "all of the second run is stored", 240.0)
    again = total(pilots.ask(f"usage?pilot={FREE}")["days"])
    assert whole["inferences"] <= again["inferences"] <= total(free.status()["usage"].values())["inferences"]

    page = pages.open("usage", query="?lang=ko", wait=f'[data-pilot="{FREE}"] [data-row="{days[0]["day"]}"]')
    row = page.locator(f'[data-pilot="{FENCED}"] [data-row="{FENCED}/s/n"]')
    expect(row.locator('[data-what="skipped"]')).to_have_text(f"{sums[FENCED]['skipped']:,}")
    expect(page.locator(f'[data-pilot="{FENCED}"] [data-limits]')).to_contain_text("한도")
    picture(page, "usage-pilots-ko")


def total(days: Iterable[dict[str, Any]]) -> dict[str, int]:
    """The sums of counters over days: midnight may pass in a test."""
    each = list(days)
    return {name: sum(day[name] for day in each) for name in ("inferences", "skipped")}
