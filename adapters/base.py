"""Base class of adapters: an async context manager that connects, an async iterator that yields readings.

    AdapterError (EdgebedError)     the text says what is wrong and what to do next
    |-- OptionsError                options that cannot work, found before any device is asked
    |-- DeviceUnreachable           no connection, or the connection ended
    |-- DeviceStalled               connected, but no data for longer than allowed
    `-- ProtocolViolation           the device broke its protocol, or is another device than declared

An adapter does not reconnect: the agent closes it and opens a new one.
"""

from __future__ import annotations

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
from wire.printable import printable
from wire.reasons import Reason
from wire.socket_errors import code_of
from wire.socket_errors import why_no_connection as why_no_connection  # noqa: PLC0414 - adapters import it here

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with `default`, which `typing` has from Python 3.13 on

    from adapters.set_point import SetPoint, WriteLimits
else:
    from typing import TypeVar

_MAX_UNREAD = 16  # parts of a device whose unread input is kept
_MAX_UNREAD_TEXT = 300
_TIMES = "its times"  # the part of `times_are`

Value = float | int | bool | str | None
Picture = NDArray[np.uint8]  # height x width x 3, BGR


class AdapterError(EdgebedError):
    """The device cannot be read now."""

    reason_code = "adapter-failed"


class OptionsError(AdapterError):
    """The options cannot work; found before any device is asked."""

    exit_code = 78
    reason_code = "options-invalid"


class DeviceUnreachable(AdapterError):
    """No connection to the device, or the connection ended."""

    reason_code = "device-unreachable"

    def at(self, where: str, error: BaseException) -> Self:
        """Set the code of a failed connection to `where`, if `error` has a known cause; returns the error."""
        if (code := code_of(error)) is not None:
            self.coded(code, where=where)
        return self


class DeviceStalled(AdapterError):
    """The device is connected but sent nothing for longer than allowed."""

    reason_code = "device-stalled"


class ProtocolViolation(AdapterError):
    """The device broke its protocol, or is another device than declared."""

    reason_code = "protocol-violation"


DeviceLied = ProtocolViolation  # its earlier name, which adapters of other packages raise


class Reading(Struct, frozen=True, eq=False):
    """One row of a signal stream, or one picture of a frame stream.

    `at_ns` is Unix time in nanoseconds: the device's own time where the protocol carries a trustworthy one,
    else the moment of receipt. `index` counts the pictures of a frame stream from 0 since the device was
    opened; dropped pictures count. `picture` is shared: do not write to it.
    """

    # a msgspec struct is made five times as fast as a frozen dataclass, and there are thousands a second
    stream: str
    at_ns: int
    values: Mapping[str, Value] = field(default_factory=dict)
    picture: Picture | None = None
    index: int = 0
    quality: Quality = Quality.GOOD


class Unread(Struct, frozen=True):
    """Input that arrived and gave no value: what it was, and when it came by `Clock.flowing_s()`.

    `since_s` is the time of the first such input of its part.
    """

    what: str
    at_s: float
    since_s: float


class SharedLine(Struct, frozen=True):
    """A line with several devices: `agent check` refuses devices that need different settings of it."""

    name: str
    settings: str


class Options(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Base of every adapter's options; docs/config.md prints the `Meta(description=...)` of each key."""


if TYPE_CHECKING:
    OptionsT = TypeVar("OptionsT", bound=Options, default=Any)
else:
    OptionsT = TypeVar("OptionsT", bound=Options)


WriteT = TypeVar("WriteT", bound="WriteLimits")


def allowed_write(write: WriteT | None, *, allow_write: bool) -> WriteT | None:
    """What may be written to a device with these options; None where nothing may be.

    Raises:
        OptionsError: the limits cannot work.
    """
    if allow_write and write is None:
        raise OptionsError("allow_write is true, and `write` does not say what may be written: add it")
    for why in () if write is None else write.mistakes():
        raise OptionsError(why)
    return write if allow_write else None


class Adapter(ABC, Generic[OptionsT]):
    """One device. Use an object once: `async with adapter: async for reading in adapter: ...`.

    The constructor checks the options and touches nothing outside the process. `counters` holds by name what
    was dropped or repaired since the start.
    """

    Options: ClassVar[type[Options]]
    kind: ClassVar[str]  # the word in configs: `adapter: camera`

    def __init__(self, options: OptionsT, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.counters: Counter[str] = Counter()
        self.problem: Reason | None = None  # shown as `degraded` while readings come
        self.unread: dict[str, Unread] = {}  # by part; `not_read` and `was_read` write it
        self.why_null: dict[str, str] = {}  # field -> why its last null is null, shown if it stays so
        self.may_be_null: set[str] = set()  # fields that a healthy device may leave null in every row
        self.alive_s = 0.0  # `is_alive` writes it, by `Clock.flowing_s()`

    @property
    def period_s(self) -> float:
        """Seconds between two readings, as the options state it; 0 where they do not."""
        return 0.0

    @property
    def silence_s(self) -> float:
        """Seconds without a reading that the options allow; 0 where they do not say it."""
        return 0.0

    @property
    def set_point(self) -> SetPoint | None:
        """The number that the options allow to write; None where this device is only read."""
        return None

    @property
    def shared_line(self) -> SharedLine | None:
        """What this device shares with others of its kind; None where it has a connection of its own."""
        return None

    def not_read(self, what: str, part: str = "") -> None:
        """Record input that gives no value: what arrived and why it cannot be used.

        The state of the device shows it once nothing else was read for `stall_s`. `part` is what the input
        belongs to, such as a topic or a field, if the device has several: the state then shows it also while
        other rows come, until `was_read` ends the record.
        """
        now_s, before = self.clock.flowing_s(), self.unread.get(part)
        if before is not None or len(self.unread) < _MAX_UNREAD:
            since_s = now_s if before is None else before.since_s
            self.unread[part] = Unread(printable(what, _MAX_UNREAD_TEXT), now_s, since_s)

    def times_are(self, off: str, sender: str = "", cure: str = "set its clock and time zone") -> None:
        """Record that the device's times are off, by the end of a sentence about them; empty: they are not.

        `sender` names one of several devices behind one adapter; `cure` is what to do.
        """
        if off:
            self.not_read(f"its times {off}; {cure}", _TIMES + sender)
        elif self.unread:
            self.was_read(_TIMES + sender)

    def is_alive(self) -> None:
        """Record that the device answers and has nothing new to read: this is not silence."""
        self.alive_s = self.clock.flowing_s()

    def was_read(self, part: str = "") -> None:
        """Forget the unread input of a part, which can be read again."""
        self.unread.pop(part, None)

    @property
    def waits(self) -> bool:
        """Whether the source waits for its reader, as a file does that is read as fast as possible.

        The agent slows such a source down to the speed of the models; of any other source it drops the oldest
        readings.
        """
        return False

    @abstractmethod
    def streams(self) -> dict[str, Stream]:
        """The streams of this device, from the options alone: `agent check` asks no device."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; a failed `open` leaves nothing open.

        Raises:
            AdapterError: the device cannot be read now.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect within a few seconds whatever the device does; never raises; safe to call twice."""

    @abstractmethod
    def readings(self) -> AsyncIterator[Reading]:
        """Yield readings until the device ends, as a file does, or fails.

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
