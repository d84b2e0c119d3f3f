"""Pilots on the page: the list and the page of one, in both languages, in Chromium."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page, expect

from agent.inference.signing.signature import new_key
from collector.pilots.report.canonical_report import read_report
from edgebed.broker import BrokerProcess
from edgebed.cli import command as main
from edgebed.processes import Child, edgebed_command
from tests.e2e.conftest import Node, Watched, now_ms
from tests.e2e.test_dashboard import fits
from tests.e2e.test_login import add_user, log_in, reload_for_login
from tests.polling import wait_until
from tests.running_agent import RunningAgent
from tests.unit.agent.conftest import Packages
from tests.unit.wire.pilot.plans import changed
from wire.messages import AgentInfo, Birth, Device, DeviceState, Event, ModelState, Reported, Status
from wire.pilot.frozen import FrozenPlan, envelope, freeze
from wire.pilot.plan import parse
from wire.topics import Address

HOUR = timedelta(hours=1)
TIME = "%Y-%m-%d %H:%M:%S"
NOW = datetime.now(UTC).replace(microsecond=0)
DELETE = """(path) => fetch(`api/v1/${path}`, { method: "DELETE" }).then((reply) => reply.status)"""

PRINTS = """() => {
    document.querySelector("iframe").contentWindow.print = () => { globalThis.printed = true; };
}"""


class Pilot:
    """A pilot of nodes that speak as agents do; an operator sends its plan through the API."""

    def __init__(self, site: Any, name: str, title: tuple[str, str], start: datetime, **how: Any) -> None:
        self.site = site
        tenant = how.get("tenant", "acme")
        self.nodes = [
            Node(Address(tenant, "cell", "hall-1", f"{name}-{number}"), site.feeder._publish)
            for number in range(how.get("nodes", 1))
        ]
        self.frozen = plan(name, title, start, [str(one.address) for one in self.nodes], tenant)
        self.hash = hashlib.sha256(self.frozen.payload).hexdigest()
        self.doc = msgspec.to_builtins(envelope(self.frozen.payload, (("ab" * 32, b"x"),)))
        for node in self.nodes:
            self.introduce(node)
        wait_until(lambda: self.known >= {str(one.address) for one in self.nodes}, "the nodes are known")
        for node in self.nodes:
            assert ask(site, f"nodes/{node.address}/pilot", self.doc)["pilot"]["ver"] == 1

    @property
    def known(self) -> set[str]:
        return {one["node"] for one in ask(self.site, "fleet")["nodes"] if one["state"] == "online"}

    def introduce(self, node: Node) -> None:
        model = ModelState(
            state="ok", name="joint-anomaly", ver="1.0.0", device="arm", tuned={"threshold": 0.4}
        )
        arm = {"arm": Device(type="cobot")}
        birth = Birth(
            ts=now_ms(), boot="0badcafe", sess=1, ep=node.ep, agent=AgentInfo(ver="0.2.0"), devices=arm
        )
        status = Status(
            state="online", ts=now_ms(), boot="0badcafe", sess=1, devices={"arm": DeviceState(state="ok")},
            models={"anomaly": model},
        )  # fmt: skip
        node.send(birth, "birth")
        node.send(status, "status")

    def follow(self, node: Node, at_ms: int) -> None:
        """Report that the node follows the plan, which it recorded at this time."""
        detail = {
            "pilot": self.frozen.plan.pilot, "hash": self.hash, "version": 1, "previous": "",
            "signed_by": ["acme", "lab"], "trial": list(self.frozen.schedule.trial_ms),
        }  # fmt: skip
        node.queue(Event(ts=at_ms, type="pilot", detail=detail), "event", "_", "pilot")
        node.send(
            Reported(ver=1, state="applied", ts=at_ms, hash=self.hash, active=self.hash), "reported", "pilot"
        )

    def refuse(self, node: Node) -> None:
        """Report that the node refuses the plan."""
        said = Reported(
            ver=1, state="rejected", ts=now_ms(), err="0 trusted keys signed the plan, and this node asks "
            "for 1", code="pilot-not-signed", args={"keys": 0, "of": 1},
        )  # fmt: skip
        node.send(said, "reported", "pilot")

    def switch(self, node: Node, actual: str, **more: Any) -> None:
        """Record a switch to what the plan has for now; `actual` is what is the case."""
        at = now_ms()
        period = self.frozen.schedule.at(at)
        assert period is not None
        number = self.frozen.schedule.trial.index(period) if period.phase == "trial" else -1
        planned = period.arm
        detail = {
            "pilot": self.frozen.plan.pilot, "hash": self.hash, "phase": period.phase, "period": number,
            "planned": planned, "actual": planned if actual == "planned" else actual, "from": at,
        }  # fmt: skip
        node.queue(Event(ts=at, type="exposure", detail=detail, **more), "event", "_", "exposure")


def plan(
    name: str, title: tuple[str, str], start: datetime, nodes: list[str], owner: str = "acme"
) -> FrozenPlan:
    """A switchback of 20 periods of 8 h from `start`, after a baseline of 7 days."""
    text = changed(
        ("trial-1", name),
        ("{en: Trial, ko: 시험}", f"{{en: {title[0]}, ko: {title[1]}}}"),
        ("owner: acme", f"owner: {owner}"),
        ("acme/p1/s1/n1, acme/p1/s1/n2", ", ".join(nodes)),
        ("tz: Asia/Seoul", "tz: UTC"),
        (
            "2027-02-01, to: 2027-03-01",
            f"{start - 168 * HOUR:%Y-%m-%d %H:%M:%S}, to: {start:%Y-%m-%d %H:%M:%S}",
        ),
        (
            "2027-03-01 06:00, to: 2027-03-07 22:00",
            f"{start:%Y-%m-%d %H:%M:%S}, to: {start + 160 * HOUR:%Y-%m-%d %H:%M:%S}",
        ),
    )
    return freeze(parse(text, "pilot.yaml"))


def ask(site: Any, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(f"{site.url}/api/v1/{path}")  # noqa: S310 - the test's collector
    if body is not None:
        request.data = json.dumps(body).encode()
        request.method = "PUT"
        request.add_header("Content-Type", "application/json")
        request.add_header("Origin", site.url)
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
        return json.load(answer)


def entry(site: Any, node: Node) -> Any:
    return next(one for one in ask(site, "pilots")["pilots"] if one["node"] == str(node.address))


@pytest.fixture(scope="module")
def running(site: Any) -> Pilot:
    """Pilots in each state; the one that runs is returned."""
    Pilot(site, "later", ("Eco driving", "경제 운전"), NOW + 400 * HOUR)
    Pilot(site, "before", ("Alarms on the ward", "병동 알람"), NOW + 24 * HOUR, tenant="hanbit")
    over = Pilot(site, "over", ("Crossing", "교차로"), NOW - 300 * HOUR)
    over.follow(over.nodes[0], now_ms() - 400 * 3_600_000)
    made = Pilot(
        site, "joints", ("Maintenance by joint", "관절별 예지 정비"), NOW - timedelta(hours=20), nodes=3
    )
    first, second, third = made.nodes
    made.follow(first, now_ms() - 48 * 3_600_000)
    made.follow(second, now_ms() - 1_000)
    made.refuse(third)
    made.switch(first, "planned", value=0.4)
    made.switch(
        second, "other", why="the set-point of fan cannot be written: no answer", code="pilot-write-failed",
        args={"device": "fan", "detail": "no answer"},
    )  # fmt: skip
    wait_until(lambda: entry(site, second)["switched"] and entry(site, third)["reported"], "all is there")
    return made


def card(page: Page, pilot: str) -> Any:
    return page.locator(f'[data-pilot="{pilot}"]')


def row(page: Page, node: Node) -> Any:
    return page.locator(f'[data-node="{node.address}"]')


def test_the_list_has_where_each_pilot_is_and_what_its_nodes_do(
    running: Pilot, watched: Any, picture: Callable[[Page, str], None]
) -> None:
    page = watched.open("pilots", wait="[data-pilot]")
    states = [
        card(page, one).locator("[data-state]").first
        for one in ("acme/joints", "hanbit/before", "acme/later", "acme/over")
    ]
    expect(states[0]).to_have_text("trial running")
    expect(states[1]).to_have_text("baseline")
    expect(states[2]).to_have_text("planned")
    expect(states[3]).to_have_text("over")
    mine = card(page, "acme/joints")
    expect(mine.locator("h2")).to_have_text("Maintenance by joint")
    expect(mine.locator('[data-fact="done"]')).to_contain_text("2 of 20 periods")
    arm = running.frozen.schedule.trial[2].arm
    expect(mine.locator('[data-fact="now"]')).to_contain_text(f"period 3 of the trial: {arm}")
    first, second, third = running.nodes
    expect(row(page, first)).to_contain_text(f"planned {arm}, is {arm} (0.4)")
    expect(row(page, first).locator("[data-frozen]")).to_have_text("before the trial")
    expect(row(page, second).locator('[data-arms="other"]')).to_contain_text("is something else")
    expect(row(page, second)).to_contain_text("The set-point of fan cannot be written: no answer")
    expect(row(page, second).locator("[data-frozen]")).to_have_text("after the trial began")
    expect(row(page, third).locator("[data-state]")).to_have_text("refuses")
    expect(row(page, third)).to_contain_text("0 trusted keys signed the plan; 1 are needed")
    expect(card(page, "acme/over").locator("[data-verdict]")).to_have_text("not shown")
    assert fits(page)
    picture(page, "pilots-en")
    unchanged(page, ".pilots")


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1360)])
def test_the_list_in_korean(
    running: Pilot, watched: Any, picture: Callable[[Page, str], None], scheme: str, width: int
) -> None:
    page = watched.open("pilots", lang="ko-KR", scheme=scheme, width=width, wait="[data-pilot]")
    mine = card(page, "acme/joints")
    expect(mine.locator("h2")).to_have_text("관절별 예지 정비")
    expect(mine.locator('[data-fact="done"]')).to_contain_text("20개 구간 중 2개")
    expect(row(page, running.nodes[2])).to_contain_text("서명")
    assert fits(page)
    picture(page, f"pilots-ko-{scheme}")


def test_an_operator_follows_and_withdraws_a_pilot_and_a_viewer_only_sees_it(
    own_watched: Any, own_site: Any, tmp_path: Path, picture: Callable[[Page, str], None]
) -> None:
    own_watched.open("pilots", wait=".commands-to-run")
    pilot = Pilot(own_site, "joints", ("Maintenance by joint", "관절별 예지 정비"), NOW - HOUR, nodes=2)
    first, second = pilot.nodes
    for node in pilot.nodes:
        pilot.follow(node, now_ms() - 24 * 3_600_000)
        pilot.switch(node, "planned")
    wait_until(lambda: entry(own_site, second)["switched"], "both have switched")
    page = own_watched.open("pilots", wait="[data-pilot]")
    page.get_by_role("link", name="Maintenance by joint").click()
    expect(page.locator("h1")).to_have_text("Maintenance by joint")
    recorded = page.locator(".recorded tbody tr")
    expect(recorded).to_have_count(2)
    arm = pilot.frozen.schedule.trial[0].arm
    expect(recorded.first).to_contain_text(f"joints period 1 of the trial: planned {arm}, is {arm}")
    expect(recorded.last).to_contain_text("Signed by acme, lab")
    pilot.switch(first, "other")
    expect(recorded).to_have_count(3)
    expect(recorded.first.locator(".warn-text")).to_contain_text("is something else")
    assert fits(page)
    picture(page, "pilot-en")
    page.goto(f"{own_site.url}/#/device/{first.address}/arm")
    expect(page.locator(".device-line [data-tuned]")).to_have_text("threshold = 0.4")

    korean = own_watched.open("pilots/acme/joints", lang="ko-KR", width=390, wait=".recorded tbody tr")
    expect(korean.locator(".recorded tbody tr").last).to_contain_text("서명한 키: acme, lab")
    assert fits(korean)
    picture(korean, "pilot-ko")

    page.goto(f"{own_site.url}/#/pilots/acme/joints")
    page.locator('[data-act="withdraw"]').click()
    sure = page.get_by_role("alertdialog")
    expect(sure).to_contain_text("Withdraw Maintenance by joint? It ends on its nodes (2)")
    sure.get_by_role("button", name="Cancel").click()
    assert entry(own_site, first)["hash"] == pilot.hash, "nothing was done without the second press"
    own_watched.may_fail = True  # a refused request is an error in the console
    add_user(tmp_path / "store", "lee", "viewer", "acme/*")
    reload_for_login(page)
    log_in(page, " ".join(["a", "password", "of", "lee"]))
    expect(row(page, first)).to_be_visible()
    expect(page.locator("[data-act]")).to_have_count(0)
    assert page.evaluate(DELETE, f"nodes/{first.address}/pilot") == 403
    add_user(tmp_path / "store", "choi", "operator", "acme/*")  # known when a logout is answered
    page.get_by_role("button", name="Log out").click()
    log_in(page, " ".join(["a", "password", "of", "lee"]), "choi")
    second.send(Status(state="offline", ts=now_ms(), boot="0badcafe", sess=1), "status")
    expect(row(page, second)).to_contain_text("Offline")
    page.locator('[data-act="withdraw"]').click()
    page.locator('[data-sure="withdraw"]').click()
    expect(page.locator("h1 + [data-state]")).to_have_text("withdrawn")
    left = f"1 node is offline and ends it when it connects: {second.address}"
    expect(page.locator("[data-left]")).to_have_text(left)
    picture(page, "pilot-withdrawn")
    expect(page.locator("[data-act]")).to_have_count(0)
    expect(page.frame_locator("iframe").locator("h1")).to_have_text("Maintenance by joint")
    expect(page.locator(".recorded tbody tr")).to_have_count(3)
    page.get_by_role("navigation").get_by_role("link", name="Pilots").click()
    expect(card(page, "acme/joints").locator("[data-state]")).to_have_text("withdrawn")


PLAN = """\
pilot: belt
title: {en: Slower belt, ko: 느린 벨트}
owner: acme
testbed: hall 1
question: {en: "Does a slower belt wear less?", ko: "벨트를 늦추면 마모가 줄어드는가?"}
nodes: [acme/cell/hall-1/belt]
intervention:
  kind: model
  what: {en: the alarms reach the shift, ko: 경보가 작업조에 전달된다}
  slot: wear
  model: m@1.0
  sha256: SHA256
design: {kind: switchback, unit: 1s, periods: 12, seed: 7}
windows:
  tz: UTC
  trial: {from: START, to: END}
kpis:
  - id: wear
    class: Q
    formula: mean(b)
    from: {b: {field: arm/rows/b}}
    unit: ""
    direction: decrease
    primary: true
    target: {min: 0.1}
"""


class RealPilot:
    """A collector process and an agent process; the plan was frozen and sent by the command line."""

    def __init__(self, folder: Path, broker: BrokerProcess, collector: Child) -> None:
        self.url, self.folder = collector.first_line(), folder
        packages = Packages(folder)
        model = packages.constant(np.array(1.0))
        packages.write(model)
        private, public = new_key()
        (folder / "acme.key").write_bytes(private)
        (folder / "acme.pem").write_bytes(public)
        self.agent = RunningAgent(
            folder, broker.url, node="acme/cell/hall-1/belt", remote={"pilot": True},
            trust={"keys": ["acme.pem"]}, models={"wear": {"package": "m", "input": "arm/rows"}},
        )  # fmt: skip
        self.sha256 = hashlib.sha256(model).hexdigest()

    def is_known(self) -> bool:
        """Whether the collector has the birth of the node."""
        birth = ask(self, "nodes/acme/cell/hall-1/belt")["birth"] if ask(self, "fleet")["nodes"] else {}
        return bool(birth and birth.get("models") and birth.get("devices"))

    def freeze(self, in_s: float) -> None:
        """Freeze the plan and send it: its trial begins in some seconds."""
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=in_s)
        text = PLAN.replace("SHA256", self.sha256).replace("START", f"{start:{TIME}}")
        text = text.replace("END", f"{start + timedelta(seconds=12):{TIME}}")
        (self.folder / "pilot.yaml").write_text(text)
        key = str(self.folder / "acme.key")
        done = CliRunner().invoke(
            main, ["pilot", "freeze", str(self.folder / "pilot.yaml"), "--key", key, "--url", self.url]
        )
        assert done.exit_code == 0, done.output


@pytest.fixture
def belt(tmp_path: Path) -> Iterator[RealPilot]:
    with BrokerProcess("mosquitto", tmp_path / "broker") as broker:
        command = edgebed_command(
            "collector", "run", "--store", str(tmp_path / "store"), "--broker", broker.url, "--port", "0"
        )
        with Child("collector", command, tmp_path / "collector.log") as collector:
            made = RealPilot(tmp_path, broker, collector)
            try:
                made.agent.start()
                yield made
            finally:
                made.agent.child.stop()


@pytest.mark.slow
def test_a_real_pilot_from_its_plan_to_its_report(
    belt: RealPilot, browser: Browser, picture: Callable[[Page, str], None]
) -> None:
    pages = Watched(browser, belt.url)
    try:
        _follows(belt, pages, picture)
    finally:
        pages.close()
    assert (pages.errors, pages.foreign) == ([], [])


def _follows(belt: RealPilot, pages: Watched, picture: Callable[[Page, str], None]) -> None:
    wait_until(belt.is_known, "the node has said what it has", 240)
    belt.freeze(6)
    page = pages.open("pilots/acme/belt", wait="iframe")
    report = page.frame_locator("iframe")
    expect(report.locator("body")).to_contain_text("Does a slower belt wear less?")
    expect(page.locator(".hint")).to_contain_text("newer data", timeout=240_000)
    expect(page.locator("[data-state=over]")).to_be_visible(timeout=240_000)
    end = ask(belt, "pilots")["pilots"][0]["trial"][1]
    page.locator("[data-renew]").click()
    expect(page.locator(f'.report[data-until="{end}"]')).to_be_visible()
    expect(page.locator(".hint")).to_have_count(0)
    expect(report.locator(".answer")).to_contain_text(re.compile("met|not met|shown"), ignore_case=True)
    height = report.locator("body").evaluate("(body) => body.scrollHeight")
    assert page.locator("iframe").bounding_box()["height"] >= height, "no second scroll bar"
    assert fits(page)
    picture(page, "report-en")
    page.evaluate(PRINTS)
    page.get_by_role("button", name="Print").click()
    assert page.evaluate("globalThis.printed")
    saved = {}
    for kind in ("html", "json"):
        with page.expect_download() as download:
            page.locator(f'[data-save="{kind}"]').click()
        saved[kind] = (download.value.suggested_filename, download.value.path().read_bytes())
    assert saved["html"][0] == "acme-belt-en.html"
    assert saved["json"][0] == "acme-belt.json"
    assert b"Does a slower belt wear less?" in saved["html"][1]
    made = read_report(saved["json"][1])
    assert (made.state, made.until_ms) == ("over", end)
    unchanged(page, "main")

    page.locator(".report select").select_option("ko")
    expect(report.locator("body")).to_contain_text("벨트를 늦추면 마모가 줄어드는가?")
    page.get_by_role("navigation").get_by_role("link", name="Pilots").click()
    expect(page.locator(f'[data-verdict="{made.word}"]')).to_be_visible()
    picture(page, "pilots-verdict")

    korean = pages.open("pilots/acme/belt", lang="ko-KR", width=390, scheme="dark", wait="iframe")
    frame = korean.frame_locator("iframe")
    expect(frame.locator("body")).to_contain_text("벨트를 늦추면 마모가 줄어드는가?")
    assert (
        frame.locator("body").evaluate("(body) => getComputedStyle(body).backgroundColor")
        == "rgb(13, 17, 23)"
    )
    assert fits(korean)
    korean.locator(".report").scroll_into_view_if_needed()
    picture(korean, "report-ko-dark")


def unchanged(page: Page, place: str) -> None:
    """Two answers later, with nothing new, nothing was made again."""
    page.evaluate(
        """(place) => {
            globalThis.changes = [];
            const seen = (found) => globalThis.changes.push(...found.map((one) => one.target.outerHTML));
            const all = {childList: true, subtree: true, characterData: true, attributes: true};
            new MutationObserver(seen).observe(document.querySelector(place), all);
        }""",
        place,
    )
    for _ in range(2):
        with page.expect_response(lambda answer: answer.url.endswith("/pilots")):
            pass
    assert page.evaluate("globalThis.changes") == []
