"""The demo pilots of `make evidence`: plant, plan and KPI code give one pilot, and its interval holds."""

from __future__ import annotations

import numpy as np
import pytest

from bench.evidence.pilots import DEMOS, cells, simulated_pilot


@pytest.mark.parametrize("name", DEMOS)
def test_every_period_counts_and_has_the_value_of_its_plant(name: str) -> None:
    found = simulated_pilot(name, 3)
    plant = DEMOS[name](3)
    assert [each.status for each in found.values] == ["used"] * 28
    assert {each.arm for each in found.values} == {"on", "off"}
    cut = 2 * plant.rate_hz
    for at, each in enumerate(found.values):
        span = at * plant.steps + cut, (at + 1) * plant.steps
        assert each.value == pytest.approx(plant.primary(plant.total(*span, on=each.arm == "on")))
    assert found.true_effect == pytest.approx(-plant.effect, abs=0.01)
    assert simulated_pilot(name, 3, 0.0).true_effect == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 6])
def test_the_interval_holds_the_truth_of_the_plant(at: int) -> None:
    found = list(cells())[at].run(np.random.default_rng(14), 100)
    assert found.given == 1
    assert found.coverage >= 0.87  # of 100 of 95 % each, fewer come once in a thousand times
    assert found.false_met <= 0.08
