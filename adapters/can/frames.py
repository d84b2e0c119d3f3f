"""Frames of any python-can bus, read by a thread of its own and handed over through a bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterator
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
from adapters.can.slcan import NoFrame, SerialCan
from wire.clock import Clock

log = logging.getLogger("edgebed.adapters.can")
# what they would say is said once, by our errors
logging.getLogger("can").setLevel(logging.CRITICAL)

_POLL_S = 0.1  # how long the thread may not notice that it is to end
_SEND_S = 1.0
_CLOSE_S = 2.5
_MAX_IDS = 12  # ids an error names


@dataclass(frozen=True, slots=True)
class Frame:
    """One data frame; `at_ns` is its receipt by our clock."""

    id: int
    extended: bool
    data: bytes
    at_ns: int


class CanBus:
    """A bus that a thread opens, reads and shuts down: python-can blocks, and a driver may do so for ever.

    Frames other than `wanted`, pairs of id and extended, are filtered out, by the kernel where it can.
    """

    def __init__(
        self,
        options: BusOptions,
        clock: Clock,
        counters: Counter[str],
        *,
        wanted: Collection[tuple[int, bool]],
        sends: bool,
    ) -> None:
        self._options, self._clock, self._counters = options, clock, counters
        self._wanted = frozenset(wanted)
        self._sends = sends
        self._frames: deque[Frame] = deque()
        self._thread_counters: Counter[str] = Counter()  # written by the thread alone
        self._foreign: set[tuple[int, bool]] = set()
        self._error: AdapterError | None = None
        self._bus: can.BusABC | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._unfiltered = threading.Event()
        self._news = asyncio.Event()
        self._ready = asyncio.Event()
        self._told = False

    async def open(self) -> None:
        """Open the bus within `timeout_s`; whether anybody sends is not known then.

        Raises:
            AdapterError: there is no such bus, or it cannot be had.
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
        """What has come, waiting for the first until `until_s` of the loop's time; empty where none came.

        Raises:
            AdapterError: the bus has ended; told after the last frame was handed over.
        """
        if self._frames or self._error is not None:
            await asyncio.sleep(0)  # a flood must not keep the loop from everybody else
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await self._news.wait()
        self._news.clear()
        self._told = False
        self._take_counters()
        if not self._frames and self._error is not None:
            raise self._error
        if peek:
            return list(self._frames)
        taken = []
        for _ in range(len(self._frames)):
            with contextlib.suppress(IndexError):  # the thread dropped it just now
                taken.append(self._frames.popleft())
        return taken

    async def send(self, can_id: int, data: bytes, *, extended: bool) -> None:
        """Send one data frame.

        Raises:
            DeviceUnreachable: the bus does not take it.
        """
        bus, where = self._bus, self._options.where
        if bus is None:
            raise self._error or DeviceUnreachable(f"{where} is not open")
        message = can.Message(arbitration_id=can_id, data=data, is_extended_id=extended)
        try:
            # in a thread: a serial port waits for its hardware
            await asyncio.to_thread(bus.send, message, _SEND_S)
        except (can.CanError, OSError, ValueError, AttributeError, TypeError) as error:
            # the last two: pyserial, when its port was closed meanwhile
            raise DeviceUnreachable(f"{where} does not take frames: {_said(error)}") from error

    async def foreign(self, seconds: float) -> list[str]:
        """The ids of other frames on the bus, by listening to all of it for a while: what an error names."""
        self._unfiltered.set()
        await asyncio.sleep(seconds)
        return [f"0x{one:X}" for one, _ in sorted(self._foreign.copy())]

    async def close(self) -> None:
        """End the thread; one whose driver hangs is left behind after 2.5 s, and ends with the process."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is None:
            return
        deadline = asyncio.get_running_loop().time() + _CLOSE_S
        while thread.is_alive():  # an event would need the loop of a thread that may never end
            if asyncio.get_running_loop().time() > deadline:
                log.warning("%s does not close: its driver hangs and is left behind", self._options.where)
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
            _tell(loop, self._ready)
            with _translated(self._options.where):
                self._read(bus, loop)
        except AdapterError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - drivers of dozens of makers; a thread has no caller to tell
            self._error = DeviceUnreachable(f"{self._options.where}: {type(error).__name__}: {_said(error)}")
            self._error.__cause__ = error
        finally:
            self._bus = None
            if bus is not None:
                with contextlib.suppress(Exception):
                    bus.shutdown()
            _tell(loop, self._ready)
            _tell(loop, self._news)

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
            with contextlib.suppress(IndexError):  # it was taken just now
                self._frames.popleft()
        self._frames.append(Frame(*key, bytes(message.data), at_ns))
        if not self._told:
            self._told = True
            _tell(loop, self._news)


def _opened(options: BusOptions, wanted: Collection[tuple[int, bool]], *, sends: bool) -> can.BusABC:
    settings: dict[str, Any] = {}
    if options.bitrate:
        settings["bitrate"] = options.bitrate
    if options.fd:
        settings["fd"] = True
    if options.interface == "slcan":
        settings.pop("fd", None)  # such adapters just send FD frames, in letters of their own
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
    # a file in somebody's home would add keys to those of the config
    return can.Bus(channel=options.channel, interface=options.interface, ignore_config=True, **settings)


@contextlib.contextmanager
def _translated(where: str, *, opening: bool = False) -> Iterator[None]:
    """python-can's errors, and those that its interfaces let through, in our words."""
    try:
        yield
    except can.CanInterfaceNotImplementedError as error:
        raise OptionsError(f"{where} cannot be used on this machine: {_said(error)}") from error
    except NoFrame as error:
        raise ProtocolViolation(f"{where} sent bytes that are no frame: {_said(error)}") from error
    except (can.CanError, OSError) as error:
        if opening:
            raise DeviceUnreachable(f"{where} cannot be opened: {_unopened(error)}") from error
        raise DeviceUnreachable(f"{where} ended: {_said(error)}") from error
    except (ValueError, IndexError) as error:
        if opening:
            raise OptionsError(f"{where} cannot be opened so: {_said(error)}") from error
        raise ProtocolViolation(f"{where} sent what is no frame: {_said(error)}") from error
    except TypeError as error:
        if not opening:
            raise
        raise OptionsError(f"{where} takes no such key: {_said(error)}") from error


def _unopened(error: BaseException) -> str:
    cause = error if isinstance(error, OSError) else error.__cause__
    return why_no_connection(cause)[:300] if isinstance(cause, OSError) else _said(error)


def _said(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return (f"{text}: {error.__cause__}" if error.__cause__ else text)[:300]


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop ended without us
        loop.call_soon_threadsafe(event.set)
