"""The child that verifies a signature: its answer is remembered, and is for the bytes that are used."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from agent.inference import gate, gate_process
from agent.inference.decoders import ModelError
from agent.inference.package import Package, load_package
from agent.inference.signing import signature, signature_check
from agent.inference.signing.trust import Trust

PRIVATE, PUBLIC = (each.decode() for each in signature.new_key())
MAKER = Trust(trusted={PUBLIC: "maker"}, required=True)


@pytest.fixture
def folder(packages) -> Path:
    """A package with a file of each kind: manifest, model, labels, golden vector."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0)]
    nodes.append(helper.make_node("Softmax", ["mean"], ["y"]))
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": (1, 2)})
    made: Path = packages.write(body, output={"decoder": "classification", "labels_file": "labels.txt"})
    (made / "labels.txt").write_text("calm\nalarm\n")
    (made / "golden").mkdir()
    one = np.zeros((4, 2), np.float32)
    np.savez(made / "golden" / "zero.npz", input=one, output_0=np.float32([[0.5, 0.5]]))
    return made


@pytest.fixture
def signed(folder: Path) -> Path:
    signature.sign(folder, PRIVATE.encode())
    return folder


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules of the children that were started."""
    started: list[str] = []
    run = gate_process.run

    def counted(arguments, wall_s, stopping, module="gate"):
        started.append(module.rpartition(".")[2])
        return run(arguments, wall_s, stopping, *([module] if module != "gate" else []))

    monkeypatch.setattr(gate_process, "run", counted)
    return started


def refusal(package: Package, trust: Trust, memory: Path | None = None) -> tuple[str, str]:
    with pytest.raises(ModelError) as caught:
        signature_check.check(package, trust, memory=memory)
    assert str(caught.value).startswith(f"{package.path}: ")
    return caught.value.reason_code, str(caught.value).removeprefix(f"{package.path}: ")


def test_the_gate_names_the_key_and_remembers_it(signed: Path, tmp_path: Path, children: list[str]) -> None:
    memory = tmp_path / "gate"
    for remembered in (False, True):
        report = gate.verify(load_package(signed), memory=memory, trust=MAKER)
        assert (report.signed_by, report.golden, report.remembered) == ("maker", 1, remembered)
    assert children == ["signature_check", "gate"]
    assert gate.verify(load_package(signed), memory=memory).signed_by == "", "no key is trusted here"
    assert children == ["signature_check", "gate", "signature_check"]


def test_other_keys_and_other_files_are_looked_at_again(signed: Path, tmp_path: Path) -> None:
    memory, package = tmp_path / "gate", load_package(signed)
    assert signature_check.check(package, MAKER, memory=memory).by == "maker"
    revoked = Trust(trusted=MAKER.trusted, revoked={PUBLIC: "lost"})
    why = "model.sig is by the key lost, which is revoked"
    assert refusal(package, revoked, memory) == ("model-key-revoked", why)
    assert refusal(package, Trust(required=True), memory)[0] == "model-key-unknown"
    (signed / "golden" / "more.npz").write_bytes(b"")
    why = "model.sig is refused: golden/more.npz is in the folder and is not signed"
    for _ in range(2):
        assert refusal(package, MAKER, memory) == ("model-signature-bad", why)
    assert refusal(package, Trust(), memory) == ("model-signature-bad", why), "nor where none is required"
    (signed / "golden" / "more.npz").unlink()
    assert signature_check.check(package, MAKER, memory=memory).by == "maker"


def test_a_package_without_a_signature_runs_unless_one_is_required(folder: Path, children: list[str]) -> None:
    package = load_package(folder)
    assert signature_check.check(package, Trust(trusted=MAKER.trusted)) == signature_check.UNSIGNED
    why = "it is not signed: it has no model.sig, and `trust.require_signature` is set"
    assert refusal(package, MAKER) == ("model-not-signed", why)
    assert children == []
    (folder / "model.sig").symlink_to("nowhere")
    assert refusal(package, Trust())[1].startswith("model.sig is not a regular file: it is a link")


@pytest.mark.parametrize("name", ["labels.txt", "manifest.yaml"])
def test_what_was_read_before_must_be_what_was_signed(signed: Path, name: str) -> None:
    honest = (signed / name).read_text()
    (signed / name).write_text(honest.replace("calm", "fine").replace("version: '1.0'", "version: '1.1'"))
    package = load_package(signed)
    assert package.manifest.hash != load_package_of(signed, name, honest).manifest.hash
    why = f"model.sig is refused: {name} is not the file that was signed"
    assert refusal(package, MAKER) == ("model-signature-bad", why)


def load_package_of(folder: Path, name: str, text: str) -> Package:
    (folder / name).write_text(text)
    return load_package(folder)


def test_a_vector_that_is_swapped_while_the_gate_runs_is_refused(signed: Path) -> None:
    vectors = signature_check.check(load_package(signed), MAKER).files
    np.savez(signed / "golden" / "zero.npz", input=np.zeros((4, 2), np.float32), output_0=np.ones((1, 2)))
    with pytest.raises(ModelError, match=r"golden/zero\.npz changed while the gate ran"):
        gate.inspect(load_package(signed), ("CPUExecutionProvider",), vectors)


def test_the_child_that_runs_the_model_does_not_decide_who_signed_it() -> None:
    assert gate._harmless(gate.GateReport(signed_by="edgebed")).signed_by == ""


def test_a_child_that_is_stopped_is_asked_again(signed: Path, tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(ModelError, match="the gate was stopped"):
        signature_check.check(load_package(signed), MAKER, memory=tmp_path / "gate", stopping=stopping)
    assert signature_check.check(load_package(signed), MAKER, memory=tmp_path / "gate").by == "maker"


def test_the_process_of_the_agent_does_not_load_cryptography(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "maker.pem").write_text(PUBLIC)
    script = """
import sys
from pathlib import Path
from agent.inference.signing import trust
from agent.inference.model_cache import ModelCache
from agent.inference.package import load_package
from wire.topics import Address
folder, key = map(Path, sys.argv[1:])
keys = trust.read(trust.TrustSettings(keys=(key,), require_signature=True), Address.parse("t/p/s/n"))
print(ModelCache(trust=keys.trust).model(load_package(folder)).signed_by, "cryptography" in sys.modules)
"""
    command = [sys.executable, "-c", script, str(signed), str(tmp_path / "maker.pem")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("maker False\n", 0), done.stderr
