"""Reads frames of any python-can bus in a thread and hands them over through a bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import can

from adapters.base import (
    AdapterError,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    why_no_connection,
)
from adapters.can.options import BusOptions
from adapters.can.slcan import NotSlcan, SerialCan
from wire.clock import Clock

log = logging.getLogger("edgebed.adapters.can")
# python-can's log repeats what the errors of this adapter say
logging.getLogger("can").setLevel(logging.CRITICAL)

_POLL_S = 0.1  # the longest time until the thread notices that the bus is being closed
_SEND_S = 1.0
_CLOSE_S = 2.5
_MAX_IDS = 12  # ids that an error names


@dataclass(frozen=True, slots=True)
class Frame:
    """One data frame; `at_ns` is the time of receipt by the agent's clock."""

    id: int
    extended: bool
    data: bytes
    at_ns: int


class CanBus:
    """A bus that a thread opens, reads and shuts down: python-can blocks, and a driver may hang.

    `wanted` holds pairs of id and extended. Other frames are filtered out, by the kernel where it can.
    """

    def __init__(
        self,
        options: BusOptions,
        clock: Clock,
        counters: Counter[str],
        *,
        wanted: Collection[tuple[int, bool]],
        sends: bool,
        timeout_at: Callable[[float], AbstractAsyncContextManager[object]] = asyncio.timeout_at,
    ) -> None:
        self._options, self._clock, self._counters = options, clock, counters
        self._wanted = frozenset(wanted)
        self._sends = sends
        self._timeout_at = timeout_at
        self._frames: deque[Frame] = deque()
        self._thread_counters: Counter[str] = Counter()  # only the thread writes it
        self._foreign: set[tuple[int, bool]] = set()
        self._error: AdapterError | None = None
        self._bus: can.BusABC | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._unfiltered = threading.Event()
        self._arrived = asyncio.Event()
        self._ready = asyncio.Event()
        self._notified = False

    async def open(self) -> None:
        """Open the bus within `timeout_s`; whether there are frames on it is not known then.

        Raises:
            AdapterError: the bus does not exist or cannot be opened.
        """
        loop, options = asyncio.get_running_loop(), self._options
        self._thread = threading.Thread(
            target=self._run, args=(loop,), name=f"can-{options.channel}"[:40], daemon=True
        )
        self._thread.start()
        try:
            async with asyncio.timeout(options.timeout_s):
                await self._ready.wait()
        except TimeoutError as error:
            raise DeviceUnreachable(f"{options.where} did not open within {options.timeout_s:g} s") from error
        if self._bus is None and self._error is not None:
            raise self._error

    async def frames(self, until_s: float, *, peek: bool = False) -> list[Frame]:
        """The frames that came; waits for the first until `until_s` of `timeout_at`. `peek` keeps them.

        Raises:
            AdapterError: the bus has ended, and all its frames were taken.
        """
        if self._frames or self._error is not None:
            await asyncio.sleep(0)  # a flood must not block the other tasks of the loop
        else:
            with contextlib.suppress(TimeoutError):
                async with self._timeout_at(until_s):
                    await self._arrived.wait()
        self._arrived.clear()
        self._notified = False
        self._take_counters()
        if not self._frames and self._error is not None:
            raise self._error
        if peek:
            return list(self._frames)
        taken = []
        for _ in range(len(self._frames)):
            with contextlib.suppress(IndexError):  # the thread has just dropped it
                taken.append(self._frames.popleft())
        return taken

    async def send(self, can_id: int, data: bytes, *, extended: bool) -> None:
        """Send one data frame.

        Raises:
            DeviceUnreachable: the bus does not accept it.
        """
        bus, where = self._bus, self._options.where
        if bus is None:
            raise self._error or DeviceUnreachable(f"{where} is not open")
        message = can.Message(arbitration_id=can_id, data=data, is_extended_id=extended)
        try:
            # in a thread: a serial port blocks until its hardware is ready
            await asyncio.to_thread(bus.send, message, _SEND_S)
        except (can.CanError, OSError, ValueError, AttributeError, TypeError) as error:
            # pyserial raises the last two when its port was closed meanwhile
            raise DeviceUnreachable(f"{where} does not accept frames: {_text(error)}") from error

    async def foreign(self, seconds: float) -> list[str]:
        """Listen to all frames for some seconds; returns the ids of other frames, which an error names."""
        self._unfiltered.set()
        await asyncio.sleep(seconds)
        return [f"0x{one:X}" for one, _ in sorted(self._foreign.copy())]

    async def close(self) -> None:
        """End the thread; where its driver hangs, leave it behind after 2.5 s: it ends with the process."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is None:
            return
        deadline = asyncio.get_running_loop().time() + _CLOSE_S
        while thread.is_alive():  # polling: a thread that hangs would never set an event
            if asyncio.get_running_loop().time() > deadline:
                log.warning(
                    "%s does not close: its driver hangs; the thread is left behind", self._options.where
                )
                break
            await asyncio.sleep(0.01)
        self._take_counters()

    def _take_counters(self) -> None:
        for name, number in self._thread_counters.copy().items():
            self._counters[name] = number

    # --- the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        bus: can.BusABC | None = None
        try:
            with _translated(self._options.where, opening=True):
                bus = self._bus = _opened(self._options, self._wanted, sends=self._sends)
            _set(loop, self._ready)
            with _translated(self._options.where):
                self._read(bus, loop)
        except AdapterError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - drivers of many makers; a thread has no caller that could handle it
            self._error = DeviceUnreachable(f"{self._options.where}: {type(error).__name__}: {_text(error)}")
            self._error.__cause__ = error
        finally:
            self._bus = None
            if bus is not None:
                with contextlib.suppress(Exception):
                    bus.shutdown()
            _set(loop, self._ready)
            _set(loop, self._arrived)

    def _read(self, bus: can.BusABC, loop: asyncio.AbstractEventLoop) -> None:
        open_to_all = False
        while not self._stop.is_set():
            if self._unfiltered.is_set() and not open_to_all:
                bus.set_filters(None)
                open_to_all = True
            message = bus.recv(_POLL_S)
            if message is not None:
                self._take(message, loop)

    def _take(self, message: can.Message, loop: asyncio.AbstractEventLoop) -> None:
        at_ns = self._clock.now_ns()
        if message.is_error_frame or message.is_remote_frame:
            self._thread_counters["error_frames" if message.is_error_frame else "remote_frames"] += 1
            return
        key = (message.arbitration_id, message.is_extended_id)
        if key not in self._wanted:
            if len(self._foreign) < _MAX_IDS:
                self._foreign.add(key)
            return
        if len(message.data) != message.dlc:
            self._thread_counters["malformed"] += 1
            return
        if len(self._frames) >= self._options.queue:
            self._thread_counters["dropped"] += 1
            with contextlib.suppress(IndexError):  # the reader has just taken it
                self._frames.popleft()
        self._frames.append(Frame(*key, bytes(message.data), at_ns))
        if not self._notified:
            self._notified = True
            _set(loop, self._arrived)


def _opened(options: BusOptions, wanted: Collection[tuple[int, bool]], *, sends: bool) -> can.BusABC:
    settings: dict[str, Any] = {}
    if options.bitrate:
        settings["bitrate"] = options.bitrate
    if options.fd:
        settings["fd"] = True
    if options.interface == "slcan":
        settings.pop("fd", None)  # such adapters send FD frames without being asked, by letters of their own
        settings["listen_only"] = not sends
    if options.interface == "socketcan":
        settings["ignore_rx_error_frames"] = False
    filters: list[can.typechecking.CanFilter] = [
        {"can_id": can_id, "can_mask": 0x1FFFFFFF if extended else 0x7FF, "extended": extended}
        for can_id, extended in sorted(wanted)
    ]
    settings |= {"can_filters": filters} | options.bus
    if options.interface == "slcan":
        return SerialCan(options.channel, **settings)
    # python-can would otherwise add options from a file in the user's home
    return can.Bus(channel=options.channel, interface=options.interface, ignore_config=True, **settings)


@contextlib.contextmanager
def _translated(where: str, *, opening: bool = False) -> Iterator[None]:
    """Turn the errors of python-can and of its interfaces into those of `adapters.base`."""
    try:
        yield
    except can.CanInterfaceNotImplementedError as error:
        raise OptionsError(f"{where} cannot be used on this machine: {_text(error)}") from error
    except NotSlcan as error:
        raise ProtocolViolation(f"{where} sent bytes that are not a CAN frame: {_text(error)}") from error
    except (can.CanError, OSError) as error:
        if opening:
            raise DeviceUnreachable(f"{where} cannot be opened: {_why_not_opened(error)}").at(
                where, error
            ) from error
        raise DeviceUnreachable(f"{where} ended: {_text(error)}") from error
    except (ValueError, IndexError) as error:
        if opening:
            raise OptionsError(f"{where} cannot be opened with these options: {_text(error)}") from error
        raise ProtocolViolation(f"{where} sent bytes that are not a CAN frame: {_text(error)}") from error
    except TypeError as error:
        if not opening:
            raise
        raise OptionsError(f"{where}: unknown option in `bus`: {_text(error)}") from error


def _why_not_opened(error: BaseException) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    return why_no_connection(cause)[:300] if isinstance(cause, OSError) else _text(error)


def _text(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return (f"{text}: {error.__cause__}" if error.__cause__ else text)[:300]


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(event.set)
