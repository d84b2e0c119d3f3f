"""The camera adapter against H.264 and H.265 of Debian's GStreamer RTSP server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.base import DeviceUnreachable, Reading
from adapters.camera.adapter import Camera
from agent.pipeline.source import Source
from tests.plans import plan_of
from tests.polling import until
from wire.clock import Clock
from wire.messages import Quality

PYTHON = "/usr/bin/python3"  # Debian's GStreamer is not a package of another Python
SERVER = Path(__file__).with_name("gstreamer_camera.py")
GUARD_S = 90.0  # against hanging: a busy machine takes its time
PARTS = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    "Gst.init(None); assert all(map(Gst.ElementFactory.find, "
    "['x264enc', 'x265enc', 'rtph265pay', 'h265parse', 'breakmydata']))"
)


@pytest.fixture(scope="module")
def gstreamer() -> None:
    """Skip, or fail with EDGEBED_REQUIRE_ALL=1, where the server's parts are missing."""
    try:
        subprocess.run([PYTHON, "-c", PARTS], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        missing = "the GStreamer RTSP server of Debian is not installed: see the packages in .ci/run"
        if os.environ.get("EDGEBED_REQUIRE_ALL") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


@contextlib.asynccontextmanager
async def serving(codec: str, *words: str) -> AsyncIterator[int]:
    """The port of a camera with this codec."""
    child = await asyncio.create_subprocess_exec(
        *(PYTHON, str(SERVER), codec, *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield int(await child.stdout.readline())
    finally:
        child.stdin.close()
        await child.wait()


def camera(port: int, login: str = "", **options: Any) -> Camera:
    url = f"rtsp://{login}127.0.0.1:{port}/live"
    return Camera(Camera.Options(url=url, open_timeout_s=20.0, read_timeout_s=20.0, **options), Clock())


async def pictures(of: Camera, enough: Callable[[list[Reading]], bool]) -> list[Reading]:
    seen: list[Reading] = []
    async with asyncio.timeout(GUARD_S), of:
        async for reading in of:
            seen.append(reading)
            if enough(seen):
                break
    return seen


def angle(reading: Reading) -> float:
    """The direction of the ball, which circles around the middle of the picture, in rad."""
    picture = reading.picture
    assert picture is not None
    y, x = np.nonzero(picture.max(axis=2) > 128)
    return float(np.arctan2(y.mean() - picture.shape[0] / 2, x.mean() - picture.shape[1] / 2))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(
    "words", [("h264", "--b-frames", "--audio"), ("h265", "--b-frames", "--audio")], ids=["h264", "h265"]
)
async def test_pictures_come_whole_and_in_order(
    gstreamer: None, words: tuple[str, ...], transport: str
) -> None:
    async with serving(*words) as port:
        one = camera(port, transport=transport)
        seen = await pictures(one, lambda seen: len(seen) == 25)
    assert {reading.quality for reading in seen} == {Quality.GOOD}
    assert (
        not one.counters["frames_damaged"] + one.counters["frames_undecoded"] + one.counters["packets_lost"]
    )
    turned = np.diff(np.unwrap([angle(reading) for reading in seen]))
    assert (turned > 0).all() or (turned < 0).all()


async def test_four_slow_cameras_open_together(gstreamer: None) -> None:
    await many_open(4)


@pytest.mark.slow
async def test_twenty_cameras_open_together(gstreamer: None) -> None:
    await many_open(20)


async def many_open(number: int) -> None:
    """Open cameras at once and read from each."""
    async with contextlib.AsyncExitStack() as stack:
        starting = (
            stack.enter_async_context(serving("h264", "--fps", "5", "--gop", "10")) for _ in range(number)
        )
        ports = await asyncio.gather(*starting)
        every = [camera(port) for port in ports]
        read = await asyncio.gather(*(pictures(each, lambda seen: len(seen) == 5) for each in every))
    assert all(len(seen) == 5 for seen in read)


@pytest.mark.parametrize("codec", ["h264", "h265"])
async def test_lost_packets_are_counted_and_their_pictures_flagged(gstreamer: None, codec: str) -> None:
    def both(seen: list[Reading]) -> bool:
        kinds = [reading.quality for reading in seen]
        return Quality.UNCERTAIN in kinds and Quality.GOOD in kinds[kinds.index(Quality.UNCERTAIN) :]

    async with serving(codec, "--loss", "0.03", "--mtu", "300", "--pattern", "smpte", "--gop", "8") as port:
        one = camera(port, transport="udp")
        seen = await pictures(one, both)
    assert one.counters["packets_lost"] > 0
    assert one.counters["frames_damaged"] >= sum(reading.quality != Quality.GOOD for reading in seen)


async def test_damaged_data_over_tcp_is_flagged(gstreamer: None) -> None:
    async with serving("h264", "--damage", "0.0005", "--pattern", "smpte") as port:
        one = camera(port)
        await pictures(one, lambda seen: sum(reading.quality == Quality.UNCERTAIN for reading in seen) >= 5)
    assert one.counters["frames_damaged"] >= 5


@pytest.mark.parametrize("codec", ["h264", "h265"])
async def test_another_size_is_followed(gstreamer: None, codec: str) -> None:
    for _ in range(3):  # on a busy machine the first picture may come after the change
        async with serving(codec, "--then", "640", "360") as port:
            one = camera(port)
            seen = await pictures(one, lambda seen: shape(seen[-1]) == (360, 640, 3))
        if len(sizes := {shape(reading) for reading in seen}) > 1:
            break
    assert sizes == {(240, 320, 3), (360, 640, 3)}
    assert one.counters["size_changes"] == 1


def shape(reading: Reading) -> tuple[int, ...]:
    assert reading.picture is not None
    return reading.picture.shape


async def test_a_transport_that_the_camera_lacks(gstreamer: None) -> None:
    async with serving("h264", "--udp-only") as port:
        with pytest.raises(DeviceUnreachable, match=r"RTP over tcp \(status 461\): set transport: udp"):
            await pictures(camera(port), bool)
    async with serving("h264", "--udp-only") as port:  # the first takes a moment to end its stream
        assert await pictures(camera(port, transport="udp"), bool)


async def test_a_digest_login(gstreamer: None) -> None:
    async with serving("h264", "--login", "eye", "s3cret") as port:
        assert await pictures(camera(port, "eye:s3cret@"), bool)
        with pytest.raises(DeviceUnreachable, match=r"refuses the login \(status 401\)"):
            await pictures(camera(port, "eye:wrong@"), bool)


async def test_packets_that_give_no_picture_are_named(gstreamer: None) -> None:
    async with serving("h264", "--no-keyframes") as port:
        source = Source(
            "gate",
            plan_of(lambda: camera(port), stall_s=3.0),
            lambda _: None,
            clock=Clock(),
            changed=lambda: None,
        )
        task = asyncio.create_task(source.run())
        try:
            await until(lambda: source.state.code == "device-not-read", "the state names it", GUARD_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert "packets of H.264 video without a keyframe: shorten" in str(source.state.args["what"])
