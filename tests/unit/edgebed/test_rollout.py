"""Words of `edgebed rollout` that are wrong: one sentence each, before anything is asked."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from edgebed.cli import command

WORDS = {"--slot": "s", "--nodes": "acme/*", "--url": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("option", "text", "why"),
    [
        ("--confirm", "results>=5,,nan<1", "--confirm: gate 2 is empty"),
        ("--confirm", "results>=.", "--confirm: gate 1, 'results>=.', is not a gate"),
        ("--nodes", "*", "'*' does not begin with one company"),
        ("--nodes", "acme", "'acme' does not begin with one company"),
        ("--nodes", "[ab]cme/*", "does not begin with one company"),
        ("--nodes", "?cme/*", "does not begin with one company"),
        ("--max-failed", "-1", "--max-failed"),
        *(
            ("--timeout", text, f"--timeout {text!r} is not a time such as 90s")
            for text in (
                "",
                "h",
                "2hh",
                "2h30m",
                "5mh",
                "nan",
                "inf",
                "-5m",
                "1_0h",
                "２h",
                "2 hours",
                "1e3",
                "2",
                "7200",
            )
        ),
        ("--timeout", "0s", "--timeout '0s' is not from 1s to 30d"),
        ("--timeout", "31d", "--timeout '31d' is not from 1s to 30d"),
    ],
)
def test_a_wrong_word_is_one_sentence(option: str, text: str, why: str) -> None:
    words = {**WORDS, option: text}
    done = CliRunner().invoke(
        command, ["rollout", "start", "m@2", *(w for one in words.items() for w in one)]
    )
    assert done.exit_code == 2, done.output
    assert why in done.output
    assert "Traceback" not in done.output
