"""Measurements of OBD-II service 01 as SAE J1979 (ISO 15031-5) defines them, and the negative responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wire.messages import Field


class Pid(NamedTuple):
    """One parameter: its number, its size in bytes, and the value of these bytes as an unsigned number."""

    number: int
    size: int
    value: Callable[[int], float]
    field: Field


def _pid(
    number: int, size: int, unit: str, desc: str, *, factor: float = 1.0, offset: float = 0.0, dec: int = 0
) -> Pid:
    largest = 256**size - 1
    field = Field(unit=unit, dec=dec, min=offset, max=largest * factor + offset, desc=desc)
    return Pid(number, size, lambda raw: raw * factor + offset, field)


_SHARE = 100 / 255

PIDS: dict[str, Pid] = {
    "engine_load": _pid(0x04, 1, "%", "Calculated engine load.", factor=_SHARE, dec=1),
    "coolant_temperature": _pid(0x05, 1, "Cel", "Engine coolant; in an EV, of the drive.", offset=-40),
    "intake_pressure": _pid(0x0B, 1, "kPa", "Intake manifold, absolute."),
    "engine_speed": _pid(0x0C, 2, "/min", "Engine speed.", factor=0.25, dec=2),
    "vehicle_speed": _pid(0x0D, 1, "km/h", "Vehicle speed."),
    "intake_temperature": _pid(0x0F, 1, "Cel", "Intake air.", offset=-40),
    "air_flow": _pid(0x10, 2, "g/s", "Mass air flow.", factor=0.01, dec=2),
    "throttle": _pid(0x11, 1, "%", "Absolute throttle position.", factor=_SHARE, dec=1),
    "run_time": _pid(0x1F, 2, "s", "Since the drive was switched on."),
    "distance_with_fault": _pid(0x21, 2, "km", "Driven with the fault lamp on."),
    "fuel_level": _pid(0x2F, 1, "%", "Fuel tank level.", factor=_SHARE, dec=1),
    "distance_since_cleared": _pid(0x31, 2, "km", "Driven since the fault codes were cleared."),
    "barometric_pressure": _pid(0x33, 1, "kPa", "Air pressure, absolute."),
    "control_voltage": _pid(0x42, 2, "V", "Supply of the control unit.", factor=0.001, dec=3),
    "relative_throttle": _pid(0x45, 1, "%", "Relative throttle position.", factor=_SHARE, dec=1),
    "ambient_temperature": _pid(0x46, 1, "Cel", "Air around the vehicle.", offset=-40),
    "accelerator_d": _pid(0x49, 1, "%", "Accelerator pedal, sensor D.", factor=_SHARE, dec=1),
    "accelerator_e": _pid(0x4A, 1, "%", "Accelerator pedal, sensor E.", factor=_SHARE, dec=1),
    "relative_accelerator": _pid(0x5A, 1, "%", "Relative accelerator pedal.", factor=_SHARE, dec=1),
    "hybrid_battery": _pid(0x5B, 1, "%", "Remaining charge of the traction battery.", factor=_SHARE, dec=1),
    "oil_temperature": _pid(0x5C, 1, "Cel", "Engine oil.", offset=-40),
    "fuel_rate": _pid(0x5E, 2, "L/h", "Engine fuel rate.", factor=0.05, dec=2),
    "demanded_torque": _pid(0x61, 1, "%", "Driver's demand, of the reference torque.", offset=-125),
    "actual_torque": _pid(0x62, 1, "%", "Actual torque, of the reference torque.", offset=-125),
    "reference_torque": _pid(0x63, 2, "N.m", "Reference torque."),
    "odometer": _pid(0xA6, 4, "km", "Odometer.", factor=0.1, dec=1),
}

PENDING = 0x78

# ISO 14229-1, annex A
NEGATIVE: dict[int, str] = {
    0x10: "generalReject",
    0x11: "serviceNotSupported",
    0x12: "subFunctionNotSupported",
    0x13: "incorrectMessageLengthOrInvalidFormat",
    0x14: "responseTooLong",
    0x21: "busyRepeatRequest",
    0x22: "conditionsNotCorrect",
    0x24: "requestSequenceError",
    0x25: "noResponseFromSubnetComponent",
    0x31: "requestOutOfRange",
    0x33: "securityAccessDenied",
    0x34: "authenticationRequired",
    0x78: "requestCorrectlyReceivedResponsePending",
    0x7E: "subFunctionNotSupportedInActiveSession",
    0x7F: "serviceNotSupportedInActiveSession",
}
