"""The url of a Modbus device: a TCP port, or a serial port with its settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qs

from adapters import device_url
from adapters.base import OptionsError, SharedLine

_PARITIES = ("N", "E", "O")


@dataclass(frozen=True, slots=True)
class ModbusUrl:
    """The parts of a `url`: where a device is."""

    url: str
    kind: Literal["tcp", "rtu", "rtu+tcp"]
    host: str  # or the serial device's path
    port: int = 0
    baud: int = 9_600
    parity: str = "N"
    stop: int = 1

    @property
    def shared(self) -> SharedLine:
        """The line, and the settings that all devices on it need."""
        if self.kind == "rtu":
            port = os.path.realpath(self.host)  # /dev/serial/by-id/... and /dev/ttyUSB0 are one port
            return SharedLine(port, f"{self.baud} baud, parity {self.parity}, stop {self.stop}")
        frames = "Modbus TCP (tcp://)" if self.kind == "tcp" else "RTU over TCP (rtu+tcp://)"
        return SharedLine(f"{self.host}:{self.port}", frames)

    @classmethod
    def parse(cls, url: str) -> ModbusUrl:
        """Read `tcp://host:port`, `rtu+tcp://host:port` or `rtu:///dev/ttyUSB0?baud=9600&parity=N&stop=1`.

        Raises:
            OptionsError: it has another form.
        """
        parts = device_url.split(url, "remove it, Modbus has neither")
        port = parts.port
        if parts.scheme == "rtu":
            return _serial(url, parts)
        if parts.scheme not in ("tcp", "rtu+tcp") or not parts.hostname:
            raise OptionsError(
                f"url {url!r} is not tcp://host:502, rtu+tcp://host:port or rtu:///dev/ttyUSB0?baud=9600"
            )
        if parts.path.strip("/") or parts.query:
            raise OptionsError(f"url {url!r} has a path or query after its port: remove it")
        if port == 0 or (port is None and parts.scheme == "rtu+tcp"):
            raise OptionsError(f"url {url!r} needs a port")
        kind: Literal["tcp", "rtu+tcp"] = "tcp" if parts.scheme == "tcp" else "rtu+tcp"
        return cls(url, kind, parts.hostname, port or 502)


def _serial(url: str, parts: SplitResult) -> ModbusUrl:
    if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
        raise OptionsError(f"url {url!r} is not rtu:///dev/ttyUSB0?baud=9600: three slashes, then the path")
    given = parse_qs(parts.query, keep_blank_values=True)
    settings = {name: values[-1] for name, values in given.items()}
    for name in settings:
        if name not in ("baud", "parity", "stop"):
            raise OptionsError(f"url {url!r} sets {name!r}; there are baud, parity, stop")
    baud, parity, stop = (
        settings.get("baud", "9600"),
        settings.get("parity", "N").upper(),
        settings.get("stop", "1"),
    )
    if not (baud.isascii() and baud.isdigit() and 50 <= int(baud[:9]) <= 4_000_000):
        raise OptionsError(f"url {url!r}: baud {baud!r} is not 50 to 4000000")
    if parity not in _PARITIES or stop not in ("1", "2"):
        raise OptionsError(f"url {url!r}: parity is N, E or O and stop 1 or 2")
    return ModbusUrl(url, "rtu", parts.path, 0, int(baud), parity, int(stop))
