"""Renews the certificate of an enrolled agent while the agent runs."""

from __future__ import annotations

import logging
import random
import subprocess
import threading
from pathlib import Path

from agent.identity import ENROLMENT
from edgebed.processes import edgebed_command

log = logging.getLogger("edgebed.agent")

_FIRST_S, _EVERY_S = 60.0, 12 * 3_600.0
_LIMIT_S = 120.0


class Renewal:
    """Runs `edgebed agent renew` now and then, in a process of its own.

    The daemon does not import the library for certificates: it would stay in its memory. An agent that was
    not enrolled has nothing to renew. A new certificate is used from the next connection on.
    """

    def __init__(
        self,
        certificate: Path | None,
        first_s: float = _FIRST_S,
        every_s: float = _EVERY_S,
        state: Path | None = None,
    ) -> None:
        self._state = state
        self._folder = certificate.parent if certificate is not None else None
        self._first_s, self._every_s = first_s, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, if there is something to renew."""
        if self._folder is not None and (self._folder / ENROLMENT).is_file():
            self._thread.start()

    def stop(self) -> None:
        """End a renewal that runs; its folder keeps the certificate that it had."""
        self._stopping.set()
        process = self._process
        if process is not None:
            process.kill()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = self._first_s
        while not self._stopping.wait(wait_s * random.uniform(0.75, 1.25)):  # a thousand nodes spread out
            self._renew()
            wait_s = self._every_s

    def _renew(self) -> None:
        words = edgebed_command("agent", "renew", str(self._folder))
        if self._state is not None:
            words += ["--state", str(self._state)]
        try:
            self._process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            log.warning("the certificate cannot be renewed: %s", error)
            return
        if self._stopping.is_set():  # `stop` did not see this process
            self._process.kill()
        try:
            out, err = self._process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
        if self._stopping.is_set():
            return
        if self._process.returncode == 0:
            log.info("certificate: %s", out.strip())
        else:
            log.warning("the certificate is not renewed: %s", (err.strip() or "no answer")[-1_000:])
