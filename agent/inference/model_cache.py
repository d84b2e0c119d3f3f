"""The open models of one agent: streams that run the same package share a session and its memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.inference.decoders import ModelError
from wire.reasons import Reason

if TYPE_CHECKING:
    from agent.inference.package import Package
    from agent.inference.session import Model

_Key = tuple[Path, str, tuple[str, ...]]  # folder, hash of the ONNX file, execution providers


class ModelCache:
    """Checks and opens each package once; `memory` is the folder where the gate keeps its reports."""

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._open: dict[_Key, Model | Reason] = {}  # the model, or why it is refused

    def model(self, package: Package, providers: Sequence[str] | None = None) -> Model:
        """The open model of a package; the first call blocks for about a second. Runs on the CPU by default.

        Several threads may run the model at the same time: each gets its own buffers.

        Raises:
            ModelError: the package did not pass the gate, or cannot be opened.
        """
        from agent.inference import gate  # only agents with models pay for these modules
        from agent.inference.session import CPU, Model

        providers = providers or CPU
        key = (package.path.resolve(), package.sha256, tuple(providers))
        if key not in self._open:
            try:
                gate.verify(package, providers=providers, memory=self._memory)
                self._open[key] = Model(package, providers=providers)
            except ModelError as error:
                self._open[key] = error.reason
        found = self._open[key]
        if isinstance(found, Reason):
            raise ModelError(found.why).coded(found.code, **found.args)
        return found
