"""One BLE device through one Bluetooth controller: finds it, connects, subscribes, and reports its loss.

When a device disconnects, Bumble cancels the calls that wait for it. So its calls run in a task of their
own: otherwise the caller could not distinguish this from its own cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bumble.core import UUID, AdvertisingData, BaseBumbleError
from bumble.device import Advertisement, Connection, Device, Peer
from bumble.gatt_client import CharacteristicProxy
from bumble.hci import Address, HCI_ErrorCode
from bumble.transport import open_transport
from bumble.transport.common import Transport

from adapters.base import AdapterError, DeviceUnreachable, ProtocolViolation, why_no_connection
from wire.clock import Clock
from wire.task_cancellation import end, run_within

DEVICE_INFORMATION = {"manufacturer": "2A29", "model": "2A24", "serial_number": "2A25"}
_INFORMATION_SERVICE = UUID("180A")
_CLOSE_S = 0.5  # the longest time for a regular disconnection
_MTU = 247  # one packet of Bluetooth 4.2 and later
_MAX_HEARD = 1_000  # devices counted for an error text

OnValue = Callable[[str, bytes], None]  # UUID and value


@dataclass(frozen=True, slots=True)
class WantedDevice:
    """The device to find, and what it must have."""

    address: str = ""
    name: str = ""
    identity: Mapping[str, str] = field(default_factory=dict)  # of DEVICE_INFORMATION; empty = anything
    notify: tuple[str, ...] = ()  # characteristics that it must notify
    optional: tuple[str, ...] = ()  # characteristics to read once, and to subscribe to if possible
    long_values: bool = False

    def __str__(self) -> str:
        return f"device {self.address or repr(self.name)}"


class BleConnection:
    """A connection to a device. Use `await open(...)`, then wait for `lost`, then `await close()`."""

    def __init__(self, hci: str, wanted: WantedDevice, clock: Clock, on_value: OnValue) -> None:
        self._hci = hci
        self._wanted = wanted
        self._clock = clock
        self._on_value = on_value
        self._doing = "opening the controller"
        self._heard: set[Address] = set()
        self._transport: Transport | None = None
        self._connection: Connection | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def open(self, within_s: float) -> None:
        """Find the device, connect and subscribe.

        Raises:
            DeviceUnreachable: no controller, the device was not found, or it disconnected.
            ProtocolViolation: it is another device than declared.
        """
        logging.getLogger("bumble").setLevel(logging.CRITICAL)  # it logs every malformed packet
        task = asyncio.create_task(self._connect(), name="ble-connect")
        try:
            ends: set[asyncio.Future[Any]] = {task, self.lost}
            # by the flowing time: a paused simulation does not use up the time to connect
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout_at(self._clock.flowing_s() + within_s):
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered = task.done()
            await end([task], 0.5, again_s=0.1)
        if not answered or task.cancelled():
            raise DeviceUnreachable(self.lost.result() if self.lost.done() else self._why(within_s))
        error = task.exception()
        if isinstance(error, AdapterError):
            raise error
        if error is not None:
            raise self._translated(error) from error

    async def close(self) -> None:
        """Disconnect within a short time, then release the controller; never raises."""
        connection, self._connection = self._connection, None
        transport, self._transport = self._transport, None
        if connection is not None and not self.lost.done():
            await _try(connection.disconnect(), _CLOSE_S)
        if transport is not None:
            tcp = getattr(transport.sink, "transport", None)
            if isinstance(tcp, asyncio.WriteTransport):
                tcp.abort()  # bytes that a dead connection never took would keep it open
            await _try(transport.close(), 2 * _CLOSE_S)
        if not self.lost.done():
            self.lost.cancel()

    # --- steps

    async def _connect(self) -> None:
        self._transport = transport = await open_transport(self._hci)
        terminated: asyncio.Future[None] | None = getattr(transport.source, "terminated", None)
        if terminated is not None:
            terminated.add_done_callback(lambda _: self._lose(f"the controller {self._hci} was disconnected"))
        self._doing = "starting the controller"
        device = Device.with_hci(
            "edgebed", Address.generate_static_address(), transport.source, transport.sink
        )
        await device.power_on()
        self._doing = "looking for the device"
        address = await self._find(device)
        self._doing = "connecting"
        self._connection = connection = await device.connect(address, timeout=None)
        connection.on("disconnection", self._hung_up)
        self._doing = "reading its services"
        peer = Peer(connection)
        if self._wanted.long_values:
            await peer.request_mtu(_MTU)
        await peer.discover_services()
        await self._check_identity(peer)
        await self._subscribe(peer)

    async def _find(self, device: Device) -> Address:
        found: asyncio.Future[Address] = asyncio.get_running_loop().create_future()

        def heard(advertisement: Advertisement) -> None:
            if len(self._heard) < _MAX_HEARD:
                self._heard.add(advertisement.address)
            if not found.done() and self._is_it(advertisement):
                found.set_result(advertisement.address)

        device.on("advertisement", heard)
        await device.start_scanning()
        address = await found
        device.remove_listener("advertisement", heard)
        await device.stop_scanning()
        return address

    def _is_it(self, advertisement: Advertisement) -> bool:
        wanted = self._wanted
        if wanted.address:
            return advertisement.address.to_string(False).upper() == wanted.address.upper()
        names = (AdvertisingData.COMPLETE_LOCAL_NAME, AdvertisingData.SHORTENED_LOCAL_NAME)
        return any(wanted.name.encode() == advertisement.data.get(kind, raw=True) for kind in names)

    async def _check_identity(self, peer: Peer) -> None:
        expected = {what: text for what, text in self._wanted.identity.items() if text}
        if not expected:
            return
        services = peer.get_services_by_uuid(_INFORMATION_SERVICE)
        if not services:
            raise ProtocolViolation(
                f"{self._wanted} has no Device Information service (180A): its identity cannot be checked"
            )
        await services[0].discover_characteristics()
        for what, text in expected.items():
            found = services[0].get_characteristics_by_uuid(UUID(DEVICE_INFORMATION[what]))
            sent = bytes(await found[0].read_value()) if found else b""
            if sent.rstrip(b"\0").decode("utf-8", "replace").strip() != text:
                raise ProtocolViolation(
                    f"{self._wanted} reports {what} {sent[:40]!r}, but the config has {text!r}"
                )

    async def _subscribe(self, peer: Peer) -> None:
        for uuid in (*self._wanted.notify, *self._wanted.optional):
            found = await peer.discover_characteristics([UUID(uuid)])
            required = uuid in self._wanted.notify
            if not found and required:
                raise ProtocolViolation(f"{self._wanted} has no characteristic {uuid}: it is another device")
            for characteristic in found[:1]:
                if not required:
                    self._on_value(uuid, bytes(await characteristic.read_value()))
                await self._listen(characteristic, uuid, required)

    async def _listen(self, characteristic: CharacteristicProxy[bytes], uuid: str, required: bool) -> None:
        on_value = self._on_value
        able = characteristic.properties & (
            characteristic.properties.NOTIFY | characteristic.properties.INDICATE
        )
        if able:
            await characteristic.subscribe(lambda value: on_value(uuid, bytes(value)))
        elif required:
            raise ProtocolViolation(
                f"{self._wanted}: characteristic {uuid} cannot notify: it is another device"
            )

    # --- the end of the connection

    def _hung_up(self, reason: int) -> None:
        if reason:
            self._lose(f"{self._wanted} hung up: {HCI_ErrorCode(reason).name}")
        else:  # Bumble's code for a lost controller
            self._lose(f"the controller {self._hci} was disconnected")

    def _lose(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)

    def _why(self, within_s: float) -> str:
        if self._doing == "looking for the device":
            return (
                f"{self._wanted} was not found within {within_s:g} s, but {len(self._heard)} others were:"
                " is it worn and near, or connected to a phone?"
            )
        return f"{self._hci}: no answer within {within_s:g} s while {self._doing}"

    def _translated(self, error: BaseException) -> AdapterError:
        if isinstance(error, ModuleNotFoundError):
            return DeviceUnreachable(
                f"{self._hci} needs {error.name}, which is missing: pip install {error.name}"
            )
        if isinstance(error, OSError) or self._transport is None:
            return DeviceUnreachable(
                f"the controller {self._hci} cannot be opened: {why_no_connection(error)}"
            ).at(str(self._hci), error)
        if isinstance(error, BaseBumbleError):
            what = str(error) or type(error).__name__
            return DeviceUnreachable(f"{self._hci}: failed while {self._doing}: {what}")
        # bytes that are not HCI or ATT make the library raise errors of any kind
        return ProtocolViolation(f"{self._hci} violates Bluetooth: {type(error).__name__}: {error}")


async def _try(work: Awaitable[Any], seconds: float) -> None:
    """Wait for the work; ignore its failure."""

    async def run() -> None:
        with contextlib.suppress(Exception):
            await work

    with contextlib.suppress(TimeoutError):
        await run_within(run(), seconds, name="ble-close")
