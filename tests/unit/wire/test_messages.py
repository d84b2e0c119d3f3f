"""The bodies of the contract: their fields and limits, what always travels, what a struct refuses."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from tests.unit.wire.contract import contract, schema
from wire import messages
from wire.messages import BODIES, MAX_DEPTH, MAX_SAMPLES, Ack, Batch, Birth, Event, Quality, is_deep, is_id

ULID, EPOCH = "01JD3X5Y6Z7A8B9C0D1E2F3G4H", "ab12ab12"


def test_the_bodies_are_those_of_the_contract() -> None:
    assert {cls: schema(kind) for cls, kind in BODIES.items()} == contract("bodies")


def test_the_limits_are_those_of_the_contract() -> None:
    assert {name: value for name, value in vars(messages).items() if name.startswith("MAX_")} == contract(
        "limits"
    )


@pytest.mark.parametrize(
    ("cls", "fields", "text"),
    [
        (
            "status",
            {"state": "lost", "ts": 1, "boot": EPOCH, "sess": 2},
            '{"v":1,"state":"lost","ts":1,"boot":"ab12ab12","sess":2}',
        ),
        (
            "birth",
            {"ts": 1, "boot": EPOCH, "sess": 2, "ep": EPOCH, "agent": messages.AgentInfo(ver="1.0")},
            '{"v":1,"contract":"tb1","ts":1,"boot":"ab12ab12","sess":2,"ep":"ab12ab12","agent":{"ver":"1.0"}}',
        ),
        ("data", {"t0": 5, "dt": [0], "f": {"x": [1.5]}}, '{"v":1,"t0":5,"dt":[0],"f":{"x":[1.5]}}'),
        ("event", {"ts": 1, "type": "gap"}, '{"v":1,"ts":1,"type":"gap","sev":0}'),
        ("pack", {"m": [("data/a/b", msgspec.Raw(b"{}"))]}, '{"v":1,"m":[["data/a/b",{}]]}'),
        (
            "snap",
            {"ts": 1, "w": 2, "h": 3, "sha256": "aa", "jpeg": b"\xff"},
            '{"v":1,"ts":1,"w":2,"h":3,"sha256":"aa","mime":"image/jpeg","jpeg":"/w=="}',
        ),
        (
            "ack",
            {"ep": EPOCH, "ok": [(1, 2)], "by": "c", "ts": 1},
            '{"v":1,"ep":"ab12ab12","ok":[[1,2]],"by":"c","ts":1}',
        ),
        ("cmd", {"id": ULID, "ts": 1, "ttl_ms": 2}, f'{{"v":1,"id":"{ULID}","ts":1,"ttl_ms":2}}'),
        (
            "res",
            {"id": ULID, "state": "done", "ts": 1},
            f'{{"v":1,"id":"{ULID}","state":"done","code":0,"ts":1}}',
        ),
        ("desired", {"ver": 0, "ts": 1}, '{"v":1,"ver":0,"ts":1}'),
        ("reported", {"ver": 0, "state": "failed", "ts": 1}, '{"v":1,"ver":0,"state":"failed","ts":1}'),
        ("log", {"ts": 1, "msg": "x"}, '{"ts":1,"msg":"x"}'),
    ],
)
def test_what_always_travels(cls: str, fields: dict[str, Any], text: str) -> None:
    assert msgspec.json.encode(BODIES[cls](**fields)).decode() == text


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Batch(t0=1, f={"x": [1]}), "a batch needs dt, or per and n"),
        (lambda: Batch(t0=1, per=1, f={"x": [1]}), "a batch needs dt, or per and n"),
        (lambda: Batch(t0=1, n=1, f={"x": [1]}), "a batch needs dt, or per and n"),
        (lambda: Batch(t0=1, dt=[0], per=1, f={"x": [1]}), "a batch has dt, or per and n, not both"),
        (lambda: Batch(t0=1, dt=[0], n=1, f={"x": [1]}), "a batch has dt, or per and n, not both"),
        (lambda: Batch(t0=1, dt=[], f={"x": []}), "a batch of 0 rows; 1 to 10000 are allowed"),
        (
            lambda: Batch(t0=1, dt=[0] * (MAX_SAMPLES + 1), f={"x": [1]}),
            "a batch of 10001 rows; 1 to 10000 are allowed",
        ),
        (lambda: Batch(t0=1, dt=[0], f={}), "a batch without fields"),
        (lambda: Batch(t0=1, dt=[0], f={"x": [1, 2]}), "column 'x' has 2 values for 1 rows"),
        (lambda: Batch(t0=1, dt=[0, 1], f={"x": [1, 2]}, q=[0]), "q has 1 values for 2 rows"),
        (
            lambda: Batch(t0=1, dt=[0], f={"X": [1]}),
            "field name 'X' is not [a-z][a-z0-9_]*, 48 characters at most",
        ),
        (
            lambda: messages.Stream(fields={"é": messages.Field()}),
            "field name 'é' is not [a-z][a-z0-9_]*, 48 characters at most",
        ),
        (lambda: Event(ts=1, type="gap", lost=[(1, 1), (3, 2)]), "range 3..2 ends before it starts"),
        (lambda: Ack(ep=EPOCH, ok=[(3, 2)], by="c", ts=1), "range 3..2 ends before it starts"),
    ],
)
def test_a_struct_refuses_values_that_do_not_fit_together(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == sentence


def test_the_largest_and_the_smallest_batch() -> None:
    whole = Batch(t0=1, dt=[0] * MAX_SAMPLES, f={"x": [1] * MAX_SAMPLES})
    assert (len(whole), len(Batch(t0=1, per=1, n=7, f={"x": [1] * 7}))) == (MAX_SAMPLES, 7)
    assert Batch(t0=5, per=20, n=3, f={"x": [1, 2, 3]}).times_us() == [5_000, 25_000, 45_000]
    assert Batch(t0=5, per=20, n=3, f={"x": [1, 2, 3]}, tu="us").times_us() == [5_000, 5_020, 5_040]
    assert Batch(t0=5, dt=[0, -7], f={"x": [1, 2]}).times_us() == [5_000, -2_000]


def nested(depth: int) -> Any:
    value: Any = 1
    for at in range(depth):
        value = [0, value] if at % 2 else {"a": 0, "b": value}
    return value


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: Event(ts=1, type="x", detail={"a": value}), "detail"),
        (lambda value: messages.Cmd(id=ULID, ts=1, ttl_ms=1, args={"a": value}), "args"),
        (lambda value: messages.Command(name="x", args={"a": value}), "args"),
        (lambda value: messages.Res(id=ULID, state="done", ts=1, result={"a": value}), "result"),
        (lambda value: messages.Desired(ver=1, ts=1, doc={"a": value}), "doc"),
        (lambda value: messages.Desired(ver=1, ts=1, ref={"a": value}), "ref"),
    ],
)
def test_lists_and_objects_nest_to_a_limit(make: Any, name: str) -> None:
    assert [is_deep(nested(depth)) for depth in (0, MAX_DEPTH, MAX_DEPTH + 1)] == [False, False, True]
    make(nested(MAX_DEPTH - 1))
    with pytest.raises(ValueError) as caught:
        make(nested(MAX_DEPTH))
    assert str(caught.value) == f"{name} nests more than 64 deep"


def test_names_of_things() -> None:
    assert [is_id(text) for text in ("arm-1", "a" * 32, "", "Arm", "a" * 33, "-a", "a_b")] == [
        True, True, False, False, False, False, False,
    ]  # fmt: skip


def test_a_newer_contract_is_another_one() -> None:
    with pytest.raises(msgspec.ValidationError, match="contract"):
        msgspec.convert(
            {"contract": "tb2", "ts": 1, "boot": EPOCH, "sess": 1, "ep": EPOCH, "agent": {"ver": "1"}}, Birth
        )


FROM_THE_GRAVEST = (
    Quality.BAD,
    Quality.WRONG_TYPE,
    Quality.NOT_FINITE,
    Quality.TIME_BACKWARD,
    Quality.TIME_REPEATED,
    Quality.OUT_OF_RANGE,
    Quality.UNCERTAIN,
    Quality.GOOD,
)


def test_the_numbers_of_qualities_and_clock_states_are_those_of_the_contract() -> None:
    assert {one.name: int(one) for one in Quality} == {
        "GOOD": 0, "OUT_OF_RANGE": 1, "NOT_FINITE": 2, "UNCERTAIN": 3, "BAD": 4, "TIME_REPEATED": 5,
        "TIME_BACKWARD": 6, "WRONG_TYPE": 7,
    }  # fmt: skip
    assert {one.name: int(one) for one in messages.ClockState} == {"UNSYNCED": 0, "NTP": 1, "PTP": 2}


def test_every_quality_has_a_place() -> None:
    assert sorted(FROM_THE_GRAVEST) == sorted(Quality)


@pytest.mark.parametrize(("graver", "other"), list(combinations(FROM_THE_GRAVEST, 2)))
def test_the_graver_one_travels_in_either_order(graver: Quality, other: Quality) -> None:
    assert graver.worse(other) is graver
    assert other.worse(graver) is graver


@pytest.mark.parametrize("quality", Quality)
def test_two_of_one_kind_stay(quality: Quality) -> None:
    assert quality.worse(quality) is quality


@pytest.mark.parametrize(
    "kind", [*BODIES.values(), messages.DeviceState, messages.ModelState, messages.Field, messages.Refused]
)
def test_fields_are_given_by_name(kind: type[Struct]) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(1, 2, 3)


def test_the_span_of_a_batch_is_from_its_first_to_its_last_time() -> None:
    for batch in (
        Batch(t0=5, per=20, n=3, f={"x": [1, 2, 3]}),
        Batch(t0=5, per=20, n=3, f={"x": [1, 2, 3]}, tu="us"),
        Batch(t0=50, dt=[3, -7, 9, 0], f={"x": [1, 2, 3, 4]}),
        Batch(t0=50, dt=[3, -7, 9, 0], f={"x": [1, 2, 3, 4]}, tu="us"),
    ):
        times = batch.times_us()
        assert batch.span_us() == (min(times), max(times))
