"""A real site for a browser: broker, collector process, and a feeder that speaks for five nodes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from edgebed.broker import BrokerProcess, free_port
from edgebed.processes import Child, edgebed_command
from tests import paho_client
from wire.codec import encode
from wire.custody import digest, signed_form
from wire.messages import (
    AgentInfo,
    Area,
    Batch,
    Birth,
    Box,
    Command,
    Device,
    DeviceState,
    Event,
    Field,
    ModelRef,
    ModelState,
    Snapshot,
    Status,
    Stream,
)
from wire.topics import Address

PATIENCE_MS = 60_000  # a deadline for conditions: a slow machine needs longer
expect.set_options(timeout=PATIENCE_MS)

OUTPUT = Path(__file__).parents[2] / "test-output"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ARM = Address("acme", "cell", "hall-1", "arm-01")
CAM = Address("acme", "junction", "street-1", "cam-01")
AIR = Address("acme", "junction", "street-1", "air-02")
BED = Address("hanbit", "bedside", "ward-3", "bed-07")
UNIT = Address("hanbit", "field", "unit-3", "unit-09")
SIGNALS = [f"j{joint}_{what}" for what in ("position", "velocity", "torque") for joint in range(1, 7)]
UNITS = {"position": "rad", "velocity": "rad/s", "torque": "N.m"}
HZ = 50
KEY = Ed25519PrivateKey.from_private_bytes(b"of the arm, for the browser only")
OUTAGE_S = 12.5  # rows count as back-filled when they arrive more than 10 s after their time


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Node:
    """The messages of one simulated agent, numbered like those of an outbox."""

    address: Address
    publish: Callable[..., None]
    ep: str = ""
    seq: int = 0
    taken: int = 0
    held: list[tuple[str, bytes]] = field(default_factory=list)
    streams: dict[str, list[int]] = field(default_factory=dict)  # messages, first and last row
    stated: int = 0
    before: str = ""
    holding: bool = False

    def __post_init__(self) -> None:
        self.ep = hashlib.sha256(str(self.address).encode()).hexdigest()[:16]

    def send(self, body: Any, *tail: str, retain: bool = True) -> None:
        self.publish(self.address.topic(*tail), encode(body), retain)

    def queue(self, body: Batch | Event, *tail: str) -> None:
        self.seq += 1
        rows = len(body) if isinstance(body, Batch) else 1
        known = self.streams.setdefault("/".join(tail), [0, 1, 0])
        body.ep, body.seq, body.no = self.ep, self.seq, (1, known[2] + 1)
        known[0], known[2] = known[0] + 1, known[2] + rows
        message = (self.address.topic(*tail), encode(body))
        if self.holding:
            self.held.append(message)
        else:
            self.publish(*message, False)

    def state(self) -> None:
        """A signed statement of everything queued; an agent makes one each minute."""
        self.stated += 1
        said: dict[str, Any] = {
            "v": 1, "n": self.stated, "prev": self.before, "key": KEY.public_key().public_bytes_raw().hex(),
            "boot": "0badcafe", "run": 1, "day": f"{datetime.now(UTC):%Y-%m-%d}", "first": 1,
            "upto": self.seq, "clk": 1, "streams": {name: list(each) for name, each in self.streams.items()},
        }  # fmt: skip
        form = signed_form(said, str(self.address), self.ep)
        self.before = digest(form)
        said["sig"] = KEY.sign(form).hex()
        self.queue(Event(ts=now_ms(), type="custody", sev=0, detail=said), "event", "_", "custody")

    def release(self) -> None:
        self.holding = False
        for topic, body in self.held:
            self.publish(topic, body, False)
        self.held.clear()

    def beat(self, **changes: Any) -> None:
        fields = {
            "ts": now_ms(), "ep": self.ep, "head": self.seq, "acked": self.seq - len(self.held),
            "depth": len(self.held), "oldest_s": 0.0, "bytes": 512 * len(self.held), "taken_rows": self.seq,
            "dropped_rows": 0, "rss_mb": 58.4, "cpu_pct": 7.0, "temp_c": 51.0, "clk": 1, "uptime_s": 7260,
            "boot": "0badcafe",
        }  # fmt: skip
        self.send({**fields, **changes}, "live", "_", "agent")


AREAS = [
    Area(name="crossing", kind="zone", points=[(0.1, 0.6), (0.9, 0.6), (0.95, 0.95), (0.05, 0.95)]),
    Area(name="gate", kind="line", points=[(0.5, 0.95), (0.5, 0.4)]),
]


class Feeder:
    """Publishes what five agents would; `cut_arm` and `heal_arm` are a link that breaks and comes back."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="feeder")
        self._client.max_inflight_messages_set(500)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.arm, self.cam, self.air, self.bed, self.unit = (
            Node(at, self._publish) for at in (ARM, CAM, AIR, BED, UNIT)
        )
        self.hidden: dict[str, Any] = {"blur": "parts", "faces": 2, "plates": 1}  # of the next picture
        self.cut_at = 0.0
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder")

    def start(self) -> None:
        self._introduce()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        paho_client.end(self._client)

    def cut_arm(self) -> None:
        with self._lock:
            self.arm.holding = True
            self.cut_at = time.monotonic()

    def heal_arm(self) -> None:
        """Drain the arm's backlog, once it is old enough to count as back-filled."""
        time.sleep(max(0.0, self.cut_at + OUTAGE_S - time.monotonic()))
        with self._lock:
            self.arm.release()
            self.arm.beat()

    def lose(self, seconds: float, why: str) -> int:
        """Drop and declare what the arm sends for this long; returns the number of messages."""
        with self._lock:
            self.arm.holding = True
            first = self.arm.seq + 1
        time.sleep(seconds)
        with self._lock:
            self.arm.held.clear()
            self.arm.holding = False
            lost = [(first, self.arm.seq)]
            count = self.arm.seq - first + 1
            self.arm.queue(
                Event(ts=now_ms(), type="gap", sev=3, why=why, n=count, lost=lost), "event", "_", "gap"
            )
        return count

    def happen(self, times: int) -> None:
        """Send this many events of the monitor, one per millisecond."""
        with self._lock:
            began = now_ms()
            for i in range(times):
                event = Event(ts=began + i, type="classification", sev=3, top=f"no {i}", score=0.5)
                self.unit.queue(event, "event", "monitor", "classification")

    def garbage(self) -> None:
        self._publish(CAM.topic("data", "camera", "detector"), b'{"v":1,"t0":"<b>yesterday</b>"', False)

    def _publish(self, topic: str, body: bytes, retain: bool) -> None:
        self._client.publish(topic, body, qos=1, retain=retain)

    def _introduce(self) -> None:
        joints = Stream(
            rate_hz=HZ, fields={s: Field(t="f32", unit=UNITS[s.split("_")[1]], dec=4) for s in SIGNALS}
        )
        score = {"score": Field(t="f32", dec=3, alarm=0.8), "alarm": Field(t="bool")}
        counts = {"n": Field(t="i64"), "person": Field(t="i64"), "car": Field(t="i64")}
        self._present(
            self.arm,
            {"arm": Device(type="cobot", streams={"joints": joints, "anomaly": Stream(fields=score)})},
            {"anomaly": ("joint-anomaly", "arm", "")},
        )
        frames = Stream(kind="frame", rate_hz=10)
        self._present(
            self.cam,
            {
                "camera": Device(
                    type="street-camera", streams={"frames": frames, "detector": Stream(fields=counts)}
                )
            },
            {"detector": ("street-detector", "camera", "")},
        )
        pm = Stream(rate_hz=1, fields={"pm25": Field(t="f32", unit="ug/m3", dec=1)})
        self._present(
            self.air,
            {"pm": Device(type=EVIL[:128], vendor=EVIL[:128], streams={"pm": pm})},
            {"nowcast": ("pm-nowcast", "pm", f"sha256 of model.onnx is not the manifest's {EVIL}")},
            state="lost",
            reason=f"connection broken {EVIL}",
        )
        self._present(self.bed, {"monitor": Device(type="bedside monitor")}, {})
        self._present_unit()
        self.air.beat(clk=0)
        self.bed.beat(head=1234, acked=0, depth=1234, oldest_s=184.0, bytes=812_000, clk=2)

    def _present_unit(self) -> None:
        """Streams of every kind: a wave, numbers, words, places, a band, a class that is an alarm."""
        number = Field(dec=1)
        vitals = {
            "heart_rate": Field(unit="/min", dec=0),
            "sys_bp": Field(unit="mm[Hg]", dec=0, desc="MDC_PRESS_BLD_NONINV_SYS"),
            "temperature": Field(unit="Cel", dec=1),
            "connected": Field(t="bool"),
            "gear": Field(t="str"),
        }
        energy = {name: Field(unit="W.h", dec=1) for name in ("energy", "energy_low", "energy_high")}
        monitor = {
            "vitals": Stream(fields=vitals),
            "ecg": Stream(rate_hz=250, fields={"ecg": Field(unit="mV", dec=3)}),
            "rhythm": Stream(
                fields={"label": Field(t="str"), "score": number, "alarm": Field(t="bool"), "n": number}
            ),
            "energy": Stream(fields=energy),
            "late": Stream(fields={"pm2_5": number}),
        }
        place = {name: Field(unit="deg", dec=7) for name in ("latitude", "longitude", "heading")}
        self._present(
            self.unit,
            {
                "monitor": Device(type="bedside-monitor", streams=monitor),
                "gnss": Device(type="gnss-receiver", streams={"position": Stream(fields=place)}),
                "door": Device(type="door-camera", streams={"frames": Stream(kind="frame", rate_hz=5)}),
            },
            {
                "rhythm": ("ecg-rhythm", "monitor", ""),
                "energy": ("ev-energy", "monitor", ""),
                "late": ("pm25-nowcast", "monitor", ""),
            },
        )

    def _present(
        self,
        node: Node,
        devices: dict[str, Device],
        models: dict[str, tuple[str, str, str]],
        state: Any = "online",
        reason: str = "",
    ) -> None:
        at = now_ms()
        refs = {
            slot: ModelRef(name=name, ver="1.0.0", sha256="0" * 64) for slot, (name, _, _) in models.items()
        }
        birth = Birth(
            ts=at,
            boot="0badcafe",
            sess=1,
            ep=node.ep,
            agent=AgentInfo(ver="0.1.0"),
            devices=devices,
            models=refs,
            cmds=[Command(name="ping"), Command(name="snapshot", device="*")],
        )
        states = {
            slot: ModelState(
                state="failed" if why else "ok", name=name, ver="1.0.0", device=device, why=why,
                counters={"runs": 3_200},
                provider="" if why else "CPUExecutionProvider", signed_by="" if why else "edgebed",
            )
            for slot, (name, device, why) in models.items()
        }  # fmt: skip
        counted = {"readings": 51_200, "frames_dropped": 12}
        running = {name: DeviceState(state="ok", since=at - 3_600_000, counters=counted) for name in devices}
        status = Status(
            state=state,
            ts=at - 200_000,
            boot="0badcafe",
            sess=1,
            agent="0.1.0",
            reason=reason,
            devices=running,
            models=states,
        )
        node.send(birth, "birth")
        node.send(status, "status")

    def _run(self) -> None:
        from simulators.plants.scene import Scene

        scene = Scene(seed=7)
        began, index, next_row = now_ms(), 0, now_ms()
        while not self._stop.wait(0.2):
            with self._lock:
                rows = range(next_row, now_ms(), 1000 // HZ)
                if rows:
                    next_row = rows[-1] + 1000 // HZ
                    self._arm_rows(rows, began)
                index += 1
                self._camera(scene, index * 2)
                self._unit_rows(index)
                if index % 5 == 0:
                    self.arm.beat(oldest_s=time.monotonic() - self.cut_at if self.arm.held else 0.0)
                    self.arm.state()
                    self.cam.beat(rss_mb=181.2, cpu_pct=42.0)
                    self.unit.beat()
                    self.bed.beat(head=1234, acked=0, depth=1234, oldest_s=184.0, bytes=812_000, clk=2)

    def _arm_rows(self, rows: range, began: int) -> None:
        def wave(signal: int, at: int) -> float:
            return round(math.sin((at - began) / 1000 * (0.4 + 0.15 * (signal % 6)) + signal), 4)

        columns = {name: [wave(i, at) for at in rows] for i, name in enumerate(SIGNALS)}
        self.arm.queue(Batch(t0=rows[0], per=1000 // HZ, n=len(rows), f=columns), "data", "arm", "joints")
        score = round(0.25 + 0.1 * wave(1, rows[0]), 3)
        result = Batch(t0=rows[0], dt=[0], f={"score": [score], "alarm": [False]})
        self.arm.queue(result, "data", "arm", "anomaly")

    def _unit_rows(self, index: int) -> None:
        at = now_ms()
        wave = [round(math.sin((index * 50 + i) / 20), 3) for i in range(50)]
        self.unit.queue(Batch(t0=at - 200, per=4, n=50, f={"ecg": wave}), "data", "monitor", "ecg")
        if index % 5:
            return
        newest = {
            "vitals": {
                "heart_rate": 72, "sys_bp": 121, "temperature": 36.6, "connected": True, "gear": "수동 D",
            },
            "rhythm": {"label": "AF", "score": 0.9, "alarm": True, "n": 0.1},
            "energy": {"energy": 90.0, "energy_low": 40.0, "energy_high": 150.0},
        }  # fmt: skip
        for stream, values in newest.items():
            row = Batch(t0=at, dt=[0], f={name: [value] for name, value in values.items()})
            self.unit.queue(row, "data", "monitor", stream)
            self.unit.send({"ts": at, **values}, "live", "monitor", stream)
        place = {"latitude": 36.4 + index * 1e-5, "longitude": 127.3, "heading": 0.0}
        row = Batch(t0=at, dt=[0], f={name: [value] for name, value in place.items()})
        self.unit.queue(row, "data", "gnss", "position")

    def _camera(self, scene: Any, index: int) -> None:
        import cv2

        truth = scene.truth(index)
        boxes = [
            Box(label=label, cls=1, score=0.91, box=(x / 640, y / 480, w / 640, h / 480), track=7)
            for label, x, y, w, h in truth
        ]
        for box in boxes:
            x, y, w, h = box.box
            box.points = [(x + w / 2, y + h / 5, 0.9)]
            if box.label != "person":
                box.polygon = [(x, y + h / 2), (x + w / 2, y), (x + w, y + h / 2), (x + w / 2, y + h)]
        counts: dict[str, list[Any]] = {"n": [len(boxes)]}
        counts |= {label: [sum(box.label == label for box in boxes)] for label in ("person", "car")}
        self.cam.queue(Batch(t0=now_ms(), dt=[0], f=counts), "data", "camera", "detector")
        if index % 10 == 2:
            jpeg = cv2.imencode(".jpg", scene.frame(index), [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
            snapshot = Snapshot(
                ts=now_ms(), w=640, h=480, sha256=hashlib.sha256(jpeg).hexdigest(), jpeg=jpeg, frame=index,
                model="street-detector@1.0.0", boxes=boxes, areas=AREAS, **self.hidden,
            )  # fmt: skip
            self.cam.send(snapshot, "snap", "camera", "frames", retain=False)
        if index % 40 == 0:
            event = Event(
                ts=now_ms(),
                type="change",
                model="street-detector@1.0.0",
                n=len(boxes),
                top=EVIL[:128],
                score=0.91,
            )
            self.cam.queue(event, "event", "camera", "change")


@dataclass
class Site:
    """A running collector, which may be killed and started again, with its feeder."""

    url: str
    feeder: Feeder
    collector: Child
    broker: BrokerProcess


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Broker, collector and feeder, shared by the tests of a module."""
    with running(tmp_path_factory.mktemp("site")) as shared:
        yield shared


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A site that a test may break."""
    with running(tmp_path) as own:
        yield own


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Site]:
    port = free_port("127.0.0.1")  # a fixed port, so that a page finds a killed collector again
    with BrokerProcess("nats", folder / "broker") as broker:
        command = edgebed_command(
            *(
                "collector",
                "run",
                "--store",
                str(folder / "store"),
                "--broker",
                broker.url,
                "--port",
                str(port),
            )
        )
        with Child("collector", command, folder / "collector.log") as collector:
            url = collector.first_line()
            assert url == f"http://127.0.0.1:{port}"
            # a page is served before the broker is reached, and only retained messages are caught up
            wait_for(f"{url}/api/v1/health", lambda health: health["broker"]["state"] == "online")
            feeder = Feeder(broker.port)
            feeder.start()
            try:
                wait_for(
                    f"{url}/api/v1/nodes/{CAM}/devices/camera/snapshot/frames", lambda shot: shot.get("boxes")
                )
                yield Site(url, feeder, collector, broker)
            finally:
                feeder.stop()


def wait_for(url: str, condition: Callable[[Any], Any]) -> None:
    """Ask until the answer is as wanted; a page that is opened too early would log errors."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(urllib.error.HTTPError),  # not there yet
            urllib.request.urlopen(url) as answer,  # noqa: S310 - the test's collector
        ):
            if condition(json.load(answer)):
                return
        time.sleep(0.05)
    raise AssertionError(f"not within 60 s: {url}")


@pytest.fixture(scope="module")
def browser(require: Callable[[str], str]) -> Iterator[Browser]:
    """Headless Chromium of this machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require("chromium"), args=ARGUMENTS)
        with contextlib.closing(browser):
            yield browser


class Watched:
    """Opens pages and records what a page must not do: errors, other origins, violations of the policy."""

    def __init__(self, browser: Browser, origin: str) -> None:
        self._browser = browser
        self._origin = origin
        self._contexts: list[Any] = []
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.may_fail = False  # while the collector is down on purpose

    def open(
        self,
        place: str = "",
        *,
        lang: str = "en-US",
        scheme: Any = "light",
        width: int = 1360,
        query: str = "",
        wait: str = "main .card",
        **more: Any,
    ) -> Page:
        context = self._browser.new_context(
            locale=lang, color_scheme=scheme, viewport={"width": width, "height": 900}, **more
        )
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        page.on("request", lambda request: self._request(request.url))
        page.goto(f"{self._origin}/{query}#/{place}")
        page.wait_for_selector(wait)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not self.may_fail:
            self.errors.append(f"console {message.type}: {message.text}")

    def _request(self, url: str) -> None:
        if not url.startswith((f"{self._origin}/", "data:,")):
            self.foreign.append(url)

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def guarded(browser: Browser, tmp_path: Path) -> Iterator[tuple[Watched, str]]:
    """Pages of a collector with a token, without a broker and without nodes; and the token."""
    token, config = tmp_path / "token", tmp_path / "collector.yaml"
    secret = secrets.token_hex(16)
    token.write_text(secret)
    config.write_text(
        f"broker: {{url: 'mqtt://127.0.0.1:{free_port('127.0.0.1')}'}}\nstore: store\n"
        "http: {port: 0, token_file: token}\n"
    )
    command = edgebed_command("collector", "run", str(config))
    with Child("collector", command, tmp_path / "collector.log") as collector:
        pages = Watched(browser, collector.first_line())
        try:
            yield pages, secret
        finally:
            pages.close()
        assert pages.foreign == []


@contextlib.contextmanager
def watching(browser: Browser, site: Site) -> Iterator[Watched]:
    pages = Watched(browser, site.url)
    try:
        yield pages
    finally:
        pages.close()
    assert pages.errors == []
    assert pages.foreign == []


@pytest.fixture
def watched(browser: Browser, site: Site) -> Iterator[Watched]:
    """Pages of the shared site; the test fails when a page misbehaves."""
    with watching(browser, site) as pages:
        yield pages


@pytest.fixture
def own_watched(browser: Browser, own_site: Site) -> Iterator[Watched]:
    """Pages of the test's own site."""
    with watching(browser, own_site) as pages:
        yield pages


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Keep a screenshot under test-output/."""

    def take(page: Page, name: str) -> None:
        OUTPUT.mkdir(exist_ok=True)
        page.screenshot(path=OUTPUT / f"{name}.png", animations="disabled")

    return take
