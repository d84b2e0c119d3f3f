"""The street camera with ffmpeg, OpenCV, a client that reads every byte, and hostile clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import struct
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from simulators.devices.camera.device import CameraError, StreetCamera
from simulators.devices.camera.rtp import CLOCK_HZ, JpegError, Packetizer
from simulators.devices.camera.rtsp import MAX_VIEWERS, RtspServer
from simulators.plants.scene import Scene
from tests.polling import until
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.errors import TryAgain

Answer = tuple[int, dict[str, str], bytes]


class Client:
    """An RTSP client that shows what it gets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str) -> None:
        self.reader, self.writer, self.url = reader, writer, url
        self.session = self.transport = ""
        self.packets: list[tuple[int, bytes]] = []  # channel, packet: what came between answers

    async def ask(self, method: str, url: str = "", **headers: str) -> Answer:
        lines = [f"{method} {url or self.url} RTSP/1.0", "CSeq: 7"]
        if self.session:
            lines.append(f"Session: {self.session}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return await self.send("\r\n".join([*lines, "", ""]).encode())

    async def send(self, request: bytes) -> Answer:
        self.writer.write(request)
        async with asyncio.timeout(60):
            while (first := await self.reader.readexactly(1)) == b"$":
                await self._packet()
            head = (first + await self.reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
            headers = {name.lower(): value.strip() for name, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        assert headers["cseq"] in ("7", "0")
        return int(lines[0].split(" ")[1]), headers, body

    async def packet(self) -> tuple[int, bytes]:
        async with asyncio.timeout(60):
            if not self.packets:
                assert await self.reader.readexactly(1) == b"$"
                await self._packet()
        return self.packets.pop(0)

    async def _packet(self) -> None:
        channel, size = struct.unpack("!BH", await self.reader.readexactly(3))
        self.packets.append((channel, await self.reader.readexactly(size)))

    async def play(self, transport: str = "RTP/AVP/TCP;unicast;interleaved=0-1") -> Answer:
        status, headers, _ = await self.ask("SETUP", self.url + "/track0", Transport=transport)
        assert status == 200
        self.session = headers["session"].split(";")[0]
        self.transport = headers["transport"]
        return await self.ask("PLAY")

    async def drain(self) -> None:
        """Read until the end and keep nothing."""
        while await self.reader.read(1 << 20):
            pass

    async def ended(self) -> bytes:
        """What is left until the server closes the connection."""
        async with asyncio.timeout(60):
            return await self.reader.read()


@contextlib.asynccontextmanager
async def client(url: str, port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer, url)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def visiting(camera: StreetCamera | RtspServer) -> AsyncIterator[Client]:
    async with client(camera.url, camera.port) as one:
        yield one


async def output(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return out


def assert_in_order(numbers: list[int], skipped: int, modulo: int = 1 << 32) -> None:
    """No number is missing but those that a busy machine left out."""
    steps = [(later - before) % modulo for before, later in itertools.pairwise(numbers)]
    assert all(1 <= step <= 1 + skipped for step in steps) or skipped >= modulo - 1
    assert sum(steps) - len(steps) <= skipped


# --- with other programs


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_ffmpeg_sees_every_picture_of_the_scene(require: Callable[[str], str], transport: str) -> None:
    async with StreetCamera(seed=4) as camera:
        raw = await output(
            *(
                require("ffmpeg"),
                "-v",
                "error",
                "-fpsprobesize",
                "0",
                "-rtsp_transport",
                transport,
                "-i",
                camera.url,
            ),
            *("-frames:v", "12", "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "bgr24", "-"),
        )
    pictures = np.frombuffer(raw, np.uint8).reshape(12, 480, 640, 3)
    numbers = [Scene.read_number(picture) for picture in pictures]
    assert_in_order(numbers, camera.skipped)
    wanted = Scene(4).frame(numbers[0])
    assert cv2.PSNR(wanted, np.ascontiguousarray(pictures[0])) > 28


async def test_ffprobe_reads_codec_size_and_rate(require: Callable[[str], str]) -> None:
    async with StreetCamera(seed=1, size=(320, 240), fps=20) as camera:
        raw = await output(require("ffprobe"), "-v", "error", "-show_streams", "-of", "json", camera.url)
    (stream,) = json.loads(raw)["streams"]
    shown = [stream[key] for key in ("codec_name", "width", "height", "r_frame_rate")]
    assert shown == ["mjpeg", 320, 240, "20/1"]


async def test_opencv_viewers_see_the_same_pictures_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    original = StreetCamera._jpeg

    def counted(camera: StreetCamera, source: object, index: int) -> bytes:
        encoded.append(index)
        return original(camera, source, index)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(StreetCamera, "_jpeg", counted)
    watching: set[int] = set()

    def watch(url: str) -> dict[int, bytes]:
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000]
        video = cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)
        seen = {}
        more = 30  # pictures while both are open: OpenCV opens one stream after the other
        while more:
            done, picture = video.read()
            assert done
            seen[Scene.read_number(picture)] = picture.tobytes()  # type: ignore[arg-type]  # BGR
            watching.add(threading.get_ident())
            more -= len(watching) == 2
        video.release()
        return seen

    async with StreetCamera(seed=1, fps=30) as camera:
        one, two = await asyncio.gather(*(asyncio.to_thread(watch, camera.url) for _ in range(2)))
        assert set(encoded) >= set(one)
        assert len(encoded) == len(set(encoded))
    common = one.keys() & two.keys()
    assert len(common) >= 5
    assert all(one[number] == two[number] for number in common)


# --- byte by byte


async def test_packets_keep_rfc_2435_and_the_schedule() -> None:
    begun = 1_800_000_000 * NS_PER_S
    async with StreetCamera(seed=2, clock=Clock(5.0, start_ns=begun)) as camera, visiting(camera) as viewer:
        status, headers, sdp = await viewer.ask("DESCRIBE", Accept="application/sdp")
        assert (status, headers["content-type"]) == (200, "application/sdp")
        assert b"m=video 0 RTP/AVP 26\r\n" in sdp
        await viewer.play()
        began = _taken_at(await viewer.packet())
        stamps, last, at = [], None, 0
        while len(stamps) < 4:
            channel, packet = await viewer.packet()
            if channel == 1:
                continue
            flags, kind, number, stamp, _ = struct.unpack_from("!BBHII", packet)
            offset = int.from_bytes(packet[13:16], "big")
            assert flags == 0x80
            assert kind & 0x7F == 26
            assert packet[16:20] == bytes([1, 255, 80, 60])  # 4:2:0, tables in band, 640x480 in eighths
            assert last is None or number == (last + 1) & 0xFFFF
            assert offset == at
            assert len(packet) <= 1_420
            at += len(packet) - 20 - (132 if offset == 0 else 0)
            last = number
            if kind & 0x80:
                stamps.append(stamp)
                at = 0
        async with visiting(camera) as other:
            await other.play()
            assert abs(_taken_at(await other.packet()) - began) < 100_000  # ns: the same start for all
            assert begun < began < camera.clock.now_ns()
    steps = [later - before for before, later in itertools.pairwise(stamps)]
    assert min(steps) >= 9_000
    assert all(step % 9_000 == 0 for step in steps)  # a busy machine leaves pictures out, never moves them


def _taken_at(report: tuple[int, bytes]) -> int:
    """When the RTP time of a sender report was 0, Unix nanoseconds."""
    channel, packet = report
    kind, ntp_s, ntp_part, stamp = struct.unpack_from("!xBxxxxxxIII", packet)
    assert (channel, kind) == (1, 200)
    at_ns = (ntp_s - 2_208_988_800) * NS_PER_S + (ntp_part * NS_PER_S >> 32)
    return int(at_ns - stamp * NS_PER_S // CLOCK_HZ)


async def test_playing_ends_with_goodbye_and_teardown_closes() -> None:
    async with StreetCamera(size=(64, 64)) as camera:
        async with visiting(camera) as leaving:
            await leaving.play()
            assert (await leaving.ask("GET_PARAMETER"))[0] == 200
            assert (await leaving.ask("PAUSE"))[0] == 200
            assert (await leaving.ask("TEARDOWN"))[0] == 200
            await leaving.ended()
        await until(lambda: camera.viewers == 0)
        async with visiting(camera) as staying:
            await staying.play()
            await staying.packet()
            await camera.__aexit__(None, None, None)
            rest = await staying.ended()
    assert rest.endswith(Packetizer(0).goodbye()[:4] + rest[-4:])


async def test_udp_goes_to_the_asking_host_whatever_it_says_and_reports_keep_it_alive() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            received.put_nowait(data)

    loop = asyncio.get_running_loop()
    data, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    control, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    ports = [transport.get_extra_info("sockname")[1] for transport in (data, control)]
    jpeg = cv2.imencode(".jpg", Scene(1, 64, 64).frame(0))[1].tobytes()
    async with RtspServer("street", session_s=2.0) as server, visiting(server) as viewer:
        await viewer.play(f"RTP/AVP;unicast;destination=203.0.113.9;client_port={ports[0]}-{ports[1]}")
        reports_to = int(re.search(r"server_port=\d+-(\d+)", viewer.transport)[1])  # type: ignore[index]
        for number in range(30):  # longer than the session lives by itself
            server.publish(jpeg, number * 9_000, 0)
            control.sendto(b"\x80\xc9\0\1\0\0\0\0", ("127.0.0.1", reports_to))
            assert await asyncio.wait_for(received.get(), 60)
            await asyncio.sleep(0.1)
        assert server.viewers == 1
        await viewer.ended()
        assert server.viewers == 0
    data.close()
    control.close()


# --- pacing, clips


async def test_the_clock_sets_the_pace() -> None:
    async with StreetCamera(seed=1, size=(64, 64), clock=Clock(20.0)) as camera, visiting(camera) as viewer:
        loop = asyncio.get_running_loop()
        await viewer.play()
        began, first = loop.time(), camera.index
        drain = asyncio.create_task(viewer.drain(), name="drain")
        await until(lambda: camera.index >= first + 100)
        took = loop.time() - began
        drain.cancel()
    # 10 s of street at twenty times the speed: half a second, or less where late pictures are made up
    assert 0.2 < took < 10.0


async def test_nothing_is_drawn_while_nobody_watches() -> None:
    async with StreetCamera(size=(64, 64), clock=Clock(20.0)) as camera:
        async with visiting(camera) as viewer:
            assert camera.index == -1
            await viewer.play()
            await until(lambda: camera.index >= 3)
        await until(lambda: camera.viewers == 0)
        stood, skipped = camera.index, camera.skipped
        await asyncio.sleep(0.15)

        def drawn() -> int:
            return camera.index - stood - (camera.skipped - skipped)

        assert drawn() <= 1, "the picture that was begun"
        async with visiting(camera) as viewer:
            await viewer.play()
            await until(lambda: camera.index > stood + 20)
        assert drawn() >= 20, "the street goes on without viewers: these pictures are not skipped ones"


async def test_truth_is_that_of_the_scene() -> None:
    async with StreetCamera(seed=9) as camera:
        scene = Scene(9)
        assert camera.truth_at(55) == scene.truth(55)
        assert camera.counts_at(55) == scene.counts(55)


async def test_truth_is_told_by_time() -> None:
    async with StreetCamera(seed=9, fps=25, clock=Clock(1.0, start_ns=1_000_000_001)) as camera:
        assert camera.start_ns % camera.period_ns == 0
        for frame in (0, 1, 77):
            counts = Scene(9, fps=25.0).counts(frame)
            at_ns = camera.start_ns + frame * camera.period_ns
            assert camera.truth(at_ns) == {"n": sum(counts.values()), **counts}
            assert camera.truth(at_ns + camera.period_ns - 2 * NS_PER_MS) == camera.truth(at_ns)
            assert camera.truth(at_ns - NS_PER_MS + 1) == camera.truth(at_ns)  # as it is once it travelled
        assert camera.truth(camera.start_ns - 2 * NS_PER_MS) == {}


async def test_a_lens_freezes_is_covered_and_is_repaired() -> None:
    seen: list[tuple[int | None, float]] = []

    def watch(url: str) -> None:
        video = cv2.VideoCapture(url, cv2.CAP_FFMPEG, [cv2.CAP_PROP_READ_TIMEOUT_MSEC, 20_000])
        while not seen or seen[-1][0] is None or seen[-1][0] < 70:
            done, picture = video.read()
            assert done
            with contextlib.suppress(ValueError):
                seen.append((Scene.read_number(picture), float(picture.mean())))  # type: ignore[arg-type]  # BGR
                continue
            seen.append((None, float(picture.mean())))
        video.release()

    async with StreetCamera(seed=1, fps=30, size=(160, 120), faults=["frozen@1-1.5"]) as camera:
        camera.inject("covered@1.6-2")
        await asyncio.to_thread(watch, camera.url)
        assert [each[0] for each in seen].count(30) > 5
        assert not {31, 44} & {each[0] for each in seen}
        assert min(each[1] for each in seen) < 5
        assert max(each[1] for each in seen) > 50
        camera.inject("silent")
        camera.repair()
        again = await asyncio.to_thread(cv2.VideoCapture, camera.url, cv2.CAP_FFMPEG)
        assert again.isOpened()
        again.release()


@pytest.mark.parametrize("text", ["frozen:1", "foggy", "frozen@5-4", ""])
async def test_an_impossible_lens_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        StreetCamera(faults=[text])
    async with StreetCamera(seed=1) as camera:
        with pytest.raises(ValueError, match="fault"):
            camera.inject(text)


def numbered_clip(path: Path, pictures: int, size: tuple[int, int] = (164, 124)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, size)
    scene = Scene(3, *size)
    for number in range(pictures):
        writer.write(scene.frame(number))
    writer.release()
    return path


async def test_a_clip_loops_at_its_own_rate_cut_to_eighths(
    tmp_path: Path, require: Callable[[str], str]
) -> None:
    clip = numbered_clip(tmp_path / "clip.avi", 10)
    async with StreetCamera(clip=clip) as camera:
        assert camera.fps == 25.0
        raw = await output(
            *(
                require("ffmpeg"),
                "-v",
                "error",
                "-fpsprobesize",
                "0",
                "-rtsp_transport",
                "tcp",
                "-i",
                camera.url,
            ),
            *("-frames:v", "24", "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "bgr24", "-"),
        )
        with pytest.raises(CameraError, match="no ground truth"):
            camera.truth_at(1)
    numbers = [
        Scene.read_number(_grown(one)) for one in np.frombuffer(raw, np.uint8).reshape(-1, 120, 160, 3)
    ]
    assert_in_order(numbers, camera.skipped, modulo=10)


def _grown(picture: np.ndarray) -> np.ndarray:
    return cv2.copyMakeBorder(picture, 0, 4, 0, 4, cv2.BORDER_REPLICATE)  # as wide as it was stamped


async def test_a_folder_is_shown_by_name_in_one_size(tmp_path: Path) -> None:
    for number, side in enumerate((160, 240, 80)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((side, side, 3), 60 * number + 20, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    async with StreetCamera(clip=tmp_path, fps=50) as camera:
        video = await asyncio.to_thread(cv2.VideoCapture, camera.url, cv2.CAP_FFMPEG)
        pictures = [(await asyncio.to_thread(video.read))[1] for _ in range(6)]
        video.release()
    assert {picture.shape for picture in pictures} == {(160, 160, 3)}
    levels = [round((float(picture.mean()) - 20) / 60) for picture in pictures]
    assert_in_order(levels, camera.skipped, modulo=3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"clip": "nowhere.avi"}, "there is no clip"),
        ({"clip": "README.avi"}, "not a video that can be decoded"),
        ({"clip": "empty"}, "has no picture"),
        ({"size": (641, 480)}, "multiples of 8"),
        ({"size": (4096, 480)}, "multiples of 8, 64 to 2040"),
    ],
)
async def test_what_cannot_be_shown_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.avi").write_text("no video " * 1000)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CameraError, match=sentence):
        async with StreetCamera(**settings):  # type: ignore[arg-type]  # one of several keywords
            pass


async def test_a_taken_port_is_one_clear_error() -> None:
    async with StreetCamera(size=(64, 64)) as first:
        with pytest.raises(TryAgain, match=f"cannot listen on 127.0.0.1:{first.port}: .*in use"):
            async with StreetCamera(size=(64, 64), port=first.port):
                pass


# --- wrong requests and hostile clients


async def test_refusals() -> None:
    async with StreetCamera(size=(64, 64)) as camera, visiting(camera) as viewer:
        setup = "RTP/AVP/TCP;unicast;interleaved=0-1"
        assert (await viewer.ask("OPTIONS"))[1]["public"].startswith("OPTIONS, DESCRIBE")
        assert (await viewer.ask("RECORD"))[0] == 501
        assert (await viewer.ask("DESCRIBE", "rtsp://a/elsewhere"))[0] == 404
        assert (await viewer.ask("DESCRIBE", "/street"))[0] == 404
        assert (await viewer.ask("PLAY"))[0] == 454
        assert (await viewer.ask("SETUP", Transport="RTP/AVP;multicast"))[0] == 461
        assert (await viewer.ask("SETUP", Transport="RAW/RAW/UDP;unicast;client_port=1-2"))[0] == 461
        assert (await viewer.ask("SETUP"))[0] == 461
        assert (await viewer.ask("SETUP", Transport="RTP/AVP/TCP;interleaved=255-256"))[0] == 400
        assert (await viewer.ask("SETUP", Transport="RTP/AVP;client_port=70000-70001"))[0] == 400
        assert (await viewer.ask("SETUP", Transport="RTP/AVP;client_port=x"))[0] == 400
        assert (await viewer.send(b"OPTIONS * RTSP/2.0\r\nCSeq: 7\r\n\r\n"))[0] == 505
        await viewer.play(setup)
        assert (await viewer.ask("SETUP", Transport=setup))[0] == 455
        viewer.session = "0" * 16
        assert (await viewer.ask("PLAY"))[0] == 454
        assert camera.counters["requests_refused"] == 13


async def test_a_password_is_asked_for_and_checked() -> None:
    async with (
        StreetCamera(size=(64, 64), user="eye", password="blink") as camera,  # noqa: S106
        visiting(camera) as viewer,
    ):
        status, headers, _ = await viewer.ask("DESCRIBE")
        assert (status, headers["www-authenticate"]) == (401, 'Basic realm="edgebed"')
        assert (await viewer.ask("DESCRIBE", Authorization="Basic d3Jvbmc6"))[0] == 401
        assert (await viewer.ask("DESCRIBE", Authorization="Basic \x00"))[0] == 401
        assert (await viewer.ask("DESCRIBE", Authorization="Basic ZXllOmJsaW5r"))[0] == 200
        assert "blink" not in camera.url


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\0" + b"\x01" * 600 + b"\r\n\r\n",
        b"OPTIONS\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\nContent-Length: 99999999\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\nContent-Length: -5\r\n\r\n",
        b"OPTIONS * RTSP/1.0\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"A" * 100_000,
    ],
)
async def test_what_is_no_rtsp_is_answered_400_and_closed(garbage: bytes) -> None:
    async with StreetCamera(size=(64, 64)) as camera:
        async with visiting(camera) as hostile:
            with contextlib.suppress(ConnectionError):  # closed while the client's bytes are unread: a reset
                assert (await hostile.send(garbage))[0] == 400
                await hostile.ended()
        await until(lambda: camera.viewers == 0)
        async with visiting(camera) as viewer:
            viewer.writer.write(
                b"$\x01\x00\x08" + bytes(8) + b"\r\n"
            )  # RTCP, and a keep-alive of blank lines
            assert (await viewer.ask("DESCRIBE"))[0] == 200


async def test_viewers_are_bounded() -> None:
    async with StreetCamera(size=(64, 64)) as camera, contextlib.AsyncExitStack() as crowd:
        for _ in range(MAX_VIEWERS):
            await crowd.enter_async_context(visiting(camera))
        await until(lambda: camera.viewers == MAX_VIEWERS)
        async with visiting(camera) as late:
            with contextlib.suppress(ConnectionError):
                assert await late.ended() == b""
        assert camera.viewers == MAX_VIEWERS
        assert camera.counters["viewers_refused"] == 1


async def test_a_silent_viewer_is_dropped() -> None:
    async with RtspServer("street", session_s=0.1) as server, visiting(server) as silent:
        assert await silent.ended() == b""
        assert server.viewers == 0


async def test_a_slow_reader_misses_pictures_and_is_dropped_alone() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    async with (
        RtspServer("street", slow_s=0.2) as server,
        visiting(server) as slow,
        visiting(server) as quick,
    ):
        await slow.play()
        await quick.play()
        drain = asyncio.create_task(quick.drain(), name="drain")

        def dropped() -> bool:
            server.publish(jpeg, 0, 0)
            return server.viewers == 1

        await until(dropped)
        assert server.counters["viewers_dropped"] == 1
        assert server.counters["pictures_missed"] >= 1
        assert not drain.done()
        drain.cancel()


# --- JPEG


@pytest.mark.parametrize(
    ("jpeg", "sentence"),
    [
        (b"GIF89a", "not a JPEG"),
        (b"\xff\xd8\xff\xe0\0\4aa", "ends before"),
        (b"\xff\xd8\xff\xc0\0\4aa", "short frame header"),
    ],
)
def test_what_is_no_jpeg_is_refused(jpeg: bytes, sentence: str) -> None:
    with pytest.raises(JpegError, match=sentence):
        Packetizer(1).packets(jpeg, 0)


@pytest.mark.parametrize(
    ("shape", "setting", "sentence"),
    [
        ((64, 64, 3), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "baseline"),
        ((64, 64, 3), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2), "restart"),
        ((64, 64, 3), (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444), "4:2:0"),
        ((64, 64, 1), (cv2.IMWRITE_JPEG_QUALITY, 90), "three colours"),
        ((60, 64, 3), (cv2.IMWRITE_JPEG_QUALITY, 90), "multiples of 8"),
    ],
)
def test_jpegs_that_rtp_cannot_carry_are_refused(
    shape: tuple[int, ...], setting: tuple[int, int], sentence: str
) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros(shape, np.uint8), setting)[1].tobytes()
    with pytest.raises(JpegError, match=sentence):
        Packetizer(1).packets(jpeg, 0)
