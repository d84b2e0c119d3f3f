"""ISO 15765-2 as OBD-II uses it: requests of one frame, answers of one or many, classic CAN, one at a time.

0L data      single frame, L bytes            1L LL data   first frame of LLL bytes
2N data      consecutive frame, N counts up   3F BS ST     flow control: F = 0 go on, 1 wait, 2 overflow
"""

from __future__ import annotations

import asyncio
from collections import deque

from adapters.base import AdapterError
from adapters.can.frames import CanBus, Frame

N_CR_S = 1.0  # ISO 15765-2 table 16: the longest wait for the next consecutive frame

_FRAME = 8  # bytes; ISO 15765-4 requires all of them
_FILLER = b"\xcc"  # a pattern with many edges, as the standard recommends
_GO_ON = bytes([0x30, 0, 0])  # clear to send: all frames, without a pause


class NoAnswer(AdapterError):
    """No answer came in time."""


class BrokenAnswer(AdapterError):
    """An answer violates ISO 15765-2; the text says where."""


class IsoTp:
    """The tester's side: requests by `request_id`, answers by `answer_id`, flow control by `flow_id`."""

    def __init__(self, bus: CanBus, *, request_id: int, flow_id: int, answer_id: int, extended: bool) -> None:
        self._bus = bus
        self._request_id, self._flow_id, self._answer_id = request_id, flow_id, answer_id
        self._extended = extended
        self._waiting: deque[Frame] = deque()

    async def send(self, payload: bytes) -> int:
        """Send a request of 1 to 7 bytes; returns how many late frames of earlier answers it discarded.

        Raises:
            DeviceUnreachable: the bus does not accept it.
        """
        if not 1 <= len(payload) <= 7:
            raise ValueError(f"a request of {len(payload)} bytes; 1 to 7 fit one frame")
        late = len(self._waiting) + len(await self._bus.frames(asyncio.get_running_loop().time()))
        self._waiting.clear()
        await self._bus.send(
            self._request_id,
            (bytes([len(payload)]) + payload).ljust(_FRAME, _FILLER),
            extended=self._extended,
        )
        return late

    async def receive(self, until_s: float) -> bytes:
        """The next answer: its first frame by `until_s` of the loop's time, the others within `N_CR_S` each.

        Raises:
            NoAnswer: no answer began in time.
            BrokenAnswer: the answer broke off, or violates ISO 15765-2.
            AdapterError: the bus ended.
        """
        loop = asyncio.get_running_loop()
        while (data := await self._next(until_s)) is not None:
            kind = data[0] >> 4 if data else -1
            if kind == 0:
                return _single(data)
            if kind == 1:
                return await self._many(data)
            # the standard requires to ignore the rest of a broken answer, and frames of other kinds
            if loop.time() >= until_s:
                break
        raise NoAnswer(f"no answer from 0x{self._answer_id:X}")

    async def _many(self, first: bytes) -> bytes:
        if len(first) < _FRAME:
            raise BrokenAnswer(f"a first frame of {len(first)} bytes")
        length = (first[0] & 0xF) << 8 | first[1]
        if length < _FRAME:  # 0 announces a length of 32 bits, which no service of OBD-II needs
            raise BrokenAnswer(f"a first frame that announces {length} bytes")
        await self._bus.send(self._flow_id, _GO_ON.ljust(_FRAME, _FILLER), extended=self._extended)
        payload, number = bytearray(first[2:]), 1
        while len(payload) < length:
            data = await self._next(asyncio.get_running_loop().time() + N_CR_S)
            if data is None:
                raise BrokenAnswer(f"an answer broke off after {len(payload)} of {length} bytes")
            if not data or data[0] != 0x20 | number & 0xF:
                got = data[:1].hex() or "nothing"
                raise BrokenAnswer(f"frame {got} where consecutive frame {number & 0xF:X} should be")
            part = data[1:][: length - len(payload)]
            if len(data) < _FRAME and len(payload) + len(part) < length:
                raise BrokenAnswer(f"a consecutive frame of {len(data)} bytes in the middle")
            payload += part
            number += 1
        return bytes(payload)

    async def _next(self, until_s: float) -> bytes | None:
        while not self._waiting:
            frames = await self._bus.frames(until_s)
            self._waiting += frames
            if not frames and asyncio.get_running_loop().time() >= until_s:
                return None
        return self._waiting.popleft().data


def _single(data: bytes) -> bytes:
    length = data[0] & 0xF
    if not 1 <= length <= 7 or len(data) <= length:
        raise BrokenAnswer(f"a single frame of {len(data)} bytes that announces {length}")
    return data[1 : 1 + length]
