"""Copies: which collectors have which numbers; a number is released when every named collector has it.

Numbers that only some collectors have may be set aside: they stay on disk and leave the memory. All of this
is in memory alone: after a restart what is not released is sent again, and collectors drop repetitions.
"""

from __future__ import annotations

from collections.abc import Iterable

from wire.ranges import Range, Ranges


class Copies:
    """The acknowledgements of the collectors `names` since the start. Needs the outbox's lock."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._have = {name: Ranges() for name in self.names}  # acknowledged by one, not released
        self.released = Ranges()  # every named collector has these; empty without names
        self.aside = Ranges()  # some collectors have these; they wait on disk to be read again

    def ack(self, by: str, sent: Iterable[Range]) -> Ranges:
        """Note that a collector has these numbers, which were sent; returns those that all have now."""
        given = Ranges(sent)
        self._have[by].update(given)
        for have in self._have.values():
            given = Ranges(part for first, last in given for part in have.within(first, last))
        if given:
            self._have = {name: have.without(given) for name, have in self._have.items()}
            self.aside = self.aside.without(given)
            self.released.update(given)
        return given

    def lacking(self, numbers: Ranges) -> list[str]:
        """The collectors that do not have all of these numbers."""
        return [
            name
            for name, have in self._have.items()
            if any(have.missing(first, last) for first, last in numbers)
        ]

    def set_aside(self, numbers: Iterable[int]) -> None:
        """Note numbers that are read again later."""
        self.aside.update((seq, seq) for seq in numbers)

    def lose(self, numbers: Ranges) -> None:
        """Forget numbers that were dropped."""
        if self.aside:
            self.aside = self.aside.without(numbers)
        if any(self._have.values()):
            self._have = {name: have.without(numbers) for name, have in self._have.items()}

    def rewind(self) -> None:
        """Note that everything that is not released is read again."""
        self.aside = Ranges()
