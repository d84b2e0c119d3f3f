"""The samples of a shadow: budget, order, what is hidden, and a process that is killed while it keeps one."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.commands import Rejected
from agent.pipeline import sample_commands
from agent.pipeline.frames.privacy import Privacy, Seen
from agent.pipeline.samples import SampleError, Samples, listed, read
from agent.pipeline.settings import SampleConfig
from wire.messages import MAX_BODY, Box

NOW = 1_760_000_000_000


def window(seed: int) -> np.ndarray:
    """Numbers that cannot be made smaller: about 8 kB."""
    return np.random.default_rng(seed).normal(size=(1_000, 2)).astype(np.float32)


def test_the_oldest_are_removed_above_the_budget(tmp_path: Path) -> None:
    counters = Counter[str]()
    kept = Samples(tmp_path, SampleConfig(max_mb=0.05, per_hour=100), counters)
    for number in range(20):
        kept.window(window(number), {"number": number}, NOW + number)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 50_000
    found = listed(tmp_path)
    assert 4 <= len(found) == len(kept) <= 7
    assert [each.at_ms for each in found] == list(range(NOW + 20 - len(found), NOW + 20))
    assert counters["samples"] == 20


def test_an_hour_has_so_many_and_counts_those_of_a_process_before(tmp_path: Path) -> None:
    config = SampleConfig(per_hour=2)
    first = Samples(tmp_path, config, Counter())
    for at_ms in (NOW, NOW + 1_000):
        assert first.wanted(at_ms)
        first.window(window(0), {}, at_ms)
    assert not first.wanted(NOW + 2_000)
    again = Samples(tmp_path, config, Counter())
    assert not again.wanted(NOW + 2_000)
    assert again.wanted(NOW + 3_600_000), "the first is an hour old"
    assert again.wanted(NOW - 86_400_000), "the clock was set back"


def test_one_that_is_larger_than_the_budget_removes_nothing(tmp_path: Path) -> None:
    counters = Counter[str]()
    kept = Samples(tmp_path, SampleConfig(max_mb=0.01), counters)
    kept.window(window(0), {}, NOW)
    kept.window(np.random.default_rng(0).normal(size=(9_000, 2)), {}, NOW + 1)
    assert len(listed(tmp_path)) == 1
    assert counters["samples_too_large"] == 1


def test_none_are_kept_without_a_budget(tmp_path: Path) -> None:
    assert not Samples(tmp_path, SampleConfig(max_mb=0), Counter()).wanted(NOW)
    assert not Samples(tmp_path, SampleConfig(per_hour=0), Counter()).wanted(NOW)


def test_a_disk_that_fails_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    counters = Counter[str]()
    Samples(tmp_path / "file" / "slot", SampleConfig(), counters).window(window(0), {}, NOW)
    assert counters["samples_failed"] == 1


@pytest.mark.parametrize(
    "privacy", [None, Privacy(("faces",)), Privacy(("plates",)), Privacy(("faces",), Path("missing"))]
)
def test_no_picture_is_kept_where_a_part_may_be_shown(tmp_path: Path, privacy: Privacy | None) -> None:
    counters = Counter[str]()
    picture = np.zeros((64, 64, 3), np.uint8)
    animals = Seen([Box(label="dog", cls=0, score=0.9, box=(0, 0, 1, 1))], ["dog"], 100)
    for seen in (None, animals):
        Samples(tmp_path, SampleConfig(), counters).picture(picture, seen, privacy, {}, NOW)
    assert counters == {"samples_unfiltered": 2}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../secret", "1760000000000-1.txt", "", "1760000000000-9.npz", ".new"])
def test_only_samples_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "secret").write_text("x")
    with pytest.raises(SampleError):
        read(tmp_path / "samples", name, 100)


def test_a_link_is_not_a_sample(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "1760000000000-1.npz").symlink_to(tmp_path / "secret")
    assert not listed(tmp_path)
    os.mkfifo(tmp_path / "1760000000000-2.npz")
    with pytest.raises(SampleError, match="there is no sample"):
        read(tmp_path, "1760000000000-2.npz", 100)
    with pytest.raises(SampleError):
        read(tmp_path, "1760000000000-1.npz", 100)


async def test_the_command_lists_and_gives_samples(tmp_path: Path) -> None:
    action = sample_commands.samples(tmp_path)
    assert await action("_", {"slot": "detector"}) == {"samples": []}
    kept = Samples(tmp_path / "samples" / "detector", SampleConfig(), Counter())
    kept.window(window(0), {"a": 1}, NOW)
    (found,) = (await action("_", {"slot": "detector"}))["samples"]
    assert (found["ts"], found["name"]) == (NOW, f"{NOW}-1.npz")
    given = await action("_", {"slot": "detector", "name": found["name"]})
    with np.load(io.BytesIO(base64.b64decode(given["data"]))) as body:
        assert (body["window"] == window(0)).all()


async def test_a_picture_as_large_as_one_may_be_fits_an_answer(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
    kept = Samples(tmp_path / "samples" / "detector", SampleConfig(), Counter())
    kept.picture(noise, None, Privacy(()), {"a": "x" * 4_000}, NOW)
    action = sample_commands.samples(tmp_path)
    answer = await action("_", {"slot": "detector", "name": f"{NOW}-1.jpg"})
    assert 30_000 < len(msgspec.json.encode(answer)) < MAX_BODY - 2_000


@pytest.mark.parametrize(
    ("device", "args"),
    [
        ("camera", {"slot": "detector"}),
        ("_", {}),
        ("_", {"slot": "../x"}),
        ("_", {"slot": 3}),
        ("_", {"slot": "detector", "name": 3}),
        ("_", {"slot": "detector", "name": "../secret"}),
        ("_", {"slot": "detector", "name": "1760000000000-1.npz"}),
    ],
)
async def test_the_command_is_rejected_for_anything_else(
    tmp_path: Path, device: str, args: dict[str, object]
) -> None:
    with pytest.raises(Rejected):
        await sample_commands.samples(tmp_path)(device, args)


KEEPS = """
import sys
from collections import Counter
from pathlib import Path
import numpy as np
from agent.pipeline.samples import Samples
from agent.pipeline.settings import SampleConfig

kept = Samples(Path(sys.argv[1]), SampleConfig(max_mb=0.2, per_hour=3600), Counter())
rows = np.random.default_rng(0).normal(size=(2_000, 2)).astype(np.float32)
for number in range(10**6):
    kept.window(rows, {}, 1_760_000_000_000 + number)
"""


def _killed_while_keeping(folder: Path, after: int) -> None:
    with subprocess.Popen([sys.executable, "-c", KEEPS, str(folder)]) as process:
        while len(listed(folder)) < after and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("after", [1, 5])
def test_a_kill_leaves_whole_samples_only(tmp_path: Path, after: int) -> None:
    _killed_while_keeping(tmp_path, after)
    (tmp_path / "1760000000000-99.new").write_bytes(b"half")
    kept = Samples(tmp_path, SampleConfig(max_mb=0.2), Counter())
    kept.wanted(NOW)
    assert not list(tmp_path.glob("*.new"))
    for each in listed(tmp_path):
        with np.load(tmp_path / each.name) as found:
            assert found["window"].shape == (2_000, 2)
    before = len(kept)
    kept.window(window(1), {}, NOW + 10**7)
    assert len(listed(tmp_path)) >= min(before, 1)
    assert listed(tmp_path)[-1].at_ms == NOW + 10**7
