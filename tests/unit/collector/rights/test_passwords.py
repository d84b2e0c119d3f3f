"""Passwords are hashed slowly, one at a time, and compared whatever a damaged file says."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import unicodedata

import pytest

from collector.rights import passwords
from collector.rights.passwords import PasswordWorker, fits, hashed
from wire.errors import EdgebedError, TryAgain

GOOD = "correct horse battery"


def test_a_hash_fits_its_password_alone() -> None:
    stored = hashed(GOOD)
    assert fits(GOOD, stored)
    assert not fits(GOOD + "x", stored)
    assert hashed(GOOD) != stored, "each has its own salt"
    assert GOOD not in stored


def test_the_hash_is_scrypt_as_documented() -> None:
    form, salt, found = hashed(GOOD).split(":")
    assert form == "scrypt-14-8-1"
    assert hashlib.scrypt(GOOD.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32).hex() == found


def test_a_syllable_is_the_same_however_it_is_typed() -> None:
    text = "한글 비밀번호 열 글자"
    assert fits(unicodedata.normalize("NFD", text), hashed(unicodedata.normalize("NFC", text)))


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "x",
        "scrypt-14-8-1",
        "scrypt-14-8-1::",
        "scrypt-14-8-1:00:00",
        f"scrypt-30-8-1:{'00' * 16}:00",
        "::",
    ],
)
def test_a_hash_that_is_not_one_fits_no_password(stored: str) -> None:
    assert not fits(GOOD, stored)
    assert not fits("", stored)


@pytest.mark.parametrize("text", ["", "short", "x" * 201])
def test_a_password_that_is_too_short_or_long_is_refused(text: str) -> None:
    with pytest.raises(EdgebedError, match="a password has 10 to 200 characters"):
        hashed(text)


async def test_only_so_many_logins_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAITING", 2)
    worker, stored = PasswordWorker(), hashed(GOOD)
    asked = [asyncio.create_task(worker.fits(GOOD, stored)) for _ in range(3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert found[:2] == [True, True]
    assert isinstance(found[2], TryAgain)
    assert worker.checked == 2
    assert await worker.fits("another password", stored) is False
    worker.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("passwords")]
