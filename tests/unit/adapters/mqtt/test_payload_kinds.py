"""A payload that an adapter cannot read is named."""

from __future__ import annotations

import gzip
import json
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.mqtt.payload_kinds import kind_of

SPARKPLUG = bytes.fromhex("08d0860312100a01781801200a69000000000000f03f")
VALUES = {"temp": 22.5, "occupied": True}


@pytest.mark.parametrize(
    ("topic", "body", "kind"),
    [
        ("spBv1.0/g/DDATA/e/d", SPARKPLUG, "Sparkplug B payload"),
        ("spBv1.0/STATE/scada", b"ONLINE", "the text 'ONLINE'"),
        ("air", SPARKPLUG, "protobuf payload"),
        ("air", bytes.fromhex("0a2433616337653363340801"), "protobuf payload"),
        ("air", bytes.fromhex("0d0000c841"), "protobuf payload"),
        ("air", gzip.compress(b'{"temp": 1}', mtime=0), "gzip payload"),
        ("air", zlib.compress(b'{"temp": 1}'), "zlib payload"),
        ("air", json.dumps(VALUES).encode("utf-16-le"), "UTF-16 text without a byte order mark"),
        ("air", json.dumps(VALUES).encode("utf-16-be"), "UTF-16 text without a byte order mark"),
        ("air", msgspec.msgpack.encode(VALUES), "MessagePack payload"),
        ("air", bytes.fromhex("a16474656d70f94da0"), "CBOR payload"),
        ("air", b"\x00\x01\x02", "payload of bytes that are not text (00 01 02)"),
        ("air", b"\xff" * 20, "payload of bytes that are not text (ff ff ff ff ff ff ff ff ...)"),
        ("air", b"", "empty payload"),
        ("air", b"ON", "the text 'ON'"),
        ("air", b"22,5 C\r\n", "the text '22,5 C'"),
        ("air", b"x" * 99, f"the text '{'x' * 40}...'"),
        ("air", b"22.5", "the single value 22.5"),
        ("air", b"[1, 2]", "JSON array of 2"),
        ("air", b"\xef\xbb\xbf{}", "JSON object"),
    ],
)
def test_each_kind_has_its_name(topic: str, body: bytes, kind: str) -> None:
    assert kind_of(topic, body) == kind


@given(st.binary(max_size=200))
def test_any_bytes_have_a_name(body: bytes) -> None:
    assert kind_of("air", body)


def test_a_large_payload_is_looked_at_in_part() -> None:
    assert kind_of("air", "온도 ".encode() * 100_000).startswith("the text '온도 ")
    assert kind_of("air", b"[" * 2_000_000).startswith("the text '[[[")
