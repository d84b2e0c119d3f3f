"""`edgebed key`: the key fits its use, only its owner can read it, it is never overwritten."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from adapters.hl7.deidentify import read_key
from agent.inference.signing.trust import fingerprint, public_key


def run(file: Path, kind: str = "new") -> subprocess.CompletedProcess[str]:
    """Run the command with a umask that removes no permission."""
    command = [sys.executable, "-c", "from edgebed.cli import main; main()", "key", kind, str(file)]
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


def test_a_key_pair_for_signatures_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "maker.key"
    done = run(file, "signing")
    private, public = file.read_text(), (tmp_path / "maker.pem").read_text()
    assert done.returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert public_key(public) == public
    assert fingerprint(public) in done.stdout
    assert private.splitlines()[1] not in done.stdout + done.stderr
    for name in ("maker.key", "maker.other"):
        again = run(tmp_path / name, "signing")
        assert (again.returncode, "exists and stays as it is" in again.stderr) == (1, True)
    assert [file.read_text(), sorted(each.name for each in tmp_path.iterdir())] == [
        private,
        ["maker.key", "maker.pem"],
    ]
    assert run(tmp_path / "other.pem", "signing").returncode == 2
