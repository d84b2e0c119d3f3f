"""The demo: four testbeds, a cut link, a killed agent, and a count of every message at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgebed.broker import Kind
from edgebed.installation import AgentSetup, Installation
from wire.errors import EdgebedError

# KIND@START-END: the times of a fault are seconds after the simulator's start
COBOT = AgentSetup("cobot-01", "robot.yaml", "arm", "opcua", options=("--fault", "friction:3@25-90x1.5"))
CAR = AgentSetup(
    *("car-01", "mobility.yaml", "vehicle", "can"),
    options=("--fault", "brake@10-3600"),  # repeats every 20 s
    further={"gnss": ["nmea"]},
)
BED = AgentSetup(
    *("bed-01", "healthcare.yaml", "monitor", "hl7"),
    options=("--fault", "af@8-100", "--fault", "desaturation@100-1000"),
)
CAMERA = AgentSetup(
    *("cam-01", "smart-city.yaml", "camera", "camera"),
    further={"air": ["modbus", "--fault", "plume@40-400"]},
)
TESTBEDS = [COBOT, CAR, BED, CAMERA]
CHART = ("joints", "j1_position")  # the signal whose gap must fill


@dataclass
class Act:
    """The result of one act: whether it passed, and the figures that decided it."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    why: str = ""


@dataclass
class Outcome:
    """The result of the demo; `ok` only when every act passed."""

    ok: bool
    taken: int
    stored: int
    lost: int
    duplicates_dropped: int
    acts: list[Act]

    def line(self) -> str:
        """Return the closing line."""
        relation = "=" if self.taken == self.stored else "!="
        return (
            f"taken {self.taken:,} {relation} stored {self.stored:,}, {self.lost} lost, "
            f"{self.duplicates_dropped} duplicates dropped"
        )

    def document(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        return asdict(self)


class Demo:
    """Plays the acts on an installation.

    `say` prints a line; `count` prints a line that replaces the counting line before it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        broker: Kind,
        http_port: int,
        seconds: float,
        say: Callable[[str], None],
        count: Callable[[str], None],
    ) -> None:
        self.installation = Installation(folder, TESTBEDS, broker=broker, http_port=http_port, seed=7)
        self.cut_s = max(14.0, seconds / 4)  # rows count as late after 10 s
        self.say = say
        self.count = count
        self.acts: list[Act] = []
        self._cut_at_ms = 0

    async def play(self) -> Outcome:
        """Play the acts in order; a failed act ends the play, and the messages are counted in any case."""
        story: list[tuple[str, Callable[[Act], Awaitable[None]]]] = [
            ("devices turn green", self._green),
            ("a camera picture with boxes from a real ONNX run", self._boxes),
            ("a 50 Hz signal chart", self._chart),
            ("an arrhythmia, hard braking, a worn joint: the models raise alarms", self._alarms),
            ("the link is cut, the outbox counts up", self._cut_link),
            ("the agent is killed with SIGKILL and restarted", self._kill_agent),
            ("the backlog drains into the chart's gap", self._drain),
        ]
        for name, play in story:
            if not await self._act(name, play):
                break
        return await self._account()

    async def _act(self, name: str, play: Callable[[Act], Awaitable[None]]) -> bool:
        act, began = Act(name), time.monotonic()
        self.acts.append(act)
        self.say(f"\n{len(self.acts)}. {name[0].upper()}{name[1:]}")
        try:
            await play(act)
            act.ok = not act.why
        except EdgebedError as error:
            act.why = str(error)
        act.seconds = round(time.monotonic() - began, 1)
        if act.why:
            self.say(f"   FAILED: {act.why}")
        return act.ok

    async def _green(self, act: Act) -> None:
        async def all_ok() -> bool:
            nodes = (await self.installation.api("/api/v1/fleet"))["nodes"]
            devices = [device for node in nodes for device in node["devices"]]
            models = [model for node in nodes for model in node["models"]]
            states = [f"{d['id']} {d['state']}" for d in devices] + [
                f"{m['slot']} {m['state']}" for m in models
            ]
            self.count("   " + ", ".join(states))
            act.figures["devices"] = len(devices)
            act.figures["models"] = len(models)
            there = len(nodes) == len(TESTBEDS) and len(devices) >= sum(
                1 + len(testbed.further) for testbed in TESTBEDS
            )
            works = all(device["state"] == "ok" for device in devices)
            return there and works and bool(models) and all(m["state"] in ("ok", "degraded") for m in models)

        await self.installation.until("every device and every model turns green", all_ok, 120)
        for testbed, describe in ((COBOT, _robot), (CAR, _car), (BED, _bed), (CAMERA, _street)):
            line = await self.installation.until(
                f"newest values of {testbed.name}", partial(self._newest, testbed, describe)
            )
            self.say(f"   {testbed.name:9} {line}")
        self.say(
            f"   {act.figures['devices']} devices are read, {act.figures['models']} models run beside them. "
            f"The page: {self.installation.url}"
        )

    async def _newest(self, testbed: AgentSetup, describe: Callable[[Any], str]) -> str:
        return describe(
            (await self.installation.api(f"/api/v1/nodes/{self.installation.node(testbed.name)}"))["live"]
        )

    async def _boxes(self, act: Act) -> None:
        path = self._device(CAMERA) + "/snapshot/frames"

        async def with_boxes() -> Any:
            shot = await self.installation.api(path)
            return shot if shot["boxes"] else None

        shot = await self.installation.until("a snapshot with boxes", with_boxes)
        act.figures.update(frame=shot["frame"], boxes=len(shot["boxes"]), model=shot["model"])
        kinds = [box["label"] for box in shot["boxes"]]
        seen = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        self.say(f"   frame {shot['frame']}: {seen}, by {shot['model']}")

    async def _chart(self, act: Act) -> None:
        async def steady() -> Any:
            at = await self._last_time()
            rows = await self._rows(at - 3000, at)
            act.figures["rows_per_s"] = round(rows / 3, 1)
            return rows >= 0.95 * 3 * 50

        await self.installation.until("three seconds of the signal at 50 Hz", steady)
        self.say(f"   {act.figures['rows_per_s']} rows/s of 18 signals are stored and drawn")

    async def _alarms(self, act: Act) -> None:
        expected = [
            (BED, "AF", "atrial fibrillation in ten seconds of ECG, confidence {score:.0%}"),
            (CAR, "brake", "hard braking, confidence {score:.0%}"),
            (COBOT, "j3", "joint 3 moves stiffly: anomaly {score:.2f}, the alarm limit is 1"),
        ]
        for testbed, top, sentence in expected:
            event = await self.installation.until(
                f"an alarm of {testbed.name}", partial(self._alarm, testbed, top)
            )
            self.say(f"   {testbed.name:9} {sentence.format(score=event['score'])}  ({event['model']})")
            act.figures[testbed.name] = {key: event[key] for key in ("top", "score", "model", "sev")}

    async def _alarm(self, testbed: AgentSetup, top: str) -> Any:
        events = (await self.installation.api(f"{self._device(testbed)}/events?limit=50"))["events"]
        return next((event for event in events if event["sev"] >= 3 and event.get("top") == top), None)

    async def _cut_link(self, act: Act) -> None:
        for link in self.installation.links.values():
            link.refuse(True)
            link.cut()
        self._cut_at_ms = await self._now_ms()
        before = await self._depths()
        began = time.monotonic()
        while time.monotonic() - began < self.cut_s:
            await asyncio.sleep(0.5)
            depths = await self._depths()
            waiting = ", ".join(f"{testbed} {depth}" for testbed, depth in depths.items())
            self.count(f"   waiting on disk: {waiting} messages")
        act.figures.update(before=before, after=depths, cut_s=round(time.monotonic() - began, 1))
        if not all(depths[testbed] > before[testbed] for testbed in depths):
            act.why = f"an outbox did not grow: {before} -> {depths}"
        self.say(f"   cut for {act.figures['cut_s']} s; waiting on disk: {waiting} messages")

    async def _kill_agent(self, act: Act) -> None:
        agent, pid = self.installation.agents[COBOT.name], self.installation.agents[COBOT.name].pid
        before = self.installation.agent_status(COBOT.name)
        agent.kill()
        self.say(f"   kill -9 {pid}, while {before['depth']} messages wait on its disk")
        agent.start()

        def back() -> bool:
            status = self.installation.agent_status(COBOT.name)
            return bool(status["boot"] != before["boot"] and status["depth"] > before["depth"])

        await self.installation.until("the restarted agent finds its outbox and adds to it", back)
        after = self.installation.agent_status(COBOT.name)
        act.figures.update(depth_before=before["depth"], depth_after=after["depth"])
        if after["ep"] != before["ep"]:
            act.why = "the restarted agent began a new outbox instead of opening the old one"
        self.say(f"   it is back with the same outbox: {after['depth']} messages wait")

    async def _drain(self, act: Act) -> None:
        for link in self.installation.links.values():
            link.refuse(False)
        repaired_ms = await self._now_ms()
        began = time.monotonic()

        async def drained() -> bool:
            states = [self.installation.agent_status(testbed) for testbed in self.installation.setups]
            waiting = sum(state["depth"] for state in states)
            self.count(f"   {waiting} messages are left")
            filled = await self._late(self._cut_at_ms, repaired_ms)
            act.figures["late_points"] = filled
            return bool(all(state["connected"] for state in states) and waiting <= 5 and filled)

        await self.installation.until("the backlog drains", drained)
        act.figures["drain_s"] = round(time.monotonic() - began, 1)
        self.say(
            f"   drained in {act.figures['drain_s']} s; the chart's gap is filled, its points marked as late"
        )

    async def _account(self) -> Outcome:
        """Stop the agents, so that their counts are final, and compare them with the store."""
        for agent in self.installation.agents.values():
            await asyncio.to_thread(agent.stop)
        act = Act("every message is accounted for")
        self.acts.append(act)

        async def settled() -> bool:
            ledger = await self.installation.api("/api/v1/ledger")
            heads = {
                status["ep"]: status["head"]
                for status in map(self.installation.agent_status, self.installation.setups)
            }
            return all(entry["taken"] >= heads.get(entry["ep"], 0) for entry in ledger["entries"]) and (
                ledger["totals"]["waiting"] == 0
            )

        try:
            await self.installation.until("the ledger settles", settled, 30)
        except EdgebedError as error:
            act.why = str(error)
        totals = (await self.installation.api("/api/v1/ledger"))["totals"]
        lost = totals["gap_count"] + totals["missing_count"]
        act.figures.update(totals)
        act.ok = not act.why and lost == 0 and totals["taken"] == totals["stored"] > 0
        return Outcome(
            ok=all(each.ok for each in self.acts),
            taken=totals["taken"],
            stored=totals["stored"],
            lost=lost,
            duplicates_dropped=totals["duplicates"],
            acts=self.acts,
        )

    async def resume(self) -> None:
        """Start the agents again, so that the page shows live data."""
        for agent in self.installation.agents.values():
            agent.start()

    def _device(self, testbed: AgentSetup) -> str:
        return f"/api/v1/nodes/{self.installation.node(testbed.name)}/devices/{testbed.device}"

    async def _series(self, start_ms: int, end_ms: int) -> Any:
        stream, name = CHART
        query = f"stream={stream}&field={name}&from={start_ms}&to={end_ms}&points=500"
        return await self.installation.api(f"{self._device(COBOT)}/series?{query}")

    async def _rows(self, start_ms: int, end_ms: int) -> int:
        return sum(n or 0 for n in (await self._series(start_ms, end_ms))["n"])

    async def _late(self, start_ms: int, end_ms: int) -> int:
        return sum(late or 0 for late in (await self._series(start_ms, end_ms))["late"])

    async def _now_ms(self) -> int:
        now: int = (await self.installation.api("/api/v1/fleet"))["now"]
        return now

    async def _last_time(self) -> int:
        series = await self._series(await self._now_ms() - 10_000, await self._now_ms())
        newest: int = max((at for at, n in zip(series["t"], series["n"], strict=True) if n), default=0)
        return newest

    async def _depths(self) -> dict[str, int]:
        return {
            testbed: self.installation.agent_status(testbed).get("depth", 0)
            for testbed in self.installation.setups
        }


def _robot(live: Any) -> str:
    joints = live["arm"]["joints"]
    return (
        f"a robot arm on OPC UA: 18 signals at 50 Hz, joint 1 at {joints['j1_position']:.0f}°; "
        f"anomaly {live['arm']['anomaly']['score']:.2f}"
    )


def _car(live: Any) -> str:
    drive, place = live["vehicle"]["drive"], live["gnss"]["position"]
    return (
        f"an electric car on CAN and GNSS: {drive['speed']:.0f} km/h at {place['latitude']:.4f}, "
        f"{place['longitude']:.4f}, battery {drive['soc']:.0f} %; driving {live['vehicle']['harsh']['label']}"
    )


def _bed(live: Any) -> str:
    vitals = live["monitor"]["vitals"]
    return (
        f"a bedside monitor on HL7: ECG at 250 Hz, heart {vitals['heart_rate']:.0f}/min, "
        f"SpO2 {vitals['spo2']:.0f} %; early warning score {live['monitor']['news2']['score']:.0f}"
    )


def _street(live: Any) -> str:
    seen, air = live["camera"]["detector"], live["air"]["air"]
    return (
        f"a street camera on RTSP, air on Modbus: PM2.5 {air['pm2_5']:.0f} µg/m³; "
        f"people {seen['person']}, vehicles {seen['car'] + seen['bus']}"
    )
