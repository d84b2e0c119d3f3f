"""The simulated bedside monitor by itself: its messages, the same at any rate, and how it resends."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from simulators.devices.hl7.device import BedsideMonitor
from simulators.devices.hl7.messages import PatientIdentity, verdict
from simulators.plants.patient import Patient
from wire.clock import NS_PER_S, Clock

START_NS = 1_772_000_000 * NS_PER_S
TIME = re.compile(rb"2026\d{10}\.\d{3}")
ACK = "MSH|^~\\&|R||M||20260225||ACK^R01^ACK|1|P|2.6\rMSA|{code}|{about}\r"


@contextlib.asynccontextmanager
async def line(monitor: BedsideMonitor) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", monitor.port, limit=2**24)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def take(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(60):
        return (await reader.readuntil(b"\x1c\r"))[1:-2]


def answer(writer: asyncio.StreamWriter, message: bytes, code: str = "AA") -> None:
    about = message.split(b"|", 10)[9].decode()
    writer.write(b"\x0b" + ACK.format(code=code, about=about).encode() + b"\x1c\r")


async def messages(rate: float, count: int, **more: Any) -> list[bytes]:
    monitor = BedsideMonitor(seed=5, clock=Clock(rate, START_NS), **more)
    async with monitor, line(monitor) as (reader, writer):
        found: list[bytes] = []
        while len(found) < count:
            found.append(await take(reader))
            answer(writer, found[-1])
        return found


async def test_the_same_seed_says_the_same_at_any_rate() -> None:
    slow, fast = await messages(8, 6), await messages(100, 6)
    # the first whole second may be another one on a busy machine
    assert [TIME.sub(b"", raw) for raw in slow] == [TIME.sub(b"", raw) for raw in fast]
    assert all(raw.startswith(b"MSH|^~\\&|EDGEBED_MONITOR^") for raw in slow)


async def test_numbers_and_ecg_are_the_patients() -> None:
    vitals, ecg = await messages(50, 2)
    obx = [segment.split("|") for segment in vitals.decode().split("\r") if segment.startswith("OBX")]
    shown = {fields[3].split("^")[1]: float(fields[5]) for fields in obx if fields[2] == "NM"}
    truth = Patient(5).vitals(0)
    assert shown["MDC_ECG_HEART_RATE"] == truth["heart_rate"]
    assert shown["MDC_TEMP_BODY"] == truth["temperature"]
    wave = next(segment for segment in ecg.decode().split("\r") if "|NA|" in segment).split("|")
    steps = [round(value * 1000) for value in Patient(5).ecg(0, 250).tolist()]
    assert list(map(int, wave[5].split("^"))) == steps
    assert re.fullmatch(r"2026022506132\d\.000\+0000", wave[14])


async def test_a_message_comes_again_until_it_is_acknowledged() -> None:
    async with BedsideMonitor(seed=5, clock=Clock(50, START_NS), ack_s=0.1) as monitor:
        async with line(monitor) as (reader, _):
            first = await take(reader)
            assert await take(reader) == first
        async with line(monitor) as (reader, writer):  # and on the next connection
            assert await take(reader) == first
            answer(writer, first, "AE")  # it was read as far as it could be
            second = await take(reader)
            assert second != first
            answer(writer, second, "CA")
            assert await take(reader) not in (first, second)
    assert monitor.counters["resent"] >= 1
    assert monitor.counters["errors"] == 1


async def test_faults_of_the_monitor_and_of_its_patient() -> None:
    spoken = await messages(50, 8, faults=["korean@1-2", "large@2-3x0.05", "other-patient@3", "fever@0"])
    latin, korean, large, other = (spoken[at] for at in (0, 2, 4, 6))
    assert PatientIdentity.of(5).family.encode() in latin
    assert PatientIdentity.of(5, korean=True).family.encode() in korean
    assert len(large) > 90_000
    assert PatientIdentity.of(1005).number.encode() in other


async def test_truth_is_there_for_its_samples_only() -> None:
    async with BedsideMonitor(seed=5, clock=Clock(1, START_NS), faults=["af@1-2"]) as monitor:
        at = monitor.start_ns
        assert monitor.truth(at).keys() == {*Patient(5).vitals(0), "ecg", "label"}
        assert monitor.truth(at + 4_000_000).keys() == {"ecg", "label"}
        assert monitor.truth(at + NS_PER_S)["label"] == "AF"
        assert monitor.truth(at + 1) == monitor.truth(at - NS_PER_S) == {}
        monitor.repair()
        assert monitor.truth(at + NS_PER_S)["label"] == "N"


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="Shift-JIS"):
        BedsideMonitor(charset="Shift-JIS")
    with pytest.raises(ValueError, match="host:port"):
        BedsideMonitor(connect="nowhere")
    assert BedsideMonitor(connect="10.0.0.1:2575").url == "mllp-listen://10.0.0.1:2575"
    assert verdict(b"MSH|x\rMSA|AE") == ("AE", "")
    assert verdict(b"nothing") == ("", "")
