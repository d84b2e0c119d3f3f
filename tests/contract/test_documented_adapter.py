"""The adapter printed in docs/writing-an-adapter.md keeps the contract, exactly as it is printed."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs/writing-an-adapter.md").read_text()


def _printed() -> dict[str, Any]:
    module = types.ModuleType("documented_adapter")
    sys.modules[module.__name__] = module  # msgspec resolves annotations by module
    for part in ("adapter", "contract"):
        (code,) = re.findall(rf"```python {part}\n(.*?)```", PAGE, re.DOTALL)
        exec(compile(code, f"docs/writing-an-adapter.md:{part}", "exec"), module.__dict__)  # noqa: S102
    return module.__dict__


@pytest.fixture
async def device() -> AsyncIterator[int]:
    """A thermometer on loopback: its port."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"21.5\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in asyncio.all_tasks():
            if "talk" in repr(task.get_coro()):
                task.cancel()


TestThermometer = _printed()["TestThermometer"]
