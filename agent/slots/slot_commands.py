"""The commands of operators for slots: offer a version, take it back, hold versions back, release them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from agent.commands import Action, Rejected
from agent.inference.decoders import ModelError
from agent.slots.model_store import digest_of
from agent.slots.slot_state import Confirm
from agent.slots.slots import Slots
from wire.errors import EdgebedError
from wire.model_offer import MAX_ATTEMPT
from wire.printable import printable
from wire.reasons import Reason
from wire.topics import NODE_ITSELF

S = TypeVar("S", bound=Struct)


class _Offer(Confirm, kw_only=True, frozen=True, forbid_unknown_fields=True):
    slot: str
    package: str
    attempt: Annotated[int, Meta(ge=1, le=MAX_ATTEMPT)] = 1


class _Undo(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    slot: str
    package: str = ""  # the version that is taken back; by default the one that was offered last


class _Hold(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    why: Annotated[str, Meta(max_length=200)] = "an operator holds versions back"


class _Nothing(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    pass


def actions(slots: Slots) -> Mapping[str, Action]:
    """The commands by name; each is for the node itself."""

    async def offer(device: str, args: dict[str, Any]) -> dict[str, Any]:
        found = _read(device, args, _Offer)
        names = Confirm.__struct_fields__
        confirm = Confirm(**{name: getattr(found, name) for name in names})
        try:
            digest = digest_of(found.package)
        except ModelError as error:
            raise Rejected(str(error)) from error
        _require(await slots.offer(found.slot, digest, found.attempt, confirm))
        return {"slot": found.slot, "digest": digest, "attempt": found.attempt}

    async def undo(device: str, args: dict[str, Any]) -> dict[str, Any]:
        found = _read(device, args, _Undo)
        _require(await slots.undo(found.slot, "an operator", found.package.removeprefix("sha256:")))
        return {}

    async def hold(device: str, args: dict[str, Any]) -> dict[str, Any]:
        found = _read(device, args, _Hold)
        await _on_disk(slots.lock.hold, found.why)
        return {}

    async def release(device: str, args: dict[str, Any]) -> dict[str, Any]:
        _read(device, args, _Nothing)
        await _on_disk(slots.lock.release)
        return {}

    return {"model-offer": offer, "model-undo": undo, "model-hold": hold, "model-release": release}


def _read(device: str, args: dict[str, Any], kind: type[S]) -> S:
    if device != NODE_ITSELF:
        raise Rejected("this command has no device: send it to device _, the node")
    try:
        return msgspec.convert(args, kind)
    except msgspec.ValidationError as error:
        raise Rejected(printable(error, 500)) from error


def _require(why: Reason) -> None:
    if why.why:
        raise Rejected(why.why).coded(why.code, **why.args)


async def _on_disk(work: Any, *args: Any) -> None:
    try:
        await asyncio.to_thread(work, *args)
    except OSError as error:
        raise EdgebedError(f"the update lock cannot be written: {error.strerror or error}") from error
