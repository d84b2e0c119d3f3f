"""The device side of every protocol, seeded faults and load: all of edgebed without hardware."""

from __future__ import annotations

import importlib
from typing import Any

# word in `edgebed sim run` -> (module, class): the same word as the adapter that reads it. Each class is an
# async context manager with `.url` and `.port`, takes `host`, `port` (0 = a free one), `seed` and `clock`,
# and is imported on first use
KINDS: dict[str, tuple[str, str]] = {
    "ble": ("simulators.ble", "HeartStrap"),
    "camera": ("simulators.camera", "StreetCamera"),
    "chirpstack": ("simulators.chirpstack", "LoraNetwork"),
    "can": ("simulators.can", "VehicleBus"),
    "modbus": ("simulators.modbus", "ParticulateSensor"),
    "modbus-cobot": ("simulators.modbus", "ModbusCobot"),
    "hl7": ("simulators.hl7", "BedsideMonitor"),
    "mqtt": ("simulators.mqtt", "KerbSensors"),
    "nmea": ("simulators.nmea", "GnssReceiver"),
    "opcua": ("simulators.opcua", "CobotCell"),
    "vda5050": ("simulators.vda5050", "AmrVehicle"),
    "serial": ("simulators.serial", "Hygrometer"),
}


def load(kind: str) -> type[Any]:
    """The server class of a kind.

    Raises:
        KeyError: no such kind.
        ModuleNotFoundError: a library of the `sim` extra is not installed.
    """
    module, attribute = KINDS[kind]
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found
