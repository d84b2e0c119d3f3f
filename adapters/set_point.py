"""One number of a device that the agent may write; every adapter but `modbus` and `mqtt` only reads."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct


class WriteLimits(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Between which numbers a set-point stays, and its number while no pilot sets it."""

    min: Annotated[float, Meta(description="Smaller numbers are never written.")]
    max: Annotated[float, Meta(description="Larger numbers are never written.")]
    safe: Annotated[
        float,
        Meta(description="Written first, and when the pilot or the agent ends."),
    ]

    def mistakes(self) -> Iterator[str]:
        """What types cannot express."""
        if not all(map(math.isfinite, (self.min, self.max, self.safe))):
            yield "write: min, max and safe must be finite numbers"
        elif self.min >= self.max:
            yield f"write: max {self.max:g} is not above min {self.min:g}"
        elif not self.min <= self.safe <= self.max:
            yield f"write: safe {self.safe:g} is not within min and max"


class SetPoint(ABC):
    """Writes one number and reads it back: `open`, then `write` and `read`, then always `close`.

    `name` is the register or topic that the config allows. It may be opened again after `close`.
    """

    def __init__(self, name: str, limits: WriteLimits) -> None:
        self.name = name
        self.limits = limits
        self.target: object = name  # what is written, to the last detail

    def refusal(self, number: float) -> str:
        """Why this number is not written; empty where it may be."""
        if not math.isfinite(number):
            return f"{number} is not a number"
        if not self.limits.min <= number <= self.limits.max:
            limits = f"{self.limits.min:g} to {self.limits.max:g}"
            return f"{number:g} is not within the limits of the config, {limits}"
        return ""

    def same(self, one: float, other: float | None) -> bool:
        """Whether the device cannot distinguish two numbers."""
        return one == other

    @abstractmethod
    async def open(self) -> None:
        """Connect; a failed `open` leaves nothing open.

        Raises:
            AdapterError: the device cannot be reached.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect; never raises; safe to call twice."""

    @abstractmethod
    async def write(self, number: float) -> None:
        """Write a number that `refusal` allows.

        Raises:
            AdapterError: the device refuses it, or does not answer.
        """

    @abstractmethod
    async def read(self) -> float | None:
        """The number that the device has now; None for anything that is not a number.

        Raises:
            AdapterError: the device refuses, or does not answer.
        """
