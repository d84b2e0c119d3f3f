"""Writes and reads a field session as one MCAP file: readings, pictures and events, with config and models.

Layout (https://mcap.dev/spec), profile `edgebed`: metadata `session` and `models`, attachment `config.yaml`;
a channel `{device}/{stream}` for each stream with its declaration in the channel's metadata, rows as flat
JSON (`_q` is the quality code), pictures as `foxglove.CompressedImage`; a channel `{device}/_events` for
each device. `publish_time` is the reading's own time, `log_time` is when it was recorded. Records are
written one by one, not in chunks: a file that was cut off is readable up to its last whole record.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

import msgspec
import numpy as np

from adapters.base import Picture, Reading
from wire.clock import NS_PER_S, Clock
from wire.errors import EdgebedError, unwritable
from wire.messages import Event, Quality, Stream

if TYPE_CHECKING:
    from mcap.records import McapRecord
    from mcap.writer import Writer

PROFILE = "edgebed"
MAX_RECORD = 256 * 1024 * 1024  # bytes: one picture of 16k x 16k as a PNG fits
EVENTS = "_events"
_MAGIC = b"\x89MCAP0\r\n"
_PASSWORD = re.compile(r"(?<=://)[^/@\s\"']+@")
_IMAGE_SCHEMA = {
    "title": "foxglove.CompressedImage",
    "type": "object",
    "properties": {
        "timestamp": {
            "type": "object",
            "title": "time",
            "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}},
        },
        "frame_id": {"type": "string"},
        "data": {"type": "string", "contentEncoding": "base64"},
        "format": {"type": "string"},
    },
}
_JSON_TYPES = {"f32": "number", "f64": "number", "i64": "integer", "bool": "boolean"}
_encode = msgspec.json.Encoder().encode


class RecordingError(EdgebedError):
    """A file is not a recording, or a recording cannot be written."""


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """Describes a recording; `recovered` states why it ends early, empty for a whole one."""

    about: Mapping[str, str] = field(default_factory=dict)  # version, node, started, config (relative path)
    models: Mapping[str, str] = field(default_factory=dict)  # slot -> "name@version sha256"
    config: str = ""  # the agent's YAML, without passwords
    streams: Mapping[str, Mapping[str, Stream]] = field(default_factory=dict)  # device -> stream
    recovered: str = ""


class Recorder:
    """Writes one recording; `path` must not exist. Blocks. Call `sync` about every second.

    `streams` maps a device to its streams, `models` a slot to "name@version sha256".

    Raises:
        RecordingError: the file exists or cannot be written, at any call.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        about: Mapping[str, str],
        models: Mapping[str, str],
        config: str,
        streams: Mapping[str, Mapping[str, Stream]],
    ) -> None:
        self.rows = self.pictures = self.events = 0
        self._clock = clock
        self._path = path
        self._channels: dict[tuple[str, str], int] = {}
        self._sequence: dict[int, int] = {}
        self._file, self._writer = self._open()
        try:
            self._writer.start(profile=PROFILE, library=PROFILE)
            self._writer.add_metadata("session", dict(about))
            self._writer.add_metadata("models", dict(models))
            now_ns = clock.now_ns()
            text = _PASSWORD.sub("***@", config).encode()
            self._writer.add_attachment(now_ns, now_ns, "config.yaml", "application/yaml", text)
            for device, each in streams.items():
                self._declare(device, each)
            self.sync()
        except BaseException:
            with contextlib.suppress(OSError):  # closing may fail on a full disk
                self._file.close()
            raise

    def reading(self, device: str, reading: Reading, jpeg: bytes = b"") -> None:
        """Record one reading; a picture needs the bytes of its JPEG or PNG."""
        body: dict[str, Any]
        if reading.picture is None:
            body = dict(reading.values)
            self.rows += 1
        else:
            sec, nsec = divmod(reading.at_ns, NS_PER_S)
            body = {
                "timestamp": {"sec": sec, "nsec": nsec},
                "frame_id": device,
                "format": "png" if jpeg.startswith(b"\x89PNG") else "jpeg",
                "data": base64.b64encode(jpeg).decode(),
                "_index": reading.index,
            }
            self.pictures += 1
        if reading.quality:
            body["_q"] = int(reading.quality)
        self._add((device, reading.stream), reading.at_ns, _encode(body))

    def event(self, device: str, event: Event) -> None:
        """Record an event of a model."""
        self.events += 1
        self._add((device, EVENTS), event.ts * 1_000_000, _encode(event))

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def sync(self) -> None:
        """Write everything recorded so far to disk."""
        try:
            self._file.flush()
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def close(self) -> None:
        """Write the summary that makes the file quick to open; safe to call twice."""
        if self._file.closed:
            return
        try:
            with self._file:
                self._writer.finish()  # type: ignore[no-untyped-call]  # of mcap
                self.sync()
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> tuple[IO[bytes], Writer]:
        try:
            from mcap.writer import Writer
        except ImportError as error:
            raise RecordingError("recording needs mcap: pip install 'edgebed[record]'") from error
        try:
            file = self._path.open("xb")
        except FileExistsError as error:
            raise RecordingError(
                f"{self._path} exists: choose another name, a recording is never overwritten"
            ) from error
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        return file, Writer(file, use_chunking=False, enable_data_crcs=True)

    def _declare(self, device: str, streams: Mapping[str, Stream]) -> None:
        for name, stream in streams.items():
            frame = stream.kind == "frame"
            title = _IMAGE_SCHEMA["title"] if frame else f"{device}.{name}"
            schema = _encode(_IMAGE_SCHEMA if frame else _row_schema(str(title), stream))
            declared = {"device": device, "stream": name, "declared": _encode(stream).decode()}
            self._channel((device, name), str(title), schema, declared)
        self._channel((device, EVENTS), "edgebed.Event", b'{"type":"object"}', {"device": device})

    def _channel(self, key: tuple[str, str], title: str, schema: bytes, declared: dict[str, str]) -> None:
        schema_id = self._writer.register_schema(title, "jsonschema", schema)
        self._channels[key] = self._writer.register_channel("/".join(key), "json", schema_id, declared)

    def _add(self, key: tuple[str, str], at_ns: int, body: bytes) -> None:
        channel = self._channels[key]
        number = self._sequence[channel] = self._sequence.get(channel, 0) + 1
        try:
            self._writer.add_message(channel, self._clock.now_ns(), body, max(0, at_ns), number % 2**32)
        except OSError as error:
            raise _cannot_write(self._path, error) from error


@dataclass(frozen=True, slots=True)
class RecordedItem:
    """One record: a reading or an event of `device`, and when it was recorded (Unix ns)."""

    device: str
    log_ns: int
    reading: Reading | None = None
    event: Event | None = None


def read_session(path: Path) -> RecordedSession:
    """Describe the recording at `path`; reads the whole file to see where it ends.

    Raises:
        RecordingError: the file is not a recording.
    """
    reader = McapReader(path, pictures=False)
    for _ in reader.records():
        pass
    return reader.session


class McapReader:
    """Reads a recording in the order it was written; a file that was cut off gives all its whole records.

    `session` fills while `records` runs and is complete after it. Without `pictures` the pictures are not
    decoded: each is one black pixel.
    """

    def __init__(self, path: Path, *, pictures: bool = True) -> None:
        self._path = path
        self._pictures = pictures
        self._about: dict[str, str] = {}
        self._models: dict[str, str] = {}
        self._config = ""
        self._streams: dict[str, dict[str, Stream]] = {}
        self._channels: dict[int, tuple[str, str]] = {}
        self._recovered = ""

    @property
    def session(self) -> RecordedSession:
        """The description of the recording, as far as it was read."""
        return RecordedSession(self._about, self._models, self._config, self._streams, self._recovered)

    def records(self) -> Iterator[RecordedItem]:
        """Every reading and event.

        Raises:
            RecordingError: the file is not a recording, or another program wrote it.
        """
        from mcap.records import Attachment, Channel, Message, Metadata

        for record in self._whole():
            match record:
                case Metadata(name="session"):
                    self._about = dict(record.metadata)
                case Metadata(name="models"):
                    self._models = dict(record.metadata)
                case Attachment(name="config.yaml"):
                    self._config = record.data.decode("utf-8", "replace")
                case Channel():
                    self._channel(record.id, record.metadata)
                case Message():
                    if (found := self._message(record)) is not None:
                        yield found

    def _whole(self) -> Iterator[McapRecord]:
        """The records before the first damaged one; sets `_recovered` to the reason for an early end."""
        from mcap.exceptions import McapError
        from mcap.opcode import Opcode
        from mcap.records import Chunk
        from mcap.stream_reader import CRCValidationError, breakup_chunk

        for opcode, body in self._framed():
            if opcode == Opcode.DATA_END:
                return
            try:
                record = _parse(opcode, body)
                if isinstance(record, Chunk):  # written by other programs
                    yield from breakup_chunk(record, validate_crc=True)
                elif record is not None:
                    yield record
            except (McapError, CRCValidationError, ValueError, OverflowError) as error:
                self._recovered = f"a record is damaged: {error}"
                return
            except Exception as error:  # noqa: BLE001 - struct, zstd, lz4: a hostile body can raise any of their errors
                self._recovered = f"a record is damaged: {type(error).__name__}"
                return

    def _framed(self) -> Iterator[tuple[int, bytes]]:
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be read: {error.strerror}") from error
        with file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise RecordingError(f"{self._path} is not an MCAP file")
            while True:
                head = file.read(9)
                length = int.from_bytes(head[1:], "little")
                body = file.read(length) if len(head) == 9 and length <= MAX_RECORD else b""
                if len(head) < 9 or len(body) < length:
                    self._recovered = "the file was cut off"
                    return
                yield head[0], body

    def _channel(self, number: int, declared: Mapping[str, str]) -> None:
        if "device" not in declared:
            raise RecordingError(f"{self._path} is an MCAP file, but not a recording of edgebed")
        device, stream = declared["device"], declared.get("stream", EVENTS)
        self._channels[number] = device, stream
        of_device = self._streams.setdefault(device, {})
        if stream != EVENTS:
            try:
                of_device[stream] = msgspec.json.decode(declared.get("declared", ""), type=Stream)
            except (msgspec.DecodeError, ValueError) as error:
                raise RecordingError(
                    f"{self._path}: the declaration of stream {device}/{stream} is not valid: {error}"
                ) from error

    def _message(self, message: Any) -> RecordedItem | None:
        where = self._channels.get(message.channel_id)
        if where is None:
            return None
        device, stream = where
        try:
            if stream == EVENTS:
                event = msgspec.json.decode(message.data, type=Event)
                return RecordedItem(device, message.log_time, event=event)
            frame = self._streams[device][stream].kind == "frame"
            reading = self._reading(stream, message, frame)
        except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
            raise RecordingError(
                f"{self._path}: record {message.sequence} of {device}/{stream} is not valid: {error}"
            ) from error
        return RecordedItem(device, message.log_time, reading=reading)

    def _reading(self, stream: str, message: Any, frame: bool) -> Reading:
        body = msgspec.json.decode(message.data, type=dict[str, Any])
        quality, at_ns = Quality(body.pop("_q", 0)), message.publish_time
        if not frame:
            return Reading(stream, at_ns, body, quality=quality)
        picture = decoded(base64.b64decode(body["data"])) if self._pictures else np.zeros((1, 1, 3), np.uint8)
        return Reading(stream, at_ns, picture=picture, index=int(body["_index"]), quality=quality)


def jpeg(picture: Picture, quality: int = 95) -> bytes:
    """Encode a picture as a JPEG; `quality` 0 makes a PNG, which is lossless."""
    import cv2

    kind, options = (".png", []) if quality == 0 else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    done, data = cv2.imencode(kind, picture, options)
    if not done:
        raise RecordingError("a picture cannot be encoded")
    return bytes(data)


def decoded(data: bytes) -> Picture:
    """Decode a picture from JPEG or PNG bytes.

    Raises:
        ValueError: the bytes are neither.
    """
    import cv2

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if picture is None:
        raise ValueError("a picture cannot be decoded")
    return np.ascontiguousarray(picture, dtype=np.uint8)


def _parse(opcode: int, body: bytes) -> McapRecord | None:
    from mcap import records
    from mcap.data_stream import ReadDataStream
    from mcap.opcode import Opcode

    stream = ReadDataStream(BytesIO(body))
    if opcode == Opcode.MESSAGE:
        return cast("McapRecord", records.Message.read(stream, len(body)))
    kinds: dict[int, Any] = {
        Opcode.CHANNEL: records.Channel,
        Opcode.METADATA: records.Metadata,
        Opcode.ATTACHMENT: records.Attachment,
        Opcode.CHUNK: records.Chunk,
    }
    return cast("McapRecord", kinds[opcode].read(stream)) if opcode in kinds else None


def _row_schema(title: str, stream: Stream) -> dict[str, Any]:
    properties = {
        name: {"type": _JSON_TYPES.get(each.t, "string"), "description": f"{each.desc} [{each.unit}]".strip()}
        for name, each in stream.fields.items()
    }
    return {"title": title, "type": "object", "properties": properties}


def _cannot_write(path: Path, error: OSError) -> EdgebedError:
    return unwritable(f"recording {path}", error)
