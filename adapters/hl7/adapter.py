"""Reads bedside monitors that send HL7 v2 observation reports (ORU^R01) over MLLP, and de-identifies them.

A monitor connects to the agent (`mllp-listen://`), or the agent to a monitor (`mllp://`). Identifying values
stay in the adapter, see docs/privacy.md. A message is acknowledged when all its readings were taken. AA means
that the agent has the readings in memory and writes them to its outbox with the next batch. It does not mean
that they are on disk.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from hashlib import blake2b
from weakref import ref

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    ProtocolViolation,
    Reading,
    why_no_connection,
)
from adapters.device_time import DeviceClock, time_zone
from adapters.hl7.ack import AckBuilder, TakenMessage, Verdict, ack_code, answered_messages
from adapters.hl7.catalog import VITALS
from adapters.hl7.deidentify import Deidentifier, read_key
from adapters.hl7.identity import count_identifiers
from adapters.hl7.message import (
    Hl7Message,
    MessageRejected,
    Mismatch,
    observed_at,
    offset_of,
    parse,
    require_report,
    time_ns,
)
from adapters.hl7.mllp import Arrival, MllpConnections, MllpLimits, MllpPeer, TooLong
from adapters.hl7.options import Hl7Options, network, networks, streams, where
from adapters.hl7.rows import Bedside, BedsideSettings, Times
from adapters.hl7.tls import context, why_not_secured
from adapters.hl7.unread import UnreadNotes
from wire.clock import NS_PER_S, Clock
from wire.messages import Stream

log = logging.getLogger("edgebed.adapters.hl7")

_ROWS_PER_TURN = 64  # rows yielded before other tasks run


class Hl7(Adapter[Hl7Options]):
    """The monitors behind one URL: streams `vitals`, one for each waveform, and `patient` with a key."""

    Options = Hl7Options
    kind = "hl7"

    def __init__(self, options: Hl7Options, clock: Clock) -> None:
        super().__init__(options, clock)
        self._where = where(options.url)
        self._allowed = networks(options)
        self._zone = time_zone(options.timezone)
        self._streams = streams(options)
        if options.fields == VITALS:  # no monitor has every module
            self.may_be_null = set(VITALS)
        self._networks = {name: network(monitor.peer) for name, monitor in options.monitors.items()}
        self._acks = AckBuilder(clock)
        self._answered = answered_messages(clock, options.url)
        self._beds: dict[str, Bedside] = {}
        self._deidentifier: Deidentifier | None = None
        self._connections: MllpConnections | None = None
        self._first: Arrival | None = None
        self._logged: set[tuple[str, str]] = set()

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.silence_s

    def streams(self) -> dict[str, Stream]:
        """For each monitor `vitals`, the waveforms, and `patient` if there is a key."""
        return self._streams

    async def open(self) -> None:
        """Connect or listen, and wait for the first message."""
        options = self.options
        key = read_key(options.patient_key_file) if options.patient_key_file is not None else None
        self._deidentifier = Deidentifier(key, self.counters)
        self._beds = {name: self._bedside(name) for name in list(options.monitors) or [""]}
        self._connections = MllpConnections(
            self.clock,
            self.counters,
            MllpLimits(options.max_message_kb * 1024, options.half_message_s, max(1, len(options.monitors))),
            allowed=self._allowed,
            secure=context(options.tls, listening=self._where[0] == "mllp-listen") if options.tls else None,
        )
        try:
            await self._connect(self._connections)
            self._first = await self._next_message(self.clock.flowing_s() + options.silence_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all connections."""
        connections, self._connections = self._connections, None
        self._first = None
        if connections is not None:
            await connections.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield the rows of each message; a message is acknowledged when its last row was taken."""
        now_s, silence_s = self.clock.flowing_s, self.options.silence_s
        first, self._first = self._first, None
        arrival = first or await self._next_message(now_s() + silence_s)
        while True:
            result = _MessageResult()
            for number, row in enumerate(_without_message_text(self._read(arrival, result))):
                yield row
                if number % _ROWS_PER_TURN == 0:
                    # one message can contain ten minutes of a waveform: let other tasks run
                    await asyncio.sleep(0)
            await self._answer(arrival, result)
            if result.error is not None:
                raise result.error
            arrival = await self._next_message(now_s() + silence_s)

    # --- connections

    async def _connect(self, connections: MllpConnections) -> None:
        scheme, host, port = self._where
        try:
            if scheme == "mllp":
                tls = self.options.tls
                async with asyncio.timeout(self.options.silence_s):
                    await connections.connect(host, port, tls.name if tls else "")
            else:
                await connections.listen(host, port)
        except TimeoutError as error:
            raise DeviceUnreachable(f"{self.options.url} does not answer").at(
                self.options.url, error
            ) from error
        except (ssl.SSLError, ConnectionAbortedError, ConnectionResetError) as error:
            why = why_not_secured(error) if self.options.tls else why_no_connection(error)
            raise DeviceUnreachable(f"{self.options.url} cannot be read: {why}") from error
        except OSError as error:
            raise DeviceUnreachable(f"{self.options.url} cannot be opened: {why_no_connection(error)}").at(
                self.options.url, error
            ) from error

    async def _next_message(self, until_s: float) -> Arrival:
        """The next message.

        Raises:
            DeviceUnreachable: the monitor has disconnected, or has never connected.
            DeviceStalled: the monitor is connected but silent.
        """
        connections, url = self._connections, self.options.url
        if connections is None:
            raise DeviceUnreachable(f"{url} is not open")
        gone: AdapterError | None = None
        while True:
            try:
                async with self.clock.timeout_at(until_s):
                    arrival = await connections.inbox.get()
            except TimeoutError as error:
                if not connections.peers:
                    refused = connections.refused
                    why = f"; a connection was refused: {refused}" if refused else ""
                    raise gone or DeviceUnreachable(f"no monitor has connected to {url}{why}") from error
                seconds = self.options.silence_s
                why = f"the monitor at {url} is connected but sent no message for {seconds:g} s"
                if not (stray := connections.stray):
                    raise DeviceStalled(why).coded("device-silent", seconds=seconds) from error
                raise DeviceStalled(f"{why}, only {stray}").coded(
                    "device-not-read", seconds=seconds, what=stray
                ) from error
            if arrival.frame is not None:
                if gone is not None:
                    self.counters["rejoined"] += 1
                return arrival
            connections.ended(arrival.peer)
            gone = arrival.error or DeviceUnreachable("the monitor ended the connection")
            if self._where[0] == "mllp" or (
                isinstance(gone, ProtocolViolation) and not self.options.monitors
            ):
                raise gone
            if isinstance(gone, ProtocolViolation):
                self.counters["peers_lied"] += 1
            if not connections.peers:
                until_s = min(until_s, self.clock.flowing_s() + self.options.rejoin_s)

    async def _answer(self, arrival: Arrival, result: _MessageResult) -> None:
        code = ack_code(result.message, self.options.ack, result.verdict) if result.answer else ""
        if code and not await arrival.peer.send(self._acks.build(result.message, code, result.mismatches)):
            self.counters["acks_lost"] += 1
        elif result.taken is not None:
            # a monitor that gets no answer does not wait for one: a copy on the same connection is new
            result.taken.answered(self.clock.flowing_s() if code else arrival.at_s)

    # --- messages

    def _read(self, arrival: Arrival, result: _MessageResult) -> Iterator[Reading]:
        """The rows of one message; the answer to it is noted in `result`."""
        deidentifier = self._gate()
        try:
            result.message = message = parse(arrival.frame or b"")
            if isinstance(arrival.frame, TooLong):
                why = f"longer than {self.options.max_message_kb} KiB, see max_message_kb"
                raise MessageRejected(Mismatch("MSH", 1, 0, 207, why))
            require_report(message)
        except MessageRejected as error:
            self._refuse(result, error.mismatch)
            return
        self.counters["messages"] += 1
        if message.msh(9) == b"ACK":
            self.counters["unasked_acks"] += 1
            self.not_read("an acknowledgement, although nothing was sent")
            result.answer = False
            return
        name = self._sender(message, arrival.peer)
        if name is None:
            self._other_device(result)
            return
        times = self._times(message, arrival, name)
        sender = message.sender
        # with the name: monitors that differ only in their address may send the same bytes
        digest = blake2b(name.encode() + b"\0" + (arrival.frame or b""), digest_size=16).digest()
        before = self._answered.taken.get(digest)
        if before is not None and before.came_again(sender, arrival.peer.host, arrival.peer, arrival.at_s):
            self.counters["resent"] += 1
            self.not_read("a copy of an earlier message: taken for its resend, see docs/adapters.md#hl7")
            before.connection = ref(arrival.peer)
            result.verdict, result.taken = before.verdict, before
            return
        if self._answered.reused(sender, message.control_id, digest):
            self.counters["control_id_reused"] += 1
        if message.odd_line_ends:
            self.counters["odd_line_ends"] += 1
        count_identifiers(message, deidentifier, self.counters)
        bed = self._beds[name]
        try:
            yield from bed.readings(message, times, result.mismatches)
        finally:
            deidentifier.forget()
        if bed.current is not None:
            self._answered.patients[name] = bed.current
        if result.mismatches:
            result.verdict = "E"
            self.counters["mismatched"] += 1
            self._log(result.mismatches)
        result.taken = TakenMessage(sender, arrival.peer.host, result.verdict, ref(arrival.peer))
        self._answered.keep(sender, message.control_id, digest, result.taken)

    def _times(self, message: Hl7Message, arrival: Arrival, name: str) -> Times:
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
        sent_ns, quality = clock.stamp(
            at_ns if at_ns is not None else time_ns(observed_at(message), zone), arrival.at_ns
        )
        shift_s = clock.shift_ns / NS_PER_S
        off = clock.ahead or (f"are off by {-shift_s:,.0f} s, see `timezone`" if shift_s else "")
        self.times_are(off, name)
        return Times(
            zone,
            sent_ns - clock.shift_ns,
            clock.shift_ns,
            quality=quality,
            limits=clock.limits(arrival.at_ns),
        )

    def _sender(self, message: Hl7Message, peer: MllpPeer) -> str | None:
        """The name of the monitor that sent a message: empty without `monitors`, None if it is unknown."""
        options = self.options
        application, facility = (message.text(message.msh(field)) for field in (3, 4))
        if (options.application or application) != application or (options.facility or facility) != facility:
            return None
        if not options.monitors:
            return ""
        for name, monitor in options.monitors.items():
            network = self._networks[name]
            if (
                (monitor.application or application) == application
                and (monitor.facility or facility) == facility
                and (network is None or ipaddress.ip_address(peer.host.partition("%")[0]) in network)
            ):
                return name
        return None

    def _other_device(self, result: _MessageResult) -> None:
        self._refuse(result, Mismatch("MSH", 1, 3, 207, "this sender is not expected here"))
        self.counters["other_device"] += 1
        if not self.options.monitors:
            # without the name in the message: it can contain any text, and errors leave the node
            expected = " / ".join(word for word in (self.options.application, self.options.facility) if word)
            result.error = ProtocolViolation(
                f"MSH-3 and MSH-4 are not those of {expected}: another device answers"
            )

    def _refuse(self, result: _MessageResult, mismatch: Mismatch) -> None:
        result.verdict = "R"
        result.mismatches.append(mismatch)
        self.counters["refused"] += 1
        self.not_read(f"a message that was refused: {mismatch.where}: {mismatch.text}")
        self._log([mismatch])

    def _log(self, mismatches: list[Mismatch]) -> None:
        """Log each kind of error once: a monitor may repeat it every second."""
        for mismatch in mismatches:
            if (mismatch.where, mismatch.text) not in self._logged and len(self._logged) < 100:
                self._logged.add((mismatch.where, mismatch.text))
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
            BedsideSettings(
                options.fields,
                options.waveforms,
                patients=options.patient_key_file is not None,
                old_ns=int(options.value_age_s * NS_PER_S),
            ),
            self._gate(),
            self.counters,
            UnreadNotes(self.not_read, self.was_read),
        )
        if options.patient_key_file is not None:
            bed.current = self._answered.patients.get(name)
        return bed

    def _gate(self) -> Deidentifier:
        if self._deidentifier is None:
            raise DeviceUnreachable(f"{self.options.url} is not open")
        return self._deidentifier


class _MessageResult:
    """The answer to one message, and the error that ends the reading, if any."""

    def __init__(self) -> None:
        self.message: Hl7Message | None = None
        self.verdict: Verdict = "A"
        self.mismatches: list[Mismatch] = []
        self.taken: TakenMessage | None = None
        self.answer = True
        self.error: AdapterError | None = None


def _without_message_text(rows: Iterator[Reading]) -> Iterator[Reading]:
    """The same rows; an unexpected error loses its text, which could contain the name of a patient."""
    try:
        yield from rows
    except AdapterError:
        raise
    except Exception as error:  # noqa: BLE001 - the text of any error could contain an identifier
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{type(error).__name__}, line {trace.tb_lineno if trace else 0}"
        raise ProtocolViolation(
            f"a message cannot be read because of an error in this adapter ({where}): please report it"
        ) from None
