"""Units of DBC files as UCUM codes, and linear conversions between units of one quantity."""

from __future__ import annotations

# Vector's DBC format leaves units to the author: these are the spellings in public DBC files
_SPELLINGS: dict[str, str] = {
    "km/h": "km/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "m/s": "m/s", "mps": "m/s",
    "mph": "[mi_i]/h", "mi/h": "[mi_i]/h", "kn": "[kn_i]", "knots": "[kn_i]",
    "m/s2": "m/s2", "m/s^2": "m/s2", "m/s²": "m/s2", "m/s/s": "m/s2", "mps2": "m/s2",
    "degc": "Cel", "°c": "Cel", "c": "Cel", "℃": "Cel", "deg c": "Cel", "celsius": "Cel", "cel": "Cel",
    "degf": "[degF]", "°f": "[degF]",
    "deg": "deg", "°": "deg", "degree": "deg", "degrees": "deg", "rad": "rad",
    "deg/s": "deg/s", "°/s": "deg/s", "degree/s": "deg/s", "deg/sec": "deg/s", "rad/s": "rad/s",
    "rpm": "/min", "1/min": "/min", "min-1": "/min", "u/min": "/min", "rev/min": "/min",
    "%": "%", "percent": "%", "pct": "%", "ohm": "Ohm", "kohm": "kOhm", "ω": "Ohm",
    "kpa": "kPa", "hpa": "hPa", "mbar": "mbar", "bar": "bar", "psi": "[psi]",
    "nm": "N.m", "n.m": "N.m", "n*m": "N.m", "n": "N",
    "sec": "s", "second": "s", "seconds": "s", "msec": "ms", "usec": "us", "µs": "us", "min": "min",
    "hz": "Hz", "khz": "kHz", "h": "h", "hr": "h",
    "km": "km", "mm": "mm", "cm": "cm", "mi": "[mi_i]", "mile": "[mi_i]", "miles": "[mi_i]", "ft": "[ft_i]",
    "kwh": "kW.h", "wh": "W.h", "kw": "kW", "hp": "[HP]", "ah": "A.h", "mah": "mA.h",
    "l": "L", "l/h": "L/h", "ml": "mL", "kg": "kg", "volt": "V", "volts": "V", "amp": "A", "amps": "A",
}  # fmt: skip
# already UCUM; some differ only in case
_EXACT = frozenset(
    ["V", "mV", "kV", "A", "mA", "kA", "W", "mW", "kW", "MW", "K", "Pa", "mPa", "MPa", "s", "ms", "us", "ns",
     "m", "J", "kJ", "Ohm", "mOhm", "MOhm", "N", "kN", "mHz", "MHz", "uT", "mT", "1"]
)  # fmt: skip

# UCUM unit -> (quantity, factor, offset): factor * value + offset is the quantity in its base unit
_LINEAR: dict[str, tuple[str, float, float]] = {
    "m/s": ("speed", 1, 0), "km/h": ("speed", 1 / 3.6, 0), "[mi_i]/h": ("speed", 0.44704, 0),
    "[kn_i]": ("speed", 1852 / 3600, 0),
    "m/s2": ("acceleration", 1, 0), "[g]": ("acceleration", 9.80665, 0),
    "Cel": ("temperature", 1, 0), "K": ("temperature", 1, -273.15),
    "[degF]": ("temperature", 5 / 9, -160 / 9),
    "deg": ("angle", 1, 0), "rad": ("angle", 57.29577951308232, 0),
    "deg/s": ("turn", 1, 0), "rad/s": ("turn", 57.29577951308232, 0),
    "V": ("voltage", 1, 0), "mV": ("voltage", 1e-3, 0), "kV": ("voltage", 1e3, 0),
    "A": ("current", 1, 0), "mA": ("current", 1e-3, 0), "kA": ("current", 1e3, 0),
    "W": ("power", 1, 0), "kW": ("power", 1e3, 0), "MW": ("power", 1e6, 0),
    "J": ("energy", 1, 0), "kJ": ("energy", 1e3, 0), "W.h": ("energy", 3600, 0), "kW.h": ("energy", 3.6e6, 0),
    "A.h": ("charge", 1, 0), "mA.h": ("charge", 1e-3, 0),
    "Pa": ("pressure", 1, 0), "hPa": ("pressure", 100, 0), "mbar": ("pressure", 100, 0),
    "kPa": ("pressure", 1e3, 0), "bar": ("pressure", 1e5, 0), "MPa": ("pressure", 1e6, 0),
    "[psi]": ("pressure", 6894.757293168361, 0),
    "m": ("length", 1, 0), "km": ("length", 1e3, 0), "cm": ("length", 1e-2, 0), "mm": ("length", 1e-3, 0),
    "[mi_i]": ("length", 1609.344, 0), "[ft_i]": ("length", 0.3048, 0),
    "s": ("time", 1, 0), "ms": ("time", 1e-3, 0), "us": ("time", 1e-6, 0), "ns": ("time", 1e-9, 0),
    "min": ("time", 60, 0), "h": ("time", 3600, 0),
    "%": ("share", 1e-2, 0), "1": ("share", 1, 0),
    "/min": ("frequency", 1 / 60, 0), "Hz": ("frequency", 1, 0), "kHz": ("frequency", 1e3, 0),
}  # fmt: skip


def ucum(written: str) -> str:
    """The UCUM code of a unit as a DBC file writes it; an unknown unit as an annotation, `{as written}`."""
    text = written.strip()
    if not text or text in _EXACT or text in _LINEAR:
        return text
    found = _SPELLINGS.get(text.lower())
    if found is not None:
        return found
    # UCUM allows printable ASCII without braces in an annotation
    kept = "".join(letter if "!" <= letter <= "~" and letter not in "{}" else "_" for letter in text)
    return f"{{{kept[:100]}}}"


def conversion(source: str, target: str) -> tuple[float, float] | None:
    """(factor, offset) from one UCUM unit to another; None where they are not of one known quantity."""
    if source == target:
        return 1.0, 0.0
    if source not in _LINEAR or target not in _LINEAR:
        return None
    (one, factor, offset), (other, divisor, shift) = _LINEAR[source], _LINEAR[target]
    if one != other:
        return None
    return factor / divisor, (offset - shift) / divisor


def known(unit: str) -> bool:
    """Whether the quantity of a UCUM unit is known."""
    return unit in _LINEAR
