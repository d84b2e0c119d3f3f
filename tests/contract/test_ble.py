"""The BLE adapter against the simulated strap: HCI over TCP, through a line with all faults."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, ProtocolViolation
from adapters.ble.adapter import Ble
from adapters.ble.options import BleOptions, Characteristic, LayoutPart
from adapters.testing import AdapterContract, Rig, read, until
from simulators.devices.ble import ADDRESS, NAME, HeartStrap
from simulators.faults import FaultProxy
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality
from wire.simulation_clock import SimulationClock

SEED = 4


def options(port: int, **more: Any) -> BleOptions:
    near: dict[str, Any] = {"hci": f"tcp-client:127.0.0.1:{port}", "silence_s": 2.0, "timeout_s": 5.0}
    return BleOptions(**near | ({} if "address" in more else {"name": NAME}) | more)


def _with(uuid: str, layout: str, fields: list[str], stream: str = "more") -> dict[str, Any]:
    value = {"uuid": uuid, "layout": layout, "fields": {name: {} for name in fields}}
    return {"hci": "usb:0", "name": "H10", "characteristics": {stream: value}}


class TestBle(AdapterContract):
    adapter = Ble
    good_options: ClassVar = {"hci": "usb:0", "name": "H10"}
    bad_options: ClassVar = [
        ({"hci": "bluetooth", "name": "H10"}, "hci-socket:..."),
        ({"hci": "usb:", "name": "H10"}, "usb:..."),
        ({"hci": "tcp-client:x", "name": "H10"}, "host:port"),
        ({"hci": "usb:0"}, "others may be nearby"),
        ({"hci": "usb:0", "name": "H10", "address": ADDRESS}, "others may be nearby"),
        ({"hci": "usb:0", "address": "F0F1"}, "F0:F1:F2"),
        ({"hci": "usb:0", "name": "H10", "heart": False}, "characteristics"),
        (_with("2A1C", "<B", ["a", "b"]), "2 fields"),
        (_with("2A1C", "<s", ["a"]), "layout"),
        (_with("2A1C", "99999999B", ["a"]), "512 bytes"),
        (_with("2A", "B", ["a"]), "uuid"),
        (_with("2a37", "B", ["a"]), "already read"),
        (_with("2A1C", "B", ["a"], stream="heart"), "already"),
    ]

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        async with HeartStrap(seed=SEED, clock=Clock(20)) as strap, FaultProxy(strap.port) as link:
            yield Rig(lambda: Ble(options(link.port), strap.clock), link)


@pytest.fixture
async def clock() -> AsyncIterator[SimulationClock]:
    """Twenty times as fast as real time, but slow enough for all tasks."""
    async with SimulationClock(Clock().now_ns()) as clock:
        clock.pace = 20.0
        yield clock


async def test_every_beat_arrives_once_and_as_the_heart_beat(clock: SimulationClock) -> None:
    async with HeartStrap(seed=SEED, clock=clock) as strap, Ble(options(strap.port), clock) as adapter:
        await read(adapter, 5, stream="heart")  # the first rows calibrate the delay of the strap
        rows = await read(adapter, 55, stream="heart")
        assert adapter.counters == {}
        for row in rows:
            assert row.quality is Quality.GOOD
            assert row.values["rr"] == pytest.approx(strap.truth(row.at_ns)["rr"], abs=1000 / 1024)
            assert row.values["heart_rate"] == pytest.approx(strap.truth(row.at_ns)["heart_rate"], abs=2)
        beats = [at for at, _ in strap._patient.beats(0, 200)]  # the strap has no public access to its plant
    steps = [round((b - a) * 1024) * 1000 / 1024 for a, b in pairwise(beats)]
    sent = [float(row.values["rr"] or 0) for row in rows]
    first = steps.index(sent[0])
    assert sent == steps[first : first + len(sent)], "no beat is missing, none comes twice"


async def test_doubtful_values_and_optional_parts() -> None:
    clock = Clock(20)
    async with (
        HeartStrap(seed=SEED, clock=clock) as strap,
        Ble(options(strap.port, address=ADDRESS.lower()), clock) as adapter,
    ):
        (battery,) = await read(adapter, 1, stream="battery")
        assert battery.values == {"level": 87}
        row = await until(adapter, lambda row: row.values["rr"] is not None, stream="heart")
        assert row.values["energy"] is None
        strap.inject("wide")
        strap.inject("energy")
        row = await until(adapter, lambda row: row.values["energy"] is not None, stream="heart")
        assert 40 < float(row.values["heart_rate"] or 0) < 120
        strap.inject("contact")
        row = await until(adapter, lambda row: row.quality is not Quality.GOOD, stream="heart")
        assert row.quality is Quality.UNCERTAIN
        assert row.values["rr"] is None
        strap.repair()
        await until(adapter, lambda row: row.quality is Quality.GOOD, stream="heart")
        strap.inject("silent")
        with pytest.raises(DeviceStalled, match="no value"):
            await read(adapter, 100_000, stream="heart")


async def test_a_strap_that_hangs_up_is_an_error_and_found_again() -> None:
    clock = Clock(20)
    async with HeartStrap(seed=SEED, clock=clock) as strap:
        for _ in range(3):
            async with Ble(options(strap.port), clock) as adapter:
                await read(adapter, 3, stream="heart")
                strap.inject("disconnect")
                with pytest.raises(DeviceUnreachable, match="hung up"):
                    await read(adapter, 100_000, stream="heart")
            with pytest.raises(DeviceUnreachable, match="was not found within"):
                await Ble(options(strap.port, timeout_s=0.4), clock).open()
            strap.repair()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"name": "Another"}, DeviceUnreachable, "1 others were"),
        ({"address": "00:11:22:33:44:55"}, DeviceUnreachable, "1 others were"),
        ({"model": "H10"}, ProtocolViolation, "HR-1"),
        ({"manufacturer": "edgebed", "model": "HR-1", "serial_number": "0002"}, ProtocolViolation, "0001"),
        (_with("2A1C", "B", ["a"]), ProtocolViolation, "2A1C"),
        (_with("2A29", "B", ["a"]), ProtocolViolation, "cannot notify"),
    ],
)
async def test_another_device_than_declared_is_an_error(
    wrong: dict[str, Any], error: type[AdapterError], message: str
) -> None:
    more = {name: value for name, value in wrong.items() if name != "hci"}
    if "characteristics" in more:
        more = {"characteristics": {"more": Characteristic(**_parts(more["characteristics"]["more"]))}}
    async with HeartStrap(seed=SEED, clock=Clock(20)) as strap:
        with pytest.raises(error, match=message):
            await Ble(options(strap.port, timeout_s=1.5, **more), Clock()).open()


def _parts(value: dict[str, Any]) -> dict[str, Any]:
    return value | {"fields": {name: LayoutPart() for name in value["fields"]}}


async def test_any_notified_value_can_be_declared() -> None:
    fields = {"flags": LayoutPart(t="i64"), "rate": LayoutPart(unit="/min", scale=0.5, offset=1.0)}
    own = {"raw": Characteristic(uuid="2A37", layout="BB", fields=fields)}
    clock = Clock(20)
    async with (
        HeartStrap(seed=SEED, clock=clock) as strap,
        Ble(options(strap.port, heart=False, characteristics=own), clock) as adapter,
    ):
        rows = await read(adapter, 3, stream="raw")
    for row in rows:
        assert row.values["flags"] in (0x06, 0x16)
        assert 25 < float(row.values["rate"] or 0) < 60


async def test_values_that_do_not_fit_their_layout_are_described() -> None:
    own = {"raw": Characteristic(uuid="2A37", layout="dd", fields={"a": LayoutPart(), "b": LayoutPart()})}
    clock = Clock(20)
    async with (
        HeartStrap(seed=SEED, clock=clock) as strap,
        Ble(options(strap.port, heart=False, characteristics=own), clock) as adapter,
    ):
        with pytest.raises(ProtocolViolation, match="20 malformed values in a row: the layout needs a"):
            await read(adapter, 1, stream="raw")
    what = adapter.unread["raw"].what
    assert re.fullmatch(
        r"`raw` sends [01]6( [0-9A-F]{2})+: the layout needs a buffer of 16 bytes, but \d came", what
    )


async def test_a_missing_controller_is_an_error() -> None:
    for hci in ("serial:/nowhere/ttyACM0", "hci-socket:97", "tcp-client:127.0.0.1:1"):
        with pytest.raises(DeviceUnreachable, match=r"cannot be opened|needs"):
            await Ble(BleOptions(hci=hci, name="x", timeout_s=3), Clock()).open()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n" * 50, bytes(range(256)) * 40, b""])
async def test_any_wrong_answer_is_one_error_soon(answer: bytes) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()
        gone.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(AdapterError):
            await Ble(options(server.sockets[0].getsockname()[1], timeout_s=1.0), Clock()).open()
        await gone.wait()


async def test_data_come_back_after_every_kind_of_loss() -> None:
    clock = Clock(20)
    async with HeartStrap(seed=SEED, clock=clock) as strap, FaultProxy(strap.port) as link:
        faults: list[Callable[[], None]] = [
            lambda: link.cut(reset=True),
            lambda: link.cut(reset=False),
            link.black_hole,
        ]
        for fault in faults:
            async with Ble(options(link.port), clock) as adapter:
                rows = await read(adapter, 3, stream="heart")
                assert abs(rows[-1].at_ns - clock.now_ns()) < 60 * NS_PER_S
                fault()
                with pytest.raises(AdapterError):
                    await read(adapter, 100_000, stream="heart")
            link.heal()
