"""What an adapter is: an async context manager that connects and an async iterator that yields readings.

    AdapterError (EdgebedError)     the text says what is wrong and what to do next
    |-- OptionsError                options that cannot work: wrong before any device is asked
    |-- DeviceUnreachable           no connection, or it ended
    |-- DeviceStalled               connected, but no data for longer than allowed
    `-- ProtocolViolation           it answered against its protocol or as another device

Reconnecting is not an adapter's job: the agent leaves the context and enters a new one, for ever.
"""

from __future__ import annotations

import errno
import re
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import Quality, Stream

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with `default`, which `typing` has from Python 3.13 on
else:
    from typing import TypeVar

Value = float | int | bool | str | None
Picture = NDArray[np.uint8]  # height x width x 3, BGR


class AdapterError(EdgebedError):
    """A device that cannot be read now."""


class OptionsError(AdapterError):
    """Options that cannot work, found before any device is asked."""

    exit_code = 78


class DeviceUnreachable(AdapterError):
    """No connection to the device, or the connection ended."""


class DeviceStalled(AdapterError):
    """The device is connected but sent nothing for longer than allowed."""


class ProtocolViolation(AdapterError):
    """The device answered against its protocol, or is another device than declared."""


DeviceLied = ProtocolViolation  # the name before, which adapters of other packages raise


_WHY = {
    errno.ECONNREFUSED: "nothing listens there: is it on, are host and port right?",
    errno.EHOSTUNREACH: "there is no way to that host: is it on, is the network up?",
    errno.ENETUNREACH: "there is no way to that host: is the network up?",
    errno.ENOENT: "there is no such device: is it plugged in, is the name right?",
    errno.ENODEV: "there is no such device: is it plugged in, is the name right?",
    errno.EACCES: "it is not ours to open: is this user in its group (dialout for serial ports)?",
    errno.EPERM: "it is not ours to open: is this user in its group (dialout for serial ports)?",
}


def why_no_connection(error: BaseException) -> str:
    """What the operating system said when something could not be opened, and what to look at then."""
    found = error if isinstance(error, OSError) else error.__cause__
    if isinstance(found, socket.gaierror):
        return "there is no such host: is its name right?"
    number = getattr(found, "errno", None)
    if number is None:  # of several addresses, as of localhost, each failed
        told = re.search(r"\[Errno (\d+)\]", str(error))
        number = int(told[1]) if told else None
    plain = getattr(found, "strerror", None) or str(error) or type(error).__name__
    return _WHY.get(number, plain) if number is not None else plain


class Reading(Struct, frozen=True, eq=False):
    """One row of a signal stream, or one picture of a frame stream, stamped at the adapter's edge.

    `at_ns` is Unix nanoseconds, UTC: the device's own time where the protocol carries a trustworthy one,
    else the moment of receipt. `index` counts the pictures of a frame stream from 0 since the device was
    opened, dropped ones included. `picture` is shared, never written to.

    A struct and no frozen dataclass, which takes five times as long to make: there are thousands a second.
    """

    stream: str
    at_ns: int
    values: Mapping[str, Value] = field(default_factory=dict)
    picture: Picture | None = None
    index: int = 0
    quality: Quality = Quality.GOOD


class Options(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Base of every adapter's own options; subclasses document each key in a `Meta(description=...)`."""


if TYPE_CHECKING:
    OptionsT = TypeVar("OptionsT", bound=Options, default=Any)
else:
    OptionsT = TypeVar("OptionsT", bound=Options)


class Adapter(ABC, Generic[OptionsT]):
    """One device. Use: `async with adapter: async for reading in adapter: ...`, once per object.

    The constructor checks options and touches nothing outside. `counters` holds what was dropped or
    repaired since the start, by name: nothing is lost in silence.
    """

    Options: ClassVar[type[Options]]
    kind: ClassVar[str]  # the word in configs: `adapter: camera`

    def __init__(self, options: OptionsT, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.counters: Counter[str] = Counter()

    @property
    def waits(self) -> bool:
        """Whether the source waits for its reader (a file read as fast as possible).

        The agent then holds it back where a model is slower; of any other source it drops the oldest.
        """
        return False

    @abstractmethod
    def streams(self) -> dict[str, Stream]:
        """The streams this device sends, from the options alone: `agent check` asks no device."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; on failure leave nothing open.

        Raises:
            AdapterError: the device cannot be read now.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect within a few seconds whatever the device does; never raises; safe to call twice."""

    @abstractmethod
    def readings(self) -> AsyncIterator[Reading]:
        """Readings until the device ends (a file) or fails.

        Raises:
            AdapterError: while iterating.
        """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Reading]:
        return self.readings()
