"""The cells of `make evidence`: a few of them, and the reference values of the naive methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.evidence import __main__ as page
from bench.evidence import naive
from bench.evidence.cell import Found
from bench.evidence.cells import CELLS, simulate
from collector.pilots.effects import numbers, phases

# NIST, Michelso: the speed of light, 299 km/ms left out
MICHELSO = """
850 740 900 1070 930 850 950 980 980 880 1000 980 930 650 760 810 1000 1000 960 960 960 940 960 940 880
800 850 880 900 840 830 790 810 880 880 830 800 790 760 800 880 880 880 860 720 720 620 860 970 950
880 910 850 870 840 840 850 840 840 840 890 810 810 820 800 770 760 740 750 760 910 920 890 860 880
720 840 850 850 780 890 840 780 810 760 810 790 810 820 850 870 870 810 740 810 940 950 800 810 870
"""


def test_mean_sd_and_correlation_of_neighbours_are_those_of_nist() -> None:
    values = 299 + np.array(MICHELSO.split(), float) / 1000
    assert numbers.mean(values) == pytest.approx(299.8524, abs=1e-13)
    assert numbers.sd(values) == pytest.approx(0.0790105478190518, abs=1e-13)
    assert phases.lag_one(values[:, None])[0] == pytest.approx(0.535199668621283, abs=1e-11)


def test_errors_by_newey_and_west_are_those_of_statsmodels() -> None:
    """Investment by the growth of GDP and the rate of interest, lag 4; the data are in the public domain."""
    rows = np.loadtxt(Path(__file__).with_name("macrodata.csv"), delimiter=",", skiprows=1)
    growth, investment = (400 * np.diff(np.log(rows[:, at])) for at in (0, 1))
    matrix = np.column_stack([np.ones(len(growth)), growth, rows[:-1, 2]])
    found = [
        naive.newey_west_error(investment[:, None], np.roll(matrix, 2 - at, axis=1), 4)[0] for at in range(3)
    ]
    assert [round(each, 6) for each in found] == [1.177094, 0.328787, 0.293619]
    corrected = np.array(found) * np.sqrt(202 / 199)
    assert [round(each, 6) for each in corrected] == [1.185934, 0.331256, 0.295823]


@pytest.mark.parametrize(("periods", "terms"), [(28, 3), (56, 5), (90, 8)])
def test_number_of_cosines(periods: int, terms: int) -> None:
    assert naive.cosines(periods) == terms


def test_a_cell_is_the_same_each_time_and_another_on_the_second_seed() -> None:
    at = next(at for at, cell in enumerate(CELLS) if cell.name == "14 periods, rho 0.3")
    first = simulate((at, 0, True))
    assert first == simulate((at, 0, True))
    assert first != simulate((at, 1, True))


def test_cells_have_names_of_their_own() -> None:
    assert len({(cell.section, cell.name) for cell in CELLS}) == len(CELLS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("Before/after, AR(1)", "28+28, rho 0.6"),
        ("Before/after, other noise", "28+28, AR + equal white noise, rho 0.6"),
        ("Before/after, naive methods", "28+28, OLS t, rho 0.9"),
        ("Switchback, exact interval", "14 periods, rho 0.3"),
    ],
)
def test_cells_have_the_coverage_that_is_expected(section: str, name: str) -> None:
    at = next(at for at, cell in enumerate(CELLS) if (cell.section, cell.name) == (section, name))
    first, fresh = simulate((at, 0, False)), simulate((at, 1, False))
    assert page.faults(CELLS[at], first, fresh) == []
    assert name in page.row(CELLS[at], first, fresh)


def test_what_is_off_is_named() -> None:
    at = next(at for at, cell in enumerate(CELLS) if cell.name == "28+28, rho 0.6")
    good = simulate((at, 0, True))
    bad = good._replace(coverage=0.90, half=2.0, false_met=0.05, runs=2000)
    assert [each.split()[0] for each in page.faults(CELLS[at], bad, good)] == [
        "coverage",
        "half-width",
        "coverage",
        "false",
    ]
    assert "28+28, rho 0.6: coverage" in page.summary([(CELLS[at], bad, good)])


def test_a_bias_and_a_target_met_without_an_effect_are_named() -> None:
    at = next(at for at, cell in enumerate(CELLS) if cell.name.startswith("14 periods, carry-over 0.1"))
    good = simulate((at, 0, True))._replace(coverage=0.93, bias=-0.15)
    assert page.faults(CELLS[at], good, good) == []
    assert page.faults(CELLS[at], good._replace(bias=0.0), good) == ["bias 0.000 instead of -0.150"]
    demo = next(cell for cell in CELLS if cell.name == "ward alarms, no effect")
    sound = Found(0.96, runs=200, false_met=0.02, met=0.05)
    assert page.faults(demo, sound, sound) == []
    assert page.faults(demo, sound, sound._replace(met=0.055)) == ["5.5% met"]
    assert "target met in 5.0%, fresh 5.0%" in page.row(demo, sound, sound)


def test_the_page_has_every_cell_and_none_is_off() -> None:
    written = page.RESULTS.read_text()
    assert "\n256 cells, seeds 20261130 and 7919; 0 off:\n" in written
    assert len(CELLS) == 256
    for cell in CELLS:
        assert f"| {cell.name} |" in written
        assert cell.limit in written
