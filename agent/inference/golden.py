"""Golden vectors: stored inputs of a model package with the outputs that the model must give for them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference import package_files
from agent.inference.decoders import ModelError
from wire.printable import printable

FOLDER = "golden"
_MOST_FILES, _MOST_BYTES = 32, 64_000_000
_TOLERANCE = 0.01  # of the largest expected number: CPUs and onnxruntime versions differ by less


def names(folder: Path) -> list[str]:
    """The names of the golden vectors of a package, as `golden/a.npz`.

    Raises:
        ModelError: there are too many, or `golden` is not a folder.
    """
    found = package_files.entries(folder, FOLDER, ".npz")
    if len(found) > _MOST_FILES:
        raise ModelError(f"{FOLDER} has {len(found)} vectors; {_MOST_FILES} are allowed")
    return [f"{FOLDER}/{name}" for name in found]


def compare(
    folder: Path, name: str, run: Callable[[NDArray[Any]], list[NDArray[Any]]], sha256: str = ""
) -> None:
    """Compare the outputs of `run` for one golden vector with its outputs; `sha256` is that of its file.

    Raises:
        ModelError: the file cannot be read or asserts nothing, or an output differs.
    """
    shown = printable(name)
    vector = _read(folder, name, sha256)
    given = vector.pop("input")
    if not any(_finite(array).any() for key, array in vector.items() if key.startswith("output_")):
        raise ModelError(f"{shown} asserts nothing: it has no output_0, ... with a finite number")
    try:
        outputs = run(given)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{shown}: the model cannot take its input: {printable(error)}") from error
    except ModelError as error:
        raise ModelError(f"{shown}: {error}").coded(error.reason_code, **error.reason_args) from error
    for at, got in enumerate(outputs):
        want = vector.pop(f"output_{at}", None)
        if want is None:
            raise ModelError(f"{shown} has no output_{at}: the model has {len(outputs)} outputs")
        _require_equal(f"{shown}: output {at}", got, want)
    if vector:
        extra = ", ".join(printable(key, 40) for key in sorted(vector)[:5])
        raise ModelError(f"{shown}: the model has no {extra}")


def _require_equal(what: str, got: NDArray[Any], want: NDArray[Any]) -> None:
    if got.shape != want.shape:
        raise ModelError(f"{what} is {list(got.shape)}, not {list(want.shape)}")
    got, want = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        raise ModelError(f"{what} has other infinite numbers or NaN than the golden vector")
    off = np.abs(got[finite] - want[finite])
    limit = _TOLERANCE * max(1e-9, float(np.abs(want[finite]).max(initial=0)))
    if not (off <= limit).all():  # written so that NaN fails too
        raise ModelError(f"{what} is off by up to {off.max():.4g}")


def _finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isfinite(array.astype(np.float64))


def _read(folder: Path, name: str, sha256: str) -> dict[str, NDArray[Any]]:
    shown = printable(name)
    body = package_files.read(folder, name, _MOST_BYTES)
    if sha256 and hashlib.sha256(body).hexdigest() != sha256:
        raise ModelError(f"{shown} changed while the gate ran")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MOST_BYTES:
            raise ModelError(f"{shown} unpacks to {size} bytes; {_MOST_BYTES} are allowed")
        with np.load(io.BytesIO(body), allow_pickle=False) as loaded:
            found = {str(key): loaded[key] for key in loaded.files}
    except ModelError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged or hostile file
        why = printable(error) if str(error) else type(error).__name__
        raise ModelError(f"{shown} cannot be read as an .npz file of numpy.savez: {why}") from error
    if "input" not in found:
        raise ModelError(f"{shown} has no array named input")
    for key, array in found.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise ModelError(f"{shown}: {printable(key, 40)} is not an array of numbers")
    return found
