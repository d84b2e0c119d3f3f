"""Pictures from an RTSP or USB camera, a video file or a folder of images; it never hangs with its device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from adapters import base
from adapters.base import Adapter, DeviceStalled, DeviceUnreachable, OptionsError, Reading
from adapters.camera.capture import Capture, Shot, Source
from adapters.camera.rtsp_probe import name_of, parts_of, probe
from adapters.camera.video import Clip, Folder, Network, Usb
from wire.clock import Clock
from wire.messages import Stream

STREAM = "frames"
_SLACK_S = 0.5  # that a library may come later than its own timeout before it counts as hanging
_CLOSE_S = 1.5

Side = Annotated[int, Meta(ge=1, le=16_384)]
Number = Annotated[int, Meta(ge=0, le=255)]


class Camera(Adapter):
    """One camera; its stream is `frames`.

    `counters`: `frames_dropped` were replaced by a newer one before anybody took them, or waited when the
    camera was closed; `frames_skipped` were left out to keep to `fps`; `captures_abandoned` hang in the
    library. At each reading `index + 1` is what was read, dropped and skipped.
    """

    kind = "camera"

    class Options(base.Options, frozen=True, kw_only=True):
        """Exactly one of url, device, file and folder says where pictures come from."""

        url: Annotated[str, Meta(description="rtsp://user:password@host:port/path, or rtsps://.")] = ""
        device: Annotated[
            Number | None, Meta(description="USB camera: the number of /dev/video<number>.")
        ] = None
        file: Annotated[Path | None, Meta(description="Video file.")] = None
        folder: Annotated[Path | None, Meta(description="Folder of images, read by name.")] = None
        transport: Annotated[
            Literal["tcp", "udp"], Meta(description="How RTP travels; udp loses pictures on a busy network.")
        ] = "tcp"
        ca_file: Annotated[
            Path | None,
            Meta(
                description="rtsps: certificate of the camera or of who signed it; without it any is taken."
            ),
        ] = None
        open_timeout_s: Annotated[
            float, Meta(gt=0, le=60, description="Seconds until a camera that does not answer is absent.")
        ] = 5.0
        read_timeout_s: Annotated[
            float, Meta(gt=0, le=60, description="Seconds without a picture until it counts as stalled.")
        ] = 5.0
        pace: Annotated[
            Literal["realtime", "asap"],
            Meta(
                description="File or folder: as recorded, or as fast as it is read with no picture dropped."
            ),
        ] = "realtime"
        loop: Annotated[bool, Meta(description="File or folder: begin again at the end.")] = False
        fps: Annotated[
            float,
            Meta(ge=0, le=240, description="Pictures a second at most, 0 for all; a folder's rate (1)."),
        ] = 0.0
        size: Annotated[
            tuple[Side, Side] | None,
            Meta(description="[width, height] it must have; asked of a USB camera."),
        ] = None
        max_size: Annotated[
            tuple[Side, Side], Meta(description="[width, height] of the largest picture that is taken.")
        ] = (4096, 4096)

        def __repr__(self) -> str:
            """Without the url, which holds a password as a rule: options end up in logs."""
            shown = {**msgspec.structs.asdict(self), "url": "..." if self.url else ""}
            return f"Camera.Options({', '.join(f'{key}={value!r}' for key, value in shown.items())})"

    def __init__(self, options: Options, clock: Clock) -> None:
        super().__init__(options, clock)
        self.options: Camera.Options = options
        self.counters = {"frames_dropped": 0, "frames_skipped": 0, "captures_abandoned": 0}
        self._capture: Capture | None = None
        self._check()

    @property
    def waits(self) -> bool:
        """A file or folder read `asap` waits for its reader."""
        return self.options.pace == "asap"

    def streams(self) -> dict[str, Stream]:
        """`frames`."""
        rate = self.options.fps or (1.0 if self.options.folder is not None else 0.0)
        return {STREAM: Stream(kind="frame", rate_hz=rate or msgspec.UNSET)}

    async def open(self) -> None:
        """Ask the camera, then open it in a thread.

        Raises:
            DeviceUnreachable: nobody is there, it refuses, or has no such stream.
            DeviceLied: it is something else, or of another size than declared.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.options.open_timeout_s
        guarded = False
        if self.options.url:
            guarded = await probe(self.options.url, self.options.open_timeout_s, self.options.ca_file)
        left_s = max(0.5, until - loop.time())
        try:
            await self._start(left_s)
        except DeviceUnreachable as error:
            if guarded:
                hint = f"{error}: check the user, password and path of url"
                raise DeviceUnreachable(hint) from None
            raise

    async def close(self) -> None:
        """End the capture; one that hangs is left to end by itself, and counted."""
        capture, self._capture = self._capture, None
        if capture is None:
            return
        if not await capture.close(_CLOSE_S):
            self.counters["captures_abandoned"] += 1
        self._count(capture)  # what came after the last reading

    async def readings(self) -> AsyncIterator[Reading]:
        """Pictures, the newest first where the reader is slow, every one with `pace: asap`.

        Raises:
            DeviceUnreachable: the stream was cut.
            DeviceStalled: no picture for `read_timeout_s`.
            DeviceLied: not decodable, damaged, or of another size.
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
                yield Reading(STREAM, shot.at_ns, picture=shot.picture, index=shot.index)
            elif not await capture.wait(self.options.read_timeout_s + _SLACK_S):
                raise DeviceStalled(f"{self._name()} hangs: no picture for {self.options.read_timeout_s:g} s")

    # --- how it is done

    def _count(self, of: Shot | Capture) -> None:
        self.counters["frames_dropped"], self.counters["frames_skipped"] = of.dropped, of.skipped

    async def _start(self, timeout_s: float) -> None:
        options, from_disk = self.options, self.options.file or self.options.folder
        self._capture = Capture(
            self._source(timeout_s),
            self.clock,
            name=f"capture-{self._name()}",
            wait_for_reader=self.waits,
            realtime=bool(from_disk) and not self.waits,
            loop_over=options.loop,
            limit_hz=0.0 if options.folder else options.fps,
        )
        self._capture.start()
        try:
            async with asyncio.timeout(timeout_s + _SLACK_S):
                await asyncio.shield(self._capture.opened)
        except TimeoutError as error:
            await self.close()
            raise DeviceUnreachable(f"{self._name()} did not open within {timeout_s:.1f} s") from error
        except BaseException:
            await self.close()
            raise

    def _source(self, timeout_s: float) -> Callable[[], Source]:
        options = self.options
        if options.url:
            return lambda: Network(
                options.url,
                name_of(options.url),
                transport=options.transport,
                ca_file=options.ca_file,
                open_timeout_s=timeout_s,
                read_timeout_s=options.read_timeout_s,
                size=options.size,
                max_size=options.max_size,
            )
        if options.file is not None:
            file = options.file
            return lambda: Clip(file, size=options.size, max_size=options.max_size)
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

    def _check(self) -> None:
        options = self.options
        named = {"url": options.url, "file": options.file, "folder": options.folder}
        given = [key for key, value in named.items() if value] + ["device"] * (options.device is not None)
        if len(given) != 1:
            what = f"not {' and '.join(given)}" if given else "none is given"
            raise OptionsError(f"exactly one of url, device, file and folder is needed, {what}")
        if options.url:
            parts_of(options.url)
        if given[0] not in ("file", "folder") and (self.waits or options.loop):
            raise OptionsError("pace: asap and loop are for a file or folder: a camera does not wait")
        if options.ca_file is not None:
            if not options.url or parts_of(options.url).scheme != "rtsps":
                raise OptionsError("ca_file is for a url of rtsps://")
            if set(";|") & set(str(options.ca_file)):
                raise OptionsError("the path of ca_file must not hold ; or |")
        if options.size and any(one > most for one, most in zip(options.size, options.max_size, strict=True)):
            raise OptionsError(f"size {list(options.size)} is above max_size {list(options.max_size)}")
