"""The decoders to fuzz: what each takes, which errors it may raise, and the inputs to start from.

A target takes bytes and raises only errors in `expected`. Everything else is a fault: an exception that the
caller does not foresee ends a connection, a device or a commit.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import socket
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from adapters.base import AdapterError
from tests.fuzz import samples
from wire.clock import NS_PER_S, Clock
from wire.errors import ConfigError, EdgebedError, WireError
from wire.messages import BODIES

AT_NS = 1_800_000_000 * NS_PER_S
_KEPT = contextlib.ExitStack()  # the folder of this process
atexit.register(_KEPT.close)


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    run: Callable[[bytes], object]
    expected: tuple[type[BaseException], ...]
    seeds: Callable[[], list[bytes]]


@functools.cache
def _folder() -> Path:
    return Path(_KEPT.enter_context(tempfile.TemporaryDirectory(prefix="edgebed-fuzz-")))


TARGETS: dict[str, Target] = {}


def target(
    *expected: type[BaseException], seeds: Callable[[], list[bytes]]
) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
    """Register a decoder under its function's name."""

    def register(run: Callable[[bytes], object]) -> Callable[[bytes], object]:
        TARGETS[run.__name__.strip("_").replace("_", "-")] = Target(run, expected, seeds)
        return run

    return register


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- the wire and the collector


@target(WireError, seeds=samples.bodies)
def bodies(data: bytes) -> None:
    from wire.codec import decode

    kinds = list(BODIES.values())
    if data:
        decode(data[1:], kinds[data[0] % len(kinds)])


@target(WireError, seeds=samples.packs)
def packs(data: bytes) -> None:
    from collector.ingest.unpack import unpack
    from collector.mqtt.received import Received
    from wire.topics import parse

    topic = parse("tb1/acme/line/hall/arm/pack")
    unpack(Received("tb1/acme/line/hall/arm/pack", data, 0, False, None), topic)


@target(
    WireError, seeds=lambda: [b"tb1/acme/line/hall/arm/data/robot/joints", b"tb1/a/b/c/d/ack/_/collector-1"]
)
def topics(data: bytes) -> None:
    from wire.topics import parse

    parse(data.decode("utf-8", "replace"))


@target(WireError, seeds=samples.packets)
def mqtt_packets(data: bytes) -> None:
    from wire.mqtt.packet_socket import Malformed, PacketSocket

    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.sendall(data[:60_000])
        packets = PacketSocket(left, 131_072, cuts_large=True)
        packets.fill()
        with contextlib.suppress(Malformed):
            while list(packets.publishes(v5=True)) or packets.packet() is not None:
                if packets.packet() is not None:
                    packets.release()
                    packets.recv(65_536)
                    packets.skip()


@target(WireError, seeds=samples.packets)
def mqtt_connection(data: bytes) -> None:
    """What a broker sends, after a CONNACK or instead of it: the connection stays open, or has a reason."""
    from wire.mqtt.connection import Connection, Handlers
    from wire.mqtt.options import ConnectOptions, Login

    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        connection = Connection(ConnectOptions(login=Login("broker", 1883, "me")), Handlers())
        connection.start(left)
        right.sendall((b"" if data[:1] == b"\x20" else b"\x20\x03\x00\x00\x00") + data[:60_000])
        connection.read()
        if connection.ended is None and connection.is_connected:
            connection.publish("a", b"x")
            connection.subscribe([("a", 1)])
            right.sendall(data[:60_000])
            connection.read()


@target(WireError, seeds=samples.chunks)
def store_chunks(data: bytes) -> None:
    from collector.store.chunk import read_chunk

    read_chunk(data)
    read_chunk(data, declared=3)


@target(WireError, seeds=samples.chunks_plain)
def store_chunks_inside(data: bytes) -> None:
    """The same behind the compression, which random bytes do not pass."""
    from collector.store.chunk import read_chunk

    read_chunk(zstandard.ZstdCompressor().compress(data))


@target(WireError, seeds=samples.landed_bodies)
def store_landed(data: bytes) -> None:
    """What can be decoded can also be packed, and read again."""
    from collector.store.chunk import pack, read_chunk
    from collector.store.landed import UNDECODABLE, decoded, joined

    batch, key = samples.BATCH, ("a/b/c/d", "arm", "joints")
    try:
        rows = decoded(key, batch.ep, batch.seq, len(batch), 0, 0, None, None, data)
    except UNDECODABLE as error:
        raise WireError(str(error)) from error
    for chunk in joined([rows, rows]):
        assert len(read_chunk(pack(chunk).body).times) == 2 * len(batch)


@target(WireError, msgspec.MsgspecError, seeds=samples.statements)
def custody_statements(data: bytes) -> None:
    from wire.custody import read, signed_form

    with contextlib.suppress(RecursionError):
        detail = msgspec.json.decode(data, type=dict[str, Any])
        read(detail)
        signed_form(detail, "a/b/c/d", "0123456789abcdef")


# --- files of the agent


@target(OSError, ValueError, seeds=samples.segments)
def outbox_segments(data: bytes) -> None:
    from agent.outbox import Outbox, OutboxSettings

    folder = _folder() / "outbox"
    _file("outbox/000001.seg", data)
    outbox = Outbox.open(folder, OutboxSettings(max_mb=1), Clock())
    try:
        outbox.take(100, 1 << 20)
        outbox.stats()
    finally:
        outbox.close()
        for path in folder.iterdir():
            path.unlink()


@target(EdgebedError, seeds=samples.recordings)
def mcap_recordings(data: bytes) -> None:
    from agent.offline.mcap_file import McapReader, read_session

    path = _file("x.mcap", data)
    read_session(path)
    for number, _ in enumerate(McapReader(path).records()):
        if number > 200:
            break


@target(EdgebedError, seeds=samples.onnx_files)
def onnx_files(data: bytes) -> None:
    from agent.inference.onnx_scan import edited, scan

    edited(data, scan(data).edits)


@target(EdgebedError, seeds=samples.golden_files)
def golden_vectors(data: bytes) -> None:
    from agent.inference import golden

    _file("package/golden/a.npz", data)
    golden.compare(_folder() / "package", "golden/a.npz", lambda given: [given])


@target(EdgebedError, seeds=samples.manifests)
def manifests(data: bytes) -> None:
    from agent.inference.manifest import load

    path = _file("manifest/manifest.yaml", data)
    load(path.parent)


@target(EdgebedError, seeds=samples.agent_configs)
def agent_configs(data: bytes) -> None:
    from agent.config import load

    load(_file("agent.yaml", data), Clock())


@target(EdgebedError, seeds=samples.collector_configs)
def collector_configs(data: bytes) -> None:
    from collector.config import load

    load(_file("collector.yaml", data))


@target(EdgebedError, seeds=samples.scenarios)
def scenarios(data: bytes) -> None:
    from edgebed.scenario.document import load

    load(_file("scenario.yaml", data))


@target(
    ConfigError,
    seeds=lambda: [b'{"ts":1,"device":"arm","slot":"m","type":"anomaly","score":0.5,"detail":{"x":1}}\n'],
)
def expected_events(data: bytes) -> None:
    from agent.offline.regression import compare, load

    found = load(_file("expected.jsonl", data))
    compare(found, found[:5])


# --- devices


@target(AdapterError, seeds=samples.hl7)
def hl7_messages(data: bytes) -> None:
    from adapters.hl7.catalog import VITALS, WAVEFORMS
    from adapters.hl7.deidentify import Deidentifier
    from adapters.hl7.message import MessageRejected, parse, require_report
    from adapters.hl7.mllp import MllpFrames
    from adapters.hl7.rows import Bedside, BedsideSettings, Times

    counters: Counter[str] = Counter()
    settings = BedsideSettings(VITALS, WAVEFORMS, patients=True, old_ns=10**13)
    bed = Bedside("", settings, Deidentifier(bytes(32), counters), counters)
    frames = [*MllpFrames(65_536, Counter()).feed(data), data.strip(b"\x0b\x1c\r")]
    for frame in frames:
        with contextlib.suppress(MessageRejected):
            message = parse(frame)
            require_report(message)
            if message.msh(9) == b"ACK":
                continue  # the adapter reads no rows of it
            list(bed.readings(message, Times(UTC, AT_NS), []))


@target(AdapterError, seeds=samples.nmea)
def nmea_sentences(data: bytes) -> None:
    from adapters.nmea.epochs import BadSentence, checksum, parse

    for line in data.split(b"\n")[:20]:
        with contextlib.suppress(BadSentence):
            parse(line, unchecked=True)
        body = line.strip().lstrip(b"$").partition(b"*")[0].decode("ascii", "ignore")
        with contextlib.suppress(BadSentence):
            parse(f"${body}*{checksum(body):02X}".encode("ascii", "replace"))


@target(
    AdapterError,
    seeds=lambda: [b"1,2,3", b'{"x":[{"y":1.5}],"b":"on"}', b"T=1.5;H: 40, x", b"ST,GS,+  12,5kg"],
)
def text_lines(data: bytes) -> None:
    from adapters.lines import formats

    readers = (
        formats.csv_reader({"a": "1", "b": "3"}, ""),
        formats.json_reader({"a": "x.0.y", "b": "b"}, ""),
        formats.pair_reader({"a": "T", "b": "H"}, ""),
        formats.pattern_reader({"a": "a"}, r"(?P<a>\S+) .*"),
    )
    line = data.decode("utf-8", "replace")
    for read in readers:
        for raw in (read(line) or {}).values():
            for declared in ("f64", "i64", "bool", "str"):
                formats.as_declared(raw, declared)
                formats.why_not(raw, declared)
            formats.unix_ns(raw, "ms")


@target(
    AdapterError,
    seeds=lambda: [b"t1008" + b"00" * 8, b"T000001008" + b"11" * 8, b"r1230", b"d1009" + b"00" * 12, b"z"],
)
def slcan_lines(data: bytes) -> None:
    from adapters.can.slcan import NotSlcan, _message

    with contextlib.suppress(NotSlcan):
        _message(data)


@target(AdapterError, seeds=samples.dbc_files)
def dbc_files(data: bytes) -> None:
    from adapters.can.options import Picking
    from adapters.can.signals import Dbc, all_signals, pick

    dbc = Dbc(_file("x.dbc", data))
    for name, signal in list(all_signals(dbc).items())[:20]:
        with contextlib.suppress(AdapterError):
            pick(dbc, name, Picking(signal=signal)).value(1)


@target(
    AdapterError,
    seeds=lambda: [
        bytes([0x06, 0x41, 0, 0xBE, 0x3F, 0xA8, 0x13, 0]),
        bytes([0x10, 0x14, 0x49, 2, 1, 0x45, 0x44, 0x47]),
    ],
)
def obd_answers(data: bytes) -> None:
    from adapters.obd.isotp import _single
    from adapters.obd.pids import PIDS

    if data:
        _single(data)
    for pid in PIDS.values():
        pid.value(int.from_bytes(data[: pid.size], "big"))


@target(ValueError, seeds=lambda: [bytes([0x16, 72, 0, 3, 0, 4]), bytes([0x01, 72, 0])])
def ble_values(data: bytes) -> None:
    from adapters.ble.options import Characteristic, LayoutPart
    from adapters.ble.values import BeatTimes, Layout, heart_rate

    layout = Layout("x", Characteristic(uuid="180d", layout="<hfQ", fields={n: LayoutPart() for n in "abc"}))
    with contextlib.suppress(ValueError):
        layout.read(data)
    BeatTimes().stamp(heart_rate(data).rr_ms, AT_NS)


def _mqtt_rows(adapter: Any, topic: str, data: bytes) -> None:
    from adapters.mqtt.payload import Unusable
    from adapters.mqtt.session import TopicMessage

    with contextlib.suppress(Unusable):
        list(adapter.rows(TopicMessage(topic, data, False, AT_NS)))


@target(AdapterError, seeds=samples.vda5050)
def vda5050_messages(data: bytes) -> None:
    from adapters.vda5050.adapter import Vda5050
    from adapters.vda5050.options import Vda5050Options

    options = Vda5050Options(
        url="mqtt://127.0.0.1:1", manufacturer="acme", serial="n1", orders=True, visualization=True
    )
    for kind in ("state", "connection", "order", "visualization"):
        _mqtt_rows(Vda5050(options, Clock()), f"uagv/v2/acme/n1/{kind}", data)


@target(AdapterError, seeds=samples.payloads)
def mqtt_payloads(data: bytes) -> None:
    from adapters.mqtt.adapter import Mqtt
    from adapters.mqtt.payload_kinds import kind_of

    kind_of("a/b", data)
    _mqtt_rows(samples.mqtt_adapter(Mqtt), "a/b", data)


@target(AdapterError, seeds=samples.uplinks)
def chirpstack_uplinks(data: bytes) -> None:
    from adapters.chirpstack.adapter import ChirpStack

    _mqtt_rows(samples.chirpstack_adapter(ChirpStack), samples.UPLINK_TOPIC, data)


@target(
    AdapterError,
    seeds=lambda: [b"t,a\n1700000000,1\n", b't,a\n2023-11-14T22:13:20Z,"1"\n', b'{"t":1,"a":2}\n'],
)
def replay_files(data: bytes) -> None:
    from adapters.replay.options import ReplayLayout, ReplayOptions
    from adapters.replay.rows import RecordedRows, open_text

    for name in ("x.csv", "x.jsonl"):
        options = ReplayOptions(file=_file(name, data), fields={"a": "a"}, time="t")
        with contextlib.suppress(AdapterError), open_text(options) as file:
            list(RecordedRows(ReplayLayout.of(options), file, Counter()))


@target(AdapterError, seeds=samples.rtsp)
def rtsp_answers(data: bytes) -> None:
    from adapters.camera import rtsp_probe

    async def read() -> None:
        reader = asyncio.StreamReader(limit=65_536)
        reader.feed_data(data)
        reader.feed_eof()
        with contextlib.suppress(rtsp_probe._NotRtspError, asyncio.IncompleteReadError):
            answer = await rtsp_probe._answer(reader)
            for url in ("rtsp://127.0.0.1/x", "rtsp://me:secret@127.0.0.1/x"):
                with contextlib.suppress(AdapterError):
                    rtsp_probe._judge("camera", url, answer)

    asyncio.run(read())


@target(
    AdapterError,
    seeds=lambda: [
        struct.pack(">HHHBBB", 1, 0, 7, 1, 3, 4) + bytes(4),
        b"\x01\x03\x04\x00\x01\x00\x02*2",
        b"\x01\x83\x02\xc0\xf1",
    ],
)
def modbus_frames(data: bytes) -> None:
    from adapters.modbus.framing import RtuFramer, TcpFramer

    async def read() -> None:
        for framer in (TcpFramer(lambda: None), RtuFramer(lambda: None)):
            framer.encode(b"\x03\x00\x00\x00\x02", 1, 1)
            framer.handleFrame(data, 1, 1)
            framer.mismatch()

    asyncio.run(read())


@target(EdgebedError, seeds=samples.register_maps)
def modbus_maps(data: bytes) -> None:
    from adapters.modbus.register_map import read_map

    read_map(_file("map.yaml", data))


@target(
    AdapterError,
    seeds=lambda: [bytes(8), b"\x80\x00\x00\x00\x7f\xc0\x00\x00", b"\x42\x28\x00\x00\xff\xff\xff\xff"],
)
def modbus_values(data: bytes) -> None:
    from adapters.modbus.register_map import WORDS, Register
    from adapters.modbus.values import number, value

    words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, 8, 2)]
    for coded, count in WORDS.items():
        place = {"bit": 3} if coded == "bit" else {}
        register = Register(register=0, type=coded, scale=1.0 if place else 0.01, **place)
        for order in ("abcd", "badc", "cdab", "dcba"):
            value(register, number(words[:count], coded, order))


@target(ValueError, seeds=samples.publications)
def opcua_publications(data: bytes) -> None:
    from adapters.opcua.publish_response import decode

    decode(data)


@target(EdgebedError, seeds=samples.backup_manifests)
def backup_manifest(data: bytes) -> None:
    from collector.backup.manifest import read

    read(_file("backup.json", data).parent)


@target(EdgebedError, seeds=samples.day_files)
def day_file(data: bytes) -> None:
    from collector.store.soundness import Content, check_day

    path = _file("day.db", data)
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    check_day(path, Content(), lambda _: None)


@target(EdgebedError, seeds=samples.state_files)
def state_file(data: bytes) -> None:
    from collector.state.audit import Audit, AuditEntry
    from collector.state.state_file import StateFile

    path = _file("state.db", data)
    path.chmod(0o600)
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with contextlib.closing(StateFile(path.parent, owns_store=True)) as state:
        audit = Audit(state)
        audit.add(AuditEntry(1, "a", "b", "c", "d", "e"))
        audit.newest(10)
