"""A heart-rate strap on a virtual Bluetooth controller. TCP replaces the USB cable to the controller.

    host (the adapter) -- HCI over TCP -- controller -- air -- controller -- strap (services 180D, 180F, 180A)

Each TCP connection gets its own controller and replaces the connection before it, as a cable that is plugged
into another host. When it ends, the strap loses its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self, cast

from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData, BaseBumbleError
from bumble.device import Device
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.ll import TerminateInd
from bumble.transport.common import AsyncPipeSink, StreamPacketSource

from simulators.devices.running import listening, stopped
from simulators.faults.fault import DeviceFaults
from simulators.plants import patient
from simulators.plants.patient import Patient
from simulators.simulator import Value
from wire.clock import NS_PER_S, Clock

ADDRESS = "F0:F1:F2:F3:F4:F5"
NAME = "Edgebed Strap"
FAULTS = {
    "contact": "the skin contact is lost: no rate, no intervals",
    "wide": "the heart rate is sent with 16 bits",
    "energy": "energy expended is sent",
    "silent": "connected, and nothing is sent",
    "disconnect": "the strap disconnects and does not advertise",
}
_PERIOD_NS = NS_PER_S  # straps notify once a second
_GIVE_UP_NS = 10 * NS_PER_S  # later than this, notifications are skipped
_ADVERTISING_MS = 40.0
_AIR_S, _HOPS = 0.005, 50  # real seconds and turns of the loop for a notification, with a margin
_BEHIND = 1_000_000  # bytes of HCI a host may leave unread
_TIMEOUT = 0x08  # HCI error "connection timeout": the other side is gone
_MANUFACTURER, _MODEL, _SERIAL = "edgebed", "HR-1", "0001"


class HeartStrap:
    """Use: `async with HeartStrap(seed=1) as strap: strap.url` (the adapter's `hci`).

    Heart rate and RR intervals are those of the patient with the same seed. Faults are those of `FAULTS` and
    those of the patient.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        address: str = ADDRESS,
        name: str = NAME,
    ) -> None:
        self.host, self.port = host, port
        self.clock = clock or Clock()
        self.start_ns = 0
        self.skipped = 0  # notifications that a sleeping machine missed
        self.address, self.name = address, name
        self._faults = DeviceFaults(FAULTS, patient.FAULTS, faults)
        self._patient = Patient(seed, self._faults.of_plant)
        self._index = 0
        self._rate, self._battery = _characteristic("2A37", b"", notify=True), _battery()
        self._link = LocalLink()  # type: ignore[no-untyped-call]  # Bumble declares no return type
        self._hosts: set[_HciPort] = set()
        self._server: asyncio.Server | None = None
        self._controller: Controller | None = None
        self._device: Device | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """What the adapter's `hci` takes."""
        return f"tcp-client:{self.host}:{self.port}"

    def truth(self, at_ns: int) -> dict[str, Value]:
        """The heart rate (/min) of this second, the RR interval (ms) of the last beat, and the `rhythm`."""
        at_s = (at_ns - self.start_ns) / NS_PER_S
        if at_s < 0:
            return {}
        beats = [at for at, _ in self._patient.beats(max(0.0, at_s - 10), at_s + 1e-6)]
        return {
            "heart_rate": self._patient.vitals(int(at_s))["heart_rate"],
            "rr": (beats[-1] - beats[-2]) * 1000 if len(beats) > 1 else None,
            "rhythm": self._patient.rhythm(at_s),
        }

    def inject(self, fault: str) -> None:
        """Break something from now on, or from the fault's start where that is later."""
        self._faults.add(fault, float(self._index))
        self._patient.faults = self._faults.of_plant

    def repair(self) -> None:
        """Remove every fault."""
        self._faults.clear()
        self._patient.faults = ()

    async def __aenter__(self) -> Self:
        logging.getLogger("bumble").setLevel(logging.CRITICAL)  # it logs every malformed packet
        with listening("the Bluetooth controller", self.host, self.port):
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _HciPort(self._link, self._hosts), self.host, self.port
            )
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            await self._power_on()
        except BaseException:
            await self._stop()
            raise
        self.start_ns = -(-self.clock.now_ns() // _PERIOD_NS) * _PERIOD_NS
        self._task = asyncio.create_task(self._run(), name="heart-strap")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        try:
            await stopped(task)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        server, self._server = self._server, None
        controller, self._controller = self._controller, None
        self._device = None
        if server is not None:
            server.close()
        for host in list(self._hosts):
            host.cut()
        if controller is not None:
            controller.le_legacy_advertiser.stop()
            for advertising in controller.advertising_sets.values():
                advertising.stop()
        await asyncio.sleep(0)  # the transports close on the next turn of the loop

    # --- the schedule

    async def _run(self) -> None:
        while True:
            due_ns = self.start_ns + (self._index + 1) * _PERIOD_NS  # a second is sent when it is over
            await self.clock.sleep_until(due_ns)
            late_ns = self.clock.now_ns() - due_ns
            if late_ns > _GIVE_UP_NS * self.clock.rate:
                self.skipped += late_ns // _PERIOD_NS
                self._index += late_ns // _PERIOD_NS
            with contextlib.suppress(BaseBumbleError):  # the receiver disconnected meanwhile
                await self._notify(self._index)
            self._index += 1
            await asyncio.sleep(0)

    async def _notify(self, second: int) -> None:
        device = self._device
        if device is None:
            return
        if self._faults.size("disconnect", second):
            await device.stop_advertising()
            for connection in list(device.connections.values()):
                await connection.disconnect()
            return
        if not device.connections and not device.is_advertising:
            await self._advertise(device)
        if not self._faults.size("silent", second):
            await device.notify_subscribers(self._rate, self.measurement(second))
            await self._received()

    async def _received(self) -> None:
        """Wait in real time until the receiver has the notification, where the clock is simulated.

        The service carries no time, so a notification is stamped when it is received. A simulation clock
        waits for this device, so the stamp is the same at any rate.
        """
        if not self.clock.real:
            await asyncio.sleep(_AIR_S)
            for _ in range(_HOPS):
                await asyncio.sleep(0)

    def measurement(self, second: int) -> bytes:
        """The value of 2A37 for the beats of one second."""
        flags, energy = 0x04, b""  # the strap has contact detection
        if self._faults.size("energy", second):
            flags |= 0x08
            energy = struct.pack("<H", min(65_535, second // 10))
        rate, intervals = 0, b""
        if not self._faults.size("contact", second):
            flags |= 0x02
            rate = round(self._patient.vitals(second)["heart_rate"])
            beats = [at for at, _ in self._patient.beats(max(0.0, second - 10.0), second + 1.0)]
            steps = [b - a for a, b in pairwise(beats) if b >= second]
            intervals = b"".join(struct.pack("<H", min(65_535, round(step * 1024))) for step in steps[-7:])
            flags |= 0x10 if intervals else 0
        wide = rate > 255 or bool(self._faults.size("wide", second))
        head = struct.pack("<BH", flags | 0x01, rate) if wide else struct.pack("<BB", flags, rate)
        return head + energy + intervals

    # --- the strap on the air

    async def _power_on(self) -> None:
        self._controller = controller = Controller("strap", link=self._link)
        host = Host(controller, AsyncPipeSink(controller))
        device = Device(name=self.name, address=Address(self.address), host=host)
        information = [("2A29", _MANUFACTURER), ("2A24", _MODEL), ("2A25", _SERIAL)]
        device.add_services(
            [
                Service(UUID("180D"), [self._rate, _characteristic("2A38", b"\x01")]),  # worn on the chest
                Service(UUID("180F"), [self._battery]),
                Service(UUID("180A"), [_characteristic(uuid, text.encode()) for uuid, text in information]),
            ]
        )
        await device.power_on()
        self._device = device
        await self._advertise(device)

    async def _advertise(self, device: Device) -> None:
        data = AdvertisingData(
            [
                (AdvertisingData.FLAGS, b"\x06"),
                (AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS, struct.pack("<H", 0x180D)),
                (AdvertisingData.COMPLETE_LOCAL_NAME, self.name.encode()),
            ]
        )
        await device.start_advertising(
            advertising_data=bytes(data),
            advertising_interval_min=_ADVERTISING_MS,
            advertising_interval_max=_ADVERTISING_MS,
        )


class _HciPort(StreamPacketSource):
    """One host on TCP, and its controller."""

    def __init__(self, link: LocalLink, all_of_them: set[_HciPort]) -> None:
        super().__init__()
        self._link = link
        self._all = all_of_them
        self._tcp: asyncio.Transport | None = None
        self._controller: Controller | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast(asyncio.Transport, transport)  # create_server makes only these
        for other in list(self._all):
            other.cut()  # a controller has one host
        self._controller = Controller("host", host_source=self, host_sink=self, link=self._link)
        self._all.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._all.discard(self)
        controller, self._controller = self._controller, None
        if controller is None:
            return
        for connection in list(controller.le_connections.values()):
            with contextlib.suppress(Exception):  # the strap disconnected at the same moment
                connection.send_ll_control_pdu(TerminateInd(_TIMEOUT))
        controller.host = None
        controller.le_scan_enable = False
        self._link.remove_controller(controller)

    def on_packet(self, packet: bytes) -> None:
        """Send a packet of the controller to the host."""
        if self._tcp is None or self._tcp.is_closing():
            return
        if self._tcp.get_write_buffer_size() > _BEHIND:
            self.cut()
        else:
            self._tcp.write(packet)

    def cut(self) -> None:
        """End the connection now."""
        if self._tcp is not None:
            self._tcp.abort()


def _characteristic(uuid: str, value: bytes, *, notify: bool = False) -> Characteristic[bytes]:
    properties = Characteristic.Properties.NOTIFY if notify else Characteristic.Properties.READ
    return Characteristic(UUID(uuid), properties, Characteristic.READABLE, value)


def _battery() -> Characteristic[bytes]:
    properties = Characteristic.Properties.READ | Characteristic.Properties.NOTIFY
    value: CharacteristicValue[bytes] = CharacteristicValue(read=lambda _: bytes([87]))
    return Characteristic(UUID("2A19"), properties, Characteristic.READABLE, value)
