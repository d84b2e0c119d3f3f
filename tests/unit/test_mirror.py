"""Every module of wire, agent and collector has a unit test of its own, or a suite named here covers it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = "tests/unit"
# A module without tests/unit/<room>/test_<module>.py: the suite that covers it.
COVERED_BY = {
    "collector.version": "tests/unit/collector/test_app.py",
    "collector.pilots.report.process_child": "tests/unit/collector/pilots/report/test_process.py",
    "collector.pilots.report.process_wire": "tests/unit/collector/pilots/report/test_process.py",
    "collector.pilots.report.pages.pdf_process": "tests/unit/collector/pilots/report/pages/test_pdf.py",
    "collector.pilots.report.pages.answer": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.conduct": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.interval_chart": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.kpi_details": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.kpi_table": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.period_chart": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.proof": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.tables": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.texts.en": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.texts.ko": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.report.pages.view": "tests/unit/collector/pilots/report/pages/test_page.py",
    "collector.pilots.planning.analyses": "tests/unit/collector/pilots/planning/test_power.py",
    "collector.pilots.planning.baseline": "tests/unit/collector/pilots/planning/test_outlook.py",
    "agent.fences.settings": "tests/unit/agent/fences/test_fences.py",
    "agent.inference.scene_options": "tests/unit/agent/pipeline/frames/test_scene.py",
    "agent.inference.decoders.base": "tests/unit/agent/inference/decoders/test_classification.py",
    "agent.inference.decoders.embedding": "tests/unit/agent/inference/decoders/test_testing.py",
    "agent.inference.decoders.text": "tests/unit/agent/inference/decoders/test_testing.py",
    "agent.inference.decoders.heads.base": "tests/unit/agent/inference/decoders/test_detection.py",
    "agent.inference.decoders.heads.fastestdet": "tests/unit/agent/inference/decoders/test_detection.py",
    "agent.inference.decoders.heads.ulface": "tests/unit/agent/inference/decoders/test_detection.py",
    "agent.inference.decoders.heads.lists": "tests/unit/agent/inference/decoders/test_detection.py",
    "agent.inference.decoders.heads.table": "tests/unit/agent/inference/decoders/test_detection.py",
    "agent.inference.decoders.heads.yolox": "tests/unit/agent/inference/decoders/test_detection.py",
    "agent.inference.gate_process": "tests/unit/agent/inference/test_hostile_packages.py",
    "agent.command_memory": "tests/unit/agent/test_commands.py",
    "agent.inference.model_card": "tests/unit/edgebed/model_tools/test_card.py",
    "agent.inference.inputs": "tests/unit/agent/inference/test_manifest.py",
    "agent.inference.remembered": "tests/unit/agent/inference/test_hostile_packages.py",
    "wire.node_token": "tests/unit/collector/web/test_node_access.py",
    "agent.site_access": "tests/unit/collector/web/test_node_access.py",
    "agent.identity": "tests/unit/agent/uplink/test_mac_check.py",
    "agent.inference.isolation.worker_process": "tests/unit/agent/inference/isolation/test_worker.py",
    "agent.node_description": "tests/unit/agent/test_app.py",
    "agent.outbox.buffer": "tests/unit/agent/outbox/test_outbox.py",
    "agent.outbox.message": "tests/unit/agent/outbox/test_outbox.py",
    "agent.outbox.eviction": "tests/unit/agent/outbox/test_outbox.py",
    "agent.outbox.committing": "tests/integration/test_uplink.py",
    "agent.outbox.reader": "tests/unit/agent/outbox/test_outbox.py",
    "agent.outbox.record": "tests/unit/agent/outbox/test_segment.py",
    "agent.outbox.segment_pool": "tests/unit/agent/outbox/test_outbox.py",
    "agent.pipeline.sample_commands": "tests/unit/agent/pipeline/test_samples.py",
    "agent.pipeline.model_events": "tests/unit/agent/pipeline/test_pipeline.py",
    "agent.pipeline.opening": "tests/unit/agent/pipeline/test_pipeline.py",
    "agent.pipeline.pictures": "tests/unit/agent/pipeline/test_pipeline.py",
    "agent.pipeline.sinks": "tests/unit/agent/pipeline/test_pipeline.py",
    "agent.outbox.settings": "tests/unit/agent/outbox/test_outbox.py",
    "agent.outbox.state": "tests/unit/agent/outbox/test_outbox.py",
    "agent.pipeline.running": "tests/unit/agent/test_configuration.py",
    "agent.remote.settings": "tests/unit/agent/test_configuration.py",
    "agent.remote.trial": "tests/unit/agent/test_configuration.py",
    "agent.pipeline.model_run": "tests/unit/agent/pipeline/test_model_runner.py",
    "agent.pipeline.model_threads": "tests/unit/agent/pipeline/test_model_runner.py",
    "agent.pilots.plan_file": "tests/unit/agent/pilots/test_pilots.py",
    "agent.pilots.signature_check": "tests/unit/agent/pilots/test_pilots.py",
    "agent.pilots.signatures": "tests/unit/agent/pilots/test_pilots.py",
    "wire.pilot.plan": "tests/unit/wire/pilot/test_checks.py",
    "wire.model_offer": "tests/unit/collector/rollout/test_engine.py",
    "collector.pilots.export.findings": "tests/unit/collector/pilots/export/test_export.py",
    "collector.pilots.export.parquet": "tests/unit/collector/pilots/export/test_export.py",
    "collector.pilots.export.tables": "tests/unit/collector/pilots/export/test_export.py",
    "collector.rollout.candidates": "tests/unit/collector/rollout/test_rollouts.py",
    "collector.rollout.driver": "tests/unit/collector/rollout/test_rollouts.py",
    "collector.web.rollouts": "tests/unit/collector/rollout/test_rollouts.py",
    "agent.slots.settings": "tests/unit/agent/slots/test_model_store.py",
    "agent.uplink.command_runner": "tests/integration/test_uplink.py",
    "agent.uplink.latest": "tests/integration/test_uplink.py",
    "agent.uplink.connecting": "tests/integration/test_uplink.py",
    "agent.uplink.presence": "tests/integration/test_uplink.py",
    "agent.uplink.uplink": "tests/integration/test_uplink.py",
    "collector.pilots.report.counted": "tests/unit/collector/pilots/report/test_assemble.py",
    "collector.pilots.kpis.absences": "tests/unit/collector/pilots/kpis/test_evaluate.py",
    "collector.pilots.kpis.events": "tests/unit/collector/pilots/kpis/test_library.py",
    "collector.pilots.kpis.inputs": "tests/unit/collector/pilots/kpis/test_evaluate.py",
    "collector.pilots.kpis.reasons": "tests/unit/collector/pilots/kpis/test_library.py",
    "collector.pilots.kpis.rows": "tests/unit/collector/pilots/kpis/test_evaluate.py",
    "collector.pilots.kpis.sums": "tests/unit/collector/pilots/kpis/test_evaluate.py",
    "collector.pilots.kpis.steps": "tests/unit/collector/pilots/kpis/test_evaluate.py",
    "collector.pilots.report.canonical_report": "tests/unit/collector/pilots/report/test_assemble.py",
    "collector.pilots.report.custody": "tests/unit/collector/pilots/report/test_assemble.py",
    "collector.pilots.report.limits": "tests/unit/collector/pilots/report/test_assemble.py",
    "collector.pilots.report.making": "tests/unit/collector/web/test_pilot_reports.py",
    "collector.pilots.report.sources": "tests/unit/collector/pilots/report/test_assemble.py",
    "collector.pilots.report.stored_events": "tests/unit/collector/pilots/report/test_assemble.py",
    "collector.pilots.effects.numbers": "tests/unit/collector/pilots/effects/test_before_after.py",
    "collector.pilots.effects.phases": "tests/unit/collector/pilots/effects/test_before_after.py",
    "collector.pilots.effects.subsets": "tests/unit/collector/pilots/effects/test_switchback.py",
    "collector.requests": "tests/unit/collector/test_reset.py",
    "collector.store.pruned": "tests/unit/collector/store/test_prune.py",
    "collector.backup.manifest": "tests/unit/collector/backup/test_verify.py",
    "collector.backup.pace": "tests/unit/collector/backup/test_backup.py",
    "collector.backup.work_folder": "tests/unit/collector/backup/test_backup.py",
    "collector.fleet.accounts": "tests/unit/collector/fleet/test_fleet.py",
    "collector.fleet.node_state": "tests/unit/collector/fleet/test_fleet.py",
    "collector.fleet.node_view": "tests/unit/collector/fleet/test_fleet.py",
    "collector.fleet.usage": "tests/unit/collector/web/test_usage.py",
    "collector.fleet.views": "tests/unit/collector/fleet/test_fleet.py",
    "collector.ingest.share_limits": "tests/unit/collector/ingest/test_shares.py",
    "collector.mqtt.received": "tests/unit/collector/ingest/test_writer.py",
    "collector.mqtt.rival": "tests/integration/test_one_id.py",
    "collector.state.migrations": "tests/unit/collector/state/test_state_file.py",
    "collector.web.pilot_entries": "tests/unit/collector/web/test_desired.py",
    "collector.web.rules": "tests/unit/collector/web/test_matrix.py",
    "collector.store.day_schema": "tests/unit/collector/store/test_day_file.py",
    "collector.store.folder": "tests/unit/collector/store/test_store.py",
    "collector.store.group": "tests/unit/collector/store/test_store.py",
    "collector.store.messages": "tests/unit/collector/test_refetch.py",
    "collector.store.removed": "tests/unit/collector/store/test_place.py",
    "collector.store.snapshot": "tests/unit/collector/backup/test_backup.py",
    "collector.store.soundness": "tests/unit/collector/backup/test_verify.py",
    "collector.store.source": "tests/contract/test_store_source.py",
    "wire.usage": "tests/unit/collector/web/test_usage.py",
    "wire.mqtt.errors": "tests/unit/wire/mqtt/test_async_client.py",
}


def _modules(package: str) -> Iterator[str]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


def suite_of(module: str) -> Path:
    """The suite that covers a module: its own test, or the one that is named here."""
    return ROOT / COVERED_BY[module] if module in COVERED_BY else _own_test(module)


def _own_test(module: str) -> Path:
    *room, name = module.split(".")
    return ROOT.joinpath(UNIT, *room, f"test_{name}.py")


MODULES = [module for package in ("wire", "agent", "collector") for module in _modules(package)]


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_a_test_or_names_its_suite(module: str) -> None:
    assert _own_test(module).is_file() != (module in COVERED_BY), (
        f"{module}: write {_own_test(module).relative_to(ROOT)} or name its suite in COVERED_BY, not both"
    )


@pytest.mark.parametrize("module", COVERED_BY)
def test_a_suite_that_is_named_runs_the_module(module: str) -> None:
    suite = ROOT / COVERED_BY[module]
    assert module in MODULES, f"{module} does not exist: take it out of COVERED_BY"
    assert suite.is_file(), f"{COVERED_BY[module]} does not exist"
    assert module in _reached(suite, module.rpartition(".")[0]), f"{COVERED_BY[module]} does not use {module}"


def _reached(suite: Path, room: str) -> set[str]:
    """The modules of a room that a suite imports or runs, by itself or through other modules of that room."""
    reached: set[str] = set()
    waiting = _imported(suite)
    waiting |= {name for folder in suite.parents for name in _imported(folder / "conftest.py")}
    waiting |= {name for command in _commands(suite) for name in _imported(command)}
    while waiting:
        name = waiting.pop()
        if name in reached or (name.rpartition(".")[0] != room and name != room):
            continue
        reached.add(name)
        path = ROOT.joinpath(*name.split("."))
        waiting |= _imported(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    return reached


def _imported(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _commands(suite: Path) -> Iterator[Path]:
    """The files of the `edgebed` commands whose names a suite passes on."""
    text = suite.read_text(encoding="utf-8")
    if "edgebed_command" in text or "edgebed.cli" in text:
        words = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
        yield from (path for path in (ROOT / "edgebed/commands").glob("*.py") if path.stem in words)
