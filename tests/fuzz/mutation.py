"""Mutated inputs without a fuzzing engine: the same seed gives the same inputs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_MAGIC = (
    b"\x00",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80" + bytes(7),
    b"NaN",
    b"null",
    b"-1",
    b"1e999",
    b"[" * 500,
    b'"',
)
_LONGEST = 200_000


def mutated(seeds: Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    """Yield the seeds, then mutations of them without end."""
    yield from seeds
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            _change(data, seeds, rng)
        yield bytes(data[:_LONGEST])


def _change(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    at, upto = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    upto = min(upto, at + rng.choice((1, 4, 64, 4096)))
    kind = rng.randrange(7)
    if kind == 0 and data:
        data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at:upto] = rng.randbytes(upto - at)
    elif kind == 2:
        del data[at:upto]
    elif kind == 3:
        data[at:at] = data[at:upto] * rng.randint(1, 8)
    elif kind == 4:
        data[at : rng.choice((at, upto))] = rng.choice(_MAGIC)
    elif kind == 5:
        other = rng.choice(seeds)
        data[at:upto] = other[rng.randint(0, len(other)) :][: upto - at + 8]
    else:
        del data[at:]
