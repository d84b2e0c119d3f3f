"""Commands from operators: each id is executed once, not after its time, and always answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import Cmd, Command, Res

Action = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""`await action(device, args)` gives the `result` of the answer; `device` is `_` for the node itself."""


class Rejected(EdgebedError):
    """Raised by an action for a device or arguments it does not take: the answer is `rejected`."""


class Commands:
    """Runs `actions` by name; `ping` is always there.

    An action that raises `Rejected` is answered `rejected`, any other `EdgebedError` `failed`.
    """

    def __init__(self, state: Path, clock: Clock, actions: Mapping[str, Action]) -> None: ...

    def declared(self) -> list[Command]:
        """For the birth."""
        raise NotImplementedError

    async def handle(self, device: str, name: str, command: Cmd) -> Res:
        """Execute or refuse one command; never raises for what it holds."""
        raise NotImplementedError
