"""Codes beside texts: an error carries them, a message has them within the limits of the contract."""

from __future__ import annotations

import errno
import json
import math
import re
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, OptionsError, ProtocolViolation
from agent.inference.decoders import ModelError
from wire import codec
from wire.errors import EdgebedError, WireError
from wire.messages import DeviceState, Event, Res, Snapshot, Status
from wire.reasons import CODES, MAX_ARGS, NO_REASON, Reason, because, fitting

DEGRADED = {"state": "degraded", "why": "no reading for 5 s"}


PAGE = Path(__file__).parents[3] / "docs/topics.md"
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ((?:`\w+`(?:, )?)*) ?\| (.+) \|$", re.MULTILINE)


def test_the_codes_are_those_of_the_page() -> None:
    section = PAGE.read_text().split("\n## Codes beside texts\n")[1].split("\n## ")[0]
    rows = {code: tuple(re.findall(r"`(\w+)`", names)) for code, names, _ in ROW.findall(section)}
    assert rows == CODES


def status(**more: Any) -> bytes:
    head = {"v": 1, "state": "online", "ts": 1, "boot": "5be1f00d", "sess": 1}
    return json.dumps({**head, "devices": {"arm": {**DEGRADED, **more}}}).encode()


def test_an_error_has_the_code_of_its_class_or_a_more_precise_one() -> None:
    assert DeviceStalled("silent").reason == because("silent", "device-stalled")
    coded = DeviceStalled("silent").coded("device-silent", seconds=5.0)
    assert isinstance(coded, DeviceStalled)
    assert coded.reason == because("silent", "device-silent", seconds=5.0)
    assert DeviceStalled("again").reason.code == "device-stalled", "the class keeps its default"
    assert EdgebedError("x").reason == Reason("x")


@pytest.mark.parametrize(
    "kind", [AdapterError, OptionsError, DeviceUnreachable, DeviceStalled, ProtocolViolation, ModelError]
)
def test_the_code_of_each_class_is_known_and_has_no_args(kind: type[EdgebedError]) -> None:
    assert CODES[kind.reason_code] == ()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ECONNREFUSED, "refused"), "connection-refused"),
        (OSError(errno.ENOENT, "no such file"), "device-missing"),
        (OSError(errno.EACCES, "denied"), "permission-denied"),
        (OSError(errno.EHOSTUNREACH, "no route"), "host-unreachable"),
        (socket.gaierror(-2, "not known"), "host-unknown"),
        (TimeoutError(), "no-answer"),
    ],
)
def test_a_failed_connection_has_the_code_of_its_cause_and_the_address(error: OSError, code: str) -> None:
    found = DeviceUnreachable("no").at("tcp://10.0.0.7:4840", error).reason
    assert (found.code, found.args) == (code, {"where": "tcp://10.0.0.7:4840"})
    assert CODES[code] == ("where",)


def test_a_failed_connection_of_unknown_cause_keeps_the_code_of_its_class() -> None:
    found = DeviceUnreachable("no").at("x", OSError(errno.EPIPE, "broken")).reason
    assert (found.code, found.args) == ("device-unreachable", {})


def test_a_reason_without_code_adds_nothing_to_a_message() -> None:
    assert msgspec.json.encode(DeviceState(state="ok", **NO_REASON.fields())) == b'{"state":"ok"}'


def test_code_and_args_travel() -> None:
    reason = because("no reading for 5 s", "device-silent", seconds=5.0)
    sent = Status(
        state="online",
        ts=1,
        boot="5be1f00d",
        sess=1,
        devices={"arm": DeviceState(state="degraded", **reason.fields())},
    )
    arm = codec.decode(codec.encode(sent), Status).devices["arm"]
    assert (arm.why, arm.code, arm.args) == ("no reading for 5 s", "device-silent", {"seconds": 5.0})


@pytest.mark.parametrize("code", ["Bad Code", "-x", "x-", "x\n", "한글", "x" * 49, "<b>"])
def test_an_agent_sends_no_code_that_breaks_the_contract(code: str) -> None:
    """An adapter of another package can set any code; the status must stay readable."""
    found = Reason("why", code, {"a": 1}).fields()
    assert found == {"why": "why", "code": "", "args": {}}


def test_an_agent_sends_only_args_that_keep_the_contract() -> None:
    hostile: dict[str, Any] = {f"a{n}": n for n in range(40)}
    hostile = {
        "text": "x" * 10_000, "big": 2**70, "nan": float("nan"), "object": ["list"], "y" * 500: 1, **hostile
    }  # fmt: skip
    args = Reason("w" * 9_000, "device-silent", hostile).fields()
    assert len(args["args"]) == MAX_ARGS
    state = DeviceState(state="degraded", **args)
    again = msgspec.json.decode(msgspec.json.encode(state), type=DeviceState)
    assert (again.code, again.args["nan"], again.args["object"]) == ("device-silent", None, "['list']")
    assert again.args["big"] == str(2**70)


def test_the_status_of_an_older_agent_has_no_code() -> None:
    arm = codec.decode(status(), Status).devices["arm"]
    assert (arm.why, arm.code, arm.args) == ("no reading for 5 s", "", {})


def test_the_code_of_a_newer_agent_is_kept_as_it_is() -> None:
    arm = codec.decode(status(code="not-invented-yet", args={"n": 3, "ok": True, "x": None}), Status).devices[
        "arm"
    ]
    assert (arm.code, arm.args) == ("not-invented-yet", {"n": 3, "ok": True, "x": None})


HOSTILE = [
    {"code": "Not Kebab"},
    {"code": "a-" * 30},
    {"code": "ends-with-newline\n"},
    {"code": 7},
    {"args": {f"a{n}": n for n in range(17)}},
    {"args": {"text": "x" * 2_001}},
    {"args": {"n" * 129: 1}},
    {"args": {"big": 2**70}},
    {"args": {"nested": {"a": 1}}},
    {"args": ["list"]},
]


@pytest.mark.parametrize("more", HOSTILE, ids=lambda more: str(more)[:30])
def test_a_hostile_code_is_refused_as_any_other_invalid_body(more: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="not a Status"):
        codec.decode(status(**more), Status)
    event = {"v": 1, "ts": 1, "type": "clock-step", **more}
    with pytest.raises(WireError, match="not a Event"):
        codec.decode(json.dumps(event).encode(), Event)
    snap = {"v": 1, "ts": 1, "w": 1, "h": 1, "sha256": "0", "jpeg": "", **more}
    with pytest.raises(WireError, match="not a Snapshot"):
        codec.decode(json.dumps(snap).encode(), Snapshot)
    res = {"v": 1, "id": "0" * 26, "state": "failed", "ts": 1, "err": "x"}
    res |= {"err_code": more["code"]} if "code" in more else more
    with pytest.raises(WireError, match="not a Res"):
        codec.decode(json.dumps(res).encode(), Res)


def test_what_is_too_long_is_cut_to_the_limits_of_the_contract() -> None:
    assert Reason("w" * 2_001).fields()["why"] == "w" * 2_000
    assert [len(Reason("", code).coded()["code"]) for code in ("x" * 48, "x" * 49)] == [48, 0]
    names = {"n" * 48: 1, "n" * 49: 2}
    assert fitting(names) == {"n" * 48: 1}
    assert fitting({"t": "x" * 301, "b": b"y"}) == {"t": "x" * 300, "b": "b'y'"}
    edges = {"low": -(2**63), "lower": -(2**63) - 1, "high": 2**63 - 1, "higher": 2**63}
    assert fitting(edges) == {
        "low": -(2**63), "lower": "-9223372036854775809", "high": 2**63 - 1, "higher": "9223372036854775808"
    }  # fmt: skip
    kept = {"yes": True, "none": None, "half": 0.5, "nan": math.nan, "inf": math.inf}
    assert fitting(kept) == {"yes": True, "none": None, "half": 0.5, "nan": None, "inf": None}
    assert list(fitting({str(n): n for n in range(17)})) == [str(n) for n in range(16)]
    assert (NO_REASON.why, NO_REASON.code, NO_REASON.args) == ("", "", {})
