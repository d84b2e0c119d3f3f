"""An OPC UA server of a cobot cell with the browse names of OPC 40010 Robotics.

    Objects/DeviceSet/{cell}/MotionDevices/{arm}/Axes/Axis_{n}/ParameterSet/ActualPosition   deg
                                                                           /ActualSpeed      deg/s
                                                                           /ActualTorque     N.m

ActualTorque is not part of OPC 40010; robots show it in their own namespace, as this one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncua import Server, ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole

from simulators.devices.running import listening, stopped
from simulators.faults.fault import DeviceFaults, Fault
from simulators.plants.cobot import FAULTS, JOINTS, RATE_HZ, SIGNALS, UNITS, Cobot
from wire.clock import NS_PER_MS, NS_PER_S, Clock

APPLICATION_URI = "urn:edgebed:cobot-cell"
DI_URI = "http://opcfoundation.org/UA/DI/"
ROBOTICS_URI = "http://opcfoundation.org/UA/Robotics/"
VENDOR_URI = "urn:edgebed:cobot-cell:nodes"

_OVERFLOW = 0x0480  # InfoType DataValue, Overflow
_PERIOD_NS = NS_PER_S // RATE_HZ
_GIVE_UP_NS = 10 * NS_PER_S  # later than this, samples are skipped: a robot that slept does not replay
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = {"position": "ActualPosition", "velocity": "ActualSpeed", "torque": "ActualTorque"}
# UNECE codes as OPC UA packs them into UnitId: DD degree, E96 degree per second, NU newton metre
_UNIT_IDS = {"deg": 17476, "deg/s": 4536630, "N.m": 20053}
_UNIT_SIGNS = {"deg": "°", "deg/s": "°/s", "N.m": "N·m"}

log = logging.getLogger("edgebed.simulators.opcua")


class CobotCell:
    """A robot controller on the network. Use: `async with CobotCell(seed=1) as cell: cell.url`.

    Samples carry source timestamps of the 50 Hz schedule of `clock`, at any load of the machine. Without
    `user` every client may read. With `cert` and `key` (PEM or DER files) the secured policies are offered,
    too.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[Fault | str] = (),
        cell: str = "Cell1",
        arm: str = "Arm1",
        user: str = "",
        password: str = "",
        cert: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._faults = DeviceFaults({}, FAULTS, faults)
        self.cobot = Cobot(seed, self._faults.of_plant)
        self.host, self.port = host, port
        self.clock = clock or Clock()
        self.cell, self.arm = cell, arm
        self.start_ns = 0  # time of sample 0
        self.written = 0  # samples since the start
        self.skipped = 0  # samples that a sleeping machine missed
        self._login = (user, password)
        self._files = (cert, key)
        self._status: dict[str, int] = {}
        self._silent: frozenset[str] = frozenset()
        self._nodes: list[tuple[str, ua.NodeId]] = []
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"opc.tcp://{self.host}:{self.port}/edgebed/cell"

    @property
    def elapsed_s(self) -> float:
        """Seconds of the robot's time since sample 0, as in `Fault.start_s`."""
        return (self.clock.now_ns() - self.start_ns) / NS_PER_S

    def truth(self, at_ns: int) -> Mapping[str, float]:
        """What the joints did at a sample's time, with `faulty_joint`; a stuck sensor does not change it.

        Empty before sample 0 and between samples.
        """
        index, rest = divmod(at_ns - self.start_ns, _PERIOD_NS)
        if not self.start_ns or rest or index < 0:
            return {}
        real = [fault for fault in self.cobot.faults if fault.kind != "stuck-sensor"]
        sample = Cobot(self.cobot.seed, real).sample(index)
        return {**sample, "faulty_joint": int(self.cobot.labels(index, 1)[0])}

    def inject(self, fault: Fault | str) -> None:
        """Break something from now on, or from the fault's own start where that is later.

        Raises:
            ValueError: there is no such fault.
        """
        self._faults.add(fault, (self.written + self.skipped) / RATE_HZ)
        self.cobot.faults = self._faults.of_plant

    def repair(self) -> None:
        """Remove every fault."""
        self._faults.clear()
        self.cobot.faults = ()

    def set_status(self, signal: str, code: int = 0) -> None:
        """Report a signal with an OPC UA status code from now on: 0 Good, 0x40000000 Uncertain, ..."""
        if signal not in SIGNALS:
            raise ValueError(f"there is no signal {signal!r}")
        self._status[signal] = code

    def silence(self, signals: Sequence[str] = SIGNALS) -> None:
        """Stop sampling these signals and keep connections up; `silence(())` samples all again."""
        self._silent = frozenset(signals)

    async def __aenter__(self) -> Self:
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # it logs every client that disconnects
        server = await self._build()
        self.start_ns = self.clock.now_ns() // _PERIOD_NS * _PERIOD_NS
        # before any client: a node that was never written answers with the time at which it was made
        await self._write(server, 0, self.cobot.block(0, 1)[0].tolist())
        with listening("the OPC UA server", self.host, self.port):
            await server.start()
        self.port = server.bserver.port
        self._server = server
        self._task = asyncio.create_task(self._run(server), name="cobot-cell")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, server = self._task, self._server
        self._task = self._server = None
        try:
            await stopped(task)
        finally:
            if server is not None:
                await _stop(server)

    # --- the schedule

    async def _run(self, server: Server) -> None:
        index = 1
        while True:
            await self.clock.sleep_until(self.start_ns + index * _PERIOD_NS)
            late_ns = self.clock.now_ns() - self.start_ns - index * _PERIOD_NS
            if late_ns > _GIVE_UP_NS * self.clock.rate:
                self.skipped += late_ns // _PERIOD_NS
                index += late_ns // _PERIOD_NS
            due = min(1 + max(0, late_ns) // _PERIOD_NS, RATE_HZ)
            for row in self.cobot.block(index, due).tolist():
                await self._write(server, index, row)
                index += 1
                await asyncio.sleep(0)  # clients are served between samples, however late the device is

    async def _write(self, server: Server, index: int, row: list[float]) -> None:
        at = _EPOCH + timedelta(microseconds=(self.start_ns + index * _PERIOD_NS) // 1000)
        for (signal, node), value in zip(self._nodes, row, strict=True):
            if signal in self._silent:
                continue
            code = ua.StatusCode(ua.UInt32(self._status.get(signal, 0)))
            sample = _Sample(
                ua.Variant(value, ua.VariantType.Double), code, SourceTimestamp=at, ServerTimestamp=at
            )
            await server.iserver.write_attribute_value(node, sample)
        self.written += 1

    # --- the address space

    async def _build(self) -> Server:
        server = Server(user_manager=_OneUser(*self._login) if self._login[0] else None)
        with _no_collection():  # the standard address space is 100,000 objects: collecting doubles the time
            await server.init()
        server.set_endpoint(self.url)
        server.set_server_name("edgebed cobot cell")
        server.disable_clock()  # its task takes a second to end; a callback answers CurrentTime instead
        _answer_republish(server)
        _mark_overflow(server)
        await server.set_application_uri(APPLICATION_URI)
        cert, key = self._files
        policies = [ua.SecurityPolicyType.NoSecurity]
        if cert and key:
            await server.load_certificate(cert)
            await server.load_private_key(key)
            policies = [ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        server.set_security_policy(policies)
        if self._login[0]:
            server.set_identity_tokens([ua.UserNameIdentityToken])
        self._serve_time(server)
        await self._build_nodes(server)
        return server

    async def _build_nodes(self, server: Server) -> None:
        di = await server.register_namespace(DI_URI)
        robotics = await server.register_namespace(ROBOTICS_URI)
        vendor = await server.register_namespace(VENDOR_URI)
        where = server.nodes.objects
        for index, name in [
            (di, "DeviceSet"),
            (vendor, self.cell),
            (robotics, "MotionDevices"),
            (vendor, self.arm),
            (robotics, "Axes"),
        ]:
            where = await where.add_object(ua.NodeId(name, vendor), ua.QualifiedName(name, index))
        for joint in range(1, JOINTS + 1):
            axis = await where.add_object(
                ua.NodeId(f"Axis_{joint}", vendor), ua.QualifiedName(f"Axis_{joint}", vendor)
            )
            parameters = await axis.add_object(
                ua.NodeId(f"Axis_{joint}.ParameterSet", vendor), ua.QualifiedName("ParameterSet", di)
            )
            for quantity, name in _NAMES.items():
                node = ua.NodeId(f"Axis_{joint}.{name}", vendor)
                space = vendor if quantity == "torque" else robotics
                variable = await parameters.add_variable(
                    node, ua.QualifiedName(name, space), 0.0, ua.VariantType.Double
                )
                unit = UNITS[quantity]
                await variable.add_property(
                    ua.NodeId(f"Axis_{joint}.{name}.EngineeringUnits", vendor),
                    ua.QualifiedName("EngineeringUnits", 0),
                    _eu(unit),
                )
                self._nodes.append((f"j{joint}_{quantity}", node))

    def _serve_time(self, server: Server) -> None:
        def now(_node: ua.NodeId, _attribute: ua.AttributeIds) -> ua.DataValue:
            at = _EPOCH + timedelta(milliseconds=self.clock.now_ns() // NS_PER_MS)
            return ua.DataValue(ua.Variant(at, ua.VariantType.DateTime), SourceTimestamp=at)

        server.iserver.set_attribute_value_callback(
            ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime), now
        )


class _Sample(ua.DataValue):  # type: ignore[misc]  # mypy does not follow asyncua
    """A value that never changes: asyncua's deep copies, one a subscription, are two thirds of its work."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Sample:
        return self


def _answer_republish(server: Server) -> None:
    """Answer Republish as OPC UA Part 4, 5.13.6 requires.

    asyncua answers an unknown number with an empty message; a client that fills its gaps then repeats the
    request without end.
    """
    service = server.iserver.subscription_service

    def republish(asked: ua.RepublishParameters) -> ua.NotificationMessage:
        subscription = service.subscriptions.get(asked.SubscriptionId)
        if subscription is None:
            raise ServiceError(ua.StatusCodes.BadSubscriptionIdInvalid)
        message = subscription.republish(asked.RetransmitSequenceNumber)
        if message.SequenceNumber != asked.RetransmitSequenceNumber:
            raise ServiceError(ua.StatusCodes.BadMessageNotAvailable)
        return message

    service.republish = republish


def _mark_overflow(server: Server) -> None:
    """Mark the value after a loss with the Overflow bit (OPC UA Part 4, 7.22.1), which asyncua does not."""
    service = server.iserver.subscription_service
    create = service.create_subscription

    async def create_subscription(*args: Any, **more: Any) -> ua.CreateSubscriptionResult:
        result = await create(*args, **more)
        subscription = service.subscriptions[result.SubscriptionId]
        enqueue = subscription._enqueue_event  # the only place where values wait is private

        async def enqueue_event(item: int, event: Any, size: int, queue: dict[int, list[Any]]) -> None:
            full = 0 < size <= len(queue.get(item, ()))
            await enqueue(item, event, size, queue)
            if full and isinstance(oldest := queue[item][0], ua.MonitoredItemNotification):
                code = ua.StatusCode(ua.UInt32(oldest.Value.StatusCode.value | _OVERFLOW))
                oldest.Value = replace(oldest.Value, StatusCode=code)

        subscription._enqueue_event = enqueue_event
        return result

    service.create_subscription = create_subscription


class _OneUser:
    """asyncua's UserManager interface; it calls by keyword."""

    def __init__(self, user: str, password: str) -> None:
        self._expected = (user.encode(), password.encode())

    def get_user(
        self,
        _server: Any,
        username: str | None = None,
        password: str | None = None,
        **_certificate: Any,
    ) -> User | None:
        given = ((username or "").encode(), (password or "").encode())
        same = [hmac.compare_digest(a, b) for a, b in zip(given, self._expected, strict=True)]
        return User(role=UserRole.User, name=username) if all(same) else None


def _eu(unit: str) -> ua.EUInformation:
    return ua.EUInformation(
        NamespaceUri="http://www.opcfoundation.org/UA/units/un/cefact",
        UnitId=_UNIT_IDS[unit],
        DisplayName=ua.LocalizedText(_UNIT_SIGNS[unit]),
        Description=ua.LocalizedText(unit),
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


async def _stop(server: Server) -> None:
    """Stop and leave nothing: asyncua keeps the sessions of clients that disconnected without closing."""
    internal, listening = server.iserver, server.bserver
    await server.stop()
    for transport in list(internal.asyncio_transports):
        transport.abort()  # close() waits for a peer that may never read again
    while listening.clients:  # noqa: ASYNC110 - asyncua has no event for it
        await asyncio.sleep(0)
    await asyncio.gather(*listening.closing_tasks)
    for session in list(internal._external_sessions.values()):  # there is no public way to list them
        await session.close_session()
    await internal.subscription_service.delete_subscriptions(
        list(internal.subscription_service.subscriptions)
    )
