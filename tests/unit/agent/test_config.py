"""An agent's config: a good one becomes a plan, a bad one is refused with every mistake and its line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import load, schema, state_folder
from agent.inference.signing import signature
from edgebed.processes import edgebed_command
from wire.clock import Clock
from wire.errors import ConfigError

GOOD = """\
node: acme/junction/street-1/cam-01
broker: {url: "mqtt://127.0.0.1:1883", username: x, password_file: secret}
state: ./state
outbox: {max_mb: 64}
devices:
  arm:
    adapter: replay
    options: {file: rows.csv, fields: {q: q, qd: {column: qd, unit: rad/s}}, rate_hz: 50, stream: joints}
    type: cobot
    publish: {live_hz: 0}
  camera:
    adapter: camera
    options: {folder: pictures}
models:
  odd:
    package: odd
    input: arm/joints
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("q,qd\n1,2\n")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "secret").write_text("hunter2\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str, *, files: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), Clock(), files=files)
    return [each.removeprefix(f"{folder}/") for each in caught.value.mistakes]


def test_a_good_config_is_a_plan(folder: Path) -> None:
    plan = load(write(folder, GOOD), Clock())
    assert str(plan.address) == "acme/junction/street-1/cam-01"
    assert plan.config.state == folder / "state"
    assert plan.config.broker.password_file == folder / "secret"
    assert plan.config.outbox.max_mb == 64
    assert plan.config.models["odd"].package == folder / "odd"
    assert set(plan.devices["arm"].streams) == {"joints"}
    assert plan.devices["arm"].streams["joints"].fields["qd"].unit == "rad/s"
    assert plan.devices["camera"].streams["frames"].kind == "frame"
    first, second = (plan.devices["arm"].build(Clock()) for _ in range(2))
    assert first is not second
    assert state_folder(plan.path) == (folder / "state", str(plan.address))


@pytest.mark.parametrize(
    ("section", "trim"), [("", False), ("memory: {trim: false}\n", False), ("memory: {trim: true}\n", True)]
)
def test_memory_is_trimmed_only_when_asked(folder: Path, section: str, trim: bool) -> None:
    assert load(write(folder, GOOD + section), Clock()).config.memory.trim is trim


def test_every_mistake_at_once_with_its_line(folder: Path) -> None:
    text = """\
node: acme/junction/street-1
broker: {url: "http://127.0.0.1", cert_file: c.pem}
stat: ./state
state: ./state
outbox: {max_mb: lots}
devices:
  Arm:
    adapter: replay
    options:
      file: rows.csv
      fileds: {q: q}
      rate: fast
  camera:
    adapter: camra
    stall_s: 0
  leg:
    adapter: replay
    may_be_null: ['*', knee, knie]
    options: {file: rows.csv, rate_hz: 10, fields: {knee: q}}
  other:
    adapter: camera
    options: {url: "http://x", pace: realtme}
  none:
    adapter: camera
models:
  a: {package: m, input: camera/frames, evry: 2}
  b: {package: m, input: lamp/frames}
  c: {package: m, input: frames, events: sometimes}
"""
    found = mistakes(folder, text)
    wanted = [
        ("agent.yaml:1:7: node: ", "is not tenant/pilot/site/node"),
        ("agent.yaml:2:15: broker.url: ", "mqtt://"),
        ("agent.yaml:3:1: stat: ", "did you mean 'state'?"),
        ("agent.yaml:5:18: outbox.max_mb: ", "expected a whole number, got 'lots'"),
        ("agent.yaml:7:3: devices.Arm: ", "is not an id"),
        ("agent.yaml:9:5: devices.Arm.options.fields: ", "is missing"),
        ("agent.yaml:11:7: devices.Arm.options.fileds: ", "did you mean 'fields'?"),
        ("agent.yaml:12:13: devices.Arm.options.rate: ", "'fast'"),
        ("agent.yaml:14:14: devices.camera.adapter: ", "did you mean 'camera'?"),
        ("agent.yaml:15:14: devices.camera.stall_s: ", "> 0"),
        ("agent.yaml:18:18: devices.leg.may_be_null: ", "there is no field 'knie'; did you mean 'knee'?"),
        ("agent.yaml:22:38: devices.other.options.pace: ", "did you mean 'realtime'?"),
        ("agent.yaml:23:3: devices.none", "url"),
        ("agent.yaml:26:41: models.a.evry: ", "did you mean 'every'?"),
        ("agent.yaml:27:26: models.b.input: ", "unknown device 'lamp'"),
        ("agent.yaml:28:26: models.c.input: ", "is not device/stream"),
        ("agent.yaml:28:42: models.c.events: ", "is not one of change, each, never"),
    ]
    for start, words in wanted:
        assert any(each.startswith(start) and words in each for each in found), (start, words, found)
    assert len(found) == len(wanted), found


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (("arm/joints", "arm/joint"), "models.odd.input", "did you mean 'joints'?"),
        (("  odd:", "  joints:"), "models.joints", "name the slot differently"),
        (("  odd:", "  Odd_1:"), "models.Odd_1", "is not an id"),
        (("stream: joints", "stream: Joints"), "devices.arm", "Joints"),
        (("devices:\n", "devices: {}\nold:\n"), "devices", "1 are needed"),
        (("state: ./state", "state: ''"), "state", "expected a path"),
        (("mqtt://127.0.0.1:1883", "mqtt://u:p@h"), "broker.url", "password_file"),
        (("state: ./state", "state: ./state\nmemory: {trim: often}"), "memory.trim", "expected"),
        (("state: ./state", "state: ./state\nmemory: {trims: true}"), "memory.trims", "did you mean 'trim'?"),
        (("max_mb: 64", "ack_from: [Nr_1]"), "outbox.ack_from", "'Nr_1' is not an id"),
        (("max_mb: 64", "ack_from: [c1, c1]"), "outbox.ack_from", "named twice"),
        (("max_mb: 64", "ack_from: [c1], ack: puback"), "outbox.ack_from", "needs `ack: collector`"),
        (("max_mb: 64", "ack_from: c1"), "outbox.ack_from", "expected"),
    ],
)
def test_mistakes_beyond_types(folder: Path, change: tuple[str, str], place: str, words: str) -> None:
    assert change[0] in GOOD
    found = mistakes(folder, GOOD.replace(*change))
    assert any(f": {place}" in each and words in each for each in found), found


def test_a_face_package_is_checked_when_asked(folder: Path, packages: Any) -> None:
    camera = "  camera:\n    adapter: camera\n    options: {folder: pictures}\n"
    text = GOOD[: GOOD.index("models:")].replace(camera, camera + "    publish: {faces: faces}\n")
    plan = load(write(folder, text), Clock())
    publish = plan.devices["camera"].config.publish
    assert (publish.blur, publish.faces) == (("faces", "plates"), folder / "faces")
    assert "publish.faces: " in mistakes(folder, text, files=True)[0]
    packages.write(packages.constant(np.zeros((1, 1))), name="faces")
    assert "decoder detection" in mistakes(folder, text, files=True)[0]
    off = load(write(folder, text.replace("faces: faces", "blur: []")), Clock())
    assert off.devices["camera"].config.publish.blur == ()
    assert "expected a list" in mistakes(folder, text.replace("faces: faces", "blur: false"))[0]
    assert "is not one of faces, plates" in mistakes(folder, text.replace("faces: faces", "blur: [face]"))[0]


def test_packages_are_checked_when_asked(folder: Path, packages: Any) -> None:
    found = mistakes(folder, GOOD, files=True)
    assert len(found) == 1
    assert found[0].startswith("agent.yaml:16:14: models.odd.package: ")
    packages.write(packages.constant(np.zeros((1, 1))), name="odd")
    found = mistakes(folder, GOOD, files=True)
    assert "needs a, b, which arm/joints does not send" in found[0]
    good = GOOD.replace("q: q, qd: {column: qd, unit: rad/s}", "a: q, b: qd").replace("50", "10")
    assert load(write(folder, good), Clock(), files=True).devices
    (folder / "secret").unlink()
    assert ": broker.password_file: " in mistakes(folder, good, files=True)[0]


SEEING = (
    GOOD[: GOOD.index("models:")]
    + """\
models:
  street: {package: street, input: camera/frames, SCENE}
  light: {package: light, input: camera/frames, crops: {of: street, CROPS}}
"""
)


@pytest.mark.parametrize(
    ("scene", "crops", "words"),
    [
        ("zones: {Gate: {polygon: [[0, 0], [1, 0], [1, 1]]}}", "", "zones"),
        ("zones: {gate: {polygon: [[0, 0], [1, 0]]}}", "", "polygon"),
        ("zones: {gate: {polygon: [[0, 0], [1, 0], [1, 2]]}}", "", "polygon"),
        ("lines: {gate: {start: [.nan, 0], end: [1, 0]}}", "", "start"),
        ("ignore: [[[0, 0], [1, 0]]]", "", "ignore"),
        (
            "lines: {gate: {start: [0, 0], end: [1, 0], labels: [dog]}}",
            "",
            "gate.labels: 'dog' is not one of the labels",
        ),
        ("zones: {car: {polygon: [[0, 0], [1, 0], [1, 1]]}}", "", "'car' is already a field"),
        ("", "of: strett", "did you mean 'street'?"),
        ("", "of: light", "'light' is not another slot"),
        ("crops: {of: light}", "", "there are no crops of crops"),
        ("", "labels: [dog]", "models.light.crops.labels: 'dog' is not a label of street"),
        ("", "most: 0", "most"),
    ],
)
def test_what_a_slot_follows_and_cuts_out_is_checked(
    folder: Path, packages: Any, scene: str, crops: str, words: str
) -> None:
    spec = {"kind": "frame", "name": "x", "size": [32, 32]}
    boxes = packages.constant(np.zeros((1, 5, 9)), shape=(1, 3, 32, 32))
    output = {"decoder": "detection", "head": "yolov8", "labels": ["car"]}
    packages.write(boxes, name="street", input=spec, output=output)
    scores = packages.constant(np.zeros((1, 2)), shape=(1, 3, 32, 32))
    output = {"decoder": "classification", "labels": ["a", "b"]}
    packages.write(scores, name="light", input=spec, output=output)

    def text(scene: str, crops: str) -> str:
        of = "" if crops.startswith("of:") else "of: street, "
        return SEEING.replace("SCENE", scene).replace("of: street, CROPS", of + crops)

    assert load(write(folder, text("", "")), Clock(), files=True).config.models
    found = mistakes(folder, text(scene, crops), files=True)
    assert any(words in each for each in found), found


def test_signatures_are_checked_when_asked(folder: Path, packages: Any) -> None:
    made = packages.write(packages.constant(np.zeros((1, 1))), name="odd")
    text = GOOD.replace("q: q, qd: {column: qd, unit: rad/s}", "a: q, b: qd").replace("50", "10")
    text += "trust: {keys: [maker.pem], require_signature: true}\n"
    assert mistakes(folder, text, files=True) == [
        (
            f"agent.yaml:16:14: models.odd.package: {made}: it is not signed: it has no model.sig, and "
            "`trust.require_signature` is set"
        ),
        f"agent.yaml:18:8: trust: {folder}/maker.pem cannot be read: No such file or directory",
        "agent.yaml:18:8: trust: require_signature is set, and no key is trusted: every model is refused",
    ]
    private, public = signature.new_key()
    signature.sign(made, private)
    (folder / "maker.pem").write_bytes(public)
    assert load(write(folder, text), Clock(), files=True).config.trust.require_signature
    (made / "more.txt").touch()
    (only,) = mistakes(folder, text, files=True)
    assert only.endswith("odd: model.sig is refused: more.txt is in the folder and is not signed")
    assert load(write(folder, text), Clock()).config.models, "a daemon starts without looking at packages"


def test_the_schema_names_every_key() -> None:
    found = json.dumps(schema())
    for key in ("node", "password_file", "group_commit_ms", "stall_s", "snapshot_every_s", "providers"):
        assert f'"{key}"' in found


def test_check_prints_all_and_exits_78(folder: Path) -> None:
    path = write(
        folder, GOOD.replace("adapter: camera", "adapter: camra").replace("live_hz: 0", "live_hz: 11")
    )
    done = subprocess.run(edgebed_command("agent", "check", str(path)), capture_output=True, text=True)
    assert done.returncode == 78
    assert done.stdout == ""
    assert "live_hz: expected a number <= 10" in done.stderr
    assert "did you mean 'camera'?" in done.stderr
    done = subprocess.run(
        edgebed_command("agent", "check", "--json", str(path)), capture_output=True, text=True
    )
    assert done.returncode == 78
    assert len(json.loads(done.stdout)["mistakes"]) == 3, "the model package is missing too"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sampled_from(GOOD.splitlines()), st.text(max_size=20), st.integers(0, 40))
def test_a_damaged_config_is_read_or_refused(folder: Path, line: str, garbage: str, at: int) -> None:
    damaged = GOOD.replace(line, line[:at] + garbage + line[at + len(garbage) :])
    try:
        path = write(folder, damaged)
    except UnicodeEncodeError:  # a lone surrogate cannot be written to a file
        return
    try:
        load(path, Clock())
    except ConfigError as error:
        assert error.mistakes


def test_a_wrong_url_is_reported_once_and_blames_no_certificate(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        "node: acme/trial/hall/one\nbroker: {url: 'http://127.0.0.1'}\nstate: state\n"
        "devices: {recorded: {adapter: replay, options: {file: x.csv}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(path, Clock(), files=True)
    assert [line for line in caught.value.mistakes if "http://127.0.0.1" in line] == [
        line for line in caught.value.mistakes if "broker.url" in line
    ]
    assert "ca_file" not in str(caught.value)


METER = (
    "m{}: {{adapter: modbus{}, options: {{url: '{}', unit_id: {}, registers: {{n: {{register: 1}}}}{}}}}}\n"
)
LINES = """\
node: t/p/s/n
broker: {url: "mqtt://127.0.0.1:1"}
state: ./state
devices:
  """


@pytest.mark.parametrize(
    ("device", "stall_s"),
    [
        ("adapter: modbus, options: {url: 'tcp://x', registers: {n: {register: 1}}}", 10),
        ("adapter: modbus, options: {url: 'tcp://x', period_s: 20, registers: {n: {register: 1}}}", 100),
        ("adapter: obd, options: {interface: virtual, channel: x, pids: [vehicle_speed], period_s: 60}", 180),
        ("adapter: opcua, options: {url: 'opc.tcp://x:1', sampling_ms: 60000, nodes: {a: i=1}}", 180),
        ("adapter: serial, options: {url: 'tcp://x:1', format: csv, silence_s: 60, fields: {a: {}}}", 60),
        ("adapter: serial, options: {url: 'tcp://x:1', format: csv, fields: {a: {}}}", 10),
        ("adapter: nmea, options: {url: 'tcp://x:1', silence_s: 30}", 30),
        ("adapter: serial, stall_s: 7, options: {url: 'tcp://x:1', format: csv, fields: {a: {}}}", 7),
        ("adapter: replay, options: {file: rows.csv, rate_hz: 1, fields: {q: q}}", 10),
    ],
)
def test_stall_s_follows_the_options(folder: Path, device: str, stall_s: float) -> None:
    plan = load(write(folder, f"{LINES}d: {{{device}}}\n"), Clock())
    assert plan.devices["d"].stall_s == stall_s
    assert plan.doubts == ()


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            (
                "adapter: modbus, stall_s: 10, options:"
                " {url: 'tcp://x', period_s: 30, registers: {n: {register: 1}}}"
            ),
            "10 s is too short for a reading each 30 s: leave it out",
        ),
        (
            (
                "adapter: serial, stall_s: 10, options:"
                " {url: 'tcp://x:1', format: csv, silence_s: 60, fields: {a: {}}}"
            ),
            "10 s ends the silence of 60 s that the options allow",
        ),
    ],
)
def test_check_warns_of_a_stall_s_that_cannot_hold(folder: Path, device: str, said: str) -> None:
    path = write(folder, f"{LINES}d: {{{device}}}\n")
    (doubt,) = load(path, Clock()).doubts
    assert doubt.startswith(f"{path}:5:")
    assert f"devices.d.stall_s: {said}" in doubt
    done = subprocess.run(edgebed_command("agent", "check", str(path)), capture_output=True, text=True)
    assert done.returncode == 0
    assert f"warning: {doubt}" in done.stderr


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (("rtu:///dev/ttyUSB0?baud=9600", "rtu:///dev/ttyUSB0?baud=9600"), ""),
        (("rtu:///dev/ttyUSB0?baud=9600", "rtu:///dev/ttyUSB0?baud=19200"), "19200 baud"),
        (("rtu:///dev/ttyUSB0", "rtu:///dev/ttyUSB0?parity=E"), "parity E"),
        (("rtu:///dev/ttyUSB0?stop=2", "rtu:///dev/ttyUSB0"), "stop 1, and by device 'm0' with 9600 baud"),
        (("tcp://gate", "tcp://gate:502"), ""),
        (("tcp://gate:502", "rtu+tcp://gate:502"), "RTU over TCP"),
        (("rtu:///dev/ttyUSB0", "rtu:///dev/ttyUSB1?baud=19200"), ""),
    ],
)
def test_devices_on_one_line_need_one_setting(folder: Path, urls: tuple[str, str], said: str) -> None:
    text = LINES + "  ".join(METER.format(at, "", url, at + 1, "") for at, url in enumerate(urls))
    if not said:
        assert len(load(write(folder, text), Clock()).devices) == 2
        return
    (found,) = mistakes(folder, text)
    assert "devices.m1.options.url" in found
    assert said in found
