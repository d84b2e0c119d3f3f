"""The stages of a rollout, as an operator writes them."""

from __future__ import annotations

import pytest

from collector.rollout.stages import read_stages


@pytest.mark.parametrize(
    ("text", "nodes", "found"),
    [
        ("1,25%,100%", 8, [1, 2, 8]),
        ("1,25%,100%", 1, [1]),
        ("1,25%,100%", 3, [1, 3]),
        ("10", 4, [4]),
        ("1", 4, [1, 4]),
        (" 1 , 50% ", 4, [1, 2, 4]),
        ("0.1%,100%", 5, [1, 5]),
    ],
)
def test_stages_are_read(text: str, nodes: int, found: list[int]) -> None:
    assert read_stages(text, nodes) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "stage 1 is empty"),
        (" ", "stage 1 is empty"),
        ("1,,2", "stage 2 is empty"),
        ("1,100%,", "stage 3 is empty"),
        ("0", "stage 1, '0', is not from 1 to 1,000,000"),
        ("1,0%", "stage 2, '0%', is not above 0%"),
        ("1,101%", "stage 2, '101%', is not above 0% and up to 100%"),
        ("1,2000000", "stage 2, '2000000', is not from 1"),
        ("0.25", "stage 1, '0.25', is not a whole number of nodes: write a share as 25%"),
        ("1,1.5", "stage 2, '1.5', is not a whole number"),
        ("3,1", "stage 2, '1', is smaller than one before it"),
        ("1,50%,25%", "stage 3, '25%', is smaller than one before it"),
        ("5,50%,3", "stage 3, '3', is smaller than one before it"),
        (",".join("1" * 101), "there are 101 stages, and 100 are allowed"),
        *(
            (f"1,{word}", f"stage 2, '{word}', is not a number of nodes")
            for word in ("-1", "+1", "a", "nan", "inf", "1e9", "1_0", "%", "25%%", "%25", "25 percent", "1;2",
                         "１", "٣", "25％", "0x1", ".5", "5.", "1.2.3%", "all")
        ),
        ("1,2\x1b[2J", r"stage 2, '2\\x1b[2J', is not"),
        ("9" * 5_000, "stage 1, '9999999999999999999999999999999999999...', is not"),
    ],
)  # fmt: skip
def test_other_stages_are_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        read_stages(text, 8)
    assert str(caught.value).startswith(why), caught.value
    assert "\n" not in str(caught.value)
