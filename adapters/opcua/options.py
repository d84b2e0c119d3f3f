"""Options of the OPC UA adapter, their check, and the fields they declare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters import device_url
from adapters.base import Options, OptionsError
from adapters.fields import FieldOptions, declared
from adapters.opcua.nodes import AXIS, check_address
from wire.messages import Field


class NodeOption(FieldOptions, frozen=True, kw_only=True):
    """One variable of the server and the field it becomes."""

    node: Annotated[str, Meta(description="Node id (ns=2;s=Speed, nsu=urn:x;i=7) or browse path.")]
    index: Annotated[int, Meta(ge=0, le=65_535, description="Element of an array, from 0.")] | UnsetType = (
        UNSET
    )


class Security(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A secured channel: the agent's key pair, and the one server certificate that is trusted."""

    cert: Annotated[Path, Meta(description="The agent's certificate, PEM or DER.")]
    key: Annotated[Path, Meta(description="The agent's private key, PEM or DER.")]
    server_cert: Annotated[Path, Meta(description="The server's certificate; any other is refused.")]
    policy: Annotated[
        Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"],
        Meta(description="OPC UA security policy."),
    ] = "Basic256Sha256"
    mode: Annotated[Literal["sign", "sign-and-encrypt"], Meta(description="Message security mode.")] = (
        "sign-and-encrypt"
    )


class OpcUaOptions(Options, frozen=True, kw_only=True):
    """Either `profile: opc40010` finds a robot's axes by their names, or `nodes` lists each field."""

    url: Annotated[str, Meta(max_length=2_000, description="opc.tcp://host:port/path")]
    profile: Annotated[
        Literal["", "opc40010"], Meta(description="Find a robot's nodes by name; empty = see nodes.")
    ] = ""
    device: Annotated[str, Meta(description="opc40010: name in DeviceSet; empty = the only one there.")] = ""
    arm: Annotated[str, Meta(description="opc40010: name in MotionDevices; empty = the only one there.")] = ""
    axes: Annotated[int, Meta(ge=1, le=32, description="opc40010: number of axes.")] = 6
    torque: Annotated[bool, Meta(description="opc40010: also read ActualTorque, a vendor's addition.")] = True
    nodes: Annotated[
        dict[str, str | NodeOption],
        Meta(max_length=1_000, description="Field name to node, or to node with unit."),
    ] = msgspec.field(default_factory=dict)
    stream: Annotated[str, Meta(description="Name of the stream.")] = "signals"
    publishing_ms: Annotated[
        float, Meta(ge=10, le=60_000, description="Interval at which the server sends values.")
    ] = 100.0
    sampling_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=3_600_000,
            description="Interval at which the server samples a node; 0 = as fast as it can.",
        ),
    ] = 20.0
    queue: Annotated[
        int, Meta(ge=1, le=100_000, description="Samples of a node that the server keeps for a slow client.")
    ] = 500
    row_wait_s: Annotated[
        float, Meta(gt=0, le=60, description="How long a row waits for a missing field.")
    ] = 0.5
    align_ms: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=60_000,
                description="Fields stamped within this time are one row; 0 = the same time; unset = half of"
                " the time between two rows where the server stamps each field by itself, else 0.",
            ),
        ]
        | UnsetType
    ) = UNSET
    hold: Annotated[
        bool, Meta(description="The server does not repeat unchanged values: keep the last value.")
    ] = False
    time: Annotated[
        Literal["source", "server", "receipt"], Meta(description="Clock that stamps the rows.")
    ] = "source"
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A device clock that is off by more is not believed.")
    ] = 86_400.0
    data_age_s: Annotated[
        float,
        Meta(gt=0, le=86_400, description="Seconds without a sign of life of the server until it stalled."),
    ] = 5.0
    value_age_s: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=86_400,
                description="Seconds without a new value until the device has stalled, 0 = a still value is"
                " right; unset = data_age_s with a profile, else 0.",
            ),
        ]
        | UnsetType
    ) = UNSET
    timeout_s: Annotated[float, Meta(gt=0, le=60, description="Seconds that connecting may take.")] = 8.0
    server_uri: Annotated[str, Meta(description="ApplicationUri the server must have; empty = any.")] = ""
    security: Annotated[Security, Meta(description="Sign or encrypt; without it, neither.")] | None = None
    user: Annotated[str, Meta(max_length=200, description="User name; empty = anonymous.")] = ""
    password_file: Annotated[Path, Meta(description="File that holds the password.")] | None = None
    plain_password: Annotated[bool, Meta(description="Send the password without encryption.")] = False


def check(options: OpcUaOptions) -> None:
    parts = device_url.split(options.url, "use `user` and `password_file`")
    if parts.scheme != "opc.tcp" or not parts.hostname or not parts.port:
        raise OptionsError(f"url {options.url!r} is not opc.tcp://host:port")
    if bool(options.profile) == bool(options.nodes):
        raise OptionsError("set either `profile: opc40010` or `nodes` with a field name for each node")
    if options.user and options.password_file is None:
        raise OptionsError(f"user {options.user!r} needs a password_file")
    encrypted = options.security is not None and options.security.mode == "sign-and-encrypt"
    if options.user and not encrypted and not options.plain_password:
        raise OptionsError(
            "the password would travel in clear text: set `security`, or `plain_password: true` where the"
            " network is trusted"
        )
    for entry in options.nodes.values():
        try:
            check_address(entry if isinstance(entry, str) else entry.node)
        except ValueError as error:
            raise OptionsError(str(error)) from error


def elements_of(options: OpcUaOptions) -> dict[str, int]:
    """The fields that are one element of an array."""
    return {
        name: entry.index
        for name, entry in options.nodes.items()
        if isinstance(entry, NodeOption) and entry.index is not UNSET
    }


def age_s(options: OpcUaOptions) -> float:
    """Seconds without a sign of life until the server has stalled: at least three publications."""
    return max(options.data_age_s, 3 * options.publishing_ms / 1000)


def value_age_s(options: OpcUaOptions) -> float:
    """Seconds without a new value until the device has stalled; 0 for never."""
    if options.value_age_s is not UNSET:
        return options.value_age_s
    return options.data_age_s if options.profile else 0.0


def fields_of(options: OpcUaOptions) -> dict[str, Field]:
    if options.profile:
        return {
            f"j{axis}_{quantity}": field
            for axis in range(1, options.axes + 1)
            for quantity, _, field in AXIS
            if options.torque or quantity != "torque"
        }
    nodes = {name: NodeOption(node=e) if isinstance(e, str) else e for name, e in options.nodes.items()}
    return declared(nodes)


def addresses_of(options: OpcUaOptions) -> dict[str, str]:
    return {name: entry if isinstance(entry, str) else entry.node for name, entry in options.nodes.items()}
