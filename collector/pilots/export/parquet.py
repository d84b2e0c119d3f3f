"""Writes a Parquet file from batches of columns; only a few are in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wire.errors import EdgebedError

Kind = Literal["float", "int", "small", "bool", "text", "time"]
Batch = Mapping[str, NDArray[Any]]  # a column with null is of objects; NaN of a float is null

MAX_VALUES = 1_000_000  # of a row group
_ENCODED = {
    "dictionary_enabled": False,
    "compression": "zstd(3)",
}  # a dictionary makes measured numbers larger


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `time` is in us of UTC, `small` fits 32 bits."""

    name: str
    kind: Kind
    text: str = ""  # what it is
    unit: str = ""
    is_always: bool = False  # never null
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """A file of the export; `file` is its path within the folder, with "/"."""

    file: str
    rows: int
    size: int
    sha256: str
    columns: tuple[Column, ...] = ()
    text: str = ""  # what it has


def objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """Values as an array of objects."""
    found = np.empty(len(values), np.object_)
    found[:] = values
    return found


def arrow() -> tuple[ModuleType, ModuleType]:
    """The library that writes Parquet.

    Raises:
        EdgebedError: it is not installed.
    """
    try:
        import arro3.core
        import arro3.io
    except ModuleNotFoundError as error:
        raise EdgebedError(
            f"an export needs {error.name}, which is missing: pip install 'edgebed[export]'"
        ) from error
    return arro3.core, arro3.io


class HashedFile:
    """A new file whose SHA-256 is known when it is written.

    The writer of the library ends the program where a write fails: the error is kept for the caller instead.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self.error: OSError | None = None
        self._hash = hashlib.sha256()
        self._file = path.open("xb")

    def write(self, data: bytes) -> int:
        """Append bytes."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = self.error or error
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: `close` writes what waits."""

    def seek(self, *_to: int) -> int:
        """The library asks for it and does not use it."""
        raise OSError("the file is written from its start to its end")

    read = seek

    def close(self) -> str:
        """The SHA-256 of what was written.

        Raises:
            OSError: a write failed.
        """
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
        if self.error is not None:
            raise self.error
        return self._hash.hexdigest()


def write_file(root: Path, file: str, content: bytes, text: str = "") -> Written:
    """Write a file as it is."""
    out = HashedFile(root / file)
    out.write(content)
    digest = out.close()
    return Written(file, 0, out.size, digest, (), text)


def write_table(
    root: Path, file: str, columns: Sequence[Column], batches: Iterable[Batch], text: str = ""
) -> Written:
    """Write a Parquet file; the same rows give the same bytes, however they are split into batches.

    Raises:
        OSError: it cannot be written.
    """
    core, io = arrow()
    types = _types(core)
    schema = core.Schema(
        [
            core.Field(
                each.name, types[each.kind], nullable=not each.is_always, metadata=_metadata(each) or None
            )
            for each in columns
        ]
    )
    out = HashedFile(root / file)
    raised: list[BaseException] = []
    rows = 0

    def made() -> Iterator[Any]:
        nonlocal rows
        try:
            for batch in _even(batches, columns, max(1, MAX_VALUES // len(columns))):
                if out.error is not None:
                    return
                rows += len(batch[columns[0].name])
                arrays = [_array(core, types, each.kind, batch[each.name]) for each in columns]
                yield core.RecordBatch.from_arrays(arrays, schema=schema)
        except BaseException as error:  # the library makes another one of it
            raised.append(error)
            raise

    repeated = {each.name: True for each in columns if each.kind in ("text", "small", "bool")}
    try:
        io.write_parquet(
            core.RecordBatchReader.from_batches(schema, made()),
            out,
            max_row_group_size=max(1, MAX_VALUES // len(columns)),
            column_dictionary_enabled=repeated,
            created_by="edgebed",
            **_ENCODED,
        )
    except Exception:
        if raised:
            raise raised[0] from None
        raise
    finally:
        digest = out.close()
    return Written(file, rows, out.size, digest, tuple(columns), text)


def _metadata(column: Column) -> dict[str, str]:
    found = {"unit": column.unit, "description": column.text, **column.more}
    return {name: value for name, value in found.items() if value}


def _types(core: Any) -> dict[Kind, Any]:
    make = core.DataType
    return {
        "float": make.float64(),
        "int": make.int64(),
        "small": make.int32(),
        "bool": make.bool(),
        "text": make.string(),
        "time": make.timestamp("us", tz="UTC"),
    }


def _array(core: Any, types: Mapping[Kind, Any], kind: Kind, values: NDArray[Any]) -> Any:
    if kind == "float" and values.dtype == np.float64 and (absent := np.isnan(values)).any():
        values = values.astype(np.object_)
        values[absent] = None
    if values.dtype != np.object_:
        values = values.astype(np.int32) if kind == "small" else values
        found = core.Array.from_numpy(np.ascontiguousarray(values))
        return found if kind != "time" else found.cast(types["time"])
    if kind == "time":
        return core.Array(values.tolist(), type=types["int"]).cast(types["time"])
    return core.Array(values.tolist(), type=types[kind])


def _even(batches: Iterable[Batch], columns: Sequence[Column], rows: int) -> Iterator[Batch]:
    """The same rows in batches of `rows`, the last one smaller: pages end where batches do."""
    names = [each.name for each in columns]
    held: list[Batch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch[names[0]])
        if count < rows:
            continue
        joined = _joined(held, names)
        whole = count - count % rows
        for at in range(0, whole, rows):
            yield {name: joined[name][at : at + rows] for name in names}
        held, count = [{name: joined[name][whole:] for name in names}], count - whole
    if count:
        yield _joined(held, names)


def _joined(held: Sequence[Batch], names: Sequence[str]) -> Batch:
    return {name: np.concatenate([each[name] for each in held]) for name in names}
