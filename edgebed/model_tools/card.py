"""Writes the model card of a package: README.md as Hugging Face reads it, and a CycloneDX document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.inference import package_files
from agent.inference.decoders import ModelError
from agent.inference.inputs import FrameInput
from agent.inference.manifest import Manifest
from agent.inference.model_card import CardMetric, ModelCard
from agent.inference.package import check_package
from agent.state_dir import keep
from wire.errors import ConfigError, unwritable
from wire.printable import printable

README, SBOM = "README.md", "sbom.cdx.json"
_MARK = "<!-- Written by `edgebed model card` from manifest.yaml. -->"
_MOST = 1_000_000  # bytes of a card that is there
# licences whose SPDX identifier Hugging Face writes in small letters
_LICENCES = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "MPL-2.0", "ISC")
_GNU = {"AGPL-3.0-only": "agpl-3.0", "GPL-3.0-only": "gpl-3.0", "LGPL-3.0-only": "lgpl-3.0"}
_TASKS = {
    ("detection", True): "object-detection",
    ("classification", True): "image-classification",
    ("embedding", True): "image-feature-extraction",
    ("regions", True): "image-segmentation",
    ("classification", False): "tabular-classification",
    ("regression", False): "tabular-regression",
    ("forecast", False): "time-series-forecasting",
}
_FIGURE = re.compile(r"\{([a-z_]\w*)((?:\[[^\[\]{}]{1,64}\]){0,8})(?::([+,]?(?:\.[0-9]{1,2})?[gf%]?))?\}")


def write(folder: Path, *, force: bool = False) -> list[str]:
    """Write README.md and sbom.cdx.json of a package; returns their names.

    Raises:
        ModelError: it is not a package, or its card names a figure that is not there.
        ConfigError: there is a README.md that this did not write.
    """
    package = check_package(folder)
    try:
        files = {README: readme(package.manifest), SBOM: sbom(package.manifest)}
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    if not force and _is_foreign(folder):
        raise ConfigError(f"{folder / README} was not written by this command: --force replaces it")
    for name, text in files.items():
        try:
            keep(folder / name, text.encode())
        except OSError as error:
            raise unwritable(str(folder / name), error) from error
    return list(files)


def _is_foreign(folder: Path) -> bool:
    try:
        return _MARK.encode() not in package_files.read(folder, README, _MOST)
    except ModelError:
        return (folder / README).is_symlink() or (folder / README).exists()


# -- Hugging Face --------------------------------------------------------------------------------------------


def readme(found: Manifest) -> str:
    """The card: facts for programs as YAML, then the texts of the manifest.

    Raises:
        ModelError: a text names a figure that is not there.
    """
    card = found.card or ModelCard(
        intended_use=found.description or "Not described.", limits="Not described."
    )
    head = yaml.safe_dump(_facts(found), sort_keys=False, allow_unicode=True, width=110)
    parts = [f"---\n{head}---\n{_MARK}\n", f"# {found.name}\n", _filled(card.intended_use, found)]
    if found.card is None:
        parts += _plain_parts(found)
    for title, text in card.sections.items():
        parts += [f"## {title}\n", _filled(text, found)]
    notes = f", {_filled(card.licence_notes, found).strip()}" if card.licence_notes else "."
    parts += ["## Limits\n", _filled(card.limits, found), f"Licence: {found.licence}{notes}\n"]
    if card.rebuild:
        parts += ["## Rebuild\n", _filled(card.rebuild, found)]
    # a terminal that shows the card must not act on it
    return "\n".join(printable(line, _MOST) for line in "\n".join(parts).split("\n"))


def _plain_parts(found: Manifest) -> list[str]:
    """What a manifest without a card has: its data and figures as they are."""
    both = {"Data": found.data, "Figures": found.quality}
    return [
        f"## {title}\n\n```yaml\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True)}```\n"
        for title, value in both.items()
        if value
    ]


def _facts(found: Manifest) -> dict[str, Any]:
    frame = isinstance(found.input, FrameInput)
    task = _TASKS.get((found.decoder, frame), "")
    facts: dict[str, Any] = {"license": _licence(found.licence)}
    if facts["license"] == "other":
        facts["license_name"] = found.licence
    facts |= {"library_name": "onnx", "tags": ["onnx", "edgebed", found.decoder]}
    if task:
        facts["pipeline_tag"] = task
    if metrics := _metrics(found):
        grouped: dict[str, list[dict[str, Any]]] = {}
        for data, metric, value, interval in metrics:
            shown: dict[str, Any] = {"type": metric.type, "name": metric.name, "value": value}
            if interval:
                shown["args"] = {"confidence_level": 0.95, "confidence_interval": interval}
            grouped.setdefault(data, []).append(shown)
        results = [
            {"task": {"type": task or "other"}, "dataset": {"name": data, "type": "other"}, "metrics": listed}
            for data, listed in grouped.items()
        ]
        facts["model-index"] = [{"name": found.name, "results": results}]
    return facts


def _licence(spdx: str) -> str:
    return spdx.lower() if spdx in _LICENCES else _GNU.get(spdx, "other")


# -- figures -------------------------------------------------------------------------------------------------


def _filled(text: str, found: Manifest) -> str:
    """The text with its figures, and a newline at its end."""
    shown = found.quality.get("card", {})
    roots = {**(shown if isinstance(shown, Mapping) else {}), "q": found.quality}

    def figure(match: re.Match[str]) -> str:
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        value = _at(roots, path)
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return "\n".join(value)
        try:
            return format(value, match[3] or "")
        except (TypeError, ValueError) as error:
            raise ModelError(f"card: {match[0]!r} is not a number") from error

    return _FIGURE.sub(figure, text).strip("\n") + "\n"


def _at(root: Any, path: Sequence[str | int]) -> Any:
    """What is at a path of keys and numbers.

    Raises:
        ModelError: nothing is there.
    """
    found = root
    for key in path:
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            shown = printable(".".join(map(str, path)))
            raise ModelError(f"card: {shown!r} is not a figure of quality") from error
    return found


def _metrics(found: Manifest) -> list[tuple[str, CardMetric, float, list[float]]]:
    """Data, metric, value and interval of each figure for other programs.

    Raises:
        ModelError: one is not a number.
    """
    listed = []
    shown = found.quality.get("card", {})
    root = {**(shown if isinstance(shown, Mapping) else {}), **found.quality}
    held_out = str(found.data.get("held_out", "not described"))
    for metric in found.card.metrics if found.card else []:
        value = _at(root, metric.value)
        ends = _at(root, metric.interval) if metric.interval else []
        interval = list(ends) if isinstance(ends, list) else [ends]
        numbers = all(isinstance(each, int | float) for each in (value, *interval))
        if not numbers or len(interval) not in (0, 2):
            raise ModelError(f"card: the metric {printable(metric.name)!r} is not a number with an interval")
        listed.append((metric.data or held_out, metric, value, interval))
    return listed


# -- CycloneDX -----------------------------------------------------------------------------------------------


def sbom(found: Manifest) -> str:
    """The CycloneDX 1.6 document: the model as a component, with its hash, licence, data and figures.

    Raises:
        ModelError: a text names a figure that is not there.
    """
    frame = isinstance(found.input, FrameInput)
    known = found.licence in _LICENCES or found.licence in _GNU
    performance = [
        {
            "type": metric.type,
            "value": str(value),
            "slice": f"{metric.name}; {data}",
            **(
                {"confidenceInterval": {"lowerBound": str(interval[0]), "upperBound": str(interval[1])}}
                if interval
                else {}
            ),
        }
        for data, metric, value, interval in _metrics(found)
    ]
    data = [
        {"type": "dataset", "name": str(name), "description": str(value)}
        for name, value in found.data.items()
        if name in ("source", "train", "tune", "held_out", "real")
    ]
    about: dict[str, Any] = {
        "modelParameters": {
            "task": _TASKS.get((found.decoder, frame), found.decoder),
            "datasets": data,
            "inputs": [{"format": "picture" if frame else "window of signals"}],
            "outputs": [{"format": found.decoder}],
        },
    }
    if performance:
        about["quantitativeAnalysis"] = {"performanceMetrics": performance}
    if found.card is not None:
        texts = [_filled(text, found).strip() for text in (found.card.intended_use, found.card.limits)]
        about["considerations"] = {"useCases": texts[:1], "technicalLimitations": texts[1:]}
    component = {
        "type": "machine-learning-model",
        "bom-ref": found.ref,
        "name": found.name,
        "version": found.version,
        "description": found.description,
        "hashes": [{"alg": "SHA-256", "content": found.sha256}],
        "licenses": [{"license": {"id" if known else "name": found.licence}}],
        "modelCard": about,
    }
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component},
        "components": [{"type": "file", "name": found.file, "hashes": component["hashes"]}],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
