"""A GNSS receiver in a vehicle: NMEA 0183 on TCP or on a pseudo terminal, as a u-blox receiver sends it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from simulators.devices.line_server import Talker
from simulators.faults.fault import DeviceFaults
from simulators.plants import vehicle
from simulators.plants.vehicle import Vehicle
from simulators.simulator import Value
from wire.clock import Clock

FAULTS = {
    "no-fix": "the receiver knows no position",
    "jump": "the position is SIZE x 500 m north of the true one",
    "checksum": "a SIZE share of the sentences has a wrong checksum",
    "half-line": "each burst ends in the middle of GGA",
    "silent": "nothing is sent",
    "backward": "the time is SIZE x 10 s behind",
    "rollover": "the date is 1,024 weeks behind: a counter of ten bits has rolled over",
}

_KNOT_KMH = 1.852
_DEGREE_M = 111_195.0  # of latitude
_SLOW_KMH = 0.5  # below this the receiver knows no course
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class GnssReceiver(Talker):
    """Use: `async with GnssReceiver(seed=1) as receiver: receiver.url`.

    `rate_hz` is 1, 2, 5 or 10. With `terminal` the URL is that of a pseudo terminal, else of a TCP server
    that sends the same to every client. Faults are those of `FAULTS` and those of the vehicle.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        rate_hz: int = 1,
        talker: str = "GN",
        terminal: bool = False,
    ) -> None:
        if rate_hz not in (1, 2, 5, 10):
            raise ValueError(f"a receiver reports 1, 2, 5 or 10 times a second, not {rate_hz}")
        super().__init__(
            host=host,
            port=port,
            clock=clock,
            rate_hz=rate_hz,
            terminal=terminal,
            faults=DeviceFaults(FAULTS, vehicle.FAULTS, faults),
        )
        self._seed = seed
        self._talker = talker
        self._vehicle = Vehicle(seed, self._faults.of_plant)

    def truth(self, at_ns: int) -> dict[str, Value]:
        """Where the vehicle really was at a time of the receiver, by the adapter's field names."""
        index = self._sample(at_ns)
        if index is None:
            return {}
        sample = self._vehicle.sample(index * vehicle.RATE_HZ // self.rate_hz)
        return {name: sample[name] for name in ("latitude", "longitude", "altitude", "speed", "heading")}

    def inject(self, fault: str) -> None:
        """Break something from now on, or from the fault's start where that is later."""
        super().inject(fault)
        self._vehicle = Vehicle(self._seed, self._faults.of_plant)

    def repair(self) -> None:
        """Remove every fault."""
        super().repair()
        self._vehicle = Vehicle(self._seed)

    # --- the sentences

    def output(self, index: int) -> bytes:
        """All sentences of one sample, as they go over the line."""
        at_s = index / self.rate_hz
        if self._faults.size("silent", at_s):
            return b""
        at = _EPOCH + timedelta(microseconds=self._at_ns(index) // 1_000)
        at -= timedelta(seconds=10 * self._faults.size("backward", at_s))
        if self._faults.size("rollover", at_s):
            at -= timedelta(weeks=1_024)
        bodies = self._lost(at) if self._faults.size("no-fix", at_s) else self._found(index, at_s, at)
        share = self._faults.size("checksum", at_s)
        wrong = np.random.default_rng([self._seed, index, 7]).random(len(bodies)) < share
        lines = [sentence(self._talker + body, 0x55 * bad) for body, bad in zip(bodies, wrong, strict=True)]
        data = "".join(lines).encode("ascii")
        return data[: data.rindex(b"GGA") + 20] if self._faults.size("half-line", at_s) else data

    def _found(self, index: int, at_s: float, at: datetime) -> list[str]:
        sample = self._vehicle.sample(index * vehicle.RATE_HZ // self.rate_hz)
        north = sample["latitude"] + 500.0 * self._faults.size("jump", at_s) / _DEGREE_M
        place = f"{angle(north, 2, 'NS')},{angle(sample['longitude'], 3, 'EW')}"
        speed = max(0.0, sample["speed"])
        course = f"{sample['heading'] % 360:.2f}" if speed >= _SLOW_KMH else ""
        # satellites rise and set within minutes
        satellites = 10 + round(2 * math.sin(at_s / 300 + self._seed))
        hdop = f"{9.5 / satellites:.2f}"
        time, knots = clock_time(at), f"{speed / _KNOT_KMH:.3f}"
        used = ",".join(f"{2 + n:02d}" if n < satellites else "" for n in range(12))
        return [
            f"RMC,{time},A,{place},{knots},{course},{at:%d%m%y},,,A",
            f"VTG,{course},T,,M,{knots},N,{speed:.3f},K,A",
            f"GGA,{time},{place},1,{satellites:02d},{hdop},{sample['altitude']:.1f},M,0.0,M,,",
            f"GSA,A,3,{used},{9.5 / satellites + 0.7:.2f},{hdop},1.10",
            "GSV,1,1,00",
        ]

    def _lost(self, at: datetime) -> list[str]:
        time = clock_time(at)
        return [
            f"RMC,{time},V,,,,,,,{at:%d%m%y},,,N",
            "VTG,,,,,,,,,N",
            f"GGA,{time},,,,,0,00,99.99,,,,,,",
            f"GSA,A,1{',' * 12},99.99,99.99,99.99",
            "GSV,1,1,00",
        ]


def sentence(body: str, spoil: int = 0) -> str:
    """`$`, body, `*`, checksum and the line end; a `spoil` other than 0 makes the checksum wrong."""
    total = spoil
    for character in body:
        total ^= ord(character)
    return f"${body}*{total:02X}\r\n"


def angle(degrees: float, width: int, sides: str) -> str:
    """`ddmm.mmmmm,N`: minutes with five decimals (2 cm); `width` is that of the whole degrees."""
    total = round(abs(degrees) * 60e5)
    whole, rest = divmod(total, 6_000_000)
    return f"{whole:0{width}d}{rest // 100_000:02d}.{rest % 100_000:05d},{sides[degrees < 0]}"


def clock_time(at: datetime) -> str:
    """`hhmmss.ss`."""
    return f"{at:%H%M%S}.{at.microsecond // 10_000:02d}"
