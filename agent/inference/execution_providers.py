"""The execution providers of onnxruntime: words in a config, the OpenVINO plugin, what runs a model."""

from __future__ import annotations

import importlib
import json
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from agent.inference.decoders import ModelError
from wire.plugins import version
from wire.printable import printable

CPU = ("CPUExecutionProvider",)
OPENVINO, CUDA = "OpenVINOExecutionProvider", "CUDAExecutionProvider"
# the CPU runs the nodes that the other one cannot
NAMES: dict[str, tuple[str, ...]] = {"cpu": CPU, "openvino": (OPENVINO, *CPU), "cuda": (CUDA, *CPU)}
REPLACED = "onnxruntime-openvino"
PLUGIN = "onnxruntime-ep-openvino"
PACKAGES = ("onnxruntime", "onnxruntime-gpu", PLUGIN, REPLACED)  # that bring them
_CUDA_HINT = "; install onnxruntime-gpu in an environment of its own, see docs/models.md"
# One thread, as on the CPU. Without f32, OpenVINO computes with 16 bits where the CPU can, and a result
# differs by more than a golden vector allows.
_OPENVINO_CPU = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": "1",
    "NUM_STREAMS": "1",
}
_LIBRARY = "edgebed-openvino"  # the name under which the process registers the plugin

_registering = threading.Lock()
_registered = False


def names(asked: Sequence[str]) -> tuple[str, ...]:
    """The names of onnxruntime for words of a config; a name stays as it is."""
    return tuple(dict.fromkeys(name for each in asked for name in NAMES.get(each, (each,))))


def missing(provider: str, why: str) -> ModelError:
    """The error that an execution provider is not installed."""
    return ModelError(why).coded("provider-missing", provider=provider)


def unused(provider: str, why: str) -> ModelError:
    """The error that an execution provider is installed and runs nothing."""
    return ModelError(why).coded("provider-unused", provider=provider)


def add(options: Any, providers: Sequence[str]) -> list[str]:
    """Ask for `providers` in the options of a session; returns the list that the session still needs.

    Raises:
        ModelError: one of them is not there.
    """
    import onnxruntime

    if tuple(providers) != CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if OPENVINO in providers:
        device = _openvino(onnxruntime)
        options.add_provider_for_devices([device], {"load_config": json.dumps({"CPU": _OPENVINO_CPU})})
        return []  # onnxruntime adds the CPU by itself
    there = onnxruntime.get_available_providers()
    for provider in providers:
        if provider not in there:
            listed, hint = ", ".join(there), _CUDA_HINT if provider == CUDA else ""
            why = f"execution provider {provider} is not in this onnxruntime (available: {listed}){hint}"
            raise missing(provider, why)
    return list(providers)


def share(session: Any, provider: str) -> float:
    """The share of a model's nodes that run on the provider that was asked for.

    Raises:
        ModelError: it is not in use, or runs no node.
    """
    used = session.get_providers()[0]
    if used != provider:
        raise unused(provider, f"{provider} was requested, onnxruntime fell back to {used}")
    if provider in CPU:
        return 1.0
    nodes: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    if nodes and not nodes[provider]:
        instead = nodes.most_common(1)[0][0]
        raise unused(
            provider,
            f"{provider} was requested and runs none of its {nodes.total()} nodes; {instead} does: use that"
            " provider, or export the model for the one requested",
        )
    return nodes[provider] / nodes.total() if nodes else 1.0


def _openvino(onnxruntime: Any) -> Any:
    """The CPU as the plugin of OpenVINO offers it.

    Raises:
        ModelError: the plugin is not installed, or offers none.
    """
    if version(REPLACED):
        raise missing(
            OPENVINO,
            f"{REPLACED} {version(REPLACED)} replaces the module of onnxruntime and is older than the version"
            " that edgebed needs: uninstall it, reinstall onnxruntime, and install edgebed[openvino]",
        )
    try:
        plugin = importlib.import_module("onnxruntime_ep_openvino")
        _register(onnxruntime, plugin.get_library_path())
    except ImportError:
        why = f"execution provider {OPENVINO} is not installed: install edgebed[openvino]"
        raise missing(OPENVINO, why) from None
    except Exception as error:  # the exceptions of onnxruntime have no common base class
        why = f"{PLUGIN} cannot be loaded: {printable(error)}; reinstall edgebed[openvino]"
        raise missing(OPENVINO, why) from error
    kind = onnxruntime.OrtHardwareDeviceType.CPU
    for found in onnxruntime.get_ep_devices():
        if found.ep_name == OPENVINO and found.device.type == kind:
            return found
    raise unused(
        OPENVINO,
        f"{PLUGIN} {version(PLUGIN)} finds no CPU that it supports; it may need one by Intel",
    )


def _register(onnxruntime: Any, library: str) -> None:
    global _registered  # noqa: PLW0603 - the library belongs to the process
    with _registering:
        if not _registered:
            onnxruntime.register_execution_provider_library(_LIBRARY, library)
            _registered = True
