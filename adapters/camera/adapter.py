"""The camera adapter: pictures from an RTSP or USB camera, a video file or a folder of images.

A device or library that hangs does not hang the adapter: pictures are captured in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from adapters.base import Adapter, DeviceStalled, DeviceUnreachable, Reading
from adapters.camera.capture import Capture, Delivery, PictureSource, Shot
from adapters.camera.options import CameraOptions, check
from adapters.camera.rtsp_probe import name_of, probe
from adapters.camera.rtsp_status import Unexplained
from adapters.camera.video import Folder, Usb
from wire.clock import Clock
from wire.messages import Quality, Stream
from wire.reasons import because

STREAM = "frames"
_COUNTERS = (
    *("frames_dropped", "frames_skipped", "captures_abandoned", "frames_damaged", "frames_undecoded"),
    *("packets_lost", "size_changes", "frames_frozen"),
)
_SLACK_S = 0.5  # a library that is later than its own timeout by more than this hangs
_CLOSE_S = 1.5
_WHY_S = 3.0  # for the question why a camera cannot be opened
_STANDING_S = 3_600.0  # FFmpeg cannot count simulated time: then only the limits of this file end a wait


class Camera(Adapter[CameraOptions]):
    """One camera; its stream is `frames`.

    `counters`: `frames_dropped` were replaced by a newer picture before the reader took them, or waited when
    the camera was closed; `frames_skipped` were left out to keep to `fps`; `captures_abandoned` hang in the
    library; `frames_frozen` were the same picture for longer than `frozen_s`; `frames_damaged`,
    `frames_undecoded`, `packets_lost` and `size_changes` are those of the stream. At each reading
    `index + 1` is the number of pictures read, dropped and skipped.
    """

    Options = CameraOptions
    kind = "camera"

    def __init__(self, options: CameraOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        self.counters.update(dict.fromkeys(_COUNTERS, 0))
        self._capture: Capture | None = None
        check(options)

    @property
    def waits(self) -> bool:
        """A file or folder read `asap` waits for its reader."""
        return self.options.pace == "asap"

    def streams(self) -> dict[str, Stream]:
        """`frames`."""
        rate = self.options.fps or (1.0 if self.options.folder is not None else 0.0)
        return {STREAM: Stream(kind="frame", rate_hz=rate or msgspec.UNSET)}

    async def open(self) -> None:
        """Open the camera in a thread; where that fails, ask it over RTSP for the reason.

        Raises:
            DeviceUnreachable: the camera does not answer, refuses, or has no such stream.
            ProtocolViolation: the device is not a camera, or its pictures have another size than declared.
        """
        options = self.options
        certified = ""
        if options.ca_file is not None:
            certified = await probe(options.url, options.open_timeout_s, options.ca_file)
        try:
            await self._start(options.open_timeout_s, certified)
        except Unexplained:
            # only now: some servers prepare a stream for this question, and refuse the next request meanwhile
            await probe(options.url, min(options.open_timeout_s, _WHY_S), options.ca_file)
            raise

    async def close(self) -> None:
        """End the capture; a capture that hangs is abandoned and counted."""
        capture, self._capture = self._capture, None
        if capture is None:
            return
        if not await capture.close(_CLOSE_S):
            self.counters["captures_abandoned"] += 1
        self._count(capture)  # what came after the last reading

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield pictures: the newest where the reader is slow, every one with `pace: asap`.

        Raises:
            DeviceUnreachable: the stream ended.
            DeviceStalled: no picture for `read_timeout_s`.
            ProtocolViolation: a picture cannot be decoded, is damaged, or has another size.
        """
        capture = self._capture
        if capture is None:
            raise DeviceUnreachable("the camera is closed")
        while True:
            try:
                shot = capture.take()
            except EOFError:
                return
            if shot is not None:
                self._count(shot)
                yield Reading(
                    STREAM, shot.at_ns, picture=shot.picture, index=shot.index, quality=self._quality(shot)
                )
            elif not await capture.wait(self.options.read_timeout_s + _SLACK_S):
                raise DeviceStalled(
                    f"{self._name()} hangs: no picture for {self.options.read_timeout_s:g} s"
                ).coded("device-silent", seconds=self.options.read_timeout_s)

    # --- opening

    def _count(self, of: Shot | Capture) -> None:
        self.counters["frames_dropped"], self.counters["frames_skipped"] = of.dropped, of.skipped

    def _quality(self, shot: Shot) -> Quality:
        if not shot.frozen:
            self.problem = None
        else:
            self.counters["frames_frozen"] += 1
            if self.problem is None:
                seconds = self.options.frozen_s
                self.problem = because(
                    f"the same picture for {seconds:g} s: restart the camera, or set frozen_s to 0",
                    "picture-frozen",
                    seconds=seconds,
                )
        return Quality.UNCERTAIN if shot.frozen or shot.damaged else Quality.GOOD

    async def _start(self, timeout_s: float, certified: str) -> None:
        options, from_disk = self.options, self.options.file or self.options.folder
        self._capture = Capture(
            self._source(timeout_s, certified),
            self.clock,
            Delivery(
                wait_for_reader=self.waits,
                realtime=bool(from_disk) and not self.waits,
                loop_over=options.loop,
                limit_hz=0.0 if options.folder else options.fps,
                frozen_s=0.0 if from_disk else options.frozen_s,
            ),
            name=f"capture-{self._name()}",
            not_read=self.not_read,
        )
        self._capture.start()
        # the library connects and then waits for the first packet: each may take the whole time
        limit_s = 2 * timeout_s if options.url else timeout_s
        try:
            async with self.clock.timeout_at(self.clock.flowing_s() + limit_s + _SLACK_S):
                await asyncio.shield(self._capture.opened)
        except TimeoutError as error:
            await self.close()
            raise DeviceUnreachable(f"{self._name()} did not open within {limit_s:.1f} s") from error
        except BaseException:
            await self.close()
            raise

    def _source(self, timeout_s: float, certified: str) -> Callable[[], PictureSource]:
        options = self.options
        if options.url:

            def connect() -> PictureSource:
                from adapters.camera.stream import Network  # 20 MB that a USB camera does not need

                timeouts_s = (timeout_s, options.read_timeout_s)
                if self.clock.can_stand:
                    timeouts_s = (_STANDING_S, _STANDING_S)
                return Network(options, certified, timeouts_s, self.counters)

            return connect
        if options.file is not None:
            file = options.file

            def start() -> PictureSource:
                from adapters.camera.stream import Clip

                return Clip(file, options, self.counters)

            return start
        if options.folder is not None:
            folder = options.folder
            return lambda: Folder(
                folder, size=options.size, max_size=options.max_size, fps=options.fps or 1.0
            )
        return lambda: Usb(options.device or 0, size=options.size, max_size=options.max_size, fps=options.fps)

    def _name(self) -> str:
        options = self.options
        if options.url:
            return name_of(options.url)
        if options.device is not None:
            return f"/dev/video{options.device}"
        return str(options.file or options.folder)
