"""A simulated clock for many tasks in one process: fast, and never ahead of a task that is still at work."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from wire.clock import NS_PER_S, Clock

Brake = Callable[[], int | None]  # Unix ns up to which the clock may go now; None: as far as it likes

_TICK_S = 0.005  # how often time moves on while nobody waits for an earlier moment
_HELD_TICK_S = 0.001  # how often brakes are asked while one holds
_PASSES = 4  # turns of the event loop before time moves on: what was sent inside the process has arrived
_BURST_NS = 20_000_000  # real time that may be made up for after the clock was held
_NEVER = 2**63


class GovernedClock(Clock):
    """Time that starts at `start_ns`, stands still, and then moves on as fast as everybody can follow.

    Use it as `async with` in the event loop of the tasks that sleep on it; `now_ns` and `wait` are for any
    thread. Set `pace` to let time flow: simulated seconds a real second at most. While it flows

    - it never passes a moment somebody sleeps until: the task wakes at that very nanosecond;
    - it stands still, or goes on by `slack_ns` at most, until that task sleeps again or ends;
    - it passes nothing that a brake of `brakes` does not allow.

    Who holds it for more than `patience_s` of real time on end is excused: a task until it sleeps again, a
    brake until it allows something else. `held_s` and `excused` tell by name what happened.
    """

    def __init__(
        self,
        start_ns: int,
        *,
        slack_ns: int = 0,
        patience_s: float = 2.0,
        wall_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(1.0, start_ns)
        self.brakes: dict[str, Brake] = {}
        self.held_s: defaultdict[str, float] = defaultdict(float)  # real seconds
        self.excused: Counter[str] = Counter()  # how often
        self._now_ns = start_ns
        self._pace = 0.0
        self._anchor = start_ns, wall_ns()  # from here time runs at `pace`
        self._slack_ns = slack_ns
        self._patience_ns = round(patience_s * NS_PER_S)
        self._wall_ns = wall_ns
        self._turned_ns = wall_ns()
        self._sleepers: list[_Sleeper] = []
        self._numbers = itertools.count()
        self._known: set[asyncio.Task[Any]] = set()
        self._at_work: dict[asyncio.Task[Any], tuple[int, int]] = {}  # when it was woken: by us, by the wall
        self._late: set[asyncio.Task[Any]] = set()  # those that were excused and have not slept since
        self._braking: dict[str, tuple[int, int]] = {}  # what a brake allows, and since when it holds so
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None

    # --- what tasks see

    @property
    def real(self) -> bool:
        """Never the machine's own clock."""
        return False

    def now_ns(self) -> int:
        """Unix nanoseconds of the simulated world."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Simulated nanoseconds since the start."""
        return self._now_ns - self._start_ns

    async def sleep(self, seconds: float) -> None:
        """Sleep `seconds` of simulated time."""
        await self.sleep_until(self._now_ns + round(max(0.0, seconds) * NS_PER_S))

    async def sleep_until(self, at_ns: int) -> None:
        """Sleep until the clock shows `at_ns`; for the past, until other tasks had their turn."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can sleep")
        if task not in self._known:
            self._known.add(task)
            task.add_done_callback(self._gone)
        if at_ns <= self._now_ns:
            await asyncio.sleep(0)
            if task not in self._late:  # its patience goes on: it may never catch up
                self._at_work.setdefault(task, (self._now_ns, self._wall_ns()))
            return
        self._at_work.pop(task, None)
        self._late.discard(task)
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, _Sleeper(at_ns, next(self._numbers), task, woken))
        self._stir()
        try:
            await woken
        except asyncio.CancelledError:
            self._at_work.pop(task, None)  # it may have been woken at the same moment
            self._stir()
            raise

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block a thread until `event` is set or simulated time has passed; threads do not hold the clock."""
        until_ns = self._now_ns + round(max(0.0, seconds) * NS_PER_S)
        while self._now_ns < until_ns:
            if event.wait(_TICK_S):
                return True
        return event.is_set()

    # --- who lets it flow

    @property
    def pace(self) -> float:
        """Simulated seconds a real second at most; 0 stands still."""
        return self._pace

    @pace.setter
    def pace(self, pace: float) -> None:
        if not 0 <= pace < float("inf"):
            raise ValueError(f"a clock's pace must be 0 or above, not {pace}")
        wall_ns = self._wall_ns()
        self._pace = pace
        self._anchor = self._now_ns, wall_ns
        # nobody holds a clock that stands: patience begins anew
        self._at_work = {task: (woken_ns, wall_ns) for task, (woken_ns, _) in self._at_work.items()}
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

    # --- how it moves

    def _stir(self) -> None:
        """Somebody came or went: look again soon."""
        if not self._at_work or self._slack_ns:
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
        """Move on as far as allowed, wake who is due, look again in time."""
        if self._loop is None:
            return
        wall_ns = self._wall_ns()
        if not self._pace:
            self._turned_ns = wall_ns
            self._timer = self._loop.call_later(_TICK_S, self._turn)
            return
        began_ns, since_ns = self._anchor
        free_ns = began_ns + int((wall_ns - since_ns) * self._pace)
        limit_ns, holder = self._limit(wall_ns)
        held = limit_ns < free_ns
        if held:
            self.held_s[holder] += (wall_ns - self._turned_ns) / NS_PER_S
        self._turned_ns = wall_ns
        goal_ns = max(self._now_ns, min(free_ns, limit_ns))
        due_ns = self._due_ns()
        self._now_ns = max(self._now_ns, min(goal_ns, due_ns))
        if due_ns <= goal_ns:
            self._wake(wall_ns)
        if free_ns - self._now_ns > _BURST_NS * self._pace:
            self._anchor = self._now_ns, wall_ns - _BURST_NS
        self._timer = self._loop.call_later(self._pause_s(held), self._turn)

    def _pause_s(self, held: bool) -> float:
        if held:
            return _HELD_TICK_S if self.brakes else _TICK_S
        left_s = (self._due_ns() - self._now_ns) / NS_PER_S
        return min(_TICK_S, left_s / self._pace)

    def _limit(self, wall_ns: int) -> tuple[int, str]:
        """How far it may go, and who says so."""
        limit_ns, holder = _NEVER, ""
        for task, (woken_ns, since_ns) in list(self._at_work.items()):
            if wall_ns - since_ns > self._patience_ns:
                del self._at_work[task]
                self._late.add(task)
                self.excused[task.get_name()] += 1
            elif woken_ns + self._slack_ns < limit_ns:
                limit_ns, holder = woken_ns + self._slack_ns, task.get_name()
        for name, brake in self.brakes.items():
            allowed_ns = brake()
            if (
                allowed_ns is not None
                and allowed_ns < limit_ns
                and self._is_heeded(name, allowed_ns, wall_ns)
            ):
                limit_ns, holder = allowed_ns, name
        return limit_ns, holder

    def _is_heeded(self, name: str, allowed_ns: int, wall_ns: int) -> bool:
        """Whether a brake still counts: not when it has held at the same moment for too long."""
        before_ns, since_ns = self._braking.get(name, (-1, 0))
        if allowed_ns != before_ns or (self._now_ns < allowed_ns and since_ns >= 0):
            since_ns = wall_ns
        elif since_ns >= 0 and wall_ns - since_ns > self._patience_ns:
            self.excused[name] += 1
            since_ns = -1
        self._braking[name] = allowed_ns, since_ns
        return since_ns >= 0

    def _due_ns(self) -> int:
        while self._sleepers and self._sleepers[0].woken.done():  # cancelled in its sleep
            heapq.heappop(self._sleepers)
        return self._sleepers[0].at_ns if self._sleepers else _NEVER

    def _wake(self, wall_ns: int) -> None:
        while self._due_ns() <= self._now_ns:
            sleeper = heapq.heappop(self._sleepers)
            self._at_work[sleeper.task] = self._now_ns, wall_ns
            sleeper.woken.set_result(None)

    def _gone(self, task: asyncio.Task[Any]) -> None:
        self._known.discard(task)
        self._late.discard(task)
        if self._at_work.pop(task, None) is not None:
            self._stir()


@dataclass(order=True, slots=True)
class _Sleeper:
    at_ns: int
    number: int  # first come, first woken
    task: asyncio.Task[Any] = field(compare=False)
    woken: asyncio.Future[None] = field(compare=False)
