"""Options of the HL7 adapter, and their check."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adapters import device_url
from adapters.base import Options, OptionsError
from adapters.fields import declared
from adapters.hl7.catalog import VITALS, WAVEFORMS, Vital, Waveform
from adapters.hl7.mllp import Network
from adapters.hl7.tls import Tls
from wire.messages import Field, Stream, is_id


class Monitor(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What identifies one of several monitors; an empty option is not compared."""

    application: Annotated[str, Meta(max_length=227, description="First component of its MSH-3.")] = ""
    facility: Annotated[str, Meta(max_length=227, description="First component of its MSH-4.")] = ""
    peer: Annotated[str, Meta(description="Address or network from which it connects.")] = ""


class Hl7Options(Options, frozen=True, kw_only=True):
    """One monitor, or several in `monitors`; the streams of several begin with the monitor's name."""

    url: Annotated[
        str,
        Meta(
            max_length=300,
            description="mllp-listen://host:port (monitors connect to the agent) or mllp://host:port.",
        ),
    ]
    application: Annotated[
        str, Meta(max_length=227, description="First component that MSH-3 must have; empty = any.")
    ] = ""
    facility: Annotated[
        str, Meta(max_length=227, description="First component that MSH-4 must have; empty = any.")
    ] = ""
    monitors: Annotated[
        dict[str, Monitor],
        Meta(max_length=64, description="Name to monitor; the streams are NAME-vitals, ..."),
    ] = msgspec.field(default_factory=dict)
    peers: Annotated[
        list[str],
        Meta(max_length=100, description="Networks that may connect; required except on loopback."),
    ] = msgspec.field(default_factory=list)
    tls: (
        Annotated[
            Tls, Meta(description="Encryption, with certificates on both sides; without it, clear text.")
        ]
        | None
    ) = None
    patient_key_file: (
        Annotated[
            Path, Meta(description="Secret key of the pseudonyms; without it, there is no stream `patient`.")
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
        str, Meta(max_length=64, description="Time zone of times without an offset, e.g. Asia/Seoul.")
    ] = "UTC"
    max_skew_s: Annotated[
        float, Meta(gt=0, description="Times more seconds in the past are not believed.")
    ] = 86_400.0
    max_ahead_s: Annotated[
        float, Meta(gt=0, description="Times more seconds in the future are not believed.")
    ] = 120.0
    value_age_s: Annotated[
        float, Meta(gt=0, description="A value measured more seconds before its set is flagged.")
    ] = 3_600.0
    silence_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Seconds without a message until the monitor has stalled.")
    ] = 10.0
    rejoin_s: Annotated[
        float,
        Meta(ge=0, le=3_600, description="mllp-listen: seconds in which a lost monitor may connect again."),
    ] = 10.0
    half_message_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds until an unfinished message is dropped.")
    ] = 5.0
    max_message_kb: Annotated[
        int, Meta(ge=1, le=65_536, description="KiB of the longest message; a longer one is refused.")
    ] = 4_096
    ack: Annotated[
        Literal["auto", "application", "never"],
        Meta(description="auto = as MSH-15 and MSH-16 request; application = always AA, AE or AR."),
    ] = "auto"


def where(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL.

    Raises:
        OptionsError: it is not a URL of this adapter.
    """
    parts = device_url.split(url, "remove it, MLLP has no login")
    port = parts.port
    usable = parts.scheme in ("mllp", "mllp-listen") and port and parts.path in ("", "/")
    if not usable or not parts.hostname:
        raise OptionsError(f"url {url!r} is not mllp-listen://host:port or mllp://host:port")
    return parts.scheme, parts.hostname, port or 0


def networks(options: Hl7Options) -> list[Network]:
    """The networks that may connect; empty if only this machine can.

    Raises:
        OptionsError: a network is wrong, or no network is given although other machines can connect.
    """
    scheme, host, _ = where(options.url)
    found = [one for text in options.peers if (one := network(text)) is not None]
    if scheme == "mllp-listen" and not found:
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise OptionsError(
                f"other machines can connect to {options.url}: list the networks that may connect in `peers`"
            )
    return found


def network(text: str) -> Network | None:
    """An address or network; None for an empty text.

    Raises:
        OptionsError: the text is not an address or network.
    """
    if not text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise OptionsError(f"{text!r} is not an address or network: {error}") from error


def streams(options: Hl7Options) -> dict[str, Stream]:
    """For each monitor `vitals`, one stream for each waveform, and `patient` if there is a key.

    Raises:
        OptionsError: a name is not allowed by the wire format, or there is nothing to read.
    """
    found: dict[str, Stream] = {}
    if options.fields:
        found["vitals"] = Stream(fields=declared(options.fields))
    for name, wave in options.waveforms.items():
        if name in ("vitals", "patient") or not is_id(name):
            raise OptionsError(f"waveform {name!r} cannot be the name of a stream: choose another name")
        found[name] = Stream(rate_hz=wave.rate_hz, fields=declared({wave.field or name: wave}))
    if not found:
        raise OptionsError("there is nothing to read: give `fields` or `waveforms`")
    texts = [name for name, given in {**options.fields, **options.waveforms}.items() if given.t == "str"]
    if texts:
        raise OptionsError(f"{texts[0]!r} is a text: texts of a monitor are never sent, only numbers")
    if options.patient_key_file is not None:
        found["patient"] = Stream(
            fields={
                "pseudonym": Field(t="str", desc="Keyed pseudonym of the admitted person; null = no person."),
                "since": Field(t="i64", unit="ms", desc="Unix time of that person's first message."),
            }
        )
    for name in options.monitors:
        if not all(is_id(f"{name}-{stream}") for stream in found):
            raise OptionsError(f"monitor {name!r} cannot begin the name of a stream: choose another name")
    if not options.monitors:
        return found
    return {f"{name}-{stream}": each for name in options.monitors for stream, each in found.items()}
