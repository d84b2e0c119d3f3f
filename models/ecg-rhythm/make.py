"""Rebuilds this package: simulates patients, trains a small network on their ECG, exports and measures it.

    python make.py                  # about six minutes on one core; writes model.onnx, manifest.yaml, golden/
    python make.py --measure        # measures the existing model on the held-out patients

ecg_reference.py, which it runs at the end, writes reference.json: how, is written there.
Needs edgebed[sim] in addition to the dependencies below. With EDGEBED_FIELD_DATA it also measures
on MIT-BIH record 100 in `signals/mitdb/100.*` of that folder. Training does not use this record.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["torch==2.13.0", "numpy", "onnx>=1.21", "onnxruntime>=1.28.1", "pyyaml"]
# ///

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ecg_reference
import numpy as np
from ecg_patients import CASES, LABELS, LENGTH, PER_PATIENT, PVC, N, fault, patients
from ecg_rule import Paired, Plain, look
from mitbih import RATE_HZ, record_100

from agent.pipeline.resampler import HALF_WIDTH, resampled
from edgebed.intervals import bootstrap
from edgebed.model_tools.card import write as write_card
from simulators.plants.patient import ECG_HZ, Patient

HERE = Path(__file__).resolve().parent
VERSION = "1.0.0"
TRAIN, TUNE, HELD_OUT = range(10_000, 13_500), range(30_000, 30_250), range(90_000, 91_000)  # seeds: patients
EPOCHS, BATCH = 7, 64

# in, out, kernel, stride, dilation; layers that keep their shape add their input
LAYERS = [
    (1, 12, 9, 2, 1),
    (12, 20, 7, 2, 1),
    (20, 32, 5, 2, 1),
    (32, 32, 3, 1, 1),
    (32, 32, 3, 1, 3),
    (32, 32, 3, 1, 9),
    (32, 32, 3, 1, 27),
    (32, 32, 3, 1, 1),
]
BASELINE = 125  # samples of the moving mean that is removed
QUIET_MV = 0.03  # mV: a smaller signal is not scaled up to an ECG

Array = np.ndarray[Any, np.dtype[Any]]
Judge = Callable[[Array], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="only measure the existing model")
    if not parser.parse_args().measure:
        (HERE / "model.onnx").write_bytes(export(train(TRAIN)))
    write_golden()
    quality = measure()
    write_manifest(quality)
    ecg_reference.main()
    write_card(HERE)


# -- the network -------------------------------------------------------------------------------------------


def stacked(seeds: range) -> tuple[Array, Array]:
    """Randomised windows (n, 1, 2500) and labels (n,)."""
    found = [(window, label) for _, window, label in patients(seeds, randomised=True)]
    return np.stack([window for window, _ in found])[:, None], np.array([label for _, label in found])


def train(seeds: range) -> list[tuple[Array, Array]]:
    """Weights and biases of each layer; the last is the layer of the classes."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, labels = (torch.from_numpy(array) for array in stacked(seeds))
    tune, tune_labels = (torch.from_numpy(array) for array in stacked(TUNE))
    convs = nn.ModuleList(
        nn.Conv1d(i, o, k, stride, d * (k // 2), d, bias=False) for i, o, k, stride, d in LAYERS
    )
    norms = nn.ModuleList(nn.BatchNorm1d(layer[1]) for layer in LAYERS)
    last = nn.Linear(2 * LAYERS[-1][1], len(LABELS))
    net = nn.ModuleList([convs, norms, last])

    def forward(x: Any) -> Any:
        x = x - functional.avg_pool1d(x, BASELINE, 1, BASELINE // 2, count_include_pad=False)
        x = x / torch.sqrt((x * x).mean(dim=2, keepdim=True) + QUIET_MV**2)
        x = x.clamp(-12, 12)
        for conv, norm in zip(convs, norms, strict=True):
            y = torch.relu(norm(conv(x)))
            x = x + y if y.shape == x.shape else y
        return last(functional.dropout(torch.cat([x.mean(dim=2), x.amax(dim=2)], 1), 0.2, net.training))

    steps = EPOCHS * (len(data) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for epoch in range(EPOCHS):
        net.train()
        order = torch.randperm(len(data))
        for at in range(0, len(data) - BATCH + 1, BATCH):
            batch = order[at : at + BATCH]
            loss = functional.cross_entropy(forward(data[batch]), labels[batch], label_smoothing=0.02)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.no_grad():
            right = (forward(tune).argmax(1) == tune_labels).float().mean()
        print(f"epoch {epoch + 1}: loss {loss:.3f}, right on tuning patients {right:.3f}", flush=True)
    folded = []
    for conv, norm in zip(convs, norms, strict=True):
        gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
        bias = (norm.bias - norm.running_mean * gain).detach()
        folded.append(((conv.weight.detach() * gain[:, None, None]).numpy(), bias.numpy()))
    return [*folded, (last.weight.detach().numpy(), last.bias.detach().numpy())]


def export(weights: list[tuple[Array, Array]]) -> bytes:
    """The ONNX file; it removes baseline and scale itself, so its input is the signal in mV."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(numbers: Any, kind: Any = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.asarray(numbers, kind), f"constant_{len(constants)}"))
        return f"constant_{len(constants) - 1}"

    def node(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    x = node("Transpose", "ecg", perm=[0, 2, 1])
    half = BASELINE // 2
    mean = node(
        "AveragePool", x, kernel_shape=[BASELINE], pads=[half, half], strides=[1], count_include_pad=0
    )
    x = node("Sub", x, mean)
    power = node("ReduceMean", node("Mul", x, x), axes=[2], keepdims=1)
    x = node("Div", x, node("Sqrt", node("Add", power, constant(QUIET_MV**2))))
    x = node("Clip", x, constant(-12.0), constant(12.0))
    for (i, o, k, stride, d), (weight, bias) in zip(LAYERS, weights[:-1], strict=True):
        pad = d * (k // 2)
        shape = {"kernel_shape": [k], "strides": [stride], "dilations": [d], "pads": [pad, pad]}
        y = node("Relu", node("Conv", x, constant(weight), constant(bias), **shape))
        x = node("Add", x, y) if (i, stride) == (o, 1) else y
    mean = node("ReduceMean", x, axes=[2], keepdims=0)
    pooled = node("Concat", mean, node("ReduceMax", x, axes=[2], keepdims=0), axis=1)
    weight, bias = weights[-1]
    logits = node("Gemm", pooled, constant(weight), constant(bias), transB=1)
    nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "ecg-rhythm",
        [helper.make_tensor_value_info("ecg", TensorProto.FLOAT, [1, LENGTH, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(LABELS)])],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, producer_name="edgebed", opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def network() -> Judge:
    """The existing model as a function from a window (2500,) in mV to a label."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(HERE / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda window: int(np.argmax(session.run(None, {"ecg": window[None, :, None]})[0]))


# -- measuring ---------------------------------------------------------------------------------------------


def confusion(pairs: Iterable[tuple[int, int]]) -> Array:
    """The confusion matrix: true labels are rows, results are columns."""
    table = np.zeros((len(LABELS), len(LABELS)), np.int64)
    for label, result in pairs:
        table[label, result] += 1
    return table


def measure() -> dict[str, Any]:
    """Every figure of the card: model and rules on the same windows of held-out patients."""
    plain, paired = tuned_rules()
    judges: dict[str, Judge] = {
        "model": network(),
        "plain_rule": lambda window: plain.judge(look(window)),
        "paired_rule": lambda window: paired.judge(look(window)),
    }
    quality: dict[str, Any] = {}
    for where, randomised in (("randomised", True), ("simulator", False)):
        cases = list(patients(HELD_OUT, randomised=randomised))
        labels = np.array([label for *_, label in cases])
        found = {name: np.array([judge(window) for _, window, _ in cases]) for name, judge in judges.items()}
        quality[where] = {}
        for name, guesses in found.items():
            by_patient = (guesses == labels).reshape(-1, PER_PATIENT)
            report = summary(confusion(zip(labels, guesses, strict=True)))
            sure = bootstrap(by_patient.sum(axis=1), np.full(len(by_patient), PER_PATIENT), 4)
            quality[where][name] = {**report, "accuracy_95": sure}
        if randomised:
            kinds = np.array([kind for kind, *_ in cases])
            quality["by_case"] = {
                kind: {
                    name: round(float((guesses == labels)[kinds == kind].mean()), 3)
                    for name, guesses in found.items()
                }
                for kind in CASES
            }
    if named := os.environ.get("EDGEBED_FIELD_DATA"):
        found = recorded(Path(named))
        quality["mitbih_100"] = {
            name: summary(confusion((label, judge(window)) for window, label in found))
            for name, judge in judges.items()
        }
    return quality


def tuned_rules() -> tuple[Plain, Paired]:
    """The best thresholds on the tuning patients, randomised like the training patients."""
    found = [(look(window), label) for _, window, label in patients(TUNE, randomised=True)]
    irregular, early = (0.06, 0.08, 0.1, 0.13, 0.16, 0.2), (0.7, 0.75, 0.82, 0.88)

    def found_by(rule: Plain | Paired) -> float:
        return _mean_recall(confusion((label, rule.judge(seen)) for seen, label in found))

    return (
        max(itertools.starmap(Plain, itertools.product(irregular, early, (1.05, 1.15, 1.3))), key=found_by),
        max(
            itertools.starmap(
                Paired, itertools.product(irregular, early, (0.1, 0.2, 0.3), (0.05, 0.1, 0.15, 0.2))
            ),
            key=found_by,
        ),
    )


def recorded(field_data: Path) -> list[tuple[Array, int]]:
    """Windows of MIT-BIH record 100, one a second: PVC if it contains a whole V beat, else N.

    The signal is resampled from 360 Hz to 250 as in the agent. Premature atrial beats (A) count as N.
    """
    lead_mv, beats = record_100(field_data / "signals" / "mitdb")
    ecg = resampled(lead_mv, RATE_HZ, ECG_HZ).astype(np.float32)
    early = [at - HALF_WIDTH / ECG_HZ for at, kind in beats if kind == "V"]
    return [
        (ecg[start : start + LENGTH], PVC if any(0.15 < at - start / ECG_HZ < 9.7 for at in early) else N)
        for start in range(0, len(ecg) - LENGTH + 1, ECG_HZ)
    ]


def summary(table: Array) -> dict[str, Any]:
    """Share found (recall) and share right (precision) of each class that occurs, and the matrix."""
    there = [at for at in range(len(LABELS)) if table[at].sum()]
    right = np.diag(table)
    return {
        "windows": int(table.sum()),
        "accuracy": round(float(right.sum() / table.sum()), 4),
        "recall": {LABELS[at]: round(float(right[at] / table[at].sum()), 4) for at in there},
        "precision": {LABELS[at]: round(float(right[at] / max(1, table[:, at].sum())), 4) for at in there},
        "confusion": table.tolist(),
    }


def _mean_recall(table: Array) -> float:
    there = table.sum(axis=1) > 0
    return float((np.diag(table)[there] / table.sum(axis=1)[there]).mean())


# -- the package -------------------------------------------------------------------------------------------


def write_golden() -> None:
    """One window of each label, and one of a premature atrial beat."""
    import onnxruntime

    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    folder = HERE / "golden"
    folder.mkdir(exist_ok=True)
    examples = {"n": [], "af": [fault("af")], "pvc": [fault("pvc", 2)], "pac": [fault("pac")]}
    for name, faults in {**examples, "noise": [fault("noise")], "lead-off": [fault("lead-off")]}.items():
        window = Patient(HELD_OUT[0], faults).ecg(30 * ECG_HZ, LENGTH).astype(np.float32)[:, None]
        logits = session.run(None, {"ecg": window[None]})[0]
        np.savez_compressed(folder / f"{name}.npz", input=window, output_0=logits)


def write_manifest(quality: dict[str, Any]) -> None:
    import yaml

    manifest = {
        "name": "ecg-rhythm",
        "version": VERSION,
        "licence": "Apache-2.0",
        "description": "Ten seconds of one ECG lead: sinus rhythm, atrial fibrillation, ventricular premature"
        " beats, or not readable. A monitoring pilot, not a medical device.",
        "sha256": hashlib.sha256((HERE / "model.onnx").read_bytes()).hexdigest(),
        "input": {
            "kind": "window",
            "name": "ecg",
            "signals": ["ecg"],
            "rate_hz": ECG_HZ,
            "length": LENGTH,
            "hop": ECG_HZ,  # a window each second
        },
        "output": {
            "decoder": "classification",
            "labels": list(LABELS),
            "softmax": True,
            "scores": True,
            "alarm": ["AF", "PVC"],
        },
        "budgets": {"p99_ms": 10, "rss_mb": 40},
        "data": {
            "source": "simulators/plants/patient.py, randomised by make.py: synthetic",
            "windows_of_a_patient": PER_PATIENT,
            **{
                part: f"{len(seeds)} patients (seeds {seeds.start}-{seeds.stop - 1})"
                for part, seeds in (("train", TRAIN), ("tune", TUNE), ("held_out", HELD_OUT))
            },
            "real": "MIT-BIH record 100 (PhysioNet, ODC-BY), for measuring alone",
        },
        "quality": {**quality, "card": figures(quality)},
    }
    text = yaml.safe_dump(manifest, sort_keys=False, width=110, default_flow_style=None)
    (HERE / "manifest.yaml").write_text("# Written by make.py, but for the card.\n" + text + texts())


def texts() -> str:
    """The card in the manifest, which people write."""
    before = (HERE / "manifest.yaml").read_text()
    return before[before.index("card:\n  intended_use") :]


def figures(quality: dict[str, Any]) -> dict[str, Any]:
    """Tables and numbers that the card in the manifest shows beside those of `quality`."""
    tables = {where: _table(quality[where]) for where in ("randomised", "simulator")}
    cases = "\n".join(
        f"| {case} | {CASES[case].share:.0%} | {' | '.join(f'{share:.1%}' for share in right.values())} |"
        for case, right in quality["by_case"].items()
    )
    real = _table(quality["mitbih_100"]) if "mitbih_100" in quality else "Not measured in this build."
    judged = _judged(quality["mitbih_100"]) if "mitbih_100" in quality else ""
    return {
        **{name: table.splitlines() for name, table in tables.items()},
        "cases": cases.splitlines(),
        "real": real.splitlines(),
        "judged": judged.splitlines(),
        "train": len(TRAIN),
        "held_out": len(HELD_OUT),
        "windows": quality["randomised"]["model"]["windows"],
        "confusion": _matrix(quality["randomised"]["model"]["confusion"]).splitlines(),
    }


def _table(reports: dict[str, dict[str, Any]]) -> str:
    """Recall and precision of each judge, a row for each label."""
    labels = reports["model"]["recall"]
    rows = [
        [label, *(f"{r['recall'][label]:.1%} / {r['precision'][label]:.1%}" for r in reports.values())]
        for label in labels
    ]
    rows.append(["all windows", *(f"{report['accuracy']:.1%}" for report in reports.values())])
    if "accuracy_95" in reports["model"]:
        ends = [report["accuracy_95"] for report in reports.values()]
        rows.append(["95 % interval, over patients", *(f"{low:.1%} to {high:.1%}" for low, high in ends)])
    head = "| found / right | model | plain rule | paired rule |\n|---|---|---|---|"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _matrix(rows: list[list[int]]) -> str:
    head = "| true class / result | " + " | ".join(LABELS) + " |\n|---|" + "---|" * len(LABELS)
    return "\n".join(
        [head, *(f"| {LABELS[at]} | {' | '.join(map(str, row))} |" for at, row in enumerate(rows))]
    )


def _judged(reports: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, report in reports.items():
        table = np.array(report["confusion"])
        lines.append(
            f"- {name.replace('_', ' ')}: {table[N, 1:].sum()} of {table[N].sum()} windows without a V beat "
            f"got a different class,\n  {table[PVC, PVC]} of {table[PVC].sum()} windows with it were found"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
    print("sign the package again: edgebed model sign", HERE.name, "--key KEY")
