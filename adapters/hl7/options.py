"""What is said of HL7 monitors in a config, and what can be wrong with it before any monitor is asked."""

from __future__ import annotations

import ipaddress
import zoneinfo
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from adapters.base import Options, OptionsError
from adapters.fields import declared
from adapters.hl7.catalog import VITALS, WAVEFORMS, Vital, Waveform
from adapters.hl7.mllp import Network
from adapters.hl7.tls import Tls
from wire.messages import Field, Stream, is_id


class Monitor(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How one of several monitors is told from the others; what is empty is not looked at."""

    application: Annotated[str, Meta(max_length=227, description="MSH-3, its first component.")] = ""
    facility: Annotated[str, Meta(max_length=227, description="MSH-4, its first component.")] = ""
    peer: Annotated[str, Meta(description="Address or network that it connects from.")] = ""


class Hl7Options(Options, frozen=True, kw_only=True):
    """One monitor, or several told apart by `monitors`, whose streams then begin with their name."""

    url: Annotated[
        str,
        Meta(max_length=300, description="mllp-listen://host:port (it connects to us) or mllp://host:port."),
    ]
    application: Annotated[
        str, Meta(max_length=227, description="MSH-3 (first component) it must have; empty = any.")
    ] = ""
    facility: Annotated[
        str, Meta(max_length=227, description="MSH-4 (first component) it must have; empty = any.")
    ] = ""
    monitors: Annotated[
        dict[str, Monitor], Meta(max_length=64, description="Name to monitor; streams are NAME-vitals, ...")
    ] = msgspec.field(default_factory=dict)
    peers: Annotated[
        list[str],
        Meta(max_length=100, description="Networks that may connect; needed beyond loopback."),
    ] = msgspec.field(default_factory=list)
    tls: (
        Annotated[Tls, Meta(description="Encrypt, and know each other by certificates; else clear text.")]
        | None
    ) = None
    patient_key_file: (
        Annotated[
            Path, Meta(description="Secret key of the pseudonyms; without it there is no stream `patient`.")
        ]
        | None
    ) = None
    fields: Annotated[
        dict[str, Vital], Meta(max_length=200, description="Field of stream `vitals` to OBX code and unit.")
    ] = msgspec.field(default_factory=lambda: VITALS)
    waveforms: Annotated[
        dict[str, Waveform], Meta(max_length=20, description="Stream to OBX code, unit and sample rate.")
    ] = msgspec.field(default_factory=lambda: WAVEFORMS)
    timezone: Annotated[
        str, Meta(max_length=64, description="Of times without an offset, e.g. Asia/Seoul.")
    ] = "UTC"
    max_skew_s: Annotated[
        float, Meta(gt=0, description="Times further in the past than this are not believed.")
    ] = 86_400.0
    max_ahead_s: Annotated[
        float, Meta(gt=0, description="Times further in the future than this are not believed.")
    ] = 120.0
    value_age_s: Annotated[
        float, Meta(gt=0, description="A value measured longer before its set is flagged.")
    ] = 3_600.0
    silence_s: Annotated[
        float, Meta(gt=0, le=86_400, description="No message for so long: it has stalled.")
    ] = 10.0
    rejoin_s: Annotated[
        float, Meta(ge=0, le=3_600, description="mllp-listen: one that went may come back for so long.")
    ] = 10.0
    half_message_s: Annotated[
        float, Meta(gt=0, le=600, description="A message that stops coming is given up after so long.")
    ] = 5.0
    max_message_kb: Annotated[int, Meta(ge=1, le=65_536, description="A longer message is refused.")] = 4_096
    ack: Annotated[
        Literal["auto", "application", "never"],
        Meta(description="auto = as MSH-15 and MSH-16 ask; application = always AA, AE or AR."),
    ] = "auto"


def where(url: str) -> tuple[str, str, int]:
    """Scheme, host and port.

    Raises:
        OptionsError: it is no URL of this adapter.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise OptionsError("url holds a user or password: MLLP has none")
    try:
        port = parts.port
    except ValueError as error:
        raise OptionsError(f"url {url!r} has no usable port: {error}") from error
    usable = parts.scheme in ("mllp", "mllp-listen") and port and parts.path in ("", "/")
    if not usable or not parts.hostname:
        raise OptionsError(f"url {url!r} is not mllp-listen://host:port or mllp://host:port")
    return parts.scheme, parts.hostname, port or 0


def networks(options: Hl7Options) -> list[Network]:
    """Who may connect; empty where only this machine can.

    Raises:
        OptionsError: no network, or none is named although others can reach us.
    """
    scheme, host, _ = where(options.url)
    found = [one for text in options.peers if (one := network(text)) is not None]
    if scheme == "mllp-listen" and not found:
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise OptionsError(f"{options.url} can be reached from outside: name in `peers` who may connect")
    return found


def network(text: str) -> Network | None:
    """An address or network, None for an empty text.

    Raises:
        OptionsError: it is neither.
    """
    if not text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise OptionsError(f"{text!r} is no address or network: {error}") from error


def zone(name: str) -> tzinfo:
    """A time zone by its name.

    Raises:
        OptionsError: this machine does not know it.
    """
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise OptionsError(f"timezone {name!r} is not known here, e.g. Asia/Seoul") from error


def streams(options: Hl7Options) -> dict[str, Stream]:
    """What is sent: of each monitor `vitals`, one stream a waveform, and `patient` where there is a key.

    Raises:
        OptionsError: a name that the wire does not take, or nothing to read.
    """
    found: dict[str, Stream] = {}
    if options.fields:
        found["vitals"] = Stream(fields=declared(options.fields))
    for name, wave in options.waveforms.items():
        if name in ("vitals", "patient") or not is_id(name):
            raise OptionsError(f"waveform {name!r} cannot be the name of a stream")
        found[name] = Stream(rate_hz=wave.rate_hz, fields=declared({wave.field or name: wave}))
    if not found:
        raise OptionsError("neither `fields` nor `waveforms`: nothing would be read")
    texts = [name for name, said in {**options.fields, **options.waveforms}.items() if said.t == "str"]
    if texts:
        raise OptionsError(f"{texts[0]!r} is a text: texts of a monitor never leave, only numbers do")
    if options.patient_key_file is not None:
        found["patient"] = Stream(
            fields={
                "pseudonym": Field(t="str", desc="Keyed pseudonym of who is admitted; null = nobody."),
                "since": Field(t="i64", unit="ms", desc="Unix time of that person's first message."),
            }
        )
    for name in options.monitors:
        if not all(is_id(f"{name}-{stream}") for stream in found):
            raise OptionsError(f"monitor {name!r} cannot begin the name of a stream")
    if not options.monitors:
        return found
    return {f"{name}-{stream}": said for name in options.monitors for stream, said in found.items()}
