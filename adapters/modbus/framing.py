"""Finds the answer to a request in the bytes of a connection, and names the bytes that do not fit.

pymodbus drops what does not fit without a word; on a serial line it then drops the answer behind it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import Callable

from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerBase, FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU

_SHOWN = 24  # bytes of an unusable answer that an error shows
_TRANSACTIONS = 100  # whose late answers are known as such
_KEPT = 1_024  # bytes kept in search of a frame; the longest frame has 260
_HEADER = struct.Struct(">HHHB")  # transaction, protocol, length, unit; MODBUS Messaging on TCP/IP, 3.1.3
_READ = (1, 2, 3, 4)
_WRITE_ONE, _WRITE = (5, 6), (5, 6, 15, 16)  # the answer to the first two is the request


class AnswerFramer(FramerBase):
    """Base of both framers: never raises into the event loop, and records what arrived."""

    without_transaction = True  # a late answer looks like any other

    def __init__(self, garbage: Callable[[], None]) -> None:
        super().__init__(DecodePDU(False))
        self.frames: Counter[int] = Counter()  # whole frames so far, by unit
        self.came = asyncio.Event()  # set with each of them
        self.request: object = None  # what is asked now; all tries of a request are equal
        self.heard_s = 0.0  # when the last bytes came, by the event loop
        self.units: set[int] = set()  # that answered the last request
        self._garbage = garbage
        self._sent = b""  # the last request
        self._arrived = b""  # the first bytes since then
        self._bytes = 0  # how many they were
        self._held = 0  # those of them that pymodbus will pass again
        self._odd: list[str] = []  # why they do not fit

    @property
    def partly(self) -> bool:
        """Whether anything arrived since the last request."""
        return self._bytes > 0

    def mismatch(self) -> str:
        """What arrived since the last request, and why it is not the answer; empty where nothing came."""
        if not self._bytes:
            return ""
        shown = self._arrived[:_SHOWN].hex(" ") + (" ..." if self._bytes > _SHOWN else "")
        why = "; ".join(dict.fromkeys(self._odd)) or self._why_no_frame(self._arrived)
        return f"{self._bytes} bytes came that do not fit ({shown}): {why}"

    def handleFrame(self, data: bytes, exp_devid: int, exp_tid: int) -> tuple[int, ModbusPDU | None]:  # noqa: N802 - pymodbus' name
        """The bytes used of `data`, and the answer where it is in them."""
        self.heard_s = asyncio.get_running_loop().time()
        new = len(data) - self._held
        self._bytes += new
        if len(self._arrived) < _KEPT:
            self._arrived += data[len(data) - new :][: _KEPT - len(self._arrived)]
        used, found = self._search(data, exp_devid, exp_tid)
        used = max(used, len(data) - _KEPT)
        self._held = len(data) - used
        return used, found

    def encode(self, payload: bytes, device_id: int, tid: int) -> bytes:
        self._sent = super().encode(payload, device_id, tid)
        self._arrived, self._bytes, self._held, self._odd = b"", 0, 0, []
        self.units = set()
        return self._sent

    def _search(self, data: bytes, unit: int, tid: int) -> tuple[int, ModbusPDU | None]:
        raise NotImplementedError

    def _why_no_frame(self, arrived: bytes) -> str:
        raise NotImplementedError

    def _frame(self, unit: int) -> None:
        self.frames[unit] += 1
        self.came.set()

    def _decoded(self, body: bytes, unit: int, tid: int) -> ModbusPDU | None:
        try:
            pdu = self.decoder.decode(body)
        except (ModbusException, struct.error, IndexError):
            pdu = None
        if pdu is None:
            self._odd.append(f"a frame of function {body[0]} that breaks off or violates its layout")
            return None
        pdu.dev_id, pdu.transaction_id = unit, tid
        return pdu


class TcpFramer(AnswerFramer, FramerSocket):
    """Modbus TCP: a header with transaction, length and unit."""

    def __init__(self, garbage: Callable[[], None]) -> None:
        super().__init__(garbage)
        self.without_transaction = False  # until the device answers with transaction 0
        self._asked: dict[int, object] = {}  # earlier transactions, each with its request

    def encode(self, payload: bytes, device_id: int, tid: int) -> bytes:
        self._asked.pop(tid, None)
        self._asked[tid] = self.request
        if len(self._asked) > _TRANSACTIONS:
            del self._asked[next(iter(self._asked))]
        return super().encode(payload, device_id, tid)

    def _search(self, data: bytes, unit: int, tid: int) -> tuple[int, ModbusPDU | None]:
        at, found = 0, None
        while len(data) - at > _HEADER.size:
            transaction, protocol, length, sender = _HEADER.unpack_from(data, at)
            if protocol or not 2 <= length <= 254 + 1:
                self._garbage()
                return len(data), None
            if length == 2 and len(data) - at == 9:
                length = 3  # some devices miscount their exceptions
            if len(data) - at < 6 + length:
                break
            body = data[at + _HEADER.size : at + 6 + length]
            at += 6 + length
            fits = self._fits(transaction, sender, unit, tid)
            if fits and found is None:
                found = self._decoded(body, sender, tid)
        return at, found

    def _fits(self, transaction: int, sender: int, unit: int, tid: int) -> bool:
        self._frame(sender)
        if not transaction:
            self.without_transaction = True
        elif transaction != tid and self._asked.get(transaction) is not self.request:
            hint = ": is `timeout_s` too short?" if transaction in self._asked else ""
            what = "answers an earlier request" if transaction in self._asked else "was not asked"
            self._odd.append(f"it has transaction {transaction}, which {what}, and {tid} was asked{hint}")
            return False
        self.units.add(sender)
        if unit and sender != unit:
            self._odd.append(f"it is from unit {sender}, and unit {unit} was asked")
            return False
        return True

    def _why_no_frame(self, arrived: bytes) -> str:
        if _is_rtu(arrived, self._sent[6:8]):
            return "it is a frame of Modbus RTU: use rtu+tcp://"
        if len(arrived) < _HEADER.size + 1:
            return "the answer breaks off within its header"
        _, protocol, length, _ = _HEADER.unpack_from(arrived)
        if protocol:
            return f"its header has protocol {protocol} instead of 0"
        if len(arrived) >= 6 + length:
            return "it came after the last try: is `timeout_s` too short?"
        return (
            f"its header announces a length of {length}, and {len(arrived) - 6} bytes follow: the answer"
            " breaks off, or its length is wrong"
        )


def _is_rtu(arrived: bytes, head: bytes) -> bool:
    return arrived[:2] == head and FramerRTU.check_CRC(arrived[:-2], int.from_bytes(arrived[-2:], "big"))


class RtuFramer(AnswerFramer, FramerRTU):
    """Modbus RTU: a frame begins anywhere, and is known by its checksum.

    Noise before a frame and the echo of the request, which some converters send, are skipped.
    """

    def _search(self, data: bytes, unit: int, _tid: int) -> tuple[int, ModbusPDU | None]:
        at = used = max(0, len(data) - _KEPT)
        found: ModbusPDU | None = None
        while at < len(data):
            end = self._end(data, at)
            if end is None:
                at += 1
                continue
            if at > used:
                self._odd.append(f"noise: {data[used:at][:_SHOWN].hex(' ')} before a frame")
            frame, at = data[at : end - 2], end
            used = end
            if frame + data[end - 2 : end] == self._sent and frame[1] not in _WRITE_ONE:
                self._odd.append("it is the echo of the request")
                continue
            self._frame(frame[0])
            self.units.add(frame[0])
            if unit and frame[0] != unit:
                self._odd.append(f"it is from unit {frame[0]}, and unit {unit} was asked")
            elif found is None:
                found = self._decoded(frame[1:], frame[0], 0)
        return used, found

    def _end(self, data: bytes, at: int) -> int | None:
        """The end of the frame with a right checksum that begins at `at`."""
        size = self._size(data, at)
        if size is None or len(data) < at + size:
            return None
        end = at + size
        sent = int.from_bytes(data[end - 2 : end], "big")
        return end if FramerRTU.check_CRC(data[at : end - 2], sent) else None

    def _size(self, data: bytes, at: int) -> int | None:
        if self._sent and data.startswith(self._sent, at):
            return len(self._sent)
        function = data[at + 1] if at + 1 < len(data) else 0
        if function in _READ and at + 2 < len(data):
            return 5 + data[at + 2]
        if function in _WRITE:
            return 8
        if 0x80 < function < 0xC0:
            return 5
        if function == 0x2B:
            with contextlib.suppress(IndexError, struct.error):  # the frame has not arrived as a whole
                if kind := self.decoder.lookupPduClass(data[at:]):
                    return int(kind.calculateRtuFrameSize(data[at:])) or None
        return None

    def _why_no_frame(self, arrived: bytes) -> str:
        if self._sent[:2] == arrived[6:8] and not any(arrived[2:4]):
            return "it is a frame of Modbus TCP: use tcp://"
        at = arrived.find(self._sent[:2])
        size = self._size(arrived, at) if at >= 0 else None
        if size is None:
            return "there is no answer in it: check baud, parity, stop bits and the wiring"
        if len(arrived) - at < size:
            return f"the answer breaks off after {len(arrived) - at} of {size} bytes"
        frame = arrived[at : at + size]
        right = FramerRTU.compute_CRC(frame[:-2]).to_bytes(2, "big").hex(" ")
        return f"its checksum is {frame[-2:].hex(' ')}, and {right} would be right"
