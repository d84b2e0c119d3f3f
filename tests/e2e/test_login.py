"""Login, wrong password, a tenant's view, audit and logout, in Chromium."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from playwright.sync_api import Page, expect

from edgebed.cli import command as main
from tests.polling import wait_until

PASSWORD = " ".join(["a", "password", "of", "lee"])


def add_user(store: Path, name: str, role: str, prefix: str) -> None:
    arguments = ["user", "add", name, "--store", str(store), "--role", role, "--prefix", prefix]
    done = CliRunner().invoke(main, [*arguments, "--password-file", "-"], input=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output


def reload_for_login(page: Page) -> None:
    """Reload when the collector has noticed that there are users now."""
    ledger = page.url.partition("#")[0].partition("?")[0] + "api/v1/ledger"
    wait_until(lambda: page.request.get(ledger).status == 401, "the collector asks for a login")
    page.reload()
    page.wait_for_selector("form.login")


def log_in(page: Page, password: str, name: str = "Lee") -> None:
    page.locator("input[name=name]").fill(name)
    page.locator("input[name=password]").fill(password)
    page.locator("form.login button").click()


def test_a_tenant_logs_in_and_sees_its_own(
    own_watched: Any, tmp_path: Path, picture: Callable[[Page, str], None]
) -> None:
    own_watched.may_fail = True  # a refused request is an error in the console
    page = own_watched.open()
    expect(page.locator("main")).to_contain_text("acme")  # without a user everyone sees everything
    add_user(tmp_path / "store", "lee", "viewer", "hanbit/*")
    reload_for_login(page)
    assert "acme" not in page.content()
    picture(page, "login-en")

    log_in(page, "a wrong one, for sure")
    expect(page.get_by_role("alert")).to_contain_text("User or password is wrong.")
    picture(page, "login-wrong-en")

    log_in(page, PASSWORD)
    expect(page.locator(".account")).to_have_text("lee")
    expect(page.locator("main")).to_contain_text("hanbit")
    assert "acme" not in page.content()
    picture(page, "login-viewer-en")
    for place in ("ledger", "quarantine", "audit"):
        page.goto(page.url.partition("#")[0] + f"#/{place}")
        expect(page.locator("main .card h1")).to_be_visible()
        expect(page.locator("main .problem[role=alert]")).to_have_count(0)
        assert "acme" not in page.content(), place
    expect(page.locator("table.audit")).to_contain_text("Login refused")
    expect(page.locator("table.audit")).to_contain_text("User added")
    picture(page, "audit-en")

    page.goto(page.url.partition("#")[0] + "?lang=ko#/audit")
    expect(page.locator("table.audit")).to_contain_text("로그인 거부")
    picture(page, "audit-ko")
    page.get_by_role("button", name="로그아웃").click()
    page.wait_for_selector("form.login")
    expect(page.locator("main h1")).to_have_text("로그인")
    assert "hanbit" not in page.content()
    picture(page, "login-ko")


def test_a_session_that_ends_asks_for_a_login(own_watched: Any, tmp_path: Path) -> None:
    own_watched.may_fail = True
    store = tmp_path / "store"
    add_user(store, "lee", "admin", "*")
    page = own_watched.open(wait="main .card, form.login")
    reload_for_login(page)
    log_in(page, PASSWORD)
    expect(page.locator("main")).to_contain_text("acme")
    assert CliRunner().invoke(main, ["user", "remove", "lee", "--store", str(store)]).exit_code == 0
    add_user(store, "kim", "admin", "*")
    page.wait_for_selector("form.login")  # the stream ended, and the page asked again
    expect(page.locator("main")).to_contain_text("Your session has ended")
