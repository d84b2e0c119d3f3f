"""An outbox gets another ep: what waits keeps its content and its order, whatever ends the renewal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.outbox import Message, Outbox, OutboxSettings, renewal
from agent.outbox.message import Message as Waiting
from wire.clock import Clock
from wire.errors import ConfigError
from wire.messages import Batch, Event
from wire.topics import NODE_ITSELF


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def opened(folder: Path, max_mb: int = 4) -> Outbox:
    return Outbox.open(folder, OutboxSettings(max_mb=max_mb), Clock())


def add(outbox: Outbox, values: Iterator[int], count: int) -> None:
    for at in range(count):
        text = f"{next(values)}"
        if at % 3 == 2:
            body: Any = Event(ts=1, type="alarm", detail={"x": text})
            outbox.append(Message("event", "arm", "alarm", body))
        else:
            body = Batch(t0=1, per=10, n=1, f={"x": [text]}, clk=0)
            outbox.append(Message("data", "arm", "joints", body))
    assert outbox.commit()


def content(outbox: Outbox) -> list[tuple[int, str, int]]:
    """What waits, in the order of its numbers: number, text, rows."""
    outbox.overtake(0)
    found = []
    for record in outbox.take_overtaken(10**6, 10**9):
        body = msgspec.json.decode(record.body)
        assert (body["ep"], body["seq"]) == (outbox.ep, record.seq)
        text = body["f"]["x"][0] if record.cls == "data" else body["detail"]["x"]
        found.append((record.seq, text, record.rows))
    return found


def used(folder: Path) -> tuple[str, list[str]]:
    """An outbox with a part acknowledged; its ep and the texts that wait."""
    outbox = opened(folder)
    add(outbox, iter(range(100)), 60)
    taken = outbox.take(20, 10**6)
    outbox.ack([(record.seq, record.seq) for record in taken])
    gone = {record.seq for record in taken}
    outbox.close()
    return outbox.ep, [str(seq - 1) for seq in range(1, 61) if seq not in gone]


def test_what_waits_has_another_ep_and_is_otherwise_the_same(folder: Path) -> None:
    ep, waiting = used(folder)
    outbox = opened(folder)
    outbox.ask_renewal()
    outbox.close()
    again = opened(folder)
    assert again.ep != ep
    assert content(again) == [(at + 1, text, 1) for at, text in enumerate(waiting)]
    assert again.head == len(waiting)
    again.close()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["outbox"]
    assert opened_ep(folder) == again.ep, "only once"


def opened_ep(folder: Path) -> str:
    outbox = opened(folder)
    outbox.close()
    return outbox.ep


def test_gaps_and_statements_of_the_old_numbers_stay_behind(folder: Path) -> None:
    outbox = opened(folder)
    add(outbox, iter(range(3)), 3)
    for kind in ("gap", "custody", "note"):
        outbox.append(Waiting("event", NODE_ITSELF, kind, Event(ts=1, type=kind, detail={"x": kind})))
    assert outbox.commit()
    outbox.ask_renewal()
    outbox.close()
    again = opened(folder)
    assert [text for _, text, _ in content(again)] == ["0", "1", "2", "note"]
    again.close()


def test_an_outbox_that_an_operator_moved_away_stays(folder: Path) -> None:
    for name in ("outbox.old", "outbox.new", "outbox.bak"):
        opened(folder.with_name(name)).close()
    outbox = opened(folder)
    outbox.ask_renewal()
    outbox.close()
    opened(folder).close()
    assert {path.name for path in folder.parent.iterdir()} == {
        "outbox",
        "outbox.old",
        "outbox.new",
        "outbox.bak",
    }


def test_an_empty_outbox(folder: Path) -> None:
    outbox = opened(folder)
    outbox.ask_renewal()
    outbox.close()
    again = opened(folder)
    assert (again.ep != outbox.ep, again.head, content(again)) == (True, 0, [])
    again.close()


@pytest.mark.parametrize("step", ["prepare", "fill", "rename 1", "rename 2", "rmtree"])
def test_whatever_ends_the_renewal_nothing_is_lost_or_doubled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ep, waiting = used(folder)
    outbox = opened(folder)
    outbox.ask_renewal()
    outbox.close()
    name, _, at = step.partition(" ")
    left = [int(at or 1)]
    owner: Any = {"rename": Path, "rmtree": shutil}.get(name, renewal)
    real = getattr(owner, name)

    def ended(*args: Any, **more: Any) -> Any:
        if name == "fill":
            real(*args, **more)
            (args[2] / "renewed").unlink()  # the crash came before it
            raise OSError(5, "ended here")
        left[0] -= 1
        if left[0] == 0 and not (name == "rmtree" and "-old" not in str(args[0])):
            raise OSError(5, "ended here")
        left[0] = max(left[0], 1) if name == "rmtree" else left[0]
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, ended)
        with pytest.raises(ConfigError):
            opened(folder)
    again = opened(folder)
    assert again.ep != ep
    assert [text for _, text, _ in content(again)] == waiting
    again.close()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["outbox"]
