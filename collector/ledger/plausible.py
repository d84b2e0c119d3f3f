"""Decides whether a number that should only rise is what its node means, or one wrong or forged message."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FIRST = 2**48  # the first number that is seen of an outbox; at 1 MHz for eight years
MAX_JUMP = 100_000_000  # messages between two numbers of an outbox: more than a disk of 20 GB keeps
MAX_SESSIONS = 1_000_000  # connections between two statuses
IN_A_ROW = 3  # messages that agree against what was believed


@dataclass(slots=True)
class Rising:
    """Believes a number that goes back or jumps only after three messages in a row agree on it."""

    most: int
    _doubted: int = 0
    _count: int = 0

    def believes(self, known: int | None, number: int, *, counts: bool = True) -> bool:
        """Whether to take `number` after `known`; a message that does not count proves nothing."""
        if known is None or known <= number <= known + self.most:
            self._count = 0
            return True
        if not counts:
            return False
        agrees = self._count and self._doubted <= number <= self._doubted + self.most
        self._doubted, self._count = number, self._count + 1 if agrees else 1
        if self._count < IN_A_ROW:
            return False
        self._count = 0
        return True


def jump(highest: int, number: int) -> str:
    """Why `number` cannot follow `highest`, "" when it can."""
    if number <= (highest + MAX_JUMP if highest else MAX_FIRST):
        return ""
    return f"number {number} cannot follow {highest}: if it is right, use 'edgebed collector reset-node'"
