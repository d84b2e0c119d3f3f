"""Rounds of harm on one installation, then the account: what the ledger says beside what the store holds."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgebed.broker import Kind
from edgebed.drill.against import Against, Installed
from edgebed.drill.check import Kept, kept
from edgebed.drill.faults import HARMS, Harm, mount
from edgebed.drill.installation import BOXES, Bench
from wire.errors import EdgebedError

_MOUNTED = "EDGEBED_DRILL_NAMESPACE"  # set in the process that has a mount namespace of its own
_DISK_MB = 48  # of a drill that fills one


@dataclass(slots=True)
class Drill:
    """What came of one installation: `faults` break the promise; without any it was kept."""

    name: str  # the harm of a drill of its own, else "mixed"
    broker: str
    seed: int
    rounds: list[str] = field(default_factory=list)  # harms in their order
    seconds: float = 0.0
    taken: int = 0
    stored: int = 0
    declared: int = 0
    missing: int = 0
    reasons: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    skipped: str = ""  # why it could not be run here


Say = Callable[[str], None]


def plan(
    names: Sequence[str], rounds: int, brokers: Iterable[Kind], seed: int
) -> list[tuple[Kind, str, int, int]]:
    """(broker, drill, rounds, seed) for each installation: mixed harms share one, the others stand alone.

    Raises:
        KeyError: no such harm.
    """
    chosen = [HARMS[name] for name in names] if names else list(HARMS.values())
    mixed = [each for each in chosen if not each.alone]
    alone = [each for each in chosen if each.alone]
    found = []
    for at, broker in enumerate(brokers):
        share = rounds - len(alone) if mixed else 0
        if mixed and share > 0:
            found.append((broker, "mixed", share, seed + 1000 * at))
        found += [(broker, each.name, 1, seed + 1000 * at + n) for n, each in enumerate(alone, 1)]
    return found


async def run(
    folder: Path,
    broker: Kind,
    drill: str,
    rounds: int,
    seed: int,
    mixed: Sequence[Harm],
    say: Say,
    against: Against | None = None,
) -> Drill:
    """Run one installation through `rounds` of harm (`mixed` of them for a mixed drill) and judge it."""
    result = Drill(drill, broker, seed)
    began_s = time.monotonic()
    harm = HARMS.get(drill)
    if harm is not None and harm.needs == "tmpfs":
        if why := no_namespace():
            result.skipped = why
            return result
        mount(folder / ("store" if "collector" in drill else f"state-{BOXES[0]}"), _DISK_MB)
        if "collector" not in drill:
            mount(folder / f"state-{BOXES[1]}", _DISK_MB)
    try:
        async with Bench(
            folder,
            broker=broker,
            seed=seed,
            outbox_mb=8 if result.name in HARMS else 64,
            against=against,
        ) as bench:
            await bench.recovers()
            for number in range(1, rounds + 1):
                chosen = harm or bench.dice.choice(mixed)
                result.rounds.append(chosen.name)
                say(f"{broker} {drill} {number}/{rounds}: {chosen.name}")
                await chosen.run(bench)
                await bench.recovers()
            await _judge(bench, result)
    except EdgebedError as error:
        result.faults.append(f"round {len(result.rounds)} ({(result.rounds or ['start'])[-1]}): {error}")
    result.seconds = round(time.monotonic() - began_s, 1)
    return result


async def _judge(bench: Bench, result: Drill) -> None:
    last = await bench.settle()
    heads = {box: status["head"] for box, status in last.items()}

    async def accounted() -> bool:
        entries = await bench.entries()
        return all(
            entries[box]["taken"] >= heads[box]
            and not entries[box]["waiting"]
            and _settled(bench, entries[box])
            for box in BOXES
        )

    try:
        await bench.stand.until("every message is accounted for", accounted, 90)
    except EdgebedError as error:
        result.faults.append(str(error).partition("\n")[0])
    ledger = await bench.stand.until("the ledger", lambda: bench.stand.api("/api/v1/ledger"))
    result.faults += await _doubts(bench)
    held = kept(bench.folder / "store") if bench.against is None else None
    for entry in ledger["entries"]:
        prefix, _, box = entry["node"].rpartition("/")
        if prefix != bench.prefix or box not in BOXES or entry["last"] < bench.began_ms:
            continue  # a stranger's, or of an earlier drill
        if held is None:
            result.faults += await _told_by_the_site(bench, box, entry, heads[box])
            _count(result, entry)
            continue
        of = held.get((entry["node"], entry["ep"]))
        _count(result, entry)
        current = entry["ep"] == last[box]["ep"]
        told = _compared(bench, box, entry, of, heads[box] if current else None)
        result.faults += [f"{box} {entry['ep']}: {each}" for each in told]
        result.reasons = sorted({*result.reasons, *(of.reasons if of else ())})


async def _doubts(bench: Bench) -> list[str]:
    """What the boxes signed for and the store does not have, though no message is missing."""
    pilot = "/".join(bench.prefix.split("/")[:2])
    days = (await bench.stand.api(f"/api/v1/ledger?pilot={pilot}")).get("days", [])
    return [
        f"{day['node']} {day['day']}: {day['doubt']}"
        for day in days
        if day["node"].rpartition("/")[0] == bench.prefix and day["statements"] and day["doubt"]
    ]


def _count(result: Drill, entry: dict[str, Any]) -> None:
    result.taken += entry["taken"]
    result.stored += entry["stored"]
    result.declared += entry["gap_count"]
    result.missing += entry["missing_count"]


async def _told_by_the_site(bench: Bench, box: str, entry: dict[str, Any], head: int) -> list[str]:
    """Of an installation whose files are not at hand: its ledger, and every row its API gives."""
    told = []
    if (entry["taken"], entry["stored"]) != (head, head):
        told.append(
            f"{box}: the agent took {head}, the ledger says {entry['taken']} taken, {entry['stored']} stored"
        )
    numbers = await bench.numbers(box)
    if len(set(numbers)) != len(numbers):
        told.append(f"{box}: {len(numbers) - len(set(numbers))} rows are stored twice")
    runs = 1 + sum(after != before + 1 for before, after in pairwise(sorted(set(numbers))))
    if runs - 1 > bench.devices[box].jumps:
        told.append(f"{box}: the rows have {runs - 1} holes, {bench.devices[box].jumps} are explained")
    return told


def _settled(bench: Bench, entry: dict[str, Any]) -> bool:
    box = entry["node"].rpartition("/")[2]
    return bool(entry["missing_count"] <= len(bench.allowed.forgotten.get(box, ())))


def _compared(bench: Bench, box: str, entry: dict[str, Any], of: Kept | None, head: int | None) -> list[str]:
    """The ledger's line beside the store; `head` is the agent's own word, None for an outbox that is gone."""
    allowed, told = bench.allowed, []
    if of is None:
        return (
            [f"the ledger says {entry['stored']} are stored, the store has none"] if entry["stored"] else []
        )
    if len(of.stored) != entry["stored"]:
        told.append(f"the ledger says {entry['stored']} are stored, the store has {len(of.stored)}")
    given_up = [why for _, _, why in entry["gaps"] if why.startswith("quarantined")]
    if given_up:
        told.append(f"the collector gave up {len(given_up)} messages that the box had whole: {given_up[0]}")
    strangers = of.reasons - allowed.reasons
    if strangers:
        told.append(f"losses are declared for no reason given by the drill: {', '.join(sorted(strangers))}")
    if head is None:  # what a lost disk held is told as missing, nothing else is
        if entry["stored"] + entry["gap_count"] + entry["missing_count"] != entry["taken"]:
            told.append("stored, declared and missing do not add up to taken")
        for first, last in entry["missing"]:  # of what came before a collector listened, too
            of.lost.update(range(first, last + 1))
        return told + of.faults(max(of.stored | of.lost, default=0), bench.devices[box].jumps)
    if entry["taken"] != head:
        told.append(f"the agent says it took {head}, the ledger {entry['taken']}")
    forgotten = allowed.forgotten.get(box, set())
    if entry["missing_count"] > len(forgotten):
        told.append(f"{entry['missing_count']} are missing, as {entry['missing'][:3]}")
    jumps = bench.devices[box].jumps + len(forgotten)
    of.lost |= forgotten - of.stored  # told by the ledger as missing: looked at just now
    return told + of.faults(head, jumps)


# --- drills that fill a disk need one of their own


@cache
def no_namespace() -> str:
    """Why small file systems cannot be mounted here; empty when they can."""
    return (
        ""
        if os.environ.get(_MOUNTED)
        else "it needs a mount namespace: run as root, or allow user namespaces"
    )


def enter_namespace() -> None:
    """Become the same command in a mount namespace of its own, where that is allowed; else return."""
    if os.environ.get(_MOUNTED):
        return
    program = shutil.which("unshare")
    if program is None:
        return
    flags = ["--mount", "--propagation", "private", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    trial = subprocess.run(
        [program, *flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    if trial.returncode:
        return
    os.environ[_MOUNTED] = "1"
    sys.stdout.flush()
    os.execv(program, [program, *flags, sys.executable, *sys.argv])  # noqa: S606 - no shell is wanted


def run_all(
    folder: Path, names: Sequence[str], rounds: int, brokers: Sequence[Kind], seed: int, say: Say
) -> list[Drill]:
    """Every installation of `plan`, one after the other."""
    mixed = [each for each in ([HARMS[name] for name in names] or HARMS.values()) if not each.alone]
    found = []
    for at, (broker, drill, share, own) in enumerate(plan(names, rounds, brokers, seed)):
        place = folder / f"{at:02}-{broker}-{drill}"
        result = asyncio.run(run(place, broker, drill, share, own, mixed, say))
        found.append(result)
        say(line(result))
        if not result.faults:
            shutil.rmtree(place, ignore_errors=True)
    return found


def run_against(
    folder: Path, names: Sequence[str], rounds: int, against: Against, seed: int, say: Say
) -> Drill:
    """Mixed rounds on a site's installation: harms to our boxes and links, and those it has commands for.

    Raises:
        EdgebedError: a harm that was named cannot be done there.
    """
    possible = {name: harm for name, harm in HARMS.items() if harm.ours}
    for name in against.commands:
        possible[name] = replace(HARMS[name], run=partial(_by_command, name), alone=False, needs="")
    for name in names:
        if name not in possible:
            raise EdgebedError(f"{name} cannot be done there; there are {', '.join(possible)}")
    mixed = [possible[name] for name in names] or list(possible.values())
    result = asyncio.run(run(folder / "site", "nats", "mixed", rounds, seed, mixed, say, against))
    result.broker = "site"
    say(line(result))
    return result


async def _by_command(name: str, bench: Bench) -> None:
    if isinstance(bench.stand, Installed):
        await bench.stand.do(name)


def line(result: Drill) -> str:
    """One line for people."""
    what = f"{result.broker:9} {result.name:20} seed {result.seed}, {len(result.rounds)} rounds"
    if result.skipped:
        return f"{what}: not run: {result.skipped}"
    counts = f"{result.stored:,} of {result.taken:,} messages stored"
    if result.declared:
        counts += f", {result.declared:,} declared lost ({', '.join(result.reasons)})"
    if result.missing:
        counts += f", {result.missing:,} missing and told"
    verdict = "kept" if not result.faults else "BROKEN: " + "; ".join(result.faults)
    return f"{what}, {result.seconds:.0f} s: {counts}: {verdict}"
