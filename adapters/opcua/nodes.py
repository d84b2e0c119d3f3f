"""Finds the OPC UA node of each field: by node id, browse path, or the names of OPC 40010 Robotics."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from asyncua import Client, ua

from adapters.base import ProtocolViolation
from adapters.opcua.words import of_value
from wire.messages import Field

ROBOTICS_URI = "http://opcfoundation.org/UA/Robotics/"
# a quantity of an axis: the name in the field, the variable, the declared field
AXIS: tuple[tuple[str, str, Field], ...] = (
    ("position", "ActualPosition", Field(unit="deg", dec=3)),
    ("velocity", "ActualSpeed", Field(unit="deg/s", dec=2)),
    ("torque", "ActualTorque", Field(unit="N.m", dec=2)),
)
_NODE_ID = re.compile(r"(?:(?:ns=\d{1,5}|nsu=(?P<uri>[^;]{1,500}));)?(?P<id>[isgb]=.{1,1000})", re.DOTALL)
_STEP = re.compile(r"\d{1,5}:[^/]{1,500}|[^/:]{1,500}")
_MAX_CHILDREN = 10_000
# UNECE codes as EUInformation.UnitId of OPC UA holds them, for units whose mix-up would not be noticed
_UNITS = {
    17476: "deg",
    4405297: "rad",
    4536630: "deg/s",
    12865: "rad/s",
    20053: "N.m",
    4408652: "Cel",
    4604232: "[degF]",
    4932940: "K",
}


def check_address(text: str) -> None:
    """Check that `text` can name a node.

    Raises:
        ValueError: it is neither a node id nor a browse path.
    """
    if _NODE_ID.fullmatch(text):
        return
    steps = text.strip("/").split("/")
    if len(steps) < 2 or not all(_STEP.fullmatch(step) for step in steps):
        raise ValueError(
            f"node {text!r} is neither a node id (ns=2;s=Speed, nsu=urn:x;i=7) nor a browse path"
            " (0:Objects/2:Cell/2:Speed)"
        )


async def by_address(
    client: Client, addresses: Mapping[str, str], namespaces: Sequence[str]
) -> dict[str, Any]:
    """The node id of each field that is given by node id or browse path.

    Raises:
        ProtocolViolation: the server has no such namespace or path.
    """
    found: dict[str, Any] = {}
    paths: dict[str, str] = {}
    for field, address in addresses.items():
        parts = _NODE_ID.fullmatch(address)
        if parts is None:
            paths[field] = address
        elif parts["uri"] is None:
            found[field] = ua.NodeId.from_string(address)
        elif parts["uri"] in namespaces:
            found[field] = ua.NodeId.from_string(f"ns={namespaces.index(parts['uri'])};{parts['id']}")
        else:
            raise ProtocolViolation(f"the server has no namespace {parts['uri']!r}, which {field} needs")
    if paths:
        relative = ["/" + path.strip("/").removeprefix("0:Root/") for path in paths.values()]
        results = await client.translate_browsepaths(ua.NodeId(ua.ObjectIds.RootFolder), relative)
        for (field, path), result in zip(paths.items(), results, strict=True):
            if not result.StatusCode.is_good() or not result.Targets:
                there = await _longest_part(client, path)
                raise ProtocolViolation(
                    f"the server has no {path!r} for {field}: {of_value(result.StatusCode.value)}{there}"
                )
            found[field] = result.Targets[0].TargetId
    return found


async def _longest_part(client: Client, path: str) -> str:
    """What is under the longest part of a browse path that exists, with the namespaces that a path needs."""
    steps = path.strip("/").removeprefix("0:Root/").split("/")
    for count in range(len(steps) - 1, 0, -1):
        part = "/".join(steps[:count])
        (result,) = await client.translate_browsepaths(ua.NodeId(ua.ObjectIds.RootFolder), [f"/{part}"])
        if result.StatusCode.is_good() and result.Targets:
            described = await client.get_node(result.Targets[0].TargetId).get_children_descriptions()
            names = {f"{each.BrowseName.NamespaceIndex}:{each.BrowseName.Name}": None for each in described}
            return f"; {part} has {_listed(names)}"
    return ""


async def by_robotics_names(
    client: Client, namespaces: Sequence[str], *, device: str, arm: str, axes: int, torque: bool
) -> dict[str, Any]:
    """The node id of each field (`j1_position`, ...), found by the browse names of OPC 40010.

    Raises:
        ProtocolViolation: the server has no such robot; the text names what it has.
    """
    if ROBOTICS_URI not in namespaces:
        raise ProtocolViolation(
            "the server has no Robotics namespace: profile opc40010 does not fit, list its nodes"
        )
    devices = await _descend(client, client.nodes.objects, "DeviceSet")
    cell = await _choose(client, devices, device, "MotionDevices", "device")
    motion = await _descend(client, cell, "MotionDevices")
    robot = await _choose(client, motion, arm, "Axes", "arm")
    found_axes = sorted(
        (await _children(client, await _descend(client, robot, "Axes"))).items(), key=lambda a: _natural(a[0])
    )
    if len(found_axes) != axes:
        raise ProtocolViolation(f"the robot has {len(found_axes)} axes, {axes} are declared: set `axes`")
    found: dict[str, Any] = {}
    for number, (name, axis) in enumerate(found_axes, start=1):
        variables = await _children(client, await _descend(client, axis, "ParameterSet"))
        for quantity, variable, _ in AXIS:
            if quantity == "torque" and not torque:
                continue
            if variable not in variables:
                hint = "; set `torque: false`" if quantity == "torque" else ""
                raise ProtocolViolation(f"axis {name!r} shows no {variable}{hint}")
            found[f"j{number}_{quantity}"] = variables[variable]
    return found


async def enumerations(client: Client, nodes: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """The names of the numbers of each field, where a property of the node or of its type has them."""
    found: dict[str, dict[int, str]] = {}
    for field, node in nodes.items():
        with contextlib.suppress(ua.UaStatusCodeError):
            names = await _enumeration(client, node)
            if not names:
                (kind,) = await client.read_attributes([client.get_node(node)], ua.AttributeIds.DataType)
                if kind.Value is not None and isinstance(kind.Value.Value, ua.NodeId):
                    names = await _enumeration(client, kind.Value.Value)
            found[field] = names
    return found


async def _enumeration(client: Client, node: Any) -> dict[int, str]:
    """The names in EnumStrings or EnumValues of a node; OPC UA Part 3, 5.8.3 and Part 8, 5.3.3."""
    spaces = {0, node.NamespaceIndex}  # it belongs into 0, and some servers name it in their own
    paths = [f"/{space}:{name}" for space in spaces for name in ("EnumStrings", "EnumValues")]
    for result in await client.translate_browsepaths(node, paths):
        if not result.StatusCode.is_good() or not result.Targets:
            continue
        listed = await client.get_node(result.Targets[0].TargetId).read_value()
        if not isinstance(listed, list) or len(listed) > _MAX_CHILDREN:
            continue
        return {
            int(getattr(each, "Value", at)): str(getattr(each, "DisplayName", each).Text)
            for at, each in enumerate(listed)
        }
    return {}


async def check_units(client: Client, nodes: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Compare the units that the server states with the declared ones, where both are known.

    Raises:
        ProtocolViolation: a value comes in another unit than declared.
    """
    asked = [field for field in nodes if fields[field].unit in _UNITS.values()]
    found: list[tuple[str, Any]] = []
    for field in asked:
        results = await client.translate_browsepaths(nodes[field], ["/0:EngineeringUnits"])
        if results[0].StatusCode.is_good() and results[0].Targets:
            found.append((field, results[0].Targets[0].TargetId))
    if not found:
        return
    stated = await client.read_attributes([client.get_node(node) for _, node in found])
    for (field, _), value in zip(found, stated, strict=True):
        stated_as = getattr(value.Value.Value, "UnitId", 0) if value.Value is not None else 0
        unit = _UNITS.get(stated_as or 0)
        if unit is not None and unit != fields[field].unit:
            declared = fields[field].unit
            raise ProtocolViolation(f"{field} comes in {unit}, declared is {declared}: list it with its unit")


async def _choose(client: Client, folder: Any, name: str, holding: str, option: str) -> Any:
    """The child of that name, or the only child that itself has a child `holding`."""
    children = await _children(client, folder)
    if name:
        if name not in children:
            raise ProtocolViolation(f"the server has no {option} {name!r}, only {_listed(children)}")
        return children[name]
    fit = [child for child in children.values() if holding in await _children(client, child)]
    if len(fit) != 1:
        what = f"one of {_listed(children)}" if fit else f"and none of {_listed(children)} has {holding}"
        raise ProtocolViolation(f"which {option}? Set `{option}`: {what}")
    return fit[0]


async def _descend(client: Client, node: Any, name: str) -> Any:
    children = await _children(client, node)
    if name not in children:
        raise ProtocolViolation(
            f"the server has no {name} where OPC 40010 expects it, only {_listed(children)}"
        )
    return children[name]


async def _children(client: Client, node: Any) -> dict[str, Any]:
    """Browse name (without namespace) to node id."""
    described = await client.get_node(node).get_children_descriptions()
    if len(described) > _MAX_CHILDREN:
        raise ProtocolViolation(
            f"a folder of the server has {len(described)} nodes; the limit is {_MAX_CHILDREN}"
        )
    return {found.BrowseName.Name: found.NodeId for found in described}


def _listed(names: Mapping[str, Any]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:8])
    return (shown + ", ...") if len(names) > 8 else (shown or "nothing")


def _natural(name: str) -> tuple[int, str]:
    digits = re.search(r"(\d{1,9})\D*$", name)
    return (int(digits[1]) if digits else 0, name)
