"""Finds out in a child process which trusted keys signed a plan, which comes from outside."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from agent.inference import gate_process
from agent.inference.signing.trust import Trust
from agent.pilots.signatures import PlanRefused, bad, signers
from wire.errors import WireError
from wire.pilot.frozen import read_signed
from wire.printable import printable
from wire.reasons import Reason

_WALL_S = 90.0


class Verdict(Struct, kw_only=True):
    """The answer of the child; `why` is empty if every signature is what it claims."""

    why: str = ""
    code: str = ""
    args: dict[str, Any] = {}
    signers: tuple[str, ...] = ()


def check(envelope: bytes, trust: Trust, stopping: threading.Event) -> tuple[str, ...]:
    """The names of the trusted keys that signed a plan; blocks.

    Raises:
        PlanRefused: a signature is wrong, or could not be checked.
    """
    arguments = [envelope.decode(), msgspec.json.encode(trust).decode()]
    done = gate_process.run(arguments, _WALL_S, stopping, "agent.pilots.signature_check")
    if done.failure is not None:
        raise bad(f"it could not be checked: {done.failure.why}")
    try:
        verdict = msgspec.json.decode(done.report, type=Verdict)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise bad(f"it could not be checked: {printable(error)}") from error
    if verdict.why:
        raise PlanRefused(verdict.why).coded(verdict.code, **verdict.args)
    return verdict.signers


# -- the child ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """`python -m agent.pilots.signature_check ... ENVELOPE TRUST`, both as JSON."""
    gate_process.answer(arguments, _report, lambda reason: msgspec.json.encode(_refused(reason)))


def _report(arguments: Sequence[str]) -> bytes:
    envelope, trust = arguments
    try:
        names = signers(read_signed(envelope.encode()), msgspec.json.decode(trust, type=Trust))
    except (PlanRefused, WireError) as error:
        return msgspec.json.encode(_refused(error.reason))
    return msgspec.json.encode(Verdict(signers=names))


def _refused(reason: Reason) -> Verdict:
    return Verdict(why=reason.why, code=reason.code, args=dict(reason.args))


if __name__ == "__main__":
    main(sys.argv[1:])
