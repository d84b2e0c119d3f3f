"""De-identification: the file of the key, the pseudonyms, and the values that may be sent."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from base64 import b32encode
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import OptionsError
from adapters.hl7.deidentify import Deidentifier, create_key, read_key

KEY = bytes(range(32))


def test_a_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = read_key(path)
    assert len(key) == 32
    with pytest.raises(OptionsError, match="exists"):
        create_key(path)
    assert read_key(path) == key
    with pytest.raises(OptionsError, match="cannot be written"):
        create_key(tmp_path / "none" / "key")


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(OptionsError, match="chmod 600"):
        read_key(path)
    path.chmod(0o640)  # root:edgebed, as packages install secrets
    assert read_key(path) == KEY


def test_the_error_of_a_missing_short_or_odd_key_shows_the_command(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(KEY[:31])
    short.chmod(0o600)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (tmp_path / "none", short, pipe, tmp_path):
        with pytest.raises(OptionsError, match="edgebed key new ") as caught:
            read_key(path)
        assert "\\x" not in str(caught.value)


def test_the_pseudonym_is_the_documented_hmac() -> None:
    text = b"edgebed patient pseudonym 1\x00HOSP\x0012345678"
    want = b32encode(hmac.new(KEY, text, hashlib.sha256).digest()[:10]).decode().lower()
    assert Deidentifier(KEY, Counter()).pseudonym("12345678", issuer="HOSP") == f"p-{want}"


def test_the_same_person_has_the_same_pseudonym_and_another_another() -> None:
    one, two = Deidentifier(KEY, Counter()), Deidentifier(KEY, Counter())
    assert one.pseudonym("12345678") == two.pseudonym(" 12345678 ")
    assert one.pseudonym("황보-7") == two.pseudonym("황보-7")  # composed, decomposed
    different = [one.pseudonym("12345678"), one.pseudonym("12345679"), one.pseudonym("12345678", issuer="H")]
    different += [one.pseudonym("a", issuer="bc"), one.pseudonym("ab", issuer="c")]
    different.append(Deidentifier(KEY[::-1], Counter()).pseudonym("12345678"))
    different.append(Deidentifier(None, Counter()).pseudonym("12345678"))
    assert len(set(different)) == len(different)


def test_only_numbers_and_pseudonyms_are_released() -> None:
    counters: Counter[str] = Counter()
    gate = Deidentifier(KEY, counters)
    made = gate.pseudonym("1")
    values = {
        "a": 1.5,
        "b": None,
        "c": True,
        "d": made,
        "e": "황보",
        "f": Deidentifier(None, Counter()).pseudonym("1"),
    }
    assert gate.release(values) == {"a": 1.5, "b": None, "c": True, "d": made, "e": None, "f": None}
    assert counters["stopped_at_gate"] == 2


def test_forgotten_identifiers_count_as_removed() -> None:
    counters: Counter[str] = Counter()
    gate = Deidentifier(KEY, counters)
    assert counters == {"identifiers_seen": 0, "deidentified": 0}
    gate.saw(4)
    gate.saw(3)
    assert counters == {"identifiers_seen": 7, "deidentified": 0}
    gate.forget()
    gate.forget()
    assert counters == {"identifiers_seen": 7, "deidentified": 7}


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_pseudonym_never_contains_the_identifier(identifier: str) -> None:
    made = Deidentifier(KEY, Counter()).pseudonym(identifier)
    assert len(made) == 18
    assert len(identifier.strip()) < 4 or identifier not in made
