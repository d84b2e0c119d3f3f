"""The camera adapter on files and folders: pictures in order, with times; damage is one clear error."""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, ProtocolViolation, Reading
from adapters.camera.adapter import Camera
from adapters.camera.stream import Clip
from simulators.plants.scene import Scene
from wire.clock import NS_PER_S, Clock
from wire.messages import Stream

FPS = 20
PICTURES = 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 40 numbered pictures of 160x120 at 20 a second."""
    path = tmp_path_factory.mktemp("clips") / "street.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (160, 120))
    scene = Scene(3, 160, 120)
    for number in range(PICTURES):
        writer.write(scene.frame(number))
    writer.release()
    return path


async def read(
    options: Camera.Options,
    seen: list[Reading] | None = None,
    *,
    clock: Clock | None = None,
    most: int = 10_000,
    each_s: float = 0.0,
) -> tuple[list[Reading], dict[str, int]]:
    """Read until the end or `most` pictures; returns them and the counters. `seen` is filled as they come."""
    camera = Camera(options, clock or Clock())
    seen = [] if seen is None else seen
    async with camera:
        async for reading in camera:
            seen.append(reading)
            if len(seen) == most:
                break
            if each_s:
                await asyncio.sleep(each_s)
    return seen, camera.counters


def numbers(readings: list[Reading]) -> list[int]:
    return [Scene.read_number(reading.picture) for reading in readings]  # type: ignore[arg-type]  # has one


async def test_asap_gives_every_picture_in_order_to_a_slow_reader(clip: Path) -> None:
    options = Camera.Options(file=clip, pace="asap")
    assert Camera(options, Clock()).waits
    seen, counters = await read(options, each_s=0.005)
    assert numbers(seen) == [reading.index for reading in seen] == list(range(PICTURES))
    assert not any(counters.values())


async def test_times_are_those_of_the_recording(clip: Path) -> None:
    start = 1_800_000_000 * NS_PER_S
    clock = Clock(1000.0, start_ns=start)
    seen, _ = await read(Camera.Options(file=clip, pace="asap"), clock=clock)
    assert start <= seen[0].at_ns <= clock.now_ns()
    assert [reading.at_ns - seen[0].at_ns for reading in seen] == [
        n * NS_PER_S // FPS for n in range(PICTURES)
    ]


async def test_realtime_follows_the_clock_and_drops_for_a_slow_reader(clip: Path) -> None:
    clock = Clock(4.0)
    options = Camera.Options(file=clip)
    assert not Camera(options, clock).waits
    loop = asyncio.get_running_loop()
    began = loop.time()
    seen, counters = await read(options, clock=clock, each_s=0.05)  # a picture comes every 12.5 ms
    assert loop.time() - began >= (PICTURES - 1) / FPS / 4
    assert numbers(seen) == [reading.index for reading in seen]
    assert counters["frames_dropped"] == PICTURES - len(seen) >= 10
    assert seen[-1].index == PICTURES - 1


async def test_in_a_loop_numbers_and_times_continue(clip: Path) -> None:
    seen, _ = await read(Camera.Options(file=clip, pace="asap", loop=True), most=100)
    assert [reading.index for reading in seen] == list(range(100))
    assert numbers(seen) == [index % PICTURES for index in range(100)]
    steps = {later.at_ns - before.at_ns for before, later in itertools.pairwise(seen)}
    assert steps == {NS_PER_S // FPS}


@pytest.mark.parametrize(("fps", "kept"), [(20.0, 40), (10.0, 20), (8.0, 16), (5.0, 10), (60.0, 40)])
async def test_fps_is_a_limit(clip: Path, fps: float, kept: int) -> None:
    options = Camera.Options(file=clip, pace="asap", fps=fps)
    seen, counters = await read(options)
    assert abs(len(seen) - kept) <= 1
    assert len(seen) + counters["frames_skipped"] == PICTURES
    assert numbers(seen) == [reading.index for reading in seen]
    assert Camera(options, Clock()).streams() == {"frames": Stream(kind="frame", rate_hz=fps)}


async def test_pictures_are_not_written_to_again(clip: Path) -> None:
    seen, _ = await read(Camera.Options(file=clip, pace="asap"))
    assert len({reading.picture.ctypes.data for reading in seen if reading.picture is not None}) == PICTURES


def changed(file: Path, to: Path, change: Callable[[bytes], bytes]) -> Path:
    to.write_bytes(change(file.read_bytes()))
    return to


# --- damaged and wrong files


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
async def test_a_cut_off_file_is_reported_after_its_last_picture(
    clip: Path, tmp_path: Path, share: float
) -> None:
    cut = changed(clip, tmp_path / "cut.avi", lambda raw: raw[: int(len(raw) * share)])
    seen: list[Reading] = []
    with pytest.raises(ProtocolViolation, match=r"cut\.avi is damaged: \d+ of 40 pictures can be decoded"):
        await read(Camera.Options(file=cut, pace="asap"), seen)
    assert numbers(seen)[:-1] == list(range(len(seen) - 1))
    assert abs(len(seen) - share * PICTURES) <= 4


@pytest.mark.parametrize("seed", range(6))
async def test_a_file_with_wrong_bytes_raises_only_adapter_errors(
    clip: Path, tmp_path: Path, seed: int
) -> None:
    def spoil(whole: bytes) -> bytes:
        raw, rng = bytearray(whole), np.random.default_rng(seed)
        for at in rng.integers(0 if seed % 2 else 2_000, len(raw), len(raw) // 200):
            raw[at] = rng.integers(256)
        return bytes(raw)

    bad = changed(clip, tmp_path / "bad.avi", spoil)
    try:
        await read(Camera.Options(file=bad, pace="asap", open_timeout_s=5, read_timeout_s=5))
    except AdapterError as error:
        assert "bad.avi" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "kind", "sentence"),
    [
        ("absent.avi", None, DeviceUnreachable, "does not exist"),
        ("empty.avi", b"", ProtocolViolation, "is not a video that can be decoded"),
        ("text.mp4", b"not a video " * 500, ProtocolViolation, "is not a video that can be decoded"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", ProtocolViolation, "is not a video"),
        ("list.txt", b"ffconcat version 1.0\nfile /etc/passwd\n", ProtocolViolation, "is not a video"),
    ],
)
async def test_a_file_that_is_not_a_video_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes | None, kind: type[AdapterError], sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=sentence):
        await read(Camera.Options(file=tmp_path / name))


async def test_another_size_than_declared_is_refused(clip: Path) -> None:
    with pytest.raises(ProtocolViolation, match="sends pictures of 160x120 px, not of 640x480 px"):
        await read(Camera.Options(file=clip, size=(640, 480)))
    with pytest.raises(ProtocolViolation, match="up to 100x100 px are allowed"):
        await read(Camera.Options(file=clip, max_size=(100, 100)))
    seen, _ = await read(Camera.Options(file=clip, size=(160, 120), pace="asap"))
    assert len(seen) == PICTURES


async def test_nothing_of_a_damaged_file_is_printed(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = changed(clip, tmp_path / "bad.avi", lambda raw: raw[:3000] + bytes(500) + raw[3500 : len(raw) // 2])
    with pytest.raises(AdapterError):
        await read(Camera.Options(file=bad, pace="asap"))
    with pytest.raises(AdapterError):
        await read(Camera.Options(file=Path(__file__), pace="asap"))
    assert capfd.readouterr() == ("", "")


async def test_an_absent_usb_camera() -> None:
    with pytest.raises(DeviceUnreachable, match="/dev/video250 does not exist: is the camera plugged in"):
        await read(Camera.Options(device=250))


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        side = 100 + 20 * number
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((side, side, 3), 40 * number, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


async def test_a_folder_is_read_by_name(folder: Path) -> None:
    seen, _ = await read(Camera.Options(folder=folder, pace="asap"))
    assert [reading.picture.shape for reading in seen if reading.picture is not None] == [
        (100 + 20 * number, 100 + 20 * number, 3) for number in range(5)
    ]
    assert [reading.at_ns - seen[0].at_ns for reading in seen] == [n * NS_PER_S for n in range(5)]


async def test_a_grey_image_gets_three_colours(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((50, 60), 9, np.uint8))
    seen, _ = await read(Camera.Options(folder=tmp_path, pace="asap"))
    assert seen[0].picture is not None
    assert seen[0].picture.shape == (50, 60, 3)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 px."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack("!I", len(body)) + name + body + struct.pack("!I", zlib.crc32(name + body))

    head = struct.pack("!IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("content", [b"", b"not an image", bomb()], ids=["empty", "text", "bomb"])
async def test_a_bad_image_is_named(folder: Path, content: bytes) -> None:
    (folder / "2b.png").write_bytes(content)
    with pytest.raises(ProtocolViolation, match=r"2b\.png is "):
        await read(Camera.Options(folder=folder, pace="asap"))


async def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnreachable, match="does not exist"):
        await read(Camera.Options(folder=tmp_path / "absent"))
    with pytest.raises(DeviceUnreachable, match="contains no image"):
        await read(Camera.Options(folder=tmp_path))


# --- a library that hangs


async def drain(camera: Camera, seen: list[Reading]) -> None:
    async for reading in camera:
        seen.append(reading)  # noqa: PERF401 - the readings before an error count


async def test_a_hanging_read_is_reported_abandoned_and_ends_later(folder: Path) -> None:
    os.mkfifo(folder / "1b.png")  # opening it blocks until a writer opens it
    options = Camera.Options(folder=folder, pace="asap", read_timeout_s=0.3)
    seen: list[Reading] = []
    camera = Camera(options, Clock())
    await camera.open()
    with pytest.raises(DeviceStalled, match=r"hangs: no picture for 0\.3 s"):
        await drain(camera, seen)
    await camera.close()
    assert len(seen) == 2
    assert camera.counters["captures_abandoned"] == 1
    with (folder / "1b.png").open("wb") as release:
        release.write(b"late")  # the thread continues, finds the capture closed, and ends


async def test_a_hanging_open_is_unreachable(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    released = threading.Event()
    original = Clip.__init__

    def hang(self: Clip, *arguments: object, **named: object) -> None:
        released.wait(20)
        original(self, *arguments, **named)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(Clip, "__init__", hang)
    camera = Camera(Camera.Options(file=clip, open_timeout_s=0.6), Clock())
    with pytest.raises(DeviceUnreachable, match=r"street\.avi did not open within 0\.6 s"):
        await camera.open()
    assert camera.counters["captures_abandoned"] == 1
    released.set()


async def test_a_slow_reader_is_not_a_stall(clip: Path) -> None:
    options = Camera.Options(file=clip, pace="asap", read_timeout_s=0.1)
    async with Camera(options, Clock()) as camera:
        count = 0
        async for _ in camera:
            count += 1
            if count == 5:
                await asyncio.sleep(1.0)
    assert count == PICTURES


async def test_a_slow_schedule_is_not_a_stall(folder: Path) -> None:
    options = Camera.Options(folder=folder, fps=1.0, read_timeout_s=0.1)
    seen, _ = await read(options, most=2)
    assert len(seen) == 2


@pytest.mark.parametrize("size", [(160, 120), (322, 242), (1_280, 720)])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
async def test_pixels_are_those_of_opencv(tmp_path: Path, size: tuple[int, int], codec: str) -> None:
    """Models are trained with pictures of `cv2.VideoCapture`."""
    path = tmp_path / "scene.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream(codec, 10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.colorspace = 1  # ITU-R 709, which OpenCV does not look at
        rng = np.random.default_rng(3)
        for _ in range(4):
            noise = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), size)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="bgr24")))
        film.mux(stream.encode())
    seen, _ = await read(Camera.Options(file=path, pace="asap"))
    peer = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    for reading in seen:
        assert np.array_equal(reading.picture, peer.read()[1])  # type: ignore[arg-type]  # has a picture
    peer.release()
    assert len(seen) == 4
