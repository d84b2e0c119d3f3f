"""The daemon, wired in the order data flows: device, source, pipeline, outbox, uplink."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import platform
import secrets
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from msgspec.structs import replace

from agent import health, process_memory, state_dir
from agent.clock_sync import Steps, TimeSync, kernel_state
from agent.commands import Commands, Rejected
from agent.config import AgentPlan
from agent.custody.statements import Custody, NodeKey, keep_stating
from agent.outbox import Message, Outbox, keep_committing
from agent.pipeline.pipeline import Pipeline, Sinks
from agent.pipeline.source import follow
from agent.systemd import Notifier
from agent.uplink.uplink import Identity, Uplink
from wire.clock import Clock
from wire.messages import AgentInfo, Birth, ClockState, Device, Event, Status
from wire.task_cancellation import end
from wire.topics import NODE_ITSELF

log = logging.getLogger("edgebed.agent")

SETTLED_S = 5.0  # after it the first connection and the first results have been
REST_S = 5.0  # for everything else to end
CLOSE_S = 4.0  # for the devices to close when the daemon stops
DRAIN_S = 6.0  # for what is taken to leave ...
DRAIN_IDLE_S = 2.0  # ... as long as acknowledgements come
STUCK_S = 30.0  # a committer that has not moved for so long is not fed


class App:
    """One agent at work on `plan`: `run` where the process is its own, `serve` where it is one of several."""

    def __init__(
        self,
        plan: AgentPlan,
        clock: Clock,
        version: str,
        clock_state: Callable[[], ClockState] = kernel_state,
    ) -> None:
        self.plan = plan
        self.clock = clock
        self.version = version
        self.boot = secrets.token_hex(8)
        self.ready = asyncio.Event()
        self.interrupted = False  # by Ctrl-C
        self._clock_state = clock_state
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._news = False  # a state changed that status.json does not show yet
        self._notifier = Notifier()

    async def run(self) -> None:
        """`serve` until a signal, with threads and memory of the process as a daemon wants them.

        Raises:
            ConfigError: the state folder cannot be used.
            TryAgain: another agent uses it.
        """
        loop = asyncio.get_running_loop()
        # few threads: each costs an arena of memory, and what they do waits for the disk
        loop.set_default_executor(ThreadPoolExecutor(3, thread_name_prefix="asyncio_"))
        self._task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        trimming = asyncio.create_task(self._let_go(), name="footprint")
        try:
            await self.serve()
        finally:
            trimming.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def serve(self) -> None:
        """Read, infer and send until `stop`; what is taken is on disk before this returns.

        Raises:
            ConfigError: the state folder cannot be used.
            TryAgain: another agent uses it.
        """
        try:
            with state_dir.locked(self.plan.config.state):
                await self._run()
        finally:
            self._notifier.close()

    def stop(self) -> None:
        """End soon and in order."""
        self._stopping.set()

    def _signalled(self, number: signal.Signals) -> None:
        self.interrupted = number == signal.SIGINT
        if self._stopping.is_set() and self._task is not None:
            self._task.cancel()  # asked twice: at once; what is taken is on disk anyway
        self.stop()

    async def _let_go(self) -> None:
        await self.ready.wait()
        await asyncio.sleep(SETTLED_S)
        process_memory.let_go_of_the_start()

    async def _run(self) -> None:
        config, clock = self.plan.config, self.clock
        config.broker.password()  # wrong files are told before anything starts
        config.broker.ssl_context()
        self.time = TimeSync(clock, self._clock_state)
        self._steps = Steps(clock)
        self.health = health.Health(clock, self.boot)
        self.outbox = await asyncio.to_thread(Outbox.open, config.state / "outbox", config.outbox, clock)
        try:
            self._key = await asyncio.to_thread(NodeKey.open, config.state)
            self._wire()
            await asyncio.to_thread(self.pipeline.open_models)
            self.sources = follow(self.plan.devices, self.clock, self.pipeline.sink, self._changed)
            await self._write_status()
            self.ready.set()
            self._notifier.ready(self._sentence())
            log.info("ready: %s", self._sentence())
            await self._flow()
        finally:
            await asyncio.to_thread(self.outbox.close)
            await self._write_status(running=False)

    def _wire(self) -> None:
        """From the model on downwards; the sources above it are made when the models are open."""
        config, clock = self.plan.config, self.clock
        self.commands = Commands(config.state, clock, {"snapshot": self._snapshot, "rebirth": self._rebirth})
        self.uplink = Uplink(
            Identity(self.plan.address, self.boot, self.version),
            config.broker,
            self.outbox,
            clock,
            state=config.state,
            ack=config.outbox.ack,
            drain_kb_per_s=config.outbox.drain_kb_per_s,
            packs=config.outbox.packs,
            describe=self.describe,
            status=self.status,
            clock_state=self.time.state,
            on_command=self.commands.handle,
        )
        self.custody = Custody(
            self.outbox,
            self.plan.address,
            self.boot,
            self._key,
            clock,
            clock_state=self.time.state,
            sent=lambda: self.uplink.counters.get("sent", 0),
        )
        self.pipeline = Pipeline(
            self.plan.devices,
            config.models,
            clock,
            gate_memory=config.state / "gate",
            clock_state=self.time.state,
            sinks=Sinks(
                send=self.outbox.append,
                live=self.uplink.live,
                snap=self.uplink.snap,
                changed=self._changed,
            ),
        )

    async def _flow(self) -> None:
        """Everything at once, then the end in the order of the flow: no reading taken is left behind."""
        async with asyncio.TaskGroup() as group:
            reading = [
                group.create_task(source.run(), name=f"source-{name}")
                for name, source in self.sources.items()
            ]
            commit_ms = self.plan.config.outbox.group_commit_ms
            rest = [
                group.create_task(self.pipeline.run(), name="pipeline"),
                group.create_task(keep_committing(self.outbox, commit_ms), name="committer"),
                group.create_task(keep_stating(self.custody, self.clock), name="custody"),
                group.create_task(self.uplink.run(), name="uplink"),
                group.create_task(self._heart(), name="heart"),
            ]
            await self._stopping.wait()
            log.info("stopping")
            self._notifier.stopping()
            await _ended(reading, CLOSE_S)
            self.pipeline.flush()
            await asyncio.to_thread(self.custody.close)
            await asyncio.to_thread(self.outbox.commit)
            await self._drain()
            self.uplink.live(NODE_ITSELF, "agent", self._heartbeat())
            await _ended(rest, REST_S)

    async def _drain(self) -> None:
        """Let what is taken leave while acknowledgements come; what stays is sent after the next start."""
        loop = asyncio.get_running_loop()
        depth, moved_s = -1, loop.time()
        until_s = moved_s + DRAIN_S
        while self.uplink.connected and loop.time() < until_s:
            left = self.outbox.stats().depth
            if left == 0:
                return
            if left != depth:
                depth, moved_s = left, loop.time()
            elif loop.time() - moved_s > DRAIN_IDLE_S:
                return
            await asyncio.sleep(0.05)

    # --- what the node says about itself

    def describe(self) -> Birth:
        """The birth; the uplink fills in its times and session."""
        devices = {
            name: Device(
                type=plan.config.type or plan.config.adapter,
                vendor=plan.config.vendor,
                model=plan.config.model,
                serial=plan.config.serial,
                streams=self.pipeline.streams(name),
            )
            for name, plan in self.plan.devices.items()
        }
        models = {name: slot.ref for name, slot in self.pipeline.slots.items() if slot.at_work}
        commands = self.commands.declared()
        digest = hashlib.sha256(msgspec.json.encode([devices, models, commands])).hexdigest()
        return Birth(
            ts=self.clock.now_ms(),
            boot=self.boot,
            sess=self.uplink.sess,
            ep=self.outbox.ep,
            agent=AgentInfo(
                ver=self.version,
                os=f"{platform.system()} {platform.release()}"[:128],
                arch=platform.machine(),
            ),
            devices=devices,
            cmds=commands,
            models=models,
            hash=digest[:16],
            key="" if self._key is None else self._key.public,
        )

    def status(self) -> Status:
        """The online status: devices and models as they are now."""
        return Status(
            state="online",
            ts=self.clock.now_ms(),
            boot=self.boot,
            sess=self.uplink.sess,
            agent=self.version,
            devices={
                name: replace(source.state, counters=health.told(source.counted))
                for name, source in self.sources.items()
            },
            models={
                name: replace(slot.state, counters=health.told(slot.counters))
                for name, slot in self.pipeline.slots.items()
            },
        )

    def _changed(self) -> None:
        self._news = True
        self.uplink.renew_status()

    async def _heart(self) -> None:
        """Each second: beat when it is due, and feed the watchdog while everything moves."""
        rhythm, committer = health.Rhythm(self.clock), _Committer(self.outbox)
        telling = health.Telling(self.clock)
        while True:
            if step_s := self._steps.look():
                self._tell_step(step_s)
            stats = self.outbox.stats()
            if beat := rhythm.due(stats, self.uplink.connected):
                self.uplink.live(NODE_ITSELF, "agent", self._heartbeat())
            if telling.due(self._counted()):
                self.uplink.renew_status()
            if beat or self._news:
                self._news = False
                await self._write_status()
            if committer.moves(self.clock.monotonic()):
                self._notifier.alive(self._sentence())
            else:
                log.error("the outbox has committed nothing for %g s though there is something", STUCK_S)
            await asyncio.sleep(min(1.0, self._notifier.watchdog_s / 3 or 1.0))

    def _counted(self) -> list[Mapping[str, int]]:
        slots = self.pipeline.slots.values()
        return [*(source.counted for source in self.sources.values()), *(slot.counters for slot in slots)]

    def _tell_step(self, step_s: float) -> None:
        """Readers are to know why times jump here."""
        why = f"the clock was set {abs(step_s):,.1f} s {'forward' if step_s > 0 else 'back'}"
        log.warning("%s", why)
        event = Event(ts=self.clock.now_ms(), type="clock-step", sev=1, value=step_s, why=why)
        event.clk = self.time.state().value
        self.outbox.append(Message("event", NODE_ITSELF, event.type, event))

    def _heartbeat(self) -> dict[str, Any]:
        stats, clk = self.outbox.stats(), self.time.state()
        return self.health.heartbeat(stats, self.outbox.ep, clk, self.uplink.ack_ms)

    async def _write_status(self, *, running: bool = True) -> None:
        # in a thread: a rename can wait for the disk
        await asyncio.to_thread(health.write_status, self.plan.config.state, self._document(running))

    def _document(self, running: bool) -> dict[str, Any]:
        return {
            **self._heartbeat(),
            "running": running,
            "node": str(self.plan.address),
            "agent": self.version,
            "connected": running and self.uplink.connected,
            "sess": self.uplink.sess,
            "devices": {
                name: {**msgspec.to_builtins(source.state), **source.counted}
                for name, source in self.sources.items()
            },
            "models": {
                name: {**msgspec.to_builtins(slot.state), **slot.counters}
                for name, slot in self.pipeline.slots.items()
            },
            "uplink": self.uplink.counters,
            "pictures": self.pipeline.counters,
            "oversized": self.pipeline.oversized(),
        }

    def _sentence(self) -> str:
        well = sum(source.state.state == "ok" for source in self.sources.values())
        models = self.pipeline.models().values()
        link = "connected" if self.uplink.connected else "offline"
        return (
            f"{self.plan.address}: {well} of {len(self.sources)} devices read, "
            f"{sum(model.state == 'ok' for model in models)} of {len(models)} models run, {link}"
        )

    # --- commands

    async def _snapshot(self, device: str, args: dict[str, Any]) -> dict[str, Any]:
        stream = args.get("stream", "")
        made = await self.pipeline.snapshot(device, stream) if isinstance(stream, str) else None
        if made is None:
            raise Rejected(f"device {device!r} has no picture of {stream or 'any stream'} yet")
        return {
            "ts": made.ts,
            "w": made.w,
            "h": made.h,
            "sha256": made.sha256,
            "frame": made.frame,
            "blur": made.blur,
        }

    async def _rebirth(self, _device: str, _args: dict[str, Any]) -> dict[str, Any]:
        self.uplink.renew_birth()
        return {}


class _Committer:
    """Whether the committer task moves: what is numbered gets onto the disk, or the disk says why not."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._head = -1
        self._since_s: float | None = None

    def moves(self, now_s: float) -> bool:
        stats = self._outbox.stats()
        waiting = stats.head < self._outbox.head and not stats.trouble
        if not waiting or stats.head != self._head or self._since_s is None:
            self._head, self._since_s = stats.head, now_s
        return now_s - self._since_s < STUCK_S


async def _ended(tasks: list[asyncio.Task[None]], within_s: float) -> None:
    for task in await end(tasks, within_s):
        log.warning("%s did not end within %g s", task.get_name(), within_s)
