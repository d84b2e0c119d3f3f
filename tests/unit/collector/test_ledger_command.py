"""`edgebed ledger` and `edgebed collector check`: their output and exit codes."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.ledger.accepted_keys import AcceptedKeys
from collector.ledger.audit import differences
from collector.ledger.ledger import Ledger
from collector.state.audit import Audit
from collector.state.state_file import StateFile
from collector.store.folder import day_files
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from edgebed.cli import command as edgebed
from edgebed.commands.ledger import share
from tests.unit.collector.ledger.stating_node import Node
from tests.unit.collector.store.test_prune import two_days
from wire.errors import ConfigError, EdgebedError, Unreachable

NODE = "acme/trial/hall/cobot-01"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(edgebed, ["ledger", *arguments])


@pytest.fixture
def store(folder: Path, clock: Any, batch: Any, event: Any, commit: Any) -> Path:
    made, ledger = SqliteStore(folder, clock), Ledger()
    commit(made, ledger, [batch(seq) for seq in (1, 2, 3, 5, 5, 12)])
    commit(made, ledger, [event(13, "gap", device="_", lost=[(7, 10)], why="disk full")])
    commit(made, ledger, [batch(1, node="acme/trial/hall/cam-01")])
    made.close()
    return folder


def test_missing_messages_are_listed_with_their_ranges(store: Path) -> None:
    found = run("--store", str(store))
    assert found.exit_code == 3
    assert found.stdout.splitlines() == [
        "acme/trial/hall/cam-01  ep 00112233aabbccdd",
        "  100.000 % of 1 message stored (1 row)",
        "acme/trial/hall/cobot-01  ep 00112233aabbccdd",
        "  46.153 % of 13 messages stored (6 rows)",
        "  4 declared lost, 1 duplicate dropped",
        "  declared lost: 7-10: disk full",
        "  MISSING 3: 4, 6, 11",
        "  missing 4, 6, 11: since 2026-11-22 14:00:00 UTC, never arrived",
        "all nodes",
        "  50.000 % of 14 messages stored",
        "  4 declared lost, 1 duplicate dropped",
        "  MISSING 3",
    ]


def test_one_node_and_json(store: Path) -> None:
    found = run("--store", str(store), "--node", "acme/trial/hall/cam-01", "--json", "--audit")
    assert found.exit_code == 0
    ledger = json.loads(found.stdout)
    assert (ledger["totals"]["stored"], ledger["entries"][0]["missing"], ledger["audit"]) == (1, [], [])


def test_an_audit_finds_differences_in_the_files(store: Path, clock: Any, batch: Any, commit: Any) -> None:
    clock.ms += 86_400_000
    made = SqliteStore(store, clock)
    forgetful = Ledger()
    commit(made, forgetful, [batch(2), batch(99)])
    made.close()
    found = run("--store", str(store), "--audit")
    assert found.exit_code == 3
    assert f"AUDIT {NODE} ep 00112233aabbccdd: seq 2 is stored twice" in found.stdout
    day_files(store)[0].unlink()
    with closing(SqliteSource(store)) as source:
        assert any("the files have" in line for line in differences(source, {}))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--day", "yesterday"), "YYYY-MM-DD"),
        (("--pilot", "acme"), "tenant/pilot"),
        (("--stream", "joints"), "device/stream"),
        (("--node", "cobot-01"), "tenant/pilot/site/node"),
        (("--accept", "0123456789abcdef"), "needs --store and --node"),
        (("--accept", "short", "--node", NODE), "16 hexadecimal digits"),
    ],
)
def test_a_wrong_argument_is_named(store: Path, arguments: tuple[str, ...], text: str) -> None:
    more = () if "needs" in text else ("--store", str(store))
    found = run(*arguments, *more)
    assert found.exit_code == 2
    assert text in found.output


def test_a_key_is_accepted_on_the_collectors_machine(store: Path) -> None:
    found = run("--store", str(store), "--node", NODE, "--accept", "0123456789abcdef")
    with closing(StateFile(store)) as state:
        acts = [(one.what, one.subject, one.result) for one in Audit(state).newest(9)]
    assert acts == [("accept-key", f"{NODE} 0123456789abcdef", "done")]
    assert found.exit_code == 0
    assert AcceptedKeys(store).of(NODE) == {"0123456789abcdef"}


def test_a_folder_that_is_not_a_store(tmp_path: Path) -> None:
    found = run("--store", str(tmp_path))
    assert isinstance(found.exception, EdgebedError)
    assert "no day files" in str(found.exception)


def test_options_that_do_not_go_together(store: Path) -> None:
    assert run("--store", str(store), "--url", "http://x").exit_code == 2
    assert run("--audit").exit_code == 2
    assert run("--url", "file:///etc/passwd").exit_code == 2


def test_an_absent_collector() -> None:
    found = run("--url", "http://127.0.0.1:1")
    assert isinstance(found.exception, Unreachable)
    assert "no collector answers at http://127.0.0.1:1" in str(found.exception)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (200, b"[]"), (401, b"{}"), (200, b'{"a":1}')]
)
def test_a_server_that_is_not_a_collector(status: int, body: bytes) -> None:
    class Peer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Peer) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        found = run("--url", f"http://127.0.0.1:{server.server_port}")
        answering.join()
    assert isinstance(found.exception, EdgebedError)
    assert "\n" not in str(found.exception)


@pytest.mark.parametrize(
    ("stored", "taken", "text"),
    [
        (0, 0, "0 of 0 rows"), (1, 1, "100.000 % of 1 row"),
        (999_999, 1_000_000, "99.999 % of 1,000,000 rows"),
        (9_999_999, 10_000_000, "99.999 % of 10,000,000 rows"), (1, 3, "33.333 % of 3 rows"),
    ],
)  # fmt: skip
def test_a_hundred_percent_is_never_rounded_up_to(stored: int, taken: int, text: str) -> None:
    assert share(stored, taken, "row") == text


def test_check_lists_every_mistake_and_the_command_line_wins(tmp_path: Path) -> None:
    config = tmp_path / "collector.yaml"
    config.write_text("store: data\nid: BAD\nhttp: {host: 0.0.0.0, proxies: [here]}\n")
    found = CliRunner().invoke(edgebed, ["collector", "check", str(config)])
    assert isinstance(found.exception, ConfigError)
    assert len(found.exception.mistakes) == 2
    config.write_text("store: data\n")
    found = CliRunner().invoke(edgebed, ["collector", "check", str(config)])
    assert (found.exit_code, found.stdout.count("\n")) == (0, 1)
    for wrong in (["--broker", "mqtt://x:70000"], ["--broker", "http://x"], ["--id", "A B"]):
        found = CliRunner().invoke(edgebed, ["collector", "run", str(config), *wrong])
        assert isinstance(found.exception, ConfigError), wrong
    assert CliRunner().invoke(edgebed, ["collector", "run"]).exit_code == 2


def test_the_proof_of_a_pilot_by_day_and_stream(folder: Path, clock: Any, commit: Any) -> None:
    made, ledger, node = SqliteStore(folder, clock), Ledger(), Node()
    first = [node.data(), node.data(7, "tcp"), node.state()]
    node.turn("2026-11-23")
    node.data()
    commit(made, ledger, [*first, node.data(), node.gap([(4, 4)]), node.state()])
    made.close()
    found = run("--store", str(folder), "--pilot", "acme/trial")
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "acme/trial  2026-11-22",
        "  100.000 % of 3 messages stored, 100.000 % of 17 rows; 1 of 1 node verified",
        "  acme/trial/hall/cobot-01  ep 00112233aabbccdd",
        "    100.000 % of 3 messages stored, 100.000 % of 17 rows",
        "    all in 1 signed statement: verified",
        "      data/arm/joints  100.000 % of 10 rows stored",
        "      data/arm/tcp  100.000 % of 7 rows stored",
        "acme/trial  2026-11-23",
        "  75.000 % of 4 messages stored, 56.521 % of 23 rows; 1 of 1 node verified",
        "  acme/trial/hall/cobot-01  ep 00112233aabbccdd",
        "    75.000 % of 4 messages stored, 56.521 % of 23 rows",
        "    3 of them in 1 signed statement: verified",
        "    1 declared lost",
        "    declared lost: 4: quota",
        "      data/arm/joints  50.000 % of 20 rows stored",
        "      event/_/custody  100.000 % of 2 rows stored",
        "      event/_/gap  100.000 % of 1 row stored",
    ]
    found = run("--store", str(folder), "--day", "2026-11-22", "--stream", "arm/tcp", "--json")
    answer = json.loads(found.stdout)
    assert [list(day["streams"]) for day in answer["days"]] == [["data/arm/tcp"]]
    assert run("--store", str(folder), "--day", "2020-01-01").stdout == "no message matches\n"


def test_each_view_states_what_retention_removed_and_none_of_it_is_missing(
    folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    made = SqliteStore(folder, clock)
    two_days(made, clock, batch, event, commit)
    assert made.prune(day_files(folder)[0], lambda node, cls: node == NODE, lambda _size: None)
    made.close()
    removed = "  of these, retention removed 100 data messages (100 rows, numbers 1-109, received 2026-11-22)"
    for view in ((), ("--pilot", "acme/trial"), ("--pilot", "acme/trial", "--day", "2026-11-22")):
        lines = run("--store", str(folder), *view).stdout.splitlines()
        assert lines.count(removed) == 1, lines
    found = run("--store", str(folder), "--pilot", "acme/trial", "--audit")
    assert (found.exit_code, "MISSING" in found.stdout) == (0, False), found.stdout


@pytest.mark.parametrize("view", [("--pilot", "acme/trial"), ("--day", "2026-11-23"), ("--node", NODE), ()])
@pytest.mark.parametrize("audit", [(), ("--audit",)])
def test_exit_code_3_has_its_reason_on_the_screen(
    folder: Path, clock: Any, commit: Any, batch: Any, view: tuple[str, ...], audit: tuple[str, ...]
) -> None:
    """What is missing is on another day than the shown one; the audit asks only about the shown nodes."""
    made, ledger, node = SqliteStore(folder, clock), Ledger(), Node()
    node.data()  # it never arrives
    first = [node.data(), node.state()]
    node.turn("2026-11-23")
    commit(made, ledger, [*first, node.data(), node.state(), batch(1, node="acme/other/hall/cam-01")])
    made.close()
    found = run("--store", str(folder), *view, *audit)
    assert (found.exit_code, "MISSING 1" in found.stdout) == (3, True), found.stdout
    assert "AUDIT" not in found.stdout
    if "--day" in view:
        assert "MISSING 1 more, on days or of streams that are not shown" in found.stdout
    other = run("--store", str(folder), "--pilot", "acme/other", *audit)
    assert (other.exit_code, "MISSING" in other.stdout) == (0, False), other.stdout


@pytest.mark.parametrize("view", [("--pilot", "acme/trial"), ("--day", "2026-11-22"), ("--node", NODE), ()])
def test_doubt_and_audit_are_shown_in_each_view(
    folder: Path, clock: Any, commit: Any, view: tuple[str, ...]
) -> None:
    made, ledger, node = SqliteStore(folder, clock), Ledger(), Node()
    messages = [node.data(), node.data()]
    streams = {"data/arm/joints": [2, 1, 30]}  # signed, but only 20 rows are stored
    commit(made, ledger, [*messages, node.state(streams=streams)])
    made.close()
    found = run("--store", str(folder), *view)
    assert (found.exit_code, "DOUBTFUL" in found.stdout) == (3, True), found.stdout
    reason = "30 rows are signed and 20 stored" if view else "see `edgebed ledger --pilot acme/trial`"
    assert reason in found.stdout
    made, forgetful = SqliteStore(folder, clock), Ledger()
    commit(made, forgetful, [messages[0]])
    made.close()
    assert "AUDIT" in run("--store", str(folder), *view, "--audit").stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--node", "acme/trial/hall/cobto-01"), f"unknown node acme/trial/hall/cobto-01.* mean '{NODE}'"),
        (("--pilot", "acme/trail"), "unknown pilot acme/trail.* mean 'acme/trial'"),
        (("--node", "acme/trial/hall/x", "--json"), "unknown node acme/trial/hall/x"),
    ],
)
def test_an_unknown_node_or_pilot_is_not_a_sound_one(
    store: Path, arguments: tuple[str, ...], text: str
) -> None:
    found = run("--store", str(store), *arguments)
    assert found.exit_code not in (0, 3)
    with pytest.raises(EdgebedError, match=text):
        raise found.exception
