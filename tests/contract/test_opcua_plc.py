"""The OPC UA adapter against the habits of PLCs: arrays, enumerations, still values, stamps apart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asyncua import Server, ua
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

from adapters.base import AdapterError, DeviceUnreachable, OptionsError, ProtocolViolation
from adapters.opcua.adapter import OpcUa
from adapters.opcua.options import OpcUaOptions, Security
from adapters.testing import read, until
from simulators.devices.opcua import APPLICATION_URI, CobotCell
from tests import polling
from tests.contract.test_opcua import make_certificate
from wire.clock import Clock
from wire.messages import Quality

V = ua.VariantType


@contextlib.asynccontextmanager
async def plc(*policies: ua.SecurityPolicyType, keys: Path | None = None) -> AsyncIterator[Server]:
    """A server with one variable of each kind; `server.url` is where it listens."""
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0")
    server.disable_clock()
    if keys is not None:
        await server.set_application_uri(APPLICATION_URI)
        await server.load_certificate(keys / "server.der")
        await server.load_private_key(keys / "server.pem")
    server.set_security_policy(list(policies) or [ua.SecurityPolicyType.NoSecurity])
    space = await server.register_namespace("urn:plc")
    nodes = server.nodes.objects

    async def add(name: str, value: object, kind: ua.VariantType) -> Any:
        return await nodes.add_variable(ua.NodeId(name, space), name, value, kind)

    await add("Joints", [0.5, 1.5, 2.5], V.Double)
    await add('"DB"."axis"[0]', 7.0, V.Float)
    mode = await add("Mode", 1, V.Int32)
    words = [ua.LocalizedText(word) for word in ("Manual", "Auto", "Fault")]
    await mode.add_property(space, "EnumStrings", words)
    alarm = await add("Alarm", 30, V.Int32)
    listed = [ua.EnumValueType(Value=at, DisplayName=ua.LocalizedText(f"A{at}")) for at in (10, 30)]
    await alarm.add_property(ua.NodeId("Alarm.EnumValues", space), ua.QualifiedName("EnumValues", 0), listed)
    await nodes.add_variable(
        ua.NodeId("State", space), "State", 0, V.Int32, datatype=ua.NodeId(ua.ObjectIds.ServerState)
    )
    await add("Count", 5, V.Int16)
    await add("Big", 2**63 + 5, V.UInt64)
    await add("Run", True, V.Boolean)
    await add("Text", ua.LocalizedText("안녕", "ko"), V.LocalizedText)
    await add("When", datetime(2026, 11, 30, tzinfo=UTC), V.DateTime)
    await add("Raw", b"\x01\x02", V.ByteString)
    await add("Range", ua.Range(Low=0.0, High=1.0), V.ExtensionObject)
    await add("Nothing", None, V.Null)
    await add("Still", 7.5, V.Double)
    broken = await add("Broken", 0.0, V.Double)
    await broken.write_value(
        ua.DataValue(ua.Variant(0.0, V.Double), StatusCode=ua.StatusCode(ua.StatusCodes.BadNoCommunication))
    )
    for at in range(6):
        await add(f"K{at}", 0.0, V.Double)
    async with server:
        server.url = f"opc.tcp://127.0.0.1:{server.bserver.port}"
        yield server


def adapter(url: str, nodes: dict[str, Any], **more: Any) -> OpcUa:
    given = {"url": url, "nodes": nodes, "data_age_s": 5.0, "timeout_s": 20.0, "row_wait_s": 0.1} | more
    return OpcUa(msgspec.convert(given, OpcUaOptions), Clock())


async def test_what_arrives_is_a_value_or_a_sentence() -> None:
    cases: list[tuple[str, dict[str, Any], object, str]] = [
        ("Joints", {}, None, "an array of 3 values arrived: set `index`, 0 to 2"),
        ("Joints", {"index": 1}, 1.5, ""),
        ("Joints", {"index": 3}, None, "`index` is 3"),
        ("Joints[2]", {}, 2.5, ""),
        ('"DB"."axis"[0]', {}, 7.0, ""),  # this id ends like an element, and is a node
        ("Mode", {"t": "str"}, "Auto", ""),
        ("Alarm", {"t": "str"}, "A30", ""),
        ("State", {"t": "str"}, "Running", ""),
        (
            "Count",
            {"t": "str"},
            None,
            "the number 5 arrived, and the server has no names for it: set `t: i64`",
        ),
        ("Count", {}, 5, ""),
        ("Big", {"t": "i64"}, None, "does not fit t i64: set `t: f64`"),
        ("Run", {}, None, "a Boolean True arrived and t is f64: set `t: bool`"),
        ("Run", {"t": "bool"}, True, ""),
        ("Text", {"t": "str"}, "안녕", ""),
        ("Text", {}, None, "a LocalizedText arrived and t is f64: set `t: str`"),
        ("When", {"t": "str"}, "2026-11-30T00:00:00Z", ""),
        ("Raw", {"t": "str"}, None, "a ByteString arrived"),
        ("Range", {}, None, "a structure arrived"),
        ("Nothing", {}, None, "the server sends no value (null)"),
        ("Broken", {}, None, "BadNoCommunication: the server has no connection to the device"),
    ]
    nodes = {f"f{at}": {"node": f"ns=2;s={name}", **more} for at, (name, more, _, _) in enumerate(cases)}
    async with plc() as server, adapter(server.url, nodes, hold=True) as opened:
        row = await until(
            opened,
            lambda row: all(name in opened.unread or row.values[name] is not None for name in row.values),
        )
        for at, (name, more, value, why) in enumerate(cases):
            field = f"f{at}"
            assert row.values[field] == value, (name, more)
            said = opened.unread[field].what if field in opened.unread else ""
            assert why in said, (name, more, said)
            assert bool(why) == bool(said), (name, more, said)


async def test_a_node_that_cannot_be_read_is_named() -> None:
    cases = {
        "ns=2;s=still": "no ns=2;s=still for a: BadNodeIdUnknown: there is no such node",
        "ns=2;s=Nowhere[1]": "no ns=2;s=Nowhere",
        "i=85": "refuses i=85 for a: BadAttributeIdInvalid: the node is not a variable",
        "0:Objects/2:Nowhere": "BadNoMatch: the path does not exist; 0:Objects has '0:",
        "0:Objects/2:Still/2:Deep": "BadNoMatch",
    }
    async with plc() as server:  # one for all cases: to make its address space costs two seconds
        for node, said in cases.items():
            with pytest.raises(ProtocolViolation) as caught:
                await adapter(server.url, {"a": node}).open()
            assert said in str(caught.value), node


async def test_a_still_value_is_not_silence() -> None:
    async with plc() as server:
        quick = {"data_age_s": 0.6, "publishing_ms": 100}
        async with adapter(server.url, {"a": "ns=2;s=Still"}, **quick) as opened:
            (row,) = await read(opened, 1)
            assert (row.values, row.quality) == ({"a": 7.5}, Quality.GOOD)
            reading = asyncio.create_task(read(opened, 1, within_s=60))
            signs = set[float]()
            await polling.until(lambda: signs.add(opened.alive_s) or len(signs) > 4)
            assert not reading.done(), "several times data_age_s without a value"
            await server.get_node("ns=2;s=Still").write_value(8.5)
            assert (await reading)[0].values == {"a": 8.5}
        async with adapter(server.url, {"a": "ns=2;s=Still"}, value_age_s=0.5, **quick) as opened:
            with pytest.raises(AdapterError, match=r"sent no value for 0\.5 s"):
                await read(opened, 10)


@pytest.mark.parametrize("apart_ms", [3, 12, 0])
async def test_fields_stamped_apart_are_one_row(apart_ms: int) -> None:
    """A server stamps each of six variables by itself, five times a second."""
    nodes = {f"k{at}": f"ns=2;s=K{at}" for at in range(6)}
    async with plc() as server, adapter(server.url, nodes, row_wait_s=60.0) as opened:
        start = datetime.now(UTC)

        async def write() -> None:
            for update in range(1, 200):
                now = start + timedelta(milliseconds=200 * update)
                for at in range(6):
                    stamp = now - timedelta(milliseconds=apart_ms * at)
                    value = ua.DataValue(ua.Variant(float(update), V.Double), SourceTimestamp=stamp)
                    await server.write_attribute_value(ua.NodeId(f"K{at}", 2), value)
                await asyncio.sleep(0.05)

        writing = asyncio.create_task(write())
        rows = [row for row in await read(opened, 40, within_s=60) if 0.0 not in row.values.values()]
        writing.cancel()
        await asyncio.wait({writing})
    assert len(rows) >= 20
    for row in rows:
        assert len(set(row.values.values())) == 1, "all fields of one update"
        assert row.quality is Quality.GOOD


async def test_an_endpoint_with_another_host_name_is_read() -> None:
    async with plc() as server:
        for endpoint in server.iserver.endpoints:
            endpoint.EndpointUrl = "opc.tcp://plc-4711.factory.example:4840/name"
        async with adapter(server.url, {"a": "ns=2;s=Still"}) as opened:
            assert (await read(opened, 1))[0].values == {"a": 7.5}


async def test_security_that_does_not_fit_names_the_cure(tmp_path: Path) -> None:
    for name, uri in (("server", APPLICATION_URI), ("agent", "urn:test:agent")):
        make_certificate(tmp_path / name, uri)
    files: dict[str, Any] = {
        "cert": tmp_path / "agent.der",
        "key": tmp_path / "agent.pem",
        "server_cert": tmp_path / "server.der",
    }
    still = {"a": "ns=2;s=Still"}
    only = ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt
    async with plc(only, keys=tmp_path) as server:
        with pytest.raises(AdapterError, match="offers no connection without encryption: set `security`"):
            await adapter(server.url, still).open()
        for security in (Security(**files, policy="Aes128Sha256RsaOaep"), Security(**files, mode="sign")):
            given = OpcUaOptions(url=server.url, nodes=still, security=security, timeout_s=20.0)
            with pytest.raises(
                ProtocolViolation,
                match=r"set `security\.policy` and `security\.mode` to one of Basic256Sha256 Sign",
            ):
                await OpcUa(given, Clock()).open()
        fitting = OpcUaOptions(url=server.url, nodes=still, security=Security(**files), timeout_s=20.0)
        async with OpcUa(fitting, Clock()) as opened:
            assert (await read(opened, 1))[0].values == {"a": 7.5}


async def test_an_agent_that_the_server_does_not_trust_is_told_so(tmp_path: Path) -> None:
    for name, uri in (("server", APPLICATION_URI), ("agent", "urn:test:agent")):
        make_certificate(tmp_path / name, uri)
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted/server.der").write_bytes((tmp_path / "server.der").read_bytes())
    trusted = TrustStore([tmp_path / "trusted"], [])
    await trusted.load()
    checks = CertificateValidatorOptions.TRUSTED_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
    security = Security(
        cert=tmp_path / "agent.der", key=tmp_path / "agent.pem", server_cert=tmp_path / "server.der"
    )
    async with plc(ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt, keys=tmp_path) as server:
        server.set_certificate_validator(CertificateValidator(checks, trusted))
        given = OpcUaOptions(url=server.url, nodes={"a": "ns=2;s=Still"}, security=security, timeout_s=20.0)
        with pytest.raises(
            DeviceUnreachable, match=r"refuses: BadCert.* add `security\.cert` to its trusted ones"
        ):
            await OpcUa(given, Clock()).open()


async def test_a_refused_anonymous_login_names_the_cure() -> None:
    async with CobotCell(user="op", password="correct horse") as cell:  # noqa: S106 - of this test
        nodes = {"a": "ns=4;s=Axis_1.ActualSpeed"}
        with pytest.raises(DeviceUnreachable, match="no anonymous login: set `user` and `password_file`"):
            await adapter(cell.url, nodes).open()


def test_an_index_is_not_negative() -> None:
    with pytest.raises((msgspec.ValidationError, OptionsError)):
        adapter("opc.tcp://x:1", {"a": {"node": "i=1", "index": -1}})
