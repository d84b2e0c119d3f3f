"""Limits login attempts per address, per user and in all, before a password is checked."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from wire.clock import Clock

KEPT = 10_000  # addresses and users that are remembered


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` attempts at once, then one every `every_s`."""

    burst: float
    every_s: float


ADDRESS = Rate(5, 10.0)
USER = Rate(10, 6.0)
ALL = Rate(10, 0.5)


class Attempts:
    """The attempts that are left; only the event loop uses it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> attempts left, and when

    def wait_s(self, address: str, user: str, *, is_known: bool) -> float:
        """Take one attempt; returns 0.0, or in how many seconds there is one.

        `is_known`: this user has a session from this address. Then guesses from other addresses do not lock
        the user out.
        """
        wanted = [(f"a {address}", ADDRESS)]
        if not is_known:
            wanted += [(f"u {user}", USER), ("all", ALL)]
        now_s = self._clock.monotonic()
        left = {key: self._refilled(key, rate, now_s) for key, rate in wanted}
        wait_s = max((1 - left[key]) * rate.every_s for key, rate in wanted)
        if wait_s > 0:
            return wait_s
        for key, _ in wanted:
            self._note(key, left[key] - 1, now_s)
        return 0.0

    def succeeded(self, address: str, user: str) -> None:
        """Give an address and a user the attempt back; all of them would let one with an account guess on."""
        now_s = self._clock.monotonic()
        for key, rate in ((f"a {address}", ADDRESS), (f"u {user}", USER)):
            if key in self._left:
                self._note(key, min(rate.burst, self._refilled(key, rate, now_s) + 1), now_s)

    def _refilled(self, key: str, rate: Rate, now_s: float) -> float:
        left, at_s = self._left.get(key, (rate.burst, now_s))
        return min(rate.burst, left + (now_s - at_s) / rate.every_s)

    def _note(self, key: str, left: float, now_s: float) -> None:
        self._left[key] = (left, now_s)
        self._left.move_to_end(key)
        while len(self._left) > KEPT:
            self._left.popitem(last=False)
