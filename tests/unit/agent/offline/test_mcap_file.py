"""A recording is read as it was written, and a file that is not a recording is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapters.base import Reading
from agent.offline.mcap_file import McapReader, Recorder, RecordingError, decoded, jpeg, read_session
from wire.clock import Clock
from wire.messages import Event, Field, Quality, Stream

STREAMS = {
    "arm": {"joints": Stream(rate_hz=10, fields={"a": Field(t="f64", unit="N"), "on": Field(t="bool")})},
    "camera": {"frames": Stream(kind="frame")},
}
T0 = 1_770_000_000 * 10**9


def recorder(path: Path, config: str = "node: a/b/c/d\n") -> Recorder:
    return Recorder(
        path,
        Clock(),
        about={"version": "1", "config": "agent.yaml"},
        models={"odd": "mean@1.0 abc"},
        config=config,
        streams=STREAMS,
    )


def test_readings_and_events_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    picture = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
    with recorder(path) as made:
        made.reading("arm", Reading("joints", T0, {"a": 0.1, "on": True}))
        made.reading("camera", Reading("frames", T0 + 1, picture=picture, index=7), jpeg(picture, 0))
        made.event("arm", Event(ts=5, type="anomaly", slot="odd"))
        made.reading("arm", Reading("joints", T0 + 2, {"a": None}, quality=Quality.OUT_OF_RANGE))
        assert (made.rows, made.pictures, made.events) == (2, 1, 1)
    found = list(McapReader(path).records())
    assert [each.device for each in found] == ["arm", "camera", "arm", "arm"]
    first, frame, event, last = found
    assert first.reading is not None
    assert (first.reading.stream, first.reading.at_ns) == ("joints", T0)
    assert first.reading.values == {"a": 0.1, "on": True}
    assert frame.reading is not None
    assert frame.reading.picture is not None
    assert (frame.reading.at_ns, frame.reading.index) == (T0 + 1, 7)
    assert np.array_equal(frame.reading.picture, picture), "a PNG is lossless"
    assert event.event is not None
    assert (event.event.ts, event.event.slot) == (5, "odd")
    assert last.reading is not None
    assert last.reading.quality is Quality.OUT_OF_RANGE
    assert first.log_ns <= last.log_ns


def test_a_session_describes_the_recording(tmp_path: Path) -> None:
    recorder(tmp_path / "a.mcap").close()
    found = read_session(tmp_path / "a.mcap")
    assert (found.about, found.models) == (
        {"version": "1", "config": "agent.yaml"},
        {"odd": "mean@1.0 abc"},
    )
    assert found.streams == STREAMS
    assert found.recovered == ""


def test_a_password_in_the_config_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    recorder(path, "url: opc.tcp://op:geheim@10.0.0.1\n").close()
    assert read_session(path).config == "url: opc.tcp://***@10.0.0.1\n"
    assert b"geheim" not in path.read_bytes()


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    recorder(tmp_path / "a.mcap").close()
    with pytest.raises(RecordingError, match="never overwritten"):
        recorder(tmp_path / "a.mcap")


def test_a_file_without_its_end_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    made = recorder(path)
    made.reading("arm", Reading("joints", T0, {"a": 1.0}))
    made.sync()
    path.write_bytes(path.read_bytes() + b"\x05\x10")  # half the head of another record
    reader = McapReader(path)
    found = [each.reading for each in reader.records()]
    assert [(each.at_ns, each.values) for each in found if each is not None] == [(T0, {"a": 1.0})]
    assert reader.session.recovered == "the file was cut off"
    made.close()


def test_another_file_is_not_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(b"hello")
    with pytest.raises(RecordingError, match="is not an MCAP file"):
        read_session(path)
    with pytest.raises(RecordingError, match="cannot be read"):
        read_session(tmp_path / "nowhere.mcap")


def test_bytes_that_are_not_a_picture_are_refused() -> None:
    for data in (b"", b"hello"):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decoded(data)
