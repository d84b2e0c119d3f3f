"""docs/config.md shows every key of every config, from the structs; EDGEBED_WRITE_DOCS=1 writes the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

import adapters
from agent.config import AgentConfig
from collector.config import CollectorConfig

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/config.md"
HEAD = """# Configuration

Configs are YAML 1.2: `no` and `on` are words, `010` is the number ten, and a duplicate key is an error.
`edgebed agent check FILE` lists every mistake at once as `file:line:col: sentence`, with exit status 78.
`edgebed agent schema` prints a JSON Schema for editors. A relative path is relative to the file that contains
it. Secrets are never in a config: the config names the file that contains them.

Ready examples: [robot.yaml](../configs/robot.yaml), [mobility.yaml](../configs/mobility.yaml),
[healthcare.yaml](../configs/healthcare.yaml), [smart-city.yaml](../configs/smart-city.yaml),
[collector.yaml](../configs/collector.yaml), and one device each: [mqtt.yaml](../configs/mqtt.yaml),
[modbus.yaml](../configs/modbus.yaml), [serial.yaml](../configs/serial.yaml),
[camera.yaml](../configs/camera.yaml). `edgebed init` copies one for you to change. Where a path is expected,
`edgebed:NAME` is a file that comes with edgebed: a model package such as `edgebed:joint-anomaly`, a register
map or a DBC file. In the tables, `*`
is an id of your choice: `a-z`, `0-9`, `-`, at most 32 characters.
"""
COLLECTOR = """## The collector

For `edgebed collector run FILE`.
"""
AGENT = """## The agent

For `edgebed agent run FILE`. A key with an empty default is required.
"""
ADAPTER = "### `adapter: {}`\n\nThe keys of `devices.*.options`.\n"


def _page() -> Iterator[str]:
    yield HEAD
    yield AGENT
    yield _table(_keys(AgentConfig, ""))
    for name in adapters.BUILT_IN:
        yield ADAPTER.format(name)
        yield _table(_keys(adapters.load(name).Options, ""))
    yield COLLECTOR
    yield _table(_keys(CollectorConfig, ""))


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    body = "".join(f"| `{key}` | {default} | {what} |\n" for key, default, what in rows)
    return f"| key | default | what |\n|---|---|---|\n{body}"


def _keys(kind: type[Struct], prefix: str) -> Iterator[tuple[str, str, str]]:
    schema = msgspec.json.schema_components([kind], schema_hook=lambda _: {"type": "string"})[1]
    rules = schema[kind.__name__]
    for info in msgspec.structs.fields(kind):
        rule = rules["properties"][info.encode_name]
        key = prefix + info.encode_name
        assert _description(info.type), f"{key} of {kind.__name__} has no description"
        yield key, _default(info, rule), _what(info.type, rule)
        for inner, dots in _structs(info.type):
            yield from _keys(inner, key + dots)


def _structs(kind: Any, dots: str = ".") -> Iterator[tuple[type[Struct], str]]:
    """The structs inside a type, each with the separator between its key and its fields."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        yield kind, dots
    star = ".*." if get_origin(kind) is dict else dots
    for inner in get_args(kind):
        yield from _structs(inner, star)


def _default(info: Any, rule: dict[str, Any]) -> str:
    if info.required:
        return ""
    if "default" in rule:
        default = rule["default"]
    elif info.default_factory is not msgspec.NODEFAULT:
        default = msgspec.to_builtins(info.default_factory())
    else:
        default = msgspec.to_builtins(info.default, enc_hook=str)
    if default is None or default in ({}, [], "", "UNSET"):
        return "none"
    return f"`{msgspec.json.encode(default).decode()}`" if not isinstance(default, dict) else "see below"


def _description(kind: Any) -> str:
    """The description of the outermost Meta that has one."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return next((text for inner in get_args(kind) if (text := _description(inner))), "")


def _what(kind: Any, rule: dict[str, Any]) -> str:
    rule = {**next(iter(rule.get("anyOf", [{}]))), **rule}
    parts = [_description(kind).replace("|", "\\|").replace("<", "&lt;")]
    if "enum" in rule:
        parts.append(
            "One of " + ", ".join(f"`{word}`" for word in dict.fromkeys(map(str, rule["enum"])) if word) + "."
        )
    low = rule.get("minimum", rule.get("exclusiveMinimum"))
    high = rule.get("maximum", rule.get("exclusiveMaximum"))
    if low is not None and high is not None:
        parts.append(f"{'Above ' if 'exclusiveMinimum' in rule else ''}{low:,g} to {_plain(high)}.")
    return " ".join(parts)


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else str(number)


def test_the_page_shows_every_key() -> None:
    text = "\n".join(_page())
    if os.environ.get("EDGEBED_WRITE_DOCS") == "1":
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "docs/config.md is outdated: run this test with EDGEBED_WRITE_DOCS=1"


def test_every_example_loads() -> None:
    from agent.config import load
    from wire.clock import Clock
    from wire.config import load as load_any

    for path in sorted((ROOT / "configs").glob("*.yaml")):
        if path.name == "collector.yaml":
            load_any(path, CollectorConfig)
        else:
            assert load(path, Clock()).devices
