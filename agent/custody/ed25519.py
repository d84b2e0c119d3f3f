"""Ed25519 signatures in plain Python, RFC 8032 section 5.1: signing only, a few times an hour.

A library would do it in microseconds and cost the daemon 1 to 5 MB for ever (docs/decisions/0020). The time
it takes depends on the key: it is for a signature a minute that nobody can time, not for answering strangers.
"""

from __future__ import annotations

import hashlib

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202

_Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T of section 5.1.4
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def public_key(seed: bytes) -> bytes:
    """The 32 bytes of the public key that belongs to a secret `seed` of 32 bytes."""
    return _compressed(_times(_secret(seed)[0], _BASE))


def sign(seed: bytes, public: bytes, message: bytes) -> bytes:
    """The 64 bytes of the signature of `message`; `public` is `public_key(seed)`."""
    scalar, prefix = _secret(seed)
    nonce = _number(prefix + message) % _L
    point = _compressed(_times(nonce, _BASE))
    challenge = _number(point + public + message) % _L
    return point + ((nonce + challenge * scalar) % _L).to_bytes(32, "little")


def _secret(seed: bytes) -> tuple[int, bytes]:
    if len(seed) != 32:
        raise ValueError(f"a seed of {len(seed)} bytes; it has 32")
    spread = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(spread[:32], "little")
    return scalar & ((1 << 254) - 8) | (1 << 254), spread[32:]


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little")


def _times(scalar: int, point: _Point) -> _Point:
    # one addition and one doubling for each of 255 bits, whatever the bits are
    result: _Point = (0, 1, 1, 0)
    for bit in range(254, -1, -1):
        doubled = _sum(result, result)
        added = _sum(doubled, point)
        result = added if scalar >> bit & 1 else doubled
    return result


def _sum(left: _Point, right: _Point) -> _Point:
    a = (left[1] - left[0]) * (right[1] - right[0]) % _P
    b = (left[1] + left[0]) * (right[1] + right[0]) % _P
    c = 2 * left[3] * right[3] * _D % _P
    d = 2 * left[2] * right[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _compressed(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")
