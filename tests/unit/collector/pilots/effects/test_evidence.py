"""The cells of `make evidence`: a few of them, and the reference values of the naive methods."""

from __future__ import annotations

import numpy as np
import pytest

from bench.evidence import __main__ as page
from bench.evidence import naive
from bench.evidence.cells import CELLS, simulate

# NIST, Michelso: the speed of light, 299 km/ms left out
MICHELSO = """
850 740 900 1070 930 850 950 980 980 880 1000 980 930 650 760 810 1000 1000 960 960 960 940 960 940 880
800 850 880 900 840 830 790 810 880 880 830 800 790 760 800 880 880 880 860 720 720 620 860 970 950
880 910 850 870 840 840 850 840 840 840 890 810 810 820 800 770 760 740 750 760 910 920 890 860 880
720 840 850 850 780 890 840 780 810 760 810 790 810 820 850 870 870 810 740 810 940 950 800 810 870
"""


def test_correlation_of_neighbours_is_that_of_nist() -> None:
    values = 299 + np.array(MICHELSO.split(), float)[:, None] / 1000
    assert naive.lag_one(values)[0] == pytest.approx(0.535199668621283, abs=1e-11)


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
