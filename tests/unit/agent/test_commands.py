"""Commands: each id once, over restarts too; late, unknown and hostile commands are refused with a reason."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.command_memory import ANSWERS, MAX_RESULT, REMEMBERED
from agent.commands import Action, Commands, Rejected
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import UNSET, Cmd, Res

NOW_MS = 1_700_000_000_000


@pytest.fixture
def clock() -> Clock:
    return Clock(start_ns=NOW_MS * 1_000_000)


def ulid(number: int) -> str:
    return f"{number:026}"


def cmd(number: int = 1, ts: int = NOW_MS, ttl_ms: int = 60_000, *, steps: bool = False, **args: Any) -> Cmd:
    return Cmd(id=ulid(number), ts=ts, ttl_ms=ttl_ms, args=args, steps=steps)


class Counting:
    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, device: str, args: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((device, args))
        return {"n": len(self.calls)}


def raising(error: Exception) -> Action:
    async def action(device: str, args: dict[str, Any]) -> dict[str, Any]:
        raise error

    return action


async def test_ping(tmp_path: Path, clock: Clock) -> None:
    answer = await Commands(tmp_path, clock, {}).handle("_", "ping", cmd())
    assert (answer.id, answer.state, answer.code) == (ulid(1), "done", 0)
    assert isinstance(answer.result, dict)
    assert answer.result["pong"] >= NOW_MS


async def test_an_action_gets_device_and_arguments(tmp_path: Path, clock: Clock) -> None:
    action = Counting()
    answer = await Commands(tmp_path, clock, {"snapshot": action}).handle(
        "cam", "snapshot", cmd(stream="frames")
    )
    assert action.calls == [("cam", {"stream": "frames"})]
    assert answer.result == {"n": 1}


async def test_an_id_is_executed_once(tmp_path: Path, clock: Clock) -> None:
    action = Counting()
    commands = Commands(tmp_path, clock, {"go": action})
    answers = await asyncio.gather(*(commands.handle("_", "go", cmd()) for _ in range(5)))
    assert {answer.state for answer in answers} <= {"done", "duplicate"}
    assert len(action.calls) == 1


async def test_a_repeated_id_gets_the_first_answer_also_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    action = Counting()
    actions = {"go": action, "fail": raising(EdgebedError("the arm is busy"))}
    commands = Commands(tmp_path, clock, actions)
    first = [await commands.handle("_", "go", cmd()), await commands.handle("_", "fail", cmd(2))]
    assert [each.state for each in first] == ["done", "failed"]
    late = cmd(ts=NOW_MS - 100_000)  # its time is over, but it ran in its time
    for again in (commands, Commands(tmp_path, clock, actions), Commands(tmp_path, clock, {})):
        assert await again.handle("_", "go", late) == first[0]
        assert await again.handle("_", "fail", cmd(2)) == first[1]
    assert len(action.calls) == 1


async def test_an_id_that_comes_again_for_another_command_is_a_duplicate(
    tmp_path: Path, clock: Clock
) -> None:
    action = Counting()
    commands = Commands(tmp_path, clock, {"go": action})
    await commands.handle("_", "ping", cmd())
    assert (await commands.handle("_", "go", cmd())).state == "duplicate"
    assert (await commands.handle("arm", "ping", cmd())).state == "duplicate"
    assert action.calls == []


async def test_an_agent_that_ended_while_a_command_ran_states_it(tmp_path: Path, clock: Clock) -> None:
    started = asyncio.Event()

    async def endless(_device: str, _args: dict[str, Any]) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    running = asyncio.create_task(Commands(tmp_path, clock, {"go": endless}).handle("_", "go", cmd()))
    await started.wait()
    fresh = Commands(tmp_path, clock, {"go": endless})  # after a kill: the file is all it has
    for _ in range(2):
        answer = await fresh.handle("_", "go", cmd())
        assert (answer.state, answer.err_code) == ("failed", "command-interrupted")
    running.cancel()


async def test_steps_are_answered_only_where_they_are_asked_for(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.commands.LASTS_S", 0.0)
    goes_on, told, seen = asyncio.Event(), list[Res](), asyncio.Event()

    async def long(_device: str, _args: dict[str, Any]) -> dict[str, Any]:
        await goes_on.wait()
        return {}

    def tell(answer: Res) -> None:
        told.append(answer)
        if answer.state == "running":
            seen.set()

    commands = Commands(tmp_path, clock, {"go": long})
    running = asyncio.create_task(commands.handle("_", "go", cmd(steps=True), tell))
    await seen.wait()
    assert [(each.state, each.id) for each in told] == [("accepted", ulid(1)), ("running", ulid(1))]
    assert (await commands.handle("_", "go", cmd(steps=True))).state == "running"
    assert (await commands.handle("_", "go", cmd())).state == "duplicate", "as releases before this one"
    goes_on.set()
    assert (await running).state == "done"
    told.clear()
    assert (await commands.handle("_", "go", cmd(2), tell)).state == "done"
    assert (await commands.handle("_", "fly", cmd(3, steps=True), tell)).state == "rejected"
    assert told == []


async def test_the_last_ids_and_answers_are_remembered(tmp_path: Path, clock: Clock) -> None:
    commands = Commands(tmp_path, clock, {})
    for number in range(REMEMBERED + 1):
        await commands.handle("_", "ping", cmd(number))
    fresh = Commands(tmp_path, clock, {})
    assert (await fresh.handle("_", "ping", cmd(REMEMBERED))).state == "done"
    assert (await fresh.handle("_", "ping", cmd(REMEMBERED + 1 - ANSWERS))).result is not UNSET
    assert (await fresh.handle("_", "ping", cmd(REMEMBERED - ANSWERS))).state == "duplicate"
    assert (await fresh.handle("_", "ping", cmd(1))).state == "duplicate"
    assert (await fresh.handle("_", "fly", cmd(0))).state == "rejected", "it is forgotten"


async def test_a_large_result_is_not_kept(tmp_path: Path, clock: Clock) -> None:
    async def action(_device: str, _args: dict[str, Any]) -> dict[str, Any]:
        return {"x": "y" * MAX_RESULT}

    commands = Commands(tmp_path, clock, {"go": action})
    assert (await commands.handle("_", "go", cmd())).result == {"x": "y" * MAX_RESULT}
    again = await Commands(tmp_path, clock, {}).handle("_", "go", cmd())
    assert (again.state, again.result) == ("done", UNSET)


async def test_the_ids_that_an_older_release_kept_are_not_run_again(tmp_path: Path, clock: Clock) -> None:
    action = Counting()
    (tmp_path / "commands.json").write_text(f'["{ulid(1)}","{ulid(2)}"]')
    for number in (1, 2):
        commands = Commands(tmp_path, clock, {"go": action})
        assert (await commands.handle("_", "go", cmd(number))).state == "duplicate"
        assert (await commands.handle("_", "go", cmd(7))).state == "done"
    assert len(action.calls) == 1


async def test_too_late(tmp_path: Path, clock: Clock) -> None:
    action = Counting()
    commands = Commands(tmp_path, clock, {"go": action})
    assert (await commands.handle("_", "go", cmd(1, ts=NOW_MS - 10_000, ttl_ms=5_000))).state == "expired"
    assert action.calls == []
    assert (await commands.handle("_", "go", cmd(2, ts=NOW_MS - 10_000, ttl_ms=60_000))).state == "done"


@pytest.mark.parametrize(
    ("name", "error", "state", "err"),
    [
        ("unknown", None, "rejected", "unknown command 'unknown'"),
        ("go", Rejected("no such device"), "rejected", "no such device"),
        ("go", EdgebedError("the arm is busy"), "failed", "the arm is busy"),
    ],
)
async def test_refusals(
    tmp_path: Path, clock: Clock, name: str, error: Exception | None, state: str, err: str
) -> None:
    actions = {"go": raising(error)} if error else {}
    answer = await Commands(tmp_path, clock, actions).handle("_", name, cmd())
    assert (answer.state, answer.err) == (state, err)


async def test_too_large_a_result(tmp_path: Path, clock: Clock) -> None:
    async def action(device: str, args: dict[str, Any]) -> dict[str, Any]:
        return {"x": "y" * 60_000}

    answer = await Commands(tmp_path, clock, {"go": action}).handle("_", "go", cmd())
    assert (answer.state, answer.code) == ("failed", 413)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a":1}',
        b"[1,2]",
        b'{"ids":3}',
        b'{"started":{"0":7}}',
        b"[" * 100_000,
        b"\xff" * 100_000,
    ],
)
async def test_a_damaged_memory_is_forgotten(tmp_path: Path, clock: Clock, content: bytes) -> None:
    (tmp_path / "commands.json").write_bytes(content)
    commands = Commands(tmp_path, clock, {})
    first = await commands.handle("_", "ping", cmd())
    assert first.state == "done"
    assert await commands.handle("_", "ping", cmd()) == first


async def test_a_folder_that_cannot_be_written(tmp_path: Path, clock: Clock) -> None:
    commands = Commands(tmp_path / "absent", clock, {})
    first = await commands.handle("_", "ping", cmd())
    assert first.state == "done"
    assert await commands.handle("_", "ping", cmd()) == first


def test_declared(tmp_path: Path, clock: Clock) -> None:
    declared = Commands(tmp_path, clock, {"snapshot": Counting(), "rebirth": Counting()}).declared()
    assert [command.name for command in declared] == ["ping", "snapshot", "rebirth"]


async def test_each_refusal_has_a_code_beside_its_text(tmp_path: Path, clock: Clock) -> None:
    picture = Rejected("device 'cam' has no picture").coded("no-picture", device="cam")
    commands = Commands(
        tmp_path, clock, {"snapshot": raising(picture), "rebirth": raising(EdgebedError("broken"))}
    )
    answers = [
        await commands.handle("_", "fly", cmd()),
        await commands.handle("_", "ping", cmd(1, ts=NOW_MS - 120_000)),
        await commands.handle("_", "ping", cmd(2)),
        await commands.handle("cam", "ping", cmd(2)),
        await commands.handle("cam", "ping", cmd(3)),
        await commands.handle("cam", "snapshot", cmd(4)),
        await commands.handle("_", "rebirth", cmd(5)),
    ]
    assert [(answer.err_code, answer.args) for answer in answers] == [
        ("command-unknown", {"name": "fly"}),
        ("command-expired", {}),
        ("", {}),
        ("command-duplicate", {}),
        ("command-rejected", {}),
        ("no-picture", {"device": "cam"}),
        ("command-failed", {}),
    ]
    assert all(bool(answer.err) == bool(answer.err_code) for answer in answers)
