"""Decoded publications equal what asyncua's encoder wrote; any other bytes raise ValueError."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua.publish_response import Item, decode
from adapters.opcua.session import decode_slowly

V = ua.VariantType
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
times = st.none() | st.integers(0, 4_000_000_000_000_000).map(lambda us: EPOCH + timedelta(microseconds=us))
scalars = st.one_of(
    st.tuples(st.floats(allow_nan=False), st.just(V.Double)),
    st.tuples(st.floats(allow_nan=False, width=32), st.just(V.Float)),
    st.tuples(st.booleans(), st.just(V.Boolean)),
    st.tuples(st.integers(-(2**63), 2**63 - 1), st.just(V.Int64)),
    st.tuples(st.integers(0, 2**32 - 1), st.just(V.UInt32)),
    st.tuples(st.integers(-(2**15), 2**15 - 1), st.just(V.Int16)),
    st.tuples(st.integers(0, 255), st.just(V.Byte)),
)
values = st.tuples(st.integers(0, 2**32 - 1), scalars, st.sampled_from([0, 0x40000000, 0x480]), times, times)


def publication(items: list[Any], sequence: int = 7, *others: Any) -> bytes:
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 42
    response.Parameters.AvailableSequenceNumbers = [5, 6, 7]
    message = response.Parameters.NotificationMessage
    message.SequenceNumber = sequence
    if items:
        change = ua.DataChangeNotification()
        for handle, (value, kind), status, source, server in items:
            item = ua.MonitoredItemNotification()
            item.ClientHandle = handle
            item.Value = ua.DataValue(
                ua.Variant(value, kind),
                ua.StatusCode(status),
                SourceTimestamp=source,
                ServerTimestamp=server,
            )
            change.MonitoredItems.append(item)
        message.NotificationData.append(change)
    message.NotificationData.extend(others)
    body: bytes = struct_to_binary(response)
    return body


def ns(at: datetime | None) -> int | None:
    return None if at is None else (at - EPOCH) // timedelta(microseconds=1) * 1000


@given(st.lists(values, max_size=20))
def test_scalars_are_decoded_as_encoded(items: list[Any]) -> None:
    found = decode(publication(items))
    assert found is not None
    expected: list[Item] = [(h, v, s, ns(a), ns(b)) for h, (v, _), s, a, b in items]
    assert found.items == expected
    assert (found.subscription, found.sequence, found.ended) == (42, 7, 0)


@given(st.lists(values, max_size=5))
def test_both_decoders_agree(items: list[Any]) -> None:
    body = publication(items)
    assert decode(body) == decode_slowly(body)


def test_other_values_are_left_to_the_general_decoder() -> None:
    at = EPOCH + timedelta(days=20_000)
    for value in (("text", V.String), ([1.0, 2.0], V.Double), (b"raw", V.ByteString)):
        body = publication([(1, value, 0, at, None)])
        assert decode(body) is None
        assert decode_slowly(body).items == [(1, value[0], 0, ns(at), None)]


def test_the_end_of_a_subscription_is_seen() -> None:
    end = ua.StatusChangeNotification(Status=ua.StatusCode(ua.StatusCodes.BadTimeout))
    body = publication([], 8, end)
    for found in (decode(body), decode_slowly(body)):
        assert found is not None
        assert found.ended == ua.StatusCodes.BadTimeout


def test_a_keep_alive_carries_nothing() -> None:
    found = decode(publication([]))
    assert found is not None
    assert found.items == []


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(noise: bytes) -> None:
    _read_or_refuse(noise)


@given(st.lists(values, min_size=1, max_size=3), st.data())
def test_a_damaged_publication_is_decoded_or_refused(items: list[Any], data: st.DataObject) -> None:
    body = bytearray(publication(items))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _read_or_refuse(bytes(body))
    _read_or_refuse(bytes(body[: data.draw(st.integers(0, len(body)))]))


def _read_or_refuse(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(body)


def test_a_list_without_end_is_refused_at_once() -> None:
    body = bytearray(publication([(1, (1.0, V.Double), 0, None, None)]))
    at = body.index(b"\x05\x00\x00\x00\x06\x00\x00\x00") - 4  # the sequence numbers
    body[at : at + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="entries"):
        decode(bytes(body))
