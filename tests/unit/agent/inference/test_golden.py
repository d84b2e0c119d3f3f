"""Golden vectors assert something: what agrees with anything, or cannot be read, is an error."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.inference import golden
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import Model

ONE = np.ones((1, 1), np.float32)
GIVEN = np.array([[1.0, 2.0, 3.0]], np.float32)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, body in members.items():
            archive.writestr(f"{name}.npy", body)
    return file.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def compare(folder: Path, body: bytes, *outputs: NDArray[Any]) -> str:
    """Why the vector does not agree with a model that gives `outputs`; "" if it does."""
    (folder / "golden").mkdir(exist_ok=True)
    (folder / "golden" / "a.npz").write_bytes(body)
    try:
        golden.compare(folder, "golden/a.npz", lambda _: list(outputs))
    except ModelError as error:
        assert str(error).startswith("golden/a.npz")
        assert str(error).isprintable()
        return str(error)
    return ""


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("want", "agrees"),
    [
        ([[1.0, 2.0, 3.0]], True),
        ([[1.01, 2.01, 3.01]], True),
        ([[1.0, 2.0, 3.5]], False),
        ([[999.0, -999.0, INF]], False),
        ([[1.0, 2.0, INF]], False),
        ([[1.0, 2.0, NAN]], False),
        ([[1.0, 2.0, 1e30]], False),
        ([[0.0, 0.0, 0.0]], False),
        ([[1.0, 2.0]], False),
        ([1.0, 2.0, 3.0], False),
    ],
)
def test_finite_numbers_agree_within_a_tolerance(tmp_path: Path, want: Any, agrees: bool) -> None:
    why = compare(tmp_path, npz(input=ONE, output_0=np.array(want)), GIVEN)
    assert (why == "") == agrees, why


@pytest.mark.parametrize(
    ("got", "agrees"),
    [([1.0, INF, NAN], True), ([1.0, -INF, NAN], False), ([1.0, INF, 0.0], False), ([9.0, INF, NAN], False)],
)
def test_numbers_that_are_not_finite_must_be_the_same(tmp_path: Path, got: Any, agrees: bool) -> None:
    want = np.array([1.0, INF, NAN])
    assert (compare(tmp_path, npz(input=ONE, output_0=want), np.array(got)) == "") == agrees


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"input": ONE}, "asserts nothing"),
        ({"input": ONE, "output_0": np.full((1, 3), NAN)}, "asserts nothing"),
        ({"input": ONE, "output_0": np.full((1, 3), INF)}, "asserts nothing"),
        ({"input": ONE, "output_0": np.zeros((0, 3))}, "asserts nothing"),
        ({"input": ONE, "note": GIVEN}, "asserts nothing"),
        ({"input": ONE, "output_1": GIVEN}, "has no output_0"),
        ({"input": ONE, "output_0": GIVEN, "output_1": GIVEN}, "the model has no output_1"),
        ({"input": ONE, "output_0": GIVEN, "\x1b[2J": GIVEN}, r"the model has no \\x1b"),
        ({"output_0": GIVEN}, "has no array named input"),
        ({"input": np.array(["a"]), "output_0": GIVEN}, "input is not an array of numbers"),
        ({"input": ONE, "output_0": np.array([1j])}, "output_0 is not an array of numbers"),
        ({"input": np.array([{}], object), "output_0": GIVEN}, "cannot be read"),
    ],
)
def test_a_vector_that_asserts_nothing_or_too_much_is_an_error(
    tmp_path: Path, arrays: dict[str, Any], reason: str
) -> None:
    import re

    assert re.search(reason, compare(tmp_path, npz(**arrays), GIVEN))


def test_a_second_output_must_be_there(tmp_path: Path) -> None:
    body = npz(input=ONE, output_0=GIVEN)
    assert "has no output_1: the model has 2 outputs" in compare(tmp_path, body, GIVEN, GIVEN)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"PK\x03\x04",
        b"\x80\x04\x95\x00",  # a pickle
        npz(input=ONE, output_0=GIVEN)[:-30],
        zipped(input=b"", output_0=b""),
        zipped(input=header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }")),
        zipped(input=header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }")),
        zipped(input=header("[" * 500)),
        zipped(input=header("{'descr': 'O', 'fortran_order': False, 'shape': (1,), }") + b"cos\nsystem\n"),
        zipped(input=b"text that is not an array"),
    ],
)
def test_a_damaged_vector_is_one_sentence(tmp_path: Path, body: bytes) -> None:
    assert compare(tmp_path, body, GIVEN)


def test_a_vector_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("input.npy", "w") as member,
    ):
        for _ in range(70):
            member.write(bytes(1_000_000))
    assert "unpacks to 70000000 bytes" in compare(tmp_path, file.getvalue(), GIVEN)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_damage_to_a_vector_is_a_sentence_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    body = bytearray(npz(input=ONE, output_0=GIVEN))
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    compare(tmp_path, bytes(body), GIVEN)


def test_too_many_vectors_and_a_linked_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()
    for at in range(33):
        (tmp_path / "golden" / f"{at}.npz").touch()
    with pytest.raises(ModelError, match="33 vectors; 32 are allowed"):
        golden.names(tmp_path)
    assert golden.names(tmp_path / "golden") == [], "a package without vectors"
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "golden").symlink_to(tmp_path / "golden")
    with pytest.raises(ModelError, match="golden is not a folder"):
        golden.names(linked)


@pytest.mark.parametrize("shape", [(1,), (0, 1), (1, 1, 1, 1, 1), (3, 2)])
def test_an_input_of_another_shape_names_the_vector(packages: Any, shape: tuple[int, ...]) -> None:
    folder = packages.write(packages.constant(ONE))
    (folder / "golden").mkdir()
    (folder / "golden" / "a.npz").write_bytes(npz(input=np.ones(shape, np.float32), output_0=ONE))
    model = Model(load_package(folder))
    with pytest.raises(ModelError, match=r"^golden/a\.npz: a window of shape"):
        golden.compare(folder, "golden/a.npz", model.raw)
