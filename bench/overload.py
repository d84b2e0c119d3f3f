"""Overload: twice what a slow collector can store arrives: what health and nodes say, and what is stored.

`python -m bench.overload [--seconds S] [--nodes N] [--factor F] [--broker nats]` prints it each second.
The collector is a real one whose writer sleeps for each message, as on a slow disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebed.broker import KINDS, BrokerProcess, Kind, free_port
from edgebed.drill.check import kept
from edgebed.fleet.site import require_files
from edgebed.processes import Child, edgebed_command

FLOODS = 0.02  # share of nodes that send 20 times as often
FLEET = "acme/trial/hall"


@dataclass(frozen=True, kw_only=True)
class Case:
    """`factor` is what arrives through what can be stored, without what flooding nodes send."""

    broker: Kind = "mosquitto"
    nodes: int = 200
    rate: float = 2.0
    factor: float = 2.0
    seconds: float = 120.0
    drain_s: float = 600.0
    flood: float = 0.0
    faster: float = 1.0  # the limits of the collector, in seconds, are divided by it

    @property
    def stores_per_s(self) -> float:
        """What the collector can store, messages a second."""
        return self.nodes * self.rate / self.factor


@dataclass
class Seen:
    """What was seen: health each second, and what the fleet measured."""

    health: list[dict[str, Any]] = field(default_factory=list)
    nodes: dict[str, set[str]] = field(default_factory=dict)  # code of a reason -> nodes that had it
    figures: dict[str, Any] = field(default_factory=dict)
    stored: int = 0
    doubled: int = 0
    log: str = ""

    def codes(self) -> set[str]:
        """The codes of all problems of the collector."""
        return {one["code"] for each in self.health for one in each["problems"]}

    def first_s(self, state: str) -> float | None:
        """Seconds from the first overfull second to this state; None when it never came."""
        found = (float(each["at_s"]) for each in self.health if each["overload"]["state"] == state)
        return next(found, None)

    @property
    def oldest_s(self) -> float:
        """The longest wait that health reported."""
        return max(float(each["overload"]["oldest_s"]) for each in self.health)


def slow_collector(config: Path, stores_per_s: float, faster: float) -> int:
    """Run a collector whose writer needs this long for each message, besides its real work."""
    from collector import app
    from collector.config import load
    from collector.ingest import backlog
    from collector.ingest.inbox import Inbox
    from wire.clock import Clock

    take = Inbox.take

    def slowly(self: Inbox, most: int) -> Any:
        found = take(self, most)
        time.sleep(len(found) / stores_per_s)
        return found

    for name in (
        "SLOW_S",
        "REFUSE_S",
        "PROMPT_S",
        "CALM_S",
        "CALM_REFUSED_S",
        "HOLD_S",
        "ROOM_S",
        "MARGIN_S",
    ):
        setattr(backlog, name, getattr(backlog, name) / faster)
    Inbox.take = slowly  # type: ignore[method-assign]
    return app.run(load(config), Clock(), lambda url: print(url, flush=True))


def measure(case: Case, folder: Path, show: Callable[[dict[str, Any]], None] = lambda _: None) -> Seen:
    """Run one overload from its start until all is stored and health is `ok` again."""
    require_files(case.nodes)
    seen = Seen()
    with ExitStack() as stack:
        broker = BrokerProcess(case.broker, folder / "broker", persistent=False)
        stack.callback(broker.kill)
        broker.start()
        port = free_port()
        config = folder / "collector.yaml"
        config.write_text(
            f"store: {folder / 'store'}\nbroker: {{url: '{broker.url}'}}\nhttp: {{port: {port}}}\n"
        )
        command = [sys.executable, "-m", "bench.overload", "--collector", str(config)]
        collector = Child(
            "collector", [*command, str(case.stores_per_s), str(case.faster)], folder / "collector.log"
        )
        stack.callback(collector.kill)
        collector.start()
        collector.first_line()
        figures = folder / "fleet.json"
        options = {
            "nodes": case.nodes, "rate": case.rate, "for": case.seconds, "drain": case.drain_s,
            "broker": broker.url, "site": FLEET, "heartbeat": 5, "custody": 0, "flood": case.flood,
            "json": figures, "collector-pid": collector.pid, "broker-pid": broker.pid,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        fleet = Child("fleet", edgebed_command("sim", "fleet", *words), folder / "fleet.log")
        stack.callback(fleet.kill)
        fleet.start()
        for each in _until_calm(port, fleet, case):
            seen.health.append(each)
            _note_nodes(port, seen)
            show(each)
        if fleet.process is None or fleet.process.wait(60) != 0:
            raise RuntimeError(f"the fleet failed: {fleet.tail()}")
        seen.figures = json.loads(figures.read_text())
        collector.stop()
        seen.log = collector.log.read_text()
        held = kept(folder / "store").values()
        seen.stored, seen.doubled = (
            sum(len(one.stored) for one in held),
            sum(len(one.doubled) for one in held),
        )
    return seen


def _until_calm(port: int, fleet: Child, case: Case) -> Iterator[dict[str, Any]]:
    """Health once a second, until the fleet has ended and nothing waits."""
    began_s = 0.0
    end_s = time.monotonic() + case.seconds + case.drain_s + 120
    while time.monotonic() < end_s:
        health = _ask(port, "health")
        began_s = began_s or (time.monotonic() if health["received"] else 0.0)
        health["at_s"] = round(time.monotonic() - began_s, 1) if began_s else 0.0
        yield health
        if not fleet.pid and health["overload"]["state"] == "none" and not health["backlog"]:
            return
        time.sleep(1.0)
    raise RuntimeError(f"the collector is still overloaded: {health}")


def _note_nodes(port: int, seen: Seen) -> None:
    for node in _ask(port, "fleet")["nodes"]:
        for problem in node["trouble"]:
            code = problem.get("reason", {}).get("code", problem["code"])
            seen.nodes.setdefault(code, set()).add(node["node"])


def _ask(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=60) as answer:
        return json.load(answer)


def _line(health: dict[str, Any]) -> str:
    overload = health["overload"]
    codes = ",".join(one["code"] for one in health["problems"])
    rates = f"{overload['arriving']:7.0f}/s arrive{overload['stored']:7.0f}/s stored"
    waits = f"oldest {overload['oldest_s']:5.1f} s  {overload['nodes']:4} nodes wait"
    return (
        f"{health['at_s']:6.1f} s  {overload['state']:9}{rates}  factor {overload['factor']:5.2f}  {waits}"
        f"  refused {health['refused']:7}  {health['state']} {codes}"
    )


def main() -> int:
    """Run one case and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--collector", nargs=3, metavar=("CONFIG", "PER_S", "FASTER"), help="the slow collector itself"
    )
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--flood", type=float, default=0.0)
    parser.add_argument("--broker", choices=KINDS, default="mosquitto")
    given = vars(parser.parse_args())
    if given["collector"]:
        import logging

        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
        )
        config, *numbers = given["collector"]
        return slow_collector(Path(config), *map(float, numbers))
    del given["collector"]
    case = Case(**given)
    with tempfile.TemporaryDirectory(prefix="edgebed-overload-") as name:
        seen = measure(case, Path(name), lambda health: print(_line(health), flush=True))
    print(seen.log)
    for code, nodes in sorted(seen.nodes.items()):
        print(f"nodes that said {code}: {len(nodes)}")
    print(json.dumps(seen.figures, indent=1))
    print(f"stored {seen.stored} of {seen.figures['offered']}, doubled {seen.doubled}")
    return int(seen.stored != seen.figures["offered"] or seen.doubled > 0)


if __name__ == "__main__":
    sys.exit(main())
