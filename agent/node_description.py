"""What a node reports about itself: its birth, its status, its heartbeat, status.json and one sentence."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.commands import Commands
from agent.configuration import Configuration
from agent.custody.node_key import NodeKey
from agent.fences.fences import Fences
from agent.fences.meter import Meter
from agent.health import Health, nonzero_counters
from agent.outbox import Outbox
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.source import Source
from agent.slots.slots import Slots
from agent.uplink.uplink import NodeIdentity, Uplink
from wire.clock import Clock
from wire.messages import AgentInfo, Birth, ClockState, Device, Live, ModelState, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDescription:
    """Describes a running agent from its parts; every method reads them as they are now."""

    identity: NodeIdentity
    key: NodeKey | None
    clock: Clock
    clock_state: Callable[[], ClockState]
    health: Health
    outbox: Outbox
    commands: Commands
    uplink: Uplink
    pipeline: Pipeline
    configuration: Configuration
    sources: Mapping[str, Source]
    fences: Fences
    meter: Meter
    slots: Slots

    def birth(self) -> Birth:
        """The birth: devices with their streams, commands and models."""
        devices = {
            name: Device(
                type=plan.config.type or plan.config.adapter,
                vendor=plan.config.vendor,
                model=plan.config.model,
                serial=plan.config.serial,
                streams=self.pipeline.streams(name),
            )
            for name, plan in self.pipeline.devices.items()
        }
        models = {name: slot.ref for name, slot in self.pipeline.runners.items() if slot.at_work}
        commands = self.commands.declared()
        digest = hashlib.sha256(msgspec.json.encode([devices, models, commands])).hexdigest()
        return Birth(
            ts=self.clock.now_ms(),
            boot=self.identity.boot,
            sess=self.uplink.sess,
            ep=self.outbox.ep,
            agent=AgentInfo(
                ver=self.identity.agent,
                os=f"{platform.system()} {platform.release()}"[:128],
                arch=platform.machine(),
            ),
            devices=devices,
            cmds=commands,
            models=models,
            hash=digest[:16],
            key="" if self.key is None else self.key.public,
        )

    def status(self) -> Status:
        """The online status: the states and counters of devices and models."""
        problem = self.configuration.problem
        problem = problem if problem.why else self.uplink.mac_problem
        coded = problem.coded()
        return Status(
            reason=problem.why[:2_000],
            code=coded["code"],
            args=coded["args"],
            state="online",
            ts=self.clock.now_ms(),
            boot=self.identity.boot,
            sess=self.uplink.sess,
            agent=self.identity.agent,
            devices={
                name: replace(source.state, counters=nonzero_counters(source.counted))
                for name, source in self.sources.items()
            },
            models={
                name: replace(state, counters=nonzero_counters(self.pipeline.runners[name].counters))
                for name, state in self._models()
            },
        )

    def _models(self) -> Iterator[tuple[str, ModelState]]:
        for name, runner in self.pipeline.runners.items():
            yield name, replace(runner.shown, slot=self.slots.report(name, runner))

    def counters(self) -> list[Mapping[str, int]]:
        """The counters of every device and every model."""
        return [
            *(source.counted for source in self.sources.values()),
            *(slot.counters for slot in self.pipeline.runners.values()),
        ]

    def heartbeat(self) -> Live:
        """The body of `live/_/agent`."""
        beat = self.health.heartbeat(
            self.outbox.stats(),
            self.outbox.ep,
            self.clock_state(),
            self.uplink.ack_ms,
            self.uplink.refused,
            self.uplink.behind,
        )
        return {**beat, **self.meter.fields(), **self.fences.fields()}

    def document(self, *, running: bool = True) -> dict[str, Any]:
        """The content of status.json."""
        return {
            **self.heartbeat(),
            "running": running,
            "node": str(self.identity.address),
            "agent": self.identity.agent,
            "connected": running and self.uplink.connected,
            "sess": self.uplink.sess,
            "devices": {
                name: {**msgspec.to_builtins(source.state), **source.counted}
                for name, source in self.sources.items()
            },
            "models": {
                name: {**msgspec.to_builtins(state), **self.pipeline.runners[name].counters}
                for name, state in self._models()
            },
            "uplink": self.uplink.counters,
            "pictures": self.pipeline.counters,
            "oversized": self.pipeline.oversized(),
            "usage": msgspec.to_builtins(self.meter.days),
            **self.configuration.document(),
            "mac": self.uplink.mac_problem.fields() if self.uplink.mac_problem.why else {},
        }

    def sentence(self) -> str:
        """The state of the node in one line, for the log and for systemd."""
        well = sum(source.state.state == "ok" for source in self.sources.values())
        models = self.pipeline.models().values()
        link = "connected" if self.uplink.connected else "offline"
        return (
            f"{self.identity.address}: {well} of {len(self.sources)} devices read, "
            f"{sum(model.state == 'ok' for model in models)} of {len(models)} models run, {link}"
        )
