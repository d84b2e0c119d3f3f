"""TensorProto files without the `onnx` package: every type that it writes, and files of other kinds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference.decoders import ModelError
from edgebed.model_tools import test_data

TYPES = ["float32", "float64", "float16", "bool"]
TYPES += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_tensor_is_read_as_onnx_reads_it(dtype: str, raw: bool) -> None:
    wanted = np.array([[0, 1, 2], [3, 100, 1]]).astype(dtype)
    if dtype.startswith("int"):
        wanted[0, 0] = np.iinfo(dtype).min
    if dtype.startswith("uint"):
        wanted[0, 0] = np.iinfo(dtype).max
    kind = onnx.helper.np_dtype_to_tensor_dtype(wanted.dtype)
    given = wanted.tobytes() if raw else wanted.reshape(-1)
    tensor = onnx.helper.make_tensor("x", kind, wanted.shape, given, raw=raw)
    found = test_data.array(tensor.SerializeToString())
    assert found is not None
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_what_has_no_numbers_is_none() -> None:
    text = onnx.helper.make_tensor("x", onnx.TensorProto.STRING, [1], [b"a"])
    assert test_data.array(text.SerializeToString()) is None
    assert test_data.array(b"") is None


def test_a_tensor_that_lies_is_refused() -> None:
    short = onnx.numpy_helper.from_array(np.zeros(4, np.float32))
    short.dims[0] = 1 << 62
    with pytest.raises(ModelError, match="it has 4 numbers for the shape"):
        test_data.array(short.SerializeToString())
    outside = onnx.numpy_helper.from_array(np.zeros(4, np.float32))
    outside.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="in another file"):
        test_data.array(outside.SerializeToString())
    many = b"\x08\x01" * 3_000_000
    with pytest.raises(ModelError, match="more than 2000000 parts"):
        test_data.array(many)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_array_nothing_or_a_sentence(body: bytes) -> None:
    try:
        found = test_data.array(body)
    except ModelError as error:
        assert str(error)
    else:
        assert found is None or found.dtype.kind in "biuf"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    (tmp_path / "test_data_set_x").mkdir()
    assert test_data.sets(tmp_path) == ["test_data_set_0"]
    os.mkfifo(folder / "input_0.pb")
    with pytest.raises(ModelError, match=r"test_data_set_0/input_0\.pb"):
        test_data.tensors(tmp_path, "test_data_set_0", "input")
    assert test_data.tensors(tmp_path, "test_data_set_0", "output") == {}
