"""`edgebed pilot`: a plan is checked, also against a collector, frozen, signed, amended and sent."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from agent.inference.signing.signature import new_key
from agent.inference.signing.trust import Trust, public_key
from agent.pilots.signatures import signers
from collector.app import Collector
from collector.mqtt.received import Received
from edgebed.cli import command
from tests.unit.collector.pilots.kpis.stored_rows import HOUR, Plant
from tests.unit.collector.pilots.kpis.stored_rows import NODE as PLANT
from tests.unit.collector.web.serving import EP, NODE, fill, serving, until_stored
from tests.unit.wire.pilot.plans import changed, signed_plan
from wire.clock import Clock
from wire.codec import encode
from wire.errors import ConfigError, EdgebedError
from wire.messages import AgentInfo, Birth, Event, Reported
from wire.pilot.canonical import canonical
from wire.pilot.frozen import Opened, envelope, freeze, read_signed
from wire.pilot.plan import parse

KEYS = {name: new_key() for name in ("acme", "lab")}
TRUST = Trust(trusted={public_key(KEYS[name][1].decode()): name for name in KEYS})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (private, _) in KEYS.items():
        (tmp_path / f"{name}.key").write_bytes(private)
    (tmp_path / "pilot.yaml").write_text(changed())
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(command, ["pilot", *map(str, words)])


def read(path: Path) -> Opened:
    return read_signed(path.read_bytes())


def test_the_company_and_the_operator_sign_one_after_the_other(folder: Path) -> None:
    frozen = folder / "pilot.plan.json"
    done = run("freeze", folder / "pilot.yaml", "--key", folder / "acme.key")
    assert done.exit_code == 0, done.output
    first = read(frozen)
    assert f"hash {first.hash}" in done.output
    assert "trial-1 version 1, switchback, 20 periods of 8h (10 on)" in done.output
    assert signers(first, TRUST) == ("acme",)
    assert run("freeze", frozen, "--key", folder / "lab.key").exit_code == 0
    assert signers(read(frozen), TRUST) == ("acme", "lab")
    assert run("freeze", folder / "pilot.yaml", "--key", folder / "acme.key").exit_code == 0
    assert signers(read(frozen), TRUST) == ("acme", "lab"), "the same plan keeps its signatures"
    assert read(frozen).hash == first.hash
    (folder / "pilot.yaml").write_text(changed(("min: 0.1", "min: 0.2")))
    done = run("freeze", folder / "pilot.yaml", "--key", folder / "acme.key")
    assert isinstance(done.exception, EdgebedError)
    assert "edgebed pilot amend" in str(done.exception)
    assert read(frozen).hash == first.hash


def test_an_amendment_names_the_plan_before_and_the_reason(folder: Path) -> None:
    frozen = folder / "pilot.plan.json"
    assert run("freeze", folder / "pilot.yaml", "--key", folder / "acme.key").exit_code == 0
    words = ("--after", frozen, "--reason", "the target was wrong", "--key", folder / "acme.key")
    same = run("amend", folder / "pilot.yaml", *words)
    assert "nothing to amend" in str(same.exception)
    (folder / "pilot.yaml").write_text(changed(("min: 0.1", "min: 0.2")))
    done = run("amend", folder / "pilot.yaml", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    second = read(folder / "pilot-v2.plan.json")
    assert (second.plan.version, second.plan.previous) == (2, read(frozen).hash)
    assert second.plan.reason == "the target was wrong"
    (folder / "pilot.yaml").write_text(changed(("min: 0.1", "min: 0.3")))
    third = ("--after", folder / "pilot-v2.plan.json", *words[2:])
    assert run("amend", folder / "pilot.yaml", *third).exit_code == 0
    assert read(folder / "pilot-v3.plan.json").plan.previous == second.hash
    (folder / "pilot.yaml").write_text(changed(("pilot: trial-1", "pilot: trial-2")))
    assert "is the pilot trial-1" in str(run("amend", folder / "pilot.yaml", *words).exception)


def test_status_shows_the_hash_and_the_period_of_now(folder: Path) -> None:
    run("freeze", folder / "pilot.yaml", "--key", folder / "acme.key")
    frozen = folder / "pilot.plan.json"
    shown = json.loads(run("status", frozen, "--json").output)
    assert shown["hash"] == read(frozen).hash
    assert len(shown["keys"]) == 1
    frozen.write_bytes(frozen.read_bytes().replace(b'"payload": "e', b'"payload": "f'))
    assert "is not a signed plan" in str(run("status", frozen).exception)


def test_a_plan_of_the_other_form_is_named_with_what_to_do(folder: Path) -> None:
    """`pilot.yaml` where a frozen plan is needed, and the other way round."""
    plan = folder / "pilot.yaml"
    run("freeze", plan, "--key", folder / "acme.key")
    frozen = folder / "pilot.plan.json"
    for words in (
        ("check", frozen),
        ("plan", frozen, "--baseline", plan),
        ("amend", frozen, "--after", frozen, "--reason", "x"),
    ):
        assert "is frozen already: name the `pilot.yaml`" in str(run(*words).exception), words
    for words in (
        ("status", plan),
        ("report", plan, "--store", folder),
        ("export", plan, "--store", folder, "--out", folder / "o"),
    ):
        assert "not a signed plan, as `edgebed pilot freeze` writes it" in str(run(*words).exception), words


def test_an_export_is_made_where_the_store_is(folder: Path) -> None:
    run("freeze", folder / "pilot.yaml", "--key", folder / "acme.key")
    export = ("export", folder / "pilot.plan.json", "--out", folder / "out")
    remote = run(*export, "--url", "http://127.0.0.1:9")
    assert (remote.exit_code, (folder / "out").exists()) == (2, False)
    assert "no export over HTTP" in remote.output
    assert "edgebed pilot report FILE" in remote.output
    assert "name --store" in run(*export).output


def test_check_prints_doubts_and_lists_mistakes(folder: Path) -> None:
    plan = folder / "pilot.yaml"
    plan.write_text(changed(("washout_s: 60, carry", "washout_s: 30, carry")))
    done = run("check", plan)
    assert done.exit_code == 0
    assert "note: the wash-out of 30 s" in done.output
    assert "the model in anomaly must have the number level" in done.output
    plan.write_text(changed((THRESHOLD, SET_POINT)))
    needed = "in the options of arm: allow_write: true, and write: {register: speed, min: 1, max: 9, safe: 3}"
    assert needed in run("check", plan).output
    plan.write_text(changed(("tz: Asia/Seoul", "tz: Asia/Soul"), ("min: 0.1", "min: x")))
    error = run("check", plan).exception
    assert isinstance(error, ConfigError)
    assert [line.split(":")[1] for line in error.mistakes] == ["16", "27"]


SET_POINT = (
    "kind: set-point\n  what: {en: a, ko: b}\n  device: arm\n  register: speed\n  on: 5\n  off: 3\n"
    "  min: 1\n  max: 9\n  safe: 3"
)
THRESHOLD = changed().partition("intervention:\n  ")[2].partition("\ndesign:")[0]


def stored_plan(now: datetime, field: str = "arm/joints/j1", unit: str = "rad", ago_s: int = 21) -> str:
    """A plan for the node of `fill`: the baseline ends about now, the trial is tomorrow."""
    past, trial = now - timedelta(seconds=ago_s), now + timedelta(days=1)
    return changed(
        ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}]"),
        (THRESHOLD, SET_POINT),
        ("unit: 8h", "unit: 1s"),
        ("washout_s: 60, carry_over_s: 60", "washout_s: 0.1"),
        ("tz: Asia/Seoul", "tz: UTC"),
        ("from: 2027-02-01, to: 2027-03-01", f"from: {past:%F %T}, to: {past + timedelta(seconds=20):%F %T}"),
        (
            "2027-03-01 06:00, to: 2027-03-07 22:00",
            f"{trial:%F %T}, to: {trial + timedelta(seconds=20):%F %T}",
        ),
        (
            "formula: downtime\n    from: {running: {field: cell/production/running}}\n    unit: min",
            f"formula: mean(a)\n    from: {{a: {{field: {field}, unit: {unit}}}}}\n    unit: {unit}",
        ),
    )


async def test_a_plan_is_compared_with_what_a_collector_has_and_sent_to_its_node(folder: Path) -> None:
    plan, frozen = folder / "pilot.yaml", folder / "pilot.plan.json"
    async with serving(folder) as (collector, _):
        fill(collector)
        await until_stored(collector, 32)
        now = datetime.fromtimestamp(collector.clock.now_ms() // 1000, UTC)
        at = {"--url": f"http://127.0.0.1:{collector.socket.getsockname()[1]}"}

        async def ask(*words: object) -> Result:
            return await asyncio.to_thread(run, *words, *(word for pair in at.items() for word in pair))

        async def mistakes(text: str) -> list[str]:
            plan.write_text(text)
            done = await ask("check", plan)
            if isinstance(done.exception, ConfigError):
                return [line.partition(": ")[2] for line in done.exception.mistakes]
            assert done.exit_code == 0, (done.output, done.exception)
            return []

        good = stored_plan(now)
        assert await mistakes(good) == []
        [found] = await mistakes(stored_plan(now, unit="deg"))
        assert found == f"kpis.0.from.a.unit: {NODE} declares arm/joints/j1 in 'rad', not in 'deg'"
        [found] = await mistakes(stored_plan(now, field="arm/joints/j2"))
        assert found.endswith("no node of the plan has 'arm/joints/j2'; did you mean 'arm/joints/j1'?")
        [found] = await mistakes(stored_plan(now, ago_s=90_000))
        assert found == "windows.baseline: arm/joints/j1 (a) has rows in 0 of 20 periods, and 1 are needed"
        [found] = await mistakes(good.replace(SET_POINT, THRESHOLD))
        assert found.startswith(f"intervention.slot: {NODE} has no slot 'anomaly'")
        [found] = await mistakes(good.replace("device: arm", "device: leg"))
        assert found == f"intervention.device: {NODE} has no device 'leg'"
        assert len(await mistakes(good.replace(f"[{NODE}]", "[acme/trial/hall/cobot-77]"))) == 1

        plan.write_text(good)
        done = await ask("freeze", plan)
        assert "is not signed" in str(done.exception)
        done = await ask("freeze", plan, "--key", folder / "acme.key")
        assert f"{NODE}: sent" in done.output
        done = await ask("status", frozen)
        assert done.exit_code == 3
        assert "has reported nothing: is remote.pilot true" in done.output
        [found] = await mistakes(good.replace("pilot: trial-1", "pilot: trial-2"))
        assert found == f"windows.trial: overlaps the trial of the pilot trial-1 on {NODE}"
        assert await mistakes(good) == [], "the same pilot does not overlap itself"
        ended = await ask("withdraw", frozen)
        assert (ended.exit_code, ended.output) == (0, f"{NODE}: withdrawn\n")
        assert await mistakes(good.replace("pilot: trial-1", "pilot: trial-2")) == []
        doc = signed_plan(("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}]"))
        collector.documents.put("acme/trial/hall/cobot-09", doc, by="kim", at_ms=1, what="pilot")
        away = await ask("withdraw", frozen)
        assert away.output == (
            "acme/trial/hall/cobot-09: withdrawn: it is offline, and ends the pilot when it connects\n"
            f"{NODE}: does not have this pilot\n"
        )
        assert "no node that you may see has this pilot" in str((await ask("withdraw", frozen)).exception)


async def test_a_plan_that_its_nodes_cannot_answer_is_refused_with_its_line(folder: Path) -> None:
    plan, bare = folder / "pilot.yaml", "acme/trial/hall/bare-01"
    async with serving(folder) as (collector, _):
        fill(collector)
        await until_stored(collector, 32)
        birth = encode(Birth(ts=1, boot="deadbeef", sess=1, ep=EP, agent=AgentInfo(ver="0.1.0")))
        collector.ingest.receive(Received(f"tb1/{bare}/birth", birth, collector.clock.now_ms(), False, None))
        url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
        now = datetime.fromtimestamp(collector.clock.now_ms() // 1000, UTC)
        good, trial = stored_plan(now), now + timedelta(days=1)

        async def ask(*words: object) -> Result:
            return await asyncio.to_thread(run, *words, "--url", url)

        async def mistakes(*pairs: tuple[str, str], text: str = good) -> list[str]:
            for old, new in pairs:
                assert old in text, old
                text = text.replace(old, new)
            plan.write_text(text)
            done = await ask("check", plan)
            if isinstance(done.exception, ConfigError):
                return [line.partition(": ")[2] for line in done.exception.mistakes]
            assert done.exit_code == 0, (done.output, done.exception)
            return []

        def window(start: datetime, periods: int = 20) -> str:
            return f"from: {start:%F %T}, to: {start + timedelta(seconds=periods):%F %T}"

        [found] = await mistakes(("unit: rad", "unit: mrad"))
        assert found == f"kpis.0.from.a.unit: {NODE} declares arm/joints/j1 in 'rad', not in 'mrad'"
        found = await mistakes((f"[{NODE}]", f"[{bare}]"))
        assert "kpis.0.from.a.field: no node of the plan has 'arm/joints/j1'" in found
        elsewhere = ("field: arm/joints/j1", f"node: {bare}, field: arm/joints/j1")
        found = await mistakes((f"[{NODE}]", f"[{NODE}, {bare}]"), elsewhere)
        assert "kpis.0.from.a.field: no node of the plan has 'arm/joints/j1'" in found
        [found] = await mistakes((window(trial), window(now)))
        assert found == "windows.trial.from: has begun: a plan is frozen before its trial"
        compared = (
            "kind: switchback, unit: 1s, periods: 20, seed: 7",
            "kind: before-after, unit: 1s, periods: 20",
        )
        again = (
            good[good.index("  - id") :].replace("id: stops", "id: others").replace("    primary: true\n", "")
        )
        found = await mistakes(
            compared, text=good + again.replace("{a: {", "{b: {").replace("mean(a)", "mean(b)")
        )
        assert [line.partition(" has rows")[0] for line in found] == [
            "windows.baseline: arm/joints/j1 (a)", "windows.baseline: arm/joints/j1 (b)",
        ]  # fmt: skip
        assert all(" of 20 periods, and 20 are needed" in line for line in found)
        machines = f"[{NODE}/leg, {bare}, {NODE}1, {NODE}2]"
        groups = f"groups: {{treated: 2, machines: {machines}}}"
        parallel = compared[0], f"kind: parallel, unit: 1s, periods: 20, seed: 7, {groups}"
        found = await mistakes(parallel, (f"[{NODE}]", f"[{NODE}, {bare}, {NODE}1, {NODE}2]"))
        assert [line for line in found if "machines" in line] == [
            f"design.groups.machines.0: {NODE}/leg has no 'leg/joints/j1'",
            f"design.groups.machines.1: {bare} has no 'arm/joints/j1'",
        ]
        refused = await ask("freeze", plan, "--key", folder / "acme.key")
        assert isinstance(refused.exception, ConfigError)
        assert not (folder / "pilot.plan.json").exists(), "it is compared before it is frozen"

        before = window(trial - timedelta(seconds=40))
        plan.write_text(good.replace(window(now - timedelta(seconds=21)), before))
        assert (await ask("freeze", plan, "--key", folder / "acme.key")).exit_code == 0
        other = ("pilot: trial-1", "pilot: trial-2")
        for late_s, overlap in (
            (19, "trial"),
            (-19, "trial"),
            (-21, "baseline"),
            (-39, "baseline"),
            (20, ""),
            (-60, ""),
        ):
            found = await mistakes(other, (window(trial), window(trial + timedelta(seconds=late_s))))
            wanted = (
                [f"windows.trial: overlaps the {overlap} of the pilot trial-1 on {NODE}"] if overlap else []
            )
            assert found == wanted, late_s
        later = (window(trial), window(trial + timedelta(days=1)))
        [found] = await mistakes(
            other, later, (window(now - timedelta(seconds=21)), window(trial + timedelta(seconds=19)))
        )
        assert found == f"windows.baseline: overlaps the trial of the pilot trial-1 on {NODE}"


async def test_a_node_that_is_refused_keeps_the_plan_from_no_other(folder: Path) -> None:
    first, middle, last = (f"acme/trial/hall/cobot-0{number}" for number in (1, 2, 3))
    nodes = ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{first}, {middle}, {last}]")
    (folder / "pilot.yaml").write_text(changed(nodes))
    assert run("freeze", folder / "pilot.yaml", "--key", folder / "acme.key").exit_code == 0
    async with serving(folder) as (collector, get):
        for node in (first, last):
            fill(collector, node)
        await until_stored(collector, 64)
        url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
        done = await asyncio.to_thread(run, "freeze", folder / "pilot.plan.json", "--url", url)
        assert [line for line in done.output.splitlines() if line.endswith(": sent")] == [
            f"{first}: sent", f"{last}: sent",
        ]  # fmt: skip
        assert f"{middle}: not sent: {url} answers 404" in done.output
        assert "was not sent to 1 of 3 nodes" in str(done.exception)
        listed = (await get("/api/v1/pilots")).json()["pilots"]
        assert [each["node"] for each in listed] == [first, last]


class Other:
    """Another pilot on a node of its own: `trial_s` is where its trial of 20 s begins, from now on."""

    def __init__(self, collector: Collector, number: int, now: datetime) -> None:
        self.node = f"acme/trial/hall/cobot-{number}"
        self._collector, self._now, self.events = collector, now, 0

    def send(self, trial_s: float, *pairs: tuple[str, str], after: Opened | None = None) -> Opened:
        text = stored_plan(self._now, ago_s=200).replace(f"[{NODE}]", f"[{self.node}]")
        start = self._now + timedelta(seconds=trial_s)
        own = self._now + timedelta(days=1)
        text = text.replace(f"{own:%F %T}", f"{start:%F %T}")
        text = text.replace(f"{own + timedelta(seconds=20):%F %T}", f"{start + timedelta(seconds=20):%F %T}")
        for old, new in (("pilot: trial-1", "pilot: trial-2"), *pairs):
            assert old in text, old
            text = text.replace(old, new)
        frozen = freeze(parse(text, "pilot.yaml"), after=after, reason="x" if after else "")
        signed = envelope(frozen.payload, (("ab" * 32, b"x"),))
        doc = msgspec.to_builtins(signed)
        self._collector.documents.put(self.node, doc, by="kim", at_ms=1, what="pilot")
        return read_signed(msgspec.json.encode(signed))

    def withdraw(self) -> None:
        self._collector.documents.put(self.node, {}, by="kim", at_ms=2, what="pilot")

    def records(self, at_s: float, **detail: str) -> None:
        ts = round((self._now.timestamp() + at_s) * 1_000)
        self.events += 1
        event = encode(Event(ep=EP, seq=32 + self.events, ts=ts, type="pilot", detail=detail))
        now_ms = self._collector.clock.now_ms()
        self._collector.ingest.receive(Received(f"tb1/{self.node}/event/_/pilot", event, now_ms, False, None))


async def test_a_baseline_meets_only_what_another_pilot_did(folder: Path) -> None:
    """The baseline begins 21 s ago. A plan that was withdrawn or amended acted for as long as it did."""
    plan = folder / "pilot.yaml"
    async with serving(folder) as (collector, _):
        for number in range(10, 21):
            fill(collector, f"acme/trial/hall/cobot-{number}")
        url = f"http://127.0.0.1:{collector.socket.getsockname()[1]}"
        now = datetime.fromtimestamp(collector.clock.now_ms() // 1000, UTC)
        others = [Other(collector, number, now) for number in range(10, 21)]
        over, touching, short, long, never, refused, amended, later, foreign, twice, unknown = others

        def followed(one: Other, trial_s: float = -40, at_s: float = -60) -> Opened:
            opened = one.send(trial_s)
            one.records(at_s, hash=opened.hash)
            return opened

        def ended(one: Other, at_s: float) -> None:
            digest = followed(one).hash
            one.withdraw()
            one.records(at_s, withdrawn=digest)

        followed(over)
        followed(touching, -41)
        ended(short, -21)
        ended(long, -20.5)
        ended(never, -45)
        refused.send(-40)
        report = Reported(ver=1, state="rejected", ts=1, err="x", code="pilot-not-signed")
        topic = f"tb1/{refused.node}/reported/pilot"
        collector.ingest.receive(Received(topic, encode(report), collector.clock.now_ms(), False, None))
        for one, at_s in ((amended, -30.0), (later, -20.5)):
            newer = one.send(200_000, after=followed(one))
            one.records(at_s, hash=newer.hash)
        ownerless = parse(stored_plan(now), "x")
        theirs = msgspec.structs.replace(ownerless, owner="hanbit", pilot="secret", nodes=(foreign.node,))
        doc = msgspec.to_builtins(envelope(freeze(theirs).payload, (("ab" * 32, b"x"),)))
        collector.documents.put(foreign.node, doc, by="kim", at_ms=1, what="pilot")
        followed(twice, -100)
        twice.send(90_000)
        unknown.send(-40)
        await until_stored(collector, 32 * 11 + sum(each.events for each in others))

        def check(node: str) -> list[str]:
            plan.write_text(stored_plan(now).replace(f"[{NODE}]", f"[{node}]"))
            done = run("check", plan, "--url", url)
            if isinstance(done.exception, ConfigError):
                return [line.partition(": ")[2] for line in done.exception.mistakes]
            assert done.exit_code == 0, (done.output, done.exception)
            return []

        found = {each.node: await asyncio.to_thread(check, each.node) for each in others}
        text = "windows.baseline: overlaps the trial of the pilot trial-2 on"
        past = "which has ended or was amended"
        assert found == {
            over.node: [f"{text} {over.node}"],
            touching.node: [],
            short.node: [],
            long.node: [f"{text} {long.node}, {past}"],
            never.node: [],
            refused.node: [],
            amended.node: [],
            later.node: [f"{text} {later.node}, {past}"],
            foreign.node: [f"windows.trial: overlaps the trial of another pilot on {foreign.node}"],
            twice.node: [],
            unknown.node: [f"{text} {unknown.node}"],  # its events may still come
        }


def test_a_frozen_plan_that_was_made_by_hand_gets_no_second_signature(folder: Path) -> None:
    frozen = folder / "pilot.plan.json"
    plain = json.loads(freeze(parse(changed(), "pilot.yaml")).payload)
    trial = [each for each in plain["schedule"]["periods"] if each[2] == "trial"]

    def refused(**more: object) -> str:
        frozen.write_bytes(msgspec.json.encode(envelope(canonical({**plain, **more}))))
        return str(run("freeze", frozen, "--key", folder / "lab.key").exception)

    assert refused() == "None"
    chosen = [[*each[:3], "on" if at % 2 else "off"] for at, each in enumerate(trial)]
    assert "its schedule is not the one" in refused(schedule={"periods": chosen, "treated": []})
    [kpi] = plain["plan"]["kpis"]
    assert "kpis: none is primary" in refused(plan={**plain["plan"], "kpis": [{**kpi, "primary": False}]})
    few = {**plain["plan"]["design"], "periods": 2}
    assert "2 periods can show nothing" in refused(plan={**plain["plan"], "design": few})


def planned(folder: Path, target: str, values: list[float], *pairs: tuple[str, str]) -> Result:
    """The outlook of a plan with this target, for these values of the baseline."""
    (folder / "pilot.yaml").write_text(changed(("target: {min: 0.1}", f"target: {{{target}}}"), *pairs))
    (folder / "values.txt").write_text("\n".join(map(str, values)) + "\n-\n")
    return run("plan", folder / "pilot.yaml", "--baseline", folder / "values.txt")


# 56 values whose neighbours differ by +-10 in turns: the sd of the differences is 10.09
STEPS = [100.0 + 10 * (at % 2) + at % 3 for at in range(56)]


def test_a_plan_says_what_it_can_show(folder: Path) -> None:
    good = planned(folder, "min: 5, effect: 25, scale: absolute", STEPS)
    assert good.exit_code == 0, (good.output, good.exception)
    assert "20 periods show an effect of 25 min in 100% of pilots" in good.output
    assert "stops: 56 of 57 periods of the baseline count; left out: 1 no-value" in good.output
    marked = planned(folder, "min: 5, effect: 13, scale: absolute", STEPS)
    assert marked.exit_code == 0
    assert "the power is below 80%" in marked.output
    assert "with your baseline you need" in marked.output
    refused = planned(folder, "min: 5, effect: 7, scale: absolute", STEPS)
    assert "is refused: it would show nothing in" in str(refused.exception)
    relative = planned(folder, "min: 0.05, effect: 0.4", STEPS)
    assert "show an effect of 40.0% in 100% of pilots" in relative.output


@pytest.mark.parametrize(
    ("target", "values", "sentence"),
    [
        ("min: 5, scale: absolute", STEPS, "write which effect of stops you expect"),
        ("min: 0.1, effect: 1.0", STEPS, "nothing decreases by 100 % or more"),
        ("min: 0.1, effect: 0.5", STEPS[:19], "19 periods with data in the baseline; a plan needs 20"),
        ("min: 0.1, effect: 0.5", [-1.0, *STEPS], "state the target as a difference"),
        ("min: 0.1, effect: 0.5", [7.0] * 30, "All values are equal"),
    ],
)
def test_a_plan_without_an_answer_says_why(
    folder: Path, target: str, values: list[float], sentence: str
) -> None:
    assert sentence in str(planned(folder, target, values).exception)


def test_a_plan_is_made_from_a_store_beside_its_collector(folder: Path) -> None:
    now = Clock().now_ms() // HOUR * HOUR
    plant = Plant(folder / "store", Clock())
    with closing(plant.store):
        rows = [
            plant.data(now + (hour - 30) * HOUR, {"level": [100.0 + hour % 3 + hour % 7]}, path="arm/joints")
            for hour in range(30)
            if hour != 4
        ]
        plant.commit(rows)
        start, end = (
            f"{datetime.fromtimestamp(ms / 1000, UTC):%F %T}" for ms in (now - 30 * HOUR, now + HOUR)
        )
        trial = f"{datetime.fromtimestamp((now + 21 * HOUR) / 1000, UTC):%F %T}"
        text = changed(
            ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{PLANT}]"),
            ("unit: 8h", "unit: 1h"),
            ("washout_s: 60, carry_over_s: 60", "washout_s: 0"),
            ("tz: Asia/Seoul", "tz: UTC"),
            ("from: 2027-02-01, to: 2027-03-01", f"from: {start}, to: {end}"),
            ("from: 2027-03-01 06:00, to: 2027-03-07 22:00", f"from: {end}, to: {trial}"),
            ("formula: downtime\n    from: {running: {field: cell/production/running}}\n    unit: min",
             "formula: max(a)\n    from: {a: {field: arm/joints/level}}\n    unit: ''"),
            ("target: {min: 0.1}", "target: {min: 0.01, effect: 0.1}"),
            ("kpis:", "data: {min_complete: 0}\nkpis:"),
        )  # fmt: skip
        (folder / "pilot.yaml").write_text(text)
        asked = ("plan", folder / "pilot.yaml", "--store", folder / "store")
        found = run(*asked)
        assert found.exit_code == 0, (found.output, found.exception)
        assert (
            "stops: 29 of 30 periods of the baseline count; left out: 1 no-data; 1 are to come"
            in found.output
        )
        missed = datetime.fromtimestamp((now - 26 * HOUR) / 1000, UTC)
        assert f"{missed:%Y-%m-%d %H:%M} missing: no-data" in found.output
        made = json.loads(run(*asked, "--json").stdout)
        assert (made["kpis"][0]["used"], made["to_come"], len(made["periods"]["stops"][""])) == (29, 1, 30)
        assert made["periods"]["stops"][""][2]["value"] == 104.0
    assert "name one of --store, --url and --baseline" in run("plan", folder / "pilot.yaml").output


def test_a_ratio_of_a_file_has_its_two_sums_in_a_line(folder: Path) -> None:
    kpi = "formula: downtime\n    from: {running: {field: cell/production/running}}\n    unit: min"
    ratio = "formula: defect-rate\n    from: {parts: {field: a/b/p}, rejects: {field: a/b/r}}\n    unit: '1'"
    (folder / "pilot.yaml").write_text(changed((kpi, ratio), ("{min: 0.1}", "{min: 0.1, effect: 0.5}")))
    lines = [f"{20 + at % 5} {1_000 + 10 * (at % 7)}" for at in range(40)]
    (folder / "values.txt").write_text("\n".join(lines))
    done = run("plan", folder / "pilot.yaml", "--baseline", folder / "values.txt")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "stops: mean 0.02139, correlation" in done.output
    (folder / "values.txt").write_text("1 2 3\n")
    assert "'1 2 3' is not a number" in str(
        run("plan", folder / "pilot.yaml", "--baseline", folder / "values.txt").exception
    )


def test_a_wrong_line_of_the_baseline_is_named(folder: Path) -> None:
    (folder / "values.txt").write_text("1\n2,5\n\nx\n")
    error = run("plan", folder / "pilot.yaml", "--baseline", folder / "values.txt").exception
    assert isinstance(error, ConfigError)
    assert [line.partition("values.txt:")[2] for line in error.mistakes] == [
        "2: '2,5' is not a number",
        "4: 'x' is not a number",
    ]


@pytest.mark.slow
def test_a_plan_of_before_and_after_stands_beside_its_switchback(folder: Path) -> None:
    design = "kind: switchback, unit: 8h, periods: 20, seed: 7, washout_s: 60, carry_over_s: 60"
    done = planned(
        folder,
        "min: 0, effect: 40, scale: absolute",
        STEPS,
        (design, "kind: before-after, unit: 8h, periods: 20"),
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert "a switchback shows it in 20 periods, where the change can be switched" in done.output
