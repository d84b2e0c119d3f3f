"""The HL7 adapter against the simulated bedside monitor, in both ways of connecting, with line faults."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adapters.base import Adapter, DeviceStalled, DeviceUnreachable, ProtocolViolation, Reading
from adapters.hl7.adapter import Hl7
from adapters.hl7.catalog import VITALS, Conversion
from adapters.hl7.deidentify import create_key
from adapters.hl7.options import Hl7Options, Monitor
from adapters.testing import AdapterContract, Rig, read_until
from edgebed.broker import free_port
from simulators.devices.hl7.device import BedsideMonitor
from simulators.devices.hl7.messages import DEVICE, FACILITY, PatientIdentity
from simulators.faults import FaultProxy
from simulators.plants.patient import ECG_HZ
from simulators.plants.patient import VITALS as SHOWN
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

SEED = 7
RATE = 20.0  # seconds of the monitor in a real second
PERIOD_NS = NS_PER_S // ECG_HZ
START_NS = 1_772_000_000 * NS_PER_S


def quick(url: str, **more: Any) -> Hl7Options:
    return Hl7Options(url=url, **({"silence_s": 3.0, "rejoin_s": 0.5, "half_message_s": 1.0} | more))


Until = Callable[[list[Reading]], bool]


async def gather(adapter: Adapter, rows: list[Reading], until: Until, within_s: float = 60.0) -> None:
    """Read into `rows`, which also keeps the readings before an error."""
    async with asyncio.timeout(within_s), contextlib.aclosing(adapter.readings()) as readings:
        async for reading in readings:
            rows.append(reading)
            if until(rows):
                break


def seconds(count: int) -> Until:
    return lambda seen: sum(reading.stream == "ecg" for reading in seen) >= count * ECG_HZ


def of(readings: list[Reading], stream: str) -> list[Reading]:
    return [reading for reading in readings if reading.stream == stream]


OPTIONS: dict[str, Any] = {
    "good_options": {"url": "mllp-listen://127.0.0.1:2575"},
    "bad_options": [
        ({"url": "http://x:1"}, "mllp-listen://host:port"),
        ({"url": "mllp://x"}, "mllp://host:port"),
        ({"url": "mllp://x:99999"}, "port"),
        ({"url": "mllp://me:geheim@x:1"}, "MLLP has no login"),
        ({"url": "mllp-listen://0.0.0.0:2575"}, "peers"),
        ({"url": "mllp-listen://0.0.0.0:2575", "peers": ["10.0.0.0/99"]}, "10.0.0.0/99"),
        ({"url": "mllp://x:1", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"url": "mllp://x:1", "fields": {"Heart": {"codes": ["1"]}}}, "field name"),
        ({"url": "mllp://x:1", "fields": {"name": {"codes": ["1"], "t": "str"}}}, "texts"),
        ({"url": "mllp://x:1", "fields": {}, "waveforms": {}}, "nothing"),
        ({"url": "mllp://x:1", "waveforms": {"vitals": {"codes": ["1"], "rate_hz": 1}}}, "vitals"),
        ({"url": "mllp://x:1", "monitors": {"Bed 1": {}}}, "Bed 1"),
    ],
    "secrets": ("geheim",),
}


class TestHl7(AdapterContract):
    adapter = Hl7
    good_options: ClassVar = OPTIONS["good_options"]
    bad_options: ClassVar = OPTIONS["bad_options"]
    secrets: ClassVar = OPTIONS["secrets"]

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        clock = Clock(RATE)
        async with (
            BedsideMonitor(seed=SEED, clock=clock, ack_s=0.3) as monitor,
            FaultProxy(monitor.port) as link,
        ):
            yield Rig(lambda: Hl7(quick(f"mllp://127.0.0.1:{link.port}"), clock), link)


class TestHl7Listening(AdapterContract):
    adapter = Hl7
    good_options: ClassVar = OPTIONS["good_options"]
    bad_options: ClassVar = OPTIONS["bad_options"]

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        clock, port = Clock(RATE), free_port()
        async with (
            FaultProxy(port) as link,
            BedsideMonitor(seed=SEED, clock=clock, ack_s=0.3, connect=f"127.0.0.1:{link.port}"),
        ):
            yield Rig(lambda: Hl7(quick(f"mllp-listen://127.0.0.1:{port}", rejoin_s=0), clock), link)


@pytest.mark.parametrize("charset", ["UNICODE UTF-8", "ISO IR149"])
async def test_every_number_and_sample_arrives_once_as_the_patient_made_it(charset: str) -> None:
    clock = Clock(RATE, START_NS)
    async with BedsideMonitor(seed=SEED, clock=clock, charset=charset, faults=["korean", "pvc@2"]) as monitor:
        async with Hl7(quick(monitor.url, application=DEVICE.split("^", maxsplit=1)[0]), clock) as adapter:
            rows = await read_until(adapter, seconds(12))
        assert {row.quality for row in rows} == {Quality.GOOD}
        ecg, vitals = of(rows, "ecg"), of(rows, "vitals")
        assert ecg[0].at_ns == monitor.start_ns
        assert {b.at_ns - a.at_ns for a, b in pairwise(ecg)} == {PERIOD_NS}
        assert {b.at_ns - a.at_ns for a, b in pairwise(vitals)} == {NS_PER_S}
        for row in ecg:
            assert row.values["ecg"] == pytest.approx(monitor.truth(row.at_ns)["ecg"], abs=0.0006)
        for row in vitals:
            truth = monitor.truth(row.at_ns)
            assert row.values == {name: pytest.approx(truth[name]) for name in SHOWN}
    counters = adapter.counters
    assert counters.pop("identifiers_seen") == counters.pop("deidentified") > 0
    assert counters.keys() == {"messages", "not_configured"}  # the rhythm, a text


async def test_errors_in_a_message_are_flagged_and_the_rest_arrives() -> None:
    clock = Clock(RATE, START_NS)
    faults = ["charset@1-2", "large@3-4", "unit@5-6", "unit-spo2@7-8", "garbage@9-10", "resend@11-13"]
    async with (
        BedsideMonitor(seed=SEED, clock=clock, faults=faults) as monitor,
        Hl7(quick(monitor.url), clock) as adapter,
    ):
        rows = await read_until(adapter, seconds(16), within_s=90)
    ecg, vitals = of(rows, "ecg"), of(rows, "vitals")
    assert {b.at_ns - a.at_ns for a, b in pairwise(ecg)} == {PERIOD_NS}
    assert {b.at_ns - a.at_ns for a, b in pairwise(vitals)} == {NS_PER_S}
    bad = {(row.at_ns - monitor.start_ns) // NS_PER_S: row for row in rows if row.quality}
    assert bad.keys() == {5, 7}
    assert {row.quality for row in bad.values()} == {Quality.BAD}
    assert bad[5].values["temperature"] is None
    assert bad[7].values["spo2"] is None
    assert bad[7].values["heart_rate"] == monitor.truth(bad[7].at_ns)["heart_rate"]
    assert adapter.counters["wrong_unit"] == 2
    assert adapter.counters["charset_errors"] >= 4  # a name, a street, a doctor, a note
    assert adapter.counters["resent"] >= 2
    assert adapter.counters["garbage_bytes"] > 0
    assert monitor.counters["errors"] == 2
    assert adapter.counters["identifiers_seen"] == adapter.counters["deidentified"]


async def test_another_unit_is_converted_if_configured() -> None:
    clock = Clock(RATE, START_NS)
    fahrenheit = Conversion(factor=5 / 9, offset=-32 * 5 / 9)
    vital = VITALS["temperature"]
    field = type(vital)(codes=vital.codes, unit="Cel", convert={"[degF]": fahrenheit})
    async with (
        BedsideMonitor(seed=SEED, clock=clock, faults=["unit"]) as monitor,
        Hl7(quick(monitor.url, fields={"temperature": field}), clock) as adapter,
    ):
        rows = of(await read_until(adapter, seconds(3)), "vitals")
        for row in rows:
            assert row.quality is Quality.GOOD
            assert row.values["temperature"] == pytest.approx(
                monitor.truth(row.at_ns)["temperature"], abs=0.01
            )


async def test_half_a_message_is_counted_and_sent_again() -> None:
    clock = Clock(RATE, START_NS)
    async with (
        BedsideMonitor(seed=SEED, clock=clock, faults=["half@2-3"]) as monitor,
        Hl7(quick(monitor.url), clock) as adapter,
    ):
        rows = await read_until(adapter, seconds(6))
    assert adapter.counters["half_messages"] >= 1
    assert {b.at_ns - a.at_ns for a, b in pairwise(of(rows, "ecg"))} == {PERIOD_NS}


@pytest.mark.parametrize(
    ("fault", "qualities"),
    [
        ("time-repeat@3", {Quality.TIME_REPEATED, Quality.TIME_BACKWARD}),
        ("time-back@3", {Quality.TIME_BACKWARD}),
    ],
)
async def test_a_clock_that_stops_or_goes_back_is_flagged(fault: str, qualities: set[Quality]) -> None:
    clock = Clock(RATE, START_NS)
    async with (
        BedsideMonitor(seed=SEED, clock=clock, faults=[fault]) as monitor,
        Hl7(quick(monitor.url), clock) as adapter,
    ):
        rows = await read_until(adapter, seconds(6))
    flagged = [row for row in rows if row.quality]
    assert {row.quality for row in flagged} <= qualities
    assert {row.stream for row in flagged} == {"ecg", "vitals"}
    assert adapter.counters["waveform_overlaps"] >= 1


async def test_another_device_is_refused_and_its_name_not_repeated() -> None:
    clock = Clock(RATE, START_NS)
    async with BedsideMonitor(seed=SEED, clock=clock, faults=["other-device@2"]) as monitor:
        adapter = Hl7(quick(monitor.url, application="EDGEBED_MONITOR", facility=FACILITY), clock)
        async with adapter:
            with pytest.raises(ProtocolViolation, match="EDGEBED_MONITOR") as caught:
                await read_until(adapter, seconds(100))
        assert "PUMP" not in str(caught.value)
        assert adapter.counters["other_device"] == 1


async def test_silence_is_an_error() -> None:
    clock = Clock(RATE, START_NS)
    async with (
        BedsideMonitor(seed=SEED, clock=clock, faults=["silent@2"]) as monitor,
        Hl7(quick(monitor.url, silence_s=0.6), clock) as adapter,
    ):
        with pytest.raises(DeviceStalled, match="no message"):
            await read_until(adapter, seconds(100))


async def test_another_patient_is_another_pseudonym(tmp_path: Path) -> None:
    clock, key = Clock(RATE, START_NS), tmp_path / "key"
    create_key(key)
    async with (
        BedsideMonitor(seed=SEED, clock=clock, faults=["other-patient@3-6"]) as monitor,
        Hl7(quick(monitor.url, patient_key_file=key), clock) as adapter,
    ):
        rows = of(await read_until(adapter, seconds(9)), "patient")
        # a new adapter reports the current patient, and since when
        async with Hl7(quick(monitor.url, patient_key_file=key), clock) as again:
            (current,) = of(await read_until(again, lambda seen: bool(of(seen, "patient"))), "patient")
    first, second, third = rows
    assert first.values["pseudonym"] == third.values["pseudonym"] != second.values["pseudonym"]
    assert (second.at_ns, third.at_ns) == tuple(monitor.start_ns + s * NS_PER_S for s in (4, 7))  # MSH-7
    assert current.values == third.values
    assert adapter.counters["patient_changed"] == 2


async def test_a_message_that_was_read_but_not_acknowledged_is_read_once() -> None:
    """The acknowledgements are lost and the connection breaks: the monitor sends the message again."""
    clock = Clock(RATE, START_NS)
    rows: list[Reading] = []
    resent = 0
    # it waits longer for an acknowledgement than the connection lasts: it sends again on the next one
    async with BedsideMonitor(seed=SEED, clock=clock, ack_s=30) as monitor, FaultProxy(monitor.port) as link:
        for turn in range(1, 5):

            def swallow(seen: list[Reading], at: int = turn * 3 * ECG_HZ) -> bool:
                if len(of(seen, "ecg")) == at:
                    link.black_hole(way="up")
                    asyncio.get_running_loop().call_later(0.3, link.cut)
                return False

            async with Hl7(quick(f"mllp://127.0.0.1:{link.port}"), clock) as adapter:
                with pytest.raises(DeviceUnreachable):
                    await gather(adapter, rows, swallow)
                resent += adapter.counters.get("resent", 0)
            link.heal()
    assert resent >= 3  # the last one is still waiting
    for stream, period_ns in (("ecg", PERIOD_NS), ("vitals", NS_PER_S)):
        assert {b.at_ns - a.at_ns for a, b in pairwise(of(rows, stream))} == {period_ns}


async def test_a_monitor_rejoins_after_a_broken_connection_without_loss() -> None:
    clock, port = Clock(RATE, START_NS), free_port()
    async with (
        FaultProxy(port) as link,
        # 0.2 s of real time: a busy machine must not make the monitor send again what was just answered
        BedsideMonitor(seed=SEED, clock=clock, ack_s=4.0, connect=f"127.0.0.1:{link.port}"),
        Hl7(quick(f"mllp-listen://127.0.0.1:{port}", rejoin_s=60.0), clock) as adapter,
    ):

        def cut(seen: list[Reading]) -> bool:
            if len(of(seen, "ecg")) in (500, 1_000, 1_500):
                link.cut(reset=len(seen) % 2 == 0)
            return len(of(seen, "ecg")) >= 2_500

        rows = await read_until(adapter, cut)
    assert adapter.counters["rejoined"] >= 2
    for stream, period_ns in (("ecg", PERIOD_NS), ("vitals", NS_PER_S)):
        assert {b.at_ns - a.at_ns for a, b in pairwise(of(rows, stream))} == {period_ns}


async def test_several_monitors_on_one_port() -> None:
    clock, port = Clock(RATE, START_NS), free_port()
    beds = {
        "bed-1": Monitor(application="EDGEBED_MONITOR"),
        "bed-2": Monitor(application="SOMEBODY_ELSES_PUMP"),
    }
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}", monitors=beds), clock)
    assert adapter.streams().keys() == {f"{bed}-{stream}" for bed in beds for stream in ("vitals", "ecg")}
    there = f"127.0.0.1:{port}"
    async with (
        BedsideMonitor(seed=1, clock=clock, connect=there) as one,
        BedsideMonitor(seed=2, clock=clock, connect=there, faults=["other-device"]) as two,
        adapter,
    ):
        rows = await read_until(
            adapter, lambda seen: min(len(of(seen, "bed-1-vitals")), len(of(seen, "bed-2-vitals"))) >= 4
        )
        for bed, monitor in (("bed-1", one), ("bed-2", two)):
            for row in of(rows, f"{bed}-vitals"):
                assert row.values["sys_bp"] == monitor.truth(row.at_ns)["sys_bp"]
            assert {b.at_ns - a.at_ns for a, b in pairwise(of(rows, f"{bed}-ecg"))} == {PERIOD_NS}


async def test_an_unlisted_network_cannot_connect() -> None:
    port = free_port()
    options = quick(f"mllp-listen://127.0.0.1:{port}", peers=["192.0.2.0/24"], silence_s=0.7)
    adapter = Hl7(options, Clock())
    async with BedsideMonitor(seed=SEED, clock=Clock(RATE), connect=f"127.0.0.1:{port}"):
        with pytest.raises(DeviceUnreachable, match="no monitor has connected"):
            await adapter.open()
    assert adapter.counters["peers_refused"] >= 1


async def test_an_acknowledgement_comes_after_the_readings_were_taken() -> None:
    port, clock = free_port(), Clock(1, START_NS)
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}"), clock)
    opening = asyncio.create_task(adapter.open(), name="opening")
    reader, writer = await connected(port)
    writer.write(b"\x0b" + message() + b"\x1c\r")
    await opening
    readings = adapter.readings()
    assert (await anext(readings)).values["heart_rate"] == 71
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.read(1)
    # the request for the next row shows that the first was taken
    following = asyncio.create_task(anext(readings), name="following")
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\x1c\r")
    assert b"\rMSA|AA|17\r" in answer
    writer.write(b"\x0b" + message(b"18", b"268192^MDC_DIM_DEGC") + b"\x1c\r")
    assert (await following).quality is Quality.BAD
    following = asyncio.create_task(anext(readings), name="following")
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\x1c\r")
    assert b"\rMSA|AE|18\r" in answer
    assert b"\rERR||OBX^1^6|103|E||||unit is not /min\r" in answer
    writer.write(b"\x0b" + message(b"19").replace(b"ORU^R01", b"ADT^A01") + b"\x1c\r")
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\x1c\r")
    assert b"\rMSA|AR|19\r" in answer
    assert b"\rERR||MSH^1^9|200|E||||not an ORU message\r" in answer
    # refused with its control id: otherwise the monitor would send it again without end, and nothing after it
    writer.write(b"\x0b" + message(b"20") + b"NTE|1||" + b"x" * 5_000_000 + b"\r\x1c\r")
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"\x1c\r")
    assert b"\rMSA|AR|20\r" in answer
    assert b"longer than 4096 KiB, see max_message_kb\r" in answer
    assert adapter.counters["too_long"] == 1
    writer.write(b"\x0b" + message(b"21") + b"\x1c\r")
    assert (await following).values["heart_rate"] == 71
    following = asyncio.create_task(anext(readings), name="following")
    following.cancel()
    await asyncio.wait({following})
    await adapter.close()
    writer.close()


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(60):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)


async def test_what_only_looks_like_a_resend_is_a_row() -> None:
    """Constant MSH-10, no time and the same values: acknowledged on the same connection, so each is new."""
    port = free_port()
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}", monitors={}, rejoin_s=30), Clock())
    opening = asyncio.create_task(adapter.open(), name="opening")
    reader, writer = await connected(port)
    writer.write(constant())
    await opening
    rows = asyncio.create_task(gathered(adapter), name="rows")
    for _ in range(3):
        await acknowledged(reader)
        writer.write(constant())
    await acknowledged(reader)
    writer.write(constant("72") + constant("73"))
    await acknowledged(reader)
    await acknowledged(reader)
    writer.close()
    # the same bytes as the last message, on a new connection at once: sent again
    reader, writer = await connected(port)
    writer.write(constant("73"))
    await acknowledged(reader)
    writer.write(constant("73"))  # and now it has the acknowledgement
    await acknowledged(reader)
    writer.close()
    await adapter.close()
    rows.cancel()
    assert (await rows) == [71, 71, 71, 71, 72, 73, 73]
    assert adapter.counters["resent"] == 1
    assert adapter.counters["control_id_reused"] == 2


async def test_a_monitor_in_local_time_is_named_in_the_state() -> None:
    port = free_port()
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}"), Clock())
    opening = asyncio.create_task(adapter.open(), name="opening")
    reader, writer = await connected(port)
    local = time.strftime("%Y%m%d%H%M%S", time.gmtime(time.time() + 9 * 3600)).encode()
    writer.write(constant().replace(b"|||||ORU", b"|||" + local + b"||ORU"))
    await opening
    rows = asyncio.create_task(gathered(adapter), name="rows")
    await acknowledged(reader)
    assert [each.what for each in adapter.unread.values() if "see `timezone`" in each.what]
    writer.write(constant("72"))
    await acknowledged(reader)
    await adapter.close()
    rows.cancel()
    assert (await rows) == [71, 72]
    assert adapter.counters["clock_not_believed"] == 1
    writer.close()


async def test_a_copy_that_came_before_the_acknowledgement_is_the_same_message() -> None:
    port = free_port()
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}"), Clock())
    opening = asyncio.create_task(adapter.open(), name="opening")
    reader, writer = await connected(port)
    writer.write(constant() + constant())
    await opening
    rows = asyncio.create_task(gathered(adapter), name="rows")
    await acknowledged(reader)
    await acknowledged(reader)
    await adapter.close()
    rows.cancel()
    assert (await rows) == [71]
    assert adapter.counters["resent"] == 1
    assert adapter.unread[""].what.startswith("a copy of an earlier message: taken for its resend")
    writer.close()


async def test_two_beds_of_one_central_that_count_alike_are_two_beds() -> None:
    port = free_port()
    beds = {"bed1": Monitor(facility="BED1"), "bed2": Monitor(facility="BED2")}
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}", monitors=beds), Clock())
    opening = asyncio.create_task(adapter.open(), name="opening")
    lines = {bed: await connected(port) for bed in ("BED1", "BED2")}
    frames = {bed: constant("61" if bed == "BED1" else "101", bed) for bed in lines}
    lines["BED1"][1].write(frames["BED1"])
    await opening
    rows = asyncio.create_task(gathered(adapter), name="rows")
    await acknowledged(lines["BED1"][0])
    lines["BED2"][1].write(frames["BED2"])
    await acknowledged(lines["BED2"][0])
    await adapter.close()
    rows.cancel()
    assert (await rows) == [61, 101]
    for _, writer in lines.values():
        writer.close()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"MSH|^~\\&|KIM||||||ORU^R01|1|P|2.6\r", "only HL7 without the start 0x0B of MLLP"),
        (b"\x0bMSH|^~\\&|KIM||||||ORU^R01|1|P|2.6\r\x1c", "only a message whose end 0x1C 0x0D has not come"),
    ],
)
async def test_a_monitor_that_sends_something_else_is_not_only_silent(sent: bytes, why: str) -> None:
    port = free_port()
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}", silence_s=1.0, half_message_s=60), Clock())
    opening = asyncio.create_task(adapter.open(), name="opening")
    _, writer = await connected(port)
    writer.write(sent)
    with pytest.raises(DeviceStalled, match=why) as caught:
        await opening
    assert caught.value.reason.code == "device-not-read"
    writer.close()


async def test_refused_messages_are_named() -> None:
    port = free_port()
    adapter = Hl7(quick(f"mllp-listen://127.0.0.1:{port}"), Clock())
    opening = asyncio.create_task(adapter.open(), name="opening")
    reader, writer = await connected(port)
    writer.write(constant().replace(b"ORU^R01", b"ADT^A01"))
    await opening
    rows = asyncio.create_task(gathered(adapter), name="rows")
    async with asyncio.timeout(60):
        await reader.readuntil(b"\x1c\r")
    assert adapter.unread[""].what == "a message that was refused: MSH-9: not an ORU message"
    await adapter.close()
    rows.cancel()
    assert (await rows) == []
    writer.close()


async def gathered(adapter: Hl7) -> list[object]:
    found: list[object] = []
    with contextlib.suppress(asyncio.CancelledError, DeviceUnreachable):
        async for row in adapter:
            found.append(row.values["heart_rate"])  # noqa: PERF401 - what came before the end counts
    return found


async def acknowledged(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(60):
        assert b"\rMSA|AA|204\r" in await reader.readuntil(b"\x1c\r")


def constant(value: str = "71", facility: str = "") -> bytes:
    """A message as a monitor sends it that has no clock and one MSH-10 for all."""
    lines = [
        rf"MSH|^~\&||{facility}|||||ORU^R01|204|P|2.3.1",
        "PV1||I",
        "OBR||||Monitor|||0",
        f"OBX||NM|147842^HR||{value}|/min|||||F",
    ]
    return b"\x0b" + "\r".join(lines).encode() + b"\x1c\r"


def message(control_id: bytes = b"17", unit: bytes = b"264864^MDC_DIM_BEAT_PER_MIN") -> bytes:
    lines = [
        rb"MSH|^~\&|M||||20260225061320+0000||ORU^R01^ORU_R01|" + control_id + b"|P|2.6",
        b"OBR|1|||x|||202602250613" + control_id + b"+0000",
        b"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.1.1.1|71|" + unit + b"^MDC|||||R",
    ]
    return b"\r".join(lines) + b"\r"


def test_the_simulated_persons_differ() -> None:
    assert PatientIdentity.of(1).identifiers != PatientIdentity.of(2).identifiers
    assert PatientIdentity.of(1) == PatientIdentity.of(1)
    with pytest.raises(ValueError, match="unit-spo3"):
        BedsideMonitor(faults=["unit-spo3"])
    with pytest.raises(ValueError, match="time-back"):
        BedsideMonitor(faults=["flood"])
