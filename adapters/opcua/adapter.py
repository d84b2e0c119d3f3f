"""The OPC UA adapter: subscribes to nodes; the values of one sample time become one row.

A server that disappears, stalls or violates the protocol ends the iteration; the agent opens a new client and
subscription. asyncua's own reconnect is not used: after a second loss it keeps asking for old messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    Reading,
    Value,
)
from adapters.device_time import DeviceClock
from adapters.opcua.nodes import by_address, by_robotics_names, check_units
from adapters.opcua.options import OpcUaOptions, addresses_of, check, fields_of
from adapters.opcua.publish_response import Item, Published
from adapters.opcua.rows import SampleRows
from adapters.opcua.session import OpcUaConnection, check_identity, new_client, subscribe, translated
from wire.clock import NS_PER_MS, Clock
from wire.messages import Quality, Stream
from wire.task_cancellation import end, run_within

if TYPE_CHECKING:
    from asyncua import Client

log = logging.getLogger("edgebed.adapters.opcua")

_CLOSE_S = 1.0  # what each of the two closing requests may take
_NO_LIMIT_NS = 2**63


class OpcUa(Adapter[OpcUaOptions]):
    """One OPC UA server, one subscription, one signal stream."""

    Options = OpcUaOptions
    kind = "opcua"

    def __init__(self, options: OpcUaOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        check(options)
        self._fields = fields_of(options)
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
        """The option."""
        return self.options.data_age_s

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        options = self.options
        rate = 1000.0 / options.sampling_ms if options.sampling_ms else UNSET
        return {options.stream: Stream(rate_hz=rate, fields=self._fields)}

    async def open(self) -> None:
        """Connect, find the nodes and subscribe."""
        url, timeout_s = self.options.url, self.options.timeout_s
        try:
            with translated(url):
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
            align_ns=int(options.align_ms * NS_PER_MS),
        )
        link = OpcUaConnection(self._connected(), self.counters, options.url)
        deadline = now_s() + options.data_age_s
        try:
            while True:
                due = rows.due_s()
                published = await self._next(link, deadline if due is None else min(deadline, due))
                now = now_s()
                if published is not None and published.items:
                    deadline = now + options.data_age_s
                    self._take(published.items, rows, now)
                rows.expire(now)
                for row in rows.take():
                    yield Reading(stream, row.at_ns, row.values, quality=row.quality)
                if now >= deadline:
                    raise DeviceStalled(
                        f"{options.url} is connected and sent no value for {options.data_age_s:g} s"
                    ).coded("device-silent", seconds=options.data_age_s)
        except AdapterError:
            rows.flush()
            for row in rows.take():
                yield Reading(stream, row.at_ns, row.values, quality=row.quality)
            raise

    # --- values

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
        with translated(self.options.url):
            published: Published = task.result()
        return published

    def _take(self, items: Sequence[Item], rows: SampleRows, now_s: float) -> None:
        names, fields = tuple(self._fields), self._fields
        receipt_ns = self.clock.now_ns()
        by_server = self.options.time == "server"
        shift_ns, last_ns, doubt = self._shift(items, receipt_ns)
        for handle, raw, status, source_ns, server_ns in items:
            if handle >= len(names):
                self.counters["unknown_handle"] += 1
                continue
            name = names[handle]
            value, quality = _judge(raw, status, fields[name].t)
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
        await subscribe(client, options, [(field, nodes[field]) for field in self._fields])


_TYPES: dict[str, tuple[type, ...]] = {
    "f32": (float, int),
    "f64": (float, int),
    "i64": (int,),
    "bool": (bool,),
    "str": (str,),
}


def _judge(raw: object, status: int, declared: str) -> tuple[Value, Quality]:
    """The value in the declared type of its field, and its quality."""
    severity = status >> 30
    if severity >= 2:
        return None, Quality.BAD
    if raw is None or type(raw) not in _TYPES[declared]:
        return None, Quality.UNCERTAIN if raw is None else Quality.WRONG_TYPE
    value: Value = raw  # type: ignore[assignment]  # _TYPES holds nothing else
    return value, Quality.UNCERTAIN if severity else Quality.GOOD
