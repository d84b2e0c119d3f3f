"""Every code of a reason is registered, documented and translated; a translation names only its args."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from agent.outbox.gaps import GAP_REASONS
from agent.pipeline.frames.privacy import _NO_DETECTOR
from agent.uplink import presence
from collector.fleet import problems
from collector.ingest.refusal import SHARE_CODES
from collector.ledger import reasons
from collector.web import commands, desired
from wire import socket_errors
from wire.reasons import CODES

ROOT = Path(__file__).parents[3]
I18N = ROOT / "collector/web/dashboard/i18n"
LINE = re.compile(r'^  ("(?:[^"\\]|\\.)*"): ("(?:[^"\\]|\\.)*"),$', re.MULTILINE)
# codes that a table or an expression gives, not a call
BY_TABLE = {
    *socket_errors._CODES.values(), "host-unknown", *_NO_DETECTOR.values(), *presence._CODES.values(),
    *GAP_REASONS, *SHARE_CODES.values(),
    *(code for _, code in reasons._TEXTS), "clock-set-forward", "clock-set-back", "clock-behind",
    "clock-ahead", "disk-full", "disk-failed",
}  # fmt: skip

NESTED = {"sender", "cause"}  # of them and `share` the page makes the `detail`


def _sources() -> list[Path]:
    rooms = ("adapters", "agent", "collector", "wire")
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def _calls() -> Iterator[tuple[str, str, frozenset[str], bool]]:
    """Place, code, names of the args, and whether they are known, of every call of `coded` and `because`."""
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = {"coded": 0, "because": 1}.get(called)
            if at is None or len(node.args) <= at:
                continue
            code = node.args[at]
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                names = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
                spread = any(keyword.arg is None for keyword in node.keywords)
                yield f"{path.relative_to(ROOT)}:{node.lineno}", code.value, names, not spread


def _defaults() -> Iterator[str]:
    """The codes that classes of errors have."""
    for path in _sources():
        yield from re.findall(r'^    reason_code = "([^"]+)"$', path.read_text(), re.MULTILINE)


@cache
def words(language: str) -> dict[str, str]:
    """The texts of a language of the page."""
    text = (I18N / f"{language}.js").read_text()
    return {json.loads(key): json.loads(value) for key, value in LINE.findall(text)}


@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_language_has_each_text_once(language: str) -> None:
    keys = [key for key, _ in LINE.findall((I18N / f"{language}.js").read_text())]
    assert sorted(keys) == sorted(set(keys))


def test_every_call_uses_a_registered_code_with_its_args() -> None:
    found = list(_calls())
    assert len(found) > 40
    for place, code, names, complete in found:
        assert code in CODES, f"{place}: {code} is not in wire.reasons.CODES"
        if complete:
            assert names == set(CODES[code]), f"{place}: the args of {code} are {CODES[code]}"


def test_every_registered_code_is_used() -> None:
    used = {code for _, code, _, _ in _calls()} | set(_defaults()) | BY_TABLE
    assert used == set(CODES)


def test_a_code_fits_the_contract_and_is_no_other_problem() -> None:
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", code) and len(code) <= 48 for code in CODES)
    assert all(len(names) <= 16 for names in CODES.values())
    assert set(problems.CODES) & set(CODES) == {"backlog", "node-silent"}, "these two mean the same in both"


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_code_is_translated_and_the_translation_names_only_its_args(language: str) -> None:
    table = words(language)
    for code, names in CODES.items():
        text = table[f"reason.{code}"]
        shown = set(names) - ({*NESTED, "share"} if set(names) >= NESTED else set())
        assert set(re.findall(r"\{(\w+)\}", text)) in (shown, {"why"}), f"{code}: {text}"
    plural = {f"reason.{code}_one" for code, names in CODES.items() if "n" in names}
    assert {key for key in table if key.startswith("reason.")} == {
        f"reason.{code}" for code in CODES
    } | plural


def test_every_korean_reason_is_korean() -> None:
    for key, text in words("ko").items():
        if key.startswith(("reason.", "error.")):
            assert re.search("[가-힣]", text), f"{key}: {text}"


def test_every_counter_that_the_docs_name_is_translated() -> None:
    text = (ROOT / "docs/adapters.md").read_text().partition("## What is counted")[2]
    head, _, rows = text.partition("| counter |")
    named = {
        name
        for cell in re.findall(r"^\| (`[^|]+`) \|", rows, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }
    own = set(re.findall(r"`([a-z_]+)`", head)) - {"counters"}
    assert len(named) > 100
    for language in ("en", "ko"):
        lacking = {
            name for name in named | own | {"runs", "failed"} if f"counter.{name}" not in words(language)
        }
        assert lacking == set(), language


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_event_of_the_contract_and_every_act_of_the_audit_has_words(language: str) -> None:
    events = re.findall(r"`event/(?:_|{device})/([a-z-]+)`", (ROOT / "docs/topics.md").read_text())
    acts = [*commands.WHAT.values(), *desired.WHAT.values(), *desired.PILOT_WHAT.values()]
    assert len(events) > 5
    wanted = {f"event.{kind}" for kind in [*events, "new-outbox"]} | {f"act.{what}" for what in acts}
    assert wanted - words(language).keys() == set()


def test_korean_has_one_form_of_politeness_and_one_name_for_the_ledger() -> None:
    texts = " ".join(words("ko").values())
    assert "세요" in texts
    assert "십시오" not in texts
    assert words("ko")["nav.ledger"] == "수신 원장"
    assert "장부" not in texts
