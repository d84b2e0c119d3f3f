"""What one batch passes from the adapter to the page: functions, files and types of this project.

`python -m bench.hops` prints a table; `--list` names everything that was counted.

The script plays a device, which sends ten lines over TCP, and a page, which reads the collector's events.
Between them run `edgebed agent run` (serial adapter, no model, no live values), a real broker and `edgebed
collector run`: each command in a process of its own, with a profile function in every thread.

Method: after three batches to warm up come windows of equal length, half of them quiet. In a quiet window the
device sends nothing, in the others it sends one batch. Each window counts the calls of each call path: the
chain of this project's functions from the one that the event loop or the thread called to the one called
last. A path counts if a batch causes a call of it: if most windows with a batch have more calls than the
median of the quiet ones. Every function on such a path counts. So the start does not count, nor do timers,
which run as often in quiet windows. A loop that hands the batch on does count. Two runs may differ by a few
functions.

A type counts if a counted function is its method. A type that carries data (Struct, dataclass, NamedTuple)
counts as well if a counted function takes or returns an instance, alone or in a container. Comprehensions are
part of the function around them. Generated code, as the methods of a dataclass, does not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from statistics import median
from types import CodeType, FrameType
from typing import Any

import msgspec
import yaml

from edgebed.broker import KINDS, BrokerProcess, Kind
from wire.clock import NS_PER_S, Clock

PACKAGES = ("wire", "adapters", "agent", "collector", "edgebed")
NODE = "acme/bench/hall/node-1"
WINDOWS = 8  # of each kind
WINDOW_S = 2.9  # a batch waits for a second at most, and so does the news of it; about whole seconds in all
LINES = 10

_ROOT = Path(__file__).resolve().parents[1]
# what calls these is the start of the program
_LOOPS = ("asyncio.events", "asyncio.base_events", "asyncio.runners")
_HELD = 5  # objects of a container that are looked at
_INLINED = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")

_DATA = " (data)"  # the end of the name of a type that carries data

CallPath = tuple[str, ...]  # `file:function` from the first called to the last


@dataclasses.dataclass
class Seen:
    """What one window saw."""

    calls: Counter[CallPath] = dataclasses.field(default_factory=Counter)
    types: dict[CallPath, set[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Found:
    """What a batch passes in one process, or in several."""

    functions: set[str] = dataclasses.field(default_factory=set)
    types: set[str] = dataclasses.field(default_factory=set)

    @property
    def files(self) -> set[str]:
        """Those of the functions."""
        return {name.partition(":")[0] for name in self.functions}

    def row(self) -> tuple[int, int, int, int]:
        """Functions, files, types, and how many of these are data."""
        data = sum(name.endswith(_DATA) for name in self.types)
        return len(self.functions), len(self.files), len(self.types), data


def main(arguments: Sequence[str]) -> None:
    """Trace, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.hops", description=str(__doc__).splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name every function and type")
    parser.add_argument("--broker", choices=KINDS, default="nats")
    asked = parser.parse_args(arguments)
    found = trace(asked.broker)
    functions = set[str]().union(*(each.functions for each in found.values()))
    types = set[str]().union(*(each.types for each in found.values()))
    print("| process | functions | files | types | of these data |\n|---|---|---|---|---|")
    for name, each in {**found, "together": Found(functions, types)}.items():
        print(f"| {name} | " + " | ".join(map(str, each.row())) + " |")
    if asked.list:
        for name, each in found.items():
            _print_all(name, each)


def _print_all(process: str, found: Found) -> None:
    by_file: dict[str, list[str]] = defaultdict(list)
    for name in sorted(found.functions):
        file, _, function = name.partition(":")
        by_file[file].append(function)
    print(f"\n{process}")
    for file, functions in by_file.items():
        print(f"  {file}: {', '.join(functions)}")
    print("  types: " + ", ".join(sorted(found.types)))


# --- the installation


def trace(kind: Kind) -> dict[str, Found]:
    """What one batch passes, by process."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(BrokerProcess(kind, work / "broker"))
        device = stack.enter_context(_Device())
        store = ["--store", str(work / "store"), "--broker", broker.url, "--port", "0"]
        collector = stack.enter_context(_traced(work, "collector", "run", *store))
        page = stack.enter_context(_Page(_first_line(work / "collector.out")))
        config = work / "agent.yaml"
        config.write_text(yaml.safe_dump(_config(work, broker, device)))
        agent = stack.enter_context(_traced(work, "agent", "run", str(config)))
        processes = {"agent": agent, "collector": collector}
        windows: dict[str, list[tuple[bool, Seen]]] = {name: [] for name in processes}
        dice = random.Random(1)
        kinds = WINDOWS * [True, False]  # whether it is quiet
        dice.shuffle(kinds)  # in turns, a timer of fifteen seconds would meet one kind alone
        for _ in range(3):
            device.send()
            page.wait_for(device.last)
        time.sleep(WINDOW_S)
        for quiet in kinds:
            time.sleep(dice.random())  # nor may one of a second keep step with the windows
            for process in processes.values():
                process.send("begin")
                process.recv()
            until_s = time.monotonic() + WINDOW_S
            if not quiet:
                device.send()
                page.wait_for(device.last)
            time.sleep(max(0.0, until_s - time.monotonic()))
            for name, process in processes.items():
                process.send("end")
                windows[name].append((quiet, Seen(*process.recv())))
        return {name: _passed(seen) for name, seen in windows.items()}


def _passed(windows: list[tuple[bool, Seen]]) -> Found:
    """What is on the call paths that a batch causes."""
    quiet = [seen.calls for is_quiet, seen in windows if is_quiet]
    with_batch = [seen.calls for is_quiet, seen in windows if not is_quiet]
    caused = []
    for path in set[CallPath]().union(*with_batch):
        usual = median(calls[path] for calls in quiet)
        if sum(calls[path] > usual for calls in with_batch) > WINDOWS / 2:
            caused.append(path)
    paths = {path[:length] for path in caused for length in range(1, len(path) + 1)}
    found = Found({path[-1] for path in paths})
    for is_quiet, seen in windows:
        if not is_quiet:
            found.types.update(*(seen.types.get(path, ()) for path in paths))
    return found


def _config(work: Path, broker: BrokerProcess, device: _Device) -> dict[str, Any]:
    options = {
        "url": f"tcp://127.0.0.1:{device.port}",
        "format": "json",
        "stream": "rows",
        "fields": {"n": {"t": "i64", "at": "n"}, "v": {"at": "v"}},
        "time_at": "t",
        "time_unit": "s",
        "first_line": True,
        "silence_s": 600,
        "timeout_s": 600,
    }
    return {
        "node": NODE,
        "broker": {"url": broker.url},
        "state": str(work / "state"),
        "devices": {
            "dev": {"adapter": "serial", "options": options, "stall_s": 600, "publish": {"live_hz": 0}}
        },
    }


@contextmanager
def _traced(work: Path, name: str, *arguments: str) -> Iterator[Connection]:
    """`edgebed NAME ARGUMENTS` with a profile function, and the line to it."""
    with (
        Listener(str(work / f"{name}.sock"), "AF_UNIX") as listener,
        (work / f"{name}.out").open("wb") as out,
    ):
        command = [
            sys.executable,
            "-m",
            "bench.hops",
            "--inside",
            str(work / f"{name}.sock"),
            name,
            *arguments,
        ]
        with (work / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        try:
            with listener.accept() as line:
                yield line
        except BaseException:
            print((work / f"{name}.log").read_text(), file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(30)


def _first_line(path: Path) -> str:
    until_s = time.monotonic() + 60
    while "\n" not in (text := path.read_text()):
        if time.monotonic() > until_s:
            raise TimeoutError(f"{path.stem} did not start: {path.with_suffix('.log').read_text()}")
        time.sleep(0.05)
    return text.splitlines()[0]


class _Device:
    """Sends lines of JSON over TCP when it is asked to."""

    def __init__(self) -> None:
        self.last = -1  # number of the last line sent
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(60)
        self._reader: socket.socket | None = None
        self.port: int = self._server.getsockname()[1]

    def send(self) -> None:
        """Send one batch; the first call sends it to the client that connects."""
        if self._reader is None:
            self._reader, _ = self._server.accept()
        at_s, lines = Clock().now_ns() / NS_PER_S, []
        for row in range(LINES):
            self.last += 1
            lines.append(json.dumps({"n": self.last, "t": at_s + row / 1000, "v": self.last / 2}) + "\n")
        self._reader.sendall("".join(lines).encode())

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.close()
        self._server.close()


class _Page:
    """The stream of a device's page."""

    def __init__(self, url: str) -> None:
        self._answer = urllib.request.urlopen(f"{url}/api/v1/stream?node={NODE}&device=dev", timeout=60)  # noqa: S310 - own server

    def wait_for(self, number: int) -> None:
        """Until the row of this number is shown; raises TimeoutError."""
        until_s, event = time.monotonic() + 60, b""
        while time.monotonic() < until_s:
            line = self._answer.readline()
            if line.startswith(b"event: "):
                event = line[7:].strip()
            elif event == b"rows" and line.startswith(b"data: ") and number in json.loads(line[6:])["f"]["n"]:
                return
        raise TimeoutError(f"row {number} did not come to the page within 60 s")

    def __enter__(self) -> _Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()


# --- in a traced process


class _Tracer:
    """A profile function for every thread; `seen` is None outside a window."""

    def __init__(self) -> None:
        self.seen: Seen | None = None
        self._names: dict[CodeType, str] = {}  # of functions of this project; "" for all others
        self._types: dict[type, str] = {}

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        seen = self.seen
        if seen is None or event not in ("call", "return") or not self._name(frame):
            return
        path = self._path(frame)
        seen.calls[path] += event == "call"
        types = seen.types.setdefault(path, set())
        types.update(self._met([value] if event == "return" else self._taken(frame)))
        if owner := self._owner(frame):
            types.add(owner)

    def _path(self, frame: FrameType | None) -> CallPath:
        path: list[str] = []
        while frame is not None and frame.f_globals.get("__name__") not in _LOOPS:
            if name := self._name(frame):
                path.append(name)
            frame = frame.f_back
        return tuple(reversed(path))

    def _name(self, frame: FrameType) -> str:
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            module = str(frame.f_globals.get("__name__"))
            ours = module.partition(".")[0] in PACKAGES and code.co_filename.endswith(".py")
            ours = ours and code.co_name not in (*_INLINED, "<module>")
            name = self._names[code] = f"{_file_of(module, code)}:{code.co_qualname}" if ours else ""
        return name

    def _owner(self, frame: FrameType) -> str:
        code = frame.f_code
        first = code.co_varnames[0] if code.co_argcount else ""
        if first not in ("self", "cls"):
            return ""
        owner = frame.f_locals.get(first)
        return self._type(owner if isinstance(owner, type) else type(owner), method=True)

    @staticmethod
    def _taken(frame: FrameType) -> Iterable[Any]:
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount
        return [frame.f_locals.get(name) for name in code.co_varnames[:count]]

    def _met(self, values: Iterable[Any]) -> Iterator[str]:
        for value in values:
            held: Iterable[Any] = ()
            if type(value) in (list, tuple, set, frozenset, deque):
                held = value
            elif type(value) is dict:
                held = value.values()
            try:
                for each in (value, *islice(held, _HELD)):
                    if name := self._type(type(each), method=False):
                        yield name
            except RuntimeError:  # another thread changes it just now
                continue

    def _type(self, kind: type, *, method: bool) -> str:
        name = self._types.get(kind)
        if name is None:
            ours = str(kind.__module__).partition(".")[0] in PACKAGES
            data = issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)
            data = data or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
            name = f"{kind.__module__}.{kind.__qualname__}{_DATA * data}" if ours else ""
            self._types[kind] = name
        return name if method or name.endswith(_DATA) else ""


def _file_of(module: str, code: CodeType) -> str:
    """The file of a module, from its package on."""
    end = "/__init__.py" if code.co_filename.endswith("__init__.py") else ".py"
    return module.replace(".", "/") + end


def _inside(address: str, arguments: Sequence[str]) -> None:
    """Run `edgebed ARGUMENTS` here; windows begin and end as `address` asks."""
    tracer, line = _Tracer(), Client(address)

    def serve() -> None:
        while True:
            try:
                asked = line.recv()
            except (EOFError, OSError):
                return
            seen, tracer.seen = tracer.seen, (Seen() if asked == "begin" else None)
            time.sleep(0.05)  # a call that another thread records just now
            line.send(None if seen is None else (seen.calls, seen.types))

    threading.Thread(target=serve, name="hops", daemon=True).start()
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    sys.argv = ["edgebed", *arguments]
    os.environ.pop("NOTIFY_SOCKET", None)
    from edgebed.cli import main as edgebed

    edgebed()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        _inside(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
