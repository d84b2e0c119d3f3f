"""The open models of one agent: streams that run the same package share a session or a worker process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.fences.fences import Fences
from agent.fences.settings import FenceSettings
from agent.inference.decoders import ModelError
from agent.inference.execution_providers import CPU, names
from agent.inference.signing.trust import Trust
from agent.process_children import rss_mb
from wire.clock import Clock
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because

if TYPE_CHECKING:
    from agent.inference.gate import GateReport
    from agent.inference.isolation.worker import Worker, Workers
    from agent.inference.package import Package
    from agent.inference.session import Model

log = logging.getLogger("edgebed.model")

Isolation = Literal["thread", "process"]
# folder, hash of the ONNX file, execution providers, what was asked for, the only one that uses it
_Key = tuple[Path, str, tuple[str, ...], Isolation | None, str]


class ModelCache:
    """Checks and opens each package once; `memory` is the folder where the gate keeps its reports.

    A model for which `fences` leave no memory is refused, and one that `trust` does not allow. Several
    threads may ask at the same time. Packages that no trusted key signed run as `unsigned` says. `close` ends
    what was started.
    """

    def __init__(
        self,
        memory: Path | None = None,
        fences: Fences | None = None,
        trust: Trust | None = None,
        *,
        unsigned: Isolation = "thread",
    ) -> None:
        self.trust = trust or Trust()
        self.fences = fences or Fences(FenceSettings(), Clock())
        self._memory = memory
        self._unsigned: Isolation = unsigned
        self._workers: Workers | None = None
        self._starting = threading.Lock()
        self._open: dict[_Key, Model | Worker | Reason] = {}  # the model, or why it is refused
        self._locks: dict[_Key, threading.Lock] = {}
        self._stopping = threading.Event()

    def model(
        self,
        package: Package,
        providers: Sequence[str] | None = None,
        isolation: Isolation | None = None,
        *,
        apart: str = "",
    ) -> Model | Worker:
        """The open model of a package; the first call blocks for about a second. Runs on the CPU by default.

        Several threads may run the model at the same time. Without `isolation` it runs in this process if a
        trusted key signed the package. Only who names the same `apart` shares it.

        Raises:
            ModelError: the package did not pass the gate, or cannot be opened.
        """
        key = (package.path.resolve(), package.sha256, names(providers or CPU), isolation, apart)
        with self._locks.setdefault(key, threading.Lock()):  # in one step, unlike a defaultdict
            if key not in self._open:
                self._open[key] = self._checked(package, key)
            found = self._open[key]
        if isinstance(found, Reason):
            raise ModelError(found.why).coded(found.code, **found.args)
        return found

    def isolation(self, asked: Isolation | None, signed_by: str) -> Isolation:
        """Where a package runs that a trusted key signed; `signed_by` is empty if none did."""
        return asked or ("thread" if signed_by else self._unsigned)

    def refusal(self, package: Package) -> Reason:
        """Why `trust` does not allow a package now; `NO_REASON` where it does. Blocks."""
        from agent.inference.signing import signature_check

        try:
            signature_check.check(package, self.trust, memory=self._memory, stopping=self._stopping)
        except ModelError as error:
            return error.reason
        return NO_REASON

    def keep(self, in_use: Sequence[Model | Worker | None]) -> None:
        """Forget every other model, and why packages were refused: those are checked again when asked for.

        Worker processes that are not needed end in a thread.
        """
        for key, found in list(self._open.items()):
            if not any(found is model for model in in_use):
                del self._open[key]
                if self._workers is not None and not isinstance(found, Reason):
                    self._workers.end_later(found)

    def stop(self) -> None:
        """End the gates that run; what waits for them is refused."""
        self._stopping.set()

    def close(self) -> None:
        """`stop`, and end every worker process; blocks for about a second at most."""
        self.stop()
        with self._starting:
            if self._workers is not None:
                self._workers.close()

    def _checked(self, package: Package, key: _Key) -> Model | Worker | Reason:
        from agent.inference import gate
        from agent.inference.session import Model

        _, _, providers, isolation, _ = key
        try:
            report = gate.verify(
                package,
                providers=providers,
                memory=self._memory,
                stopping=self._stopping,
                trust=self.trust,
            )
            if (full := self.fences.no_room(rss_mb(), report.rss_mb)).why:
                return full
            isolation = self.isolation(isolation, report.signed_by)
            if not report.signed_by:
                log.warning(
                    "%s: no key that is trusted here has signed this package (isolation: %s)",
                    printable(package.path),
                    isolation,
                )
            if report.share < 1:
                log.warning(
                    "%s: %s runs %.0f %% of its nodes, the CPU the others; they cost copies between the two",
                    printable(package.path),
                    report.provider,
                    100 * report.share,
                )
            found: Model | Worker
            if isolation == "thread":
                found = Model(package, providers=providers, scanned=report.scanned)
            else:
                found = self._worker(package, key, report)
            found.signed_by = report.signed_by
            return found
        except ModelError as error:
            return error.reason
        except Exception as error:  # a decoder of another package can raise anything
            log.debug("%s: cannot be opened", printable(package.path), exc_info=True)
            why = (
                f"{printable(package.path)}: it cannot be opened: {type(error).__name__}: {printable(error)}"
            )
            return because(why, "model-refused")

    def _worker(self, package: Package, key: _Key, report: GateReport) -> Worker:
        from agent.inference import gate

        worker = self._all_workers().open(package, key[2], report)
        keep_refusal = gate.refusal(package, key[2], self._memory)

        def refuse(why: Reason) -> None:
            if self._open.get(key) is worker:
                self._open[key] = why
            keep_refusal(why)

        worker.refused = refuse
        return worker

    def _all_workers(self) -> Workers:
        from agent.inference.isolation.worker import Workers

        with self._starting:
            if self._workers is None:
                self._workers = Workers(self.fences.now_s)
                if self._stopping.is_set():
                    self._workers.close()
            return self._workers
