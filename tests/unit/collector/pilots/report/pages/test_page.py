"""The page of a report: what is on it, that nothing on it runs, and that its charts match the schedule."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from collector.pilots.effects import switchback as switchback_of_effects
from collector.pilots.effects.verdict import GuardrailWord, Word
from collector.pilots.kpis.reasons import REASONS
from collector.pilots.report import codes
from collector.pilots.report.document import Finding, Refusal, Report
from collector.pilots.report.pages import page
from collector.pilots.report.pages.figures import Lang
from collector.pilots.report.pages.markup import places
from collector.pilots.report.pages.texts import TABLES, Texts
from tests.unit.collector.pilots.report.pages import reports
from wire.pilot.plan import Text
from wire.reasons import CODES

LANGS: tuple[Lang, Lang] = ("en", "ko")
SWITCH_CODES = {
    code for code in CODES if code.startswith(("pilot-model", "pilot-number", "pilot-write", "pilot-set"))
}
HOSTILE = "<img src=file:///etc/passwd><script>alert(1)</script>\"' onload=x {estimate}"


@pytest.fixture(scope="module")
def switchback() -> Report:
    return reports.switchback_report()


def tree(made: str) -> ET.Element:
    """The page as a tree: it is also well-formed XML but for the heads of HTML."""
    body = re.sub(r"<!doctype html>|<style>.*?</style>", "", made, flags=re.DOTALL)
    return ET.fromstring(body)  # noqa: S314  # made by the code under test


def texts_of(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def by_class(root: ET.Element, name: str) -> Iterator[ET.Element]:
    return (each for each in root.iter() if name in each.get("class", "").split())


def part(root: ET.Element, name: str) -> ET.Element:
    return next(each for each in root.iter("section") if each.get("id") == name)


# --- the texts


def test_both_languages_have_the_same_keys_and_places() -> None:
    en, ko = TABLES["en"], TABLES["ko"]
    assert en.keys() == ko.keys()
    for key, text in en.items():
        assert places(text) == places(ko[key]), key
        assert not re.search(r"[가-힣]", text), key
        assert "significan" not in text.lower(), key
    same = {key for key, text in en.items() if text == ko[key]}
    assert same == {"column.digest", "version.hash"} | {key for key in same if key.startswith("interval")}


@pytest.mark.parametrize("code", REASONS)
def test_every_reason_of_a_period_has_a_text(code: str) -> None:
    assert all(f"left-out.{code}" in table for table in TABLES.values())


def test_an_interval_is_not_called_a_period_in_korean() -> None:
    interval = "전체가|의 반폭|이 (목표|한계|참값)|의 포함률|은 (실증 100건|설비들이|{low})"
    wrong = [key for key, text in TABLES["ko"].items() if re.search(f"(?<!신뢰)구간 ?({interval})", text)]
    assert not wrong, "구간 is a period of the trial; an interval is 신뢰구간"


def test_every_code_of_a_report_has_a_text() -> None:
    keys = {f"finding.{code}" for code in codes.FINDINGS} | {f"limit.{code}" for code in codes.LIMITS}
    for code in codes.REASONS:
        keys |= {f"short.{code}", f"reason.{code}"}
        keys |= set() if code == "not-applicable" else {f"next.{code}"}
    keys |= {f"verdict.{word}" for word in get_args(Word)} | {
        f"guarded.{word}" for word in get_args(GuardrailWord)
    }
    source = "".join(path.read_text() for path in Path(switchback_of_effects.__file__).parent.glob("*.py"))
    methods = re.findall(r'method="([a-z-]+)"( if)?', source)
    keys |= {f"method.{name}" for name, _ in methods} | {"method.before-after"}
    keys |= {f"exposure.{code}" for code in SWITCH_CODES}
    assert keys <= TABLES["ko"].keys()


@pytest.mark.parametrize("lang", LANGS)
def test_an_unknown_code_stands_for_itself(lang: Lang, switchback: Report) -> None:
    odd = msgspec.structs.replace(
        switchback, findings=(Finding(code="of-a-later-release", args={"n": 3}),), limits=("new-limit",)
    )
    shown = texts_of(tree(page(odd, lang)))
    assert "of-a-later-release (n 3" in shown
    assert "new-limit" in shown


def test_a_finding_names_kpis_by_their_titles(switchback: Report) -> None:
    found = Finding(code="clock-unset", args={"periods": 1, "kpis": "downtime, of-another-plan"})
    shown = texts_of(tree(page(msgspec.structs.replace(switchback, findings=(found,)), "ko")))
    assert "(셀 정지 시간, of-another-plan)" in shown


# --- the answer


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", ["Target met", "Downtime of the cell changed by −", "95 % interval", "target ≤ −10 %"]),
        ("ko", ["목표 달성", "셀 정지 시간의 변화는 −", "95% 신뢰구간", "목표 ≤ −10%"]),
    ],
)
def test_the_answer_has_effect_interval_and_target(lang: Lang, words: list[str], switchback: Report) -> None:
    answer = texts_of(next(by_class(tree(page(switchback, lang)), "answer"))).replace("\u00a0", " ")
    assert [word for word in words if word not in answer] == []


@pytest.mark.parametrize(
    ("title", "en", "ko"),
    [
        ("energy per part", "Energy per part", "energy per part"),
        ("kWh per part", "kWh per part", "kWh per part"),
    ],
)
def test_the_answer_begins_as_its_language_does(title: str, en: str, ko: str, switchback: Report) -> None:
    named = Text(en=title, ko=title)
    kpis = tuple(msgspec.structs.replace(kpi, title=named) for kpi in switchback.kpis)
    report = msgspec.structs.replace(switchback, kpis=kpis)
    assert f"<p>{en}" in page(report, "en")
    assert f"<p>{ko}" in page(report, "ko"), "no letter of a unit or a name is changed"


@pytest.mark.parametrize(("lang", "words"), [("en", ("met", "not met")), ("ko", ("달성", "미달"))])
def test_a_running_trial_gives_no_verdict(lang: Lang, words: tuple[str, str]) -> None:
    running = reports.switchback_report("running")
    odd = msgspec.structs.replace(running, word="met", reason=None)  # whatever the document has
    root = tree(page(odd, lang))
    verdicts = {texts_of(each) for each in by_class(root, "word")}
    assert not verdicts & set(words)
    assert not any(word in texts_of(next(by_class(root, "answer"))) for word in ("Target met", "목표 달성"))
    assert list(by_class(root, "met")) == []


@pytest.mark.parametrize(("lang", "words"), [("en", "run more periods"), ("ko", "구간을 더 진행한다")])
def test_a_refusal_says_what_to_do_next(lang: Lang, words: str) -> None:
    answer = texts_of(next(by_class(tree(page(reports.before_after_report(15), lang)), "answer")))
    assert words in answer


def test_before_and_after_states_both_estimates_and_how_far_they_hold() -> None:
    shown = texts_of(tree(page(reports.before_after_report(), "en")))
    for words in (
        "allows for drift",
        "difference of the two means",
        "Half-width",
        "94 to 99 of 100",
        "With a linear trend",
    ):
        assert words in shown
    assert "of 0 fake dates" not in shown
    assert "Other changes on the same date" in shown


def test_the_broken_guardrail_is_named(switchback: Report) -> None:
    broken = msgspec.structs.replace(
        switchback,
        word="not-met",
        reason="guardrail-broken",
        kpis=(*switchback.kpis[:1], msgspec.structs.replace(switchback.kpis[1], guarded="broken")),
    )
    answer = texts_of(next(by_class(tree(page(broken, "en")), "answer")))
    assert "a guardrail is broken: Defects." in answer


@pytest.mark.parametrize(
    ("lang", "words"), [("en", "and more, without an upper limit"), ("ko", "이상(상한 없음)")]
)
def test_an_interval_without_an_upper_limit(lang: Lang, words: str, switchback: Report) -> None:
    first = switchback.kpis[0]
    assert first.effect is not None
    endless = msgspec.structs.replace(first, effect=msgspec.structs.replace(first.effect, high=None))
    made = page(msgspec.structs.replace(switchback, kpis=(endless,)), lang)
    assert words in texts_of(next(by_class(tree(made), "answer")))
    assert "None" not in made
    assert "inf" not in texts_of(part(tree(made), "kpis"))


def test_few_events_are_shown_as_counts(switchback: Report) -> None:
    extras = {"events_on": 3, "events_off": 9, "exposure_on": 112.5, "exposure_off": 112.5}
    refusal = Refusal(code="too-few-events", sentence="", extras=extras)
    few = msgspec.structs.replace(switchback.kpis[3], effect=None, refusal=refusal)
    shown = texts_of(tree(page(msgspec.structs.replace(switchback, kpis=(few,)), "en")))
    assert "Events: 3 with the change in an exposure of 112, 9 without it in 112." in shown
    assert "Too few events happened." in shown


def test_labels_of_an_energy_kpi() -> None:
    report = reports.before_after_report()
    extras = {"cv_rmse": 0.1234, "nmbe": -0.01, "ashrae_n": 17.5, "ashrae": "hourly-within"}
    effect = report.kpis[0].effect
    assert effect is not None
    kpi = msgspec.structs.replace(report.kpis[0], effect=msgspec.structs.replace(effect, extras=extras))
    shown = texts_of(tree(page(msgspec.structs.replace(report, kpis=(kpi,)), "ko")))
    assert "CV(RMSE) 12.3%, NMBE −1.0%, 독립 구간 17.5개에 해당, 시간 단위 한계(30%, 10%) 이내" in shown


def test_the_command_computes_the_report_again_and_is_safe_to_paste(switchback: Report) -> None:
    first = switchback.versions[0]
    amended = msgspec.structs.replace(
        switchback, pilot="a; rm -r x", versions=(first, msgspec.structs.replace(first, version=2))
    )
    shown = next(tree(page(amended, "en")).iter("pre")).text
    assert shown == (
        "edgebed pilot report pilot-v2.plan.json --after pilot.plan.json "
        "--store STORE --recompute report.json"
    )


# --- the table and the charts


@pytest.mark.parametrize("lang", LANGS)
def test_the_table_has_every_kpi_in_its_class(lang: Lang, switchback: Report) -> None:
    table = part(tree(page(switchback, lang)), "kpis")
    assert [row.get("data-kpi") for row in table.iter("tr") if row.get("data-kpi")] == [
        "downtime",
        "defect-rate",
        "energy-per-part",
        "stops",
    ]
    classes = [texts_of(each) for each in by_class(table, "class")]
    assert classes == ["P", "Q", "C", "A"]
    words = ("생산성", "품질", "원가") if lang == "ko" else ("Productivity", "Quality", "Cost")
    assert all(word in texts_of(table) for word in words)


@pytest.mark.parametrize("state", ["over", "running"])
def test_every_period_that_is_over_has_a_mark(state: Any) -> None:
    report = reports.switchback_report(state)
    charts = list(tree(page(report, "en")).iter("article"))
    assert [each.get("data-kpi") for each in charts] == [kpi.id for kpi in report.kpis]
    for kpi, chart in zip(report.kpis, charts, strict=True):
        figure = next(by_class(chart, "plot"))
        marks = [mark for group in by_class(figure, "marks") for mark in group.iter("circle")]
        assert len(marks) == sum(each.status != "to-come" for each in kpi.periods)
        hollow = [mark for group in by_class(figure, "left-out") for mark in group.iter("circle")]
        assert len(hollow) == 2 if state == "over" else len(hollow) >= 1
        assert all("left out, " in texts_of(mark) for mark in hollow)


def test_the_shades_are_those_of_the_schedule(switchback: Report) -> None:
    chart = next(tree(page(switchback, "en")).iter("article"))
    shades = [
        (each.get("class", "").split()[1], float(each.get("x", "")[:-1]), float(each.get("width", "")[:-1]))
        for each in by_class(next(by_class(chart, "plot")), "shade")
    ]
    assert switchback.baseline_ms is not None
    first, last = switchback.baseline_ms[0], switchback.trial_ms[1]
    assert shades[0][0] == "baseline"
    for each in switchback.ran:
        at = 100 * ((each.start_ms + each.end_ms) / 2 - first) / (last - first)
        assert [arm for arm, x, width in shades if x <= at < x + width] == [each.planned]


def test_windows_with_a_gap_stand_side_by_side() -> None:
    report = reports.before_after_report()
    assert report.baseline_ms is not None
    month = 30 * 24 * reports.HOUR
    earlier = msgspec.structs.replace(
        report, baseline_ms=(report.baseline_ms[0] - month, report.baseline_ms[1] - month)
    )
    chart = next(tree(page(earlier, "en")).iter("article"))
    shades = [
        (float(each.get("x", "")[:-1]), float(each.get("width", "")[:-1]))
        for each in by_class(next(by_class(chart, "plot")), "shade")
    ]
    assert shades == [(0.0, 48.5), (51.5, 48.5)]


def test_a_plan_that_came_late_is_named_by_node(switchback: Report) -> None:
    first, start = switchback.versions[0], switchback.trial_ms[0]
    late = msgspec.structs.replace(
        first,
        version=2,
        previous=first.hash,
        reason="the shift",
        nodes={"a": start},
        in_time=False,
        trial_rows=1200,
    )
    report = msgspec.structs.replace(switchback, nodes=(*switchback.nodes, "a", "b"), versions=(first, late))
    shown = texts_of(part(tree(page(report, "en")), "plan"))
    assert f"{reports.NODE} recorded it at 2027-02-28 00:00, before the trial." in shown
    assert "a recorded it at 2027-03-01 06:00, when the trial had begun. b has not recorded it." in shown
    assert "Rows of the trial that were stored before it: 1,200." in shown
    assert "Reason: the shift" in shown


def test_what_was_applied_stands_beside_what_was_planned(switchback: Report) -> None:
    root = tree(page(switchback, "en"))
    rows = list(part(root, "switches").iter("tr"))[1:]
    assert len(rows) == len(switchback.switches)
    assert "after a restart of the agent" in texts_of(rows[5])
    assert "the slot had no running model" in texts_of(rows[8])
    ran = part(root, "ran")
    planned, applied = (list(next(by_class(ran, name)).iter("rect")) for name in ("planned", "applied"))
    assert [each.get("class") for each in planned] == [each.planned for each in switchback.ran]
    assert len(applied) >= len(planned)


# --- nothing runs, nothing is fetched


class _Refs(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("lang", LANGS)
def test_no_text_of_a_plan_becomes_markup(lang: Lang, switchback: Report) -> None:
    raw = msgspec.to_builtins(switchback)
    changed = _with_every_text(raw, HOSTILE)
    made = page(msgspec.convert(changed, Report), lang)
    assert "<img" not in made
    assert "<script" not in made
    read, plain = _Refs(), _Refs()
    read.feed(made)
    plain.feed(page(switchback, lang))
    assert read.tags <= plain.tags | {"b", "small", "ul", "li"}
    assert read.attributes <= plain.attributes
    tree(made)  # and it stays well-formed


CHOICES = {
    "state",
    "word",
    "guarded",
    "design",
    "kind",
    "kpi_class",
    "direction",
    "estimand",
    "name",
    "phase",
    "arm",
}
CHOICES |= {"planned", "actual", "target_scale", "guardrail_scale", "off_state", "formula", "tz", "format"}
CHOICES |= {"sha256", "model", "slot"}  # the plan's own patterns


def _with_every_text(value: Any, text: str, key: str = "") -> Any:
    """The document with each free text replaced."""
    if isinstance(value, str):
        return value if key in CHOICES else text
    if isinstance(value, list | tuple):
        return [_with_every_text(each, text, key) for each in value]
    if isinstance(value, dict):
        is_free = key in {"args", "extras"}
        return {name: _with_every_text(each, text, "" if is_free else name) for name, each in value.items()}
    return value


def test_the_page_refers_to_nothing_outside(switchback: Report) -> None:
    made = page(switchback, "ko")
    read = _Refs()
    read.feed(made)
    assert not read.tags & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "image",
        "use",
        "a",
        "base",
        "form",
    }
    assert not {
        name
        for name in read.attributes
        if name in {"href", "src", "style", "srcset", "xlink:href"} or name.startswith("on")
    }
    assert "url(" not in made
    assert "@import" not in made
    assert "http://" not in made
    assert "https://" not in made


def test_the_policy_allows_the_one_style_sheet_alone(switchback: Report) -> None:
    made = page(switchback, "en")
    assert re.search(
        r"content=\"default-src &#x27;none&#x27;; style-src &#x27;sha256-[A-Za-z0-9+/=]{44}&#x27;;", made
    )
    assert made.count("<style>") == 1


def test_many_periods_stay_small() -> None:
    """500 periods x 16 KPIs."""
    one = reports.switchback_report(periods=458, kpis=1)
    kpis = tuple(msgspec.structs.replace(one.kpis[0], id=f"downtime-{n}") for n in range(16))
    made = page(msgspec.structs.replace(one, kpis=kpis), "ko")
    assert len(made.encode()) < 3_000_000
    root = tree(made)
    assert len(list(root.iter("article"))) == 16


def test_a_report_without_anything_is_a_page() -> None:
    report = reports.switchback_report("planned")
    bare = msgspec.structs.replace(
        report,
        baseline_ms=None,
        kpis=(),
        ran=(),
        switches=(),
        models=(),
        custody=(),
        findings=(),
        versions=(),
        nodes=(),
    )
    for lang in LANGS:
        assert tree(page(bare, lang)) is not None


def test_texts_of_a_language() -> None:
    assert Texts("ko")("yes") == "예"
