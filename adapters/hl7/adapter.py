"""HL7 v2 observation reports (ORU^R01) over MLLP: what bedside monitors send, de-identified.

A monitor connects to us (`mllp-listen://`) or we to it (`mllp://`). What names a person stops here; see
docs/privacy.md. A message is acknowledged when all its readings have been handed on: AA says that the agent
has them in memory and writes them to its outbox with the next batch; it does not say that they are on disk.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Iterator

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    ProtocolViolation,
    Reading,
    why_no_connection,
)
from adapters.device_time import DeviceClock
from adapters.hl7.ack import AckBuilder, Verdict, memory, wanted
from adapters.hl7.deidentify import Deidentifier, read_key
from adapters.hl7.identity import count
from adapters.hl7.message import (
    Hl7Message,
    Mismatch,
    Unfit,
    observed_at,
    offset_of,
    parse,
    require_report,
    time_ns,
)
from adapters.hl7.mllp import Arrival, MllpConnections, MllpPeer, TooLong
from adapters.hl7.options import Hl7Options, network, networks, streams, where, zone
from adapters.hl7.rows import Bedside, Times
from adapters.hl7.tls import context, why_not_secured
from wire.clock import NS_PER_S, Clock
from wire.messages import Stream

log = logging.getLogger("edgebed.adapters.hl7")

_TURN = 64  # readings handed on before other tasks get their turn


class Hl7(Adapter[Hl7Options]):
    """The monitors behind one URL: streams `vitals`, one for each waveform, and `patient` with a key."""

    Options = Hl7Options
    kind = "hl7"

    def __init__(self, options: Hl7Options, clock: Clock) -> None:
        super().__init__(options, clock)
        self._where = where(options.url)
        self._allowed = networks(options)
        self._zone = zone(options.timezone)
        self._streams = streams(options)
        self._networks = {name: network(said.peer) for name, said in options.monitors.items()}
        self._answers = AckBuilder(clock)
        self._memory = memory(clock, options.url)
        self._beds: dict[str, Bedside] = {}
        self._deidentifier: Deidentifier | None = None
        self._line: MllpConnections | None = None
        self._first: Arrival | None = None
        self._told: set[tuple[str, str]] = set()

    def streams(self) -> dict[str, Stream]:
        """Of each monitor `vitals`, the waveforms, and `patient` where there is a key."""
        return self._streams

    async def open(self) -> None:
        """Connect or listen, and wait for the first message."""
        options = self.options
        key = read_key(options.patient_key_file) if options.patient_key_file is not None else None
        self._deidentifier = Deidentifier(key, self.counters)
        self._beds = {name: self._bedside(name) for name in list(options.monitors) or [""]}
        self._line = MllpConnections(
            self.clock,
            self.counters,
            max_bytes=options.max_message_kb * 1024,
            half_s=options.half_message_s,
            most=max(1, len(options.monitors)),
            allowed=self._allowed,
            secure=context(options.tls, listening=self._where[0] == "mllp-listen") if options.tls else None,
        )
        try:
            await self._reach(self._line)
            self._first = await self._hear(asyncio.get_running_loop().time() + options.silence_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every connection."""
        line, self._line = self._line, None
        self._first = None
        if line is not None:
            await line.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Rows of message after message; each is acknowledged when its last row was taken."""
        loop, silence_s = asyncio.get_running_loop(), self.options.silence_s
        first, self._first = self._first, None
        arrival = first or await self._hear(loop.time() + silence_s)
        while True:
            taken = _Taking()
            for number, row in enumerate(_wordless(self._take(arrival, taken))):
                yield row
                if number % _TURN == 0:
                    await asyncio.sleep(0)  # ten minutes of a waveform in one message: others want their turn
            await self._answer(arrival.peer, taken)
            if taken.error is not None:
                raise taken.error
            arrival = await self._hear(loop.time() + silence_s)

    # --- connections

    async def _reach(self, line: MllpConnections) -> None:
        scheme, host, port = self._where
        try:
            if scheme == "mllp":
                tls = self.options.tls
                async with asyncio.timeout(self.options.silence_s):
                    await line.connect(host, port, tls.name if tls else "")
            else:
                await line.listen(host, port)
        except TimeoutError as error:
            raise DeviceUnreachable(f"{self.options.url} gives no answer").at(
                self.options.url, error
            ) from error
        except (ssl.SSLError, ConnectionAbortedError, ConnectionResetError) as error:
            why = why_not_secured(error) if self.options.tls else why_no_connection(error)
            raise DeviceUnreachable(f"{self.options.url} cannot be read: {why}") from error
        except OSError as error:
            what = "cannot be listened on" if scheme == "mllp-listen" else "is not there"
            raise DeviceUnreachable(f"{self.options.url} {what}: {why_no_connection(error)}").at(
                self.options.url, error
            ) from error

    async def _hear(self, until_s: float) -> Arrival:
        """The next message.

        Raises:
            DeviceUnreachable: the monitor has gone, or never came.
            DeviceStalled: it is connected and silent.
        """
        line, url = self._line, self.options.url
        if line is None:
            raise DeviceUnreachable(f"{url} is not open")
        loop = asyncio.get_running_loop()
        gone: AdapterError | None = None
        while True:
            try:
                async with asyncio.timeout_at(until_s):
                    arrival = await line.inbox.get()
            except TimeoutError as error:
                if not line.peers:
                    tried = f"; one that tried was refused: {line.refused}" if line.refused else ""
                    raise gone or DeviceUnreachable(f"no monitor has connected to {url}{tried}") from error
                raise DeviceStalled(
                    f"the monitor at {url} is connected and sent no message for {self.options.silence_s:g} s"
                ).coded("device-silent", seconds=self.options.silence_s) from error
            if arrival.frame is not None:
                if gone is not None:
                    self.counters["rejoined"] += 1
                return arrival
            line.ended(arrival.peer)
            gone = arrival.error or DeviceUnreachable("the monitor ended the connection")
            if self._where[0] == "mllp" or (
                isinstance(gone, ProtocolViolation) and not self.options.monitors
            ):
                raise gone
            if isinstance(gone, ProtocolViolation):
                self.counters["peers_lied"] += 1
            if not line.peers:
                until_s = min(until_s, loop.time() + self.options.rejoin_s)

    async def _answer(self, peer: MllpPeer, taken: _Taking) -> None:
        code = wanted(taken.message, self.options.ack, taken.verdict) if taken.answer else ""
        if code and not await peer.send(self._answers.build(taken.message, code, taken.mismatches)):
            self.counters["acks_lost"] += 1

    # --- messages

    def _take(self, arrival: Arrival, taken: _Taking) -> Iterator[Reading]:
        """The rows of one message; what is to be answered is noted in `taken`."""
        deidentifier = self._gate()
        try:
            taken.message = message = parse(arrival.frame or b"")
            if isinstance(arrival.frame, TooLong):
                most = f"longer than {self.options.max_message_kb} KiB, see max_message_kb"
                raise Unfit(Mismatch("MSH", 1, 0, 207, most))
            require_report(message)
        except Unfit as error:
            self._refuse(taken, error.mismatch)
            return
        self.counters["messages"] += 1
        if message.msh(9) == b"ACK":
            self.counters["unasked_acks"] += 1
            taken.answer = False
            return
        name = self._whose(message, arrival.peer)
        if name is None:
            self._other_device(taken)
            return
        times = self._times(message, arrival)
        sender, at = message.msh(3), observed_at(message)
        before = self._memory.find(sender, message.control_id, at)
        if before is not None:
            self.counters["resent"] += 1
            taken.verdict = before
            return
        if self._memory.reused(sender, message.control_id, at):
            self.counters["control_id_reused"] += 1
        if message.odd_line_ends:
            self.counters["odd_line_ends"] += 1
        count(message, deidentifier, self.counters)
        bed = self._beds[name]
        try:
            yield from bed.readings(message, times, taken.mismatches)
        finally:
            deidentifier.forget()
        if bed.current is not None:
            self._memory.patients[name] = bed.current
        if taken.mismatches:
            taken.verdict = "E"
            self.counters["mismatched"] += 1
            self._tell(taken.mismatches)
        self._memory.keep(sender, message.control_id, at, taken.verdict)

    def _times(self, message: Hl7Message, arrival: Arrival) -> Times:
        options = self.options
        raw = message.msh(7)
        zone = offset_of(raw) or self._zone
        at_ns = time_ns(raw, zone)
        clock = arrival.peer.time = arrival.peer.time or DeviceClock(
            options.url,
            log,
            self.counters,
            max_past_s=options.max_skew_s,
            max_ahead_s=options.max_ahead_s,
            hint=" (see `timezone`)",
        )
        sent_ns, doubt = clock.stamp(
            at_ns if at_ns is not None else time_ns(observed_at(message), zone), arrival.at_ns
        )
        return Times(
            zone, sent_ns - clock.shift_ns, clock.shift_ns, doubt=doubt, limits=clock.limits(arrival.at_ns)
        )

    def _whose(self, message: Hl7Message, peer: MllpPeer) -> str | None:
        """Which monitor sent it: empty where there is one, None where it is none of ours."""
        options = self.options
        application, facility = (message.text(message.msh(field)) for field in (3, 4))
        if (options.application or application) != application or (options.facility or facility) != facility:
            return None
        if not options.monitors:
            return ""
        for name, said in options.monitors.items():
            network = self._networks[name]
            if (
                (said.application or application) == application
                and (said.facility or facility) == facility
                and (network is None or ipaddress.ip_address(peer.host.partition("%")[0]) in network)
            ):
                return name
        return None

    def _other_device(self, taken: _Taking) -> None:
        self._refuse(taken, Mismatch("MSH", 1, 3, 207, "this sender is not expected here"))
        self.counters["other_device"] += 1
        if not self.options.monitors:
            # its name is not repeated here: an error travels, and a device can put anything into its name
            expected = " / ".join(word for word in (self.options.application, self.options.facility) if word)
            taken.error = ProtocolViolation(
                f"MSH-3 and MSH-4 are not those of {expected}: another device answers"
            )

    def _refuse(self, taken: _Taking, mismatch: Mismatch) -> None:
        taken.verdict = "R"
        taken.mismatches.append(mismatch)
        self.counters["refused"] += 1
        self._tell([mismatch])

    def _tell(self, mismatches: list[Mismatch]) -> None:
        """Log each kind once: a monitor repeats its mistakes every second."""
        for mismatch in mismatches:
            if (mismatch.where, mismatch.text) not in self._told and len(self._told) < 100:
                self._told.add((mismatch.where, mismatch.text))
                log.warning(
                    "%s: %s (number %d): %s",
                    self.options.url,
                    mismatch.where,
                    mismatch.number,
                    mismatch.text,
                )

    def _bedside(self, name: str) -> Bedside:
        options = self.options
        bed = Bedside(
            f"{name}-" if name else "",
            options.fields,
            options.waveforms,
            self._gate(),
            self.counters,
            patients=options.patient_key_file is not None,
            old_ns=int(options.value_age_s * NS_PER_S),
        )
        if options.patient_key_file is not None:
            bed.current = self._memory.patients.get(name)
        return bed

    def _gate(self) -> Deidentifier:
        if self._deidentifier is None:
            raise DeviceUnreachable(f"{self.options.url} is not open")
        return self._deidentifier


class _Taking:
    """How the reading of one message goes: what is answered to it, and whether it ends the reading."""

    def __init__(self) -> None:
        self.message: Hl7Message | None = None
        self.verdict: Verdict = "A"
        self.mismatches: list[Mismatch] = []
        self.answer = True
        self.error: AdapterError | None = None


def _wordless(rows: Iterator[Reading]) -> Iterator[Reading]:
    """What fails in here fails without the words it failed at: they can be a patient's."""
    try:
        yield from rows
    except AdapterError:
        raise
    except Exception as error:  # noqa: BLE001 - the seam where any text could carry an identifier
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{type(error).__name__}, line {trace.tb_lineno if trace else 0}"
        raise ProtocolViolation(
            f"a message that this adapter cannot read ({where}): please report it"
        ) from None
