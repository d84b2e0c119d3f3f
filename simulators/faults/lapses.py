"""What a simulated device itself does wrong while its plant is well: lapses with a begin, an end, a size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

_NUMBER = r"(\d+(?:\.\d+)?)"
_TEXT = re.compile(rf"([a-z0-9-]+)(?:@{_NUMBER}(?:-{_NUMBER})?)?(?:x{_NUMBER})?")


@dataclass(frozen=True, slots=True)
class Lapse:
    """One lapse between two times, seconds since sample 0."""

    kind: str
    start_s: float = 0.0
    end_s: float = math.inf
    size: float = 1.0

    @classmethod
    def parse(cls, text: str, kinds: Mapping[str, str]) -> Lapse:
        """Read `KIND[@START[-END]][xSIZE]`; `kinds` says what each kind of this device does.

        Raises:
            ValueError: it is not of this form, or no such lapse.
        """
        found = _TEXT.fullmatch(text)
        if not found or found[1] not in kinds:
            raise ValueError(
                f"fault {text!r} is not KIND[@START[-END]][xSIZE] with one of {', '.join(kinds)}"
            )
        kind, start, end, size = found.groups()
        lapse = cls(kind, float(start or 0), float(end or "inf"), float(size or 1.0))
        if not lapse.start_s < lapse.end_s or not lapse.size > 0:
            raise ValueError(f"fault {text!r} has no duration or no size")
        return lapse


class Lapses:
    """The lapses of one device."""

    def __init__(self, kinds: Mapping[str, str], texts: Sequence[str] = ()) -> None:
        self._kinds = kinds
        self._all = [Lapse.parse(text, kinds) for text in texts]

    def knows(self, text: str) -> bool:
        """Whether a fault's text names a lapse of this device, rather than a fault of its plant."""
        return any(text == kind or text.startswith((f"{kind}@", f"{kind}x")) for kind in self._kinds)

    def add(self, text: str, now_s: float) -> None:
        """From now on, or from its start where that is later."""
        lapse = Lapse.parse(text, self._kinds)
        if lapse.end_s > now_s:
            self._all.append(replace(lapse, start_s=max(lapse.start_s, now_s)))

    def clear(self) -> None:
        """Take every lapse back."""
        self._all.clear()

    def size(self, kind: str, at_s: float) -> float:
        """How bad it is at a time; 0 where it is not."""
        return max((one.size for one in self.active(kind, at_s)), default=0.0)

    def active(self, kind: str, at_s: float) -> list[Lapse]:
        """The lapses of a kind at a time."""
        return [one for one in self._all if one.kind == kind and one.start_s <= at_s < one.end_s]
