"""Runs commands that arrive over a connection, a few at once, and sends their answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from wire.clock import Clock
from wire.codec import encode
from wire.messages import Cmd, Res
from wire.reasons import because
from wire.topics import Address, Topic

OnCommand = Callable[[str, str, Cmd, Callable[[Res], None]], Awaitable[Res]]

_COMMANDS = 8  # at once


class CommandRunner:
    """Calls `on_command`, and gives topic and body of the answer to `send`.

    `on_command` gets device, name, Cmd, and a function that sends an answer before the last one. `send` may
    drop an answer: then the connection is gone.
    """

    def __init__(
        self,
        address: Address,
        clock: Clock,
        counters: Counter[str],
        on_command: OnCommand,
        send: Callable[[str, bytes], None],
    ) -> None:
        self._address = address
        self._clock = clock
        self._counters = counters
        self._on_command = on_command
        self._send = send
        self._executing = 0

    def take(self, topic: Topic, command: Cmd, commands: asyncio.TaskGroup) -> None:
        """Run a command in a task of `commands`, or reject it while too many run."""
        if self._executing >= _COMMANDS:
            now_ms = self._clock.now_ms()
            why = because("too many commands", "commands-too-many")
            busy = Res(id=command.id, state="rejected", code=429, err=why.why, err_code=why.code, ts=now_ms)
            self._answer(topic, busy)
            return
        self._executing += 1
        commands.create_task(self._execute(topic, command), name=f"command-{topic.name}")

    async def _execute(self, topic: Topic, command: Cmd) -> None:
        try:
            tell = partial(self._tell, topic)
            self._answer(topic, await self._on_command(topic.device, topic.name, command, tell))
        finally:
            self._executing -= 1

    def _answer(self, topic: Topic, answer: Res) -> None:
        self._counters["commands"] += 1
        self._tell(topic, answer)

    def _tell(self, topic: Topic, answer: Res) -> None:
        self._send(self._address.topic("res", topic.device, topic.name), encode(answer))
