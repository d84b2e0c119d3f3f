"""The command `samples`: lists the inputs on which two models disagreed, and gives one of them."""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from pathlib import Path
from typing import Any

from agent.commands import Action, Rejected
from agent.pipeline import samples as kept
from agent.pipeline.samples import SampleError
from wire.messages import is_id
from wire.topics import NODE_ITSELF

_MOST_BYTES = 42_000  # of one sample in an answer: base64 makes it a third larger
_MOST_LISTED = 200


def samples(state: Path) -> Action:
    """The action: with `slot` it lists the newest samples of a slot, with `name` too it gives one."""

    async def action(device: str, args: dict[str, Any]) -> dict[str, Any]:
        if device != NODE_ITSELF:
            raise Rejected("samples has no device: send it to device _, the node")
        slot, name = args.get("slot"), args.get("name", "")
        if not isinstance(slot, str) or not is_id(slot) or not isinstance(name, str):
            raise Rejected("samples needs the argument slot, the id of a slot, and takes name, a text")
        work = partial(_given, state / kept.FOLDER / slot, name)
        try:
            return await asyncio.to_thread(work)
        except SampleError as error:
            raise Rejected(str(error)) from error

    return action


def _given(folder: Path, name: str) -> dict[str, Any]:
    if name:
        body = kept.read(folder, name, _MOST_BYTES)
        return {"name": name, "data": base64.b64encode(body).decode("ascii")}
    found = kept.listed(folder)[-_MOST_LISTED:]
    return {"samples": [{"name": each.name, "ts": each.at_ms, "bytes": each.size} for each in found]}
