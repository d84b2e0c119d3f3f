"""A frozen plan: the plan with its version and schedule, its hash, and the signatures on it.

A signed plan is a DSSE envelope, so that several people can sign the same bytes. The bytes are canonical
JSON; their SHA-256 is the hash of the plan.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from wire.errors import ConfigError, WireError
from wire.pilot.canonical import canonical
from wire.pilot.plan import MAX_PERIODS, PLAN_FORMAT, Plan, parse
from wire.pilot.schedule import Schedule, schedule
from wire.printable import printable

PAYLOAD = "application/vnd.edgebed.pilot+json"
MAX_SIGNED = 56_000  # bytes of a signed plan: it travels in one message
MAX_SIGNATURES = 8


class FrozenPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed. `previous` is the hash of the version before, and `reason` why the plan changed."""

    format: str = PLAN_FORMAT
    version: Annotated[int, Meta(ge=1, le=1_000)] = 1
    previous: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")] = ""
    reason: Annotated[str, Meta(max_length=1_000)] = ""
    plan: Plan
    schedule: Schedule

    @property
    def payload(self) -> bytes:
        """The bytes to sign. Of a plan that was read, take those of `Opened`: they were signed."""
        return canonical(msgspec.to_builtins(self))


class PlanSignature(Struct, frozen=True, forbid_unknown_fields=True):
    """One signature; `keyid` is the fingerprint of its key, and `sig` base64."""

    keyid: Annotated[str, Meta(max_length=64)]
    sig: Annotated[str, Meta(max_length=400)]


class SignedPlan(Struct, frozen=True, forbid_unknown_fields=True, rename={"payload_type": "payloadType"}):
    """The envelope: the content of `NAME.plan.json` and of `doc` in `desired/pilot`."""

    payload: str
    payload_type: str
    signatures: Annotated[tuple[PlanSignature, ...], Meta(max_length=MAX_SIGNATURES)] = ()


class Opened(Struct, frozen=True, kw_only=True):
    """A signed plan that could be read. Its signatures are not checked here."""

    plan: FrozenPlan
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]  # fingerprint of the key, signature

    @property
    def hash(self) -> str:
        """The SHA-256 of the payload, which names the plan everywhere."""
        return hashlib.sha256(self.payload).hexdigest()


def freeze(plan: Plan, *, after: Opened | None = None, reason: str = "") -> FrozenPlan:
    """The plan with its schedule; `after` is the version that it replaces, for the `reason`.

    Raises:
        WireError: the schedule cannot be made.
    """
    version, previous = (1, "") if after is None else (after.plan.version + 1, after.hash)
    return FrozenPlan(version=version, previous=previous, reason=reason, plan=plan, schedule=schedule(plan))


def envelope(payload: bytes, signatures: tuple[tuple[str, bytes], ...] = ()) -> SignedPlan:
    """The envelope of a frozen plan's bytes."""
    return SignedPlan(
        base64.b64encode(payload).decode(),
        PAYLOAD,
        tuple(PlanSignature(key, base64.b64encode(each).decode()) for key, each in signatures),
    )


def pae(payload: bytes) -> bytes:
    """What a signature is over, by the pre-authentication encoding of DSSE."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def read_signed(body: bytes) -> Opened:
    """Open a signed plan; its signatures are not checked.

    Raises:
        WireError: it is something else, or its bytes are not the canonical ones.
    """
    if len(body) > MAX_SIGNED:
        raise WireError(f"the signed plan has {len(body):,} bytes; {MAX_SIGNED:,} are allowed")
    try:
        signed = msgspec.json.decode(body, type=SignedPlan)
        payload = base64.b64decode(signed.payload, validate=True)
        signatures = tuple(
            (each.keyid, base64.b64decode(each.sig, validate=True)) for each in signed.signatures
        )
        plain = msgspec.json.decode(payload)
        plan = msgspec.convert(plain, FrozenPlan)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error, ValueError) as error:
        raise WireError(
            f"it is not a signed plan, as `edgebed pilot freeze` writes it: {printable(error, 200)}"
        ) from error
    if signed.payload_type != PAYLOAD:
        raise WireError(f"its payload is {printable(signed.payload_type, 80)}, not {PAYLOAD}")
    if plan.format != PLAN_FORMAT:
        raise WireError(f"its format is {printable(plan.format, 40)}, and this program reads {PLAN_FORMAT}")
    if canonical(plain) != payload:
        raise WireError("its bytes are not canonical JSON (RFC 8785), so that its hash could mean two plans")
    if (plan.version == 1) is bool(plan.previous):
        raise WireError("version 1 has no `previous`, and each later version has the hash before it there")
    _check_order(plan.schedule)
    return Opened(plan=plan, payload=payload, signatures=signatures)


def require_sound(opened: Opened, name: str) -> None:
    """Raise for a frozen plan that `pilot.yaml` could not have given; `name` is printed before each mistake.

    A frozen plan may be made by hand: with another schedule than its seed draws, or without a primary KPI.

    Raises:
        ConfigError: it has mistakes.
        WireError: its schedule is another one.
    """
    text = msgspec.json.encode(_without_defaults(opened.plan.plan)).decode()
    try:
        again = parse(text, "")
    except ConfigError as error:
        # the plan is within an envelope: line and column of this text point to nothing that a person has
        raise ConfigError(*(f"{name}: {each.partition(': ')[2]}" for each in error.mistakes)) from error
    if opened.plan.schedule != schedule(again):
        raise WireError(f"{name}: its schedule is not the one that its plan and seed give: do not sign it")


def require_signed(opened: Opened, name: str) -> None:
    """Raise for a plan without a signature, before it is sent.

    Raises:
        WireError: it has none.
    """
    if not opened.signatures:
        raise WireError(
            f"{name} is not signed, and a node follows no plan without a signature: sign it with "
            "`edgebed pilot freeze FILE --key KEY`"
        )


def _without_defaults(value: Any) -> Any:
    """What a person would write: a frozen plan has all keys, also those that no one gave."""
    if isinstance(value, msgspec.Struct):
        given = [(key, getattr(value, key.name)) for key in msgspec.structs.fields(value)]
        return {key.encode_name: _without_defaults(each) for key, each in given if each != _default(key)}
    if isinstance(value, dict):
        return {key: _without_defaults(each) for key, each in value.items()}
    return [_without_defaults(each) for each in value] if isinstance(value, tuple) else value


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _check_order(found: Schedule) -> None:
    """Raise for a schedule that no plan gives: an agent follows it as it is."""
    if not found.trial or len(found.periods) > 2 * MAX_PERIODS:
        raise WireError("its schedule has no trial, or too many periods")
    end_ms = 0
    for period in found.periods:
        if not end_ms <= period.start_ms < period.end_ms:
            raise WireError("the periods of its schedule overlap, or are not in the order of time")
        end_ms = period.end_ms
