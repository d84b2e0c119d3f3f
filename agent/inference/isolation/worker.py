"""A model in a process of its own: a crash, a hang or a leak there ends that process, not the agent."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec
from msgspec.structs import replace
from numpy.typing import NDArray

from adapters.base import Picture
from agent import process_children
from agent.inference import gate_process
from agent.inference.decoders import ModelError, Result
from agent.inference.isolation import worker_wire
from agent.inference.isolation.shared_frames import SharedFrames
from agent.inference.isolation.worker_wire import Job, Opened, Opening
from agent.inference.tuning import Tuned
from wire.messages import Field
from wire.printable import printable
from wire.reasons import Reason, because

if TYPE_CHECKING:
    from agent.inference.gate import GateReport
    from agent.inference.package import Package

T = TypeVar("T")

log = logging.getLogger("edgebed.model")

SILENT_S = 10.0  # a worker that takes longer for one answer is killed
OPEN_S = 90.0  # for a worker to start and open its model, as for the gate
DEATHS = 3  # processes that ended; then the package is refused
PAUSE_S = 1.0  # before the first restart; doubled before the next
_FORGIVEN_S = 3_600.0  # deaths are forgotten this long after the last
_LEAST_MB, _GROWTH = 256, 3  # memory of a worker: this, and a multiple of what the gate measured
_LOOK_S = 1.0  # between two looks at the memory of a worker
_END_S, _POLL_S = 1.0, 0.005  # for a worker to end by itself, and between two looks


class WorkerLost(ModelError):
    """A worker process has ended, or was killed, so the run has no result."""


class Workers:
    """The worker processes of one agent and the memory that they share with it.

    `now_s` counts seconds. Every process ends with `close`, and when the agent ends, however it ends.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.frames = SharedFrames()
        self.stopping = threading.Event()
        self._open: set[Worker] = set()
        # the kernel ends a child with the thread that started it, so one thread that stays starts them all
        self._starter: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def open(self, package: Package, providers: Sequence[str], report: GateReport) -> Worker:
        """A worker with the open model of a package; blocks until it is open.

        Raises:
            ModelError: it cannot be opened.
        """
        worker = Worker(package, providers, report, self)
        with self._lock:
            self._open.add(worker)
        try:
            worker.start()
        except ModelError:
            self.end(worker)
            raise
        return worker

    def end(self, worker: Worker) -> None:
        """End a worker; blocks for a second at most."""
        worker.close()
        with self._lock:
            self._open.discard(worker)

    def end_later(self, worker: object) -> None:
        """End a worker in a thread; anything else needs no end."""
        if isinstance(worker, Worker):
            worker.hang_up()
            threading.Thread(target=self.end, args=(worker,), name="model-ending", daemon=True).start()

    def close(self) -> None:
        """End every worker; blocks for about a second at most."""
        self.stopping.set()
        with self._lock:
            open_now = list(self._open)
        for worker in open_now:
            worker.hang_up()
        for worker in open_now:
            self.end(worker)
        with self._lock:
            starter, self._starter = self._starter, None
        if starter is not None:
            starter.shutdown()
        self.frames.close()

    def spawn(self, command: Sequence[str], channel: socket.socket) -> subprocess.Popen[bytes]:
        """Start a process that has `channel` and no other descriptor of the agent."""
        with self._lock:
            if self.stopping.is_set():
                raise ModelError("the agent stops")
            if self._starter is None:
                self._starter = ThreadPoolExecutor(1, thread_name_prefix="model-workers")
            started = self._starter.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(channel.fileno(),),
                start_new_session=True,
            )
        return started.result()


class Worker:
    """A model package in a worker process; to a runner it is like `session.Model`.

    Several threads may call it: their jobs wait for each other. After a death the next job waits for a pause
    and starts another process. The third death refuses the package, and `refused` is called.
    """

    isolation = "process"

    def __init__(
        self, package: Package, providers: Sequence[str], report: GateReport, workers: Workers
    ) -> None:
        self.package, self.manifest = package, package.manifest
        self.provider, self.scanned = providers[0], report.scanned
        self.signed_by = ""  # the trusted key that signed the package, as the gate reports it
        self.refused: Callable[[Reason], None] = lambda _why: None
        self._providers = list(providers)
        self._limit_mb = min(gate_process.memory_limit() / 1e6, _LEAST_MB + _GROWTH * report.rss_mb)
        self._workers = workers
        self._opened = Opened()
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed: Reason | None = None
        self._deaths, self._died_s = 0, 0.0
        self._number = 0
        self._looked_s = 0.0

    @property
    def pid(self) -> int:
        """The number of the process; 0 while there is none."""
        child = self._child
        return child.pid if child is not None else 0

    def fields(self) -> dict[str, Field]:
        """The fields of a row of the result stream."""
        return dict(self._opened.fields)

    @property
    def stateful(self) -> bool:
        """Whether a run goes on from the state of the last one."""
        return self._opened.stateful

    @property
    def wide(self) -> bool:
        """Whether the model takes numbers of 64 bits, or whole ones, which 32 bits would change."""
        return self._opened.wide

    def run_frame(self, picture: Picture, *, lasting: bool = False, tuned: Tuned | None = None) -> Result:
        """Run one picture (height, width, 3), BGR uint8; boxes come as shares of that picture.

        A `lasting` picture is never written to again, so that one copy serves every worker that sees it.

        Raises:
            ModelError: the run failed; `WorkerLost` if the process ended.
        """
        return self._run(picture, lasting=lasting, tuned=tuned)

    def run_window(
        self, window: NDArray[Any], stream: str = "", end: int = 0, *, tuned: Tuned | None = None
    ) -> Result:
        """Run one window (length, signals), rows in time order; the others are for a model with state.

        The window is never written to again, so that one copy serves every worker that sees it. A process
        that was started again begins with a state of its own.

        Raises:
            ModelError: the run failed; `WorkerLost` if the process ended.
        """
        return self._run(window, lasting=True, stream=stream, end=end, tuned=tuned)

    def start(self) -> None:
        """Start the process and open the model in it; blocks.

        Raises:
            ModelError: it cannot be opened.
        """
        with self._lock:
            self._start()

    def hang_up(self) -> None:
        """Ask the process to end, and let no other one start; returns at once."""
        self._closed = self._closed or because("it was stopped", "model-refused")
        if (child := self._child) is not None:
            child.hang_up()

    def close(self) -> None:
        """End the process for good; blocks for a second at most. A run that waits for it fails."""
        self.hang_up()
        if (child := self._child) is not None:
            child.end(_END_S)  # before the lock, which the waiting run has
        with self._lock:
            if self._child is not None:
                self._child.end(_END_S)
                self._child = None

    def _run(
        self,
        data: NDArray[Any],
        *,
        lasting: bool,
        stream: str = "",
        end: int = 0,
        tuned: Tuned | None = None,
    ) -> Result:
        with self._lock:
            child = self._ready()
            self._number += 1
            part = None
            try:
                body = b""
                if data.nbytes > worker_wire.MAX_INLINE:
                    part = self._workers.frames.take(data, lasting=lasting)
                else:
                    body = data.tobytes()
                at = 0 if part is None else part.number
                job = Job(self._number, data.shape, data.dtype.str, body, at, stream, end, tuned)
                fresh = part is not None and child.is_new(part.number)
                given = child.ask(
                    worker_wire.packet(job), SILENT_S, part.descriptor if part and fresh else None
                )
                answer = child.understood(
                    lambda: worker_wire.answer(given, self._number, self._opened.fields)
                )
                self._require_small(child)
            except WorkerLost as lost:
                raise self._lost(child, lost) from lost
            finally:
                if part is not None:  # the process has answered, or it has ended
                    self._workers.frames.release(part)
        if answer.result is None:
            raise ModelError(printable(answer.why, 500))
        return answer.result

    def _ready(self) -> _Child:
        """The process, after a pause and a restart where the last one has ended."""
        if self._closed is None and self._child is None:
            wait_s = self._died_s + PAUSE_S * 2 ** (self._deaths - 1) - self._workers.now_s()
            if wait_s > 0:
                self._workers.stopping.wait(wait_s)
        if self._closed is not None:
            raise WorkerLost(self._closed.why).coded(self._closed.code, **self._closed.args)
        if self._child is None:
            try:
                return self._start()
            except ModelError as error:
                raise self._lost(None, error) from error
        return self._child

    def _opening(self) -> bytes:
        folder = os.fsencode(self.package.path.resolve())
        opening = Opening(folder, self.manifest.hash, self._providers, self.scanned)
        try:
            return worker_wire.packet(opening)
        except ModelError:  # too much to send: the worker scans the file itself
            return worker_wire.packet(replace(opening, scanned=None))

    def _start(self) -> _Child:
        child = self._child = _Child(self._workers)  # from now on `close` ends it
        try:
            if self._closed is not None:
                raise WorkerLost(self._closed.why)
            body = child.ask(self._opening(), OPEN_S)
            opened = child.understood(lambda: worker_wire.opened(body, self._providers[0]))
            if opened.why:
                raise ModelError(printable(opened.why, 2_000))
            if self._opened.provider and opened != self._opened:
                raise ModelError("it is not the model that it was before")
        except ModelError:
            child.end()
            self._child = None
            raise
        self._opened = opened
        return child

    def _require_small(self, child: _Child) -> None:
        """Raise WorkerLost if the process takes much more memory than the gate measured."""
        now_s = self._workers.now_s()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        if (mb := process_children.private_mb(child.pid)) > self._limit_mb:
            mb, limit_mb = math.ceil(mb), int(self._limit_mb)
            raise WorkerLost(f"its process had {mb} MB, {limit_mb} MB are allowed: it was ended").coded(
                "model-worker-memory", mb=mb, limit_mb=limit_mb
            )

    def _lost(self, child: _Child | None, error: ModelError) -> WorkerLost:
        """Count a death, and refuse the package with the third; returns what is to be raised."""
        if child is not None:
            child.end()
        self._child = None
        if self._closed is not None:
            return WorkerLost(self._closed.why).coded(self._closed.code, **self._closed.args)
        now_s = self._workers.now_s()
        if now_s - self._died_s > _FORGIVEN_S:
            self._deaths = 0
        self._deaths, self._died_s = self._deaths + 1, now_s
        why = error.reason
        if self._deaths >= DEATHS:
            text = f"its process ended {DEATHS} times, it is refused until its package changes: {error}"
            self._closed = why = because(text, "model-refused-deaths", deaths=DEATHS)
            self.refused(why)
        log.warning("%s: %s", self.package.path, why.why)
        return WorkerLost(why.why).coded(why.code, **why.args)


class _Child:
    """One worker process and the agent's end of its socket."""

    def __init__(self, workers: Workers) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        limits = map(str, (theirs.fileno(), os.getpid(), gate_process.memory_limit()))
        command = [sys.executable, "-P", "-m", "agent.inference.isolation.worker_process", *limits]
        try:
            self._process = workers.spawn(command, theirs)
        except (OSError, ModelError) as error:
            self._channel.close()
            raise WorkerLost(f"its process could not be started: {error}").coded("model-refused") from error
        finally:
            theirs.close()
        self.pid = self._process.pid
        process_children.started(self.pid)
        self._parts: OrderedDict[int, None] = OrderedDict()  # that the process has mapped
        self._ending = threading.Lock()

    def is_new(self, part: int) -> bool:
        """Whether the process needs the descriptor of a part of the shared memory, which it gets then."""
        new = part not in self._parts
        self._parts[part] = None
        if len(self._parts) > worker_wire.KEPT:
            self._parts.popitem(last=False)
        self._parts.move_to_end(part)
        return new

    def ask(self, packet: bytes, wait_s: float, descriptor: int | None = None) -> bytes:
        """Send a packet and return the next one from the process.

        Raises:
            WorkerLost: none comes in time, it is too large, or the process has ended; it is killed.
        """
        try:
            self._channel.settimeout(wait_s)
            if descriptor is None:
                self._channel.send(packet)
            else:
                socket.send_fds(self._channel, [packet], [descriptor])
            body, _, flags, _ = self._channel.recvmsg(worker_wire.MAX_PACKET)
        except TimeoutError as error:
            self.end()
            raise WorkerLost(f"no answer for {wait_s:g} s: its process was ended").coded(
                "model-worker-killed", seconds=wait_s
            ) from error
        except OSError:  # the process has closed its end
            body, flags = b"", 0
        if flags & socket.MSG_TRUNC:
            return self.understood(lambda: _fail("a packet is too large"))
        if not body:
            how = _how(self.end(_END_S))
            raise WorkerLost(f"its process ended ({how})").coded("model-worker-died", signal=how)
        return body

    def understood(self, read: Callable[[], T]) -> T:
        """What `read` gives; WorkerLost, and the process is killed, where it raises ValueError."""
        try:
            return read()
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            self.end()
            raise WorkerLost(
                f"its process gave an answer that is not one, and was ended: {printable(error, 200)}"
            ).coded("model-worker-answer") from error

    def hang_up(self) -> None:
        """Close the socket for both sides: an idle process ends."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def end(self, wait_s: float = 0.0) -> int:
        """End the process group, after `wait_s` if it does not end by itself; returns the exit code."""
        with self._ending:
            if self._process.returncode is None:
                self.hang_up()
                self._wait(wait_s)
                # the child is not waited for yet, so its number cannot belong to another group
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                _, status, used = os.wait4(self.pid, 0)
                self._process.returncode = os.waitstatus_to_exitcode(status)
                process_children.ended(self.pid, used.ru_utime + used.ru_stime)
                self._channel.close()
            return self._process.returncode

    def _wait(self, wait_s: float) -> None:
        """Wait until the process has ended, for `wait_s` at most; it stays a zombie."""
        until_s = time.monotonic() + wait_s
        while time.monotonic() < until_s:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(_POLL_S)


def _how(code: int) -> str:
    return gate_process.signal_name(-code) if code < 0 else f"exit code {code}"


def _fail(why: str) -> NoReturn:
    raise ValueError(why)
