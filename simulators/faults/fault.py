"""Faults of plants and devices, written `KIND[:PART][@START[-END]][xSIZE]` in a text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

_NUMBER = r"(\d+(?:\.\d+)?)"
_TEXT = re.compile(rf"([a-z0-9-]+?)(?::([a-z0-9_]+?))?(?:@{_NUMBER}(?:-{_NUMBER})?)?(?:x{_NUMBER})?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault between two times, in seconds since sample 0; `size` 1 is what its kind describes."""

    kind: str
    part: str = ""
    start_s: float = 0.0
    end_s: float = math.inf
    size: float = 1.0

    def active(self, at_s: float) -> bool:
        """Whether the fault is present at this time."""
        return self.start_s <= at_s < self.end_s


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What a kind of fault does, the parts it may name, and its largest size. The part "" means none."""

    effect: str
    parts: tuple[str, ...] = ("",)
    largest: float = math.inf


# by the word in a fault's text; a plain text is the effect of a kind that has no parts and no largest size
FaultKinds = Mapping[str, FaultKind | str]


def parse(text: str, kinds: FaultKinds) -> Fault:
    """Read a fault's text, e.g. `friction:3@20-40x1.5`.

    Raises:
        ValueError: the text has another form, or `kinds` does not allow this fault.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        example = f"{next(iter(kinds))}@20-40"
        raise ValueError(f"fault {text!r} is not KIND[:PART][@START[-END]][xSIZE], for example {example}")
    kind, part, start, end, size = found.groups()
    return checked(Fault(kind, part or "", float(start or 0), float(end or "inf"), float(size or 1)), kinds)


def checked(fault: Fault, kinds: FaultKinds) -> Fault:
    """Return the fault.

    Raises:
        ValueError: `kinds` does not allow it.
    """
    if fault.kind not in kinds:
        raise ValueError(f"fault {fault.kind!r} is not one of {', '.join(kinds)}")
    known = kinds[fault.kind]
    kind = FaultKind(known) if isinstance(known, str) else known
    if fault.part not in kind.parts:
        parts = ", ".join(filter(None, kind.parts)) or "none"
        raise ValueError(f"fault {fault.kind} cannot have the part {fault.part!r}; its parts: {parts}")
    if not 0 <= fault.start_s < fault.end_s:
        raise ValueError(f"a fault from {fault.start_s} s to {fault.end_s} s has no duration")
    if not (0 < fault.size < math.inf and fault.size <= kind.largest):
        raise ValueError(
            f"fault {fault.kind}: size {fault.size:g} is not above 0 and at most {kind.largest:g}"
        )
    return fault


class DeviceFaults:
    """The faults of one simulated device: its own, and those of the plant behind it."""

    def __init__(
        self, own: FaultKinds, plant: FaultKinds | None = None, faults: Sequence[Fault | str] = ()
    ) -> None:
        self.of_device: tuple[Fault, ...] = ()
        self.of_plant: tuple[Fault, ...] = ()
        self._own = own
        self._kinds = {**(plant or {}), **own}
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault | str, now_s: float = 0.0, *, plant_now_s: float | None = None) -> None:
        """Add a fault that begins now, or at its own start where that is later; one that is over is ignored.

        `plant_now_s` is the earliest time for a fault of the plant, where it differs.

        Raises:
            ValueError: neither the device nor its plant can have this fault.
        """
        fault = parse(fault, self._kinds) if isinstance(fault, str) else checked(fault, self._kinds)
        of_device = fault.kind in self._own
        if plant_now_s is not None and not of_device:
            now_s = plant_now_s
        if fault.end_s <= now_s:
            return
        fault = replace(fault, start_s=max(fault.start_s, now_s))
        if of_device:
            self.of_device = (*self.of_device, fault)
        else:
            self.of_plant = (*self.of_plant, fault)

    def clear(self) -> None:
        """Remove every fault."""
        self.of_device = self.of_plant = ()

    def active(self, kind: str, at_s: float) -> list[Fault]:
        """The device's own faults of a kind at a time."""
        return [fault for fault in self.of_device if fault.kind == kind and fault.active(at_s)]

    def size(self, kind: str, at_s: float) -> float:
        """The size of the largest of them; 0 where there is none."""
        return max((fault.size for fault in self.active(kind, at_s)), default=0.0)
