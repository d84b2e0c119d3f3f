"""The scenario file: agents and devices, the timeline, and the assertions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

import simulators
from edgebed.broker import Kind
from wire import config
from wire.clock import NS_PER_S
from wire.config import KeyPath, Marks, Mistake, did_you_mean
from wire.errors import ConfigError
from wire.messages import is_id
from wire.shipped import folder as assets

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Span = Annotated[float, Meta(gt=0, le=86_400)]
Name = Annotated[str, Meta(max_length=100)]

_EARLIEST_NS, _LATEST_NS = 31_536_000 * NS_PER_S, 7_258_118_400 * NS_PER_S
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?%")


class SimulatedDevice(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The simulator of a device in the agent's config."""

    simulator: Annotated[str, Meta(description="A word of `edgebed sim list`.")] = ""
    shares: Annotated[
        Name, Meta(description="Instead of simulator: the device of this agent whose simulator to share.")
    ] = ""
    options: Annotated[dict[str, Any], Meta(description="Options of the simulator.")] = {}
    adapter: Annotated[dict[str, Any], Meta(description="Changes to the adapter's options.")] = {}


class ScenarioAgent(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One agent: a config; only the named devices and their models take part."""

    config: Annotated[Path, Meta(description="The agent's YAML.")]
    devices: Annotated[
        dict[str, SimulatedDevice],
        Meta(min_length=1, max_length=50, description="Device id in the config to its simulator."),
    ]


class Happening(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One line of the timeline. Seconds count from T0, when all parts run."""

    at_s: Annotated[Seconds, Meta(description="Start time.")]
    for_s: Annotated[Span | None, Meta(description="Duration; by default until the end.")] = None
    id: Annotated[str, Meta(max_length=32, description="A name, for assertions.")] = ""
    device: Annotated[Name, Meta(description="The device of `fault` or `line`.")] = ""
    fault: Annotated[
        str, Meta(max_length=100, description="A fault of the device: KIND[:PART][xSIZE] of its simulator.")
    ] = ""
    line: Annotated[
        Literal["", "cut", "black-hole"],
        Meta(description="How the connection from device to agent fails (TCP only)."),
    ] = ""
    agent: Annotated[Name, Meta(description="The agent of `link` or `restart: agent`.")] = ""
    link: Annotated[
        Literal["", "cut", "black-hole"],
        Meta(description="How the connection from agent to broker fails."),
    ] = ""
    restart: Annotated[
        Literal["", "agent", "broker", "collector"],
        Meta(description="The part to stop and, after for_s, start again."),
    ] = ""


class ScenarioPilot(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A pilot that is played as a switchback: its plan, with short periods, drawn by the scenario's seed."""

    plan: Annotated[Path, Meta(description="The plan, a pilot.yaml; its design and windows are replaced.")]
    plant: Annotated[Name, Meta(description="The device whose simulator knows the true effect.")]
    at_s: Annotated[Seconds, Meta(description="Start of the trial.")] = 20.0
    period_s: Annotated[int, Meta(ge=10, le=86_400, description="Length of a period.")] = 20
    periods: Annotated[int, Meta(ge=12, le=500, description="Number of periods.")] = 28
    washout_s: Annotated[float, Meta(ge=0, le=86_400, description="Cut from the start of a period.")] = 2.0


class Check(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One assertion: a key that names its subject, and keys with the expected values."""

    stream: Annotated[Name, Meta(description="device/stream, with `rows` or `equals_truth`.")] = ""
    rows: Annotated[
        Literal["all"] | int | None,
        Meta(description="All rows that the rate gives, or at least this many."),
    ] = None
    equals_truth: Annotated[
        Literal["within decimals"] | float | None,
        Meta(description="Every value is the simulator's, within its decimals or this difference."),
    ] = None
    fields: Annotated[list[str], Meta(description="equals_truth: only these fields.")] = []
    counts: Annotated[Name, Meta(description="device/stream of counts, compared with the truth.")] = ""
    within: Annotated[
        str, Meta(max_length=10, description="counts: allowed error of their mean, e.g. 5%.")
    ] = ""
    alarm: Annotated[Name, Meta(description="device/model that must raise an alarm.")] = ""
    after: Annotated[str, Meta(description="alarm: after this line of the timeline.")] = ""
    within_s: Annotated[Seconds | None, Meta(description="alarm: within this many seconds.")] = None
    part: Annotated[str, Meta(description="alarm, quiet: of this part; of a classifier, this class.")] = ""
    quiet: Annotated[Name, Meta(description="device/model that must not raise an alarm.")] = ""
    before: Annotated[str, Meta(description="quiet: before this line of the timeline, or always.")] = ""
    quality: Annotated[Name, Meta(description="device/stream whose rows must be good.")] = ""
    good: Annotated[str, Meta(max_length=10, description="quality: at least this share, e.g. 99%.")] = ""
    events: Annotated[Name, Meta(description="device/type of events to count.")] = ""
    at_least: Annotated[int | None, Meta(ge=0, description="events: at least this many.")] = None
    at_most: Annotated[int | None, Meta(ge=0, description="events: at most this many.")] = None
    lost: Annotated[int | None, Meta(ge=0, description="Messages lost or missing, at most.")] = None
    duplicates: Annotated[int | None, Meta(ge=0, description="Messages stored twice, at most.")] = None
    pilot: Annotated[Name, Meta(description="The pilot whose run is compared with its plan.")] = ""
    units: Annotated[
        Literal["", "as declared"], Meta(description="Every stored field has the unit its config declares.")
    ] = ""


class Scenario(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole file. The timeline counts from T0; rows before T0 are not checked."""

    title: Annotated[str, Meta(max_length=200, description="One line for the report.")] = ""
    start: Annotated[
        str, Meta(max_length=40, description="Start of the simulated time, e.g. 2026-03-02T09:00:00Z.")
    ]
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1, description="Same seed, same data.")] = 1
    lead_in_s: Annotated[
        float,
        Meta(
            ge=2,
            le=86_400,
            description="From the start to T0: devices connect and models fill their windows.",
        ),
    ] = 10.0
    duration_s: Annotated[Span, Meta(description="From T0 to the end.")]
    rate: Annotated[float, Meta(gt=0, le=1000, description="Simulated seconds per real second, at most.")] = (
        50.0
    )
    broker: Annotated[Kind, Meta(description="Which broker runs.")] = "nats"
    agents: Annotated[
        dict[str, ScenarioAgent], Meta(min_length=1, max_length=50, description="Agent name to agent.")
    ]
    pilots: Annotated[dict[str, ScenarioPilot], Meta(max_length=20, description="Pilot name to pilot.")] = {}
    timeline: Annotated[list[Happening], Meta(max_length=500, description="Faults, cuts and restarts.")] = []
    checks: Annotated[list[Check], Meta(max_length=500, description="What must be true at the end.")] = field(
        name="assert", default_factory=list
    )

    @property
    def start_ns(self) -> int:
        """`start` in Unix nanoseconds."""
        return round(datetime.fromisoformat(self.start).timestamp()) * NS_PER_S

    def happening(self, id: str) -> Happening:  # noqa: A002 - the key's own name
        """Return the line of the timeline with this id."""
        return next(each for each in self.timeline if each.id == id)


def find(name: str) -> Path:
    """Return the file of a scenario: a path, or the name of one in `configs/scenarios/`.

    Raises:
        ConfigError: it does not exist.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    shipped = {found.stem: found for found in sorted((assets("configs") / "scenarios").glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(name, [*simulators.KINDS, *shipped])
    raise ConfigError(f"{name!r} is neither a kind of device, nor a ready scenario, nor a file{hint}")


def load(path: Path) -> Scenario:
    """Read and check a scenario.

    Raises:
        ConfigError: the file has mistakes; the error lists all of them.
    """
    return config.load(path, Scenario, _check)


def percent(text: str) -> float | None:
    """Return `5%` as 0.05; None when `text` is not a percentage."""
    found = _PERCENT.fullmatch(text.strip())
    return float(found[1]) / 100 if found else None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario, for editors."""
    return config.schema(Scenario)


# --- mistakes that types do not find


def _check(found: Scenario, _marks: Marks) -> Iterator[Mistake]:
    try:
        if datetime.fromisoformat(found.start).tzinfo is None:
            yield ("start",), f"{found.start!r} lacks the time zone, e.g. 2026-03-02T09:00:00Z"
        elif not _EARLIEST_NS <= found.start_ns <= _LATEST_NS:
            yield ("start",), f"{found.start!r} is not between 1971 and 2200"
    except ValueError:
        yield ("start",), f"{found.start!r} is not a time like 2026-03-02T09:00:00Z"
    devices: Counter[str] = Counter()
    for name, agent in found.agents.items():
        if not is_id(name):
            yield ("agents", name), f"{name!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"
        for device, simulated in agent.devices.items():
            devices[device] += 1
            yield from _check_device(("agents", name, "devices", device), simulated, agent)
    for device, times in devices.items():
        if times > 1:
            yield ("agents",), f"{times} agents have a device {device!r}: names in a scenario are unique"
    yield from _check_timeline(found, devices)
    yield from _check_pilots(found, devices)
    ids = {each.id for each in found.timeline} - {""}
    for at, check in enumerate(found.checks):
        for path, sentence in _check_assertion(check, devices, ids):
            yield ("assert", at, *path), sentence
        if check.pilot and check.pilot not in found.pilots:
            hint = did_you_mean(check.pilot, found.pilots)
            yield ("assert", at, "pilot"), f"there is no pilot {check.pilot!r}{hint}"


def _check_device(where: KeyPath, simulated: SimulatedDevice, agent: ScenarioAgent) -> Iterator[Mistake]:
    if bool(simulated.simulator) == bool(simulated.shares):
        yield where, "needs exactly one of simulator and shares"
    elif simulated.simulator and simulated.simulator not in simulators.KINDS:
        hint = did_you_mean(simulated.simulator, simulators.KINDS)
        yield (*where, "simulator"), f"there is no simulator {simulated.simulator!r}{hint}"
    elif simulated.shares:
        other = agent.devices.get(simulated.shares)
        if other is None or not other.simulator:
            yield (*where, "shares"), f"{simulated.shares!r} is not a device of this agent with a simulator"
        if simulated.options:
            yield (*where, "options"), f"write the simulator's options at {simulated.shares}"


def _check_timeline(found: Scenario, devices: Counter[str]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for at, each in enumerate(found.timeline):
        where = ("timeline", at)
        if each.id in seen:
            yield (*where, "id"), f"an earlier line has the id {each.id!r} too"
        seen |= {each.id} - {""}
        if each.at_s >= found.duration_s:
            yield (*where, "at_s"), f"{each.at_s:g} s is not before the end at {found.duration_s:g} s"
        actions = [name for name in ("fault", "line", "link", "restart") if getattr(each, name)]
        if len(actions) != 1:
            yield where, "needs exactly one of fault, line, link and restart"
            continue
        action = actions[0]
        needed = {"fault": "device", "line": "device", "link": "agent"}.get(action, "")
        if action == "restart":
            needed = "agent" if each.restart == "agent" else ""
        for target, known in (("device", devices), ("agent", found.agents)):
            value = getattr(each, target)
            if value and target != needed:
                yield (*where, target), f"{action} does not use {target}"
            elif target == needed and value not in known:
                hint = did_you_mean(value, known)
                yield (*where, target), f"there is no {target} {value!r}{hint}"
        if action == "fault" and "@" in each.fault:
            yield (*where, "fault"), "at_s and for_s give the time: leave out @..."


def _check_pilots(found: Scenario, devices: Counter[str]) -> Iterator[Mistake]:
    for name, pilot in found.pilots.items():
        if pilot.plant not in devices:
            hint = did_you_mean(pilot.plant, devices)
            yield ("pilots", name, "plant"), f"there is no device {pilot.plant!r}{hint}"
        end_s = pilot.at_s + pilot.periods * pilot.period_s
        if end_s > found.duration_s:
            text = f"ends at {end_s:g} s, after the end of the scenario at {found.duration_s:g} s"
            yield ("pilots", name, "periods"), text
        if pilot.periods % 2:
            yield ("pilots", name, "periods"), f"{pilot.periods} is odd: periods are drawn in pairs"
        if pilot.washout_s >= pilot.period_s:
            yield ("pilots", name, "washout_s"), "leaves nothing of a period"


# subject of an assertion -> keys, one at least is needed; further keys that it may have
HEADS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "stream": (("rows", "equals_truth"), ("fields",)),
    "counts": (("within",), ()),
    "alarm": (("within_s",), ("after", "part")),
    "quiet": ((), ("before", "part")),
    "quality": (("good",), ()),
    "events": (("at_least", "at_most"), ()),
    "lost": ((), ("duplicates",)),
    "duplicates": ((), ("lost",)),
    "units": ((), ()),
    "pilot": ((), ()),
}


def _check_assertion(check: Check, devices: Counter[str], ids: set[str]) -> Iterator[Mistake]:
    given = {name for name in check.__struct_fields__ if getattr(check, name) not in ("", None, [])}
    heads = [head for head in HEADS if head in given]
    if not heads or (len(heads) > 1 and heads != ["lost", "duplicates"]):
        found = " and ".join(heads) or "none of them"
        yield (), f"needs exactly one of {', '.join(HEADS)}, and has {found}"
        return
    needs, takes = HEADS[heads[0]]
    for name in sorted(given - {*heads, *needs, *takes}):
        yield (name,), f"{name} does not apply to {heads[0]}"
    if needs and not given & set(needs):
        yield (), f"{heads[0]} needs {' or '.join(needs)}"
    for name in ("stream", "counts", "alarm", "quiet", "quality", "events"):
        value = getattr(check, name)
        device = value.partition("/")[0]
        if value and value.count("/") != 1:
            yield (name,), f"{value!r} is not device/{'type' if name == 'events' else 'stream'}"
        elif value and device not in devices and device != "_":
            yield (name,), f"there is no device {device!r}{did_you_mean(device, devices)}"
    for name in ("after", "before"):
        value = getattr(check, name)
        if value and value not in ids:
            yield (name,), f"no line of the timeline has the id {value!r}{did_you_mean(value, ids)}"
    for name in ("within", "good"):
        value = getattr(check, name)
        if value and percent(value) is None:
            yield (name,), f"{value!r} is not a share like 5%"
