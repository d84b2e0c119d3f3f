"""The broker and the collector that a fleet starts for itself, and the check of what they stored."""

from __future__ import annotations

import json
import resource
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgebed.broker import BrokerProcess, Kind, free_port
from edgebed.drill.check import kept
from edgebed.fleet.node import FleetNode
from edgebed.processes import Child, edgebed_command
from wire.errors import ConfigError, TryAgain

_FILES = 200  # that this process needs beside its connections
_START_S = 60.0


def require_files(connections: int) -> None:
    """Raise the limit of open files to what the connections need; the broker inherits it.

    Raises:
        ConfigError: the hard limit is lower.
    """
    needed = connections + _FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{connections:,} connections need {needed:,} open files, and this process may open {hard:,}:"
            f" raise the hard limit (LimitNOFILE, `ulimit -Hn`), or share connections with"
            f" --connections {max(1, (hard - _FILES) // 2)}"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@dataclass
class OwnSite:
    """A broker and a collector on loopback in a temporary folder."""

    folder: Path
    broker: BrokerProcess
    collector: Child

    @property
    def pids(self) -> dict[str, int]:
        """The process ids by role."""
        return {"broker": self.broker.pid, "collector": self.collector.pid}

    def check(self, nodes: list[FleetNode]) -> tuple[int, list[str]]:
        """Stop the collector and read its store without the collector's code.

        Returns the number of stored messages, and a sentence for each node whose acknowledged messages are
        not stored exactly once.
        """
        self.collector.stop()
        held = kept(self.folder / "store")
        stored, wrong = 0, []
        for node in nodes:
            of = held.get((str(node.address), node.ep))
            numbers = set() if of is None else of.stored
            stored += len(numbers)
            absent = [number for number in node.acknowledged_numbers() if number not in numbers]
            if absent:
                wrong.append(
                    f"{node.address}: {len(absent)} acknowledged messages are not stored, e.g. {absent[:3]}"
                )
            if of is not None and of.doubled:
                few = of.doubled[:3]
                wrong.append(f"{node.address}: {len(of.doubled)} messages are stored twice, e.g. {few}")
        return stored, wrong


@contextmanager
def own_site(kind: Kind) -> Iterator[OwnSite]:
    """Start both and wait until the collector is connected; end them and remove the folder afterwards.

    Raises:
        EdgebedError: one of them does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgebed-fleet-")))
        broker = BrokerProcess(kind, folder / "broker", persistent=False)
        stack.callback(broker.kill)  # the folder is removed: an orderly end would only take time
        broker.start()
        port = free_port()
        command = edgebed_command(
            "collector", "run", "--store", str(folder / "store"), "--broker", broker.url, "--port", str(port)
        )
        collector = Child("the collector", command, folder / "collector.log")
        stack.callback(collector.kill)
        collector.start()
        collector.first_line()
        until_s = time.monotonic() + _START_S
        while not _is_online(port):
            if time.monotonic() > until_s:
                raise TryAgain(f"the collector does not connect to the broker: {collector.tail()}")
            time.sleep(0.05)
        yield OwnSite(folder, broker, collector)


def _is_online(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health", timeout=10) as answer:
        state: str = json.load(answer)["broker"]["state"]
    return state == "online"
