"""Run one scenario from file to report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgebed.scenario.document import load
from edgebed.scenario.evidence import gather
from edgebed.scenario.installation import ScenarioInstallation
from edgebed.scenario.judge import judge
from edgebed.scenario.play import play
from edgebed.scenario.report import Report
from wire.errors import unwritable

_THREADS = 16  # shared by all agents and the collector, for their disks


async def run(
    path: Path, folder: Path, *, rate: float | None, seed: int | None, say: Callable[[str], None]
) -> Report:
    """Play the scenario of a file with its data in `folder`, and check it.

    Raises:
        ConfigError: the file, or a config that it names, has mistakes.
        EdgebedError: the scenario cannot be played.
    """
    scenario = load(path)
    pace, seed = rate or scenario.rate, scenario.seed if seed is None else seed
    await asyncio.to_thread(_make, folder)
    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncio_")
    asyncio.get_running_loop().set_default_executor(executor)
    async with ScenarioInstallation(scenario, folder, seed=seed) as installation:
        for agent in installation.agents.values():
            if agent.left_out:
                say(f"agent {agent.name} does not take part: {agent.left_out}")
        played = await play(installation, pace, say)
        evidence = await asyncio.to_thread(gather, installation, played)
    return Report(path.stem, scenario, seed, pace, evidence, judge(scenario, evidence))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(f"folder {folder}", error) from error
