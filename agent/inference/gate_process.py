"""Runs the gate's child process: its limits, its report, and the reason where it gives none."""

from __future__ import annotations

import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.inference.decoders import ModelError
from wire.child_process import be_first_to_go, end_with
from wire.printable import printable
from wire.reasons import Reason, because

CPU_S = 60
_ADDRESSES = 4 << 30  # bytes of address space; Python, OpenCV and onnxruntime map 1.5 GB before any model
_SHARE = 0.8  # of the memory of the agent's unit, which a child may use
_LEAST = 512 << 20  # bytes a child may use in any case: Python and its libraries reserve half of them
_PER_CHILD = 512 << 20  # bytes of memory for each child that runs at the same time
# lines of /proc/cpuinfo that are the same for each core and at each start, on x86 and on ARM
_CPU = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU variant", "CPU part")
_REPORT, _STDERR = 4_000_000, 8_192  # bytes that are kept
_POLL_S = 0.1
_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a child gave: the bytes of its report, or why it gave none.

    `lasting` is False where another run can end differently although the package is the same.
    """

    report: bytes = b""
    failure: Reason | None = None
    lasting: bool = True


def memory_limit() -> int:
    """Bytes that a child may use: below the limit of the agent's unit, so that the unit survives it."""
    return int(min(_ADDRESSES, max(_LEAST, _SHARE * _memory())))


def models_limit() -> int:
    """Bytes that the open models of an agent may use together: below the limit of its unit too."""
    return int(max(_LEAST, _SHARE * _memory()))


def at_once() -> int:
    """The number of children that may run at the same time: one a core, as far as the memory allows."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, _memory() // _PER_CHILD))


def machine() -> list[str]:
    """What a report depends on besides the package: the kind of the CPU, and the memory of a child."""
    found = [f"{memory_limit() / 2**30:.1f} GB"]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        found += sorted({line for line in lines if line.partition(":")[0].strip() in _CPU})
    return found


def run(
    arguments: Sequence[str],
    wall_s: float,
    stopping: threading.Event,
    module: str = "agent.inference.gate",
) -> Outcome:
    """Run `python -m MODULE ... ARGUMENTS` until it ends, `wall_s` are over, or `stopping` is set.

    The module calls `answer`. The child's process group ends with it.
    """
    reading, writing = os.pipe()
    limits = map(str, (writing, os.getpid(), memory_limit(), CPU_S))
    command = [sys.executable, "-P", "-m", module, *limits, *arguments]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(writing,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(reading)
        why = f"the gate could not be started: {error.strerror or error}"
        return Outcome(failure=because(why, "model-refused"), lasting=False)
    finally:
        os.close(writing)
    if child.stderr is None:
        raise RuntimeError("the gate's child has no stderr")
    with child.stderr, os.fdopen(reading, "rb", buffering=0) as pipe:
        watch = _Watch(child.pid, pipe.fileno(), child.stderr.fileno())
        try:
            in_time = watch.until_end(time.monotonic() + wall_s, stopping)
        finally:
            child.returncode = watch.end()
        return _outcome(watch, child.returncode, in_time=in_time, stopped=stopping.is_set(), wall_s=wall_s)


def answer(
    arguments: Sequence[str],
    work: Callable[[Sequence[str]], bytes],
    refused: Callable[[Reason], bytes],
) -> None:
    """In the child: set the limits, and report what `work` gives for the arguments of `run`, or `refused`."""
    descriptor, parent, memory, cpu_s = map(int, arguments[:4])
    limit(parent, memory, cpu_s)
    try:
        report = work(arguments[4:])
    except ModelError as error:
        report = refused(error.reason)
    except MemoryError:
        gb = round(memory / 2**30, 1)
        report = refused(because(f"it needs more than {gb:g} GB of memory", "model-memory-limit", gb=gb))
    except Exception as error:  # noqa: BLE001 - a decoder of another package can raise anything
        report = refused(because(f"the gate failed: {type(error).__name__}: {error}", "model-refused"))
    with os.fdopen(descriptor, "wb") as file:
        file.write(report)
    os._exit(0)  # skips the shutdown of the interpreter, where a hostile model could still act


def limit(parent: int, memory: int, cpu_s: int = 0) -> None:
    """Set the limits of this process, the child of `parent`; without `cpu_s` it may run without end."""
    end_with(parent)
    be_first_to_go()
    limits = {
        resource.RLIMIT_AS: _ADDRESSES,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    if cpu_s:
        limits[resource.RLIMIT_CPU] = cpu_s
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # the soft limit of CPU time sends SIGXCPU, which shows the reason; the hard one sends SIGKILL
        resource.setrlimit(which, (soft, soft + 5 if hard == resource.RLIM_INFINITY else hard))


class _Watch:
    """Reads what a child writes, and ends it with its process group."""

    def __init__(self, pid: int, report: int, stderr: int) -> None:
        self.report, self.stderr = bytearray(), bytearray()
        self.cpu_s = 0.0
        self._pid = pid
        self._selector = selectors.DefaultSelector()
        for number, kept in ((report, self.report), (stderr, self.stderr)):
            os.set_blocking(number, False)
            self._selector.register(number, selectors.EVENT_READ, kept)

    def until_end(self, until_s: float, stopping: threading.Event) -> bool:
        """Read until the child has ended; False if it had to be stopped."""
        while not self._ended():
            if stopping.is_set() or time.monotonic() >= until_s:
                return False
            self._read(_POLL_S)
        self._read(0)
        return True

    def end(self) -> int:
        """End the child's process group and return the child's exit code; minus the signal that ended it."""
        self._selector.close()
        # the child is not waited for yet, so its number cannot belong to another group
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        _, status, used = os.wait4(self._pid, 0)
        self.cpu_s = used.ru_utime + used.ru_stime
        return os.waitstatus_to_exitcode(status)

    def _ended(self) -> bool:
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _read(self, wait_s: float) -> None:
        if not self._selector.get_map():  # both are closed: the child is about to end
            time.sleep(min(wait_s, 0.01))
            return
        for key, _ in self._selector.select(wait_s):
            data = os.read(key.fd, 65_536)
            if not data:
                self._selector.unregister(key.fd)
            elif key.data is self.report:
                if len(self.report) + len(data) <= _REPORT:
                    self.report += data
            else:
                self.stderr[:] = (self.stderr + data)[-_STDERR:]


def _outcome(watch: _Watch, code: int, *, in_time: bool, stopped: bool, wall_s: float) -> Outcome:
    if not in_time:
        if stopped:
            return Outcome(failure=because("the gate was stopped", "model-refused"), lasting=False)
        late = because(f"it gave no answer within {wall_s:g} s", "model-gate-timeout", seconds=wall_s)
        return Outcome(failure=late, lasting=watch.cpu_s > min(wall_s, CPU_S) / 3)  # else: a busy machine
    if code == 0 and watch.report:
        return Outcome(bytes(watch.report))
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and watch.cpu_s >= CPU_S):
        long = f"it used more than {CPU_S} s of CPU when the gate ran it"
        return Outcome(failure=because(long, "model-gate-timeout", seconds=CPU_S))
    if code < 0:
        word = signal_name(-code)
        hint = ": the memory of the machine or of the agent's unit was used up" if word == "SIGKILL" else ""
        crash = because(f"it crashed ({word}) when the gate ran it{hint}", "model-crashed", signal=word)
        return Outcome(failure=crash, lasting=word != "SIGKILL")
    lines = watch.stderr.decode("utf-8", "replace").strip().splitlines()
    said = printable(lines[-1], 300) if lines else f"exit code {code} without a report"
    # Python itself failed, as with a half-installed package: the model need not be the cause
    return Outcome(failure=because(f"the gate failed: {said}", "model-refused"), lasting=False)


def signal_name(number: int) -> str:
    """The name of a signal, as SIGSEGV."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _memory() -> int:
    """Bytes of memory that the agent's unit and its machine have."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::/"):  # the unified hierarchy
                found += _limits(_GROUPS / line[4:])
    return min(found)


def _limits(group: Path) -> list[int]:
    """The memory limits of a control group and those around it."""
    found = []
    for each in (group, *group.parents):
        if not each.is_relative_to(_GROUPS):
            break
        with suppress(OSError, ValueError):  # "max", or not readable
            found.append(int((each / "memory.max").read_text(encoding="ascii")))
    return found
