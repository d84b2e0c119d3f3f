"""Valid inputs to start from: each decoder gets what a real peer or this project writes."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wire.clock import NS_PER_S, Clock
from wire.codec import compress, encode
from wire.messages import BODIES, Batch, Event, Field, Pack, Stream

AT_NS = 1_800_000_000 * NS_PER_S
ROOT = Path(__file__).parents[2]
UPLINK_TOPIC = "application/5f6a2b9e-3a51-4c7e-9c55-0d6f2a1b7c10/device/70b3d57ed0050001/event/up"

BATCH = Batch(ep="0123456789abcdef", seq=7, t0=1_800_000_000_000, per=20, n=3, f={"x": [1, 2, None]})
EVENT = Event(ep="0123456789abcdef", seq=8, ts=1_800_000_000_000, type="anomaly", detail={"x": [1, {"y": 2}]})


def bodies() -> list[bytes]:
    """A byte that chooses the kind, then a body."""
    messages = {"data": BATCH, "event": EVENT}
    found = []
    for at, kind in enumerate(BODIES):
        if kind in messages:
            found += [bytes([at]) + form for form in _forms(encode(messages[kind]))]
        else:
            found.append(bytes([at]) + b'{"v":1,"ts":1800000000000}')
    return found


def _forms(body: bytes) -> list[bytes]:
    return [body, compress(body), gzip.compress(body)]


def packs() -> list[bytes]:
    """A pack of two messages."""
    parts = [
        ("data/robot/joints", msgspec.Raw(encode(BATCH))),
        ("event/robot/anomaly", msgspec.Raw(encode(EVENT))),
    ]
    return _forms(encode(Pack(m=parts)))


def packets() -> list[bytes]:
    """PUBLISH with QoS 1 and 0, version 5, and other packets between them."""
    publish = b"\x32\x0c\x00\x03a/b\x00\x01\x00{}ab"
    return [publish, publish * 3, b"\x30\x08\x00\x03a/b\x00{}", b"\x40\x02\x00\x01" + publish, b"\xd0\x00"]


def chunks() -> list[bytes]:
    """A packed column chunk."""
    from collector.store.chunk import ChunkRows, pack

    rows = ChunkRows("a/b/c/d", "arm", "joints", "00112233", -1, False, 0)
    rows.add(BATCH, encode(BATCH), 100)
    return [pack(rows).body]


def landed_bodies() -> list[bytes]:
    """The body of a message that waits in the store to be packed."""
    return _forms(encode(BATCH))


def chunks_plain() -> list[bytes]:
    """The same without compression."""
    import zstandard

    return [zstandard.ZstdDecompressor().decompress(each) for each in chunks()]


def statements() -> list[bytes]:
    """The detail of a custody event."""
    detail = {
        "v": 1, "n": 2, "prev": "", "key": "0" * 64, "boot": "0123456789abcdef", "run": 1,
        "day": "2026-11-30", "first": 1, "upto": 9, "streams": {"data/arm/joints": [3, 1, 9]},
        "stored": 9, "sig": "0" * 128,
    }  # fmt: skip
    return [json.dumps(detail).encode()]


def segments() -> list[bytes]:
    """A segment with records, cut behind them, and one whose file was never used."""
    from agent.outbox import Message, Outbox, OutboxSettings

    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox.open(Path(folder), OutboxSettings(max_mb=1), Clock())
        for _ in range(3):
            outbox.append(Message("data", "arm", "joints", msgspec.structs.replace(BATCH)))
        outbox.append(Message("event", "arm", "anomaly", msgspec.structs.replace(EVENT)))
        outbox.commit()
        outbox.close()
        files = [path.read_bytes() for path in sorted(Path(folder).glob("*.seg"))]
    return [data.rstrip(b"\0") for data in files if data.strip(b"\0")]


def recordings() -> list[bytes]:
    """A recording of a row, a picture and an event."""
    from adapters.base import Reading
    from agent.offline.mcap_file import Recorder, jpeg

    streams = {"arm": {"rows": Stream(fields={"x": Field()})}, "gate": {"frames": Stream(kind="frame")}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.mcap"
        recorder = Recorder(
            path,
            Clock(),
            about={"version": "1", "config": "a.yaml"},
            models={},
            config="node: a/b/c/d\n",
            streams=streams,
        )
        picture = np.zeros((8, 8, 3), np.uint8)
        recorder.reading("arm", Reading("rows", AT_NS, {"x": 1.0}))
        recorder.reading("gate", Reading("frames", AT_NS, picture=picture), jpeg(picture))
        recorder.event("arm", EVENT)
        recorder.close()
        return [path.read_bytes()]


def onnx_files() -> list[bytes]:
    """The smallest shipped model."""
    files = sorted((ROOT / "models").glob("*/*.onnx"), key=lambda path: path.stat().st_size)
    return [files[0].read_bytes()]


def golden_files() -> list[bytes]:
    """A golden vector."""
    file = io.BytesIO()
    np.savez(file, input=np.ones((1, 2), np.float32), output_0=np.ones((1, 2), np.float32))
    return [file.getvalue()]


def manifests() -> list[bytes]:
    """The manifests of the shipped models."""
    return [path.read_bytes() for path in sorted((ROOT / "models").glob("*/manifest.yaml"))]


def backup_manifests() -> list[bytes]:
    """The `backup.json` of a backup."""
    from collector.backup.manifest import FORMAT, BackedUpFile, Manifest

    files = [
        BackedUpFile("000001-2026-11-30.db", 8192, "00" * 32, 1, "", 8192, 1_796_000_000_000_000_000),
        BackedUpFile("state.db", 12288, "ff" * 32, 1, "it is damaged"),
    ]
    return [msgspec.json.encode(Manifest(FORMAT, "0.1.0", "0123456789abcdef", 1_796_000_000_000, files))]


def day_files() -> list[bytes]:
    """The day files of an earlier release, with what their WAL holds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tarfile.open(ROOT / "tests/fixtures/state-0.1/site.tar.gz") as kept,
    ):
        kept.extractall(folder, filter="data")
        days = sorted(Path(folder).glob("site/store/0*.db"))
        for day in days:
            with closing(sqlite3.connect(day)) as database:
                database.execute("PRAGMA journal_mode = DELETE")
        return [day.read_bytes() for day in days]


def state_files() -> list[bytes]:
    """The `state.db` of each schema version."""
    return [path.read_bytes() for path in sorted((ROOT / "tests/fixtures/state-db").glob("*.db"))]


def agent_configs() -> list[bytes]:
    """The ready configs."""
    names = ("robot", "mobility", "healthcare", "smart-city")
    return [(ROOT / "configs" / f"{name}.yaml").read_bytes() for name in names]


def collector_configs() -> list[bytes]:
    """The ready config."""
    return [(ROOT / "configs/collector.yaml").read_bytes()]


def scenarios() -> list[bytes]:
    """The ready scenarios."""
    return [path.read_bytes() for path in sorted((ROOT / "configs/scenarios").glob("*.yaml"))]


def hl7() -> list[bytes]:
    """A report of vital signs and one of a waveform, in MLLP frames."""
    vital = (
        "MSH|^~\\&|ACME^080019FFFE3ED02D^EUI-64|A|||20260225061321+0000||ORU^R01^ORU_R01|M1|P|2.6|||AL|NE",
        "PID|||HO2009001^^^AA1^PI",
        "OBR|1|O1^ACME|F1^ACME|182777000^monitoring of patient^SCT|||20260225061320+0000",
        "OBX|2|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.1|72|{beat}/min^{beat}/min^UCUM|50-120|N|||R",
    )
    wave = (
        *vital[:1],
        "OBR|1||374^M|CONTINUOUS WAVEFORM|||20260225061320500|20260225061320516",
        "OBX|1|NA|131330^MDC_ECG_ELEC_POTL_II^MDC|1.7.6.131330|80^-88^32767^0|262656^MDC_DIM_DIMLESS^MDC",
        "OBX|2|NM|0^MDC_ATTR_SAMP_RATE^MDC|1.7.6.131330.1|250|264640^MDC_DIM_HZ^MDC",
    )
    return [b"\x0b" + "\r".join(lines).encode() + b"\r\x1c\r" for lines in (vital, wave)]


def nmea() -> list[bytes]:
    """Four kinds of sentences."""
    return [
        b"$GNGGA,092725.00,4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,*45\n",
        b"$GNRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A*57\n",
        b"$GPVTG,77.52,T,,M,0.004,N,0.008,K,A*06\n",
        b"$GPGSA,A,3,23,29,07,08,09,18,26,28,,,,,1.94,1.18,1.54*0D\n",
    ]


def dbc_files() -> list[bytes]:
    """The bus of the simulated car."""
    return [path.read_bytes() for path in sorted((ROOT / "configs/dbc").glob("*.dbc"))]


def vda5050() -> list[bytes]:
    """A state and a connection."""
    header = {
        "headerId": 41, "timestamp": "2026-07-18T09:34:15.12Z", "version": "2.1.0", "manufacturer": "acme",
        "serialNumber": "n1",
    }  # fmt: skip
    state = {
        **header, "orderId": "o-1", "orderUpdateId": 3, "lastNodeId": "n7", "lastNodeSequenceId": 4,
        "nodeStates": [{"nodeId": "n8", "sequenceId": 6, "released": True}], "edgeStates": [],
        "actionStates": [], "driving": True, "operatingMode": "AUTOMATIC",
        "errors": [{"errorType": "x", "errorLevel": "WARNING"}],
        "agvPosition": {"x": 1.5, "y": -2.5, "theta": 0.5, "mapId": "hall", "positionInitialized": True},
        "batteryState": {"batteryCharge": 80.5, "charging": False},
        "safetyState": {"eStop": "NONE", "fieldViolation": False},
    }  # fmt: skip
    return [json.dumps(each).encode() for each in (state, {**header, "connectionState": "ONLINE"})]


def payloads() -> list[bytes]:
    """JSON, text, and binary payloads of other systems."""
    return [
        b'{"ts":"2026-07-18T09:34:15Z","t":21.5,"n":{"h":[40,"41,5"]},"on":"ON"}',
        b"\xef\xbb\xbf21,5",
        b"\x08\x96\x01\x12\x07testing",
        b"\x83\xa1a\x01\xa1b\xc0\xa1c\x93\x01\x02\x03",
        gzip.compress(b'{"t":1}'),
    ]


def mqtt_adapter(kind: Any) -> Any:
    """An adapter for `payloads`."""
    from adapters.mqtt.options import MqttField, MqttTopicOptions, TimeOptions

    fields = {"t": MqttField(path="t"), "h": MqttField(path="n.h.1"), "on": MqttField(path="on", t="bool")}
    options = MqttTopicOptions(
        url="mqtt://127.0.0.1:1", topics=["a/b"], fields=fields, convert=True, time=TimeOptions(path="ts")
    )
    return kind(options, Clock())


def uplinks() -> list[bytes]:
    """An uplink event of ChirpStack 4."""
    _, application, _, eui, *_ = UPLINK_TOPIC.split("/")
    uplink = {
        "deduplicationId": "d1", "time": "2026-07-18T09:34:15.12Z",
        "deviceInfo": {"applicationId": application, "devEui": eui}, "devAddr": "00189440",
        "fCnt": 4, "fPort": 1, "data": "ARQ=", "object": {"occupied": True, "water": {"level": 12.5}},
        "rxInfo": [{"gatewayId": "g", "rssi": -60, "snr": 9.5}],
    }  # fmt: skip
    uplink["applicationId"] = uplink["devEui"] = ""
    return [json.dumps(uplink).encode()]


def chirpstack_adapter(kind: Any) -> Any:
    """An adapter for `uplinks`."""
    from adapters.chirpstack.options import ChirpStackOptions, UplinkField

    _, application, _, eui, *_ = UPLINK_TOPIC.split("/")
    options = ChirpStackOptions(
        url="mqtt://127.0.0.1:1",
        application=application,
        sensors={"bay": eui},
        fields={"occupied": UplinkField(path="occupied", t="bool"), "level": UplinkField(path="water.level")},
    )
    return kind(options, Clock())


def rtsp() -> list[bytes]:
    """Answers to DESCRIBE."""
    sdp = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    head = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(
        sdp
    )
    denied = b'RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Digest realm="x", nonce="y"\r\n\r\n'
    return [
        head + sdp,
        denied,
        b"RTSP/1.0 453 Not Enough Bandwidth\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ]


def register_maps() -> list[bytes]:
    """The ready register maps."""
    return [path.read_bytes() for path in sorted((ROOT / "configs/maps").glob("*.yaml"))]


def publications() -> list[bytes]:
    """A PublishResponse with two values."""
    from asyncua import ua
    from asyncua.ua.ua_binary import struct_to_binary

    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 42
    change = ua.DataChangeNotification()
    for handle, value in enumerate((1.5, True)):
        at = datetime(2026, 11, 30, tzinfo=UTC) + timedelta(milliseconds=handle)
        item = ua.MonitoredItemNotification()
        item.ClientHandle = handle
        item.Value = ua.DataValue(ua.Variant(value), SourceTimestamp=at, ServerTimestamp=at)
        change.MonitoredItems.append(item)
    response.Parameters.NotificationMessage.NotificationData = [change]
    return [struct_to_binary(response)]
