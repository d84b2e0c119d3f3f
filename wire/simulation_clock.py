"""A simulated clock for many tasks in one process: fast, but it never overtakes a task that is still busy."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from wire.clock import NS_PER_S, Clock

Brake = Callable[[], int | None]  # Unix ns up to which the clock may advance now; None for no limit

_TICK_S = 0.005  # real time between advances while no task waits for an earlier moment
_HELD_TICK_S = 0.001  # real time between two checks of the brakes while the clock is held
_PASSES = 4  # turns of the event loop before time advances: data sent inside the process has then arrived
_BURST_NS = 20_000_000  # real time that the clock may catch up after it was held
_NEVER = 2**63


class SimulationClock(Clock):
    """Time that starts at `start_ns`, stopped, and then advances as fast as all its tasks can follow.

    Use it as `async with` in the event loop of the tasks that sleep on it; `now_ns` and `wait` can be called
    in any thread. Set `pace` to start it: the maximum of simulated seconds per real second. While it runs,

    - it stops at each moment until which a task sleeps: the task wakes at exactly that nanosecond;
    - it stays there, or advances by `slack_ns` at most, until that task sleeps again or ends;
    - it never advances beyond the limit of a brake in `brakes`.

    A task or brake that holds the clock for more than `patience_s` is excused: a task until it sleeps again,
    a brake until its limit changes. `held_s` and `excused` record this by name. Patience is real time, but
    each turn of this clock counts 20 ms at most, so a process that gets no CPU time uses up no patience.
    """

    def __init__(
        self,
        start_ns: int,
        *,
        slack_ns: int = 0,
        patience_s: float = 10.0,
        wall_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(1.0, start_ns)
        self.brakes: dict[str, Brake] = {}
        self.held_s: defaultdict[str, float] = defaultdict(float)  # real seconds
        self.excused: Counter[str] = Counter()
        self._now_ns = start_ns
        self._pace = 0.0
        self._anchor = start_ns, wall_ns()  # from here time runs at `pace`
        self._slack_ns = slack_ns
        self._patience_ns = round(patience_s * NS_PER_S)
        self._wall_ns = wall_ns
        self._turned_ns = wall_ns()
        self._lived_ns = 0  # real time in which this process ran, for patience
        self._flowed_ns = 0  # the part of it in which time moved
        self._unspent_ns = 0  # real time since the last move, which the next move spends
        self._sleepers: list[_Sleeper] = []
        self._numbers = itertools.count()
        self._known: set[asyncio.Task[Any]] = set()
        self._busy: dict[asyncio.Task[Any], tuple[int, int]] = {}  # when it woke: simulated ns, lived ns
        self._late: set[asyncio.Task[Any]] = set()  # excused tasks that have not slept since
        self._braking: dict[str, tuple[int, int]] = {}  # limit of a brake, and the lived ns it holds since
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None

    # --- for tasks

    @property
    def real(self) -> bool:
        """False: this is never the clock of the machine."""
        return False

    def now_ns(self) -> int:
        """Unix nanoseconds of the simulated world."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Simulated nanoseconds since the start."""
        return self._now_ns - self._start_ns

    @property
    def can_stand(self) -> bool:
        """True: it stands still before its start, and while it is held."""
        return True

    def flowing_s(self) -> float:
        """Real seconds in which simulated time moved; a pause counts 20 ms at most."""
        return self._flowed_ns / NS_PER_S

    @contextlib.asynccontextmanager
    async def timeout_at(self, at_s: float | None) -> AsyncIterator[object]:
        """Like `asyncio.timeout_at`, for a moment of `flowing_s`."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            if at_s is None:
                return
            left_s = at_s - self.flowing_s()
            if left_s <= 0:
                limit.reschedule(loop.time())
            else:
                timer = loop.call_later(max(left_s, _TICK_S), look)

        async with asyncio.timeout(None) as limit:
            look()
            try:
                yield limit
            finally:
                if timer is not None:
                    timer.cancel()

    async def sleep(self, seconds: float) -> None:
        """Sleep `seconds` of simulated time."""
        await self.sleep_until(self._now_ns + round(max(0.0, seconds) * NS_PER_S))

    async def sleep_until(self, at_ns: int) -> None:
        """Sleep until the clock shows `at_ns`; for a past moment, let other tasks run once."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can sleep")
        if task not in self._known:
            self._known.add(task)
            task.add_done_callback(self._gone)
        if at_ns <= self._now_ns:
            await asyncio.sleep(0)
            if task not in self._late:  # setdefault: a task that never catches up must run out of patience
                self._busy.setdefault(task, (self._now_ns, self._lived_ns))
            return
        self._busy.pop(task, None)
        self._late.discard(task)
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, _Sleeper(at_ns, next(self._numbers), task, woken))
        self._stir()
        try:
            await woken
        except asyncio.CancelledError:
            self._busy.pop(task, None)  # it may have been woken at the same moment
            self._stir()
            raise

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block a thread until `event` is set or simulated time has passed. Threads do not hold the clock."""
        until_ns = self._now_ns + round(max(0.0, seconds) * NS_PER_S)
        while self._now_ns < until_ns:
            if event.wait(_TICK_S):
                return True
        return event.is_set()

    # --- for the owner of the clock

    @property
    def pace(self) -> float:
        """The maximum of simulated seconds per real second; 0 stops the clock."""
        return self._pace

    @pace.setter
    def pace(self, pace: float) -> None:
        if not 0 <= pace < float("inf"):
            raise ValueError(f"a clock's pace must be 0 or above, not {pace}")
        self._pace = pace
        self._anchor = self._now_ns, self._wall_ns()
        # a stopped clock is not held by a task: measure patience from now
        self._busy = {task: (woken_ns, self._lived_ns) for task, (woken_ns, _) in self._busy.items()}
        self._braking.clear()
        self._stir()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._anchor = self._now_ns, self._wall_ns()
        self._again(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()

    # --- advancing

    def _stir(self) -> None:
        """Schedule a turn soon, after a task started to sleep or ended."""
        if not self._busy or self._slack_ns:
            self._again(_PASSES)

    def _again(self, passes: int) -> None:
        if self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = (
            self._loop.call_soon(self._again, passes - 1) if passes else self._loop.call_soon(self._turn)
        )

    def _turn(self) -> None:
        """Advance as far as allowed, wake the tasks that are due, schedule the next turn."""
        if self._loop is None:
            return
        wall_ns = self._wall_ns()
        passed_ns, self._turned_ns = wall_ns - self._turned_ns, wall_ns
        if not self._pace:
            self._timer = self._loop.call_later(_TICK_S, self._turn)
            return
        self._lived_ns += min(passed_ns, _BURST_NS)
        began_ns, since_ns = self._anchor
        free_ns = began_ns + int((wall_ns - since_ns) * self._pace)
        limit_ns, holder = self._limit()
        held = limit_ns < free_ns
        if held:
            self.held_s[holder] += passed_ns / NS_PER_S
        goal_ns = max(self._now_ns, min(free_ns, limit_ns))
        due_ns, before_ns = self._due_ns(), self._now_ns
        self._now_ns = max(before_ns, min(goal_ns, due_ns))
        self._unspent_ns = min(self._unspent_ns + passed_ns, _BURST_NS)
        flowed_ns = min(self._unspent_ns, self._now_ns - before_ns)
        self._unspent_ns -= flowed_ns
        self._flowed_ns += flowed_ns
        if due_ns <= goal_ns:
            self._wake()
        if free_ns - self._now_ns > _BURST_NS * self._pace:
            self._anchor = self._now_ns, wall_ns - _BURST_NS
        self._timer = self._loop.call_later(self._pause_s(held), self._turn)

    def _pause_s(self, held: bool) -> float:
        if held:
            return _HELD_TICK_S if self.brakes else _TICK_S
        left_s = (self._due_ns() - self._now_ns) / NS_PER_S
        return min(_TICK_S, left_s / self._pace)

    def _limit(self) -> tuple[int, str]:
        """The moment up to which the clock may advance, and the name of the task or brake that sets it."""
        limit_ns, holder = _NEVER, ""
        for task, (woken_ns, since_ns) in list(self._busy.items()):
            if self._lived_ns - since_ns > self._patience_ns:
                del self._busy[task]
                self._late.add(task)
                self.excused[task.get_name()] += 1
            elif woken_ns + self._slack_ns < limit_ns:
                limit_ns, holder = woken_ns + self._slack_ns, task.get_name()
        for name, brake in self.brakes.items():
            allowed_ns = brake()
            if allowed_ns is not None and allowed_ns < limit_ns and self._is_heeded(name, allowed_ns):
                limit_ns, holder = allowed_ns, name
        return limit_ns, holder

    def _is_heeded(self, name: str, allowed_ns: int) -> bool:
        """Whether a brake still counts: False once it has held the clock at one moment for too long."""
        before_ns, since_ns = self._braking.get(name, (-1, 0))
        if allowed_ns != before_ns or (self._now_ns < allowed_ns and since_ns >= 0):
            since_ns = self._lived_ns
        elif since_ns >= 0 and self._lived_ns - since_ns > self._patience_ns:
            self.excused[name] += 1
            since_ns = -1
        self._braking[name] = allowed_ns, since_ns
        return since_ns >= 0

    def _due_ns(self) -> int:
        while self._sleepers and self._sleepers[0].woken.done():  # cancelled while it slept
            heapq.heappop(self._sleepers)
        return self._sleepers[0].at_ns if self._sleepers else _NEVER

    def _wake(self) -> None:
        while self._due_ns() <= self._now_ns:
            sleeper = heapq.heappop(self._sleepers)
            self._busy[sleeper.task] = self._now_ns, self._lived_ns
            sleeper.woken.set_result(None)

    def _gone(self, task: asyncio.Task[Any]) -> None:
        self._known.discard(task)
        self._late.discard(task)
        if self._busy.pop(task, None) is not None:
            self._stir()


@dataclass(order=True, slots=True)
class _Sleeper:
    at_ns: int
    number: int  # tasks with the same moment wake in the order in which they went to sleep
    task: asyncio.Task[Any] = field(compare=False)
    woken: asyncio.Future[None] = field(compare=False)
