"""The interface of every simulated device."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

Value = float | int | bool | str | None


@runtime_checkable
class Simulator(Protocol):
    """One device on the network. Use: `async with Hygrometer(seed=1, clock=clock) as device: device.url`.

    The constructor takes keywords only: `seed`, `host`, `port` (0 = a free one), `clock`, `faults` (texts)
    and its own options. It opens nothing. Sample i is at `start_ns + i * period`, and `start_ns` is a whole
    multiple of the period, so the same seed gives the same data at any rate of the clock.
    """

    start_ns: int  # Unix ns of sample 0, known once the device runs

    @property
    def port(self) -> int:
        """The TCP port, known once the device runs."""

    @property
    def url(self) -> str:
        """What the adapter's `url` option takes."""

    def truth(self, at_ns: int) -> Mapping[str, Value]:
        """What the plant really did at a time that the device stamps, by the fields of the ready configs.

        Values are not rounded. Labels (`label`, `faulty_joint`, counts) are in it, too. A fault that only
        falsifies what the device shows does not change the truth. Empty where there is no sample.
        """

    def inject(self, fault: str) -> None:
        """Add a fault from now on: `KIND[:PART][@START[-END]][xSIZE]`, seconds since `start_ns`.

        Raises:
            ValueError: there is no such fault; the text names those that there are.
        """

    def repair(self) -> None:
        """Remove every fault."""

    # A device whose plant cannot do at once what a fault asks for also has
    #   def began(self, fault: str, from_ns: int, until_ns: int) -> int | None
    # the Unix ns at which the plant began it between two times, None where it did not.

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
