"""Measure the daemon: time from start to READY (by systemd's notify protocol), PSS and RSS, CPU and wake-ups.

A wake-up is a voluntary context switch of a thread: it waited and goes on. The peer of CPU and wake-ups is a
hand-written loop for this one device and this one model, without an outbox.
"""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from simulators.plants.cobot import SIGNALS, Cobot
from wire.shipped import folder

SETTLE_S = 10.0  # models and uplink run for this time before memory is read
WORK_S = 10.0  # of one measurement of CPU and wake-ups
ROUNDS = 5  # measurements of the agent and of the hand-written loop, alternating

# Hand-written code for this one device and this one model: a row every 20 ms, a window every 25 rows, a live
# value and a message a second. No outbox, no checks of rows, no reconnect; the model runs in the event loop.
_BY_HAND = """
import asyncio, csv, itertools, json, sys, time, aiomqtt, numpy as np, onnxruntime as ort
host, port, recording, model = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name, out = session.get_inputs()[0].name, [each.name for each in session.get_outputs()]
shape = session.get_inputs()[0].shape
async def main():
    with open(recording) as file:
        header, *rows = csv.reader(file)
    ring, batch, begin = np.zeros((100, 18), np.float32), [], time.monotonic()
    async with aiomqtt.Client(host, port) as client:
        for index, cells in enumerate(itertools.cycle(rows)):
            await asyncio.sleep(begin + index / 50 - time.monotonic())
            row = [float(cell) for cell in cells[1:]]
            ring[:-1], ring[-1] = ring[1:], row
            batch.append((time.time_ns(), row))
            if index > 100 and index % 25 == 0:
                session.run(out, {name: ring.reshape([1, *shape[1:]])})
            if len(batch) == 50:
                await client.publish("by-hand/live", json.dumps(batch[-1]), 0, True)
                await client.publish("by-hand/data", json.dumps(batch), 1)
                batch.clear()
asyncio.run(main())
"""


def run() -> list[dict[str, Any]]:
    """Return the rows: the daemon with a sensor model, without one, with a camera and detector."""
    with tempfile.TemporaryDirectory() as name, BrokerProcess("nats", Path(name) / "broker") as broker:
        work = Path(name)
        _recording(work / "arm.csv")
        plain = _measure(work, "plain", _sensor(work, broker.url, with_model=False))
        sensor = _measure(work, "sensor", _sensor(work, broker.url, with_model=True))
        trimmed = _measure(
            work, "trimmed", {**_sensor(work, broker.url, with_model=True), "memory": {"trim": True}}
        )
        camera = _measure(work, "camera", _camera(work, broker.url))
        working = _working(work, broker)
    bare = _bare_interpreter()
    memory = [
        ("without a model", plain),
        ("with one sensor model", sensor),
        ("with one sensor model, memory.trim: true", trimmed),
        ("of a camera agent with its detector", camera),
    ]
    return [
        *(
            {"what": f"{kind} {who}", "ours": found[kind], "peer": bare[kind], "unit": "MB"}
            for who, found in memory
            for kind in ("PSS", "RSS")
        ),
        {"what": "start to READY, sensor model", "ours": sensor["ready"], "unit": "s", "limit": "<= 1.7"},
        {"what": "start to READY, camera and detector", "ours": camera["ready"], "unit": "s"},
        *working,
    ]


def _working(work: Path, broker: BrokerProcess) -> list[dict[str, Any]]:
    """Return the rows of an agent at work, with its collector, beside the hand-written loop."""
    store = ["--store", str(work / "store"), "--broker", broker.url, "--port", "0"]
    config, model = work / "working.yaml", folder("models") / "joint-anomaly/model.onnx"
    document = _sensor(work, broker.url, with_model=True)
    config.write_text(yaml.safe_dump({**document, "state": "state-working"}))
    by_hand = [sys.executable, "-c", _BY_HAND, "127.0.0.1", str(broker.port), work / "arm.csv", model]
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    with (
        Child("collector", edgebed_command("collector", "run", *store), work / "collector.log") as collector,
        ready_agent(config) as (agent, _),
        Child("by-hand", list(map(str, by_hand)), work / "by-hand.log") as peer,
    ):
        collector.first_line()
        time.sleep(SETTLE_S)
        for _ in range(ROUNDS):
            found["ours"].append(_rates(agent.pid))
            found["peer"].append(_rates(peer.pid))
    (cpu, wakes), (cpu_peer, wakes_peer) = (
        (median(each[0] for each in rates), median(each[1] for each in rates)) for rates in found.values()
    )
    what = "at 50 Hz x 18 signals with the model, beside a hand-written loop"
    return [
        {
            "what": f"CPU {what}",
            "ours": cpu,
            "peer": cpu_peer,
            "ratio": cpu / cpu_peer,
            "unit": "% of a core",
            "limit": "<= 2",
        },
        {
            "what": f"wake-ups {what}",
            "ours": wakes,
            "peer": wakes_peer,
            "ratio": wakes / wakes_peer,
            "unit": "/s",
            "limit": "<= 30",
        },
    ]


def _rates(pid: int) -> tuple[float, float]:
    """Return per cent of a core, and wake-ups per second, over `WORK_S`."""
    began_s, cpu, wakes = time.monotonic(), cpu_s(pid), wake_ups(pid)
    time.sleep(WORK_S)
    took_s = time.monotonic() - began_s
    return 100 * (cpu_s(pid) - cpu) / took_s, (wake_ups(pid) - wakes) / took_s


def _sensor(work: Path, url: str, *, with_model: bool) -> dict[str, Any]:
    replay = {"file": str(work / "arm.csv"), "time": "time", "stream": "joints", "loop": True}
    replay["fields"] = {name: name for name in SIGNALS}
    models = {"anomaly": {"package": str(folder("models") / "joint-anomaly"), "input": "arm/joints"}}
    return {
        "node": "bench/footprint/here/node-1",
        "broker": {"url": url},
        "devices": {"arm": {"adapter": "replay", "options": replay}},
        "models": models if with_model else {},
    }


def _camera(work: Path, url: str) -> dict[str, Any]:
    import cv2

    from simulators.plants.scene import Scene

    scene, pictures = Scene(5), work / "pictures"
    pictures.mkdir()
    for index in range(40):
        cv2.imwrite(str(pictures / f"{index:03}.jpg"), scene.frame(index))
    options = {"folder": str(pictures), "loop": True, "pace": "realtime"}
    return {
        "node": "bench/footprint/here/node-1",
        "broker": {"url": url},
        "devices": {"camera": {"adapter": "camera", "options": options}},
        "models": {
            "detector": {"package": str(folder("models") / "street-detector"), "input": "camera/frames"}
        },
    }


def _measure(work: Path, name: str, document: dict[str, Any]) -> dict[str, float]:
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**document, "state": f"state-{name}"}))
    _start(path)  # the gate's verdict is cached by hash, as in a daemon's usual start
    return _start(path)


def _start(config: Path) -> dict[str, float]:
    with ready_agent(config) as (process, ready):
        time.sleep(SETTLE_S)
        return {"ready": ready, **memory_mb(process.pid)}


@contextmanager
def ready_agent(config: Path, *command: str) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start an agent (by `command` if given); yield it and the seconds until it sent READY."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"{name}/notify")
        notify.settimeout(60)
        began = time.monotonic()
        process = subprocess.Popen(
            command or edgebed_command("agent", "run", str(config)),
            env={**os.environ, **_bytecode(), "NOTIFY_SOCKET": f"{name}/notify"},
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            yield process, time.monotonic() - began
        finally:
            process.terminate()
            process.wait(30)


def _bytecode() -> dict[str, str]:
    """Return the environment of an installed daemon: compiling at each start takes memory and time."""
    folder = Path(tempfile.gettempdir()) / f"edgebed-bench-bytecode-{os.getuid()}"
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder)}


def _recording(path: Path) -> None:
    block: np.ndarray[Any, Any] = Cobot(seed=3).block(0, 500)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", *SIGNALS])
        writer.writerows([index / 50, *map(float, row)] for index, row in enumerate(block))


def _bare_interpreter() -> dict[str, float]:
    """Return the memory of a process that imports the libraries and does nothing."""
    script = "import numpy, onnxruntime, msgspec, yaml, paho.mqtt.client; print(flush=True); input()"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, **_bytecode()}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = memory_mb(process.pid)
        process.communicate(b"\n")
    return found


def memory_mb(pid: int) -> dict[str, float]:
    """Return PSS and RSS of a process in MiB; PSS shares a page among the processes that map it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return {"PSS": int(sizes["Pss"]) / 1024, "RSS": int(sizes["Rss"]) / 1024}


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used so far, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wake_ups(pid: int) -> int:
    """Return how often the threads that a process has now waited and went on."""
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                count += int(line.split()[1])
    return count


if __name__ == "__main__":
    from bench.__main__ import table

    print(table(run()))
