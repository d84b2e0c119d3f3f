"""Heads and plates become a few blocks, and the whole picture does where no detector located them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.inference.package import load_package
from agent.pipeline.frames.privacy import Hidden, Privacy, Seen, face_model_mismatch, finds, seen_by
from wire.messages import Box

HEIGHT, WIDTH = 240, 320
PICTURE = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
STREET = ("person", "car", "bus")
BOTH = ("faces", "plates")


def box(label: str, x: float, y: float, w: float, h: float) -> Box:
    return Box(label=label, cls=0, score=0.9, box=(x, y, w, h))


def hide(
    *boxes: Box, kinds: Sequence[str] = BOTH, labels: Sequence[str] = STREET, picture: Any = PICTURE
) -> Hidden:
    return Privacy(kinds).hide(picture, Seen(boxes, labels, 100))


def changed(hidden: Hidden, picture: Any = PICTURE) -> np.ndarray:
    """The pixels that changed; in noise hardly a pixel stays the same by chance."""
    return (hidden.picture != picture).any(axis=2)


def test_the_head_of_a_person_is_hidden_and_the_legs_are_not() -> None:
    hidden = hide(box("person", 0.4, 0.1, 0.1, 0.6))  # standing: 32 px wide, 144 high
    assert (hidden.how, hidden.faces, hidden.plates, hidden.why) == ("parts", 1, 0, "")
    rows, columns = np.nonzero(changed(hidden))
    assert rows.min() <= 24 - 5
    assert 24 + 0.38 * 144 <= rows.max() <= 24 + 0.45 * 144
    assert columns.min() <= 128 - 4
    assert columns.max() >= 160 + 3
    assert changed(hidden)[20:75, 128:160].mean() > 0.99


def test_of_a_portrait_all_is_hidden() -> None:
    hidden = hide(box("person", 0.1, 0.2, 0.6, 0.8))
    assert changed(hidden)[48:, 32:224].mean() > 0.98


def test_a_plate_is_at_the_lower_part_of_a_vehicle() -> None:
    hidden = hide(box("car", 0.5, 0.5, 0.25, 0.25))
    assert (hidden.faces, hidden.plates) == (0, 1)
    rows, columns = np.nonzero(changed(hidden))
    assert 120 + 0.3 * 60 <= rows.min() <= 120 + 0.4 * 60
    assert rows.max() >= 120 + 60
    assert columns.min() <= 160 - 3
    assert columns.max() >= 240 + 2


@pytest.mark.parametrize("size", [(1.0, 1.0), (0.3, 0.5), (0.05, 0.04), (0.01, 0.01)])
def test_a_hidden_face_is_a_few_numbers(size: tuple[float, float]) -> None:
    hidden = hide(
        box("face", 0.3 * (1 - size[0]), 0.5 * (1 - size[1]), *size), labels=("face",), kinds=["faces"]
    )
    part = hidden.picture[changed(hidden)]
    assert 1 <= len(np.unique(part, axis=0)) <= 25


def test_a_block_is_the_mean_of_its_pixels_and_nothing_else() -> None:
    two = PICTURE.copy()
    seen = box("face", 0.3, 0.3, 0.2, 0.3)
    region = changed(hide(seen, labels=("face",), kinds=["faces"]))
    rows, columns = np.nonzero(region)
    y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side = -(-max(y1 - y0, x1 - x0) // 4)
    block = two[y0 : y0 + side, x0 : x0 + side]
    block[:] = block[::-1, ::-1]  # another face with the same means
    first, second = (hide(seen, labels=("face",), kinds=["faces"], picture=each) for each in (PICTURE, two))
    np.testing.assert_array_equal(first.picture, second.picture)
    mean = PICTURE[y0 : y0 + side, x0 : x0 + side].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(first.picture[y0, x0], np.floor(mean), atol=1)


def test_the_picture_of_the_reading_itself_stays_as_it_is() -> None:
    kept = PICTURE.copy()
    hide(box("person", 0, 0, 1, 1))
    Privacy(BOTH).hide(PICTURE, None)
    np.testing.assert_array_equal(PICTURE, kept)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (None, "no detector has looked"),
        (Seen((), (), 100), "does not look for faces or plates"),
        (Seen((), ("weed",), 100), "does not look for faces or plates"),
        (Seen((), ("person",), 100), "does not look for plates"),
        (Seen([box("person", 0.1, 0.1, 0.1, 0.1)] * 100, STREET, 100), "as many boxes as it can"),
        (Seen([box("person", float("nan"), 0.1, 0.1, 0.1)], STREET, 100), "not finite"),
    ],
)
def test_the_whole_picture_is_hidden_if_not_everything_is_located(seen: Seen | None, why: str) -> None:
    hidden = Privacy(BOTH).hide(PICTURE, seen)
    assert hidden.how == "whole"
    assert why in hidden.why
    assert len(np.unique(hidden.picture.reshape(-1, 3), axis=0)) <= 64
    assert changed(hidden).mean() > 0.99


def test_only_the_configured_kinds_must_be_located() -> None:
    boxes = (box("person", 0.4, 0.1, 0.1, 0.6), box("car", 0.1, 0.1, 0.1, 0.1))
    hidden = hide(*boxes, kinds=["faces"], labels=("person",))
    assert (hidden.how, hidden.faces, hidden.plates) == ("parts", 1, 0)
    assert not changed(hidden)[:, :90].any()
    untouched = Privacy([]).hide(PICTURE, None)
    assert untouched.how == "none"
    assert untouched.picture is PICTURE


@pytest.mark.parametrize(
    "wild", [(-5.0, -5.0, 50.0, 50.0), (0.99, 0.99, 5.0, 5.0), (0.5, 0.5, 0.0, 0.0), (2.0, 2.0, 1.0, 1.0)]
)
def test_boxes_that_leave_the_picture_are_no_crash(wild: tuple[float, float, float, float]) -> None:
    for label in ("person", "car", "face"):
        hidden = hide(box(label, *wild), labels=(*STREET, "face"))
        assert hidden.picture.shape == PICTURE.shape


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 3000, 3), (480, 640, 3), (3, 5)])
def test_pictures_of_any_shape(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    assert Privacy(BOTH).hide(picture, None).picture.shape == shape
    assert hide(box("person", 0, 0, 1, 1), picture=picture).how == "parts"


def test_labels_are_words_of_any_case() -> None:
    assert finds(["Person", "Car"]) == {"faces", "plates"}
    assert finds(["face"]) == {"faces"}
    assert finds(["train", "dog"]) == set()


def face_model(packages: Any, frame_input: Any, labels: Sequence[str] = ("face",), **output: Any) -> Path:
    """Finds one face, whatever it sees: the middle of the picture."""
    scores = np.array([[[0.1, 0.9]]], np.float32)
    corners = np.array([[[0.4, 0.4, 0.6, 0.6]]], np.float32)
    body = packages.constant(scores, corners, shape=(1, 3, 32, 32))
    options = {"decoder": "detection", "head": "ulface", "labels": list(labels), "score": 0.5, **output}
    made: Path = packages.write(body, name="faces", input=frame_input(fit="stretch"), output=options)
    return made


def test_a_face_model_looks_too(packages: Any, frame_input: Any) -> None:
    package = face_model(packages, frame_input)
    guard = Privacy(["faces"], package)
    assert guard.hide(PICTURE, None).reason.code == "face-model-not-open"
    assert "not open" in guard.hide(PICTURE, None).why
    guard.open()
    hidden = guard.hide(PICTURE, None)
    assert (hidden.how, hidden.faces) == ("parts", 1)
    assert changed(hidden)[96:144, 128:192].mean() > 0.99
    assert not changed(hidden)[:70].any()
    both = guard.hide(PICTURE, Seen([box("person", 0.0, 0.0, 0.1, 0.4)], STREET, 100))
    assert both.faces == 2
    needs_plates = Privacy(BOTH, package)
    needs_plates.open()
    assert needs_plates.hide(PICTURE, Seen((), ("person",), 100)).how == "whole"


def test_a_face_model_that_is_refused_later_looks_no_more(packages: Any, frame_input: Any) -> None:
    guard = Privacy(["faces"], face_model(packages, frame_input))
    guard.open()
    assert guard.hide(PICTURE, None).how != "whole"
    guard.refuse("model.sig is by the key maker, which is revoked")
    hidden = guard.hide(PICTURE, None)
    assert (hidden.how, hidden.reason.code, guard.model) == ("whole", "face-model-refused", None)


def test_a_refused_face_model_hides_everything(packages: Any, frame_input: Any, tmp_path: Path) -> None:
    for package in (tmp_path / "nowhere", face_model(packages, frame_input, ["cat"])):
        guard = Privacy(["faces"], package)
        guard.open()
        hidden = guard.hide(PICTURE, Seen((), STREET, 100))
        assert hidden.how == "whole"
        assert "face model is refused" in hidden.why
        assert hidden.reason.code == "face-model-refused"


def test_a_face_model_that_fails_hides_everything(packages: Any, frame_input: Any) -> None:
    guard = Privacy(["faces"], face_model(packages, frame_input))
    guard.open()
    hidden = guard.hide(np.zeros((9, 9), np.uint8), Seen((), STREET, 100))  # no picture it could see
    assert hidden.how == "whole"
    assert "face model failed" in hidden.why
    assert hidden.reason.code == "face-model-failed"


def test_a_detectors_labels_show_what_it_can_find(packages: Any, frame_input: Any) -> None:
    detector = load_package(face_model(packages, frame_input, max_boxes=7)).manifest
    seen = seen_by(detector, ())
    assert (list(seen.labels), seen.most) == (["face"], 7)
    assert face_model_mismatch(detector) == ""
    classifier = load_package(
        packages.write(
            packages.constant(np.zeros((1, 2)), shape=(1, 3, 32, 32)),
            name="classes",
            input=frame_input(),
            output={"decoder": "classification", "labels": ["person", "car"]},
        )
    ).manifest
    assert not list(seen_by(classifier, ()).labels), "a class has no place"
    assert "decoder detection" in face_model_mismatch(classifier)


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (None, "picture-unchecked"),
        (Seen((), ("car",), 100), "no-face-detector"),
        (Seen((), ("person",), 100), "no-plate-detector"),
        (Seen((), ("dog",), 100), "no-part-detector"),
        (Seen([box("person", float("nan"), 0.1, 0.1, 0.1)], STREET, 100), "picture-unsure"),
    ],
)
def test_the_reason_of_a_hidden_picture_has_a_code(seen: Seen | None, code: str) -> None:
    assert Privacy(BOTH).hide(PICTURE, seen).reason.code == code
