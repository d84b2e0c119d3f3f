"""The codec: encoding and decoding give the same message; any bytes give a message or one WireError."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import math

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from tests.unit.wire.contract import contract
from wire import codec
from wire.errors import WireError
from wire.messages import BODIES, MAX_DEPTH, MAX_SAMPLES, Ack, Batch, Event, Quality, Snapshot, Status

EPOCH = "0123456789abcdef"
millis = st.integers(0, 4_000_000_000_000)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | st.text(max_size=20)
names = st.from_regex(r"[a-z][a-z0-9_]{0,47}", fullmatch=True)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    rows = draw(st.integers(1, 20))
    columns = draw(
        st.dictionaries(names, st.lists(scalars, min_size=rows, max_size=rows), min_size=1, max_size=5)
    )
    numbered = {"ep": EPOCH, "seq": draw(st.integers(1, 2**62)), "t0": draw(millis), "f": columns}
    if draw(st.booleans()):
        return Batch(**numbered, per=draw(st.integers(1, 10_000)), n=rows)
    offsets = draw(st.lists(st.integers(-(10**12), 10**12), min_size=rows, max_size=rows))
    quality = draw(st.lists(st.sampled_from(list(map(int, Quality))), min_size=rows, max_size=rows))
    return Batch(**numbered, dt=offsets, q=quality, tu=draw(st.sampled_from(["ms", "us"])), clk=1)


@given(batches())
def test_a_batch_comes_back_as_it_went(batch: Batch) -> None:
    assert codec.decode(codec.encode(batch), Batch) == batch


@given(batches())
def test_a_compressed_batch_comes_back_as_it_went(batch: Batch) -> None:
    body = codec.encode(batch)
    assert codec.decode(codec.compress(body), Batch) == batch
    assert codec.decode(gzip.compress(body), Batch) == batch
    assert codec.decode(zstandard.compress(body), Batch) == batch


@given(batches(), st.data())
def test_one_changed_byte_of_a_sealed_body_never_makes_another_message(
    batch: Batch, data: st.DataObject
) -> None:
    body = bytearray(codec.seal(codec.encode(batch)))
    assert codec.decode(bytes(body), Batch) == batch
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        assert codec.decode(bytes(body), Batch) == batch


def test_a_seal_is_no_field_and_a_field_is_no_seal() -> None:
    live = {"ts": 1, "crc": "deadbeef"}
    assert codec.decode_live(codec.encode(live)) == live, "a device may have such a field"
    assert codec.decode_live(codec.seal(codec.encode({"ts": 1})), sealed=True) == {"ts": 1}
    with pytest.raises(WireError, match="checksum"):
        codec.decode_live(codec.encode(live), sealed=True)
    assert codec.seal(b"{}") == b"{}"


@given(st.binary(max_size=400), st.sampled_from([b"", b"{", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]))
def test_any_bytes_give_a_message_or_one_wire_error(noise: bytes, start: bytes) -> None:
    for kind in BODIES.values():
        try:
            assert isinstance(codec.decode(start + noise, kind), kind)
        except WireError as error:
            assert str(error)
    try:
        codec.decode_live(start + noise)
    except WireError as error:
        assert str(error)


@given(batches(), st.data())
def test_a_damaged_body_gives_a_message_or_one_wire_error(batch: Batch, data: st.DataObject) -> None:
    body = bytearray(
        data.draw(st.sampled_from([codec.encode, lambda b: gzip.compress(codec.encode(b))]))(batch)
    )
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    damaged = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        codec.decode(damaged, Batch)
    except WireError as error:
        assert str(error)


json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@given(
    st.sampled_from(list(BODIES)), st.dictionaries(st.text(max_size=8), json_values, max_size=6), st.data()
)
def test_any_json_gives_a_message_or_one_wire_error(
    cls: str, extra: dict[str, object], data: st.DataObject
) -> None:
    known = {
        field: data.draw(json_values) for field in BODIES[cls].__struct_fields__ if data.draw(st.booleans())
    }
    import json

    try:
        codec.decode(json.dumps({**extra, **known}).encode(), BODIES[cls])
    except WireError as error:
        assert str(error)


@pytest.mark.parametrize("opening", [b"[", b'{"detail":{"a":', b'{"x":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode(opening + b"[" * 200_000, Event)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Event, '{"ts":1,"type":"x","detail":%s}'),
        (BODIES["res"], '{"id":"01JD3X5Y6Z7A8B9C0D1E2F3G4H","state":"done","ts":1,"result":%s}'),
        (BODIES["cmd"], '{"id":"01JD3X5Y6Z7A8B9C0D1E2F3G4H","ts":1,"ttl_ms":1,"args":%s}'),
        (BODIES["desired"], '{"ver":1,"ts":1,"doc":%s}'),
        (BODIES["desired"], '{"ver":1,"ts":1,"ref":%s}'),
        (
            BODIES["birth"],
            '{"ts":1,"boot":"ab12ab12","sess":1,"ep":"ab12ab12","agent":{"ver":""},"cmds":[{"name":"x","args":%s}]}',
        ),
    ],
)
def test_what_may_be_of_any_kind_nests_so_deep_and_no_deeper(kind: type[Struct], body: str) -> None:
    def nested(depth: int) -> bytes:
        return (body % ('{"a":' * (depth - 1) + "{}" + "}" * (depth - 1))).encode()

    codec.encode(codec.decode(nested(MAX_DEPTH), kind))
    for depth in (MAX_DEPTH + 1, 500, 970):
        with pytest.raises(WireError, match=f"nests more than {MAX_DEPTH} deep|recursion depth"):
            codec.decode(nested(depth), kind)


def test_bombs_are_refused_before_they_unpack() -> None:
    zeros = bytes(50_000_000)
    writer = zstandard.ZstdCompressor().compressobj()  # a frame that does not state its size
    unsized = writer.compress(zeros) + writer.flush()
    for bomb in (gzip.compress(zeros), zstandard.compress(zeros), unsized):
        with pytest.raises(WireError, match=r"unpacks to|too much memory"):
            codec.decode(bomb, Batch)


def test_not_a_number_travels_as_null() -> None:
    body = codec.encode(Batch(t0=0, dt=[0, 1, 2], f={"x": [math.nan, math.inf, 1.0]}))
    assert codec.decode(body, Batch).f == {"x": [None, None, 1.0]}
    assert codec.decode_live(codec.encode({"ts": 1, "x": math.nan})) == {"ts": 1, "x": None}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"t0":1,"dt":[0,1],"f":{"x":[1]}}', "column 'x' has 1 values for 2 rows"),
        (b'{"t0":1,"f":{"x":[1]}}', "needs dt"),
        (b'{"t0":1,"dt":[0],"per":1,"n":1,"f":{"x":[1]}}', "not both"),
        (b'{"t0":1,"dt":[0],"f":{}}', "without fields"),
        (b'{"t0":1,"dt":[],"f":{"x":[]}}', "0 rows"),
        (b'{"t0":1,"dt":[0],"f":{"X":[1]}}', "field name 'X'"),
        (b'{"t0":1,"dt":[0],"q":[0,0],"f":{"x":[1]}}', "q has 2 values"),
        (b'{"t0":1,"per":1,"n":%d,"f":{"x":[1]}}' % (MAX_SAMPLES + 1), "<="),
        (b'{"t0":-1,"dt":[0],"f":{"x":[1]}}', ">= 0"),
        (b'{"t0":1,"dt":[0],"f":{"x":[99999999999999999999]}}', "f[...]"),
    ],
)
def test_a_wrong_batch_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(WireError) as error:
        codec.decode(body, Batch)
    assert why in str(error.value)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"ts":true}',
        b'{"ts":-1}',
        b'{"ts":1.5}',
        b'{"ts":1,"A":2}',
        b'{"ts":1,"a":{}}',
        b'{"ts":1,"a":[1]}',
    ],
)
def test_a_wrong_live_body_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        codec.decode_live(body)


def test_unknown_fields_are_ignored_so_that_newer_agents_can_talk() -> None:
    status = codec.decode(
        b'{"v":7,"state":"online","ts":1,"boot":"00112233","sess":4,"news":{"a":[1]}}', Status
    )
    assert (status.v, status.state, status.sess) == (7, "online", 4)


def test_pictures_and_versions_always_travel() -> None:
    shot = Snapshot(ts=1, w=2, h=3, sha256="aa", jpeg=b"\xff\xd8\x00")
    assert codec.decode(codec.encode(shot), Snapshot) == shot
    assert b'"v":1' in codec.encode(Event(ts=1, type="gap"))


def test_ranges_that_end_before_they_start_are_refused() -> None:
    with pytest.raises(WireError, match="ends before"):
        codec.decode(b'{"ep":"00112233","ok":[[5,4]],"by":"c","ts":1}', Ack)


def test_regular_and_irregular_times() -> None:
    assert Batch(t0=5, per=20, n=3, f={"x": [1, 2, 3]}).times_us() == [5_000, 25_000, 45_000]
    assert Batch(t0=5, dt=[0, 7], tu="us", f={"x": [1, 2]}).times_us() == [5_000, 5_007]


def test_the_span_of_a_batch_is_from_its_oldest_to_its_newest_row() -> None:
    for batch in (
        Batch(t0=5, per=20, n=3, f={"x": [1, 2, 3]}),
        Batch(t0=5, per=20, n=1, tu="us", f={"x": [1]}),
        Batch(t0=5, dt=[4, -7, 0], f={"x": [1, 2, 3]}),
        Batch(t0=5, dt=[3, 9], tu="us", f={"x": [1, 2]}),
    ):
        assert batch.span_us() == (min(batch.times_us()), max(batch.times_us()))


def test_the_size_before_compression_is_known_without_decompressing() -> None:
    text = b'{"x":[' + b"1.5," * 100_000 + b"1]}"
    unsized = zstandard.ZstdCompressor().compressobj()
    for body in (text[:1_000], gzip.compress(text), zstandard.compress(text)):
        assert codec.plain_size(body) == len(codec.plain(body))
    assert codec.plain_size(unsized.compress(text) + unsized.flush()) == codec.MAX_PLAIN
    assert codec.plain_size(b"x" * 200_000) == 200_000
    for broken in (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", gzip.compress(text)[:-1], b""):
        assert codec.plain_size(broken) <= codec.MAX_PLAIN


def test_a_gzip_body_that_declares_less_than_it_unpacks_to_is_refused() -> None:
    bomb = gzip.compress(bytes(900_000))
    small = bomb[:-4] + (1_000).to_bytes(4, "little")
    assert codec.plain_size(small) < 2_000
    with pytest.raises(WireError, match="unpacks to more than 1000 bytes"):
        codec.plain(small)
    two = bomb + gzip.compress(b"x")
    assert codec.plain_size(two) < 2_000
    with pytest.raises(WireError):
        codec.plain(two)


def test_the_first_bytes_of_a_body_are_read_alone() -> None:
    text = b'{"ep":"00112233","f":' + b"[" * 100_000
    for body in (text, gzip.compress(text), gzip.compress(text)[:-9]):
        assert codec.first_bytes(body, 20) == text[:20]
    assert codec.first_bytes(b"\x1f\x8b broken", 20) == b""


GZIPPED = gzip.compress(b"{}" * 50, mtime=0)


def zstd(body: bytes, *, sized: bool, level: int = 3) -> bytes:
    """Pack a body; a stream has no size in its head, and at the default level a window of 2 MiB."""
    writer = zstandard.ZstdCompressor(level).compressobj(size=len(body) if sized else -1)
    return writer.compress(body) + writer.flush()


@pytest.mark.parametrize("size", [codec.MAX_PLAIN, codec.MAX_PLAIN + 1])
@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "zstd without a size"])
def test_a_body_unpacks_to_the_limit_and_no_further(form: str, size: int) -> None:
    body = b" " * size
    packed = {
        "plain": lambda: body,
        "gzip": lambda: gzip.compress(body),
        "zstd": lambda: zstd(body, sized=True),
        "zstd without a size": lambda: zstd(body, sized=False),
    }[form]()
    if size == codec.MAX_PLAIN == contract("max_plain"):
        assert codec.plain(packed) == body
        return
    with pytest.raises(WireError) as caught:
        codec.plain(packed)
    assert (
        str(caught.value)
        == {
            "plain": "body of 1048577 bytes; 60000 are allowed",
            "gzip": "gzip body is cut off or unpacks to more than 1048576 bytes",
            "zstd": "zstd body unpacks to 1048577 bytes; 1048576 are allowed",
            "zstd without a size": "zstd body unpacks to more than 1048576 bytes",
        }[form]
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            GZIPPED[:-9] + bytes([100, 0, 0, 0]),
            "gzip body is cut off or unpacks to more than 100 bytes",
        ),
        (GZIPPED + b"rest" + bytes([100, 0, 0, 0]), "bytes after the end of a gzip body"),
        (b"\x1f\x8b\x09" + bytes(20), "broken gzip body: "),
        (zstandard.compress(b"{}" * 50)[:-3], "zstd body is cut off"),
        (zstd(b"{}" * 50, sized=False)[:-1], "zstd body is cut off"),
        (zstd(b"{}" * 50, sized=True) + b"x", "bytes after the end of a zstd body"),
        (zstd(b"{}" * 50, sized=False) + b"x", "bytes after the end of a zstd body"),
        (zstd(b"{}" * 50, sized=False) + b"x" * 64, "bytes after the end of a zstd body"),
        (zstd(b"{}", sized=True) * 2, "bytes after the end of a zstd body"),
        (b"\x28\xb5\x2f\xfd\xff", "broken zstd body: "),
    ],
)  # fmt: skip
def test_a_broken_body_has_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(WireError) as caught:
        codec.plain(body)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("level", [1, 3, 9, 15, 18])
@pytest.mark.parametrize("sized", [True, False])
def test_zstd_of_every_usual_level_is_read(level: int, sized: bool) -> None:
    for body in (b'{"a":1}', b'{"a":"' + bytes(range(32, 127)) * 600 + b'"}'):
        assert codec.plain(zstd(body, sized=sized, level=level)) == body


def test_a_body_is_packed_where_that_makes_it_smaller() -> None:
    assert codec.COMPRESS_FROM == 512
    below, at = b"{%s}" % (b" " * 509), b"{%s}" % (b" " * 510)
    assert codec.compress(below) == codec.seal(below)
    assert gzip.decompress(codec.compress(at)) == at
    assert codec.compress(at)[4:8] == bytes(4), "the same body gives the same bytes at any time"
    noise = hashlib.shake_256(b"").digest(600)
    assert codec.compress(noise) == codec.seal(noise)


def test_a_seal_is_the_crc_of_the_body() -> None:
    # CRC-32 of {"a":1} is 561bacaf, of 123456789 it is cbf43926
    assert codec.seal(b'{"a":1}') == b'{"a":1,"crc":"561bacaf"}'
    assert (codec.seal(b"{}"), codec.seal(b"[1]")) == (b"{}", b'[1,"crc":"4c2f32b8"}')
    assert codec.seal(b"123456789") == b'12345678,"crc":"cbf43926"}'
    assert codec.unsealed(b'{"a":1,"crc":"561bacaf"}') == b'{"a":1}'
    with pytest.raises(WireError, match=r"^the body was damaged in transit: its checksum does not match$"):
        codec.unsealed(b'{"a":1,"crc":"561bacae"}')


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"ts":253402300800000}', "a live body needs ts, integer milliseconds before the year 10000"),
        (b'{"ts":1,"Ab":2}', "live field name 'Ab' is not [a-z][a-z0-9_]*"),
        (b'{"ts":1,"ab!":2}', "live field name 'ab!' is not [a-z][a-z0-9_]*"),
    ],
)
def test_a_wrong_live_body_has_a_sentence(body: bytes, sentence: str) -> None:
    with pytest.raises(WireError) as caught:
        codec.decode_live(body)
    assert str(caught.value) == sentence


def test_live_bodies_at_the_limits() -> None:
    for ts in (0, 253_402_300_799_999):
        assert codec.decode_live(codec.encode({"ts": ts, "x": None, "y": 1.5})) == {
            "ts": ts,
            "x": None,
            "y": 1.5,
        }
    with pytest.raises(WireError, match="not a flat live body"):
        codec.decode_live(b'{"ts":1,"x":1e999}')


def test_only_bodies_of_the_contract_are_read() -> None:
    class Other(Struct):
        """Not of the contract."""

    with pytest.raises(TypeError, match=r"^Other is not a body of the wire contract$"):
        codec.decode(b"{}", Other)


def test_the_size_of_a_body_is_limited_by_its_form() -> None:
    assert codec.plain_size(b"x" * 60_000) == 60_000
    assert codec.plain_size(gzip.compress(bytes(70_000))) == 70_000
    assert codec.plain_size(b"\x1f\x8b" + b"\xff" * 59_998) == codec.MAX_PLAIN
    assert codec.plain_size(b"\x1f\x8b" + b"\xff" * 59_999) == 60_001, "too large to be unpacked"
    assert codec.plain_size(b"\x1f\x8b" + bytes(100)) == 102
    assert codec.plain_size(b"\x28\xb5\x2f\xfd") == codec.MAX_PLAIN
