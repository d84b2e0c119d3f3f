"""Adapters: each turns the bytes of one device protocol into readings. `load` finds one by its name."""

from __future__ import annotations

import importlib

from adapters.base import Adapter, OptionsError

GROUP = "edgebed.adapters"

# name in a config -> (module, class, extra); imported on first use, because imports cost memory
BUILT_IN: dict[str, tuple[str, str, str]] = {
    "ble": ("adapters.ble.adapter", "Ble", "ble"),
    "camera": ("adapters.camera.adapter", "Camera", "camera"),
    "can": ("adapters.can.adapter", "Can", "can"),
    "chirpstack": ("adapters.chirpstack.adapter", "ChirpStack", ""),
    "modbus": ("adapters.modbus.adapter", "Modbus", "modbus"),
    "mqtt": ("adapters.mqtt.adapter", "Mqtt", ""),
    "nmea": ("adapters.nmea.adapter", "Nmea", "serial"),
    "obd": ("adapters.obd.adapter", "Obd", "can"),
    "hl7": ("adapters.hl7.adapter", "Hl7", ""),
    "opcua": ("adapters.opcua.adapter", "OpcUa", "opcua"),
    "replay": ("adapters.replay.adapter", "Replay", ""),
    "serial": ("adapters.serial", "SerialLines", "serial"),
    "vda5050": ("adapters.vda5050.adapter", "Vda5050", ""),
}


def names() -> list[str]:
    """The names of all adapters, built in or installed, sorted."""
    from wire.plugins import entry_points

    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def load(name: str) -> type[Adapter]:
    """The adapter class for a name in a config; a built-in name is not looked up among installed packages.

    Raises:
        OptionsError: the name is unknown, two packages register it, or an extra is not installed.
    """
    if name not in BUILT_IN:
        return _third_party(name)
    module, attribute, extra = BUILT_IN[name]
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise OptionsError(
            f"adapter {name!r} needs {error.name}, which is missing: pip install 'edgebed[{extra}]'"
        ) from error
    return found  # type: ignore[no-any-return]


def _third_party(name: str) -> type[Adapter]:
    from wire.plugins import third_party  # here, because importlib.metadata costs memory

    found = third_party(GROUP, "adapter", name, Adapter, OptionsError)  # type: ignore[type-abstract]
    if found is None:
        raise OptionsError(f"unknown adapter {name!r}; there are {', '.join(names())}")
    return found
