"""A hygrometer that sends a line of text for each sample, as self-made sensors on a USB cable do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

from simulators.devices.line_server import Talker
from simulators.faults.fault import DeviceFaults
from simulators.simulator import Value
from wire.clock import Clock

FAULTS = {
    "garbled": "lines are noise",
    "error": "the temperature reads ERR",
    "no-newline": "lines do not end",
    "silent": "nothing is sent",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Hygrometer(Talker):
    """Use: `async with Hygrometer(seed=1) as device: device.url`; lines of `form`, `rate_hz` a second.

    csv is `2026-01-01T00:00:00.000000+00:00,23.41,40.2`, key-value `T=23.41 H=40.2`, json
    `{"at": 1767225600.0, "air": {"T": 23.41, "H": 40.2}}`.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        form: Literal["csv", "key-value", "json"] = "csv",
        rate_hz: int = 1,
        terminal: bool = False,
    ) -> None:
        if not 1 <= rate_hz <= 1_000:
            raise ValueError(f"a hygrometer prints 1 to 1,000 lines a second, not {rate_hz}")
        super().__init__(
            host=host,
            port=port,
            clock=clock,
            rate_hz=rate_hz,
            terminal=terminal,
            faults=DeviceFaults(FAULTS, faults=faults),
        )
        self._seed, self._form = seed, form

    def truth(self, at_ns: int) -> dict[str, Value]:
        """Temperature (Cel) and humidity (%) of the sample at this time."""
        index = self._sample(at_ns)
        return {} if index is None else dict(self._air(index))

    def output(self, index: int) -> bytes:
        """The line of one sample."""
        at_s = index / self.rate_hz
        if self._faults.size("silent", at_s):
            return b""
        end = b"" if self._faults.size("no-newline", at_s) else b"\r\n"
        if self._faults.size("garbled", at_s):
            noise = np.random.default_rng([self._seed, index]).bytes(24)
            return noise.replace(b"\n", b"?").replace(b"\r", b"?") + end
        air = self._air(index)
        temperature = "ERR" if self._faults.size("error", at_s) else f"{air['temperature']:.2f}"
        humidity = f"{air['humidity']:.1f}"
        at = _EPOCH + timedelta(microseconds=self._at_ns(index) // 1_000)
        if self._form == "json":
            number = temperature if temperature != "ERR" else '"ERR"'
            text = f'{{"at": {at.timestamp():.6f}, "air": {{"T": {number}, "H": {humidity}}}}}'
        elif self._form == "key-value":
            text = f"T={temperature} H={humidity}"
        else:
            text = f"{at.isoformat(timespec='microseconds')},{temperature},{humidity}"
        return text.encode() + end

    def _air(self, index: int) -> dict[str, float]:
        wave = math.sin(index / self.rate_hz / 30 + self._seed)
        return {"temperature": 23 + 2 * wave, "humidity": 45 - 6 * wave}
