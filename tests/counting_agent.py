"""An agent with one more command, whose effect can be counted: `count` adds a line to a file.

python counting_agent.py FILE agent run agent.yaml
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import agent.app
from agent.commands import Action, Commands
from edgebed.cli import main
from wire.clock import Clock


class CountingCommands(Commands):
    """The commands of an agent, and `count`: it lasts `args["s"]` seconds after its effect."""

    def __init__(self, state: Path, clock: Clock, actions: Mapping[str, Action]) -> None:
        super().__init__(state, clock, {**actions, "count": self._count})

    async def _count(self, _device: str, args: dict[str, Any]) -> dict[str, Any]:
        _add(f"{args['what']}\n")
        await asyncio.sleep(args["s"])
        return {"what": args["what"]}


def _add(line: str) -> None:
    with FILE.open("a") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    FILE = Path(sys.argv.pop(1))
    agent.app.Commands = CountingCommands  # type: ignore[misc]
    main()
