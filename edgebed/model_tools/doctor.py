"""Finds what costs an ONNX file time or breaks it, writes a repaired copy, and compares the two."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from agent.inference import manifest, package_files
from agent.inference.decoders import ModelError
from agent.inference.inputs import WindowInput
from agent.inference.onnx_scan import INT8, scan
from agent.inference.package import MAX_MODEL
from edgebed.model_tools.compare import Compared, compare
from edgebed.model_tools.rewrite import Rewritten, rewritten
from wire.errors import ConfigError, unwritable
from wire.printable import printable

_OLD = 13  # opsets below it lack the quantisation of single channels, and onnxruntime optimises them less
_VNNI = ("avx512_vnni", "avx_vnni", "asimddp")  # flags of CPUs with exact products of 8 bits
_MANY = 8


class Finding(Struct):
    """What costs time or breaks; `repaired` if `--fix` takes care of it."""

    text: str
    repaired: bool


class Diagnosis(Struct):
    """The findings of a file; with `--fix` also the repaired file, and how it compares."""

    findings: list[Finding] = []
    out: str = ""
    sha256: str = ""
    compared: Compared | None = None


def diagnose(
    file: Path, *, fix: Path | None, dims: Mapping[str, int], keep: Sequence[str], force: bool = False
) -> Diagnosis:
    """Look at a file, and write it repaired to `fix`; `dims` has lengths of axes, `keep` outputs that stay.

    Raises:
        ModelError: it is not an ONNX file that the agent can load after the repair, or the repair changes it.
        ConfigError: `fix` is there already.
    """
    if fix is not None and (fix.is_symlink() or fix.exists()) and not force:
        raise ConfigError(f"{fix} is there already: --force replaces it")
    try:
        body = package_files.read_file(file, MAX_MODEL)
        read = set(keep) or _read_by_manifest(file)
        found = rewritten(body, file.resolve().parent, dims, read)
        scan(found.body)
        made = Diagnosis(list(_findings(found)))
        if fix is not None and any(each.repaired for each in made.findings):
            # what the repair is compared with: the file as it is, but for weights in other files
            plain = _with_weights(body, file) if found.external else body
            _write(fix, plain, found.body, made)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error
    return made


def _with_weights(body: bytes, file: Path) -> bytes:
    return rewritten(body, file.resolve().parent, {}, None).body


def _write(fix: Path, plain: bytes, repaired: bytes, made: Diagnosis) -> None:
    """Compare both as files, and give the repaired one its name."""
    word = secrets.token_hex(6)
    paths = [fix.with_name(f".{fix.name[:64]}-{word}-{at}") for at in (0, 1)]
    try:
        for path, body in zip(paths, (plain, repaired), strict=True):
            with path.open("xb") as opened:
                opened.write(body)
        made.compared = compare(*paths)
        paths[1].replace(fix)
    except OSError as error:
        raise unwritable(str(fix), error) from error
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    made.out, made.sha256 = str(fix), hashlib.sha256(repaired).hexdigest()


def _read_by_manifest(file: Path) -> set[str] | None:
    """The outputs that the manifest beside the file names; None if it names none."""
    try:
        found = manifest.load(file.resolve().parent)
    except ModelError:
        return None
    state = list(found.input.state.values()) if isinstance(found.input, WindowInput) else []
    return {*found.tensors, *state} if found.file == file.name and found.tensors else None


def _findings(found: Rewritten) -> Iterator[Finding]:
    if found.external:
        yield Finding(
            f"{len(found.external)} weights are in other files: the agent refuses it", repaired=True
        )
    if found.listed:
        yield Finding(
            f"{len(found.listed)} weights are inputs too ({_shown(found.listed)}): onnxruntime folds no "
            "constants of them; the agent leaves these inputs out when it loads the file",
            repaired=True,
        )
    if found.fixed:
        fixed = [f"{name} to {length}" for name, length in found.fixed.items()]
        yield Finding(f"open axes are fixed: {_shown(fixed)}", repaired=True)
    if found.open:
        yield Finding(f"open axes: {_shown(found.open)}; fix them with --dim NAME=LENGTH", repaired=False)
    if found.dropped:
        yield Finding(f"outputs that the manifest does not read: {_shown(found.dropped)}", repaired=True)
    if found.domains:
        yield Finding(f"operators of {_shown(found.domains)} are imported and not used", repaired=True)
    if found.unknown:
        yield Finding(f"outputs without a shape: {_shown(found.unknown)}: export with them", repaired=False)
    if 0 < found.opset < _OLD:
        yield Finding(f"opset {found.opset} is old: export with {_OLD} or newer", repaired=False)
    if found.doubles:
        yield Finding(
            f"{found.doubles} weights or casts are float64, which takes twice the time: export in float32",
            repaired=False,
        )
    int8 = sorted(each for each in found.operators if each.encode() in INT8)
    if int8 and not _exact():
        yield Finding(
            f"{_shown(int8)} multiply 8 bits, and this CPU has no VNNI: the agent uses slower exact "
            "products; quantise with reduce_range, or use float32 here",
            repaired=False,
        )


def _exact() -> bool:
    """Whether products of 8 bits do not saturate on this CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return os.uname().machine not in ("x86_64", "AMD64") or any(flag in text for flag in _VNNI)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(printable(name, 64) for name in names[:_MANY]) + more
