"""A field session is recorded, cut off, replayed and compared, on the command line with real devices."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest
import yaml

from adapters.base import Reading
from agent.offline.mcap_file import McapReader, RecordingError, read_session
from agent.offline.regression import ExpectedEvent
from edgebed.processes import Child, edgebed_command
from simulators.faults.fault import Fault
from simulators.plants.cobot import RATE_HZ, SIGNALS, Cobot
from simulators.plants.scene import Scene
from wire.messages import Quality

MODELS = Path(__file__).resolve().parents[2] / "models"
SECONDS = 40
FAULT = Fault("friction", "3", start_s=15, size=2.0)
PICTURES = 6


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a robot's readings, a camera's pictures and a config for both."""
    folder = tmp_path_factory.mktemp("field")
    block = Cobot(5, [FAULT]).block(0, SECONDS * RATE_HZ)
    with (folder / "arm.jsonl").open("w") as file:
        for index, row in enumerate(block.tolist()):
            at_ms = 1_770_000_000_000 + index * 1000 // RATE_HZ
            file.write(json.dumps({"t": at_ms, **dict(zip(SIGNALS, row, strict=True))}) + "\n")
    (folder / "street").mkdir()
    scene = Scene(seed=3)
    for index in range(PICTURES):
        cv2.imwrite(str(folder / "street" / f"{index:03}.png"), scene.frame(index * 20))
    document: dict[str, Any] = {
        "node": "acme/trial/hall/box",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "state": "state",
        "devices": {
            "arm": {
                "adapter": "replay",
                "options": {
                    "file": "arm.jsonl",
                    "fields": {name: {"column": name} for name in SIGNALS},
                    "time": "t",
                    "time_unit": "ms",
                    "times": "recorded",
                    "rate": "asap",
                    "rate_hz": RATE_HZ,
                    "stream": "joints",
                },
            },
            "camera": {"adapter": "camera", "options": {"folder": "street", "pace": "asap"}},
        },
        "models": {
            "anomaly": {"package": str(MODELS / "joint-anomaly"), "input": "arm/joints"},
            "detector": {
                "package": str(MODELS / "street-detector"),
                "input": "camera/frames",
                "events": "each",
            },
        },
    }
    (folder / "box.yaml").write_text(yaml.safe_dump(document))
    return folder


@pytest.fixture(scope="module")
def recording(field: Path) -> Path:
    """The session of `field` as a file."""
    made = edgebed("record", "box.yaml", "-o", "session.mcap", folder=field)
    assert made.returncode == 0, made.stderr
    return field / "session.mcap"


def edgebed(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        edgebed_command(*arguments), cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def readings(path: Path, *, pictures: bool = True) -> list[Reading]:
    return [
        each.reading for each in McapReader(path, pictures=pictures).records() if each.reading is not None
    ]


def test_the_file_has_every_reading_exactly(field: Path, recording: Path) -> None:
    rows = [each for each in readings(recording) if each.picture is None]
    block = Cobot(5, [FAULT]).block(0, SECONDS * RATE_HZ).tolist()
    assert [[each.values[name] for name in SIGNALS] for each in rows] == block
    pictures = [each for each in readings(recording) if each.picture is not None]
    assert [each.index for each in pictures] == list(range(PICTURES))
    found = read_session(recording)
    assert not found.recovered
    assert set(found.models) == {"anomaly", "detector"}
    assert found.streams["arm"]["joints"].fields.keys() == set(SIGNALS)


def test_a_replay_is_the_same_every_time_and_gives_the_recorded_events(field: Path, recording: Path) -> None:
    runs = [edgebed("replay", "session.mcap", folder=field) for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    events = [msgspec.json.decode(line, type=ExpectedEvent) for line in runs[0].stdout.splitlines()]
    alarms = [each for each in events if each.type == "anomaly"]
    assert alarms, "the fault is in the recording"
    assert {each.top for each in alarms} == {"j3"}
    assert 15_000 <= alarms[0].ts - 1_770_000_000_000 <= 20_000
    assert sum(each.device == "camera" for each in events) == PICTURES
    live = [each.event for each in McapReader(recording).records() if each.event is not None]
    assert sorted((each.ts, each.type, each.top) for each in live) == [
        (each.ts, each.type, each.top) for each in sorted(events, key=lambda each: (each.ts, each.type))
    ]


def test_an_empty_expectation_is_no_gate(field: Path, recording: Path) -> None:
    """It would pass nothing and show every event as new; it is more likely a file that was never written."""
    (field / "empty.jsonl").write_text("")
    done = edgebed("replay", "session.mcap", "--expect", "empty.jsonl", folder=field)
    assert done.returncode == 3
    assert "empty.jsonl has no event, the replay has" in done.stderr


def test_the_gate_passes_expected_events_and_shows_differences(field: Path, recording: Path) -> None:
    gate = ("replay", "session.mcap", "--expect", "expect.jsonl")
    assert edgebed(*gate, "--update", folder=field).returncode == 0
    same = edgebed(*gate, folder=field)
    assert (same.returncode, same.stdout.strip()) == (0, "as expected")
    expect = field / "expect.jsonl"
    lines = expect.read_text().splitlines()
    alarm = next(at for at, line in enumerate(lines) if '"anomaly"' in line)
    changed = json.loads(lines[alarm])
    changed["top"] = "j1"
    extra = {**changed, "ts": changed["ts"] - 5000}
    expect.write_text(
        "\n".join([*lines[:alarm], json.dumps(changed), *lines[alarm + 1 :], json.dumps(extra)])
    )
    other = edgebed(*gate, folder=field)
    assert other.returncode == 1
    assert "arm/anomaly" in other.stdout
    assert "top j1 -> j3" in other.stdout
    assert "1 missing, 0 unexpected, 1 changed" in other.stdout


def test_another_model_is_reported_and_its_events_are_the_difference(field: Path, recording: Path) -> None:
    package = field / "deaf"
    shutil.copytree(MODELS / "joint-anomaly", package, ignore=shutil.ignore_patterns("model.sig"))
    manifest = yaml.safe_load((package / "manifest.yaml").read_text())
    manifest["output"]["threshold"] = 1e6
    manifest["version"] = "9.9.9"
    (package / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    document = yaml.safe_load((field / "box.yaml").read_text())
    document["models"]["anomaly"]["package"] = "deaf"
    (field / "other.yaml").write_text(yaml.safe_dump(document))
    expect = ("--expect", "first.jsonl")
    assert edgebed("replay", "session.mcap", *expect, "--update", folder=field).returncode == 0
    run = edgebed("replay", "session.mcap", "--config", "other.yaml", *expect, folder=field)
    assert run.returncode == 1
    assert "joint-anomaly@9.9.9" in run.stderr
    assert "  - " in run.stdout


def test_a_file_cut_off_anywhere_gives_every_whole_record(recording: Path, tmp_path: Path) -> None:
    data = recording.read_bytes()
    whole = [(each.stream, each.at_ns, dict(each.values)) for each in readings(recording, pictures=False)]
    chance = random.Random(8)
    cut = tmp_path / "cut.mcap"
    before = -1
    for size in sorted(chance.randrange(8, len(data)) for _ in range(12)):
        cut.write_bytes(data[:size])
        reader = McapReader(cut, pictures=False)
        found = [
            (each.reading.stream, each.reading.at_ns, dict(each.reading.values))
            for each in reader.records()
            if each.reading is not None
        ]
        assert found == whole[: len(found)]
        assert len(found) >= before
        assert reader.session.recovered or len(found) == len(whole)
        before = len(found)


def test_damage_always_ends_in_an_error_of_edgebed(recording: Path, tmp_path: Path) -> None:
    data = recording.read_bytes()[:60_000]
    chance = random.Random(9)
    bad = tmp_path / "bad.mcap"
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        bad.write_bytes(damaged)
        try:
            for _ in McapReader(bad).records():
                pass
        except RecordingError as error:
            assert str(bad) in str(error)


def test_a_killed_recorder_leaves_all_synced_records(tmp_path: Path) -> None:
    with Child("cell", edgebed_command("sim", "run", "opcua"), tmp_path / "cell.log") as cell:
        url = cell.first_line().replace("opc.tcp://", "opc.tcp://op:geheim@")
        config = tmp_path / "arm.yaml"
        config.write_text(
            f"# {url}\nnode: a/b/c/d\nbroker: {{url: 'mqtt://127.0.0.1:1'}}\nstate: s\ndevices:\n"
            f"  arm: {{adapter: opcua, options: {{url: '{cell.first_line()}', profile: opc40010}}}}\n"
        )
        path = tmp_path / "killed.mcap"
        command = edgebed_command("record", str(config), "-o", str(path))
        with Child("recorder", command, tmp_path / "recorder.log") as recorder:
            deadline = time.monotonic() + 60
            while not path.exists() or path.stat().st_size < 60_000:
                assert time.monotonic() < deadline, (tmp_path / "recorder.log").read_text()
                time.sleep(0.1)
            recorder.kill()
    reader = McapReader(path)
    rows = [each.reading for each in reader.records() if each.reading is not None]
    assert len(rows) > 50
    assert all(each.quality is Quality.GOOD for each in rows)
    assert "cut off" in reader.session.recovered
    assert b"geheim" not in path.read_bytes()
    again = edgebed("record", str(config), "-o", str(path), "--for", "1", folder=tmp_path)
    assert again.returncode == 1
    assert "never overwritten" in again.stderr


def test_a_full_disk_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "node: a/b/c/d\nbroker: {url: 'mqtt://127.0.0.1:1'}\nstate: s\ndevices:\n"
        "  arm: {adapter: opcua, options: {url: 'opc.tcp://127.0.0.1:1', profile: opc40010}}\n"
    )
    record = edgebed_command("record", "a.yaml", "-o", "x.mcap", "--for", "2")
    full = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *record]  # every write fails, as on a full disk
    run = subprocess.run(full, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "x.mcap cannot be written" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.returncode == 78


def test_a_recording_without_readings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "node: a/b/c/d\nbroker: {url: 'mqtt://127.0.0.1:1'}\nstate: s\ndevices:\n"
        "  arm: {adapter: opcua, options: {url: 'opc.tcp://127.0.0.1:1', profile: opc40010}}\n"
    )
    run = edgebed("record", "a.yaml", "-o", "x.mcap", "--for", "2", folder=tmp_path)
    assert run.returncode == 69
    assert "nothing was recorded: arm:" in run.stderr
