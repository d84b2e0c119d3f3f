"""Rollouts over the API of a real collector: who may start them, two for one slot, packages in use."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from collector.app import Collector
from collector.mqtt.received import Received
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.rollout.candidates import MAX_LACKS
from collector.rollout.driver import Rollouts
from collector.rollout.packages import Packages
from collector.rollout.records import RolloutRecords
from collector.state.audit import Audit
from collector.web.rollouts import ACTS
from tests.polling import until
from tests.unit.collector.rollout.test_packages import FILES, push
from tests.unit.collector.web.serving import Get, serving
from wire.codec import encode
from wire.messages import AgentInfo, Arm, Birth, Command, Evidence, ModelRef, ModelSlot, ModelState, Status
from wire.model_offer import OFFER

NODES = ("acme/trial/hall/a", "acme/trial/hall/b", "acme/other/hall/c")
START = {"model": "m@1.0.0", "slot": "s", "nodes": "acme/*", "confirm": {"results": 5}}


async def fill(collector: Collector, models: dict[str, ModelState] | None = None) -> None:
    """Have three nodes with the slot, with a model of each or the same; the last one is offline."""
    now, base = collector.clock.now_ms(), ModelState(state="ok", name="base", ver="1")
    for node in NODES:
        state: Any = "offline" if node == NODES[2] else "online"
        mine = {"s": (models or {}).get(node, base)}
        birth = Birth(
            ts=now, boot="deadbeef", sess=1, ep="00112233aabbccdd", agent=AgentInfo(ver="1"),
            models={"s": ModelRef(name="base", ver="1", sha256="0" * 64)},
            cmds=[Command(name=OFFER, device="_")],
        )  # fmt: skip
        bodies = {
            "birth": birth,
            "status": Status(state=state, ts=now, boot="deadbeef", sess=1, models=mine),
        }
        for tail, body in bodies.items():
            collector.ingest.receive(Received(f"tb1/{node}/{tail}", encode(body), now, False, None))
    await until(lambda: len(collector.fleet.names()) == len(NODES), "the nodes are known")
    await until(lambda: collector.fleet.birth(NODES[2]), "their births are there")


async def start(get: Get, token: str = "", **more: Any) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = await get("/api/v1/rollouts/acme", "POST", {**START, **more}, **headers)
    return answer.status, answer.json()


async def test_one_rollout_at_a_time_has_a_slot(tmp_path: Path) -> None:
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        digest = push(Packages(tmp_path / "store", 10_000))
        status, first = await start(get, nodes="acme/trial/*")
        assert (status, first["stages"], first["ref"]) == (201, [1, 2], "m@1.0.0")
        assert [one["node"] for one in first["devices"]] == list(NODES[:2])
        assert await start(get) == (
            409,
            {"error": f"slot s of {NODES[0]} is in rollout {first['id']} of m@1.0.0: end it first"},
        )
        assert (await start(get, nodes="acme/other/*"))[0] == 201, "other nodes are free"
        kept = await get(f"/api/v1/models/acme/{digest}", "DELETE", b"")
        assert (kept.status, first["id"] in kept.body.decode()) == (409, True)
        path = f"/api/v1/rollouts/acme/{first['id']}"
        for act, state in (("pause", 200), ("pause", 409), ("abort", 200), ("resume", 409), ("x", 404)):
            assert (await get(f"{path}/{act}", "POST", {})).status == state, act
        found = RolloutRecords(collector.state).get("acme", first["id"])
        assert found is not None
        assert (found.state, set(ACTS) >= {"pause", "abort"}) == ("aborted", True)
        assert isinstance(collector.rollouts, Rollouts)
        acts = {one.what for one in Audit(collector.state).newest(50)}
        assert {"rollout started", "rollout pause", "rollout abort"} <= acts


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"model": "m@2"}, "model package of acme"),
        ({"slot": "t"}, "no node of acme"),
        ({"slot": "../x"}, "is not a slot"),
        ({"nodes": "hanbit/*"}, "no node of acme"),
        ({"stages": "1,0"}, "stage 2, '0', is not from 1 to 1,000,000 nodes; stages are such as 1,25%,100%"),
        ({"confirm": {"results": 0}}, "the body is wrong"),
        ({"confirm": {"url": "http://a"}}, "the body is wrong"),
        ({"timeout_s": 0}, "the body is wrong"),
        ({"max_failed": -1}, "the body is wrong"),
    ],
)
async def test_what_cannot_be_rolled_out_is_refused(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        push(Packages(tmp_path / "store", 10_000))
        status, answer = await start(get, **more)
        assert (status, why in answer["error"]) == (400, True), answer
        assert collector.rollouts.records.newest() == []


async def test_a_part_of_a_tenant_is_its_own(tmp_path: Path) -> None:
    async with serving(tmp_path) as (collector, get):
        await fill(collector)
        push(Packages(tmp_path / "store", 10_000))
        accounts, tokens = collector.directory.accounts, {}
        for name, role, prefix in (
            ("part", "operator", "acme/trial/*"), ("all", "operator", "acme/*"), ("sees", "viewer", "acme/*")
        ):  # fmt: skip
            accounts.add(name, hashed("a password of kim"), Grant(role, (prefix,)))
            tokens[name] = accounts.add_token(name, "", Grant(role, (prefix,)), 1)[1]
        collector.directory.refresh()
        assert (await start(get, tokens["sees"]))[0] == 403
        status, whole = await start(get, tokens["all"])
        assert (status, len(whole["devices"])) == (201, 3)
        path, part = f"/api/v1/rollouts/acme/{whole['id']}", {"Authorization": f"Bearer {tokens['part']}"}
        seen = (await get(path, **part)).json()
        assert [one["node"] for one in seen["devices"]] == list(NODES[:2])
        records = collector.rollouts.records
        kept = records.get("acme", whole["id"])
        assert kept is not None
        because_of = {
            "why": f"it failed on {NODES[2]}: x",
            "code": "rollout-failed",
            "args": {"node": NODES[2]},
        }
        records.save(replace(kept, state="paused", **because_of))
        for url in (path, "/api/v1/rollouts"):
            assert NODES[2] not in (await get(url, **part)).body.decode(), "a node of others is not named"
            everything = {"Authorization": f"Bearer {tokens['all']}"}
            assert f"it failed on {NODES[2]}" in (await get(url, **everything)).body.decode()
        assert (await get(f"{path}/abort", "POST", {}, **part)).status == 403
        assert (await start(get, tokens["part"]))[0] == 409


async def test_gates_and_evidence_of_what_a_user_sees(tmp_path: Path) -> None:
    digest = push(Packages(tmp_path / "store", 10_000))
    slots = {
        node: ModelSlot(
            state="unconfirmed", digest=digest, offered=digest, attempt=1, results=200 - number, of=5,
            ran=Arm(n=200, nan=number, failed=1, p99_ms=float(number)),
        )
        for number, node in enumerate(NODES, 1)
    }  # fmt: skip
    models = {node: ModelState(state="ok", name="m", ver="1", slot=slot) for node, slot in slots.items()}
    async with serving(tmp_path) as (collector, get):
        await fill(collector, models)
        path = f"/api/v1/rollouts/acme/{(await start(get))[1]['id']}"
        whole = (await get(path)).json()
        assert [one["nodes"] for one in whole["gates"]] == [1, 2]
        assert [one["results"] for one in whole["gates"]] == [199, 197], "the fewest"
        assert [one["nan"] for one in whole["gates"]] == [0.005, 0.015], "the largest"
        assert [one["p99_ms"] for one in whole["gates"]] == [1.0, 3.0]
        assert (whole["counts"], whole["total"]) == ({"waiting": 3}, 3)
        assert whole["devices"][1]["slot"]["ran"]["nan"] == 2
        (head,) = (await get("/api/v1/rollouts")).json()["rollouts"]
        assert (head["counts"], head["devices"], "gates" in head) == ({"waiting": 3}, [], False)
        part = (await get(f"{path}?from=1&limit=1&state=waiting")).json()
        assert ([one["node"] for one in part["devices"]], part["total"]) == ([NODES[1]], 3)
        none = (await get(f"{path}?state=failed")).json()
        assert (none["devices"], none["total"], none["counts"]) == ([], 0, {"waiting": 3})
        for wrong in ("state=x", "from=-1", "limit=0", "limit=999999"):
            assert (await get(f"{path}?{wrong}")).status == 400, wrong
        assert (await get("/api/v1/rollouts?limit=0")).status == 400
        accounts = collector.directory.accounts
        accounts.add("part", hashed("a password of kim"), Grant("viewer", ("acme/trial/*",)))
        token = accounts.add_token("part", "", Grant("viewer", ("acme/trial/*",)), 1)[1]
        collector.directory.refresh()
        seen = (await get(path, Authorization=f"Bearer {token}")).json()
        assert [(one["nodes"], one["p99_ms"]) for one in seen["gates"]] == [(1, 1.0), (1, 2.0)]
        assert seen["counts"] == {"waiting": 2}


def in_shadow(**more: Any) -> ModelState:
    """A model with a second one in shadow, whose ONNX file is that of the package `push` makes."""
    arm = Arm(name="m", ver="1.0.0", sha256=sha256(FILES["a/b.onnx"]).hexdigest(), n=2_000)
    evidence = Evidence(**{"state": "ok", "n": 2_000, "low": 0.99, "b": arm, **more})
    return ModelState(state="ok", name="base", ver="1", evidence=evidence)


async def test_a_second_model_is_promoted_with_the_evidence_of_each_node(tmp_path: Path) -> None:
    files = {**FILES, "manifest.yaml": b"name: m\nversion: 1.0.0\nfile: a/b.onnx\n"}
    digest = push(Packages(tmp_path / "store", 10_000), files)
    models = {NODES[0]: in_shadow(), NODES[1]: in_shadow(n=40), NODES[2]: in_shadow()}
    async with serving(tmp_path) as (collector, get):
        await fill(collector, models)

        async def promote(**more: Any) -> tuple[int, Any]:
            answer = await get("/api/v1/rollouts/acme/promote", "POST", {**START, **more})
            return answer.status, answer.json()

        status, refused = await promote()
        assert (status, refused["error"]) == (409, "m@1.0.0 is not promoted: 2 of 3 nodes lack the evidence")
        assert [(one["node"], one["code"]) for one in refused["lacks"]] == [
            (NODES[1], "promote-few"), (NODES[2], "promote-offline"),
        ]  # fmt: skip
        assert collector.rollouts.records.newest() == []
        entry = Audit(collector.state).newest(1)[0]
        assert (entry.what, "2 of 3 nodes" in entry.result) == ("rollout promoted", True)
        (found,) = (await get("/api/v1/candidates")).json()["candidates"]
        assert (found["ref"], found["slot"], found["digest"]) == ("m@1.0.0", "s", digest)
        assert (found["nodes"], found["ready"]) == (sorted(NODES), 1)
        assert {one["node"] for one in found["lacks"][:MAX_LACKS]} == {NODES[1], NODES[2]}
        nodes = (await get("/api/v1/fleet")).json()["nodes"]
        assert {one["node"]: one["models"][0]["evidence"]["n"] for one in nodes}[NODES[1]] == 40
        for wrong in (
            {"evidence": {"min_n": 0}}, {"evidence": {"min_agreement": 2}}, {"model": "m@2"}, {"nodes": []},
            {"nodes": [NODES[0], "hanbit/a/b/c"]}, {"nodes": NODES[2], "skip_offline": True},
        ):  # fmt: skip
            assert (await promote(**wrong))[0] == 400, wrong
        assert (await promote(nodes=[NODES[1]]))[0] == 409
        status, made = await promote(evidence={"min_n": 40}, skip_offline=True)
        assert (status, made["skipped"], made["counts"]) == (201, [NODES[2]], {"waiting": 2})
        assert Audit(collector.state).newest(1)[0].what == "rollout promoted"
