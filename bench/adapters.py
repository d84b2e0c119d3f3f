"""Compare each adapter with its bare library: CPU per reading, and readings per second.

The device runs in a process of its own (adapter_cases/floods.py) and sends as fast as it is read. Only the
CPU time of this process, the reader, counts. Where a device is slower than its reader, it sets the rate.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

import adapters
from adapters.base import Reading
from bench.adapter_cases.cases import Case, cases


class Cost(NamedTuple):
    """The CPU time of one reading, and the readings per second."""

    cpu_us: float
    rate: float


def run() -> list[dict[str, Any]]:
    """Return two rows per adapter: CPU per reading and the highest rate."""
    with tempfile.TemporaryDirectory() as name:
        return [row for case in cases(Path(name)) for row in measured(case)]


def measured(case: Case) -> list[dict[str, Any]]:
    """Return the rows of one adapter. Rounds alternate and the best counts, because the machine is shared."""
    ours, peer = [], []
    with _device(case.flood) as url:
        for _ in range(case.rounds):
            ours.append(asyncio.run(_ours(case, url)))
            peer.append(asyncio.run(_bare(case, url)))
    cpu = [min(cost.cpu_us for cost in costs) for costs in (ours, peer)]
    rate = [max(cost.rate for cost in costs) for costs in (ours, peer)]
    return [
        {
            "what": f"{case.word}: CPU per {case.shown}",
            "ours": cpu[0],
            "peer": cpu[1],
            "ratio": cpu[0] / cpu[1],
            "unit": "us",
            "limit": "ratio <= 1.5, or <= 60 us more",
        },
        {
            "what": f"{case.word}: readings a second{', as fast as the device is' if case.paced else ''}",
            "ours": rate[0],
            "peer": rate[1],
            "ratio": rate[0] / rate[1],
            "unit": "/s",
        },
    ]


async def _ours(case: Case, url: str) -> Cost:
    kind = adapters.load(case.word)
    options = msgspec.convert(case.options(url), kind.Options, dec_hook=_path)
    meter = _Meter(case.readings)
    async with kind(options, case.clock()) as adapter:
        async with aclosing(cast("AsyncGenerator[Reading]", adapter.readings())) as readings:
            async for _ in readings:
                if meter.full():
                    break
        return meter.cost()


async def _bare(case: Case, url: str) -> Cost:
    rows, meter = case.peer(url), _Meter(case.readings)
    if isinstance(rows, AsyncGenerator):
        async with aclosing(rows):
            async for _ in rows:
                if meter.full():
                    break
    else:
        with closing(rows):
            for _ in rows:
                if meter.full():
                    break
    return meter.cost()


class _Meter:
    """Counts readings; the first ones are a warm-up and do not count."""

    def __init__(self, readings: int) -> None:
        self._counted = -(readings // 5)
        self._wanted = readings
        self._begin = self._end = (0.0, 0.0)

    def full(self) -> bool:
        """Count a reading; return whether it is the last one."""
        self._counted += 1
        if self._counted == 0:
            gc.collect()
            self._begin = (time.process_time(), time.monotonic())
        elif self._counted == self._wanted:
            self._end = (time.process_time(), time.monotonic())
            return True
        return False

    def cost(self) -> Cost:
        """Return the cost of one reading; the device must still run."""
        cpu_s, wall_s = (end - begin for begin, end in zip(self._begin, self._end, strict=True))
        return Cost(cpu_s / self._wanted * 1e6, self._wanted / wall_s)


@contextmanager
def _device(flood: str) -> Iterator[str]:
    if not flood:
        yield ""
        return
    command = [sys.executable, "-m", "bench.adapter_cases.floods", flood]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(20)


def _path(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path else value


if __name__ == "__main__":
    from bench.__main__ import table

    with tempfile.TemporaryDirectory() as folder_name:
        wanted = set(sys.argv[1:])
        found = [one for one in cases(Path(folder_name)) if not wanted or one.word in wanted]
        print(table([row for one in found for row in measured(one)]))
