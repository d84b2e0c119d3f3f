"""Hashes passwords with scrypt, one at a time in a worker thread: a flood of logins costs little."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wire.errors import EdgebedError, TryAgain

T = TypeVar("T")

LEAST = 10  # characters of a password
MOST = 200
WAITING = 8  # logins that may wait for the worker
_FORM = "scrypt-14-8-1"  # log2 of N, r, p: 16 MB and about 50 ms


def hashed(password: str) -> str:
    """The text to store of a password.

    Raises:
        EdgebedError: the password is too short or too long.
    """
    if not LEAST <= len(password) <= MOST:
        raise EdgebedError(f"a password has {LEAST} to {MOST} characters, and this one has {len(password)}")
    salt = secrets.token_bytes(16)
    return f"{_FORM}:{salt.hex()}:{_scrypt(password, salt).hex()}"


def fits(password: str, stored: str) -> bool:
    """Whether a password has this stored hash; a hash of another form fits no password."""
    form, _, rest = stored.partition(":")
    salt, _, wanted = rest.partition(":")
    try:
        raw, expected = bytes.fromhex(salt), bytes.fromhex(wanted)
    except ValueError:
        form = ""
    if form != _FORM or len(raw) != 16:
        raw, expected = bytes(16), b""
    return hmac.compare_digest(_scrypt(password, raw), expected)


def _scrypt(password: str, salt: bytes) -> bytes:
    # one keyboard sends a Korean syllable as one character, another one as its parts
    text = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=1 << 14, r=8, p=1, maxmem=32 << 20, dklen=32)


class PasswordWorker:
    """Checks one password at a time; only the event loop uses it. `checked` counts them.

    It has one thread of its own: each thread that ran scrypt keeps its 16 MB. The thread gives way to those
    that receive and store.
    """

    def __init__(self) -> None:
        self.checked = 0
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "passwords", _give_way)

    async def fits(self, password: str, stored: str) -> bool:
        """`fits`, in a worker thread.

        Raises:
            TryAgain: too many logins wait already.
        """
        return await self._run(lambda: fits(password, stored))

    async def hashed(self, password: str) -> str:
        """`hashed`, in the worker thread.

        Raises:
            EdgebedError: as `hashed`.
            TryAgain: too many passwords wait already.
        """
        return await self._run(lambda: hashed(password))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING:
            raise TryAgain("many logins are being checked now: try again in a few seconds")
        self._waiting += 1
        try:
            self.checked += 1
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


def _give_way() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # of this thread alone, on Linux
