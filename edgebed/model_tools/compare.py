"""Proves in a child process that two ONNX files give the same outputs, and measures which one is faster."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from agent.inference import gate_process
from agent.inference.decoders import ModelError, Tensor
from agent.inference.feeds import require_usable
from agent.inference.package import MAX_MODEL
from agent.inference.package_files import read_file
from agent.inference.session import open_file, run
from agent.inference.tensors import tensor
from edgebed.intervals import bootstrap
from edgebed.model_tools.child import ask
from edgebed.model_tools.draft_inputs import RATES
from wire.printable import printable
from wire.reasons import Reason

TOLERANCE = 1e-4  # of the largest number of an output
_SEEDS, _ROUNDS = 4, 30
_ROUND_S, _MEASURE_S = 0.005, 8.0
_LENGTHS = (64, 224, 320, 512, 128, 16, 4, 1)  # that open axes are tried with
_MOST = 16_000_000  # numbers of an input
_WALL_S = 120.0


class Compared(Struct):
    """How the second file compares with the first; `why` if they differ or cannot run."""

    why: str = ""
    inputs: int = 0  # that both ran on
    worst: float = 0.0  # largest difference, as a share of the largest number of its output
    gain: float = 0.0  # CPU time of the first for that of the second
    interval: list[float] = []  # of the gain, 95 %
    open_ms: list[float] = []  # to open each


def compare(first: Path, second: Path) -> Compared:
    """Run both files on the same seeded inputs in a child with the limits of the gate.

    Raises:
        ModelError: a file cannot be opened or run, or the outputs differ.
    """
    return ask(__name__, [str(first), str(second)], _WALL_S, Compared, "", "the comparison cannot be read")


def main(arguments: Sequence[str]) -> None:
    """`python -m edgebed.model_tools.compare ... FIRST SECOND`, as `gate_process.run` starts it."""

    def work(rest: Sequence[str]) -> bytes:
        return msgspec.json.encode(_compared([read_file(Path(each), MAX_MODEL) for each in rest]))

    def refused(reason: Reason) -> bytes:
        return msgspec.json.encode(Compared(why=reason.why or "it is refused"))

    gate_process.answer(arguments, work, refused)


def _compared(bodies: Sequence[bytes]) -> Compared:
    found, sessions = Compared(), []
    for body in bodies:
        begin = time.thread_time()
        sessions.append(open_file(body, as_written=True))
        found.open_ms.append(round((time.thread_time() - begin) * 1e3, 1))
    first, second = sessions
    names = [each.name for each in second.get_outputs()]
    wanted = [tensor(each) for each in second.get_inputs()]
    for each in wanted:
        require_usable(each)
    lengths = _lengths(wanted, first)
    feeds = [_feed(wanted, lengths, seed) for seed in range(_SEEDS)]
    for feed in feeds:
        pairs = zip(names, *(run(session, names, feed) for session in sessions), strict=True)
        for name, one, other in pairs:
            found.worst = max(found.worst, _difference(name, one, other))
        found.inputs += 1
    if not found.worst <= TOLERANCE:  # written so that NaN fails too
        raise ModelError(
            f"the outputs differ by {found.worst:.3g} of the largest number, so it is another model"
        )
    found.gain, found.interval = _gain(sessions, names, feeds[0])
    return found


def _lengths(wanted: Sequence[Tensor], session: Any) -> int:
    """A length for open axes with which the model runs.

    Raises:
        ModelError: there is none.
    """
    why: ModelError | None = None
    for length in _LENGTHS:
        try:
            run(session, None, _feed(wanted, length, 0))
        except ModelError as error:
            why = why or error
        else:
            return length
    raise ModelError(f"it ran with no length of its open axes, name them with --dim: {why}") from why


def _feed(wanted: Sequence[Tensor], length: int, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    feed = {}
    for each in wanted:
        shape = [
            1 if dim < 0 and at == 0 else length if dim < 0 else dim for at, dim in enumerate(each.shape)
        ]
        if math.prod(shape) > _MOST:
            raise ModelError(f"its input {each} has more than {_MOST} numbers")
        if each.name.lower() in RATES:
            feed[each.name] = np.full(shape, 16_000, each.dtype)
        elif each.dtype.startswith("float"):
            scale = (1.0, 0.1, 3.0, 1.0)[seed % 4]
            feed[each.name] = (rng.normal(size=shape) * scale).astype(each.dtype)
        else:
            feed[each.name] = rng.integers(0, 2, shape).astype(each.dtype)
    return feed


def _difference(name: str, one: Any, other: Any) -> float:
    """The largest difference of two outputs, as a share of the largest number."""
    a, b = (np.array(list(_numbers(each)), np.float64) for each in (one, other))
    finite = np.isfinite(a)
    unlike = a.shape != b.shape or getattr(one, "shape", ()) != getattr(other, "shape", ())
    if unlike or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        raise ModelError(f"the output {printable(name, 64)} is not the same, so it is another model")
    largest = max(1e-9, float(np.abs(a[finite]).max(initial=0)))
    return float(np.abs(a[finite] - b[finite]).max(initial=0)) / largest


def _numbers(given: Any) -> Iterator[float]:
    """Every number of an output; a text counts as a number that depends on it alone."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        yield from given.astype(np.float64).reshape(-1)
    elif isinstance(given, Mapping):
        for key, value in sorted(given.items()):
            yield from itertools.chain(_numbers(key), _numbers(value))
    elif isinstance(given, list | tuple | np.ndarray):
        for each in given:
            yield from _numbers(each)
    elif isinstance(given, str):
        yield float(int.from_bytes(given.encode()[:6], "big"))
    else:
        yield float(given)


def _gain(sessions: Sequence[Any], names: Sequence[str], feed: dict[str, Any]) -> tuple[float, list[float]]:
    """The CPU time of the first for that of the second, measured in turns, with its interval."""
    begin = time.thread_time()
    run(sessions[0], names, feed)
    runs = max(1, int(_ROUND_S / max(1e-6, time.thread_time() - begin)))
    spent: tuple[list[float], list[float]] = ([], [])
    until = time.thread_time() + _MEASURE_S
    for at in range(_ROUNDS):
        for which in (0, 1) if at % 2 else (1, 0):
            begin = time.thread_time()
            for _ in range(runs):
                run(sessions[which], names, feed)
            spent[which].append(time.thread_time() - begin)
        if at >= 4 and time.thread_time() > until:
            break
    return round(sum(spent[0]) / sum(spent[1]), 3), bootstrap(spent[0], spent[1], 3)


if __name__ == "__main__":
    main(sys.argv[1:])
