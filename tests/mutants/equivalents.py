"""The mutants that no test can notice, in equivalent.yaml, each with the reason."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

FILE = Path(__file__).with_name("equivalent.yaml")


class Equivalent(Struct, forbid_unknown_fields=True, frozen=True):
    """A mutant by its content: where that changes, the entry fits nothing and a test fails."""

    path: str
    before: str  # the lines that the mutant changes, without indentation
    after: str
    why: str
    scope: str = ""  # the class and function; "" is the module


def equivalents() -> list[Equivalent]:
    """The entries of the file."""
    return msgspec.yaml.decode(FILE.read_bytes(), type=list[Equivalent])
