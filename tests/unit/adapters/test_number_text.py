"""Numbers as meters and scales write them: a value, no value, or a reason, and never another value."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.lines.formats import as_declared, pair_reader, why_not
from adapters.mqtt.payload import from_text
from adapters.number_text import DecimalMark, NotANumber, NoValue, plain_number
from wire.messages import Quality


@pytest.mark.parametrize(
    ("text", "decimal", "unit", "value"),
    [
        ("23,5", "auto", "", 23.5),
        ("-    0.02", "auto", "", -0.02),
        ("+ 12.5", "auto", "", 12.5),
        ("+0012.50", "auto", "", 12.5),
        ("\u22125", "auto", "", -5.0),  # a minus sign of typesetting
        (".5", "auto", "", 0.5),
        ("5.", "auto", "", 5.0),
        ("1e-3", "auto", "", 0.001),
        ("1.234", "auto", "", 1.234),
        ("0,234", "auto", "", 0.234),
        ("1234,567", "auto", "", 1234.567),
        ("1,234.5", "auto", "", 1234.5),
        ("1.234,5", "auto", "", 1234.5),
        ("1,234,567", "auto", "", 1_234_567.0),
        ("1.234.567", "auto", "", 1_234_567.0),
        ("1 234,5", "auto", "", 1234.5),
        ("1\u202f234,5", "auto", "", 1234.5),
        ("1'234.5", "auto", "", 1234.5),
        ("1,234", ",", "", 1.234),
        ("1.234", ",", "", 1234.0),
        ("1,234", ".", "", 1234.0),
        ("0.02kg", "auto", "kg", 0.02),
        ("0.02 KG", "auto", "kg", 0.02),
        ("23,5 °C", "auto", "Cel", 23.5),
        ("48%", "auto", "%", 48.0),
        ("0L", "auto", "L", 0.0),
    ],
)
def test_values(text: str, decimal: DecimalMark, unit: str, value: float) -> None:
    assert as_declared(text, "f64", decimal, unit) == (value, Quality.GOOD)


@pytest.mark.parametrize("text", ["+-nan", "--inf", "-+Infinity", "nan nan"])
def test_several_signs_before_a_word_that_is_not_finite_are_of_the_wrong_type(text: str) -> None:
    assert as_declared(text, "f64") == (None, Quality.WRONG_TYPE)
    assert from_text(text, "f64") == (None, Quality.WRONG_TYPE)


NO_VALUE = "OL O.L 0L 0.L -OL OVLD OFL over UL ---- --.-- - **** ??? N/A _____ HHHH open"


@pytest.mark.parametrize("text", [*NO_VALUE.split(), "+ OL"])
def test_words_for_no_value_are_null_and_bad(text: str) -> None:
    assert as_declared(text, "f64", "auto", "V") == (None, Quality.BAD)
    assert as_declared(text, "i64") == (None, Quality.BAD)


@pytest.mark.parametrize(
    ("text", "decimal", "unit", "why"),
    [
        ("1,234", "auto", "", "decimal comma or one of thousands: set `decimal`"),
        ("12,345 kg", "auto", "kg", "decimal comma or one of thousands: set `decimal`"),
        ("23.5", ",", "", "do not fit a number with `decimal: ,`"),
        ("1.2.3", "auto", "", "points and commas"),
        ("1,2,3", "auto", "", "points and commas"),
        ("12 34", "auto", "", "points and commas"),
        ("12 mV", "auto", "V", "it has the unit mV, but the unit is V"),
        ("12MV", "auto", "mV", "it has the unit MV, but the unit is mV"),
        ("0.02kg", "auto", "", "it has the unit kg, but the field has no `unit`"),
        ("12:30", "auto", "", "not a number"),
        ("1_000", "auto", "", "not a number"),
        ("0x1F", "auto", "", "not a number"),
        ("\u0663", "auto", "", "not a number"),
        ("ERR", "auto", "", "not a number"),
        ("9" * 65, "auto", "", "too long"),
    ],
)
def test_what_is_not_a_clear_number_is_null_with_its_reason(
    text: str, decimal: DecimalMark, unit: str, why: str
) -> None:
    assert as_declared(text, "f64", decimal, unit) == (None, Quality.WRONG_TYPE)
    assert why in why_not(text, "f64", decimal, unit)


def test_whole_numbers() -> None:
    assert as_declared("12 345", "i64") == (12_345, Quality.GOOD)
    assert as_declared("- 7", "i64") == (-7, Quality.GOOD)
    assert as_declared("7,5", "i64") == (None, Quality.WRONG_TYPE)
    assert why_not("7,5", "i64") == "it is not a whole number"
    assert as_declared("9007199254740993", "i64") == (9_007_199_254_740_993, Quality.GOOD)


@given(st.text(max_size=80), st.sampled_from(["auto", ".", ","]), st.sampled_from(["", "kg", "V"]))
def test_any_text_is_a_number_or_one_of_two_errors(text: str, decimal: DecimalMark, unit: str) -> None:
    with contextlib.suppress(NoValue, NotANumber):
        float(plain_number(text, decimal, unit))


@given(st.floats(-1e9, 1e9), st.sampled_from([".", ","]), st.sampled_from(["", " ", "'"]), st.booleans())
def test_a_printed_number_is_read_as_it_was(value: float, mark: str, group: str, apart: bool) -> None:
    text = f"{value:,.4f}".replace(".", "@").replace(",", group).replace("@", mark)
    text = text.replace("-", "-  ") if apart else text
    assert float(plain_number(text, mark)) == pytest.approx(value, abs=5e-5)  # type: ignore[arg-type]
    assert float(plain_number(text)) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("T=23,5 H=48,2", {"T": "23,5", "H": "48,2"}),
        ("T=23,5;H=48", {"T": "23,5", "H": "48"}),
        ("T=23,5,H=48", {"T": "23,5", "H": "48"}),
        ("T=23,H=48", {"T": "23", "H": "48"}),
        ("H=48,1T=2 T=3", {"H": "48", "T": "3"}),
        ("T=-   0.5 H: + 1", {"T": "-   0.5", "H": "+ 1"}),
        ("T=- H=3", {"T": "-", "H": "3"}),
    ],
)
def test_pairs_keep_signs_and_decimal_commas(line: str, found: dict[str, str]) -> None:
    assert pair_reader({"T": "T", "H": "H"}, "")(line) == found


@pytest.mark.parametrize("line", ["T=1," + "1" * 60_000 + "=", "a" * 60_000, "1," * 30_000 + "="])
def test_a_long_line_of_pairs_is_read_in_one_pass(line: str) -> None:
    pair_reader({"T": "T"}, "")(line)  # for hours, if each place in the line began a new search
