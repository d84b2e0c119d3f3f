"""Fixtures for the tests of a package under models/: the opened model, and its make.py as a module.

A test file names its package in `PACKAGE`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agent.inference.package import load_package
from agent.inference.session import Model


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    """The model of the package, opened."""
    return Model(load_package(request.module.PACKAGE))


@pytest.fixture(scope="session")
def make_of() -> Callable[[Path], ModuleType]:
    """The make.py of a package as a module, not run; it can import the files beside it."""

    def opened(package: Path) -> ModuleType:
        name = f"make_{package.name.replace('-', '_')}"
        spec = importlib.util.spec_from_file_location(name, package / "make.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(package))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(package))
        return module

    return opened


@pytest.fixture(scope="module")
def make(request: pytest.FixtureRequest, make_of: Callable[[Path], ModuleType]) -> ModuleType:
    """The make.py of the package of the test file."""
    return make_of(request.module.PACKAGE)


@pytest.fixture(scope="module")
def constants(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """The tensors of its ONNX file, by name."""
    onnx = pytest.importorskip("onnx", reason="onnx is needed to look into a model")
    graph = onnx.load(request.module.PACKAGE / "model.onnx").graph
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
