"""ISO 15765-2 against another implementation, recorded answers, and frames that violate it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import can
import isotp
import pytest

from adapters.base import DeviceUnreachable
from adapters.can.frames import CanBus
from adapters.can.options import BusOptions
from adapters.obd.isotp import BrokenAnswer, IsoTp, NoAnswer
from adapters.obd.pids import PIDS
from wire.clock import Clock

REQUEST, ANSWER = 0x7E0, 0x7E8


@pytest.fixture
def ecu(request: pytest.FixtureRequest) -> Iterator[can.BusABC]:
    """The other end of a virtual bus."""
    with can.Bus(interface="virtual", channel=request.node.name, ignore_config=True) as bus:
        yield bus


@pytest.fixture
async def tester(ecu: can.BusABC) -> AsyncIterator[IsoTp]:
    options = BusOptions(interface="virtual", channel=ecu.channel_id)  # type: ignore[attr-defined]
    bus = CanBus(options, Clock(), Counter(), wanted=[(ANSWER, False)], sends=True)
    await bus.open()
    yield IsoTp(bus, request_id=REQUEST, flow_id=REQUEST, answer_id=ANSWER, extended=False)
    await bus.close()


def soon(seconds: float = 2.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def put(ecu: can.BusABC, *frames: str) -> None:
    for frame in frames:
        data = bytes.fromhex(frame)
        ecu.send(can.Message(arbitration_id=ANSWER, data=data, is_extended_id=False))


async def taken(ecu: can.BusABC) -> bytes:
    message = await asyncio.to_thread(ecu.recv, 2.0)
    assert message is not None
    assert message.arbitration_id == REQUEST
    return bytes(message.data)


@contextlib.contextmanager
def peer(ecu: can.BusABC, **parameters: int) -> Iterator[isotp.CanStack]:
    """can-isotp as the control unit."""
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, rxid=REQUEST, txid=ANSWER)
    stack = isotp.CanStack(ecu, address=address, params={"tx_padding": 0xAA, **parameters})
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()


@pytest.mark.parametrize("length", [1, 7, 8, 13, 14, 20, 127, 4_095])
async def test_answers_of_another_implementation_arrive_whole(
    ecu: can.BusABC, tester: IsoTp, length: int
) -> None:
    answer = bytes(n * 7 % 256 for n in range(length))
    with peer(ecu) as stack:
        await tester.send(b"\x09\x02")
        assert await asyncio.to_thread(stack.recv, True, 2.0) == b"\x09\x02"
        stack.send(answer)
        assert await tester.receive(soon(5.0)) == answer


async def test_the_vin_of_the_elm327_data_sheet(ecu: can.BusABC, tester: IsoTp) -> None:
    await tester.send(b"\x09\x02")
    assert await taken(ecu) == bytes.fromhex("020902cccccccccc")
    put(ecu, "1014490201314434")
    receiving = asyncio.create_task(tester.receive(soon()), name="receiving")
    assert await taken(ecu) == bytes.fromhex("300000cccccccccc"), "flow control: all, at once"
    put(ecu, "2147503030523535", "2242313233343536")
    assert await receiving == bytes.fromhex("490201") + b"1D4GP00R55B123456"


@pytest.mark.parametrize(
    ("frame", "name", "value"),
    [
        ("0341057b00000000", "coolant_temperature", 83.0),  # the ELM327 data sheet's examples
        ("04410c1af8000000", "engine_speed", 1726.0),
        ("03410d3c00000000", "vehicle_speed", 60.0),
        ("03415bff00000000", "hybrid_battery", 100.0),
        ("0441423679000000", "control_voltage", 13.945),
        ("0641a6000f4240aa", "odometer", 100_000.0),
    ],
)
async def test_answers_of_one_frame(
    ecu: can.BusABC, tester: IsoTp, frame: str, name: str, value: float
) -> None:
    put(ecu, frame)
    answer = await tester.receive(soon())
    pid = PIDS[name]
    assert answer[:2] == bytes([0x41, pid.number])
    assert len(answer) == 2 + pid.size
    assert pid.value(int.from_bytes(answer[2:], "big")) == pytest.approx(value)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (["00"], "announces 0"),
        (["0841"], "announces 8"),
        (["0541"], "announces 5"),
        (["1014"], "a first frame of 2 bytes"),
        (["1007490201314434"], "announces 7 bytes"),
        (["1000490201314434"], "announces 0 bytes"),
        (["1014490201314434", "2247503030523535"], "22 where consecutive frame 1 should be"),
        (["1014490201314434", "2147503030523535", "2147503030523535"], "21 where consecutive frame 2"),
        (["1014490201314434", "21475030"], "4 bytes in the middle"),
        (["1014490201314434", "1014490201314434"], "10 where consecutive frame 1"),
    ],
)
async def test_answers_that_are_broken(ecu: can.BusABC, tester: IsoTp, frames: list[str], said: str) -> None:
    put(ecu, *frames)
    with pytest.raises(BrokenAnswer, match=said):
        await tester.receive(soon())


async def test_an_answer_that_stops_halfway_is_given_up(
    ecu: can.BusABC, tester: IsoTp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.obd.isotp.N_CR_S", 0.1)
    put(ecu, "1014490201314434", "2147503030523535")
    with pytest.raises(BrokenAnswer, match="after 13 of 20 bytes"):
        await tester.receive(soon())


async def test_silence_and_other_frames_are_not_answers(ecu: can.BusABC, tester: IsoTp) -> None:
    put(ecu, "2147503030523535", "3000000000000000", "f000000000000000", "")
    with pytest.raises(NoAnswer, match="0x7E8"):
        await tester.receive(soon(0.1))
    put(ecu, "03410d1100000000")
    await asyncio.sleep(0.1)
    assert await tester.send(b"\x01\x0c") == 1, "a late answer is discarded and counted"


async def test_a_bus_that_ends_is_reported(ecu: can.BusABC, tester: IsoTp) -> None:
    await tester._bus.close()
    with pytest.raises(DeviceUnreachable):
        await tester.send(b"\x01\x0c")
