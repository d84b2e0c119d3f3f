"""The wire contract as it was published: fields, types, defaults and limits, in contract.json.

Agents in the field and readers of other companies depend on it. After a change that they can live with (a
new field, a wider limit), `EDGEBED_WRITE_DOCS=1 pytest tests/unit/wire` writes the file again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from wire import codec, custody, messages, topics

FILE = Path(__file__).with_name("contract.json")


def contract(part: str) -> Any:
    """A part of the contract as it was published."""
    if os.environ.get("EDGEBED_WRITE_DOCS") == "1":
        FILE.write_text(json.dumps(_present(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.loads(FILE.read_text(encoding="utf-8"))[part]


def schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a struct without its docstrings."""
    return _without_texts(msgspec.json.schema(kind))


def _present() -> dict[str, Any]:
    return {
        "classes": topics.CLASSES,
        "limits": {name: value for name, value in vars(messages).items() if name.startswith("MAX_")},
        "max_plain": codec.MAX_PLAIN,
        "statement": schema(custody.Statement),
        "bodies": {cls: schema(kind) for cls, kind in messages.BODIES.items()},
    }


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_texts(one) for key, one in value.items() if not _is_text(key, one)}
    return [_without_texts(one) for one in value] if isinstance(value, list) else value


def _is_text(key: str, value: object) -> bool:
    return key == "description" and isinstance(value, str)
