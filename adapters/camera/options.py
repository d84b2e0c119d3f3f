"""Options of the camera adapter, and their check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from adapters.base import Options, OptionsError
from adapters.camera.rtsp_probe import parts_of

Side = Annotated[int, Meta(ge=1, le=16_384)]
Number = Annotated[int, Meta(ge=0, le=255)]


class CameraOptions(Options, frozen=True, kw_only=True):
    """Exactly one of url, device, file and folder names the source of the pictures."""

    url: Annotated[str, Meta(description="rtsp://user:password@host:port/path, or rtsps://.")] = ""
    device: Annotated[Number | None, Meta(description="USB camera: the number of /dev/video<number>.")] = None
    file: Annotated[Path | None, Meta(description="Video file.")] = None
    folder: Annotated[Path | None, Meta(description="Folder of images, read by name.")] = None
    transport: Annotated[
        Literal["tcp", "udp"], Meta(description="How RTP travels; udp loses pictures on a busy network.")
    ] = "tcp"
    ca_file: Annotated[
        Path | None,
        Meta(description="rtsps: certificate of the camera or of its authority; without it any is accepted."),
    ] = None
    open_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds until a camera that does not answer counts as absent.")
    ] = 5.0
    read_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds without a picture until it counts as stalled.")
    ] = 5.0
    frozen_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="Camera: seconds of the same picture until it counts as frozen, 0 = never.",
        ),
    ] = 60.0
    pace: Annotated[
        Literal["realtime", "asap"],
        Meta(
            description="File or folder: as recorded, or as fast as it can be read, without dropped pictures."
        ),
    ] = "realtime"
    loop: Annotated[bool, Meta(description="File or folder: start again at the end.")] = False
    fps: Annotated[
        float,
        Meta(ge=0, le=240, description="Pictures a second at most, 0 = all; a folder's rate (1)."),
    ] = 0.0
    size: Annotated[
        tuple[Side, Side] | None,
        Meta(description="[width, height] the pictures must have; a USB camera is asked for it."),
    ] = None
    max_size: Annotated[
        tuple[Side, Side], Meta(description="[width, height] of the largest picture that is accepted.")
    ] = (4096, 4096)

    def __repr__(self) -> str:
        """All options without the url, which usually holds a password: options end up in logs."""
        shown = {**msgspec.structs.asdict(self), "url": "..." if self.url else ""}
        return f"CameraOptions({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


def check(options: CameraOptions) -> None:
    """Refuse options that contradict each other.

    Raises:
        OptionsError: no source of pictures or several, or a key that does not fit the source.
    """
    named = {"url": options.url, "file": options.file, "folder": options.folder}
    given = [key for key, value in named.items() if value] + ["device"] * (options.device is not None)
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "none is given"
        raise OptionsError(f"exactly one of url, device, file and folder is needed, {what}")
    if options.url:
        parts_of(options.url)
    if given[0] not in ("file", "folder") and (options.pace == "asap" or options.loop):
        raise OptionsError("pace: asap and loop need a file or folder: a camera does not wait")
    if options.ca_file is not None and (not options.url or parts_of(options.url).scheme != "rtsps"):
        raise OptionsError("ca_file needs a url of rtsps://")
    if options.size and any(one > most for one, most in zip(options.size, options.max_size, strict=True)):
        raise OptionsError(f"size {list(options.size)} is above max_size {list(options.max_size)}")
