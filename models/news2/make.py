"""Rebuilds this package: the National Early Warning Score 2 as an ONNX graph, and its figures on patients.

    python make.py                  # seconds; writes model.onnx, manifest.yaml, golden/, README.md

Needs edgebed[sim] in addition to the dependencies below. Same table, same file: nothing is trained.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "onnx>=1.21", "onnxruntime>=1.28.1", "pyyaml"]
# ///

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import TensorProto, helper, numpy_helper

from edgebed.intervals import wilson
from edgebed.model_tools.card import write as write_card
from simulators.faults.fault import Fault
from simulators.plants.patient import Patient

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
CHART = "chart 1 of: Royal College of Physicians, National Early Warning Score (NEWS) 2, London 2017"
# That chart with SpO2 scale 1: the score below the first edge, then (edge, score from there on). An edge is
# half a step of the chart below its first value, so that a number with more decimals counts as the nearest.
TABLE: dict[str, tuple[int, list[tuple[float, int]]]] = {
    "resp_rate": (3, [(8.5, 1), (11.5, 0), (20.5, 2), (24.5, 3)]),
    "spo2": (3, [(91.5, 2), (93.5, 1), (95.5, 0)]),
    "oxygen": (0, [(0.5, 2)]),
    "sys_bp": (3, [(90.5, 2), (100.5, 1), (110.5, 0), (219.5, 3)]),
    "heart_rate": (3, [(40.5, 1), (50.5, 0), (90.5, 1), (110.5, 2), (130.5, 3)]),
    "consciousness_altered": (0, [(0.5, 3)]),
    "temperature": (3, [(35.05, 1), (36.05, 0), (38.05, 1), (39.05, 2)]),
}
SIGNALS = tuple(TABLE)
URGENT, RED = 5, 3  # the report's thresholds for an urgent review: the sum, and one parameter alone
HEALTHY, ILL = range(60_000, 60_060), range(61_000, 61_060)  # seeds; a seed is a patient
FAULTS = ("desaturation", "fever", "hypotension", "confusion")

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    (HERE / "model.onnx").write_bytes(build())
    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    write_golden(session)
    quality = measure(session)
    write_manifest(quality)
    write_card(HERE)


def build() -> bytes:
    """The ONNX file: each edge below the value adds its step to the score of its parameter."""
    column, edges, steps, base = [], [], [], []
    for at, (lowest, bands) in enumerate(TABLE.values()):
        base.append(lowest)
        before = [lowest, *(score for _, score in bands)]
        for (edge, score), below in zip(bands, before, strict=False):
            column.append(at)
            edges.append(edge)
            steps.append([score - below if at == to else 0 for to in range(len(TABLE))])
    constants = {
        "seven": np.array([len(TABLE)], np.int64),
        "column": np.array(column, np.int64),
        "edges": np.array(edges, np.float32),
        "steps": np.array(steps, np.float32),
        "base": np.array(base, np.float32),
        "nothing": np.zeros(1, np.float32),
        "all": np.zeros(1, np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "seven"], ["vitals"]),
        helper.make_node("Gather", ["vitals", "column"], ["beside"]),
        helper.make_node("GreaterOrEqual", ["beside", "edges"], ["passed"]),
        helper.make_node("Cast", ["passed"], ["counts"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["counts", "steps"], ["added"]),
        helper.make_node("Add", ["added", "base"], ["scored"]),
        helper.make_node(
            "Mul", ["vitals", "nothing"], ["known"]
        ),  # a parameter that is not a number has a null score
        helper.make_node("Add", ["scored", "known"], ["parts"]),
        helper.make_node("ReduceSum", ["parts", "all"], ["score"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "news2",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, len(TABLE)])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("parts", TensorProto.FLOAT, [len(TABLE)]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, producer_name="edgebed", opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    body: bytes = model.SerializeToString(deterministic=True)
    return body


# -- measuring ---------------------------------------------------------------------------------------------


def rows(patient: Patient, from_s: int, to_s: int, step_s: int) -> Array:
    """(n, 1, 7), the windows that the agent would make from the numbers of the monitor."""
    shown = [patient.vitals(second) for second in range(from_s, to_s, step_s)]
    return np.array([[[each[name] for name in SIGNALS]] for each in shown], np.float32)


def scored(session: onnxruntime.InferenceSession, data: Array) -> tuple[Array, Array]:
    """Sums (n,) and scores of the parameters (n, 7)."""
    runs = [session.run(None, {"x": row[None]}) for row in data]
    return np.array([run[0][0] for run in runs]), np.stack([run[1] for run in runs])


def measure(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """The scores of simulated patients at rest, and five minutes after a fault began."""
    sums, parts = scored(session, np.concatenate([rows(Patient(seed), 0, 600, 20) for seed in HEALTHY]))
    found: dict[str, Any] = {
        "healthy": {
            "alarms": _rate((sums >= URGENT) | (parts.max(axis=1) >= RED)),
            "median": float(np.median(sums)),
        }
    }
    for kind in FAULTS:
        fault = Fault(kind)
        sums, parts = scored(
            session, np.concatenate([rows(Patient(seed, [fault]), 300, 301, 1) for seed in ILL])
        )
        found[kind] = {
            "sum_of_5": _rate(sums >= URGENT),
            "sum_of_7": _rate(sums >= 7),
            "one_red": _rate(parts.max(axis=1) >= RED),
            "median": float(np.median(sums)),
        }
    return found


def _rate(hits: Array) -> float:
    return round(float(hits.mean()), 3)


# -- the package -------------------------------------------------------------------------------------------


def write_golden(session: onnxruntime.InferenceSession) -> None:
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    examples = {
        "well": (16, 98, 0, 120, 70, 0, 36.8),
        "septic": (26, 93, 1, 92, 124, 1, 39.4),
        "worst": (30, 80, 1, 70, 140, 1, 34.0),
        "lowest-of-zero": (12, 96, 0, 111, 51, 0, 36.1),
        "highest-of-zero": (20, 100, 0, 219, 90, 0, 38.0),
        "one-red": (16, 98, 0, 85, 70, 0, 36.8),
    }
    for name, vitals in examples.items():
        window = np.array([vitals], np.float32)
        score, parts = session.run(None, {"x": window[None]})
        np.savez_compressed(folder / f"{name}.npz", input=window, output_0=score, output_1=parts)


def write_manifest(quality: dict[str, Any]) -> None:
    manifest = {
        "name": "news2",
        "version": VERSION,
        "licence": "Apache-2.0",
        "description": "National Early Warning Score 2 (SpO2 scale 1) of seven vital signs: a rule, not"
        " trained. A monitoring pilot, not a medical device.",
        "sha256": hashlib.sha256((HERE / "model.onnx").read_bytes()).hexdigest(),
        "input": {
            "kind": "window",
            "name": "x",
            "signals": list(SIGNALS),
            "rate_hz": 1,
            "length": 1,
            "hop": 1,
        },
        "output": {"decoder": "anomaly", "threshold": URGENT, "part_threshold": RED, "parts": list(SIGNALS)},
        "budgets": {"p99_ms": 2, "rss_mb": 32},
        "data": {
            "source": CHART,
            "held_out": f"{len(HEALTHY)} healthy and {len(ILL)} ill simulated patients: synthetic",
        },
        "quality": {
            "on": "share of patients, five minutes after a fault of size 1 began",
            **quality,
            "card": figures(quality),
        },
    }
    text = yaml.safe_dump(manifest, sort_keys=False, width=110, default_flow_style=None)
    (HERE / "manifest.yaml").write_text("# Written by make.py, but for the card.\n" + text + texts())


def texts() -> str:
    """The card in the manifest, which people write."""
    before = (HERE / "manifest.yaml").read_text()
    return before[before.index("card:\n  intended_use") :]


def figures(quality: dict[str, Any]) -> dict[str, Any]:
    """Tables and numbers that the card in the manifest shows beside those of `quality`."""
    table = "\n".join(
        f"| {kind} | {quality[kind]['median']:g} | "
        + " | ".join(_sure(quality[kind][key]) for key in ("sum_of_5", "sum_of_7", "one_red"))
        + " |"
        for kind in FAULTS
    )
    return {
        "table": table.splitlines(),
        "patients": len(HEALTHY),
        "ill": len(ILL),
        "urgent": {
            kind: [round(end, 3) for end in wilson(round(quality[kind]["sum_of_5"] * len(ILL)), len(ILL))]
            for kind in FAULTS
        },
    }


def _sure(share: float) -> str:
    """A share of the ill patients and its 95 % interval."""
    low, high = wilson(round(share * len(ILL)), len(ILL))
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
