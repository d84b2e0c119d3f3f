"""The audit of a site: what it keeps, how much, and what a kill or a flood does to it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgebed.site import site_audit
from edgebed.site.site_audit import FOLDER, newest, note, noted
from wire.clock import NS_PER_S, Clock
from wire.errors import EdgebedError


def subjects(folder: Path) -> list[str]:
    return [one.subject for one in newest(folder, 1_000)]


def at(seconds: int) -> Clock:
    return Clock(1.0, seconds * NS_PER_S)


def test_the_newest_comes_first_and_the_files_are_private(tmp_path: Path) -> None:
    note(tmp_path, "removal", "n1", clock=at(1))
    note(
        tmp_path,
        "request",
        "x",
        "refused: y",
        who="unknown",
        origin="192.0.2.7",
        is_refusal=True,
        clock=at(2),
    )
    note(tmp_path, "renewal", "n2", who="n2", origin="192.0.2.8", clock=at(3))
    assert subjects(tmp_path) == ["n2", "x", "n1"]
    assert [one.origin for one in newest(tmp_path, 2)] == ["192.0.2.8", "192.0.2.7"]
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / FOLDER).iterdir()} == {0o600}


def test_what_fails_is_noted_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(EdgebedError), noted(tmp_path, "token", "n1"):
        raise EdgebedError("the name is too long")
    with pytest.raises(KeyboardInterrupt), noted(tmp_path, "token", "n2"):
        raise KeyboardInterrupt
    assert {one.result for one in newest(tmp_path, 9)} == {"failed: the name is too long", "interrupted"}


def test_a_half_line_of_a_kill_costs_no_other_line(tmp_path: Path) -> None:
    note(tmp_path, "removal", "n1")
    with (tmp_path / FOLDER / "done.jsonl").open("ab") as file:
        file.write(b'{"at_ms": 17, "who"')
    note(tmp_path, "removal", "n2")
    assert sorted(subjects(tmp_path)) == ["n1", "n2"]


def test_it_is_bounded_and_refusals_push_out_no_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_audit, "_MAX_BYTES", 2_000)
    note(tmp_path, "removal", "n1", clock=at(0))
    for number in range(1, 101):
        note(tmp_path, "request", f"r{number}", "refused", is_refusal=True, clock=at(number))
    assert subjects(tmp_path)[-1] == "n1"
    assert subjects(tmp_path)[0] == "r100"
    assert len(subjects(tmp_path)) < 60
    assert sum(one.stat().st_size for one in (tmp_path / FOLDER).iterdir()) < 6_000


def test_a_text_of_a_client_is_cut_and_stays_one_line(tmp_path: Path) -> None:
    note(tmp_path, "request", "a\nb" + "x" * 10_000 + "\udce4", "refused", is_refusal=True)
    (one,) = newest(tmp_path, 9)
    assert one.subject.startswith("a\nbx")
    assert len(one.subject) == 500


def test_an_audit_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FOLDER).write_text("a file")
    with noted(tmp_path, "removal", "n1"):
        pass
    assert "this is not in the audit of the site: removal" in caplog.text
