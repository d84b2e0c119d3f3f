"""The OPC UA adapter: subscribes to nodes; the values of one sample time become one row.

A server that disappears, stalls or violates the protocol ends the iteration; the agent opens a new client and
subscription. asyncua's own reconnect is not used: after a second loss it keeps asking for old messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    Reading,
)
from adapters.device_time import DeviceClock
from adapters.opcua.nodes import by_address, by_robotics_names, check_units, enumerations
from adapters.opcua.options import (
    OpcUaOptions,
    addresses_of,
    age_s,
    check,
    elements_of,
    fields_of,
    value_age_s,
)
from adapters.opcua.publish_response import Item, Published
from adapters.opcua.rows import SampleRows, Stamps
from adapters.opcua.session import OpcUaConnection, check_identity, new_client, subscribe, translated
from adapters.opcua.values import FieldReader
from wire.clock import NS_PER_MS, Clock
from wire.messages import Quality, Stream
from wire.task_cancellation import end, run_within

if TYPE_CHECKING:
    from asyncua import Client

log = logging.getLogger("edgebed.adapters.opcua")

_CLOSE_S = 1.0  # what each of the two closing requests may take
_MISSED = 10  # rows without a field
_NO_LIMIT_NS = 2**63


class OpcUa(Adapter[OpcUaOptions]):
    """One OPC UA server, one subscription, one signal stream."""

    Options = OpcUaOptions
    kind = "opcua"

    def __init__(self, options: OpcUaOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        check(options)
        self._fields = fields_of(options)
        elements = elements_of(options)
        self._readers = {
            name: FieldReader(name, field.t, elements.get(name)) for name, field in self._fields.items()
        }
        self._client: Client | None = None
        self._publishing: asyncio.Task[Any] | None = None
        self._time = DeviceClock(
            options.url, log, self.counters, max_past_s=options.max_skew_s, max_ahead_s=options.max_skew_s
        )
        self._receipt_shift_ns: int | None = (
            None  # from the device's times to the agent's clock, with `time: receipt`
        )

    @property
    def period_s(self) -> float:
        """The longer of the two intervals."""
        return max(self.options.sampling_ms, self.options.publishing_ms) / 1000

    @property
    def silence_s(self) -> float:
        """By the options: until a still value, or a server without a sign of life, counts as stalled."""
        return value_age_s(self.options) or age_s(self.options)

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        options = self.options
        rate = 1000.0 / options.sampling_ms if options.sampling_ms else UNSET
        return {options.stream: Stream(rate_hz=rate, fields=self._fields)}

    async def open(self) -> None:
        """Connect, find the nodes and subscribe."""
        url, timeout_s = self.options.url, self.options.timeout_s
        try:
            with translated(self.options):
                await run_within(self._connect(), timeout_s, name="opcua-connect")
        except TimeoutError as error:
            await self.close()
            raise DeviceUnreachable(f"{url} gives no answer within {timeout_s:g} s").at(url, error) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the session and the channel, for two seconds at most, then drop the connection."""
        client, self._client = self._client, None
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.cancel()
        if client is None:
            return
        protocol = client.uaclient.protocol
        if protocol is not None:
            protocol.timeout = _CLOSE_S
        try:
            with contextlib.suppress(TimeoutError):
                await run_within(client.disconnect(), 2 * _CLOSE_S, name="opcua-disconnect")
            if publishing is not None:
                await end([publishing])
        finally:
            if protocol is not None and protocol.transport is not None:
                protocol.transport.abort()  # unsent bytes on a dead line would keep the socket open

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield rows in order of time."""
        options = self.options
        now_s, stream = self.clock.flowing_s, options.stream
        rows = SampleRows(
            tuple(self._fields),
            self.counters,
            wait_s=options.row_wait_s,
            hold=options.hold,
            align_ns=0 if options.align_ms is UNSET else int(options.align_ms * NS_PER_MS),
            stamps=self._stamps(),
        )
        link = OpcUaConnection(self._connected(), self.counters, options.url)
        alive_s, value_s = age_s(options), value_age_s(options) or math.inf
        alive_by = now_s() + alive_s
        value_by = now_s() + value_s
        try:
            while True:
                due = rows.due_s()
                until = min(alive_by, value_by)
                published = await self._next(link, until if due is None else min(until, due))
                now = now_s()
                if published is not None:
                    alive_by = now + alive_s
                    self.is_alive()  # a publication without values means that no value has changed
                if published is not None and published.items:
                    value_by = now + value_s
                    self._take(published.items, rows, now)
                rows.expire(now)
                for row in rows.take():
                    yield Reading(stream, row.at_ns, row.values, quality=row.quality)
                if not options.hold:
                    self._note_missed(rows)
                if now >= min(alive_by, value_by):
                    what, seconds = ("value", value_s) if now >= value_by else ("sign of life", alive_s)
                    raise DeviceStalled(
                        f"{options.url} is connected and sent no {what} for {seconds:g} s"
                    ).coded("device-silent", seconds=seconds)
        except AdapterError:
            rows.flush()
            for row in rows.take():
                yield Reading(stream, row.at_ns, row.values, quality=row.quality)
            raise

    # --- values

    def _stamps(self) -> Stamps | None:
        options = self.options
        if options.align_ms is not UNSET or len(self._fields) == 1:
            return None
        most_ms = max(options.publishing_ms, options.sampling_ms)
        return Stamps(len(self._fields), int(most_ms * NS_PER_MS))

    def _note_missed(self, rows: SampleRows) -> None:
        """Record the fields that the server does not repeat: their rows have null."""
        for name, count in rows.missed.items():
            if count >= _MISSED and name not in self.unread:
                self.not_read(
                    f"{name}: the server sent no value for {count} rows; `hold: true` repeats the last one",
                    name,
                )

    async def _next(self, link: OpcUaConnection, until_s: float) -> Published | None:
        """The next publication, None where none came by `until_s`: the request then stays open."""
        if self._publishing is None:
            self._publishing = asyncio.create_task(link.publish(), name="opcua-publish")
        with contextlib.suppress(TimeoutError):
            async with self.clock.timeout_at(until_s):
                await asyncio.wait({self._publishing})
        if not self._publishing.done():
            return None
        task, self._publishing = self._publishing, None
        with translated(self.options):
            published: Published = task.result()
        return published

    def _take(self, items: Sequence[Item], rows: SampleRows, now_s: float) -> None:
        names, readers = tuple(self._fields), self._readers
        receipt_ns = self.clock.now_ns()
        by_server = self.options.time == "server"
        shift_ns, last_ns, doubt = self._shift(items, receipt_ns)
        for handle, raw, status, source_ns, server_ns in items:
            if handle >= len(names):
                self.counters["unknown_handle"] += 1
                continue
            name = names[handle]
            value, quality, why = readers[name].read(raw, status)
            if why:
                self.not_read(why, name)
            elif name in self.unread:
                self.was_read(name)
            if status & 0x0480 == 0x0480:  # InfoType DataValue with Overflow: earlier values were lost
                self.counters["overflow"] += 1
            at_ns = server_ns if by_server or source_ns is None else source_ns
            if at_ns is None or at_ns > last_ns:  # a time from the future would make all later rows late
                self.counters["no_time" if at_ns is None else "clock_not_believed"] += 1
                at_ns, quality = receipt_ns - shift_ns, quality.worse(Quality.UNCERTAIN)
            if value is None:
                self.may_be_null.discard(name)
            else:  # a value that does not change is sent once; the rows of the others have null for it
                self.may_be_null.add(name)
            rows.add(name, value, quality.worse(doubt), at_ns + shift_ns, now_s)

    def _shift(self, items: Sequence[Item], receipt_ns: int) -> tuple[int, int, Quality]:
        """What to add to the device's times, the last plausible time, and the quality of the times."""
        by_server = self.options.time == "server"
        times = [at for *_, source, server in items if (at := server if by_server else source) is not None]
        if self.options.time == "receipt":
            if self._receipt_shift_ns is None and times:
                self._receipt_shift_ns = receipt_ns - max(times)
            return self._receipt_shift_ns or 0, _NO_LIMIT_NS, Quality.GOOD
        self._time.judge(times, receipt_ns)
        self.times_are(self._time.ahead)
        return self._time.shift_ns, self._time.limits(receipt_ns)[1], self._time.quality

    def _connected(self) -> Client:
        if self._client is None:
            raise DeviceUnreachable(f"{self.options.url} is not open")
        return self._client

    # --- connecting

    async def _connect(self) -> None:
        options = self.options
        client = self._client = await new_client(options)
        await client.connect(auto_reconnect=False)
        namespaces = await client.get_namespace_array()
        await check_identity(client, options.server_uri)
        if options.profile == "opc40010":
            nodes = await by_robotics_names(
                client,
                namespaces,
                device=options.device,
                arm=options.arm,
                axes=options.axes,
                torque=options.torque,
            )
        else:
            nodes = await by_address(client, addresses_of(options), namespaces)
        await check_units(client, nodes, self._fields)
        wanted = {name: nodes[name] for name, field in self._fields.items() if field.t == "str"}
        for name, words in (await enumerations(client, wanted)).items():
            self._readers[name].names = words
        arrays = await subscribe(client, options, [(field, nodes[field]) for field in self._fields])
        for name, index in arrays.items():
            self._readers[name].index = index
