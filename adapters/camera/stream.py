"""Picture sources that FFmpeg reads through PyAV: a network stream, a video file."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, Picture, ProtocolViolation
from adapters.camera.options import CameraOptions
from adapters.camera.rtsp_probe import name_of
from adapters.camera.rtsp_status import Unexplained, sentence
from adapters.camera.size import after, check_size

_LOST = 0.1  # share of a file's pictures that may be missing: some containers only estimate the number
_MAX_PIXELS = 1 << 26  # of one picture in the decoder, before its size is checked
_STATUS = re.compile(r"method \w+ failed: (\d{3})")
_MISSED = re.compile(r"RTP: missed (\d+) packets")
_GAP = re.compile(r"bad cseq ([0-9a-f]{4}) expected=([0-9a-f]{4})")
_NO_PARAMETERS = re.compile(
    r"non-existing [SP]PS|[VSP]PS (id )?\d+ (does not exist|out of range)|[VSP]PS id out of"
)
_NAMES = {"h264": "H.264", "hevc": "H.265"}

av.logging.set_level(av.logging.WARNING)  # the messages go to the captures of the threads that cause them
av.logging.set_skip_repeated(False)
logging.getLogger("libav").disabled = True


class Film:
    """The pictures of one stream, decoded by FFmpeg in the thread that made this object.

    `damaged`, `changes` and `unread` are those of `PictureSource`. `counters`: `packets_lost` are missing RTP
    packets, `frames_damaged` pictures with a fault in themselves or in a picture that they build on,
    `frames_undecoded` packets that gave no picture, `size_changes` changes of the size.
    """

    rate_hz = 0.0

    def __init__(
        self,
        name: str,
        where: str,
        options: dict[str, str],
        timeouts_s: tuple[float, float] | None,
        camera: CameraOptions,
        counters: Counter[str],
    ) -> None:
        self.name, self.damaged, self.changes, self.unread = name, False, 0, ""
        self._wanted, self._max_size, self._size = camera.size, camera.max_size, camera.size
        self._counters = counters
        self._frames: deque[Any] = deque()  # decoded, not grabbed yet
        self._frame: Any = None
        self._sent = b""  # the newest packet of a picture
        self._packets = 0  # since the newest picture
        self._seen_key = self._lacks_parameters = False
        self._bad_pts: int | None = None
        self._keys_since = 2  # keyframes since the newest damage; from 2 on nothing is damaged
        self._convert = VideoReformatter()
        pixels = str(max(_MAX_PIXELS, camera.max_size[0] * camera.max_size[1]))
        self._capture = av.logging.Capture(local=True)
        self._log: list[tuple[int, str, str]] = self._capture.__enter__()
        self._container: Any = None
        try:
            self._container = av.open(where, options={"max_pixels": pixels, **options}, timeout=timeouts_s)
            self._packet_of = self._start(pixels)
        except BaseException:
            self.close()
            raise

    def _start(self, pixels: str) -> Iterator[Any]:
        if not self._container.streams.video:
            raise Unexplained(f"{self.name} offers no video")
        stream = self._container.streams.video[0]
        decoder = stream.codec_context
        if decoder is None:
            raise Unexplained(
                f"{self.name} sends video that cannot be decoded: set the camera to H.264 or H.265"
            )
        decoder.thread_count = 1  # frame threads hold pictures back and take a core each
        decoder.options = {"max_pixels": pixels}
        if decoder.width and decoder.height:  # before the library allocates memory for it
            check_size(self.name, (decoder.width, decoder.height), self._wanted, self._max_size)
        self._codec = decoder.name
        self._stream = stream
        self._log.clear()
        return iter(self._container.demux(stream))

    def grab(self) -> bool | None:
        """Decode the next picture; None where data came that gave none, False at the end."""
        if self._frames:
            return self._advance()
        try:
            packet = next(self._packet_of)
        except (StopIteration, av.FFmpegError):
            return False
        if packet.size:
            self._note(packet)
        try:
            self._frames.extend(packet.decode())
        except av.FFmpegError:  # what an earlier packet gave is damaged as well
            self._counters["frames_undecoded"] += 1
            self._hurt(packet.pts)
        self._read_log(packet)
        if not self._frames:
            self.unread = self._why_no_picture()
            return None
        self._packets, self.unread = 0, ""
        return self._advance()

    def picture(self) -> Picture:
        """The picture that was grabbed, as a new array.

        Raises:
            ProtocolViolation: it cannot be converted, or has another size than declared.
        """
        frame = self._frame
        size = (frame.width, frame.height)
        if size != self._size:
            check_size(self.name, size, self._wanted, self._max_size)
            if self._size is not None:
                self._counters["size_changes"] += 1
            self._size = size
        try:
            # the pixels of cv2.VideoCapture, with which models are trained
            converted = self._convert.reformat(
                frame,
                format="bgr24",
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
        except (av.FFmpegError, ValueError) as error:
            raise ProtocolViolation(f"{self.name} sent a picture that cannot be converted") from error
        plane = converted.planes[0]  # not copied
        rows: Picture = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[
            : size[1], : 3 * size[0]
        ]
        return np.ascontiguousarray(rows).reshape(size[1], size[0], 3)

    def ended(self, pictures: int) -> AdapterError | None:
        """The reason why the stream ended."""
        return DeviceUnreachable(f"{self.name} ended the stream {after(pictures)}")

    def close(self) -> None:
        """Close the connection or file."""
        container, self._container = self._container, None
        if container is not None:
            container.close()
        if self._capture is not None:
            self._capture.__exit__(None, None, None)
            self._capture = None

    def _advance(self) -> bool:
        self._frame = self._frames.popleft()
        self._judge(self._frame)
        return True

    # --- damage

    def _note(self, packet: Any) -> None:
        self._packets += 1
        self._seen_key |= packet.is_keyframe
        if (sent := bytes(packet)) != self._sent:
            self.changes, self._sent = self.changes + 1, sent
        if packet.is_corrupt:
            self._hurt(packet.pts)

    def _read_log(self, packet: Any) -> None:
        for level, source, text in self._log:
            if missed := _MISSED.search(text):
                self._counters["packets_lost"] += int(missed[1])
            elif gap := _GAP.search(text):
                self._counters["packets_lost"] += (int(gap[1], 16) - int(gap[2], 16)) & 0xFFFF
            elif not self._is_fault(level, source, text):
                continue
            self._lacks_parameters |= bool(_NO_PARAMETERS.search(text))
            self._hurt(packet.pts)
        self._log.clear()

    def _is_fault(self, level: int, source: str, text: str) -> bool:
        # decoders of single pictures also complain about harmless additions of cameras
        inter = self._codec in ("h264", "hevc")
        return inter and source == self._codec and (level <= av.logging.ERROR or "undecodable" in text)

    def _hurt(self, pts: int | None) -> None:
        self._bad_pts, self._keys_since = pts, 0

    def _judge(self, frame: Any) -> None:
        """Set `damaged`: a fault lasts until the next whole keyframe after it."""
        if frame.is_corrupt:
            self._hurt(frame.pts)
        elif frame.key_frame and self._keys_since < 2:
            late = frame.pts is None or self._bad_pts is None or frame.pts > self._bad_pts
            # the second ends it also where the camera set its time back
            self._keys_since = 2 if late else self._keys_since + 1
        self.damaged = self._keys_since < 2
        self._counters["frames_damaged"] += self.damaged

    def _why_no_picture(self) -> str:
        what = _NAMES.get(self._codec, self._codec)
        if self._lacks_parameters:
            why = "without its parameter sets (SPS, PPS): restart the camera, or let it repeat them"
        elif not self._seen_key:
            why = (
                "without a keyframe: shorten the camera's keyframe interval (GOP), or raise stall_s above it"
            )
        else:
            why = "that cannot be decoded: check the camera's video format and the network"
        return f"{self._packets} packets of {what} video {why}"


class Network(Film):
    """An RTSP stream; it ends at once when it is cut, and after its second timeout of silence."""

    def __init__(
        self,
        camera: CameraOptions,
        certified: str,
        timeouts_s: tuple[float, float],
        counters: Counter[str],
    ) -> None:
        name, transport, ca_file = name_of(camera.url), camera.transport, camera.ca_file
        open_timeout_s, self._read_timeout_s = timeouts_s
        options = {
            "rtsp_transport": transport,
            "allowed_media_types": "video",  # not the sound beside it
            # without these two FFmpeg collects pictures before it returns the first, which is old by then;
            # an opening that runs into its timeout even breaks a packet in two
            "fpsprobesize": "0",
            "probesize": "32",
            # cameras have certificates with arbitrary names: any that ca_file vouches for is accepted
            **({"tls_verify": "1", "ca_file": str(ca_file), "verifyhost": certified} if ca_file else {}),
        }
        self._asked = began = time.monotonic()
        try:
            super().__init__(name, camera.url, options, timeouts_s, camera, counters)
        except av.FFmpegError:  # its text holds the password
            statuses = [found[1] for *_, text in self._log if (found := _STATUS.search(text))]
            if statuses:
                kind = Unexplained if statuses[-1] == "401" else DeviceUnreachable
                raise kind(sentence(name, int(statuses[-1]), transport)) from None
            late = time.monotonic() - began >= 0.9 * open_timeout_s
            within = f" within {open_timeout_s:.1f} s" if late else ""
            raise Unexplained(f"{name} did not start its stream{within}") from None

    def grab(self) -> bool | None:
        """Wait for the next picture; False when the stream was cut, or silent for `read_timeout_s`."""
        self._asked = time.monotonic()
        return super().grab()

    def ended(self, pictures: int) -> AdapterError | None:
        """The reason why the stream ended: cut or silent."""
        if time.monotonic() - self._asked >= 0.9 * self._read_timeout_s:
            silent = f"{self.name} sent nothing for {self._read_timeout_s:g} s, {after(pictures)}"
            return DeviceStalled(silent).coded("device-silent", seconds=self._read_timeout_s)
        return super().ended(pictures)


class Clip(Film):
    """A video file, at its recorded rate."""

    def __init__(self, path: Path, camera: CameraOptions, counters: Counter[str]) -> None:
        if not path.is_file():
            raise DeviceUnreachable(f"file {path} does not exist")
        # a playlist with the name of a video would connect to the network
        options = {"protocol_whitelist": "file"}
        try:
            super().__init__(str(path), f"file:{path}", options, None, camera, counters)
        except av.FFmpegError as error:
            raise ProtocolViolation(
                f"{path} is not a video that can be decoded: another kind of file, or cut off"
            ) from error
        rate = float(self._stream.guessed_rate or 0)
        self.rate_hz = rate if 0 < rate <= 240 else 25.0
        seconds = (self._container.duration or 0) / av.time_base
        self._pictures = int(max(0.0, min(self._stream.frames or seconds * self.rate_hz, 1e9)))

    def ended(self, pictures: int) -> AdapterError | None:
        """None where about as many pictures were decoded as the file announces."""
        if not pictures:
            return ProtocolViolation(f"{self.name} contains no picture that can be decoded")
        if pictures < (1 - _LOST) * self._pictures:
            return ProtocolViolation(
                f"{self.name} is damaged: {pictures} of {self._pictures} pictures can be decoded"
            )
        return None
