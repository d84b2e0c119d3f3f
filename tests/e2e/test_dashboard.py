"""The dashboard in a real browser, fed by a real collector on a real broker."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import now_ms
from tests.polling import wait_until
from wire.codec import encode
from wire.messages import Batch, DeviceState, Event, ModelState, Reported, Status

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARM = "device/acme/cell/hall-1/arm-01/arm"
CAMERA = "device/acme/junction/street-1/cam-01/camera"
MONITOR = "device/hanbit/field/unit-3/unit-09/monitor"
GNSS = "device/hanbit/field/unit-3/unit-09/gnss"
DOOR = "device/hanbit/field/unit-3/unit-09/door"
EVERY_NODE = 5


def fleet(watched: Any, nodes: int = EVERY_NODE, **how: Any) -> Page:
    page: Page = watched.open(wait=".fleet-row[data-node]", **how)
    expect(page.locator(".fleet-row[data-node]")).to_have_count(nodes)
    return page


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_fleet_shows_problems_first_and_totals_that_add_up(
    watched: Any, picture: Callable[[Page, str], None]
) -> None:
    page = fleet(watched)
    expect(page.locator(".fleet-row[data-node]").first.locator(".verdict.on")).to_have_count(1)
    rows = page.locator(".fleet-row[data-node]").filter(has_not=page.locator(".verdict.on"))
    first = rows.first
    expect(first).to_contain_text("air-02")
    expect(first.locator(".c-state")).to_contain_text("Lost")
    expect(first.locator(".troubles")).to_contain_text("Node lost")
    expect(rows.nth(1)).to_contain_text("bed-07")  # a backlog is a problem, smaller than a lost node
    expect(rows.nth(1).locator("[data-depth]")).to_have_text("1,234")
    arm = page.locator('[data-node="acme/cell/hall-1/arm-01"]')
    expect(arm).to_contain_text("joint-anomaly 1.0.0")
    expect(arm.locator(".tag")).to_have_text(["CPU", "✓ edgebed"])
    expect(arm).to_contain_text("58 MB")
    page.wait_for_function(
        """() => {
            const text = (name) => document.querySelector(`[data-total=${name}]`).textContent;
            const n = (name) => Number(text(name).replaceAll(",", ""));
            return n("stored") > 20 && n("taken") === n("stored") + n("waiting") + n("lost");
        }"""
    )
    picture(page, "fleet-en-light")


def test_last_seen_decays_by_itself(watched: Any, site: Any) -> None:
    page = watched.open(wait=".fleet-row[data-node]")
    seen = page.locator('[data-node="acme/junction/street-1/air-02"] .c-seen time')
    said_ms = time.time_ns() // 1_000_000
    site.feeder.air.beat(clk=0)  # its only message since the site started, which may be minutes ago
    page.wait_for_function(
        """(at) => Date.parse(document.querySelector('[data-node$="air-02"] .c-seen time').dateTime) >= at""",
        arg=said_ms,
    )
    page.route("**/api/**", lambda route: route.abort())  # from here on the server is not asked
    before = seen.inner_text()
    page.wait_for_function(
        """(before) => document.querySelector('[data-node$="air-02"] .c-seen time').textContent !== before""",
        arg=before,
    )
    seconds = [int(text.split()[0]) for text in (before, seen.inner_text())]
    assert seconds[0] < seconds[1]
    assert "UTC" in (seen.get_attribute("title") or "")


def test_hostile_names_and_reasons_stay_text(watched: Any) -> None:
    page = fleet(watched)
    row = page.locator('[data-node="acme/junction/street-1/air-02"]')
    expect(row).to_contain_text("<img src=x onerror=")
    expect(row).to_contain_text("</script>")
    camera = watched.open(CAMERA, wait=".event-table tbody tr")
    expect(camera.locator(".event-table tbody tr").first).to_contain_text("<img src=x")
    for opened in (page, camera):
        assert opened.locator("main img, main script").count() == 0
        assert "owned" not in opened.title()


def test_snapshot_carries_the_boxes_of_its_own_frame(watched: Any, site: Any) -> None:
    page = watched.open(CAMERA, wait="canvas.still:not([hidden])")
    shown: list[dict[str, str]] = []

    def note(facts: dict[str, str]) -> None:
        shown.append(facts)

    page.expose_function("drawn", note)
    page.evaluate(
        """() => {
            const report = ([{ target }]) => drawn({ ...target.dataset });
            const canvas = document.querySelector("canvas.still");
            new MutationObserver(report).observe(canvas, { attributes: true, attributeFilter: ["data-sha"] });
        }"""
    )
    seen = page.evaluate(
        """() => new Promise((resolve) => {
            const found = {};
            const source = new EventSource("api/v1/stream?node=acme/junction/street-1/cam-01&device=camera");
            source.addEventListener("snap", (event) => {
                const snap = JSON.parse(event.data);
                found[snap.sha256] = [String(snap.frame), String(snap.boxes.length)];
                if (Object.keys(found).length === 4) { source.close(); resolve(found); }
            });
        })"""
    )
    page.wait_for_function("() => document.querySelector('canvas.still').width > 600")
    compared = [facts for facts in shown if facts["sha"] in seen]
    assert len(compared) >= 2, "the picture did not move"
    for facts in compared:
        assert [facts["frame"], facts["boxes"]] == seen[facts["sha"]]
    painted = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas.still");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert painted > 500, "the canvas has no photograph"
    expect(page.locator("canvas.still")).to_have_attribute("data-areas", "2")


def test_a_camera_page_waits_for_the_first_picture_without_an_error(watched: Any) -> None:
    page = watched.open(DOOR, wait=".picture")
    with page.expect_response("**/snapshot/frames") as asked:
        page.reload()
    assert asked.value.status == 200
    assert page.request.get(asked.value.url).json() == {"stream": "frames", "img": None}
    expect(page.locator(".picture .empty")).to_contain_text("Waiting for the next picture")
    expect(page.locator(".picture canvas")).to_be_hidden()  # and `watched` found nothing in the console


def test_a_picture_that_comes_after_its_view_was_left_is_dropped(watched: Any) -> None:
    """The view is gone at once, and its effects end with the next frame: a picture may come between."""
    page = watched.open(CAMERA, wait="canvas.still:not([hidden])")
    left = page.evaluate(
        """() => new Promise((resolve) => {
            const make = createImageBitmap;
            const step = () => new Promise((next) => {
                const { port1, port2 } = new MessageChannel();
                port1.onmessage = next;
                port2.postMessage(0);
            });
            requestAnimationFrame = (draw) => setTimeout(draw, 1_000); // no frame comes
            createImageBitmap = async (...what) => {
                const picture = await make(...what);
                location.hash = "#/";
                while (document.querySelector("canvas.still")) await step();
                setTimeout(() => resolve(picture.width), 200); // 0: it was closed
                return picture;
            };
        })"""
    )
    assert left == 0  # and `watched` found no error of the page


def test_live_chart_moves_and_follows_the_chosen_signals(
    watched: Any, picture: Callable[[Page, str], None]
) -> None:
    page = watched.open(ARM, wait=".live-chart[data-edge]")
    edge = "Number(document.querySelector('.live-chart').dataset.edge)"
    page.wait_for_function("() => Number(document.querySelector('.live-chart').dataset.rows) > 100")
    start = page.evaluate(edge)
    page.wait_for_function(f"() => {edge} > {start} + 1500")
    steps = page.evaluate(
        """() => new Promise((resolve) => {
            const seen = [];
            const look = () => {
                seen.push(Number(document.querySelector(".live-chart").dataset.edge));
                seen.length < 60 ? requestAnimationFrame(look) : resolve(seen);
            };
            look();
        })"""
    )
    assert steps == sorted(steps), "the chart ran backwards"
    assert len(set(steps)) > 5, "the chart moved in jumps"
    expect(page.locator(".chip")).to_have_count(6)
    page.get_by_role("radio", name="torque").click()
    expect(page.locator(".chip").first).to_contain_text("j1_torque")
    first = page.locator(".chip").first
    first.click()
    expect(first).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".live-chart")).not_to_have_attribute("aria-label", "j1_torque")
    picture(page, "device-en-light")


def test_a_running_chart_begins_with_the_whole_swing_of_a_vibration(watched: Any) -> None:
    """Its first rows come from the store: an average of several rows would look like a calm device."""
    page = fleet(watched)
    found = page.evaluate(
        """async () => {
            const { prefilled } = await import("/static/charts/buffer.js");
            const series = { t: [0, 40, 80], n: [4, 4, 1], mean: [0, 0, 1], late: [0, 1, 0] };
            const answers = [{ ...series, min: [-5, -6, 1], max: [5, 6, 1] }, { ...series, min: [1, 2, 3], max: [4, 5, 3] }];
            return prefilled(["x", "y"], answers);
        }"""  # noqa: E501
    )
    assert found == {
        "t": [-10, 10, 30, 50, 80],
        "late": [0, 0, 1, 1, 0],
        "f": {"x": [-5, 5, -6, 6, 1], "y": [1, 4, 2, 5, 3]},
    }


def test_a_clock_that_was_never_set_is_one_line_for_the_whole_fleet(own_watched: Any, own_site: Any) -> None:
    page = fleet(own_watched)
    expect(page.locator(".fleet-row", has_text="Clock not synchronised")).to_have_count(1)
    expect(page.locator("[data-unset]")).to_have_count(0)
    own_site.feeder._publish("tb1/acme/cell/hall-1/arm-02/live/_/agent", b'{"ts":1,"clk":0}', False)
    line = page.locator("[data-unset]")
    expect(line).to_contain_text("Clock not synchronised 2 of")
    expect(page.locator(".fleet-row", has_text="Clock not synchronised")).to_have_count(0)


def test_an_outage_is_a_hole_and_is_filled_with_marked_points(
    own_watched: Any, own_site: Any, picture: Callable[[Page, str], None]
) -> None:
    page = own_watched.open(ARM, wait=".history .chart[data-voids]")
    chart = page.locator(".history .chart")
    expect(chart).to_have_attribute("data-late", "0")
    own_site.feeder.cut_arm()
    page.wait_for_function("() => Number(document.querySelector('.history .chart').dataset.voids) === 1")
    expect(page.locator(".live-chart .overlay")).to_contain_text("No data")
    opened_later = own_watched.open(ARM, wait=".live-chart[data-edge]")  # by the stored rows
    expect(opened_later.locator(".live-chart .overlay")).to_contain_text("No data")
    fleet_page = fleet(own_watched)
    waiting = fleet_page.locator('[data-node="acme/cell/hall-1/arm-01"] [data-depth]')
    expect(waiting).not_to_have_text("0")
    own_site.feeder.heal_arm()
    page.wait_for_function("() => Number(document.querySelector('.history .chart').dataset.late) >= 3")
    expect(chart).to_have_attribute("data-voids", "0")
    expect(page.locator(".live-chart .overlay")).to_be_hidden()
    expect(fleet_page.locator('[data-node="acme/cell/hall-1/arm-01"] .c-outbox')).to_contain_text("empty")
    page.locator(".history").scroll_into_view_if_needed()
    picture(page, "history-backfilled")


def test_a_declared_loss_is_shown_everywhere(
    own_watched: Any, own_site: Any, picture: Callable[[Page, str], None]
) -> None:
    page = own_watched.open(ARM, wait=".live-chart[data-edge]")
    count = str(own_site.feeder.lose(3.0, "quota"))
    page.wait_for_function("() => document.querySelector('.history .chart')?.dataset.gaps === '1'")
    expect(page.locator(".history .chart")).to_have_attribute("data-voids", "0")  # the reason says more
    expect(page.locator(".history details")).to_contain_text("quota")
    page.locator(".history").scroll_into_view_if_needed()
    picture(page, "history-declared-gap")
    page.goto(page.url.split("#")[0] + "#/ledger")
    proof = page.locator("table.days tr[data-pilot='acme/cell']").first
    expect(proof).to_contain_text(f"{datetime.now(UTC):%Y-%m-}")
    expect(proof).to_contain_text("verified")
    expect(proof.locator("td").first).to_have_text(re.compile(r"^\d\d\.\d{3}% of "))  # what was declared lost
    other = page.locator("table.days tr[data-pilot='acme/junction']").first
    expect(other).to_contain_text("no signed day")
    row = page.locator("table.ledger tbody tr", has_text="arm-01").first
    expect(row.locator("td").nth(3)).to_have_text(count)
    expect(page.locator("tr.detail").first).to_contain_text("quota")
    page.goto(page.url.split("#")[0] + "#/")
    expect(page.locator("[data-total=lost]")).to_have_text(count)


def test_quarantine_shows_what_could_not_be_read(watched: Any, site: Any) -> None:
    site.feeder.garbage()
    page = watched.open("quarantine", wait="main .card")
    refresh = page.get_by_role("button", name="Refresh")
    for _ in range(600):
        if page.locator("tbody tr").count():
            break
        page.wait_for_timeout(100)
        refresh.click()
    expect(page.locator("tbody tr").first).to_contain_text("camera/detector")


@pytest.mark.parametrize(
    ("name", "lang", "scheme", "width", "word"),
    [
        ("ko-dark", "ko-KR", "dark", 1360, "전체 현황"),
        ("ko-phone", "ko-KR", "light", 360, "전체 현황"),
        ("en-dark-phone", "en-US", "dark", 360, "Fleet"),
    ],
)
def test_every_view_in_both_languages_both_themes_and_on_a_phone(
    watched: Any,
    picture: Callable[[Page, str], None],
    name: str,
    lang: str,
    scheme: str,
    width: int,
    word: str,
) -> None:
    page = fleet(watched, lang=lang, scheme=scheme, width=width)
    expect(page.locator("nav a[aria-current]")).to_have_text(word)
    assert page.evaluate("document.documentElement.lang") == lang[:2]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert dark == (scheme == "dark")
    assert fits(page)
    picture(page, f"fleet-{name}")
    for place, ready, shot in (
        (CAMERA, "canvas.still:not([hidden])", "camera"),
        (ARM, ".history .chart[data-voids]", "arm"),
        ("ledger", "table.ledger", "ledger"),
        ("usage", ".pilot [data-row]", "usage"),
        ("quarantine", "main .card h1", "quarantine"),
        ("audit", "main .card .empty", "audit"),
    ):
        page.goto(page.url.split("#")[0] + f"#/{place}")
        page.wait_for_selector(ready)
        assert fits(page), place
        picture(page, f"{shot}-{name}")


def test_reasons_and_counts_are_in_the_readers_language(watched: Any) -> None:
    page = fleet(watched, lang="ko-KR")
    bed = page.locator('[data-node="hanbit/bedside/ward-3/bed-07"] .trouble')
    expect(bed).to_contain_text("메시지 1,234건 전송 대기, 최장 3분")
    unsynced = page.locator('[data-node="acme/junction/street-1/air-02"] .trouble').last
    expect(unsynced).to_contain_text("시계가 동기화되지 않음")
    assert "clock" not in unsynced.inner_text()  # nor the same again in English
    page = watched.open(MONITOR, lang="ko-KR", wait=".counters")
    expect(page.locator(".counters dt").first).to_have_text(re.compile("읽은 값|버린 프레임"))


def test_language_and_theme_are_chosen_and_remembered(watched: Any) -> None:
    page = fleet(watched, query="?lang=ko")
    expect(page.locator("nav")).to_contain_text("수신 원장")
    page.locator(".switches select").select_option("en")
    expect(page.locator("nav")).to_contain_text("Ledger")
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.goto(page.url.split("?")[0])
    page.wait_for_selector(".fleet-row[data-node]")
    expect(page.locator("nav")).to_contain_text("Ledger")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"


def test_the_keyboard_reaches_everything(watched: Any) -> None:
    page = fleet(watched)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    links = page.locator("a.device")
    for _ in range(40):
        page.keyboard.press("Tab")
        if links.first.evaluate("link => link === document.activeElement"):
            break
    expect(links.first).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_selector(".device-head")
    page.goto(page.url.split("#")[0] + f"#/{ARM}")
    hour = page.get_by_role("radio", name="1 h")
    page.get_by_role("radio", name="5 min").focus()
    page.keyboard.press("ArrowRight")
    expect(hour).to_be_focused()
    expect(hour).to_have_attribute("aria-checked", "true")


def test_a_drag_zooms_and_now_comes_back(watched: Any) -> None:
    page = watched.open(ARM, wait=".history .chart[data-voids]")
    chart = page.locator(".history .chart")
    chart.scroll_into_view_if_needed()

    def span() -> int:
        return int(chart.get_attribute("data-to")) - int(chart.get_attribute("data-from"))

    whole = span()
    while (box := page.locator(".history .u-over").bounding_box()) is None:
        pass  # it was drawn again in that moment
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 60, steps=5)
    with page.expect_response("**/series?*points*"):  # new data while the button is held take nothing away
        pass
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    page.mouse.up()
    now = page.locator(".history").get_by_role("button", name="Now", exact=True)
    expect(now).to_be_enabled()
    page.wait_for_function(
        """(most) => {
            const { from, to } = document.querySelector(".history .chart").dataset;
            return to - from < most;
        }""",
        arg=whole * 0.5,
    )
    assert whole * 0.15 < span() < whole * 0.25
    assert page.locator(".history [role=radio][aria-checked=true]").count() == 0
    now.click()
    expect(now).to_be_disabled()


def test_a_bedside_page_shows_the_wave_the_numbers_and_the_verdict(
    watched: Any, picture: Callable[[Page, str], None]
) -> None:
    page = watched.open(MONITOR, wait=".live-chart[data-edge]")
    expect(page.locator(".live .select")).to_have_value("ecg")
    page.wait_for_function("() => Number(document.querySelector('.live-chart').dataset.rows) > 500")
    cells = page.locator(".now .cell")
    expect(cells).to_have_text(
        [
            re.compile(r"heart_rate\s*72\s*/min"),
            re.compile(r"sys_bp\s*121\s*mmHg"),
            re.compile(r"temperature\s*36\.6\s*°C"),
            re.compile(r"connected\s*yes"),
            re.compile(r"gear\s*수동 D"),
        ]
    )
    head = page.locator(".device-head .verdict")
    expect(head).to_have_text(re.compile(r"AF\s*Alarm"))
    rhythm = page.locator('[data-slot="rhythm"]')
    expect(rhythm.locator(".verdict.on")).to_contain_text("AF")
    expect(rhythm).to_contain_text("alarm over time")
    expect(rhythm.locator("dl")).not_to_contain_text("objects")  # its class n is not a count
    expect(page.locator('[data-slot="late"]')).to_contain_text("No result yet")
    assert page.locator('[data-slot="late"] .chart').count() == 0
    picture(page, "bedside-en-light")
    cells.nth(1).get_by_role("button").click()
    expect(page.locator(".live .select")).to_have_value("vitals")
    expect(page.locator(".live .chip")).to_have_text([re.compile(r"sys_bp\s*121")])
    options = page.locator(".history option").all_inner_texts()
    assert "connected" in options
    assert "gear" not in options


def test_a_verdict_is_seen_on_the_fleet_page_and_can_be_filtered_for(watched: Any) -> None:
    page = fleet(watched)
    row = page.locator('[data-node="hanbit/field/unit-3/unit-09"]')
    expect(row.locator(".verdict")).to_have_text(re.compile(r"AF\s*Alarm"))
    page.get_by_role("searchbox").fill("alarm")
    expect(page.locator(".fleet-row[data-node]")).to_have_count(1)


def test_a_wide_fleet_is_shown_in_pages_and_every_node_is_found(own_watched: Any, own_site: Any) -> None:
    def say(name: str, state: Any) -> None:
        said = Status(state=state, ts=now_ms(), boot="0badcafe", sess=1)
        own_site.feeder._publish(f"tb1/acme/wide/hall/{name}/status", encode(said), False)

    for number in range(300):
        say(f"node-{number:03}", "sleeping")  # however long the test takes, it is not silent
    page = fleet(own_watched, nodes=200)
    rows, shown = page.locator(".fleet-row[data-node]"), page.locator("[data-range]")
    expect(shown).to_have_text("1 to 200 of 305")
    expect(page.locator(".census")).to_contain_text(re.compile(r"300\s*Sleeping"))
    page.get_by_role("button", name="Next 105").click()
    # one of the other five may change its place meanwhile
    expect(shown).to_have_text(re.compile(r"20\d to 305 of 305"))
    expect(rows.last).to_contain_text("node-299")
    say("node-299", "lost")
    expect(rows.last).to_contain_text("node-298")  # the lost node is on the first page
    search = page.get_by_role("searchbox")
    search.fill("wide node-299")
    expect(rows).to_have_count(1)
    expect(rows.first.locator(".c-state")).to_contain_text("Lost")
    say("node-299", "offline")
    expect(rows.first.locator(".c-state")).to_contain_text("Offline")
    page.locator("nav a[href='#/ledger']").click()
    page.wait_for_selector("table.ledger")
    page.go_back()
    expect(search).to_have_value("wide node-299")  # the filter is kept
    search.fill("nothing like this")
    expect(page.locator("main")).to_contain_text("Nothing matches the filter.")
    search.fill("")
    expect(rows).to_have_count(200)
    expect(shown).to_have_text("1 to 200 of 305")


def test_a_prediction_is_shown_with_its_band(watched: Any) -> None:
    page = watched.open(MONITOR, wait='[data-slot="energy"] .chart[data-from]')
    energy = page.locator('[data-slot="energy"]')
    expect(energy.locator("dd")).to_have_text([re.compile(r"90\.0\s*Wh\s*\(40\.0 to 150\.0\)")])
    expect(energy.locator(".chart")).to_have_attribute("aria-label", re.compile("40 to 150"))


def test_a_track_is_drawn_to_scale_from_places(watched: Any) -> None:
    page = watched.open(GNSS, wait="canvas.plan")
    page.wait_for_function("() => Number(document.querySelector('canvas.plan').dataset.points) > 3")
    expect(page.locator(".track")).to_contain_text(re.compile(r"\d+ m in the range"))
    painted = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas.plan");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert painted > 3, "nothing is drawn"
    expect(page.locator(".live .chip").first).to_contain_text("heading")  # places have an axis each


def test_the_hidden_parts_of_a_picture_are_named_with_the_reason(watched: Any, site: Any) -> None:
    page = watched.open(CAMERA, wait="canvas.still:not([hidden])")
    shown = page.locator(".hidden-parts")
    expect(shown).to_contain_text("2 faces, 1 number plate")
    site.feeder.hidden = {"blur": "whole", "why": "no detector has a result for it"}
    expect(shown).to_have_attribute("data-blur", "whole")
    expect(shown).to_contain_text("The whole picture is made unrecognisable: no detector has a result for it")
    site.feeder.hidden = {"blur": "none"}
    expect(shown).to_have_class(re.compile("warn-text"))
    site.feeder.hidden = {"blur": "parts", "faces": 0, "plates": 0}
    expect(shown).to_contain_text("this picture has none")


def test_what_was_dropped_is_shown_with_its_device_and_model(watched: Any) -> None:
    counted = watched.open(CAMERA).locator(".counters")
    expect(counted).to_contain_text("frames dropped")
    expect(counted.locator("dd")).to_have_text(["51,200", "12", "3,200"])


def test_the_key_that_signed_a_model_is_shown_with_it(watched: Any) -> None:
    model = watched.open(CAMERA).locator(".model").first
    expect(model).to_contain_text("✓ edgebed")
    expect(model.get_by_title("Signed by edgebed")).to_be_visible()


def test_the_requested_configuration_stands_beside_what_the_node_reports(
    own_watched: Any, own_site: Any, picture: Callable[[Page, str], None]
) -> None:
    def request(method: str, body: bytes | None) -> None:
        url = f"{own_site.url}/api/v1/nodes/{own_site.feeder.arm.address}/desired"
        headers = {"Content-Type": "application/json", "Origin": own_site.url}
        asked = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - the test's own site
        urllib.request.urlopen(asked, timeout=60).close()  # noqa: S310

    page = own_watched.open(ARM)
    card = page.locator(".configuration")
    expect(card).to_have_count(0)
    request("PUT", b'{"publish": {"arm": {"raw": false}}}')
    expect(card).to_contain_text("version 1")
    expect(card).to_contain_text("publish: arm")
    expect(card).to_contain_text("nothing yet")
    report = Reported(
        ver=1,
        state="rolled_back",
        ts=1_795_356_000_000,
        err="device arm: no reading for 10 s",
        code="config-reverted",
        args={"what": "device arm: <b>no</b> reading"},
    )
    own_site.feeder.arm.send(report, "reported", "config")
    expect(card).to_contain_text("version 1: did not work, the one before is in use again")
    expect(card).to_contain_text("device arm: <b>no</b> reading")
    card.locator("summary").click()
    expect(card.locator("pre")).to_contain_text('"raw": false')
    assert fits(page)
    card.scroll_into_view_if_needed()
    picture(page, "configuration")
    korean = own_watched.open(ARM, lang="ko-KR", width=390)
    expect(korean.locator(".configuration")).to_contain_text("이전 설정으로 되돌림")
    assert fits(korean)
    korean.locator(".configuration").scroll_into_view_if_needed()
    picture(korean, "configuration-ko")
    card.get_by_role("button", name="Withdraw").click()
    expect(card).to_contain_text("the node's own file alone")
    expect(card.get_by_role("button", name="Withdraw")).to_have_count(0)


def test_a_busy_device_does_not_fill_the_page_and_earlier_events_are_all_there(
    watched: Any, site: Any
) -> None:
    page = watched.open(MONITOR, wait=".events .empty, .events tbody tr")
    site.feeder.happen(60)
    rows = page.locator(".events tbody tr")
    expect(rows.first).to_contain_text("no 59")
    expect(rows).to_have_count(15)
    for shown in (30, 45, 60):
        page.get_by_role("button", name="Show earlier events").click()
        expect(rows).to_have_count(shown)
    shown = [text.split("\t")[-1] for text in rows.all_inner_texts()]
    assert [text.split(" · ")[0].strip() for text in shown] == [f"no {i}" for i in range(59, -1, -1)]


def test_a_lost_collector_is_shown_and_found_again(own_watched: Any, own_site: Any) -> None:
    page = fleet(own_watched)
    own_watched.may_fail = True
    own_site.collector.kill()
    expect(page.locator(".banner")).to_contain_text("Connection to the collector lost")
    own_site.collector.start()
    expect(page.locator(".banner")).to_have_count(0)
    expect(page.locator(".link")).to_contain_text("live")
    expect(page.locator(".fleet-row[data-node]")).to_have_count(EVERY_NODE)


def test_what_is_wrong_with_the_collector_is_shown_on_every_page(own_watched: Any, own_site: Any) -> None:
    page = fleet(own_watched)
    own_site.broker.stop()
    problems = page.locator(".collector-problems")
    expect(problems).to_contain_text("Collector: Not connected to the broker")
    page.locator("nav a[href='#/ledger']").click()
    expect(problems).to_contain_text("Not connected to the broker")
    own_site.broker.start()
    expect(problems.filter(has_text="Not connected")).to_have_count(0)


def test_the_history_of_a_renamed_device_stays_reachable(own_watched: Any, own_site: Any) -> None:
    """The node declares `joints` of `arm`, and has rows of a device that it once called `left-arm`."""
    page = fleet(own_watched)
    rows = Batch(t0=now_ms() - 60_000, per=10, n=100, f={"speed": [1.5] * 100})
    own_site.feeder.arm.queue(rows, "data", "left-arm", "rows")
    stored = f"{own_site.url}/api/v1/nodes/acme/cell/hall-1/arm-01/stored"
    wait_until(lambda: "left-arm" in page.request.get(stored).text(), "the rows are stored")
    page.goto(f"{own_site.url}/#/{ARM}")
    page.locator(".former a", has_text="left-arm").click()
    expect(page.locator("h1")).to_have_text("left-arm")
    expect(page.locator(".device-line")).to_contain_text("no longer declared by its node; stored until")
    expect(page.locator(".history")).to_contain_text("speed")


def test_the_policy_allows_no_inline_code_and_the_page_needs_none(watched: Any, site: Any) -> None:
    page = fleet(watched)
    response = page.request.get(site.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["etag"]
    again = page.request.get(site.url, headers={"if-none-match": response.headers["etag"]})
    assert again.status == 304
    watched.may_fail = True  # the browser logs on the console what it refused
    ran = page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "globalThis.ran = true";
            document.head.append(script);
            return globalThis.ran === true;
        }"""
    )
    assert not ran


def test_both_languages_have_the_same_words(watched: Any) -> None:
    page = watched.open(wait=".fleet-row[data-node]")
    tables = page.evaluate(
        """async () => {
            const table = async (code) => (await import(`/static/i18n/${code}.js`)).default;
            return [await table("en"), await table("ko")];
        }"""
    )
    english, korean = tables
    assert set(english) == set(korean)
    for key, text in english.items():
        holes = sorted(part.split("}")[0] for part in text.split("{")[1:])
        assert holes == sorted(part.split("}")[0] for part in korean[key].split("{")[1:]), key
    same = [
        key for key, text in english.items() if text == korean[key] and key not in ("clock.ntp", "clock.ptp")
    ]
    assert same == [], "not translated"
    assert json.dumps(korean, ensure_ascii=False).isascii() is False


def test_less_motion_is_respected(browser: Browser, watched: Any) -> None:
    page = watched.open(ARM, wait=".live-chart[data-edge]", reduced_motion="reduce")
    edges = page.evaluate(
        """() => new Promise((resolve) => {
            const seen = new Set();
            const until = performance.now() + 2000;
            const look = () => {
                seen.add(document.querySelector(".live-chart").dataset.edge);
                performance.now() < until ? requestAnimationFrame(look) : resolve(seen.size);
            };
            look();
        })"""
    )
    assert edges <= 4


def test_a_reason_is_translated_by_its_code_and_shown_as_sent_without_one(
    own_watched: Any, own_site: Any, picture: Callable[[Page, str], None]
) -> None:
    refused = "nothing listens there: is it on, are host and port right?"
    where = "opc.tcp://10.0.0.7:4840"
    devices = {
        "arm": DeviceState(
            state="degraded", why=f"{where}: {refused}", code="connection-refused", args={"where": where}
        ),
        "newer": DeviceState(
            state="degraded", why="a reason of 2030", code="not-invented-yet", args={"where": where}
        ),
        "older": DeviceState(state="degraded", why="a reason without a code"),
        "odd": DeviceState(state="degraded", why="a reason without its args", code="connection-refused"),
    }
    slow = ModelState(
        state="failed", name="m", ver="1.0.0", device="arm", why="99 of 100 runs take 9.0 ms",
        code="model-too-slow", args={"p99_ms": 9.0, "budget_ms": 5.0},
    )  # fmt: skip
    now = time.time_ns() // 1_000_000
    dark = ModelState(
        state="ok", degraded=True, name="eye", ver="2.0.0", device="older", why="its pictures are dark",
        code="model-input-dark", provider="CPUExecutionProvider",
    )  # fmt: skip
    models = {"slot": slow, "look": dark}
    said = Status(state="online", ts=now, boot="0badcafe", sess=2, devices=devices, models=models)
    unit = own_site.feeder.unit
    unit.send(said, "status")
    step = Event(
        ts=now, type="clock-step", sev=1, value=-90.0, why="the clock was set 90.0 s back",
        code="clock-set-back", args={"seconds": 90.0},
    )  # fmt: skip
    page = fleet(own_watched, lang="ko-KR")
    row = page.locator('[data-node="hanbit/field/unit-3/unit-09"]')
    problems = row.locator(".trouble")
    expect(problems.filter(has_text="opc.tcp")).to_have_count(1)
    known = problems.filter(has_text="opc.tcp").locator(".why")
    expect(known).to_have_text(
        "opc.tcp://10.0.0.7:4840에서 연결을 거부했습니다. 전원, 주소, 포트를 확인하세요."
    )
    expect(known).to_have_attribute("title", f"{where}: {refused}")
    for device in ("newer", "older", "odd"):
        expect(row.locator(".trouble", has_text=device).first).to_contain_text(devices[device].why)
    model = problems.filter(has_text="모델이 실행되지 않음")
    expect(model).to_contain_text("slot: 추론 시간(p99)이 9 ms로 허용 한도 5 ms를 넘습니다.")
    expect(problems.filter(has_text="모델 입력 이상")).to_contain_text("look: 영상이 어둡습니다.")
    degraded = row.locator(".model", has_text="eye")
    expect(degraded.locator(".state")).to_have_text("이상")
    expect(degraded.locator(".tag")).to_have_text("CPU")
    expect(degraded).to_have_attribute(
        "title", "영상이 어둡습니다. 렌즈가 가려졌는지, 조명이 있는지 확인하세요."
    )
    picture(page, "fleet-reasons-ko")
    page = fleet(own_watched)
    shown = page.locator('[data-node="hanbit/field/unit-3/unit-09"] .trouble', has_text="opc.tcp")
    expect(shown.locator(".why")).to_have_text(
        f"Nothing listens at {where}: is it on, are host and port right?"
    )
    own_site.feeder.garbage()
    page = own_watched.open("quarantine", lang="ko-KR", wait="main .card")
    for _ in range(600):
        if page.locator("tbody tr").count():
            break
        page.wait_for_timeout(100)
        page.get_by_role("button", name="새로 고침").click()
    expect(page.locator("tbody .why").first).to_contain_text(
        "메시지 내용이 규격에 맞지 않습니다: not a Batch"
    )
    page = own_watched.open(MONITOR, lang="ko-KR", wait=".events .empty")
    expect(page.locator(".link")).to_contain_text("실시간")
    unit.queue(step, "event", "_", "clock-step")
    event = page.locator(".events tbody tr", has_text="시계 조정").first
    expect(event.locator(".why")).to_have_text("시계가 90초 뒤로 조정되었습니다.")


def test_a_token_is_asked_for_once_and_a_new_user_sees_what_to_do(
    guarded: Any, picture: Callable[[Page, str], None]
) -> None:
    pages, token = guarded
    page = pages.open(wait="form.token")
    field, enter = page.get_by_label("Token"), page.get_by_role("button", name="Continue")
    field.fill("not the token at all")
    enter.click()
    expect(page.get_by_role("alert")).to_contain_text("did not accept")
    field.fill(token)
    enter.click()
    page.wait_for_selector(".welcome ol")
    assert token not in page.url
    expect(page.locator(".welcome")).to_contain_text("No node has reported yet")
    expect(page.locator(".welcome code").first).to_have_text("edgebed demo --port 0")
    expect(page.locator(".welcome .state")).to_contain_text("Lost")  # the broker
    expect(page.locator(".welcome > p code")).to_have_text("edgebed broker")
    expect(page.locator(".link")).to_contain_text("live")
    picture(page, "welcome-en-light")
    page.reload()
    page.wait_for_selector(".welcome ol")
