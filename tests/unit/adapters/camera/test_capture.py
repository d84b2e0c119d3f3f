"""Every picture of a camera is read or counted, whenever it comes between two readings."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from adapters.base import AdapterError, Picture
from adapters.camera.adapter import Camera
from adapters.camera.capture import Capture, PictureSource, Shot
from wire.clock import Clock


class Shutter:
    """A source that takes a picture when the test calls `press`."""

    rate_hz = 0.0
    damaged = False
    changes = 0
    unread = ""

    def __init__(self) -> None:
        self._pressed: queue.Queue[bool] = queue.Queue()
        self._asked: queue.Queue[None] = queue.Queue()

    def press(self, pictures: int) -> None:
        """Take pictures; return when the thread has delivered them and asks for the next."""
        for _ in range(pictures):
            self._pressed.put(True)
        for _ in range(pictures):
            self._asked.get(timeout=60)

    def grab(self) -> bool:
        self._asked.put(None)
        return self._pressed.get()

    def picture(self) -> Picture:
        return np.zeros((8, 8, 3), np.uint8)

    def ended(self, pictures: int) -> AdapterError | None:
        return None

    def close(self) -> None:
        pass

    def release(self) -> None:
        """Make `grab` return False: the end."""
        self._pressed.put(False)


class Pressed(Camera):
    """The adapter with this source: the test decides when a picture comes."""

    def __init__(self, fps: float = 0.0) -> None:
        super().__init__(self.Options(device=0, fps=fps), Clock())
        self.shutter = Shutter()

    def _source(self, timeout_s: float, certified: str) -> Callable[[], PictureSource]:
        return lambda: self.shutter

    async def open(self) -> None:
        await super().open()
        self.shutter._asked.get(timeout=60)  # for the first picture

    async def close(self) -> None:
        self.shutter.release()
        await super().close()

    def counted(self) -> tuple[int, int]:
        return self.counters["frames_dropped"], self.counters["frames_skipped"]


@pytest.fixture
async def camera() -> AsyncIterator[Pressed]:
    async with Pressed() as one:
        yield one


async def test_pictures_before_the_first_reading_are_counted(camera: Pressed) -> None:
    camera.shutter.press(3)
    first = await anext(aiter(camera))
    assert (first.index, camera.counted()) == (2, (2, 0))


async def test_a_picture_that_comes_during_a_delivery_is_counted_with_the_next(
    camera: Pressed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may drop pictures after the adapter took one and before it reads the counters."""
    readings, take = aiter(camera), Capture.take

    def late(capture: Capture) -> Shot | None:
        shot = take(capture)
        if shot is not None:
            camera.shutter.press(3)
        return shot

    camera.shutter.press(1)
    monkeypatch.setattr(Capture, "take", late)
    first, counted = await anext(readings), camera.counted()
    assert (first.index, counted) == (0, (0, 0))
    monkeypatch.undo()
    second = await anext(readings)
    assert (second.index, camera.counted()) == (3, (2, 0))


async def test_pictures_after_the_last_reading_are_counted(camera: Pressed) -> None:
    readings = aiter(camera)
    camera.shutter.press(1)
    await anext(readings)
    camera.shutter.press(3)
    await camera.close()
    assert camera.counted() == (3, 0), "two were replaced, one waited"


async def test_unread_pictures_are_counted(camera: Pressed) -> None:
    camera.shutter.press(2)
    await camera.close()
    assert camera.counted() == (2, 0)


async def test_what_is_skipped_after_the_last_reading_is_counted() -> None:
    async with Pressed(fps=0.001) as camera:
        camera.shutter.press(4)
        first = await anext(aiter(camera))
        assert (first.index, camera.counted()) == (0, (0, 0))
    assert camera.counted() == (0, 3)
