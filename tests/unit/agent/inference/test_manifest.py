"""Every mistake of a manifest is reported with its place, and no file outside the package is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.inference import manifest
from agent.inference.decoders import ModelError
from agent.inference.inputs import FrameInput, WindowInput
from agent.inference.package import load_package

GOOD = """\
name: street
version: 1.2.0
licence: Apache-2.0
sha256: {sha}
input: {{kind: frame, name: images, size: [320, 240]}}
output:
  decoder: detection
  head: yolox
  labels: [person, car]
""".format(sha="ab" * 32)


def write(folder: Path, text: str) -> Path:
    (folder / "manifest.yaml").write_text(text)
    return folder


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ModelError) as caught:
        manifest.load(write(folder, text))
    return [line.removeprefix(f"{folder}/manifest.yaml:") for line in str(caught.value).splitlines()]


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    found = manifest.load(write(tmp_path, GOOD))
    assert found.ref == "street@1.2.0"
    assert isinstance(found.input, FrameInput)
    assert found.input.shape == (1, 3, 240, 320)
    assert found.output.labels == ["person", "car"]
    assert found.file == "model.onnx"


def test_a_window_knows_its_tensor(tmp_path: Path) -> None:
    text = GOOD.replace("{kind: frame, name: images, size: [320, 240]}", "{kind: window, name: x, signals: [a, b], rate_hz: 50, length: 100, hop: 25, layout: signal-time}")  # fmt: skip # noqa: E501
    text = text[: text.index("output:")] + "output: {decoder: anomaly, threshold: 3, parts: [left, right]}\n"
    found = manifest.load(write(tmp_path, text))
    assert isinstance(found.input, WindowInput)
    assert found.input.parts[0].dims == (1, 2, 100)


@pytest.mark.parametrize(
    ("output", "given", "fit", "is_default"),
    [
        ("{decoder: detection, head: yolox, labels: [a]}", "", "letterbox", True),
        ("{decoder: detection, head: yolox, labels: [a]}", ", fit: stretch", "stretch", False),
        ("{decoder: classification, labels: [a]}", "", "stretch", False),
        ("{decoder: classification, labels: [a]}", ", fit: crop, resize: [400]", "crop", False),
    ],
)
def test_a_detector_is_letterboxed_unless_it_states_a_fit(
    tmp_path: Path, output: str, given: str, fit: str, is_default: bool
) -> None:
    text = GOOD.replace("size: [320, 240]}", f"size: [320, 240]{given}}}")
    found = manifest.load(write(tmp_path, text[: text.index("output:")] + f"output: {output}\n"))
    assert isinstance(found.input, FrameInput)
    assert (found.input.fit, found.fit_is_default) == (fit, is_default)


@pytest.mark.parametrize("given", ["resize: [300]", "fit: crop, resize: [300, 300]"])
def test_a_crop_is_not_larger_than_what_it_is_cut_from(tmp_path: Path, given: str) -> None:
    text = GOOD.replace("size: [320, 240]}", f"size: [320, 240], {given}}}")
    with pytest.raises(ModelError, match=r"input\.resize: it"):
        manifest.load(write(tmp_path, text))


def test_every_mistake_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    text = (
        GOOD.replace("street", "Street!")
        .replace("[320, 240]", "[320, 2]")
        .replace("head: yolox", "head: yolo9\n  scor: 0.3")
        + "budget: {}\n"
    )
    found = mistakes(tmp_path, text)
    assert found[0].startswith("1:7: name: 'Street!' is not an id")
    assert found[1].startswith("5:")
    assert "input.size" in found[1]
    assert found[2].startswith("8:9: output.head: 'yolo9' is not one of")
    assert found[3].startswith("9:3: output.scor: unknown key; did you mean 'score'?")
    assert found[4].startswith("11:1: budget: unknown key; did you mean 'budgets'?")


ZONES = """\
  masks: true
  track: {hits: 0}
  zones:
    gate: {polygon: [[0, 0], [1, 0], [1, 1]], labels: [person, dog]}
    car: {polygon: [[0, 0], [1, 0]]}
  lines:
    Exit: {start: [0, 0], end: [1, 2]}
  anchor: middle
"""
FIELDS = """\
  zones:
    gate: {polygon: [[0, 0], [1, 0], [1, 1]], labels: [person, dog]}
    car: {polygon: [[0, 0], [1, 0], [1, 1]]}
    exit_in: {polygon: [[0, 0], [1, 0], [1, 1]]}
  lines:
    exit: {start: [0, 0], end: [1, 1]}
"""


def test_zones_lines_and_tracks_are_checked_by_line(tmp_path: Path) -> None:
    found = mistakes(tmp_path, GOOD + ZONES)
    assert [each.split(": ")[:2] for each in found] == [
        ["11:17", "output.track.hits"],
        ["14:20", "output.zones.car.polygon"],
        ["16:5", "output.lines.Exit"],
        ["16:36", "output.lines.Exit.end.1"],
        ["17:11", "output.anchor"],
    ]
    found = mistakes(tmp_path, GOOD + FIELDS)
    clash = "is already a field of the results: name the zone or line differently"
    assert found == [
        "11:55: output.zones.gate.labels: 'dog' is not one of the labels",
        f"12:10: output.zones.car: 'car' {clash}",
        f"15:11: output.lines.exit: 'exit_in' {clash}",
    ]
    classes = GOOD.replace("detection", "classification").replace("  head: yolox\n", "  track: {}\n")
    assert "output.track: unknown key" in mistakes(tmp_path, classes)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("kind: frame", "kind: picture"), "must be frame or window"),
        (("decoder: detection", "decoder: detektion"), "did you mean 'detection'?"),
        (("size: [320, 240]", "size: [320, 240], mean: [1, 2]"), "2 numbers for 3 channels"),
        (("size: [320, 240]", "size: [320, 240], std: [1, 0, 1]"), "0 is not allowed: the input is divided"),
        (("size: [320, 240]", "size: [320, 240], scale: .inf"), "is not a finite number"),
        (("labels: [person, car]", "labels_file: /etc/passwd"), "not a path inside the package"),
        (("labels: [person, car]", "labels_file: ../secret"), "not a path inside the package"),
        (("labels: [person, car]", "labels_file: link"), "is not a regular file"),
        (("labels: [person, car]", "labels_file: nowhere"), "is missing"),
    ],
)
def test_a_manifest_that_cannot_work_is_refused(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / "secret").write_text("person\n")
    (package / "link").symlink_to(tmp_path / "secret")
    assert change[0] in GOOD
    found = mistakes(package, GOOD.replace(*change))
    assert len(found) == 1
    assert reason in found[0]


def test_a_name_with_a_new_line_at_its_end_is_refused(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, GOOD.replace("1.2.0", '"1.2.0\\n"'))
    assert found.startswith("2:10: version: ")
    text = GOOD.rstrip("\n") + '\n  zones: {"gate\\n": {polygon: [[0, 0], [1, 0], [1, 1]]}}\n'
    assert "zones" in mistakes(tmp_path, text)[0]


def test_labels_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("traffic light\n\n사람\n", "utf-8")
    found = manifest.load(write(tmp_path, GOOD.replace("labels: [person, car]", "labels_file: names.txt")))
    assert found.output.labels == ["traffic light", "사람"]


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "a\nb", "a\0b", "\u202eabc", "a\u200bb", "\ufeffa", "\x9b2J"]
)
@pytest.mark.parametrize("key", ["labels", "parts", "labels_file"])
def test_a_label_that_is_not_what_it_looks_like_is_refused(packages, key: str, name: str) -> None:
    """Rows and events carry labels into terminals, pages and files."""
    output = {"decoder": "anomaly", "threshold": 1} if key == "parts" else {"decoder": "classification"}
    folder = packages.write(packages.constant(np.ones((1, 2))), output={**output, key: ["a", name]})
    if key == "labels_file":
        if name in ("a\nb", "\ufeffa"):  # these are two labels, and the mark of UTF-8
            return
        (folder / "l.txt").write_text(f"{name}\n", "utf-8")
        packages.write(packages.constant(np.ones((1, 2))), output={**output, key: "l.txt"})
    with pytest.raises(ModelError, match="has a control character or an invisible one") as caught:
        load_package(folder)
    assert str(caught.value).isprintable()


def test_labels_of_every_language_are_taken(packages) -> None:
    labels = ["보행자", "نمی\u200cدانم", "\U0001f469\u200d\U0001f52c", "a\u00a0b"]
    folder = packages.write(
        packages.constant(np.ones((1, 4))), output={"decoder": "classification", "labels": labels}
    )
    assert load_package(folder).manifest.output.labels == labels


def test_a_file_of_labels_has_as_many_as_a_list_may_have(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\n" * 10_001, "utf-8")
    text = GOOD.replace("labels: [person, car]", "labels_file: names.txt")
    assert "has 10001 labels; 10000 are allowed" in mistakes(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"std": [1.0, -1.0]}, "input.std: must be above 0"),
        ({"std": [1.0, 0.0]}, "input.std: must be above 0"),
        ({"rate_hz": 1e-300}, "input.rate_hz"),
        ({"length": 100_000, "signals": [f"s{i}" for i in range(1000)]}, "a window of 100000000 numbers"),
    ],
)
def test_a_window_that_cannot_work_is_refused(packages, change: dict[str, Any], reason: str) -> None:
    window = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 10, "length": 4, **change}
    with pytest.raises(ModelError) as caught:
        load_package(packages.write(packages.constant(np.ones((1, 1))), input=window))
    assert reason in str(caught.value)


def test_a_folder_without_a_manifest_is_not_a_package(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"manifest\.yaml is missing"):
        load_package(tmp_path)
    with pytest.raises(ModelError, match="no such model package"):
        load_package(tmp_path / "nowhere")


def test_the_window_of_a_manifest_is_checked(packages, tmp_path: Path) -> None:
    body = packages.constant(np.ones((1, 1)))
    window = {"kind": "window", "name": "x", "signals": ["a", "a", "B"], "rate_hz": 10, "length": 4, "hop": 9}
    with pytest.raises(ModelError) as caught:
        load_package(packages.write(body, input=window))
    text = str(caught.value)
    assert "'a' is listed twice" in text
    assert "'B' is not a field name" in text
    assert "9 rows would skip some" in text


def test_keys_know_every_part() -> None:
    paths = {key.path for key in manifest.documented()}
    assert {"sha256", "input (frame).fit", "input (window).hop", "output (anomaly).threshold"} <= paths
    assert all(key.meaning for key in manifest.documented())
