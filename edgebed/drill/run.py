"""Run rounds of faults on an installation, then compare its ledger with its store."""

from __future__ import annotations

import os
import random
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
from edgebed.drill.against import ExistingInstallation, ExistingSite
from edgebed.drill.check import Kept, kept
from edgebed.drill.data_loss import mount
from edgebed.drill.faults import FAULTS, DrillFault
from edgebed.drill.installation import BOXES, DrillInstallation
from wire.errors import EdgebedError

_MOUNTED = "EDGEBED_DRILL_NAMESPACE"  # set in the process that has a mount namespace of its own
_DISK_MB = 48  # size of the disk that a drill fills


@dataclass(slots=True)
class DrillResult:
    """The result of one drill. Each of `violations` breaks the promise; without any, it was kept."""

    name: str  # the fault of a drill of its own, else "mixed"
    broker: str
    seed: int
    rounds: list[str] = field(default_factory=list)  # faults in their order
    seconds: float = 0.0
    taken: int = 0
    stored: int = 0
    declared: int = 0
    missing: int = 0
    reasons: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    skipped: str = ""  # why it could not be run here


Say = Callable[[str], None]


def plan(
    names: Sequence[str], rounds: int, brokers: Iterable[Kind], seed: int
) -> list[tuple[Kind, str, int, int]]:
    """Return (broker, drill, rounds, seed) for each installation, `rounds` in all on each broker.

    Mixed faults share one installation. If there are fewer rounds than faults that need an installation of
    their own, the seed chooses among all faults.

    Raises:
        KeyError: a fault of this name does not exist.
    """
    chosen = [FAULTS[name] for name in names] if names else list(FAULTS.values())
    alone = [each for each in chosen if each.alone]
    mixed = len(alone) < len(chosen)
    found = []
    for at, broker in enumerate(brokers):
        own = seed + 1000 * at
        rng = random.Random(own)
        if not mixed:
            drawn = [alone[number % len(alone)] for number in range(rounds)]
        else:
            drawn = (
                alone if len(alone) < rounds else [each for each in rng.sample(chosen, rounds) if each.alone]
            )
        if rounds > len(drawn):
            found.append((broker, "mixed", rounds - len(drawn), own))
        found += [(broker, each.name, 1, own + n) for n, each in enumerate(drawn, 1)]
    return found


async def run(
    folder: Path,
    broker: Kind,
    drill: str,
    rounds: int,
    seed: int,
    mixed: Sequence[DrillFault],
    say: Say,
    against: ExistingSite | None = None,
) -> DrillResult:
    """Run `rounds` rounds on one installation and check it; a mixed drill draws its faults from `mixed`."""
    result = DrillResult(drill, broker, seed)
    began_s = time.monotonic()
    fault = FAULTS.get(drill)
    if fault is not None and fault.needs == "tmpfs":
        if why := no_namespace():
            result.skipped = why
            return result
        mount(folder / ("store" if "collector" in drill else f"state-{BOXES[0]}"), _DISK_MB)
        if "collector" not in drill:
            mount(folder / f"state-{BOXES[1]}", _DISK_MB)
    try:
        async with DrillInstallation(
            folder,
            broker=broker,
            seed=seed,
            outbox_mb=8 if result.name in FAULTS else 64,
            against=against,
        ) as target:
            await target.recovers()
            for number in range(1, rounds + 1):
                chosen = fault or target.rng.choice(mixed)
                result.rounds.append(chosen.name)
                say(f"{broker} {drill} {number}/{rounds}: {chosen.name}")
                await chosen.run(target)
                await target.recovers()
            await _judge(target, result)
    except EdgebedError as error:
        result.violations.append(f"round {len(result.rounds)} ({(result.rounds or ['start'])[-1]}): {error}")
    result.seconds = round(time.monotonic() - began_s, 1)
    return result


async def _judge(target: DrillInstallation, result: DrillResult) -> None:
    last = await target.settle()
    heads = {box: status["head"] for box, status in last.items()}

    async def accounted() -> bool:
        entries = await target.entries()
        return all(
            entries[box]["taken"] >= heads[box]
            and not entries[box]["waiting"]
            and _settled(target, entries[box])
            for box in BOXES
        )

    try:
        await target.installation.until("every message is accounted for", accounted, 90)
    except EdgebedError as error:
        result.violations.append(str(error).partition("\n")[0])
    ledger = await target.installation.until("the ledger", lambda: target.installation.api("/api/v1/ledger"))
    result.violations += await _doubts(target)
    held = kept(target.folder / "store") if target.against is None else None
    for entry in ledger["entries"]:
        prefix, _, box = entry["node"].rpartition("/")
        if prefix != target.prefix or box not in BOXES or entry["last"] < target.began_ms:
            continue  # of another node, or of an earlier drill
        if held is None:
            result.violations += await _check_by_api(target, box, entry, heads[box])
            _count(result, entry)
            continue
        of = held.get((entry["node"], entry["ep"]))
        _count(result, entry)
        current = entry["ep"] == last[box]["ep"]
        found = _compared(target, box, entry, of, heads[box] if current else None)
        result.violations += [f"{box} {entry['ep']}: {each}" for each in found]
        result.reasons = sorted({*result.reasons, *(of.reasons if of else ())})


async def _doubts(target: DrillInstallation) -> list[str]:
    """Return where the store does not match the statements that the boxes signed."""
    pilot = "/".join(target.prefix.split("/")[:2])
    days = (await target.installation.api(f"/api/v1/ledger?pilot={pilot}")).get("days", [])
    return [
        f"{day['node']} {day['day']}: {day['doubt']}"
        for day in days
        if day["node"].rpartition("/")[0] == target.prefix and day["statements"] and day["doubt"]
    ]


def _count(result: DrillResult, entry: dict[str, Any]) -> None:
    result.taken += entry["taken"]
    result.stored += entry["stored"]
    result.declared += entry["gap_count"]
    result.missing += entry["missing_count"]


async def _check_by_api(target: DrillInstallation, box: str, entry: dict[str, Any], head: int) -> list[str]:
    """Check an installation whose files are not accessible: its ledger, and every row that its API gives."""
    found = []
    if (entry["taken"], entry["stored"]) != (head, head):
        found.append(
            f"{box}: the agent took {head}, the ledger shows {entry['taken']} taken, {entry['stored']} stored"
        )
    numbers = await target.numbers(box)
    if len(set(numbers)) != len(numbers):
        found.append(f"{box}: {len(numbers) - len(set(numbers))} rows are stored twice")
    runs = 1 + sum(after != before + 1 for before, after in pairwise(sorted(set(numbers))))
    if runs - 1 > target.devices[box].jumps:
        found.append(f"{box}: the rows have {runs - 1} holes, {target.devices[box].jumps} are explained")
    return found


def _settled(target: DrillInstallation, entry: dict[str, Any]) -> bool:
    box = entry["node"].rpartition("/")[2]
    return bool(entry["missing_count"] <= len(target.allowed.forgotten.get(box, ())))


def _compared(
    target: DrillInstallation, box: str, entry: dict[str, Any], of: Kept | None, head: int | None
) -> list[str]:
    """Compare the ledger with the store; `head` is the agent's own count, None for an outbox that is gone."""
    allowed, found = target.allowed, []
    if of is None:
        return [f"the ledger shows {entry['stored']} stored, the store has 0"] if entry["stored"] else []
    if len(of.stored) != entry["stored"]:
        found.append(f"the ledger shows {entry['stored']} stored, the store has {len(of.stored)}")
    given_up = [why for _, _, why in entry["gaps"] if why.startswith("quarantined")]
    if given_up:
        found.append(f"the collector gave up {len(given_up)} messages that the box still had: {given_up[0]}")
    unexplained = of.reasons - allowed.reasons
    if unexplained:
        found.append(
            f"losses are declared for reasons the drill did not cause: {', '.join(sorted(unexplained))}"
        )
    if head is None:  # only what a lost disk held may be missing
        if entry["stored"] + entry["gap_count"] + entry["missing_count"] != entry["taken"]:
            found.append("stored, declared and missing do not add up to taken")
        for first, last in entry["missing"]:  # also what was sent before a collector listened
            of.lost.update(range(first, last + 1))
        return found + of.violations(max(of.stored | of.lost, default=0), target.devices[box].jumps)
    if entry["taken"] != head:
        found.append(f"the agent reports {head} taken, the ledger {entry['taken']}")
    forgotten = allowed.forgotten.get(box, set())
    if entry["missing_count"] > len(forgotten):
        found.append(f"{entry['missing_count']} are missing, e.g. {entry['missing'][:3]}")
    jumps = target.devices[box].jumps + len(forgotten)
    of.lost |= forgotten - of.stored  # the ledger shows them as missing: checked above
    return found + of.violations(head, jumps)


# --- drills that fill a disk need a disk of their own


@cache
def no_namespace() -> str:
    """Return why this process cannot mount small file systems; empty when it can."""
    return (
        ""
        if os.environ.get(_MOUNTED)
        else "the drill needs a mount namespace: run it as root, or allow user namespaces"
    )


def enter_namespace() -> None:
    """Run this command again in a mount namespace of its own; return where that is not allowed."""
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
    os.execv(program, [program, *flags, sys.executable, *sys.argv])  # noqa: S606 - without a shell on purpose


async def run_all(
    folder: Path,
    names: Sequence[str],
    rounds: int,
    brokers: Sequence[Kind],
    seed: int,
    *,
    say: Say,
    done: Callable[[DrillResult], object],
) -> None:
    """Run every installation of `plan`, one after the other; `done` gets each result."""
    mixed = [each for each in ([FAULTS[name] for name in names] or FAULTS.values()) if not each.alone]
    for at, (broker, drill, share, own) in enumerate(plan(names, rounds, brokers, seed)):
        place = folder / f"{at:02}-{broker}-{drill}"
        result = await run(place, broker, drill, share, own, mixed, say)
        done(result)
        if not result.violations:
            shutil.rmtree(place, ignore_errors=True)


async def run_against(
    folder: Path, names: Sequence[str], rounds: int, against: ExistingSite, seed: int, say: Say
) -> DrillResult:
    """Run mixed rounds at a site: faults of the drill's boxes and links, and those with a command.

    Raises:
        EdgebedError: a fault that was named is not possible there.
    """
    possible = {name: fault for name, fault in FAULTS.items() if fault.touches_only_boxes}
    for name in against.commands:
        possible[name] = replace(FAULTS[name], run=partial(_by_command, name), alone=False, needs="")
    for name in names:
        if name not in possible:
            raise EdgebedError(f"{name} is not possible at this site; possible: {', '.join(possible)}")
    mixed = [possible[name] for name in names] or list(possible.values())
    result = await run(folder / "site", "nats", "mixed", rounds, seed, mixed, say, against)
    result.broker = "site"
    return result


async def _by_command(name: str, target: DrillInstallation) -> None:
    if isinstance(target.installation, ExistingInstallation):
        await target.installation.run_command(name)


def line(result: DrillResult) -> str:
    """Return the result as one line of text."""
    what = f"{result.broker:9} {result.name:20} seed {result.seed}, {len(result.rounds)} rounds"
    if result.skipped:
        return f"{what}: not run: {result.skipped}"
    counts = f"{result.stored:,} of {result.taken:,} messages stored"
    if result.declared:
        counts += f", {result.declared:,} declared lost ({', '.join(result.reasons)})"
    if result.missing:
        counts += f", {result.missing:,} missing, as the ledger shows"
    verdict = "kept" if not result.violations else "BROKEN: " + "; ".join(result.violations)
    return f"{what}, {result.seconds:.0f} s: {counts}: {verdict}"
