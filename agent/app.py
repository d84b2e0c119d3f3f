"""The daemon: starts sources, pipeline, outbox and uplink, and ends them in the order data flows."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from agent import health, process_children, process_memory, state_dir
from agent.clock_sync import Steps, TimeSync, kernel_state
from agent.commands import Commands, Rejected
from agent.config import AgentPlan
from agent.configuration import Configuration
from agent.custody.node_key import NodeKey
from agent.custody.statements import Custody, keep_stating
from agent.desired import DesiredConfig, Start
from agent.fences.cgroup import Cgroup, keep_limits
from agent.fences.fences import Fences
from agent.fences.meter import Meter, cpu_s
from agent.identity import folder_of, mac_key
from agent.inference.model_cache import ModelCache
from agent.inference.signing.trust import TrustedKeys
from agent.node_description import NodeDescription
from agent.outbox import Message, Outbox, keep_committing
from agent.pilots.exposure import Exposure, Switch
from agent.pilots.model_switch import ModelSwitch, ThresholdSwitch
from agent.pilots.pilots import PilotHooks, Pilots
from agent.pilots.set_point import SetPointSwitch, why_not
from agent.pilots.switches import Switches
from agent.pipeline import sample_commands
from agent.pipeline.changes import Setup
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.running import Running
from agent.pipeline.sinks import Sinks
from agent.pipeline.source import Source
from agent.remote.trial import Trials
from agent.slots import slot_commands
from agent.slots.download import Download
from agent.slots.model_store import ModelStore
from agent.slots.slots import Slots
from agent.systemd import Notifier
from agent.uplink.uplink import NodeHooks, NodeIdentity, Uplink, UplinkSettings
from wire.clock import Clock, gathered_s
from wire.messages import ClockState, Event, Reported
from wire.pilot.plan import Plan
from wire.reasons import NO_REASON, Reason, because
from wire.task_cancellation import end
from wire.topics import NODE_ITSELF
from wire.usage import USAGE

log = logging.getLogger("edgebed.agent")

SETTLED_S = 5.0  # by then the first connection was made and the first results are out
REST_S = 5.0  # for everything but the devices to end
DRAIN_S = 6.0  # for the messages on disk to leave ...
DRAIN_IDLE_S = 2.0  # ... as long as acknowledgements come
KEYS_S = 5.0  # how often the trusted keys are looked at
SAFE_S = 4.0  # for a device to get its safe number
STUCK_S = 30.0  # the watchdog is not fed when the outbox has committed nothing for so long


class App:
    """One agent that runs `plan`. `run` owns its process; `serve` may share the process with other agents.

    Readings do not wait until the gate has checked a model. There are two exceptions: the readings of a
    recording that waits for its reader, and all readings with `models_first`, which is for scenarios that
    must give the same results each time.
    """

    def __init__(
        self,
        plan: AgentPlan,
        clock: Clock,
        version: str,
        clock_state: Callable[[], ClockState] = kernel_state,
        *,
        models_first: bool = False,
    ) -> None:
        self.plan = plan
        self.clock = clock
        self.boot = secrets.token_hex(8)
        self.ready = asyncio.Event()
        self.interrupted = False  # by Ctrl-C
        self.sources: dict[str, Source] = {}  # by device, filled before the agent is ready
        self._identity = NodeIdentity(plan.address, self.boot, version)
        self._clock_state = clock_state
        self._models_first = models_first
        self._cgroup: Cgroup | None = None  # that keeps the limits of CPU and memory
        self._wired = False
        self._reload_asked = False  # before there was a configuration to ask
        self._task: asyncio.Task[None] | None = None
        self._ends = asyncio.Event()  # the agent is to end
        self._stopping = asyncio.Event()  # `_flow` is to end
        self._ahead: tuple[str, str, int] | None = (
            None  # the old ep, and which collector has which number of it
        )
        self._group: asyncio.TaskGroup  # of `_flow`
        self._opening: set[asyncio.Task[None]] = set()  # models
        self._state_changed = False  # status.json does not show it yet
        self._notifier = Notifier()

    async def run(self) -> None:
        """Run `serve` until a signal comes, with the threads and the memory settings of a daemon.

        Raises:
            ConfigError: the state folder cannot be used, or belongs to another node.
            TryAgain: another agent uses the state folder.
        """
        process_memory.use_one_heap()
        self._cgroup = await asyncio.to_thread(keep_limits, self.plan.config.fence)
        pictures = any(
            each.kind == "frame" for plan in self.plan.devices.values() for each in plan.streams.values()
        )
        if pictures:
            process_memory.keep_memory_of_pictures()
        loop = asyncio.get_running_loop()
        # Few threads: each costs memory, and most of their time they wait for the disk.
        loop.set_default_executor(ThreadPoolExecutor(3, thread_name_prefix="asyncio_"))
        self._task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        hung_up = signal.getsignal(signal.SIGHUP)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        trimming = asyncio.create_task(self._trim_memory(pictures=pictures), name="trim-memory")
        try:
            await self.serve()
        finally:
            trimming.cancel()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            signal.signal(signal.SIGHUP, hung_up)  # a late one must not kill the process

    async def serve(self) -> None:
        """Read devices, run models and send until `stop`; every message taken is on disk when this returns.

        Raises:
            ConfigError: the state folder cannot be used, or belongs to another node.
            TryAgain: another agent uses the state folder.
        """
        try:
            with state_dir.locked(self.plan.config.state, str(self.plan.address)):
                await self._run()
                if self._ahead is not None and not self._ends.is_set():
                    await self._run()  # with another outbox
        finally:
            self._notifier.close()

    def stop(self) -> None:
        """Ask the agent to end in order; returns at once."""
        self._ends.set()
        self._stopping.set()

    def reload(self) -> None:
        """Ask the agent to read its config again; returns at once."""
        self._reload_asked = True
        if self._wired:
            self.configuration.reload()

    def _signalled(self, number: signal.Signals) -> None:
        self.interrupted = number == signal.SIGINT
        if self._ends.is_set() and self._task is not None:
            self._task.cancel()  # the second signal ends the agent at once: its messages are on disk
        self.stop()

    async def _trim_memory(self, *, pictures: bool) -> None:
        await self.ready.wait()
        await asyncio.sleep(SETTLED_S)
        if pictures:  # from here on malloc keeps what is freed
            process_memory.return_free_memory()
        if self.plan.config.memory.trim:
            process_memory.unmap_program_text()

    async def _run(self) -> None:
        config, clock = self.plan.config, self.clock
        if not self._ends.is_set():
            self._stopping.clear()
        self.desired = DesiredConfig(self.plan, clock)
        start = await asyncio.to_thread(self.desired.start, self.plan)
        config.broker.password()  # unusable files are reported before anything starts
        config.broker.ssl_context()
        mac_key(folder_of(config.broker))
        self.time = TimeSync(clock, self._clock_state)
        self._steps = Steps(clock)
        self.outbox = await asyncio.to_thread(Outbox.open, config.state / "outbox", config.outbox, clock)
        try:
            key = await asyncio.to_thread(NodeKey.open, config.state, folder_of(config.broker))
            self.meter = await asyncio.to_thread(
                Meter, config.state, clock, self._cgroup.cpu_s if self._cgroup else cpu_s
            )
            self.keys = await asyncio.to_thread(TrustedKeys, config.trust, self.plan.address)
            store = ModelStore(config.state, config.versions.max_mb)
            self.slots = Slots(store, clock, lambda: self._changed())  # noqa: PLW0108 - needs the uplink
            self.slots.fetch = Download.of(config.versions, self.plan.address, config.broker, store, clock)
            self.slots.lock.window = config.versions.window
            await asyncio.to_thread(self.slots.start)
            self.pilots = Pilots(
                self.plan.address,
                config.state,
                clock,
                PilotHooks(self._record, self._reported_anew, lambda: self.keys.trust, self._unable),
                least_signers=config.remote.pilot_signers,
            )
            if config.remote.pilot:
                await asyncio.to_thread(self.pilots.start)
            setup = await asyncio.to_thread(Setup.of, start.plan.devices, start.plan.config.models)
            self._wire(key, start, setup)
            self._report_new_outbox()
            if self._models_first:
                await self._unless_stopped(self.pipeline.open_models())
            await self._write_status()
            self.ready.set()
            self._notifier.ready(self.description.sentence())
            log.info("ready: %s", self.description.sentence())
            await self._flow()
        finally:
            if self._wired:
                await self.set_points.close(SAFE_S)  # if `_flow` failed
            await asyncio.to_thread(self.outbox.close)
            if self._wired:
                await asyncio.to_thread(self.pipeline.close)
                self._measure()
                await asyncio.to_thread(self.meter.write, self.meter.content())
                await self._write_status(running=False)

    def _wire(self, key: NodeKey | None, start: Start, setup: Setup) -> None:
        """Make everything that `_flow` runs."""
        config, clock = self.plan.config, self.clock
        self.fences = Fences(config.fence, clock, disk_mb=config.outbox.max_mb)
        if self._cgroup is not None:
            self.fences.by = "cgroup"
        own = {
            "snapshot": self._snapshot,
            "rebirth": self._rebirth,
            "samples": sample_commands.samples(config.state),
        }
        self.commands = Commands(config.state, clock, {**own, **slot_commands.actions(self.slots)})
        self.uplink = Uplink(
            self._identity,
            config.broker,
            self.outbox,
            clock,
            NodeHooks(
                describe=lambda: self.description.birth(),  # noqa: PLW0108 - it is made below
                status=lambda: self.description.status(),  # noqa: PLW0108
                clock_state=self.time.state,
                on_command=self.commands.handle,
                on_desired={
                    **({"config": self._take_desired} if config.remote.config else {}),
                    **({"pilot": self.pilots.take} if config.remote.pilot else {}),
                },
                reported=self._reports,
                on_ahead=None if self._ahead is not None else self._start_anew,
            ),
            UplinkSettings(
                config.state,
                config.outbox.ack,
                config.outbox.drain_kb_per_s,
                packs=config.outbox.packs,
                ack_from=tuple(config.outbox.ack_from),
                fences=self.fences,
            ),
        )
        self.custody = Custody(
            self.outbox,
            self.plan.address,
            self.boot,
            key,
            self.time,
            sent=lambda: self.uplink.counters.get("sent", 0),
        )
        self.pipeline = Pipeline(
            setup.devices,
            self.slots.versions(setup).models,
            clock,
            cache=ModelCache(
                config.state / "gate",
                self.fences,
                self.keys.trust,
                unsigned="thread" if self._models_first else "process",
            ),
            clock_state=self.time.state,
            sinks=Sinks(
                send=self.outbox.append,
                live=self.uplink.live,
                snap=self.uplink.snap,
                changed=self._changed,
                declared=self._declared,
                state=config.state,
            ),
        )
        self.running = Running(setup, clock, self.pipeline, self._changed, self.slots.versions)
        self.slots.attach(self.pipeline, self.running)
        self.sources = self.running.sources
        trials = Trials(self.running, self.pipeline, clock, config.remote.soak_s, self._open_models)
        self.configuration = Configuration(self.plan, self.desired, start, trials, clock, self._reconfigured)
        self.set_points = SetPointSwitch(
            lambda: self.running.setup.devices,
            clock,
            config.state,
            lambda: self.exposure.look(),  # noqa: PLW0108 - it is made below
        )
        switches: dict[str, Switch] = {
            "model": ModelSwitch(self.pipeline),
            "threshold": ThresholdSwitch(self.pipeline),
            "set-point": self.set_points,
        }
        self.exposure = Exposure(
            self.plan.address,
            clock,
            lambda: self.pilots.current,
            Switches(switches),
            self._record,
            lambda: self.running.fingerprint,
        )
        self.set_points.start()
        self.exposure.look()  # before the first result
        self.description = NodeDescription(
            identity=self._identity,
            key=key,
            clock=clock,
            clock_state=self.time.state,
            health=health.Health(clock, self.boot),
            outbox=self.outbox,
            commands=self.commands,
            uplink=self.uplink,
            pipeline=self.pipeline,
            configuration=self.configuration,
            sources=self.sources,
            fences=self.fences,
            meter=self.meter,
            slots=self.slots,
        )
        self._wired = True

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> None:
        """Await `work`; cancel it when the agent stops first."""
        tasks = [asyncio.create_task(work, name="models"), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(tasks)
        if not tasks[0].cancelled():
            tasks[0].result()

    async def _flow(self) -> None:
        """Run all tasks until `stop`, then end them in the order of the flow, so that no reading is left."""
        async with asyncio.TaskGroup() as self._group:
            group = self._group
            self.running.start(group)
            commit_ms = self.plan.config.outbox.group_commit_ms
            rest = [
                group.create_task(self.pipeline.run(), name="pipeline"),
                group.create_task(keep_committing(self.outbox, commit_ms), name="committer"),
                group.create_task(keep_stating(self.custody, self.clock), name="custody"),
                group.create_task(self.uplink.run(), name="uplink"),
                group.create_task(self._heart(), name="heart"),
                group.create_task(self._watch_keys(), name="trusted keys"),
                group.create_task(self.slots.run(), name="slots"),
            ]
            if self.plan.config.remote.pilot:
                rest.append(group.create_task(self.pilots.run(), name="pilot"))
                rest.append(group.create_task(self.exposure.run(), name="exposure"))
            if not self._models_first:
                self._open_models("models")
            changing = group.create_task(self.configuration.run(), name="configuration")
            if self._reload_asked:
                self.configuration.reload()
            await self._stopping.wait()
            if self._ends.is_set():
                log.info("stopping")
                self._notifier.stopping()
            await end([changing])
            await asyncio.to_thread(self.desired.stopped)
            self.exposure.hold()
            await self.set_points.close(SAFE_S)
            await self.running.stop()
            self.pipeline.flush()
            self.exposure.stop()
            if self._ends.is_set():
                self._measure()
                self._record_usage(closing=True)
            await asyncio.to_thread(self.custody.close)
            await asyncio.to_thread(self.outbox.commit)
            if self._ends.is_set():
                await self._drain()
            self._beat()
            await _ended([*rest, *self._opening], REST_S)

    def _open_models(self, name: str) -> asyncio.Task[None]:
        """Open the models that are not open, in a task that ends with the agent."""
        task = self._group.create_task(self.pipeline.open_models(), name=name)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    async def _drain(self) -> None:
        """Wait for the outbox to empty while acknowledgements come; the rest is sent after the next start."""
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

    def _start_anew(self, by: str, ahead: int) -> None:
        """Start with another outbox: this one goes on from an older state of its folder.

        Once in the life of a process: a second time it would be forged, because a new ep is random.
        """
        log.warning(
            "%s has number %d of this outbox, which gave %d at most: its state folder was set back, as by an "
            "image; what waits goes into a new outbox", by, ahead, self.outbox.head,
        )  # fmt: skip
        self._ahead = self.outbox.ep, by, ahead
        try:
            self.outbox.ask_renewal()
        except OSError as error:  # the next start tries again
            log.error("the outbox cannot be renewed now: %s", error.strerror or error)
            return
        self._stopping.set()

    def _report_new_outbox(self) -> None:
        """Record as an event why the numbers start again."""
        if self._ahead is not None:
            ep, by, ahead = self._ahead
            text = f"{by} has number {ahead:,} of outbox {ep}: the state folder was set back, as by an image"
            why = because(text, "state-set-back", by=by, ep=ep, seq=ahead)
            self._record(Event(ts=self.clock.now_ms(), type="new-outbox", sev=3, **why.fields()))

    def _changed(self) -> None:
        self._state_changed = True
        self.uplink.renew_status()

    def _unable(self, plan: Plan) -> Reason:
        """Why this node cannot follow a plan; thread-safe."""
        what = plan.intervention
        return why_not(what, self.running.setup.devices) if what.kind == "set-point" else NO_REASON

    def _reports(self) -> dict[str, Reported]:
        """What became of each desired document that this node takes."""
        found = {"config": self.desired.reported()}
        if self.plan.config.remote.pilot:
            found["pilot"] = self.pilots.reported()
        return {what: each for what, each in found.items() if each is not None}

    def _take_desired(self, body: bytes, signed: bool) -> None:
        self.configuration.take_desired(body, signed=signed)

    def _reported_anew(self) -> None:
        self.uplink.renew_reported()
        self._changed()

    def _reconfigured(self) -> None:
        self.uplink.renew_reported()
        self._declared()

    def _declared(self) -> None:
        self.uplink.renew_birth()
        self._changed()

    async def _heart(self) -> None:
        """Each second: send a heartbeat if one is due, and feed the watchdog while the outbox commits."""
        beats, counters = health.HeartbeatSchedule(self.clock), health.CounterSchedule(self.clock)
        commits = _CommitWatch(self.outbox)
        while True:
            if step_s := self._steps.look():
                self._report_clock_step(step_s)
            self._measure()
            self._record_usage()
            if content := self.meter.due():
                await asyncio.to_thread(self.meter.write, content)
            await self._guard_memory()
            beat = beats.due(
                self.outbox.stats(), self.uplink.connected, behind=self.uplink.behind is not None
            )
            if beat:
                self._beat()
            if counters.due(self.description.counters()):
                self.uplink.renew_status()
            if beat or self._state_changed:
                self._state_changed = False
                await self._write_status()
            if commits.move(self.clock.monotonic()):
                self._notifier.alive(self.description.sentence())
            else:
                log.error("the outbox has committed nothing for %g s although messages wait", STUCK_S)
            now_s, third_s = asyncio.get_running_loop().time(), self._notifier.watchdog_s / 3
            await asyncio.sleep(third_s if 0 < third_s < 1.0 else gathered_s(now_s + 1.0) - now_s)

    def _measure(self) -> None:
        self.meter.sample(
            sent_bytes=self.uplink.sent_bytes,
            inferences=self.fences.runs,
            skipped=self.fences.skipped,
            rss_mb=(self._cgroup and self._cgroup.memory_mb()) or process_children.rss_mb(),
            disk_mb=round(self.outbox.stats().bytes / 1e6, 1),
        )

    def _record_usage(self, *, closing: bool = False) -> None:
        """Send what was used on each day as an event, so that the collector has it durably."""
        for record in self.meter.records(closing=closing):
            detail = msgspec.to_builtins(record)
            self._record(Event(ts=self.clock.now_ms(), type=USAGE, sev=0, detail=detail))

    def _record(self, event: Event) -> None:
        """Take an event of the node itself."""
        event.clk = self.time.state().value
        self.outbox.append(Message("event", NODE_ITSELF, event.type, event))

    async def _watch_keys(self) -> None:
        """Stop a model whose package is not allowed any more because a key was revoked or removed."""
        while self.plan.config.trust.keys:
            await asyncio.sleep(KEYS_S)
            trust = await asyncio.to_thread(self.keys.changed)
            if trust is not None:
                self.pilots.trust_changed()
                await self.pipeline.trust(trust)

    async def _guard_memory(self) -> None:
        """Stop the newest model while this process has more memory than its fence allows."""
        if self.fences.no_room(process_children.rss_mb()).why:
            process_memory.return_free_memory()
        why = self.fences.over_memory(process_children.rss_mb())
        if why.why and (slot := await self.pipeline.stop_newest(why)):
            log.error("model %s is stopped: %s", slot, why.why)
            process_memory.return_free_memory()

    def _beat(self) -> None:
        self.uplink.live(NODE_ITSELF, "agent", self.description.heartbeat())

    def _report_clock_step(self, step_s: float) -> None:
        """Record the step as an event: it explains to readers why times jump here."""
        side = "forward" if step_s > 0 else "back"
        why = because(
            f"the clock was set {abs(step_s):,.1f} s {side}", f"clock-set-{side}", seconds=abs(step_s)
        )
        log.warning("%s", why.why)
        self._record(Event(ts=self.clock.now_ms(), type="clock-step", sev=1, value=step_s, **why.fields()))

    async def _write_status(self, *, running: bool = True) -> None:
        # In a thread: a rename can wait for the disk.
        document = self.description.document(running=running)
        await asyncio.to_thread(health.write_status, self.plan.config.state, document)

    async def _snapshot(self, device: str, args: dict[str, Any]) -> dict[str, Any]:
        stream = args.get("stream", "")
        made = await self.pipeline.snapshot(device, stream) if isinstance(stream, str) else None
        if made is None:
            raise Rejected(f"device {device!r} has no picture of {stream or 'any stream'} yet").coded(
                "no-picture", device=device
            )
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


class _CommitWatch:
    """Detects an outbox that has stopped committing although messages wait and the disk reports no error."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._head = -1
        self._since_s: float | None = None

    def move(self, now_s: float) -> bool:
        """Whether commits move, or nothing waits, or the disk has reported why it takes nothing."""
        stats = self._outbox.stats()
        waiting = stats.head < self._outbox.head and not stats.trouble
        if not waiting or stats.head != self._head or self._since_s is None:
            self._head, self._since_s = stats.head, now_s
        return now_s - self._since_s < STUCK_S


async def _ended(tasks: list[asyncio.Task[None]], within_s: float) -> None:
    for task in await end(tasks, within_s):
        log.warning("%s did not end within %g s", task.get_name(), within_s)
