"""Asks a child process with the limits of the gate: a file that it loads may be hostile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from agent.inference import gate_process
from agent.inference.decoders import ModelError
from wire.printable import printable


class _Answer(Protocol):
    why: str  # why there is none


A = TypeVar("A", bound=_Answer)


def ask(
    module: str, arguments: Sequence[str], wall_s: float, kind: type[A], about: str, unreadable: str
) -> A:
    """The answer of `module`, run with `arguments`; an error begins with `about`.

    Raises:
        ModelError: the child ended, its answer cannot be read (`unreadable`), or the answer has a `why`.
    """
    done = gate_process.run(list(arguments), wall_s, threading.Event(), module)
    if done.failure is not None:
        raise ModelError(f"{about}{done.failure.why}").coded(done.failure.code, **done.failure.args)
    try:
        found = msgspec.json.decode(done.report, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{about}{unreadable}: {printable(error)}") from error
    if found.why:
        raise ModelError(f"{about}{printable(found.why, 1000)}")
    return found
