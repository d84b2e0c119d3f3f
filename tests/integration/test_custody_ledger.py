"""The ledger's proof over real brokers: signed days, a lost disk, a new key, a restored backup, a forger."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgebed.broker import Kind, find
from edgebed.drill.clock import step
from edgebed.drill.installation import BOXES, TENANT, DrillInstallation
from edgebed.processes import edgebed_command
from tests import paho_client
from tests.brokers import LONG_TEST_KINDS
from wire.clock import Clock
from wire.custody import key_id
from wire.errors import Unreachable

BOX, TWIN = BOXES
NODE = f"{TENANT}/{BOX}"
PILOT = "/".join(TENANT.split("/")[:2])


@pytest.fixture(params=LONG_TEST_KINDS)
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, require: Any
) -> AsyncIterator[DrillInstallation]:
    kind: Kind = request.param
    try:
        find(kind)
    except Unreachable:
        require("mosquitto")
    async with DrillInstallation(tmp_path, broker=kind, seed=7) as made:
        await made.installation.until("a statement of each box", lambda: _stated(made))
        yield made


async def days(bench: DrillInstallation, node: str = NODE, **asked: str) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in {"node": node, **asked}.items())
    found: list[dict[str, Any]] = (await bench.installation.api(f"/api/v1/ledger?{query}"))["days"]
    return found


async def _stated(bench: DrillInstallation) -> bool:
    found = [line for box in BOXES for line in await days(bench, f"{TENANT}/{box}") if line["statements"]]
    return len({line["node"] for line in found}) == len(BOXES)


async def stop(bench: DrillInstallation, box: str = BOX, *, restored: bool = False) -> dict[str, Any]:
    """Stop a box gracefully: everything it took is stated, and stored unless the store lost some of it."""
    for _ in range(10):
        await asyncio.to_thread(bench.agent(box).stop)
        status = bench.installation.agent_status(box)
        if status["depth"] == 0:
            break
        bench.agent(box).start()  # it was stopped before every message had left
        await bench.installation.until(
            "it is back", lambda: bench.installation.agent_status(box).get("connected")
        )
    node = f"{TENANT}/{box}"

    async def stored() -> bool:
        lines = [line for line in await days(bench, node) if line["ep"] == status["ep"]]
        there = sum(line["stored"] + line["gap_count"] for line in lines)
        forgotten = sum(line["missing_count"] for line in lines) if restored else 0
        return there + forgotten >= status["head"] and not any(line["waiting"] for line in lines)

    await bench.installation.until(f"all of {box} is stored", stored)
    return status


def ledger(bench: DrillInstallation, *arguments: str) -> tuple[int, str]:
    command = edgebed_command("ledger", "--url", bench.installation.url, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


async def test_two_days_are_proven_to_the_row_and_survive_a_kill(bench: DrillInstallation) -> None:
    """The clock passes midnight while messages are taken; then the agent and the collector are killed."""
    today = datetime.now(UTC)
    midnight = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=1)
    step(bench.clock_file(BOX), offset_s=(midnight - datetime.now(UTC)).total_seconds() - 1.0)
    tomorrow = f"{midnight:%Y-%m-%d}"

    async def turned() -> bool:
        return any(line["day"] == tomorrow and line["statements"] for line in await days(bench))

    await bench.installation.until("a statement of the new day", turned, 100)
    bench.agent(BOX).kill()
    bench.installation.collector.kill()
    bench.agent(BOX).start()
    bench.installation.collector.start()
    await bench.recovers()
    status = await stop(bench)
    found = {line["day"]: line for line in await days(bench)}
    assert set(found) == {f"{today:%Y-%m-%d}", tomorrow}
    assert sum(line["taken"] for line in found.values()) == status["head"]
    first_number = 0
    for day in sorted(found):
        line = found[day]
        assert (line["doubt"], line["verified"]) == ("", True)
        assert line["taken"] == line["stored"] + line["gap_count"]
        stream = line["streams"]["data/counter/rows"]
        assert line["gap_count"] == 0
        assert stream["rows_stored"] == stream["rows_taken"]
        assert stream["rows_taken"] > first_number
    code, text = await asyncio.to_thread(ledger, bench, "--pilot", PILOT, "--day", tomorrow)
    assert re.search("signed statements?: verified", text), text
    assert "data/counter/rows" in text
    assert f"{PILOT}  {tomorrow}" in text
    assert code == 0, text


async def test_a_reinstalled_device_is_reported_until_its_key_is_accepted(bench: DrillInstallation) -> None:
    bench.agent(BOX).kill()
    old = bench.installation.agent_status(BOX)
    shutil.rmtree(bench.state(BOX))
    bench.agent(BOX).start()

    async def strange() -> Any:
        return (await bench.installation.api("/api/v1/ledger"))["strangers"]

    (unknown,) = await bench.installation.until("an unknown key", strange)
    assert unknown["node"] == NODE

    async def troubled() -> Any:  # nodes are judged once a second
        view = await bench.installation.api(f"/api/v1/nodes/{NODE}")
        assert key_id(view["birth"]["key"]) == unknown["key"]
        return {one["code"]: one["why"] for one in view["trouble"]}.get("custody")

    assert unknown["key"] in await bench.installation.until("the key among the problems", troubled)
    _, text = await asyncio.to_thread(ledger, bench)
    assert f"signed with key {unknown['key']}, which is not accepted" in text, text
    accept = edgebed_command(
        "ledger", "--store", str(bench.folder / "store"), "--node", NODE, "--accept", unknown["key"]
    )
    await asyncio.to_thread(subprocess.run, accept, check=True, capture_output=True, timeout=60)
    status = await stop(bench)
    assert status["ep"] != old["ep"]
    now = [line for line in await days(bench) if line["ep"] == status["ep"]]
    assert [(line["verified"], line["taken"]) for line in now] == [(True, status["head"])]
    assert await strange() == []
    view = await bench.installation.api(f"/api/v1/nodes/{NODE}")
    assert "custody" not in {one["code"] for one in view["trouble"]}


async def test_a_forger_on_the_broker_is_refused(bench: DrillInstallation) -> None:
    """Real statements of a node: changed, sent again, and sent as another node's."""
    await stop(bench)
    before = await days(bench)
    events = (await bench.installation.api(f"/api/v1/nodes/{NODE}/devices/_/events?type=custody"))["events"]
    detail, ep = events[0]["detail"], before[0]["ep"]
    changed = {**detail, "streams": {**detail["streams"], "data/counter/rows": [1, 1, 1]}}
    head = before[-1]["taken"] + 50
    sent = [
        (NODE, ep, head, changed),
        (NODE, ep, head + 1, detail),
        (f"{TENANT}/{TWIN}", "f" * 16, int(detail["upto"]) + 1, detail),
    ]
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="forger")
    client.connect("127.0.0.1", bench.installation.broker.port)
    client.loop_start()
    try:
        await bench.installation.until("the forger connects", client.is_connected)
        for node, its_ep, seq, said in sent:
            body = {
                "v": 1,
                "ep": its_ep,
                "seq": seq,
                "ts": Clock().now_ms(),
                "type": "custody",
                "detail": said,
            }
            info = client.publish(f"tb1/{node}/event/_/custody", json.dumps(body), qos=1)
            await asyncio.to_thread(info.wait_for_publish, 60)
    finally:
        paho_client.end(client)

    async def refused() -> bool:
        return (await bench.installation.api(f"/api/v1/nodes/{NODE}/devices/_/events?type=custody"))[
            "events"
        ][0]["detail"] != detail or any(line["taken"] > head for line in await days(bench))

    await bench.installation.until("the forgeries are stored as events", refused)
    after = await days(bench)
    assert sum(line["statements"] for line in after) == sum(line["statements"] for line in before)
    assert [line["streams"] for line in after] == [line["streams"] for line in before]
    view = await bench.installation.api(f"/api/v1/nodes/{NODE}")
    assert "custody" in {one["code"] for one in view["trouble"]}


async def test_a_restored_backup_shows_what_it_lacks(bench: DrillInstallation) -> None:
    store, backup = bench.folder / "store", bench.folder / "backup"
    await asyncio.to_thread(bench.installation.collector.stop)
    shutil.copytree(store, backup)
    bench.installation.collector.start()
    await bench.recovers()
    await stop(bench, TWIN)
    await stop(bench)
    await asyncio.to_thread(bench.installation.collector.stop)
    shutil.rmtree(store)
    backup.rename(store)
    bench.installation.collector.start()
    bench.agent(BOX).start()
    await bench.installation.until("new data of the box", lambda: _restored(bench))
    status = await stop(bench, restored=True)
    lines = [line for line in await days(bench) if line["ep"] == status["ep"]]
    assert sum(line["taken"] for line in lines) == status["head"]
    absent = [hole for line in lines for hole in line["absent"]]
    assert absent
    assert {why for *_, why in absent} == {"was stored once: this store is restored from an older backup"}
    assert all(since > 0 for _, _, since, _ in absent)
    code, text = await asyncio.to_thread(ledger, bench, "--node", NODE)
    assert code == 3
    assert "restored from an older backup" in text


async def _restored(bench: DrillInstallation) -> bool:
    status = bench.installation.agent_status(BOX)
    entry = (await bench.entries()).get(BOX)
    return bool(entry and status.get("running") and entry["missing_count"] and entry["stored"] > 5)
