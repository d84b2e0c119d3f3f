"""Rollouts on the page: stages, gates, 500 nodes, acts that ask first, both languages, in Chromium."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from playwright.sync_api import Page, expect

from collector.rollout.packages import Packages
from edgebed.cli import command as main
from tests.e2e.conftest import Node, now_ms
from tests.e2e.test_dashboard import fits
from tests.e2e.test_login import add_user, log_in, reload_for_login
from tests.polling import wait_until
from tests.unit.collector.rollout.test_packages import FILES, push
from wire.messages import (
    AgentInfo,
    Arm,
    Birth,
    Command,
    Device,
    Evidence,
    ModelRef,
    ModelSlot,
    ModelState,
    Status,
)
from wire.model_offer import OFFER, UNDO
from wire.topics import Address

NODES = 500
ASK = """(path) => fetch(`api/v1/${path}`, {
    method: "POST", headers: {"content-type": "application/json"}, body: '{}'
}).then((reply) => reply.status)"""


class Crowd:
    """500 nodes with the slot `vision`, and a version that is rolled out to them."""

    def __init__(self, site: Any, store: Path) -> None:
        self.url = site.url
        self.sess = 1
        files = {**FILES, "manifest.yaml": b"name: street-detector\nversion: 2.0.0\n"}
        self.digest = push(Packages(store, 100_000), files)
        onnx = {**FILES, "manifest.yaml": b"name: street-detector\nversion: 3.0.0\nfile: a/b.onnx\n"}
        push(Packages(store, 100_000), onnx)
        self.tried = Arm(name="street-detector", ver="3.0.0", sha256=sha256(onnx["a/b.onnx"]).hexdigest())
        self.nodes = [
            Node(Address("acme", "roll", "hall", f"n{number:03}"), site.feeder._publish)
            for number in range(NODES)
        ]
        self.trying = [
            Node(Address("acme", "try", "hall", f"t{number}"), site.feeder._publish) for number in range(2)
        ]
        for node in [*self.nodes, *self.trying]:
            node.send(
                Birth(
                    ts=now_ms(), boot="0badcafe", sess=1, ep=node.ep, agent=AgentInfo(ver="0.2.0"),
                    devices={"cam": Device(type="street-camera")},
                    models={"vision": ModelRef(name="street-detector", ver="1.0.0", sha256="0" * 64)},
                    cmds=[Command(name=OFFER), Command(name=UNDO)],
                ),
                "birth",
            )  # fmt: skip
            self.report(node)
        wait_until(self._is_known, "the nodes are known", 120)
        self.path = f"rollouts/acme/{self.start()}"

    def _is_known(self) -> bool:
        shown = [one for one in self.ask("fleet")["nodes"] if one["models"] and one["state"] == "online"]
        return {str(node.address) for node in [*self.nodes, *self.trying]} <= {one["node"] for one in shown}

    def report(self, node: Node, state: Any = "", **more: Any) -> None:
        """Send the status of a node, with its slot where it was offered something."""
        has_it = state in ("unconfirmed", "confirmed")
        model = ModelState(
            state="ok", name="street-detector", ver="2.0.0" if has_it else "1.0.0", device="cam",
            signed_by="edgebed",
        )  # fmt: skip
        if state:
            model.slot = ModelSlot(
                state=state, digest=self.digest if has_it else "", offered=self.digest, attempt=1,
                since=now_ms(), of=100, **more,
            )  # fmt: skip
        self.send(node, model)

    def compare(self, node: Node, inputs: int) -> None:
        """Send the status of a node whose second model in shadow answered this many inputs."""
        found = Evidence(state="ok", n=inputs, agreed=0.99 * inputs, low=0.97, b=self.tried)
        model = ModelState(state="ok", name="street-detector", ver="1.0.0", device="cam", evidence=found)
        self.send(node, model)

    def send(self, node: Node, model: ModelState) -> None:
        """Send a status; a higher `sess` counts, also where the broker sends an older one again later."""
        self.sess += 1
        node.send(
            Status(state="online", ts=now_ms(), boot="0badcafe", sess=self.sess, models={"vision": model}),
            "status",
        )

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}") as answer:  # noqa: S310 - the test's collector
            return json.load(answer)

    def start(self) -> str:
        words = ["rollout", "start", "street-detector@2.0.0", "--slot", "vision", "--nodes", "acme/roll/*"]
        done = CliRunner().invoke(
            main, [*words, "--confirm", "results>=100,p99_ms<45", "--url", self.url, "--json"]
        )
        assert done.exit_code == 0, done.output
        identity: str = json.loads(done.output)["id"]
        return identity

    def until(self, counts: dict[str, int]) -> None:
        """Wait until the rollout has these counts of its nodes by state."""
        wait_until(lambda: self.ask(self.path)["counts"] == counts, f"{counts}", 120)


def rows(page: Page) -> Any:
    return page.locator(".rollout-nodes tbody tr")


def row(page: Page, name: str) -> Any:
    return page.locator(f'.rollout-nodes tr[data-node="acme/roll/hall/{name}"]')


def gate(page: Page, stage: int, name: str) -> Any:
    return page.locator(f'[data-stage="{stage}"] [data-gate="{name}"]')


def test_an_operator_follows_and_steers_a_rollout_and_a_viewer_sees_it(
    own_watched: Any, own_site: Any, tmp_path: Path, picture: Callable[[Page, str], None]
) -> None:
    crowd = Crowd(own_site, tmp_path / "store")
    crowd.until({"offered": 1, "waiting": 499})
    first = crowd.nodes[0]
    crowd.report(first, "unconfirmed", results=40, ran=Arm(n=40, p99_ms=21.5))
    page = own_watched.open("rollouts")
    head = page.locator(".rollouts [data-rollout]")
    expect(head).to_contain_text("street-detector@2.0.0")
    expect(head).to_contain_text("stage 1 of 3")
    expect(head).to_contain_text("waiting 499")
    picture(page, "rollouts-en")
    head.get_by_role("link").click()
    expect(row(page, "n000")).to_contain_text("≥ 100")
    expect(row(page, "n000")).to_contain_text("21.5 ms")
    expect(gate(page, 1, "results")).to_contain_text("40")
    expect(rows(page)).to_have_count(100)

    crowd.report(first, "confirmed", results=100, ran=Arm(n=100, p99_ms=21.5))
    crowd.until({"confirmed": 1, "offered": 124, "waiting": 375})
    for node in crowd.nodes[1:100]:
        crowd.report(node, "confirmed", results=120, ran=Arm(n=120, p99_ms=22.0))
    crowd.report(crowd.nodes[110], "downloading")
    crowd.until({"confirmed": 100, "offered": 25, "waiting": 375})
    why = {"why": "3 of 40 results are not numbers", "code": "slot-nan", "args": {"nan": 3, "of": 40}}
    crowd.report(crowd.nodes[100], "rolled-back", ran=Arm(n=40, nan=3, p99_ms=61.0), **why)
    expect(page.locator(".rollout .card-head")).to_contain_text("paused")
    expect(page.locator(".rollout .problem")).to_contain_text("It failed on acme/roll/hall/n100")
    expect(gate(page, 2, "confirmed")).to_contain_text("99 of 124")
    expect(gate(page, 2, "nan").locator(".bad-text")).to_contain_text("7.5 %")
    expect(gate(page, 2, "p99").locator(".bad-text")).to_contain_text("61 ms")
    expect(gate(page, 2, "failed").locator(".bad-text")).to_contain_text("1")
    page.get_by_label("Next nodes").click()
    failed = row(page, "n100")
    expect(failed).to_contain_text("3 of 40 results are not numbers, more than allowed")
    expect(rows(page)).to_have_count(100)
    assert fits(page)
    picture(page, "rollout-en")
    page.locator(".rollout-nodes").scroll_into_view_if_needed()
    picture(page, "rollout-nodes-en")
    page.locator(".rollout-nodes select").select_option("failed")
    expect(rows(page)).to_have_count(1)
    unchanged(page)

    korean = own_watched.open(crowd.path, lang="ko-KR", width=390, wait=".rollout-nodes tbody tr")
    expect(korean.locator(".rollout .problem")).to_contain_text("acme/roll/hall/n100에서 실패했습니다.")
    picture(korean, "rollout-ko")
    assert fits(korean)
    korean.locator(".rollout-nodes select").select_option("failed")
    expect(row(korean, "n100")).to_contain_text("숫자가 아니어서")
    korean.locator(".rollout-nodes").scroll_into_view_if_needed()
    picture(korean, "rollout-nodes-ko")
    wide = own_watched.open(crowd.path, lang="ko-KR", scheme="dark", wait=".rollout-nodes tbody tr")
    picture(wide, "rollout-wide-ko")

    expect(page.locator("[data-act]")).to_have_text(["Resume", "Abort", "Roll back"])
    page.locator('[data-act="rollback"]').click()
    sure = page.get_by_role("alertdialog")
    expect(sure).to_contain_text("Have every node go back to what it had before street-detector@2.0.0?")
    picture(page, "rollout-sure-en")
    sure.get_by_role("button", name="Cancel").click()
    expect(sure).to_have_count(0)
    assert crowd.ask(crowd.path)["state"] == "paused", "nothing was done without the second press"
    page.locator('[data-act="rollback"]').click()
    page.locator('[data-sure="rollback"]').click()
    expect(page.locator(".rollout .card-head")).to_contain_text("rolling back")
    expect(page.locator("[data-act]")).to_have_count(0)

    promotes(own_watched, crowd, page, picture)
    page.goto(page.url.partition("#")[0] + f"#/{crowd.path}")
    expect(rows(page)).to_have_count(100)
    own_watched.may_fail = True  # a refused request is an error in the console
    add_user(tmp_path / "store", "lee", "viewer", "acme/*")
    reload_for_login(page)
    log_in(page, " ".join(["a", "password", "of", "lee"]))
    expect(rows(page).first).to_be_visible()
    expect(page.locator(".rollout button, .rollouts button")).to_have_count(0)
    for act in ("pause", "resume", "abort", "rollback"):
        assert page.evaluate(ASK, f"{crowd.path}/{act}") == 403
    assert page.evaluate(ASK, "rollouts/acme/promote") == 403
    picture(page, "rollout-viewer")


def promotes(own_watched: Any, crowd: Crowd, page: Page, picture: Callable[[Page, str], None]) -> None:
    """A candidate in shadow is promoted when both of its nodes have the evidence."""
    for node, inputs in zip(crowd.trying, (4_000, 40), strict=True):
        crowd.compare(node, inputs)
    page.get_by_role("navigation").get_by_role("link", name="Rollouts").click()
    candidate = page.locator("[data-candidate]")
    expect(candidate).to_contain_text("1 of 2 nodes")
    expect(candidate).to_contain_text("acme/try/hall/t1: Both models answered 40 inputs, 1,000 are needed")
    expect(candidate.get_by_role("button", name="Promote")).to_be_disabled()
    assert fits(page)
    picture(page, "candidates-en")
    korean = own_watched.open("rollouts", lang="ko-KR", width=390, wait="[data-candidate]")
    expect(korean.locator("[data-candidate]")).to_contain_text("두 모델이 함께 답한 입력이 40개로")
    assert fits(korean)
    picture(korean, "candidates-ko")
    crowd.compare(crowd.trying[1], 1_000)
    expect(candidate).to_contain_text("2 of 2 nodes")
    candidate.locator('[data-act="promote"]').click()
    expect(page.get_by_role("alertdialog")).to_contain_text("Roll out street-detector@3.0.0 to its nodes")
    page.locator('[data-sure="promote"]').click()
    expect(page.locator(".rollout h1")).to_contain_text("street-detector@3.0.0")
    expect(rows(page)).to_have_count(2)


def unchanged(page: Page) -> None:
    """Two answers later, with nothing new, no row of the nodes was made again."""
    page.evaluate(
        """() => {
            globalThis.changes = [];
            const seen = (found) => globalThis.changes.push(...found.map((one) => one.target.outerHTML));
            const all = {childList: true, subtree: true, characterData: true};
            new MutationObserver(seen).observe(document.querySelector(".rollout-nodes tbody"), all);
        }"""
    )
    for _ in range(2):
        with page.expect_response(lambda answer: "/rollouts/acme/" in answer.url):
            pass
    assert page.evaluate("globalThis.changes") == []
