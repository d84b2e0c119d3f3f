"""Simulated devices that speak the real protocols, with seeded faults: edgebed without hardware."""

from __future__ import annotations

import importlib
from typing import Any

# word in `edgebed sim run` -> (module, class): the same word as the adapter that reads it. Each class is an
# async context manager with `.url` and `.port`, takes `host`, `port` (0 = a free one), `seed` and `clock`,
# and is imported on first use
KINDS: dict[str, tuple[str, str]] = {
    "ble": ("simulators.devices.ble", "HeartStrap"),
    "camera": ("simulators.devices.camera.device", "StreetCamera"),
    "chirpstack": ("simulators.devices.chirpstack", "LoraNetwork"),
    "can": ("simulators.devices.can.device", "VehicleBus"),
    "modbus": ("simulators.devices.modbus.device", "ParticulateSensor"),
    "modbus-cobot": ("simulators.devices.modbus.device", "ModbusCobot"),
    "hl7": ("simulators.devices.hl7.device", "BedsideMonitor"),
    "mqtt": ("simulators.devices.mqtt.device", "KerbSensors"),
    "nmea": ("simulators.devices.nmea", "GnssReceiver"),
    "opcua": ("simulators.devices.opcua", "CobotCell"),
    "vda5050": ("simulators.devices.vda5050.device", "AmrVehicle"),
    "opcua-cell": ("simulators.devices.opcua_cell", "ProductionCobot"),
    "signal": ("simulators.devices.mqtt.trial", "Signal"),
    "trip": ("simulators.devices.mqtt.trial", "TripComputer"),
    "ward": ("simulators.devices.mqtt.trial", "AlarmDesk"),
    "serial": ("simulators.devices.serial", "Hygrometer"),
}


def load(kind: str) -> type[Any]:
    """Return the class of a kind.

    Raises:
        KeyError: there is no such kind.
        ModuleNotFoundError: a library of the `sim` extra is not installed.
    """
    module, attribute = KINDS[kind]
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found
