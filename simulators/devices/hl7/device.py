"""A bedside monitor that reports over HL7 v2.6 and MLLP: vital signs and one second of ECG each second.

It listens and reports to the client that connects, or with `connect` it connects to a receiver, as most
monitors do. Each message is sent again with the same MSH-10 until it is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from simulators.devices.hl7.messages import (
    CHARSETS,
    OTHER_DEVICE,
    RESOLUTION_MV,
    Envelope,
    PatientIdentity,
    ecg_message,
    verdict,
    vitals_message,
)
from simulators.devices.running import listening
from simulators.faults.fault import DeviceFaults
from simulators.plants import patient
from simulators.plants.patient import ECG_HZ, VITALS, Patient
from simulators.plants.trial import PERIOD_S
from simulators.plants.trial_plants import Ward
from simulators.plants.ward_patient import WardPatient
from simulators.simulator import Value
from wire.clock import NS_PER_S, Clock
from wire.task_cancellation import end

FAULTS = {
    "korean": "the patient has a Korean name",
    "charset": "MSH-18 names UTF-8, and a Korean name is written in cp949",
    "half": "the first half of each message is sent before the message",
    "large": "messages of SIZE x 2 MB",
    "unit": "the temperature comes in another unit",
    **{f"unit-{name.replace('_', '-')}": f"{name} comes in another unit" for name in VITALS},
    "other-patient": "another patient is in the bed",
    "other-device": "messages name another device",
    "time-repeat": "the clock does not advance",
    "time-back": "the clock goes back by ten seconds",
    "silent": "nothing is sent",
    "resend": "each message is sent twice although it was acknowledged",
    "garbage": "bytes come between the messages",
}
_KEPT = 240  # messages that wait for an acknowledgement: two minutes
_TRIES = 3  # on one connection
_START, _END = b"\x0b", b"\x1c\r"


class PendingMessage(NamedTuple):
    """One message that waits for its acknowledgement; faults of the line go by its second."""

    second: int
    control_id: str
    message: bytes


class BedsideMonitor:
    """One monitor and its patient. Use: `async with BedsideMonitor(seed=1) as monitor: monitor.url`.

    Sample i of the ECG is at `start_ns + i / 250 s`, vital signs of second k at `start_ns + k s`; both are
    sent when their second is over, to the newest connection. With the PEM files `cert`, `key` and `ca` it
    speaks TLS and requires a certificate of that authority from the receiver. With `ward` the patient
    is that of the alarm desk `ward` with the same seed, `trial_s` and `effect`.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        connect: str = "",
        charset: str = "UNICODE UTF-8",
        ack_s: float = 2.0,
        cert: str = "",
        key: str = "",
        ca: str = "",
        ward: bool = False,
        trial_s: float = PERIOD_S,
        effect: float = -1.0,
    ) -> None:
        if charset not in CHARSETS:
            raise ValueError(f"charset {charset!r} is not one of {', '.join(CHARSETS)}")
        self.host, self.port = host, port
        self.clock = clock or Clock()
        self.start_ns = 0
        self.counters: Counter[str] = Counter()  # sent, acknowledged, errors, rejected, resent, dropped
        self._seed = seed
        self._faults = DeviceFaults(FAULTS, patient.FAULTS, faults)
        self.patient = Patient(seed, self._faults.of_plant)
        if ward:
            made = Ward(seed, period_s=trial_s, effect=None if effect < 0 else effect)
            self.patient = WardPatient(seed, self._faults.of_plant, made)
        self._to = connect.rpartition(":")
        self._charset = charset
        self._ack_s = ack_s
        self._tls = _tls(cert, key, ca, calls=bool(connect)) if cert or key or ca else None
        self._second = 0  # of the next report
        self._waiting: deque[PendingMessage] = deque()
        self._new_message = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._talking: asyncio.Task[None] | None = None
        if connect:
            if not self._to[0] or not self._to[2].isdigit():
                raise ValueError(f"connect {connect!r} is not host:port")
            self.host, self.port = self._to[0], int(self._to[2])

    @property
    def url(self) -> str:
        """What the adapter's `url` takes."""
        return f"{'mllp-listen' if self._to[2] else 'mllp'}://{self.host}:{self.port}"

    def person(self, second: int) -> PatientIdentity:
        """The person in the bed in this second."""
        korean = self._active("korean", second) or self._active("charset", second)
        return PatientIdentity.of(self._seed + 1000 * self._active("other-patient", second), korean=korean)

    def truth(self, at_ns: int) -> Mapping[str, Value]:
        """The ECG of a sample and the rhythm; on a whole second also the vital signs."""
        index, odd = divmod((at_ns - self.start_ns) * ECG_HZ, NS_PER_S)
        if odd or index < 0:
            return {}
        found: dict[str, Value] = {"ecg": float(self.patient.ecg(index, 1)[0])}
        if index % ECG_HZ == 0:
            found |= self.patient.vitals(index // ECG_HZ)
        return found | {"label": self.patient.rhythm(index / ECG_HZ)}

    def inject(self, fault: str) -> None:
        """Break something of the monitor or its patient, from now on or from its later start."""
        self._faults.add(fault, float(self._second))
        self.patient.faults = self._faults.of_plant

    def repair(self) -> None:
        """Remove every fault, those of the patient included."""
        self._faults.clear()
        self.patient.faults = ()

    async def __aenter__(self) -> Self:
        self.start_ns = -(-self.clock.now_ns() // NS_PER_S) * NS_PER_S
        if isinstance(self.patient, WardPatient):
            self.patient.first = self.patient.ward.step_at(self.start_ns, self.start_ns)
        if self._to[2]:
            self._begin(self._call(), "monitor-calls")
        else:
            with listening("the monitor", self.host, self.port):
                self._server = await asyncio.start_server(self._accept, self.host, self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
        self._begin(self._report(), "monitor-reports")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        await end(self._tasks)

    # --- messages

    async def _report(self) -> None:
        while True:
            second = self._second
            await self.clock.sleep_until(self.start_ns + (second + 1) * NS_PER_S)
            if not self._active("silent", second):
                for message in self._messages(second):
                    if len(self._waiting) >= _KEPT:
                        self._waiting.popleft()
                        self.counters["dropped"] += 1
                    self._waiting.append(message)
                    await asyncio.sleep(0)
                self._new_message.set()
            self._second = second + 1

    def _messages(self, second: int) -> list[PendingMessage]:
        at_ns = shown_ns = self.start_ns + second * NS_PER_S
        if repeats := self._faults.active("time-repeat", second):
            shown_ns = self.start_ns + int(repeats[0].start_s) * NS_PER_S
        elif self._active("time-back", second):
            shown_ns -= 10 * NS_PER_S
        large = self._faults.size("large", second)
        units = [name for name in VITALS if self._active(f"unit-{name.replace('_', '-')}", second)]
        vitals, ecg = (self._envelope(second, letter, at_ns + NS_PER_S) for letter in "VW")
        steps = np.rint(self.patient.ecg(second * ECG_HZ, ECG_HZ) / RESOLUTION_MV).astype(int).tolist()
        return [
            PendingMessage(
                second,
                vitals.control_id,
                vitals_message(
                    vitals,
                    shown_ns,
                    self.patient.vitals(second),
                    wrong_units=[*units, *(["temperature"] if self._active("unit", second) else [])],
                    attachment_bytes=int(large * 2e6),
                ),
            ),
            PendingMessage(second, ecg.control_id, ecg_message(ecg, shown_ns, steps, ECG_HZ)),
        ]

    def _envelope(self, second: int, letter: str, sent_ns: int) -> Envelope:
        wrong = self._active("charset", second)
        named = Envelope(
            control_id=f"{self._seed}-{second}-{letter}",
            sent_ns=sent_ns,
            person=self.person(second),
            charset="UNICODE UTF-8" if wrong else self._charset,
            encoding="cp949" if wrong else CHARSETS[self._charset],
        )
        return replace(named, device=OTHER_DEVICE) if self._active("other-device", second) else named

    def _active(self, kind: str, second: float) -> bool:
        return bool(self._faults.active(kind, second))

    # --- the line

    async def _call(self) -> None:
        """Connect to the receiver again and again."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self._tls)
                await self._talk(reader, writer)
            await asyncio.sleep(0.1)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._talking is not None:
            self._talking.cancel()
        self._talking = self._begin(self._talk(reader, writer), "monitor-talks")
        # a task that is cancelled before its first step does not close the connection
        self._talking.add_done_callback(lambda _: writer.transport.abort())

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send what waits, one message at a time, until the connection ends."""
        acks: asyncio.Queue[tuple[str, str]] = asyncio.Queue(100)
        watching = asyncio.create_task(_acknowledgements(reader, acks), name="monitor-acks")
        try:
            while not watching.done():
                if not self._waiting:
                    self._new_message.clear()
                    waiting = asyncio.create_task(self._new_message.wait(), name="monitor-waits")
                    await asyncio.wait({waiting, watching}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                    continue
                report = self._waiting[0]
                if not await self._deliver(report, writer, acks, watching):
                    return
                if self._waiting and self._waiting[0] is report:
                    self._waiting.popleft()
        except OSError:
            self.counters["lost_connections"] += 1
        finally:
            watching.cancel()
            writer.transport.abort()

    async def _deliver(
        self,
        report: PendingMessage,
        writer: asyncio.StreamWriter,
        acks: asyncio.Queue[tuple[str, str]],
        watching: asyncio.Task[None],
    ) -> bool:
        """Send a message up to `_TRIES` times; return whether it was acknowledged."""
        second, control_id, message = report
        frame = _START + message + _END
        if self._active("garbage", second):
            writer.write(b"\r\nnoise between frames\r\n")
        if self._active("half", second):
            writer.write(frame[: len(frame) // 2])
            await writer.drain()
        times = 2 if self._active("resend", second) else 1
        for attempt in range(_TRIES):
            self.counters["resent"] += attempt > 0
            for _ in range(times):
                writer.write(frame)
                self.counters["sent"] += 1
            await writer.drain()
            answers = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ack_s):
                    while answers < times and not (watching.done() and acks.empty()):
                        code, about = await acks.get()
                        answers += about == control_id or not about
            if answers:
                self.counters[{"A": "acknowledged", "E": "errors"}.get(code[1:], "rejected")] += 1
                return True
            if watching.done():
                return False
        return False

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _tls(cert: str, key: str, ca: str, *, calls: bool) -> ssl.SSLContext:
    """Make the TLS context; ValueError where a file cannot be used."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if calls else ssl.PROTOCOL_TLS_SERVER)
    tls.check_hostname = False  # IHE ATNA: a node is known by its authority, not by its name
    tls.verify_mode = ssl.CERT_REQUIRED
    try:
        tls.load_verify_locations(ca)
        tls.load_cert_chain(cert, key)
    except OSError as error:
        raise ValueError(f"cert {cert!r}, key {key!r} or ca {ca!r} is not a PEM file: {error}") from error
    return tls


async def _acknowledgements(reader: asyncio.StreamReader, acks: asyncio.Queue[tuple[str, str]]) -> None:
    """Put MSA-1 and MSA-2 of each answer into `acks` until the connection ends."""
    buffer = b""
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            *answers, buffer = (buffer + data).split(_END)
            buffer = buffer[-100_000:]
            for answer in answers:
                await acks.put(verdict(answer.rpartition(_START)[2]))
    if acks.empty():
        acks.put_nowait(("", "-"))  # wakes the task that waits
