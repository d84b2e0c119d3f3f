"""Viewers: each gets what it asked for, encoded once; slow ones lose the oldest, then their connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from collector.web import event_stream as module
from collector.web.event_stream import Hub, TooManyViewers, Viewer

NODE = "a/b/c/n1"


async def read(viewer: Viewer, count: int) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    frames: AsyncIterator[bytes] = viewer.frames()
    async with asyncio.timeout(60):
        async for block in frames:
            for frame in block.split(b"\n\n"):
                if frame.startswith(b"event: "):
                    name, data = frame.split(b"\n", 1)
                    found.append((name[7:].decode(), json.loads(data[6:])))
            if len(found) >= count:
                break
    return found


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    made = Hub()
    made.open()
    yield made
    made.close()


async def test_each_viewer_gets_its_device_and_the_fleet(hub: Hub) -> None:
    arm, node, fleet = hub.join(NODE, "arm"), hub.join(NODE, ""), hub.join("", "")
    hub.post("rows", {"k": 1}, NODE, "arm")
    hub.post("rows", {"k": 2}, NODE, "leg")
    hub.post("rows", {"k": 3}, "a/b/c/other", "arm")
    hub.post("event", {"k": 4}, NODE, "_")
    await asyncio.sleep(0)
    hub.broadcast("fleet", lambda _user: [])
    assert [data for _, data in await read(arm, 3)] == [{"k": 1}, {"k": 4}, []]
    assert [data for _, data in await read(node, 4)] == [{"k": 1}, {"k": 2}, {"k": 4}, []]
    assert [name for name, _ in await read(fleet, 1)] == ["fleet"]


async def test_only_devices_on_open_pages_are_wanted(hub: Hub) -> None:
    assert not hub.is_wanted(NODE, "arm")
    fleet, arm = hub.join("", ""), hub.join(NODE, "arm")
    assert (hub.is_wanted(NODE, "arm"), hub.is_wanted(NODE, "leg"), hub.is_wanted(NODE, "_")) == (
        True, False, True,
    )  # fmt: skip
    hub.leave(arm)
    assert not hub.is_wanted(NODE, "arm")
    hub.leave(fleet)
    assert hub.viewers == 0


async def test_a_frame_is_encoded_once_for_all(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    viewers = [hub.join(NODE, "arm") for _ in range(5)]
    hub.post("rows", {"k": 1}, NODE, "arm")
    await asyncio.sleep(0)
    frames = {id(viewer._frames[0]) for viewer in viewers}
    assert len(frames) == 1


async def test_a_slow_viewer_loses_the_oldest_then_its_connection(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_FRAMES", 10)
    monkeypatch.setattr(module, "MAX_DROPPED", 5)
    slow, quick = hub.join(NODE, "arm"), hub.join(NODE, "arm")
    for number in range(14):
        hub.post("rows", {"k": number}, NODE, "arm")
    await asyncio.sleep(0)
    assert [data for _, data in await read(quick, 10)] == [{"k": n} for n in range(4, 14)]
    assert not slow.closed
    for number in range(10):
        hub.post("rows", {"k": number}, NODE, "arm")
    await asyncio.sleep(0)
    assert slow.closed
    assert not quick.closed


async def test_waiting_bytes_are_bounded_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 1000)
    slow = hub.join(NODE, "arm")
    for _ in range(30):
        hub.post("rows", {"k": "x" * 100}, NODE, "arm")
    await asyncio.sleep(0)
    assert slow._size <= 1000


async def test_silence_is_broken_by_a_comment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    async with asyncio.timeout(60):
        assert await anext(hub.join(NODE, "arm").frames()) == b": still here\n\n"


async def test_places_are_limited(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VIEWERS", 2)
    first = hub.join("", "")
    hub.join("", "")
    with pytest.raises(TooManyViewers):
        hub.join("", "")
    hub.leave(first)
    hub.join("", "")


async def test_closing_ends_every_stream_and_takes_no_more(hub: Hub) -> None:
    viewer = hub.join(NODE, "arm")
    reading = asyncio.create_task(read(viewer, 1))
    await asyncio.sleep(0)
    hub.close()
    async with asyncio.timeout(60):
        assert await reading == []
    hub.post("rows", {}, NODE, "arm")
    await asyncio.sleep(0)
    assert not viewer._frames
