"""What people should know about a model: the key `card` of a manifest."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Text = Annotated[str, Meta(max_length=20_000)]
Path = Annotated[list[str | int], Meta(max_length=8)]


class CardMetric(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A figure of the card that other programs read too; its number is in `quality`."""

    type: Annotated[str, Meta(max_length=64, description="Kind of figure: accuracy, mae, map, ...")]
    name: Annotated[str, Meta(max_length=200, description="What is measured, with its unit.")]
    value: Annotated[Path, Meta(description="Where its number is in `quality`, as [model, accuracy].")]
    interval: Annotated[Path, Meta(description="Where the two ends of its 95 % interval are.")] = []
    data: Annotated[
        str, Meta(max_length=400, description="What it was measured on. Default: data.held_out.")
    ] = ""


class ModelCard(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Texts in Markdown; {q[mae]:.1f} is a number of `quality`, {rows} what `quality.card` has there."""

    intended_use: Annotated[Text, Meta(description="What it is for, and what it is not for.")]
    sections: Annotated[
        dict[str, Text],
        Meta(max_length=32, description="Heading to text: how it works, its data, how well it works."),
    ] = {}
    limits: Annotated[Text, Meta(description="What it cannot do.")]
    licence_notes: Annotated[
        Text, Meta(description="What the licence covers; follows `Licence: ...` on the card.")
    ] = ""
    rebuild: Annotated[Text, Meta(description="How the model is made again.")] = ""
    metrics: Annotated[list[CardMetric], Meta(max_length=64, description="Figures for other programs.")] = []
