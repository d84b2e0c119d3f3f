"""A pilot end to end: agents follow its frozen plan, its plant reacts, the stored rows are the plant's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from collector.pilots.report.canonical_report import read_report
from edgebed.scenario.document import find
from edgebed.scenario.run import run

GUARD_S = 900  # against hanging only: on a busy machine a scenario is slow


@pytest.mark.slow
@pytest.mark.timeout(GUARD_S)
async def test_twelve_periods_of_a_pilot_are_as_planned(tmp_path: Path) -> None:
    ready = find("pilots")
    document = yaml.safe_load(ready.read_text())
    names = {"ward-alarms": "bed-01", "crossing-safety": "signal-01"}
    document["pilots"] = {name: {**document["pilots"][name], "periods": 12} for name in names}
    document["agents"] = {agent: document["agents"][agent] for agent in names.values()}
    for key, each in [("config", one) for one in document["agents"].values()] + [
        ("plan", one) for one in document["pilots"].values()
    ]:
        each[key] = str((ready.parent / each[key]).resolve())
    document["assert"] = [{"pilot": name} for name in names] + [{"lost": 0, "duplicates": 0}]
    document["duration_s"] = 260
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(document))
    report = await run(path, tmp_path / "run", rate=20, seed=11, say=lambda _: None)
    assert [each for each in report.verdicts if each.state != "ok"] == []
    assert len(report.verdicts) == 2 * 6 + 2
    written = tmp_path / "run/reports"
    assert {each.name for each in written.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("json", "en.html", "ko.html")
    }
    stored = read_report((written / "ward-alarms.json").read_bytes())
    assert stored.state == "over"
    assert all(each.in_time for each in stored.versions)
    assert '<html lang="ko">' in (written / "ward-alarms.ko.html").read_text()
    found = report.evidence.pilots["ward-alarms"]
    arms = {each.arm for each in found.opened.plan.schedule.trial}
    assert arms == {"on", "off"}
    assert any(each.actual != each.without for each in found.plant), "the change acted"
    assert any(each.actual == each.without != each.with_change for each in found.plant)
