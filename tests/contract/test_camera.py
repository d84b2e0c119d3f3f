"""The camera adapter against the simulated street camera: the contract suite, and tests of pictures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cv2
import pytest

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, ProtocolViolation, Reading
from adapters.camera.adapter import Camera
from adapters.testing import AdapterContract, Rig
from agent.pipeline.source import Source
from simulators.devices.camera.device import StreetCamera
from simulators.devices.camera.rtsp import RtspServer
from simulators.faults import FaultProxy
from simulators.plants.scene import Scene
from tests.plans import plan_of
from tests.polling import until
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

WORD = "s3cret-word"
SMALL = (160, 120)  # fast to draw, and the number in the picture is still readable


class TestCameraContract(AdapterContract):
    """RTSP over TCP through the fault proxy."""

    adapter = Camera
    good_options = {"url": "rtsp://viewer:s3cret-word@127.0.0.1:9/street"}  # noqa: RUF012 - read only
    bad_options = [  # noqa: RUF012 - read only
        ({}, "exactly one of url, device, file and folder is needed, none is given"),
        ({"url": "rtsp://a", "device": 0}, "url and device are given"),
        ({"url": "http://s3cret-word@a/b"}, "rtsp://"),
        ({"url": "rtsp://u:s3cret-word@"}, "rtsp://"),
        ({"url": "rtsp://u:s3cret-word@a:port/b"}, "port"),
        ({"url": "rtsp://a:0/b"}, "rtsp://"),
        ({"url": "rtsp://a/b c"}, "blank"),
        ({"url": "rtsp://a", "pace": "asap"}, "need a file or folder"),
        ({"device": 0, "loop": True}, "need a file or folder"),
        ({"device": -1}, "device"),
        ({"url": "rtsp://a", "transport": "carrier-pigeon"}, "carrier-pigeon"),
        ({"url": "rtsp://a", "read_timeout_s": 0}, "read_timeout_s"),
        ({"url": "rtsp://a", "size": [640]}, "size"),
        ({"url": "rtsp://a", "size": [5000, 100]}, "max_size"),
    ]
    secrets = [WORD]  # noqa: RUF012 - read only

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        async with (
            StreetCamera(seed=1, fps=30, size=SMALL, user="viewer", password=WORD) as camera,
            FaultProxy(camera.port, seed=1) as link,
        ):
            options = Camera.Options(
                url=f"rtsp://viewer:{WORD}@127.0.0.1:{link.port}/street",
                open_timeout_s=3.0,
                read_timeout_s=2.0,
            )
            yield Rig(lambda: Camera(options, Clock()), link)


async def read(most: int, **options: object) -> tuple[list[Reading], dict[str, int]]:
    camera = Camera(Camera.Options(**options), Clock())  # type: ignore[arg-type]  # keywords of one test
    seen: list[Reading] = []
    async with camera:
        async for reading in camera:
            seen.append(reading)
            if len(seen) == most:
                break
    return seen, camera.counters


def number(reading: Reading) -> int:
    assert reading.picture is not None
    return Scene.read_number(reading.picture)


@pytest.mark.parametrize(("fps", "transport"), [(10.0, "tcp"), (30.0, "tcp"), (30.0, "udp")])
async def test_every_picture_is_accounted_for(fps: float, transport: str) -> None:
    seen: list[Reading] = []
    async with (
        StreetCamera(seed=1, fps=fps, size=SMALL) as street,
        Camera(Camera.Options(url=street.url, transport=transport), Clock()) as camera,  # type: ignore[arg-type]  # one of two words
    ):
        async for reading in camera:
            seen.append(reading)
            # counted from picture 0: a busy machine also drops pictures before the first reading
            assert reading.index + 1 == len(seen) + camera.counters["frames_dropped"]
            if len(seen) == int(2 * fps):
                break
    numbers = [number(reading) for reading in seen]
    assert numbers == sorted(set(numbers))
    if transport == "tcp":  # UDP may lose some on a busy machine
        unseen = numbers[-1] - numbers[0] - (seen[-1].index - seen[0].index)
        assert 0 <= unseen <= street.skipped  # a busy machine does not draw these
    assert camera.counters["captures_abandoned"] == 0


async def test_the_first_picture_is_fresh() -> None:
    """Opening collects no pictures: five are enough to open the stream and to read from it."""
    scene = Scene(1, *SMALL)
    async with RtspServer("street") as server:

        async def show() -> None:
            await server.someone_plays.wait()
            for index in range(5):
                jpeg = cv2.imencode(".jpg", scene.frame(index))[1].tobytes()
                server.publish(jpeg, index * 9_000, index * NS_PER_S // 10)

        showing = asyncio.create_task(show(), name="show")
        (first,), _ = await read(1, url=server.url)
        await showing
    assert 0 <= number(first) < 5


async def test_a_slow_reader_gets_the_newest() -> None:
    seen: list[Reading] = []
    async with (
        asyncio.timeout(60),
        StreetCamera(seed=1, fps=50, size=SMALL) as street,
        Camera(Camera.Options(url=street.url), Clock()) as camera,
    ):
        async for reading in camera:
            seen.append(reading)
            if len(seen) >= 8 and camera.counters["frames_dropped"] >= 8:
                break
            await asyncio.sleep(0.2)
    numbers = [number(reading) for reading in seen]
    assert numbers == sorted(set(numbers))
    assert seen[-1].index + 1 - len(seen) <= camera.counters["frames_dropped"]


async def test_fps_limits_a_camera() -> None:
    seen: list[Reading] = []
    async with (
        asyncio.timeout(60),
        StreetCamera(seed=1, fps=40, size=SMALL) as street,
        Camera(Camera.Options(url=street.url, fps=8.0), Clock()) as camera,
    ):
        async for reading in camera:
            seen.append(reading)
            if len(seen) >= 10 and camera.counters["frames_skipped"] >= 10:
                break
    assert (seen[-1].at_ns - seen[0].at_ns) / (len(seen) - 1) > 0.1e9


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"url": "{url}x"}, DeviceUnreachable, "has no such stream: check the path of url"),
        ({"url": "{url}", "size": (640, 480)}, ProtocolViolation, "of 160x120 px, not of 640x480 px"),
        ({"url": "{url}", "max_size": (100, 100)}, ProtocolViolation, "up to 100x100 px are allowed"),
        ({"url": "rtsp://no-such-host.invalid/street"}, DeviceUnreachable, "host name is unknown"),
    ],
)
async def test_errors_name_the_cause(
    options: dict[str, object], kind: type[AdapterError], sentence: str
) -> None:
    async with StreetCamera(seed=1, size=SMALL) as street:
        with pytest.raises(kind, match=sentence):
            await read(1, **{**options, "url": str(options["url"]).format(url=street.url)})


@pytest.mark.parametrize(
    ("login", "sentence"),
    [
        ("", "requires a user and password: rtsp://user:password@"),
        ("eye:wrong-word@", r"refuses the login \(status 401\): check the user and password of url"),
        ("eye:wrong%2Fword@", r"refuses the login \(status 401\): check the user and password of url"),
    ],
)
async def test_passwords_stay_out_of_errors_logs_and_output(
    login: str, sentence: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with StreetCamera(seed=1, size=SMALL, user="eye", password=WORD) as street:
        url = f"rtsp://{login}127.0.0.1:{street.port}/street?token={WORD}"
        with pytest.raises(DeviceUnreachable, match=sentence) as caught:
            await read(1, url=url)
    shown = str(caught.value) + caplog.text + "".join(capfd.readouterr()) + repr(Camera.Options(url=url))
    assert "wrong" not in shown
    assert WORD not in shown


@contextlib.asynccontextmanager
async def impostor(answer: bytes, *, hold: bool) -> AsyncIterator[int]:
    """The port of a server that sends one answer and closes, or keeps the connection."""
    held: list[asyncio.StreamWriter] = []

    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        held.append(writer)
        if not hold:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in held:
            writer.transport.abort()


SDP = b"v=0\r\nm=audio 0 RTP/AVP 0\r\n"


def described(media: bytes) -> bytes:
    """The answer that offers these media."""
    return b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: %d\r\n\r\nv=0\r\n%b" % (len(media) + 5, media)


@pytest.mark.parametrize(
    ("answer", "hold", "kind", "sentence"),
    [
        (b"", False, DeviceUnreachable, "closes the connection without an answer"),
        (b"", True, DeviceUnreachable, "does not answer within 1.5 s"),
        (b"HTTP/1.0 200 OK\r\n\r\n", True, ProtocolViolation, "answers, but not in RTSP"),
        (b"HTTP/1.0 400 No\r\n\r\n", True, ProtocolViolation, "HTTP answers on this port"),
        (b"\x15\x03\x01\x00\x02\x02\x46", True, ProtocolViolation, "TLS answers on this port: use rtsps://"),
        (b"RTSP/1.0 403 No\r\n\r\n", True, DeviceUnreachable, "status 403: it forbids this stream"),
        (b"RTSP/1.0 454 No\r\n\r\n", True, DeviceUnreachable, "status 454: it ended the session"),
        (b"RTSP/1.0 500 No\r\n\r\n", True, DeviceUnreachable, "status 500: it has an internal error"),
        (b"RTSP/1.0 503 No\r\n\r\n", True, DeviceUnreachable, "status 503: it is overloaded"),
        (b"RTSP/1.0 461 No\r\n\r\n", True, DeviceUnreachable, r"RTP over tcp \(status 461\): set transport"),
        (
            described(b"m=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n"),
            True,
            ProtocolViolation,
            r"only audio \(PCMA\)",
        ),
        (
            described(b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H266/90000\r\n"),
            True,
            ProtocolViolation,
            "sends video as H266, which cannot be read: set the camera to H.264",
        ),
        (b"RTSP/1.0 OK\r\n\r\n", True, ProtocolViolation, "answers, but not in RTSP"),
        (b"RTSP/1.0 200 OK\r\n" + b"A: b\r\n" * 4_000, True, ProtocolViolation, "answers, but not in RTSP"),
        (b"RTSP/1.0 453 Busy\r\n\r\n", True, DeviceUnreachable, "refuses the stream with status 453"),
        (
            b"RTSP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(SDP) + SDP,
            True,
            ProtocolViolation,
            "offers no video",
        ),
        (
            b"RTSP/1.0 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n",
            True,
            DeviceUnreachable,
            "does not answer within",
        ),
        (b"RTSP/1.0 401 No\r\n\r\n", True, DeviceUnreachable, "requires a user and password"),
        (
            b"RTSP/1.0 302 Moved\r\nLocation: rtsp://127.0.0.1:9/x\r\n\r\n",
            False,
            DeviceUnreachable,
            "did not start",
        ),
    ],
)
async def test_something_else_on_the_port(
    answer: bytes, hold: bool, kind: type[AdapterError], sentence: str
) -> None:
    wait_s = 1.5 if "within" in sentence else 3.0
    async with impostor(answer, hold=hold) as port:
        with pytest.raises(kind, match=sentence):
            await read(1, url=f"rtsp://127.0.0.1:{port}/x", open_timeout_s=wait_s)


@pytest.mark.parametrize(
    ("challenges", "sentence"),
    [
        (
            ['Digest realm="a", nonce="b", algorithm=SHA-256'],
            "only a login by SHA-256 digest, which is not supported",
        ),
        (
            ['Digest realm="a", nonce="b", algorithm="SHA-512-256", qop="auth"'],
            "only a login by SHA-512-256 digest",
        ),
        (["Bearer realm=a"], "only a login by Bearer"),
        (
            ['Digest realm="a", nonce="b", algorithm=SHA-256', 'Digest realm="a", nonce="c"'],
            "did not start its stream",
        ),
        (['Digest realm="a", nonce="b", algorithm=SHA-256', 'Basic realm="a"'], "did not start its stream"),
    ],
)
async def test_logins_that_a_camera_accepts(challenges: list[str], sentence: str) -> None:
    head = "".join(f"WWW-Authenticate: {each}\r\n" for each in challenges)
    async with impostor(f"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n{head}\r\n".encode(), hold=True) as port:
        with pytest.raises(DeviceUnreachable, match=sentence):
            await read(1, url=f"rtsp://eye:{WORD}@127.0.0.1:{port}/x", open_timeout_s=2.0)


async def test_a_stream_that_stalls_is_read_again_by_a_new_camera() -> None:
    """Open one adapter after another and close each before the next, as the agent does."""
    async with StreetCamera(seed=1, fps=30, size=SMALL) as street, FaultProxy(street.port) as link:
        url = f"rtsp://127.0.0.1:{link.port}/street"
        for disturb in (link.black_hole, link.cut, lambda: link.set("down", cut_after=60_000)):
            async with Camera(Camera.Options(url=url, read_timeout_s=2.0), Clock()) as camera:
                readings = aiter(camera)
                await anext(readings)
                disturb()
                with pytest.raises((DeviceStalled, DeviceUnreachable), match=r"after \d+ pictures"):
                    await drained(readings)
            link.heal()
        assert (await read(1, url=url))[0]


@pytest.mark.parametrize("passed", [100, 500, 800, 1_300])
async def test_a_line_that_goes_silent_while_the_stream_starts(passed: int) -> None:
    """The line goes silent within the answer to the first request, and to later requests of the library."""
    async with StreetCamera(seed=1, size=SMALL) as street, FaultProxy(street.port) as link:
        link.set("down", hole_after=passed)
        url = f"rtsp://127.0.0.1:{link.port}/street"
        camera = Camera(Camera.Options(url=url, open_timeout_s=1.0, read_timeout_s=0.5), Clock())
        said = r"does not answer within|did not start its stream within|sent nothing for 0\.5 s"
        async with asyncio.timeout(60):
            with pytest.raises((DeviceUnreachable, DeviceStalled), match=said):
                await opened_and_drained(camera)
        assert camera.counters["captures_abandoned"] == 0


async def opened_and_drained(camera: Camera) -> None:
    async with camera:
        await drained(aiter(camera))


async def drained(readings: AsyncIterator[Reading]) -> None:
    async with asyncio.timeout(60):
        async for _ in readings:
            pass


async def test_a_slow_line_delays_pictures_and_loses_none() -> None:
    async with StreetCamera(seed=1, fps=10, size=SMALL) as street, FaultProxy(street.port, seed=5) as link:
        link.set("down", latency_s=0.1, jitter_s=0.1, slice=700)
        seen, _ = await read(10, url=f"rtsp://127.0.0.1:{link.port}/street")
    numbers = [number(reading) for reading in seen]
    assert numbers == sorted(set(numbers))


async def test_a_recording_gives_the_same_pictures_as_file_and_as_camera(field_data: Path) -> None:
    """The pictures are similar, not equal: the camera sends them as JPEG."""
    clip = field_data / "videos" / "vtest.avi"
    filed, _ = await read(40, file=clip, pace="asap")
    async with StreetCamera(clip=clip) as street:
        seen, _ = await read(3, url=street.url, size=(768, 576))
    closest = [max(cv2.PSNR(one.picture, other.picture) for one in filed) for other in seen]
    assert min(closest) > 30


async def test_tls_with_and_without_the_cameras_certificate(
    tmp_path: Path, require: Callable[[str], str]
) -> None:
    own, foreign = [await certificate(require("openssl"), tmp_path / name) for name in ("own", "foreign")]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, own.with_suffix(".key"))
    async with StreetCamera(seed=1, size=SMALL, tls=context) as street:
        assert street.url.startswith("rtsps://")
        for trusted in (None, own):
            seen, _ = await read(3, url=street.url, ca_file=trusted)
            assert len(seen) == 3
        with pytest.raises(ProtocolViolation, match="shows a certificate that ca_file does not vouch for"):
            await read(1, url=street.url, ca_file=foreign)


async def certificate(openssl: str, stem: Path) -> Path:
    made = await asyncio.create_subprocess_exec(
        *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "2", "-subj", "/CN=camera", "-keyout", f"{stem}.key", "-out", f"{stem}.pem"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    return stem.with_suffix(".pem")


async def test_a_frozen_camera_is_degraded_until_its_picture_changes() -> None:
    counted: list[Reading] = []
    async with StreetCamera(seed=1, fps=10, size=SMALL) as street:
        options = Camera.Options(url=street.url, frozen_s=1.5)
        clock = Clock()
        source = Source(
            "gate",
            plan_of(lambda: Camera(options, clock), stall_s=20.0),
            counted.append,
            clock=clock,
            changed=lambda: None,
        )
        task = asyncio.create_task(source.run())
        try:
            await until(lambda: source.state.state == "ok")
            street.inject("frozen")
            await until(lambda: source.state.code == "picture-frozen")
            assert (source.state.state, source.state.args) == ("degraded", {"seconds": 1.5})
            before = len(counted)
            await until(lambda: len(counted) > before, "pictures still come")
            assert counted[-1].quality == Quality.UNCERTAIN
            assert source.counters["lost"] == 0
            street.repair()
            await until(lambda: source.state.state == "ok")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_cameras_share_no_lock() -> None:
    """A camera that accepts the connection and says nothing delays no other."""
    async with impostor(b"", hold=True) as port, StreetCamera(seed=1, fps=10, size=SMALL) as street:
        mute = Camera(Camera.Options(url=f"rtsp://127.0.0.1:{port}/x", open_timeout_s=60.0), Clock())
        opening = asyncio.create_task(mute.open())
        await asyncio.sleep(0.3)
        assert (await read(1, url=street.url))[0]
        assert not opening.done()
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)


async def test_a_camera_without_bandwidth() -> None:
    async with StreetCamera(seed=1, fps=10, size=SMALL, faults=["busy"]) as street:
        with pytest.raises(DeviceUnreachable, match="status 453: its bandwidth or its number of viewers"):
            await read(1, url=street.url)
        street.repair()
        assert (await read(1, url=street.url))[0]


async def test_lost_packets_of_jpeg_pictures_are_counted() -> None:
    seen: list[Reading] = []
    async with (
        asyncio.timeout(60),
        StreetCamera(seed=1, fps=20, size=SMALL, faults=["lossyx4"]) as street,
        Camera(Camera.Options(url=street.url, transport="udp"), Clock()) as camera,
    ):
        async for reading in camera:
            seen.append(reading)
            assert number(reading) >= 0  # a picture that lacks a part is not shown
            if camera.counters["packets_lost"] >= 5 and len(seen) >= 5:
                break
