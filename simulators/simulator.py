"""What every simulated device is: a server of the real protocol, a plant behind it, and its ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

Value = float | int | bool | str | None


class Simulator(Protocol):
    """One device on the network. Use: `async with Simulator(seed=1, clock=clock) as device: device.url`.

    The constructor takes keywords only: `seed`, `host`, `port` (0 = a free one), `clock`, `faults` (texts)
    and what is its own. Samples follow the schedule of `clock`: sample i is at `start_ns + i * period`,
    `start_ns` a whole multiple of the period, so that the same seed gives the same data at any rate.
    """

    port: int
    start_ns: int  # Unix ns of sample 0, known once it is entered

    @property
    def url(self) -> str:
        """What the adapter's `url` option takes."""

    def truth(self, at_ns: int) -> Mapping[str, Value]:
        """What the plant really was at a time the device stamps, by the field names of the ready configs.

        Unrounded, without what the device or its faults hide or falsify where the field can be told apart;
        labels (`label`, `faulty_joint`, counts) stand beside the values. Empty where there is no sample.
        """

    def inject(self, fault: str) -> None:
        """Break something from now on: `KIND[:PART][@START[-END]][xSIZE]`, seconds since `start_ns`.

        Raises:
            ValueError: no such fault; the text says which there are.
        """

    def repair(self) -> None:
        """Take every fault back."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
