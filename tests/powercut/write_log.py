"""Records what a program writes to one folder: inside this process, or in another one by strace."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.powercut.disk import Op
from wire.errors import EdgebedError

_CALLS = (
    "open,openat,creat,lseek,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,link,linkat,sendfile,copy_file_range"
)
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)")
_UNFINISHED = re.compile(r"(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_MOST_BYTES = 1 << 26  # of one write that strace prints


class Stopped(BaseException):
    """The program was killed here. It is a BaseException, because nothing runs after kill -9."""


class WriteLog:
    """The steps by which `folder` changed, in order; both recorders give the same steps.

    `folder` may be replaced by a copy of itself: the log continues.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.ops: list[Op] = []
        self.names = {path.name for path in folder.glob("*")}  # that exist now
        self.position: dict[str, int] = {}  # where the next write goes, for programs that seek before
        self.stop_at = 0  # raise `Stopped` instead of the step that would make the log as long as this

    def say(self, said: Any) -> None:
        """Note what the program reported; nothing before this point may be lost after it."""
        self.ops.append(Op("say", said=said))

    def add(self, op: Op) -> None:
        """Append a step.

        Raises:
            Stopped: the log has reached `stop_at`.
        """
        if len(self.ops) + 1 == self.stop_at:
            raise Stopped
        self.ops.append(op)
        if op.what in {"unlink", "rename"}:
            self.names.discard(op.path)
        if op.what in {"create", "rename"}:
            self.names.add(op.to or op.path)

    def opened(self, name: str, *, create: bool, empty: bool) -> None:
        """Note that a file was opened for writing."""
        if create and name not in self.names:
            self.add(Op("create", name))
        elif empty:
            self.add(Op("size", name))

    def name(self, path: Path | str) -> str | None:
        """The name in the folder; "" for the folder itself, None for a path elsewhere."""
        here = Path(path).absolute()
        if here == self.folder:
            return ""
        return here.name if here.parent == self.folder else None


@contextmanager
def recorded(log: WriteLog, *, skip: Sequence[str] = ()) -> Iterator[WriteLog]:
    """Record what this process writes through `os`. Calls in `skip` ("fsync", "fdatasync") do nothing.

    Code that does not use `os` is not seen: compare the files after the log with the folder.
    """
    before = {name: getattr(os, name) for name in _patches(log, {})}
    try:
        for name, patched in _patches(log, before).items():
            setattr(os, name, patched)
        for name in skip:
            setattr(os, name, lambda _fd: None)
        yield log
    finally:
        for name, original in before.items():
            setattr(os, name, original)


def _patches(log: WriteLog, real: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    def by_fd(fd: int) -> str | None:
        return log.name(Path(f"/proc/self/fd/{fd}").readlink())

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        name = None if isinstance(path, int) else log.name(os.fsdecode(path))
        if name:
            log.opened(name, create=bool(flags & os.O_CREAT), empty=bool(flags & os.O_TRUNC))
        return int(real["open"](path, flags, *rest, **more))

    def pwrite(fd: int, data: Any, at: int) -> int:
        if name := by_fd(fd):
            log.add(Op("write", name, at, bytes(data)))
        return int(real["pwrite"](fd, data, at))

    def ftruncate(fd: int, size: int) -> None:
        if name := by_fd(fd):
            log.add(Op("size", name, size))
        real["ftruncate"](fd, size)

    def flush(call: str) -> Callable[[int], None]:
        def flushed(fd: int) -> None:
            real[call](fd)
            if (name := by_fd(fd)) is not None:
                log.add(Op("sync", name) if name else Op("sync-folder"))

        return flushed

    def unlink(path: Any, **more: Any) -> None:
        if name := log.name(os.fsdecode(path)):
            log.add(Op("unlink", name))
        real["unlink"](path, **more)

    def rename(path: Any, to: Any, **more: Any) -> None:
        if name := log.name(os.fsdecode(path)):
            log.add(Op("rename", name, to=Path(os.fsdecode(to)).name))
        real["rename"](path, to, **more)

    return {
        "open": opened,
        "pwrite": pwrite,
        "ftruncate": ftruncate,
        "fsync": flush("fsync"),
        "fdatasync": flush("fdatasync"),
        "unlink": unlink,
        "rename": rename,
    }


def traced(
    log: WriteLog, command: Sequence[str], words: Path, *, kill_at: tuple[str, int] | None = None
) -> int:
    """Run a command under strace and append what it writes to the folder; return its exit status.

    Each write to the file `words` is a text that the program said. `kill_at` names a system call, and how
    many of them are made before the command is killed.

    Raises:
        EdgebedError: strace is missing or may not trace here.
    """
    trace = words.with_suffix(".strace")
    kill = [f"--inject={kill_at[0]}:signal=KILL:when={kill_at[1]}"] if kill_at else []
    options = ["-f", "-qq", "-y", "-xx", "-s", str(_MOST_BYTES), "-e", f"trace={_CALLS}"]
    try:
        done = subprocess.run(
            ["strace", *options, *kill, "-o", str(trace), *command],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise EdgebedError(f"strace cannot be started: {error.strerror}; install strace") from error
    if not trace.exists() or "PTRACE" in done.stderr:
        raise EdgebedError(f"strace cannot trace here: {done.stderr.strip()}; allow ptrace")
    if done.returncode > 0:
        raise EdgebedError(f"{command[0]} failed: {done.stderr.strip()}")
    try:
        with trace.open(encoding="ascii", errors="replace") as lines:
            for call, arguments, result in _calls(lines):
                _append(log, words, call, arguments, result)
    finally:
        trace.unlink()
    return done.returncode


def _calls(lines: Iterator[str]) -> Iterator[tuple[str, list[bytes], int]]:
    """Yield completed system calls. A call that a kill interrupted counts as done: the disk may have it."""
    begun: dict[str, str] = {}
    for line in lines:
        pid, _, text = line.rstrip("\n").partition(" ")
        text = text.lstrip()
        if half := _UNFINISHED.match(text):
            begun[pid] = half[1]
            continue
        if rest := _RESUMED.match(text):
            text = begun.pop(pid) + rest[1]
        found = _LINE.match(text)
        if found is None or found[3].startswith("-"):
            continue
        if found[3] == "?" and "sync" in found[1]:
            continue  # the program never knew that it ended
        arguments = [_plain(each) for each in found[2].split(", ")]
        yield found[1], arguments, int(found[3]) if found[3] != "?" else -1


def _plain(argument: str) -> bytes:
    """`"\\x41"` as its bytes, `5<\\x2f...>` as the path, anything else unchanged."""
    quoted = argument.startswith('"')
    inner = argument.strip('"') if quoted else argument.partition("<")[2].removesuffix(">")
    if not inner and not quoted:
        return argument.encode()
    return bytes.fromhex(inner.replace("\\x", "")) if inner.startswith("\\x") else inner.encode()


def _append(log: WriteLog, words: Path, call: str, arguments: list[bytes], result: int) -> None:
    if call == "write" and arguments[0] == os.fsencode(words):
        log.say(arguments[1].decode())
        return
    at = 1 if call.endswith("at") or call == "renameat2" else 0
    name = log.name(os.fsdecode(arguments[at]))
    if name is None or name.endswith("-shm"):  # SQLite's shared memory: made again at every start
        return
    if call in {"open", "openat"}:
        flags = arguments[at + 1]
        log.position.pop(name, None)
        log.opened(name, create=b"O_CREAT" in flags, empty=b"O_TRUNC" in flags)
    elif call == "lseek":
        log.position[name] = result
    elif call in {"write", "pwrite64"}:
        at = int(arguments[3]) if call == "pwrite64" else log.position.get(name, 0)
        data = arguments[1][: result if result >= 0 else None]
        log.position[name] = at + len(data)
        log.add(Op("write", name, at, data))
    elif call == "ftruncate":
        log.add(Op("size", name, int(arguments[1])))
    elif call in {"fsync", "fdatasync"}:
        log.add(Op("sync", name) if name else Op("sync-folder"))
    elif call in {"unlink", "unlinkat"}:
        log.add(Op("unlink", name))
    elif call.startswith("rename"):
        log.add(Op("rename", name, to=Path(os.fsdecode(arguments[3 if at else 1])).name))
    else:
        raise EdgebedError(f"{call} on {name} is not known: add it to tests/powercut/write_log.py")
