"""Files through which a command asks the collector that owns a store to do something, and its answer."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from wire.errors import EdgebedError, TryAgain

WAIT_S = 30.0
_MAX_BYTES = 1_000


def ask(folder: Path, what: str, text: str) -> list[str]:
    """Ask for `what`; the lines of the answer.

    Raises:
        EdgebedError: the folder cannot be written.
        TryAgain: the collector that owns the store does not answer.
    """
    request = folder / f"{what}.request"
    answer, end = folder / f"{what}.answer", time.monotonic() + WAIT_S
    try:
        answer.unlink(missing_ok=True)
        (folder / f"{what}.request.new").write_text(text)
        (folder / f"{what}.request.new").replace(request)
        while time.monotonic() < end:
            if answer.exists():
                found = msgspec.json.decode(answer.read_bytes(), type=list[str])
                answer.unlink()
                return found
            time.sleep(0.1)
        request.unlink(missing_ok=True)
    except (OSError, msgspec.MsgspecError) as error:
        raise EdgebedError(f"{folder}: {error}; run this as the collector's user") from error
    raise TryAgain(f"the collector that owns {folder} does not answer: try again, or stop it first")


def requested(folder: Path, what: str) -> str:
    """The text of a command that asks for `what`, taken once; "" when none does."""
    path = folder / f"{what}.request"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", "replace").strip()
        path.unlink()
    except OSError:
        return ""
    return text


def answer(folder: Path, what: str, found: list[str]) -> None:
    """Answer the command that waits.

    Raises:
        OSError: the folder is not writable.
    """
    work = folder / f"{what}.answer.new"
    work.write_bytes(msgspec.json.encode(found))
    work.replace(folder / f"{what}.answer")
