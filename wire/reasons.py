"""Codes of reasons: a word and values beside a text such as `why`, for programs and translations.

docs/topics.md describes every code; the page translates it as `reason.CODE`. A reader that does not know a
code uses the text. An adapter of another package may send codes of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

MAX_ARGS = 16
MAX_TEXT = 300  # characters of a text in the args: the whole text is in `why`

_CODE = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_MAX_CODE = 48  # characters
_MAX_NAME = 48
_INT64 = 2**63

Code = Annotated[str, Meta(pattern=r"^(?:[a-z][a-z0-9]*(?:-[a-z0-9]+)*)?\Z", max_length=_MAX_CODE)]
_Int64 = Annotated[int, Meta(ge=-_INT64, le=_INT64 - 1)]
Arg = bool | _Int64 | float | Annotated[str, Meta(max_length=2_000)] | None
Args = Annotated[dict[Annotated[str, Meta(max_length=128)], Arg], Meta(max_length=MAX_ARGS)]

# code -> names of its args; a name that is `seconds` or ends in `_s` has seconds
CODES: dict[str, tuple[str, ...]] = {
    # a device
    "device-unreachable": (),
    "connection-refused": ("where",),
    "host-unreachable": ("where",),
    "host-unknown": ("where",),
    "no-answer": ("where",),
    "device-missing": ("where",),
    "permission-denied": ("where",),
    "device-silent": ("seconds",),
    "device-not-read": ("seconds", "what"),
    "part-not-read": ("what", "others"),
    "field-null": ("field", "rows"),
    "picture-frozen": ("seconds",),
    "device-stalled": (),
    "opening-timeout": ("seconds",),
    "protocol-violation": (),
    "options-invalid": (),
    "adapter-failed": (),
    "recording-ended": (),
    "no-readings": (),
    # a model
    "model-checking": (),
    "model-not-signed": (),
    "model-signature-bad": ("detail",),
    "model-key-unknown": (),
    "model-key-revoked": ("key",),
    "model-refused": (),
    "model-input-mismatch": (),
    "model-gate-timeout": ("seconds",),
    "model-crashed": ("signal",),
    "model-memory-limit": ("gb",),
    "model-too-slow": ("p99_ms", "budget_ms"),
    "model-too-large": ("rss_mb", "budget_mb"),
    "model-output-nan": (),
    "model-results-nan": ("nan", "of"),
    "model-no-answer": ("seconds",),
    "model-no-result": ("seconds", "measured_hz", "wanted_hz"),
    "model-run-failed": (),
    "model-worker-died": ("signal",),
    "model-worker-killed": ("seconds",),
    "model-worker-memory": ("mb", "limit_mb"),
    "model-worker-answer": (),
    "model-refused-deaths": ("deaths",),
    "model-input-drift": ("features",),
    "model-input-constant": ("features",),
    "model-input-dark": (),
    "model-input-bright": (),
    "model-input-blurred": (),
    "shadow-mismatch": (),
    "shadow-alone": (),
    "provider-missing": ("provider",),
    "provider-unused": ("provider",),
    # another version of a model in a slot
    "slot-offer-repeated": ("attempt",),
    "slot-busy": (),
    "slot-download-wrong": (),
    "slot-download-refused": ("detail",),
    "slot-damaged": (),
    "slot-store-full": (),
    "slot-crashed": ("times",),
    "slot-restarted": (),
    "slot-not-stored": (),
    "slot-soak-over": ("results", "of", "seconds"),
    "slot-ended": ("digest",),
    "slot-shadow-over": ("results", "of", "seconds"),
    "slot-errors": ("failed", "of"),
    "slot-nan": ("nan", "of"),
    "slot-slow": ("slow", "of", "p99_ms"),
    "slot-config-changed": (),
    "slot-undone": ("by",),
    "slot-held": ("what", "seconds"),
    "slot-window": ("until",),
    "slot-unknown": ("slot",),
    # a rollout of a version, in the collector's API
    "rollout-paused": ("by",),
    "rollout-aborted": ("by",),
    "rollout-undone": ("by",),
    "rollout-failed": ("node",),
    "rollout-not-undone": ("node",),
    "rollout-other": ("digest",),
    "rollout-not-allowed": ("by", "node"),
    "rollout-removed": (),
    "rollout-restored": ("was",),
    "rollout-timeout": ("seconds",),
    "rollout-not-able": (),
    # a node without the evidence to promote its second model
    "promote-offline": (),
    "promote-none": (),
    "promote-other": ("model",),
    "promote-state": ("detail",),
    "promote-few": ("got", "of"),
    "promote-agreement": ("low", "least"),
    # the fence of an agent: a limit that is reached
    "fence-inferences": ("done", "of"),
    "fence-cpu": ("done", "of"),
    "fence-memory": ("rss_mb", "limit_mb"),
    "fence-uplink": (),
    # a picture that is hidden as a whole
    "picture-unchecked": (),
    "no-face-detector": (),
    "no-plate-detector": (),
    "no-part-detector": (),
    "picture-unsure": (),
    "face-model-not-open": (),
    "face-model-refused": (),
    "face-model-failed": (),
    # the node
    "agent-stopped": (),
    "connection-lost": (),
    "no-status": (),
    "only-retained": (),
    "node-silent": ("seconds",),
    "backlog": ("n", "oldest_s"),
    "no-ack-from": ("by", "seconds"),
    "state-set-back": ("by", "ep", "seq"),
    "mac-missing": ("topic",),
    "mac-wrong": ("topic",),
    "clock-never-set": (),
    "clock-behind": ("seconds",),
    "clock-ahead": ("seconds",),
    "clock-set-forward": ("seconds",),
    "clock-set-back": ("seconds",),
    "disk-full": (),
    "disk-failed": (),
    # a configuration that is not in use
    "config-invalid": ("detail",),
    "config-needs-restart": ("keys",),
    "config-reverted": ("what",),
    "config-not-allowed": ("detail",),
    "config-crashed": ("times",),
    "config-clock": ("seconds",),
    # the plan of a pilot that a node does not follow
    "pilot-unreadable": ("detail",),
    "pilot-signature-bad": ("detail",),
    "pilot-not-signed": ("keys", "of"),
    "pilot-other-node": ("pilot",),
    "pilot-over": ("pilot",),
    "pilot-overlaps": ("pilot",),
    "pilot-older": ("version", "newest"),
    "pilot-amends-other": ("version",),
    "pilot-write-not-allowed": ("device", "detail"),
    # an intervention that is not as its plan says
    "pilot-model-missing": ("slot",),
    "pilot-model-other": ("model", "planned"),
    "pilot-number-refused": ("slot",),
    "pilot-write-failed": ("device", "detail"),
    "pilot-set-point-other": ("device", "value", "planned"),
    # an answer to a command
    "command-unknown": ("name",),
    "command-expired": (),
    "command-duplicate": (),
    "commands-too-many": (),
    "command-rejected": (),
    "command-failed": (),
    "command-timeout": ("seconds",),
    "command-interrupted": (),
    "command-unanswered": (),
    "command-not-taken": (),
    "no-picture": ("device",),
    # messages that are not stored; the first seven are the `why` of a gap event
    "quota": (),
    "disk": (),
    "torn": (),
    "damaged": (),
    "too-large": (),
    "unencodable": (),
    "overload": (),
    "quarantined": ("detail",),
    "no-reason-given": (),
    "never-arrived": (),
    "outbox-lost": ("ep",),
    "store-restored": (),
    "day-file-damaged": ("day",),
    "day-file-gone": (),
    "messages-gone": ("n", "node"),
    "store-file-removed": ("detail",),
    "store-unchecked": ("detail",),
    "set-aside": ("count", "file"),
    "rows-unreadable": ("day", "rows"),
    "messages-missing": ("n",),
    "messages-quarantined": (),
    # the collector itself
    "broker-offline": ("where", "detail"),
    "store-blocked": ("detail",),
    "state-unusable": ("detail",),
    "store-copy-failed": ("detail",),
    "store-not-packed": ("detail",),
    "store-not-pruned": ("detail",),
    "no-tls": (),
    "tls-certificate": ("detail",),
    "token-file": (),
    "collector-degraded": ("what",),
    "messages-refused": ("detail", "sender", "cause", "share"),
    "overloaded": ("arriving", "stored", "factor", "oldest_s", "nodes"),
    "catching-up": ("arriving", "stored", "factor", "oldest_s", "nodes"),
    "data-not-received": ("n", "node"),
    "waits-after-refusal": ("n", "node"),
    # messages that a collector refuses for now: they wait in the outbox of their node
    "share-overload": (),
    "share-messages": ("share",),
    "share-bytes": ("share",),
    "share-values": ("share",),
    "share-streams": ("share",),
    "share-names": ("share",),
    "share-nodes": ("share",),
    "share-live": ("share",),
    "share-disk": ("share",),
    # a message in the quarantine, a signed statement that was refused
    "body-damaged": (),
    "body-too-large": (),
    "body-invalid": (),
    "encoding-broken": (),
    "topic-invalid": (),
    "not-numbered": (),
    "statement-refused": ("detail",),
    "signature-invalid": (),
    "key-not-accepted": ("key",),
    "statement-forked": (),
    "statement-repeated": (),
}  # fmt: skip


class Reason(Struct, frozen=True):
    """A text with its code and args; `code` is "" if the text has none."""

    why: str = ""
    code: str = ""
    args: Mapping[str, Any] = {}

    def fields(self) -> dict[str, Any]:
        """`why`, `code` and `args` of a message, within the limits of the contract."""
        return {"why": self.why[:2_000], **self.coded()}

    def coded(self) -> dict[str, Any]:
        """`code` and `args` within the limits of the contract; no code where it breaks them."""
        # a code of an adapter of another package must not make the whole status unreadable
        if len(self.code) > _MAX_CODE or not _CODE.fullmatch(self.code):
            return {"code": "", "args": {}}
        return {"code": self.code, "args": fitting(self.args)}


NO_REASON = Reason()


def because(why: str, code: str = "", /, **args: Any) -> Reason:
    """Make a reason: its text, its code, and the args that `CODES` names."""
    return Reason(why, code, args)


def no_ack_from(by: str, seconds: float) -> Reason:
    """The reason of a node whose messages one of its collectors does not acknowledge."""
    text = f"{by} has acknowledged nothing for {seconds / 60:.0f} min: its messages wait in the outbox"
    return because(text, "no-ack-from", by=by, seconds=seconds)


def fitting(args: Mapping[str, Any]) -> dict[str, Arg]:
    """The args within the limits of the contract: long texts are cut, other values become text."""
    names = [name for name in args if len(name) <= _MAX_NAME][:MAX_ARGS]
    return {name: _fitting(args[name]) for name in names}


def _fitting(value: Any) -> Arg:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and -_INT64 <= value < _INT64:
        return value
    return str(value)[:MAX_TEXT]
