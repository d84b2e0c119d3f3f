"""Sets one number of a decoder, such as its threshold, for single inputs; the package stays as it is."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import UNSET

from agent.inference import decoders
from agent.inference.decoders import ModelError
from agent.inference.manifest import Manifest
from wire.printable import printable

Tuned = tuple[str, float]  # key of the manifest's `output`, and its number


def tuned_output(manifest: Manifest, tuned: Tuned) -> Any:
    """The `output` of a manifest with another number.

    Raises:
        ModelError: the decoder has no such number that may change, or does not take this one.
    """
    key, value = tuned
    kind, output = decoders.load(manifest.decoder), manifest.output
    if key not in kind.tunable or getattr(output, key, UNSET) is UNSET:
        raise ModelError(
            f"{manifest.name}@{manifest.version} has no number output.{printable(key, 64)} that can be set"
        )
    try:
        if not math.isfinite(value):
            raise msgspec.ValidationError("it is not finite")
        msgspec.convert({**msgspec.to_builtins(output), key: value}, type(output))
    except msgspec.ValidationError as error:
        raise ModelError(
            f"{manifest.name}@{manifest.version}: output.{key} cannot be {value:g}: {error}"
        ) from error
    return msgspec.structs.replace(output, **{key: value})


def refusal(manifest: Manifest, tuned: Tuned) -> str:
    """Why a model does not take this number; empty where it does."""
    try:
        tuned_output(manifest, tuned)
    except ModelError as error:
        return str(error)
    return ""
