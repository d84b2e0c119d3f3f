"""Every text is escaped, wherever it is put."""

from __future__ import annotations

import pytest

from collector.pilots.report.pages.markup import Markup, fill, join, places, tag, text

HOSTILE = "<img src=x onerror=alert(1)>\"'&{name}\u202e\x00"
SAFE = "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;{name}\\u202e\\x00"


def test_a_child_and_an_attribute_are_escaped() -> None:
    assert tag("p", HOSTILE, title=HOSTILE) == f'<p title="{SAFE}">{SAFE}</p>'


def test_markup_is_not_escaped_again() -> None:
    assert tag("p", tag("b", "a & b"), " < ", None, 3) == "<p><b>a &amp; b</b> &lt; 3</p>"


def test_names_of_attributes() -> None:
    assert tag("line", class_="a", stroke_width=1, data_of=None) == '<line class="a" stroke-width="1"/>'
    assert tag("circle", tag("title", "x"), r=2) == '<circle r="2"><title>x</title></circle>'


def test_parts_of_a_template_are_text_and_no_template() -> None:
    assert fill("{a} < {b}", a="{b}", b=HOSTILE) == f"{{b}} &lt; {SAFE}"
    assert places("{a} < {b_c}") == {"a", "b_c"}


def test_a_missing_part_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("{a}")


def test_a_space_that_does_not_break_is_kept() -> None:
    assert text("1\u00a0%") == "1\u00a0%"


def test_a_long_text_is_cut() -> None:
    assert len(text("x" * 100_000)) == 2_000


def test_joined_children_are_escaped() -> None:
    assert join("<", Markup("<br/>"), None) == "&lt;<br/>"
