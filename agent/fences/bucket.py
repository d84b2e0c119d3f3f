"""Token buckets: a rate with a short burst, for one user or shared fairly by several."""

from __future__ import annotations

import math


class Bucket:
    """Gives `per_s` tokens a second, at most `depth` of them at once; a debt is at most `debt`.

    Times are seconds of any steady clock.
    """

    def __init__(self, per_s: float, depth: float, debt: float = math.inf) -> None:
        self.per_s = per_s
        self.depth = depth
        self._debt = debt
        self._tokens = depth
        self._at_s: float | None = None

    def left(self, now_s: float) -> float:
        """The tokens of now; below 0 is a debt."""
        self.overflow(now_s)
        return self._tokens

    def overflow(self, now_s: float) -> float:
        """Take in what came since the last call; returns what did not fit."""
        gained = 0.0 if self._at_s is None else self.per_s * max(0.0, now_s - self._at_s)
        self._at_s = now_s
        over = max(0.0, self._tokens + gained - self.depth)
        self._tokens += gained - over
        return over

    def resize(self, per_s: float, depth: float) -> None:
        """Change rate and depth; tokens that do not fit are lost."""
        self.per_s, self.depth = per_s, depth
        self._tokens = min(self._tokens, depth)

    def add(self, tokens: float) -> None:
        """Add tokens of another bucket, as far as they fit."""
        self._tokens = min(self.depth, self._tokens + tokens)

    def spend(self, tokens: float) -> None:
        """Take tokens out; what is missing becomes a debt."""
        self._tokens = max(-self._debt, self._tokens - tokens)

    def wait_s(self, level: float = 0.0) -> float:
        """Seconds from the last `left` until more than `level` tokens are there."""
        return max(0.0, level - self._tokens) / self.per_s


class FairBucket:
    """One rate for several users: each has an equal part, and what one does not use goes to the others.

    Without parts, a model that is asked at a fixed moment of the second could find the bucket empty each
    time, because a faster one empties it.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._parts: dict[str, Bucket] = {}
        self._common = Bucket(0.0, max(1.0, per_s))
        self._common.spend(self._common.depth)

    def take(self, user: str, now_s: float) -> bool:
        """Take one token for `user`; False if there is none."""
        if user not in self._parts:
            self._share([*self._parts, user])
        for part in self._parts.values():
            self._common.add(part.overflow(now_s))
        for bucket in (self._parts[user], self._common):
            if bucket.left(now_s) >= 1.0:
                bucket.spend(1.0)
                return True
        return False

    def take_unused(self, now_s: float) -> bool:
        """Take one token that no user needed; False while less than half of the store is full."""
        for part in self._parts.values():
            self._common.add(part.overflow(now_s))
        if self._common.left(now_s) < max(1.0, self._common.depth / 2):
            return False
        self._common.spend(1.0)
        return True

    def leave(self, user: str) -> None:
        """Give the part of `user` to the others."""
        if user in self._parts:
            self._share([name for name in self._parts if name != user])

    def _share(self, users: list[str]) -> None:
        """Give each an equal part; who comes new begins with one token."""
        per_s = self._per_s / max(1, len(users))
        old, self._parts = self._parts, {}
        for user in users:
            part = self._parts[user] = old.get(user) or Bucket(per_s, 1.0)
            part.resize(per_s, max(1.0, per_s))
