"""The node's key pair and its Ed25519 signatures (RFC 8032, section 5.1) in plain Python.

A library signs in microseconds but costs the daemon 1 to 5 MB of memory (docs/decisions/0020); this code
signs in milliseconds, once a minute. Its running time depends on the key, so it must not sign on request of
unknown clients: they could measure the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from pathlib import Path

from agent.identity import CUSTODY_FILE
from agent.state_dir import keep

log = logging.getLogger(__name__)

KEY_FILE = "node.key"

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202

_Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T of section 5.1.4
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


class NodeKey:
    """The node's Ed25519 key pair; the secret half exists only in its file and in this object."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._public = public_key(seed)
        self.public = self._public.hex()

    def sign(self, message: bytes) -> str:
        """The signature in hexadecimal."""
        return sign(self._seed, self._public, message).hex()

    @classmethod
    def read(cls, path: Path) -> NodeKey:
        """The key in a file. Raises OSError, or ValueError for a damaged file."""
        seed = bytes.fromhex(path.read_text("ascii"))
        if len(seed) != 32:
            raise ValueError(f"{len(seed)} bytes instead of 32")
        return cls(seed)

    @property
    def content(self) -> bytes:
        """The content of its file."""
        return f"{self._seed.hex()}\n".encode()

    @classmethod
    def open(cls, state: Path, identity: Path | None = None) -> NodeKey | None:
        """The key that was bound at the enrolment, in the folder `identity`, else that of the state folder.

        The latter is made on the first start; None if the folder cannot keep a key.
        A damaged key file is renamed and a new key is made: the collector then asks its operators to accept
        the new key.
        """
        path = state / KEY_FILE
        if identity is not None and (identity / CUSTODY_FILE).exists():
            path = identity / CUSTODY_FILE
        try:
            return cls.read(path)
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.error("%s is not a key (%s): it is set aside and a new key is made", path, error)
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
        except OSError as error:
            log.error("%s cannot be read (%s): nothing is signed", path, error.strerror)
            return None
        seed = secrets.token_bytes(32)
        try:
            keep(path, cls(seed).content, mode=0o600)
        except OSError as error:
            log.error("%s cannot be written (%s): nothing is signed", path, error.strerror)
            return None
        return cls(seed)


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
        raise ValueError(f"a seed has 32 bytes, not {len(seed)}")
    spread = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(spread[:32], "little")
    return scalar & ((1 << 254) - 8) | (1 << 254), spread[32:]


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little")


def _times(scalar: int, point: _Point) -> _Point:
    # One addition and one doubling for each of 255 bits, whatever the bits are.
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
