"""Commands on the page: buttons for operators only, states live, both languages, in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.e2e.conftest import AIR, now_ms, wait_for
from tests.e2e.test_dashboard import ARM, fits
from tests.e2e.test_login import add_user, log_in, reload_for_login
from wire.messages import Res

AIR_PAGE = f"device/{AIR}/pm"
ASK = """(path) => fetch(`api/v1/nodes/${path}/commands`, {
    method: "POST", headers: {"content-type": "application/json"}, body: '{"name": "ping"}'
}).then((reply) => reply.status)"""


def row(page: Page, text: str) -> Any:
    return page.locator(".commands tbody tr").filter(has_text=text)


def answer(site: Any, command: Any, state: Any, name: str = "ping", device: str = "_", **more: Any) -> None:
    """Answer as the node does, which has the command."""
    identity = command.get_attribute("data-command")
    url = f"{site.url}/api/v1/nodes/{site.feeder.arm.address}/commands/{identity}"
    wait_for(url, lambda found: found["is_sent"])
    site.feeder.arm.send(
        Res(id=identity, state=state, ts=now_ms(), **more), "res", device, name, retain=False
    )


def test_an_operator_sends_commands_and_a_viewer_sees_them(
    own_watched: Any, own_site: Any, tmp_path: Path, picture: Callable[[Page, str], None]
) -> None:
    page = own_watched.open(ARM)
    card = page.locator(".commands")
    card.get_by_role("button", name="ping").click()
    ping = row(page, "ping")
    expect(ping).to_contain_text("queued")
    expect(ping).to_contain_text("local")
    for state in ("accepted", "running", "done"):
        result = {"result": {"pong": 1_795_356_000_000}} if state == "done" else {}
        answer(own_site, ping, state, **result)
        expect(ping).to_contain_text("delivered" if state == "accepted" else state)
    expect(ping).to_contain_text('{"pong":1795356000000}')

    card.locator("summary").click()
    arguments = card.locator("input")
    arguments.fill("[1]")
    expect(card).to_contain_text("The arguments are not a JSON object.")
    expect(card.get_by_role("button", name="ping")).to_be_disabled()
    arguments.fill('{"stream": "<b>frames</b>"}')
    card.get_by_role("button", name="snapshot").click()
    snapshot = row(page, "arm / snapshot")
    expect(snapshot).to_contain_text('{"stream":"<b>frames</b>"}')
    refusal = {"err": "device 'arm' has no picture yet", "err_code": "no-picture", "args": {"device": "arm"}}
    answer(own_site, snapshot, "rejected", "snapshot", "arm", code=400, **refusal)
    expect(snapshot).to_contain_text("rejected")
    assert fits(page)
    card.scroll_into_view_if_needed()
    picture(page, "commands-en")

    korean = own_watched.open(ARM, lang="ko-KR", width=390)
    expect(row(korean, "snapshot")).to_contain_text("거부됨")
    expect(row(korean, "snapshot")).to_contain_text("arm의 사진이 아직 없습니다.")
    assert fits(korean)
    korean.locator(".commands").scroll_into_view_if_needed()
    picture(korean, "commands-ko")

    lost = own_watched.open(AIR_PAGE)
    lost.locator(".commands").get_by_role("button", name="ping").click()
    expect(row(lost, "ping")).to_contain_text("queued")
    lost.get_by_role("button", name="Withdraw").click()
    expect(row(lost, "ping")).to_contain_text("withdrawn")
    expect(lost.get_by_role("button", name="Withdraw")).to_have_count(0)

    own_watched.may_fail = True  # a refused request is an error in the console
    add_user(tmp_path / "store", "lee", "viewer", "acme/*")
    reload_for_login(page)
    log_in(page, " ".join(["a", "password", "of", "lee"]))
    expect(row(page, "snapshot")).to_contain_text("rejected")
    expect(page.locator(".commands button, .commands input")).to_have_count(0)
    assert page.evaluate(ASK, "acme/cell/hall-1/arm-01") == 403
    page.locator(".commands").scroll_into_view_if_needed()
    picture(page, "commands-viewer")
    page.goto(page.url.partition("#")[0] + "#/audit")
    expect(page.locator("table.audit")).to_contain_text("Command withdrawn")
    expect(page.locator("table.audit")).to_contain_text("refused: lee may see")
