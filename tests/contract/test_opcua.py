"""The OPC UA adapter against the simulated cobot cell, over a line that fails in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from adapters.base import AdapterError, DeviceUnreachable, OptionsError, ProtocolViolation, Reading
from adapters.opcua.adapter import OpcUa
from adapters.opcua.options import NodeOption, OpcUaOptions, Security
from adapters.testing import AdapterContract, Rig, read, until
from edgebed.broker import free_port
from edgebed.processes import Child, edgebed_command
from simulators.devices.opcua import APPLICATION_URI, VENDOR_URI, CobotCell
from simulators.faults import FaultProxy
from simulators.plants.cobot import RATE_HZ, SIGNALS, Cobot
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

SEED = 11
PERIOD_NS = NS_PER_S // RATE_HZ
PATIENT = {"row_wait_s": 60.0}  # no row ends early on a slow machine


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a cobot cell that runs in its own process."""
    log = tmp_path_factory.mktemp("cell") / "cell.log"
    with Child("cell", edgebed_command("sim", "run", "opcua", "--seed", str(SEED)), log) as child:
        yield child.first_line()


def options(port: int, **more: object) -> OpcUaOptions:
    quick: dict[str, object] = {"profile": "opc40010", "data_age_s": 3.0, "timeout_s": 10.0}
    return OpcUaOptions(url=f"opc.tcp://127.0.0.1:{port}/x", **(quick | more))  # type: ignore[arg-type]


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/", maxsplit=1)[0])


def lacks_a_value(row: Reading) -> bool:
    return None in row.values.values()


class TestOpcUa(AdapterContract):
    adapter = OpcUa
    good_options: ClassVar = {"url": "opc.tcp://robot.example:4840", "profile": "opc40010"}
    bad_options: ClassVar = [
        ({"url": "http://x:1", "profile": "opc40010"}, "opc.tcp://"),
        ({"url": "opc.tcp://x", "profile": "opc40010"}, "opc.tcp://host:port"),
        ({"url": "opc.tcp://x:99999", "profile": "opc40010"}, "port"),
        ({"url": "opc.tcp://me:geheim@x:1", "profile": "opc40010"}, "password_file"),
        ({"url": "opc.tcp://x:1"}, "nodes"),
        ({"url": "opc.tcp://x:1", "profile": "opc40010", "nodes": {"a": "i=1"}}, "either"),
        ({"url": "opc.tcp://x:1", "nodes": {"a": "Speed"}}, "browse path"),
        ({"url": "opc.tcp://x:1", "nodes": {"Not A Field": "i=1"}}, "field name"),
        ({"url": "opc.tcp://x:1", "profile": "opc40010", "user": "op"}, "password_file"),
        (
            {"url": "opc.tcp://x:1", "profile": "opc40010", "user": "op", "password_file": Path("p")},
            "clear text",
        ),
    ]
    secrets = ("geheim",)

    @pytest.fixture
    async def rig(self, cell: str) -> AsyncIterator[Rig]:
        async with FaultProxy(port_of(cell)) as link:
            yield Rig(lambda: OpcUa(options(link.port), Clock()), link)


async def test_every_sample_arrives_once_and_as_the_robot_made_it(cell: str) -> None:
    async with OpcUa(options(port_of(cell), **PATIENT), Clock()) as adapter:
        rows = await read(adapter, 3 * RATE_HZ)
        assert adapter.counters == {}
    steps = {b.at_ns - a.at_ns for a, b in pairwise(rows)}
    assert steps == {PERIOD_NS}
    assert {row.quality for row in rows} == {Quality.GOOD}
    data = np.array([[row.values[signal] for signal in SIGNALS] for row in rows])
    made = Cobot(SEED).block(0, 120 * RATE_HZ)
    at = int(np.flatnonzero((made == data[0]).all(axis=1))[0])
    np.testing.assert_array_equal(made[at : at + len(data)], data)


async def test_a_new_adapter_reads_after_every_kind_of_loss(cell: str) -> None:
    async with FaultProxy(port_of(cell)) as link:
        disturbances: list[Callable[[], None]] = [
            lambda: link.cut(reset=True),
            lambda: link.cut(reset=False),
            link.black_hole,
        ]
        for disturb in disturbances * 2:
            async with OpcUa(options(link.port), Clock()) as adapter:
                assert len(await read(adapter, 10)) == 10
                disturb()
                with pytest.raises(AdapterError):
                    await read(adapter, 100_000)
            link.heal()


async def test_a_new_adapter_reads_after_each_restart_of_the_server(tmp_path: Path) -> None:
    port = free_port()
    command = edgebed_command("sim", "run", "opcua", "--port", str(port))
    with Child("cell", command, tmp_path / "cell.log") as child:
        child.first_line()
        for _ in range(2):
            async with OpcUa(options(port), Clock()) as adapter:
                assert len(await read(adapter, 10)) == 10
                child.kill()
                with pytest.raises(DeviceUnreachable):
                    await read(adapter, 100_000)
            with pytest.raises(DeviceUnreachable):
                async with OpcUa(options(port), Clock()):
                    pass
            child.out.unlink()
            child.start()
            child.first_line()
        async with OpcUa(options(port), Clock()) as adapter:
            assert len(await read(adapter, 10)) == 10


async def test_nodes_by_id_by_namespace_and_by_path(cell: str) -> None:
    parameters = "0:Objects/2:DeviceSet/4:Cell1/3:MotionDevices/4:Arm1/3:Axes/4:Axis_2/2:ParameterSet"
    nodes: dict[str, str | NodeOption] = {
        "speed": "ns=4;s=Axis_1.ActualSpeed",
        "torque": NodeOption(node=f"nsu={VENDOR_URI};s=Axis_1.ActualTorque", unit="N.m", dec=1),
        "angle": f"{parameters}/3:ActualPosition",
    }
    async with OpcUa(options(port_of(cell), profile="", nodes=nodes, stream="axis-one"), Clock()) as adapter:
        rows = await read(adapter, 20)
    assert {row.stream for row in rows} == {"axis-one"}
    assert all(row.values.keys() == {"speed", "torque", "angle"} for row in rows)
    assert all(-138 < float(row.values["angle"] or 0) < -40 for row in rows)  # joint 2, not joint 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"server_uri": "urn:another:robot"}, APPLICATION_URI),
        ({"axes": 7}, "6 axes"),
        ({"device": "Cell9"}, "Cell1"),
        ({"arm": "Arm9"}, "Arm1"),
        ({"profile": "", "nodes": {"a": "nsu=urn:nowhere;i=1"}}, "urn:nowhere"),
        ({"profile": "", "nodes": {"a": "ns=4;s=Axis_9.ActualSpeed"}}, "BadNodeIdUnknown"),
        ({"profile": "", "nodes": {"a": "0:Objects/2:Nothing"}}, "0:Objects/2:Nothing"),
        (
            {"profile": "", "nodes": {"a": NodeOption(node="ns=4;s=Axis_1.ActualSpeed", unit="rad/s")}},
            "deg/s",
        ),
    ],
)
async def test_another_device_than_declared_is_refused(
    cell: str, wrong: dict[str, object], said: str
) -> None:
    adapter = OpcUa(options(port_of(cell), **wrong), Clock())
    with pytest.raises(ProtocolViolation) as caught:
        await adapter.open()
    assert said in str(caught.value)


async def test_status_codes_of_the_device_become_qualities() -> None:
    async with CobotCell(seed=1) as cell, OpcUa(options(cell.port), Clock()) as adapter:
        await until(adapter, lambda row: row.quality is Quality.GOOD)
        cell.set_status("j3_torque", 0x40000000)
        # on a busy machine fields come late and make rows uncertain too: such rows contain a null
        row = await until(adapter, lambda row: row.quality is Quality.UNCERTAIN and not lacks_a_value(row))
        assert isinstance(row.values["j3_torque"], float)
        cell.set_status("j2_velocity", 0x80000000)
        row = await until(adapter, lambda row: row.quality is Quality.BAD)
        assert row.values["j2_velocity"] is None
        cell.set_status("j2_velocity")
        cell.set_status("j3_torque", 0x00000480)
        await until(adapter, lambda row: adapter.counters.get("overflow", 0) > 3)
        cell.set_status("j3_torque")
        cell.silence(["j6_position"])
        row = await until(adapter, lambda row: row.values["j6_position"] is None)
        assert row.quality is Quality.UNCERTAIN
        assert adapter.counters["incomplete"] >= 1
        cell.silence(())
        await until(adapter, lambda row: row.quality is Quality.GOOD)
        cell.silence()
        with pytest.raises(AdapterError, match="no value for 3 s"):
            await read(adapter, 100_000)


async def test_what_a_slow_reader_loses_is_counted(cell: str) -> None:
    async with OpcUa(options(port_of(cell), queue=5, publishing_ms=20.0), Clock()) as adapter:
        rows = await read(adapter, 5)
        await asyncio.sleep(0.6)  # the server keeps five samples of each node, and makes thirty or more
        rows += await read(adapter, 20)
    lost = (rows[-1].at_ns - rows[0].at_ns) // PERIOD_NS + 1 - len(rows)
    assert lost > 5
    assert adapter.counters["overflow"] >= len(SIGNALS)


async def test_a_client_before_the_second_sample_gets_a_whole_row() -> None:
    slow = Clock(start_ns=946_684_800 * NS_PER_S, rate=1e-4)  # the next sample comes after 200 s
    async with (
        CobotCell(seed=1, clock=slow) as cell,
        OpcUa(options(cell.port, **PATIENT), Clock()) as adapter,
    ):
        (row,) = await read(adapter, 1)
    assert None not in row.values.values()
    assert adapter.counters == {"clock_not_believed": 1}


async def test_a_clock_that_is_years_off_is_not_believed() -> None:
    device_time = Clock(start_ns=946_684_800 * NS_PER_S)  # 2000-01-01
    async with CobotCell(seed=1, clock=device_time) as cell:
        async with OpcUa(options(cell.port, **PATIENT), clock := Clock()) as adapter:
            rows = await read(adapter, 20)
            assert adapter.counters == {"clock_not_believed": 1}
        assert abs(rows[-1].at_ns - clock.now_ns()) < 60 * NS_PER_S
        assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {PERIOD_NS}
        async with OpcUa(options(cell.port, max_skew_s=1e12), Clock()) as adapter:
            assert (await read(adapter, 1))[0].at_ns < 947_000_000 * NS_PER_S


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder of certificates (.der), private keys (.pem) and passwords."""
    for name, uri in (("server", APPLICATION_URI), ("agent", "urn:test:agent"), ("other", "urn:test:other")):
        make_certificate(tmp_path / name, uri)
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    return tmp_path


async def test_a_timeout_that_meets_an_answer_is_a_timeout(cell: str) -> None:
    """A busy machine handles both in one turn of the event loop; asyncua then raises a subclass of
    CancelledError, and the adapter seemed to have cancelled itself."""
    errors = []
    for waited_ms in range(0, 60, 5):
        adapter = OpcUa(options(port_of(cell), timeout_s=0.2), Clock())
        opening = asyncio.create_task(adapter.open())
        await asyncio.sleep(waited_ms / 1000)
        time.sleep(0.25)  # noqa: ASYNC251 - the loop is blocked while the server answers
        await asyncio.wait({opening})
        assert not opening.cancelled()
        errors.append(opening.exception())
        await adapter.close()
    assert any(isinstance(error, DeviceUnreachable) and "within 0.2 s" in str(error) for error in errors)


async def test_closing_keeps_the_cancellation_of_its_caller(cell: str) -> None:
    adapter = OpcUa(options(port_of(cell)), Clock())
    await adapter.open()
    await read(adapter, 3)
    closing = asyncio.create_task(adapter.close())
    await asyncio.sleep(0)  # it now waits for asyncua
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()


async def test_users_and_certificates(keys: Path) -> None:
    words = (keys / "right").read_text().strip()
    server = CobotCell(user="op", password=words, cert=keys / "server.der", key=keys / "server.pem")
    plain = {"user": "op", "plain_password": True}
    secured = {"cert": keys / "agent.der", "key": keys / "agent.pem"}
    async with server as cell:
        async with OpcUa(options(cell.port, **plain, password_file=keys / "right"), Clock()) as adapter:
            assert await read(adapter, 3)
        for wrong, said in (
            ({**plain, "password_file": keys / "wrong"}, "does not accept user 'op': check"),
            ({}, "no anonymous login: set `user` and `password_file`"),
        ):
            with pytest.raises(DeviceUnreachable, match=said) as caught:
                await OpcUa(options(cell.port, **wrong), Clock()).open()
            assert "staple" not in str(caught.value)
        login = {"user": "op", "password_file": keys / "right"}
        pinned = Security(**secured, server_cert=keys / "server.der")
        async with OpcUa(options(cell.port, **login, security=pinned), Clock()) as adapter:
            assert await read(adapter, 3)
        another = Security(**secured, server_cert=keys / "other.der")
        with pytest.raises(ProtocolViolation, match="another certificate"):
            await OpcUa(options(cell.port, **login, security=another), Clock()).open()
        gone = Security(**secured, server_cert=keys / "none.der")
        with pytest.raises(OptionsError, match=r"none\.der"):
            await OpcUa(options(cell.port, **login, security=gone), Clock()).open()


def make_certificate(path: Path, uri: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.name)])
    now = datetime(2025, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.with_suffix(".der").write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    path.with_suffix(".pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20,
        b"ACKF\xff\xff\xff\x7f" + bytes(4_000_000),  # a chunk of 2 GiB
        bytes(range(256)) * 50,
        b"",
    ],
    ids=["http", "endless", "noise", "eof"],
)
async def test_any_other_server_is_one_error(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        adapter = OpcUa(options(server.sockets[0].getsockname()[1]), Clock())
        async with asyncio.timeout(60):
            with pytest.raises(AdapterError):
                await adapter.open()
