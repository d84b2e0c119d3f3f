"""Models in processes of their own: hang, crash, leak and lies end the process, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent import process_children
from agent.inference.decoders import ModelError
from agent.inference.isolation import worker, worker_process
from agent.inference.isolation.worker import Worker, WorkerLost
from agent.inference.model_cache import ModelCache
from agent.inference.package import load_package
from agent.inference.session import Scanned
from tests.polling import wait_until

ONES = np.ones((4, 2), np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelCache]:
    monkeypatch.setattr(worker, "PAUSE_S", 0.05)
    made = ModelCache(tmp_path / "gate", unsigned="process")
    yield made
    made.close()
    assert not _children(), "no process stays behind"


def opened(cache: ModelCache, folder: Path) -> Worker:
    found = cache.model(load_package(folder))
    assert isinstance(found, Worker)
    return found


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process are."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(each.readlink()))
    return found


def _children() -> set[int]:
    """The worker processes of this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread or a process that ends meanwhile
            for pid in (task / "children").read_text().split():
                if worker_process.__name__ in Path(f"/proc/{pid}/cmdline").read_text():
                    found.add(int(pid))
    return found


def summing(packages: Any, name: str = "sum") -> Path:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    return packages.write(body, name=name)


def looking(packages: Any, frame_input: Any, name: str) -> Path:
    """A model of pictures that gives their mean."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 3, 32, 32)}, outputs={"y": ()})
    return packages.write(body, name=name, input=frame_input(scale=1))


def test_results_are_those_of_a_thread_and_a_frame_is_copied_once(
    packages: Any, frame_input: Any, cache: ModelCache
) -> None:
    first, second = (opened(cache, looking(packages, frame_input, name)) for name in ("one", "two"))
    assert opened(cache, looking(packages, frame_input, "one")) is first, "two cameras share a worker"
    assert _children() == {first.pid, second.pid}
    here = cache.model(load_package(packages.folder / "one"), isolation="thread")
    assert here.fields() == first.fields()
    assert cache._workers is not None
    rng = np.random.default_rng(1)
    for index in range(7):
        shape = (240 + 8 * index, 320, 3)
        picture = rng.integers(0, 256, shape, dtype=np.uint8)
        expected = here.run_frame(picture).values
        assert first.run_frame(picture, lasting=True).values == expected
        assert second.run_frame(picture, lasting=True).values == expected
        assert cache._workers.frames.copies == index + 1
    picture[:] = 3  # not lasting, as the copy in which faces are hidden
    assert first.run_frame(picture).values == {"power": 3.0}
    with pytest.raises(ModelError, match="a picture of shape"):
        first.run_frame(np.zeros((4, 4), np.uint8))
    assert first.run_frame(picture).values == {"power": 3.0}, "a failed run costs no process"
    assert {first.pid, second.pid} == _children()
    shared = set(descriptors(first.pid)) & set(descriptors(os.getpid()))
    assert not {each for each in shared if each.startswith(("socket:", "pipe:"))}, "none of the agent's"
    assert os.getpriority(os.PRIO_PROCESS, first.pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert Path(f"/proc/{first.pid}/oom_score_adj").read_text().strip() == "1000"


def test_a_model_that_hangs_is_killed_and_another_one_goes_on(
    packages: Any, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = opened(cache, packages.write(packages.hanging(above=1_000.0), name="hang"))
    other = opened(cache, summing(packages))
    pid = hanging.pid
    assert hanging.run_window(ONES).values == {"power": 1.0}
    monkeypatch.setattr(worker, "SILENT_S", 1.0)
    caught: list[ModelError] = []

    def hang() -> None:
        try:
            hanging.run_window(ONES * 2_000)
        except ModelError as error:
            caught.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    rows = 0
    while thread.is_alive():
        assert other.run_window(ONES * rows).values == {"power": 8.0 * rows}
        rows += 1
    assert rows > 3, "the other model gives results while this one hangs"
    assert caught[0].reason_code == "model-worker-killed"
    assert str(caught[0]) == "no answer for 1 s: its process was ended"
    assert not Path(f"/proc/{pid}").exists()
    monkeypatch.setattr(worker, "SILENT_S", 60.0)
    assert hanging.run_window(ONES).values == {"power": 1.0}
    assert hanging.pid not in (0, pid)


def test_three_deaths_refuse_the_package_until_it_changes(
    packages: Any, cache: ModelCache, tmp_path: Path
) -> None:
    folder = summing(packages)
    crashing = opened(cache, folder)
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL):
        assert crashing.run_window(ONES).values == {"power": 8.0}
        os.kill(crashing.pid, number)
        wait_until(lambda: _ended(crashing.pid))
        with pytest.raises(WorkerLost, match=rf"its process ended \({number.name}\)") as caught:
            crashing.run_window(ONES)
    assert caught.value.reason_code == "model-refused-deaths"
    assert caught.value.reason_args == {"deaths": 3}
    assert crashing.pid == 0
    with pytest.raises(WorkerLost, match="it is refused until its package changes"):
        crashing.run_window(ONES)
    with pytest.raises(ModelError, match="refused until its package changes"):
        cache.model(load_package(folder))
    after_restart = ModelCache(tmp_path / "gate", unsigned="process")
    with pytest.raises(ModelError, match="refused until its package changes") as caught_again:
        after_restart.model(load_package(folder))
    assert caught_again.value.reason_code == "model-refused-deaths"
    with pytest.raises(ModelError, match="refused until its package changes"):
        after_restart.model(load_package(folder), isolation="thread")
    os.utime(folder / "model.onnx")  # it was written again
    after_restart.keep([])
    assert after_restart.model(load_package(folder)).run_window(ONES).values == {"power": 8.0}
    after_restart.close()


def _ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_deaths_that_are_an_hour_apart_do_not_add_up(
    packages: Any, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = opened(cache, summing(packages))
    monkeypatch.setattr(worker, "DEATHS", 2)
    for _ in range(2):
        os.kill(crashing.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="SIGKILL"):
            crashing.run_window(ONES)
        crashing._died_s -= 4_000.0
        assert crashing.run_window(ONES).values == {"power": 8.0}


def test_a_process_that_takes_too_much_memory_is_ended(
    packages: Any, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model makes a tensor as long as its largest input; onnxruntime keeps that memory."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Abs", ["whole"], ["positive"]),
        helper.make_node("Unsqueeze", ["positive", "zero"], ["length"]),
        helper.make_node("ConstantOfShape", ["length"], ["long"]),
        helper.make_node("ReduceSum", ["long"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["nothing", "largest"], ["y"]),
    ]
    body = packages.model(
        nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants={"zero": np.array([0])}
    )
    leaking = opened(cache, packages.write(body, name="leak"))
    monkeypatch.setattr(worker, "_LOOK_S", 0.0)
    mb = process_children.private_mb(leaking.pid)
    leaking._limit_mb = mb + 100
    assert leaking.run_window(ONES).values == {"power": 1.0}
    pid = leaking.pid

    def leak() -> None:
        for millions in range(1, 100):
            leaking.run_window(ONES * millions * 1e6)

    with pytest.raises(WorkerLost, match="MB are allowed: it was ended") as caught:
        leak()
    assert caught.value.reason_code == "model-worker-memory"
    assert caught.value.reason_args["mb"] > caught.value.reason_args["limit_mb"]
    assert not Path(f"/proc/{pid}").exists()
    assert leaking.run_window(ONES).values == {"power": 1.0}


# what a model that has taken its process over can send; it gets the number of the socket
LIES = {
    "garbage": "channel.send(b'\\xc1')",
    "empty": "channel.send(b'')",
    "too much": "channel.send(b'x' * 200_000)",
    "unknown job": "channel.send(packet(Answer(99, why='?')))",
    "twice": "channel.send(packet(Answer(1, why='once'))); channel.send(packet(Answer(1, why='twice')))",
    "unasked": "pass",
    "not declared": "channel.send(packet(Answer(1, result=Result({'other': 1.0}))))",
    "descriptors": "socket.send_fds(channel, [b'\\xc1'], [0, 1, 2])",
    "exit": "os._exit(3)",
    "closed": "channel.close(); import time; time.sleep(600)",
}
LIAR = """
import os, socket, sys
from agent.inference.decoders import Result
from agent.inference.isolation.worker_wire import Answer, Opened, packet
from wire.messages import Field
FIELDS = {"power": Field(t="f32", unit="W", dec=1)}
channel = socket.socket(fileno=int(sys.argv[1]))
channel.recv(200_000)
channel.send(packet(Opened(provider="CPUExecutionProvider", fields=FIELDS)))
if sys.argv[2] == "unasked":
    channel.send(packet(Answer(0, why="unasked")))
channel.recv(200_000)
LIE
channel.recv(200_000)
"""


def test_a_process_that_lies_is_ended_and_counted(
    packages: Any, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = opened(cache, summing(packages))
    spawn, lie = worker.Workers.spawn, ""

    def spawn_liar(self: worker.Workers, command: list[str], channel: Any) -> Any:
        script = LIAR.replace("LIE", LIES[lie])
        return spawn(self, [command[0], "-c", script, str(channel.fileno()), lie], channel)

    monkeypatch.setattr(worker.Workers, "spawn", spawn_liar)
    os.kill(liar.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        liar.run_window(ONES)
    before = len(descriptors(os.getpid()))
    for lie in LIES:
        liar._number, liar._deaths = 0, 1
        if lie == "twice":
            with pytest.raises(ModelError, match="once"):
                liar.run_window(ONES)
        with pytest.raises(WorkerLost) as caught:
            liar.run_window(ONES)
        died = lie in ("exit", "closed", "empty")
        assert caught.value.reason_code == ("model-worker-died" if died else "model-worker-answer"), lie
        assert (liar._deaths, liar.pid) == (2, 0), lie
        assert len(descriptors(os.getpid())) == before, f"{lie}: descriptors that it sent are closed"


def test_a_folder_whose_name_is_not_text_is_opened(packages: Any, cache: ModelCache) -> None:
    folder = summing(packages).rename(packages.folder / os.fsdecode(b"\xff"))
    assert opened(cache, folder).run_window(ONES).values == {"power": 8.0}


AGENT = """
import sys, threading
from pathlib import Path
import numpy as np
from agent.inference.model_cache import ModelCache
from agent.inference.package import load_package
model = None
def start():
    global model
    model = ModelCache(Path(sys.argv[2]), unsigned="process").model(load_package(Path(sys.argv[1])))
starting = threading.Thread(target=start)  # the kernel ends a child with the thread that started it
starting.start()
starting.join()
assert model.run_window(np.ones((4, 2), np.float32)).values
print(model.pid, flush=True)
model.run_window(np.full((4, 2), 2_000, np.float32))
"""


def test_no_process_survives_an_agent_that_is_killed(packages: Any, tmp_path: Path) -> None:
    """Also one that hangs in its model, and does not look at its socket."""
    folder = packages.write(packages.hanging(above=1_000.0))
    command = [sys.executable, "-c", textwrap.dedent(AGENT), str(folder), str(tmp_path / "gate")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        agent.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker ends with its agent")


def test_a_model_that_is_not_needed_any_more_ends_and_others_stay(packages: Any, cache: ModelCache) -> None:
    first, second = (opened(cache, summing(packages, name)) for name in ("one", "two"))
    gone = first.pid
    cache.keep([second])
    wait_until(lambda: not Path(f"/proc/{gone}").exists())
    assert second.run_window(ONES).values == {"power": 8.0}
    with pytest.raises(WorkerLost, match="it was stopped"):
        first.run_window(ONES)
    assert opened(cache, packages.folder / "one").run_window(ONES).values == {"power": 8.0}
    cache.close()
    with pytest.raises(WorkerLost, match="it was stopped"):
        second.run_window(ONES)
    with pytest.raises(ModelError):
        ModelCache.model(cache, load_package(summing(packages, "three")))


def test_a_state_goes_round_in_its_stream_and_begins_again_with_its_process(
    packages: Any, cache: ModelCache
) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["now"], keepdims=0),
        helper.make_node("Add", ["now", "before"], ["y"]),
        helper.make_node("Identity", ["y"], ["after"]),
    ]
    body = packages.model(
        nodes, inputs={"x": (1, 4, 2), "before": (1, 1)}, outputs={"y": (1, 1), "after": (1, 1)}
    )
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4, "hop": 4}
    adding = opened(cache, packages.write(body, input={**window, "state": {"before": "after"}}))
    # what the scan found can be more than fits a packet: the worker scans the file again
    adding.scanned = Scanned([(0, 0, b"x" * 200_000)])
    assert adding.stateful

    def sums(stream: str, *ends: int) -> list[Any]:
        return [adding.run_window(ONES, stream, end).values["power"] for end in ends]

    assert sums("one", 4, 8) == [8.0, 16.0]
    assert sums("two", 4) == [8.0], "cameras that share a worker do not share a state"
    assert sums("one", 12) == [24.0]
    os.kill(adding.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        sums("one", 16)
    assert sums("one", 20) == [8.0]


def test_a_stop_ends_a_model_that_hangs(packages: Any, cache: ModelCache) -> None:
    hanging = opened(cache, packages.write(packages.hanging(above=1_000.0)))
    caught: list[str] = []

    def hang() -> None:
        try:
            hanging.run_window(ONES * 2_000)
        except WorkerLost as error:
            caught.append(str(error))

    thread = threading.Thread(target=hang)
    thread.start()
    wait_until(lambda: process_children.running_cpu_s() > 0 and hanging._lock.locked())
    cache.close()
    thread.join(60)
    assert caught == ["it was stopped"]


def test_a_stop_ends_a_process_that_does_not_open_its_model(
    packages: Any, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, started = worker.Workers.spawn, threading.Event()

    def spawn_silent(self: worker.Workers, command: list[str], channel: Any) -> Any:
        process = spawn(self, [command[0], "-c", "import time; time.sleep(600)"], channel)
        started.set()
        return process

    monkeypatch.setattr(worker.Workers, "spawn", spawn_silent)
    caught: list[str] = []

    def open_it() -> None:
        try:
            opened(cache, summing(packages))
        except ModelError as error:
            caught.append(str(error))

    thread = threading.Thread(target=open_it)
    thread.start()
    assert started.wait(60)
    cache.close()
    thread.join(60)
    assert not thread.is_alive(), "it does not wait for the 90 s that a model may take to open"
    assert len(caught) == 1


def test_a_package_that_changed_meanwhile_is_not_opened_again(packages: Any, cache: ModelCache) -> None:
    changed = opened(cache, summing(packages))
    os.kill(changed.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        changed.run_window(ONES)
    (packages.folder / "sum" / "model.onnx").write_bytes(b"another file")
    with pytest.raises(WorkerLost, match="the manifest has"):
        changed.run_window(ONES)
