"""Errors have an exit code, a code with args, and a sentence that names what to do."""

from __future__ import annotations

import errno

import pytest

from wire.errors import ConfigError, EdgebedError, TryAgain, Unreachable, WireError, on_purpose, unwritable
from wire.reasons import Reason


@pytest.mark.parametrize(
    ("kind", "code"),
    [(EdgebedError, 1), (WireError, 1), (Unreachable, 69), (TryAgain, 75), (ConfigError, 78)],
)
def test_the_exit_code_of_each_kind(kind: type[EdgebedError], code: int) -> None:
    assert kind("why").exit_code == code


def test_an_error_has_its_sentence_as_reason_and_a_code_that_can_be_set() -> None:
    error = Unreachable("no answer")
    assert error.reason == Reason("no answer", "", {})
    assert error.coded("no-answer", where="tcp://a:1") is error
    assert error.reason == Reason("no answer", "no-answer", {"where": "tcp://a:1"})
    assert EdgebedError("other").reason_args == {}, "of this error alone"


def test_mistakes_of_a_file_are_lines() -> None:
    error = ConfigError("a.yaml:1:1: one", "a.yaml:2:1: two")
    assert str(error) == "a.yaml:1:1: one\na.yaml:2:1: two"
    assert error.mistakes == ("a.yaml:1:1: one", "a.yaml:2:1: two")


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (OSError(errno.ENOSPC, "x"), TryAgain, "the disk is full; free some space"),
        (OSError(errno.EDQUOT, "x"), TryAgain, "the disk is full; free some space"),
        (
            OSError(errno.ENOENT, "No such file"),
            ConfigError,
            "No such file; create its folder or choose another",
        ),
        (OSError(errno.EEXIST, "x"), ConfigError, "a part of this path is a file; choose another"),
        (OSError(errno.ENOTDIR, "x"), ConfigError, "a part of this path is a file; choose another"),
        (OSError(errno.EACCES, "denied"), ConfigError, "denied; make it writable or choose another"),
        (OSError("odd"), ConfigError, "odd; make it writable or choose another"),
    ],
)
def test_a_folder_that_cannot_be_written(error: OSError, kind: type[EdgebedError], sentence: str) -> None:
    found = unwritable("state folder /x", error)
    assert type(found) is kind
    assert str(found) == f"state folder /x cannot be written: {sentence}"


def test_the_error_that_was_meant_is_found_in_a_group() -> None:
    meant, other = WireError("bad"), TryAgain("full")
    group = BaseExceptionGroup("", [KeyError(1), BaseExceptionGroup("", [KeyError(2), meant]), other])
    assert on_purpose(group) is meant
    assert on_purpose(BaseExceptionGroup("", [ExceptionGroup("", [KeyError(1)]), KeyError(2)])) is None
