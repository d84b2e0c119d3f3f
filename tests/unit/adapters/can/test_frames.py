"""The thread between python-can and the loop counts what it drops, and is left behind where it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Iterator

import can
import pytest

from adapters.base import DeviceUnreachable, OptionsError, ProtocolViolation
from adapters.can.frames import CanBus
from adapters.can.options import BusOptions
from adapters.can.slcan import SerialCan
from wire.clock import Clock

WANTED = [(0x100, False), (0x18FF50E5, True)]


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[can.BusABC]:
    with can.Bus(interface="virtual", channel=request.node.name, ignore_config=True) as bus:
        yield bus


def listening(peer: can.BusABC, counters: Counter[str], **more: int) -> CanBus:
    options = BusOptions(interface="virtual", channel=peer.channel_id, **more)  # type: ignore[attr-defined, arg-type]
    return CanBus(options, Clock(), counters, wanted=WANTED, sends=False)


def message(can_id: int = 0x100, data: bytes = b"\x01", **more: bool) -> can.Message:
    return can.Message(arbitration_id=can_id, data=data, **({"is_extended_id": False} | more))


def soon(seconds: float = 2.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_only_wanted_frames_arrive_and_the_others_are_counted(peer: can.BusABC) -> None:
    counters: Counter[str] = Counter()
    bus = listening(peer, counters)
    await bus.open()
    for sent in (
        message(0x7FF),
        message(0x18FF50E5 & 0x7FF),
        message(is_remote_frame=True, data=b""),
        message(is_error_frame=True),
        message(0x18FF50E5, b"\x02", is_extended_id=True),
        message(0x100, bytes(64), is_fd=True),
    ):
        peer.send(sent)
    seen = []
    while len(seen) < 2:
        seen += await bus.frames(soon())
    assert [(one.id, one.extended, len(one.data)) for one in seen] == [
        (0x18FF50E5, True, 1),
        (0x100, False, 64),
    ]
    assert counters == {"remote_frames": 1, "error_frames": 1}
    listened = asyncio.create_task(bus.foreign(0.5), name="listening")
    for _ in range(5):
        await asyncio.sleep(0.1)
        peer.send(message(0x7FF))
    assert await listened == ["0x7FF"]
    await bus.close()


async def test_a_slow_reader_loses_the_oldest_and_they_are_counted(peer: can.BusABC) -> None:
    counters: Counter[str] = Counter()
    bus = listening(peer, counters, queue=10)
    await bus.open()
    for number in range(25):
        peer.send(message(data=bytes([number])))
    async with asyncio.timeout(60):
        while counters.get("dropped", 0) < 15:
            await bus.frames(soon(0.01), peek=True)
    assert [one.data[0] for one in await bus.frames(soon())] == list(range(15, 25))
    assert counters == {"dropped": 15}
    await bus.close()


async def test_what_is_dropped_after_the_last_reading_is_counted_at_the_close(peer: can.BusABC) -> None:
    counters: Counter[str] = Counter()
    bus = listening(peer, counters, queue=10)
    await bus.open()
    for number in range(25):
        peer.send(message(data=bytes([number])))
    async with asyncio.timeout(60):
        while bus._thread_counters["dropped"] < 15:  # noqa: ASYNC110 - the thread signals only the first frame
            await asyncio.sleep(0.01)
    await bus.close()
    assert counters == {"dropped": 15}


async def test_a_line_that_never_opens_is_left_behind() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        channel = f"socket://127.0.0.1:{full.getsockname()[1]}"
        options = BusOptions(interface="slcan", channel=channel, timeout_s=0.3)
        bus = CanBus(options, Clock(), Counter(), wanted=WANTED, sends=False)
        with pytest.raises(DeviceUnreachable, match=r"did not open within 0\.3 s"):
            await bus.open()
        async with asyncio.timeout(60):
            await bus.close()
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (
            {"interface": "socketcan", "channel": "can-none"},
            DeviceUnreachable,
            "socketcan can-none cannot be opened",
        ),
        (
            {"interface": "slcan", "channel": "/dev/none"},
            DeviceUnreachable,
            "slcan /dev/none cannot be opened",
        ),
        ({"interface": "slcan", "channel": "x", "bus": {"colour": "red"}}, OptionsError, "unknown option"),
        ({"interface": "kvaser", "channel": "0"}, (OptionsError, DeviceUnreachable), "kvaser 0"),
    ],
)
async def test_buses_that_do_not_exist(options: dict[str, object], kind: type[Exception], said: str) -> None:
    bus = CanBus(BusOptions(**options), Clock(), Counter(), wanted=WANTED, sends=False)  # type: ignore[arg-type]
    with pytest.raises(kind, match=said):
        await bus.open()
    await bus.close()


@pytest.fixture
def typed() -> Iterator[tuple[str, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield f"socket://127.0.0.1:{server.getsockname()[1]}", server


async def receive(url: str, server: socket.socket, sent: bytes) -> list[can.Message]:
    """The frames read from an adapter that sends these bytes after its answers."""

    def play() -> None:
        line, _ = server.accept()
        line.settimeout(60)
        with line:
            while not line.recv(100).endswith(b"L\r"):
                pass
            line.sendall(b"\r" + sent)
            while line.recv(100):
                pass

    playing = asyncio.create_task(asyncio.to_thread(play), name="adapter")
    bus = await asyncio.to_thread(SerialCan, url, bitrate=500_000)
    try:
        found = []
        while (one := await asyncio.to_thread(bus.recv, 0.2)) is not None:
            found.append(one)
        return found
    finally:
        bus.shutdown()
        await playing


async def test_lines_of_the_manual(typed: tuple[str, socket.socket]) -> None:
    url, server = typed
    sent = b"t10021133\rT0000010021133\rr1002\rR000001002\rz\rV1013\rNA123\rF00\r\a"
    sent += b"t100211337D00\r" + b"d100F" + b"ab" * 64 + b"\r" + b"B18FF50E51CC\r"
    found = await receive(url, server, sent)
    assert [(m.arbitration_id, m.is_extended_id, bytes(m.data), m.is_remote_frame, m.dlc) for m in found] == [
        (0x100, False, b"\x11\x33", False, 2),
        (0x100, True, b"\x11\x33", False, 2),
        (0x100, False, b"", True, 2),
        (0x100, True, b"", True, 2),
        (0x100, False, b"\x11\x33", False, 2),  # with a timestamp
        (0x100, False, b"\xab" * 64, False, 64),
        (0x18FF50E5, True, b"\xcc", False, 1),
    ]
    assert [m.is_fd for m in found] == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    "sent",
    [
        b"t1002113\r", b"t10021133445566\r", b"t1G0200\r", b"t100\r", b"TFFFFFFFF0\r",
        b"t1009" + b"00" * 12 + b"\r", b"hello\r", b"\xff\xfe\r", b"t" * 300, b"\x00\r", b"d100F00\r",
    ],
)  # fmt: skip
async def test_lines_that_are_not_frames(typed: tuple[str, socket.socket], sent: bytes) -> None:
    url, server = typed
    with pytest.raises(can.CanOperationError):
        await receive(url, server, b"t1000\r" + sent)


async def test_the_error_for_a_refused_command_names_the_remedy(typed: tuple[str, socket.socket]) -> None:
    url, server = typed

    def play() -> None:
        line, _ = server.accept()
        line.settimeout(60)
        with line:
            while b"S6\r" not in (heard := line.recv(100)):
                assert heard
            line.sendall(b"\r")
            line.recv(100)
            line.sendall(b"\a")
            while line.recv(100):
                pass

    playing = asyncio.create_task(asyncio.to_thread(play), name="adapter")
    options = BusOptions(interface="slcan", channel=url)
    bus = CanBus(options, Clock(), Counter(), wanted=WANTED, sends=False)
    with pytest.raises(DeviceUnreachable, match=r"refuses command L; try `bus: \{listen_only: false\}`"):
        await bus.open()
    await bus.close()
    await playing


async def test_noise_is_reported_as_such(typed: tuple[str, socket.socket]) -> None:
    url, server = typed

    def play() -> None:
        line, _ = server.accept()
        line.settimeout(60)
        with line, contextlib.suppress(OSError):  # the adapter has closed the connection
            while line.recv(100):
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)

    playing = asyncio.create_task(asyncio.to_thread(play), name="adapter")
    bus = CanBus(BusOptions(interface="slcan", channel=url), Clock(), Counter(), wanted=WANTED, sends=False)
    with pytest.raises(ProtocolViolation, match="not a CAN frame"):
        await bus.open()
    await bus.close()
    await playing
