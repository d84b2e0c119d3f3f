"""`edgebed key new`: the key fits the adapter, only its owner can read it, it is never overwritten."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from adapters.hl7.deidentify import read_key


def run(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the command with a umask that removes no permission."""
    command = [sys.executable, "-c", "from edgebed.cli import main; main()", "key", "new", str(file)]
    return subprocess.run(command, capture_output=True, text=True, umask=0)


def test_a_key_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "pseudonym.key"
    done = run(file)
    assert (done.returncode, done.stdout) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = read_key(file)
    assert len(key) == 32
    assert key.hex() not in done.stderr
    again = run(file)
    assert again.returncode == 78
    assert "exists and stays as it is" in again.stderr
    assert "Traceback" not in again.stderr
    assert read_key(file) == key


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = run(tmp_path / "none" / "key")
    assert done.returncode == 78
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()
