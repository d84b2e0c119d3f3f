"""The camera adapter against the street camera: the contract, then what is particular to pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.camera import Camera
from adapters.testing import AdapterContract, Rig
from simulators.camera import StreetCamera
from simulators.faults import FaultProxy
from wire.clock import Clock

WORD = "s3cret-word"


class TestCameraContract(AdapterContract):
    """RTSP over TCP through the fault proxy."""

    adapter = Camera
    good_options = {"url": "rtsp://viewer:s3cret-word@127.0.0.1:9/street"}  # noqa: RUF012 - read only
    bad_options = [  # noqa: RUF012 - read only
        ({}, "exactly one of url, device, file and folder is needed, none is given"),
        ({"url": "rtsp://a", "device": 0}, "not url and device"),
        ({"url": "http://s3cret-word@a/b"}, "rtsp://"),
        ({"url": "rtsp://u:s3cret-word@"}, "rtsp://"),
        ({"url": "rtsp://u:s3cret-word@a:port/b"}, "port"),
        ({"url": "rtsp://a:0/b"}, "rtsp://"),
        ({"url": "rtsp://a/b c"}, "blank"),
        ({"url": "rtsp://a", "pace": "asap"}, "for a file or folder"),
        ({"device": 0, "loop": True}, "for a file or folder"),
        ({"device": -1}, "device"),
        ({"url": "rtsp://a", "transport": "carrier-pigeon"}, "carrier-pigeon"),
        ({"url": "rtsp://a", "read_timeout_s": 0}, "read_timeout_s"),
        ({"url": "rtsp://a", "size": [640]}, "size"),
        ({"url": "rtsp://a", "size": [5000, 100]}, "max_size"),
    ]
    secrets = [WORD]  # noqa: RUF012 - read only
    opens_within_s = 2.5
    stalls_within_s = 2.0
    fails_within_s = 2.0

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        async with (
            StreetCamera(seed=1, fps=30, user="viewer", password=WORD) as camera,
            FaultProxy(camera.port, seed=1) as link,
        ):
            options = Camera.Options(
                url=f"rtsp://viewer:{WORD}@127.0.0.1:{link.port}/street",
                open_timeout_s=1.5,
                read_timeout_s=1.0,
            )
            yield Rig(lambda: Camera(options, Clock()), link)
