"""The commands in `state.db`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from collector.state import commands
from collector.state.audit import Audit, AuditEntry
from collector.state.commands import CommandRecord, CommandRecords, OtherCommand, TooManyCommands, kept_answer
from collector.state.state_file import StateDamaged, StateFile
from wire.codec import decode, encode
from wire.messages import Cmd, Res

NODE, OTHER = "acme/trial/hall/cobot-01", "hanbit/trial/hall/cobot-02"
ENTRY = AuditEntry(5, "kim", "command", NODE, "127.0.0.1", "queued", NODE)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    with closing(StateFile(tmp_path, owns_store=True)) as found:
        yield found


def wanted(number: int, node: str = NODE, name: str = "ping", state: str = "queued") -> CommandRecord:
    return CommandRecord(
        node, f"{number:026}", "_", name, {"a": [1, 2.5, None]}, "kim", 1_000, 60_000, state, [(state, 1_000)]
    )


def ended(record: CommandRecord) -> CommandRecord:
    return msgspec.structs.replace(record, state="done", by_node=True)


def test_a_command_is_kept_with_its_entry_over_a_restart(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        made, is_new = CommandRecords(state).add(wanted(1), ENTRY)
        assert is_new
    with closing(StateFile(tmp_path, owns_store=True)) as state:
        records = CommandRecords(state)
        assert records.get(NODE, made.id) == made
        assert records.open() == [made]
        assert records.get(OTHER, made.id) is None
        assert [(each.what, each.result) for each in Audit(state).newest(9)] == [("command", "queued")]
        answer = kept_answer(Res(id=made.id, state="done", ts=9, result={"pong": 3}))
        done = msgspec.structs.replace(
            made, state="done", sent_ms=7, by_node=True, answer=answer, changes=[("queued", 1), ("done", 9)]
        )
        records.save(done, ENTRY)
        assert records.get(NODE, made.id) == done
        assert records.open() == []
        assert done.answer == {"code": 0, "err": "", "err_code": "", "args": {}, "result": {"pong": 3}}
    message = decode(encode(made.message()), Cmd)
    assert (message.id, message.args, message.by, message.steps) == (made.id, made.args, "kim", True)


def test_one_id_is_one_command(state: StateFile) -> None:
    records = CommandRecords(state)
    made, _ = records.add(wanted(1), ENTRY)
    later = msgspec.structs.replace(wanted(1), ts=5_000, by="lee")
    assert records.add(later, ENTRY) == (made, False)
    assert len(Audit(state).newest(9)) == 1
    for name, value in {"name": "rebirth", "device": "arm", "args": {}, "ttl_ms": 5}.items():
        with pytest.raises(OtherCommand, match="another command"):
            records.add(msgspec.structs.replace(wanted(1), **{name: value}), ENTRY)
    assert records.add(wanted(1, OTHER), ENTRY)[1], "another node's ids are its own"


def test_what_has_not_ended_is_bounded_and_never_dropped(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_OPEN", 3)
    monkeypatch.setattr(commands, "MAX_OPEN_TENANT", 5)
    monkeypatch.setattr(commands, "MAX_OF_NODE", 2)
    monkeypatch.setattr(commands, "MAX_ALL", 3)
    records = CommandRecords(state)
    for number in range(3):
        records.add(wanted(number), ENTRY)
    with pytest.raises(TooManyCommands, match=f"{NODE} has 3 commands that have not ended"):
        records.add(wanted(9), ENTRY)
    sibling = "acme/trial/hall/cobot-09"
    for number in range(2):
        records.add(wanted(number, sibling), ENTRY)
    with pytest.raises(TooManyCommands, match="acme has 5 commands"):
        records.add(wanted(9, sibling), ENTRY)
    assert records.add(wanted(1, OTHER), ENTRY)[1], "another tenant has room"
    assert len(records.open()) == 6


def test_the_oldest_that_ended_go_first_those_of_the_largest_tenant(
    state: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "MAX_OF_NODE", 4)
    monkeypatch.setattr(commands, "MAX_ALL", 6)
    records = CommandRecords(state)

    def numbers(node: str) -> list[int]:
        return [int(each.id) for each in records.newest(node, 99)]

    for number in range(8):
        records.save(ended(records.add(wanted(number), ENTRY)[0]))
    assert numbers(NODE) == [7, 6, 5, 4]
    for number in range(3):
        records.save(ended(records.add(wanted(number, OTHER), ENTRY)[0]))
    assert (numbers(NODE), numbers(OTHER)) == ([7, 6, 5], [2, 1, 0])
    before = records.newest(OTHER, 2)[-1].n
    assert [int(each.id) for each in records.newest(OTHER, 2, before=before)] == [0]


def test_a_large_result_is_not_kept() -> None:
    found = kept_answer(Res(id="0" * 26, state="done", ts=9, result={"x": "y" * commands.MAX_RESULT}))
    assert found["result_bytes"] > commands.MAX_RESULT
    assert "result" not in found


@pytest.mark.parametrize("column", ["args", "changes", "answer"])
def test_a_damaged_row_is_named(state: StateFile, column: str) -> None:
    records = CommandRecords(state)
    made, _ = records.add(wanted(1), ENTRY)
    with state.transaction() as db:
        db.execute(f"UPDATE command SET {column} = '[7'")  # noqa: S608 - the words above
    for read in (records.open, lambda: records.get(NODE, made.id), lambda: records.newest(NODE, 9)):
        with pytest.raises(StateDamaged, match="the table command is damaged"):
            read()
