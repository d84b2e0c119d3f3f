"""The models of one agent that are open: cameras that run the same package share a session and its memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.inference.decoders import ModelError

if TYPE_CHECKING:
    from agent.inference.package import Model, Package

CPU = ("CPUExecutionProvider",)
_Key = tuple[Path, str, tuple[str, ...]]  # folder, hash of the ONNX file, execution providers


class Shelf:
    """Gates and opens a package once, whoever asks; `memory` is a folder for what passed the gate."""

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._open: dict[_Key, Model | str] = {}  # or why it is refused

    def model(self, package: Package, providers: Sequence[str] = CPU) -> Model:
        """The package at work; blocks for a second or so where nobody has asked before.

        A model may run in several threads at a time: each gets its own buffers, and waits for no other.

        Raises:
            ModelError: it did not pass the gate, or cannot be opened.
        """
        from agent.inference import gate  # only who has models pays for their kin
        from agent.inference.package import Model

        key = (package.path.resolve(), package.sha256, tuple(providers))
        if key not in self._open:
            try:
                gate.verify(package, providers=providers, memory=self._memory)
                self._open[key] = Model(package, providers=providers)
            except ModelError as error:
                self._open[key] = str(error)
        found = self._open[key]
        if isinstance(found, str):
            raise ModelError(found)
        return found
