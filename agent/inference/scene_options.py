"""Where in a picture a detector counts: how boxes are followed, zones, lines, and what is left out.

The manifest of a package may have these, and the slot of an agent, whose keys count more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct

from wire.config import Mistake

_Share = Annotated[float, Meta(ge=0, le=1)]
_Place = tuple[_Share, _Share]
_Polygon = Annotated[
    tuple[_Place, ...],
    Meta(min_length=3, max_length=64, description="Corners [x, y] as shares of width and height."),
]
_Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]
_Labels = Annotated[tuple[str, ...], Meta(max_length=64, description="Labels that count; if empty, all.")]


class TrackConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How boxes are followed from picture to picture."""

    iou: Annotated[
        float, Meta(gt=0, le=1, description="A box continues a track that it overlaps by at least this.")
    ] = 0.2
    start: Annotated[float, Meta(ge=0, le=1, description="A weaker box does not begin a track.")] = 0.0
    hits: Annotated[int, Meta(ge=1, le=100, description="Pictures until a track gets its number.")] = 2
    keep_s: Annotated[float, Meta(gt=0, le=60, description="How long a track is kept unseen.")] = 1.0


class ZoneConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An area of the picture."""

    polygon: _Polygon
    labels: _Labels = ()


class LineConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A line across which things are counted; `in` is from the right of its direction to the left."""

    start: Annotated[_Place, Meta(description="[x, y] as shares of the picture's width and height.")]
    end: Annotated[_Place, Meta(description="[x, y] as shares of the picture's width and height.")]
    labels: _Labels = ()


Track = Annotated[
    TrackConfig | None, Meta(description="Number what a detector finds, from picture to picture.")
]
Zones = Annotated[
    dict[_Name, ZoneConfig], Meta(max_length=16, description="Areas whose boxes are counted, by name.")
]
Lines = Annotated[
    dict[_Name, LineConfig], Meta(max_length=16, description="Lines whose crossings count, by name.")
]
Ignored = Annotated[tuple[_Polygon, ...], Meta(max_length=16, description="Areas whose boxes are left out.")]
Anchor = Annotated[
    Literal["foot", "centre"], Meta(description="The point of a box that is in a zone or beside a line.")
]


class SceneOptions(Struct, kw_only=True, frozen=True):
    """What counts for a slot: its own keys, or else those of its package."""

    track: TrackConfig | None = None
    zones: dict[str, ZoneConfig] = {}
    lines: dict[str, LineConfig] = {}
    ignore: tuple[_Polygon, ...] = ()
    anchor: Literal["foot", "centre"] = "foot"

    @property
    def used(self) -> bool:
        """Whether there is anything to do for a picture."""
        return bool(self.track or self.zones or self.lines or self.ignore)

    def mistakes(self, labels: Collection[str], fields: Collection[str]) -> Iterator[Mistake]:
        """What does not fit a detector with these labels and fields of results: the place and a sentence."""
        given = [("zones", name, name) for name in self.zones]
        given += [("lines", name, f"{name}_{way}") for name in self.lines for way in ("in", "out")]
        taken = set(fields)
        for key, name, field in given:
            if field in taken:
                yield (
                    (key, name),
                    f"{field!r} is already a field of the results: name the zone or line differently",
                )
            taken.add(field)
        parts: dict[str, dict[str, ZoneConfig] | dict[str, LineConfig]] = {
            "zones": self.zones,
            "lines": self.lines,
        }
        for key, listed in parts.items():
            for name, part in listed.items():
                for label in part.labels:
                    if label not in labels:
                        yield (key, name, "labels"), f"{label!r} is not one of the labels"
