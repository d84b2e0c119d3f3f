"""Models as a small company exports them: scikit-learn and LightGBM, and quantised or optimised files.

They are made here and need `pip install 'edgebed[published]'`; without it they are left out.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.published.case import Case, Row, best, windows

NEEDED = ("lightgbm", "onnxmltools", "skl2onnx", "sklearn")
_SIGNALS = 4
_WORDS, _NUMBERS = ["calm", "rough", "storm"], ["0", "1", "2"]


def _data() -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of four signals and their class, 0 to 2."""
    rows = np.random.default_rng(1).normal(size=(400, _SIGNALS)).astype(np.float32)
    return rows, (rows[:, 0] > 0).astype(np.int64) + (rows[:, 1] > 1)


def _exported(model: Any, kind: type = np.float32, options: Any = None) -> bytes:
    from skl2onnx import to_onnx

    rows, _ = _data()
    opsets = {"": 17, "ai.onnx.ml": 3}
    made = to_onnx(model, rows[:1].astype(kind), options=options, target_opset=opsets)
    return bytes(made.SerializeToString())


def _fitted(model: Any, words: bool = False) -> Any:
    rows, classes = _data()
    return model.fit(rows, np.array(_WORDS)[classes] if words else classes)


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(8, random_state=1)


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def _pipeline() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _logistic())


def _network() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((16, 16), max_iter=60, random_state=1)


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=8, random_state=1)


def _one_class() -> bytes:
    from sklearn.svm import OneClassSVM

    return _exported(OneClassSVM().fit(_data()[0]))


def _isolation() -> bytes:
    from sklearn.ensemble import IsolationForest

    return _exported(IsolationForest(n_estimators=10, random_state=1).fit(_data()[0]))


def _linear() -> bytes:
    from sklearn.svm import LinearSVC

    return _exported(_fitted(LinearSVC()))


def _light(kind: str, zipmap: bool = False) -> bytes:
    import lightgbm
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows, classes = _data()
    model = getattr(lightgbm, kind)(n_estimators=8, verbose=-1, random_state=1)
    model.fit(rows, classes if "Classifier" in kind else rows[:, 0] * 2)
    made = onnxmltools.convert_lightgbm(
        model, initial_types=[("X", FloatTensorType([None, _SIGNALS]))], zipmap=zipmap
    )
    return bytes(made.SerializeToString())


def _changed(change: Callable[[Path, Path], object]) -> bytes:
    """The network after `change` of its file."""
    with tempfile.TemporaryDirectory() as folder:
        plain, made = Path(folder) / "plain.onnx", Path(folder) / "made.onnx"
        plain.write_bytes(_exported(_fitted(_network()), options={"zipmap": False}))
        change(plain, made)
        return made.read_bytes()


def _dynamic(plain: Path, made: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(plain, made)


def _static(form: str) -> Callable[[Path, Path], None]:
    def change(plain: Path, made: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

        rows = iter([{"X": row[None]} for row in _data()[0][:50]])

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # a class of an untyped module
            def get_next(self) -> Any:
                return next(rows, None)

        quantize_static(plain, made, Reader(), quant_format=getattr(QuantFormat, form))

    return change


def _optimised(plain: Path, made: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(made)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(plain), options)


def _prepared(plain: Path, made: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(plain), str(made))


# -- cases -------------------------------------------------------------------------------------------------


def _case(
    name: str,
    make: Callable[[], bytes],
    output: Mapping[str, Any],
    row: Callable[[dict[str, Any]], Row],
    kind: type = np.float32,
) -> Case:
    window = {
        "kind": "window",
        "name": "X",
        "signals": [f"s{at}" for at in range(_SIGNALS)],
        "rate_hz": 1,
        "length": 1,
        "layout": "flat",
    }
    return Case(
        name,
        "made here==1.0",
        "",
        {"input": window, "output": dict(output)},
        lambda: windows(1, _SIGNALS),
        lambda data: {"X": data.astype(kind)},
        row,
        make=make,
    )


def _classes(name: str, make: Callable[[], bytes], labels: list[str], kind: type = np.float32) -> Case:
    def row(outputs: dict[str, Any]) -> Row:
        scores = list(outputs.values())[1]
        if isinstance(scores, list):  # a ZipMap
            return best([str(key) for key in scores[0]], np.array(list(scores[0].values())))
        return best(labels, scores[0])

    return _case(name, make, {"decoder": "classification", "labels": labels}, row, kind)


def _anomaly(name: str, make: Callable[[], bytes]) -> Case:
    def row(outputs: dict[str, Any]) -> Row:
        score = -float(outputs["scores"].reshape(-1)[0])
        return {"score": score, "alarm": score >= 0}

    return _case(name, make, {"decoder": "anomaly", "threshold": 0, "sign": -1}, row)


def _sklearn(model: Callable[[], Any], **how: Any) -> Callable[[], bytes]:
    """Fit and export: with text labels, in another type, or with a ZipMap."""
    options = None if how.get("zipmap") else {"zipmap": False}
    return lambda: _exported(_fitted(model(), how.get("words", False)), how.get("kind", np.float32), options)


CASES = [
    _classes("sklearn random forest", _sklearn(_forest), _NUMBERS),
    _classes("sklearn random forest, ZipMap", _sklearn(_forest, zipmap=True), _NUMBERS),
    _classes("sklearn logistic, text labels", _sklearn(_logistic, words=True), _WORDS),
    _classes("sklearn logistic, text, ZipMap", _sklearn(_logistic, words=True, zipmap=True), _WORDS),
    _classes("sklearn scaler and logistic", _sklearn(_pipeline), _NUMBERS),
    _classes("sklearn logistic in float64", _sklearn(_pipeline, kind=np.float64), _NUMBERS, np.float64),
    _classes("sklearn gradient boosting", _sklearn(_boosting), _NUMBERS),
    _classes("sklearn MLP", _sklearn(_network), _NUMBERS),
    _anomaly("sklearn one-class SVM", _one_class),
    _anomaly("sklearn isolation forest", _isolation),
    _case(
        "sklearn linear SVM (margins)",
        _linear,
        {"decoder": "classification", "labels": _NUMBERS, "margins": True},
        lambda outputs: best(_NUMBERS, list(outputs.values())[1][0]),
    ),
    _classes("LightGBM classifier", lambda: _light("LGBMClassifier"), _NUMBERS),
    _classes("LightGBM classifier, ZipMap", lambda: _light("LGBMClassifier", True), _NUMBERS),
    _case(
        "LightGBM regressor",
        lambda: _light("LGBMRegressor"),
        {"decoder": "regression", "fields": {"value": {}}},
        lambda outputs: {"value": float(outputs["variable"].reshape(-1)[0])},
    ),
    *(
        _classes(f"MLP, {name}", lambda change=change: _changed(change), _NUMBERS)  # type: ignore[misc]
        for name, change in {
            "dynamic quantisation": _dynamic,
            "QDQ": _static("QDQ"),
            "QOperator": _static("QOperator"),
            "optimised": _optimised,
            "pre-processed": _prepared,
        }.items()
    ),
]
if not all(importlib.util.find_spec(name) for name in NEEDED):
    CASES = []
