"""What a device and the enrolment service of a site send each other, as JSON over HTTPS."""

from __future__ import annotations

import hashlib
from typing import Annotated

from msgspec import Meta, Struct

ROOT_PATH, ENROL_PATH, RENEW_PATH = "/ca.pem", "/api/v1/enrol", "/api/v1/renew"
MAX_BODY = 16_384  # bytes
PORT = 8885

Pem = Annotated[str, Meta(max_length=8_192)]


Custody = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Proof = Annotated[str, Meta(pattern=r"^([0-9a-f]{128})?\Z")]


def custody_form(node: str, request: str) -> bytes:
    """What a device signs with the key of its statements, so that it is bound to its certificate."""
    return f"edgebed custody {node} {hashlib.sha256(request.encode()).hexdigest()}".encode()


class Enrol(Struct, forbid_unknown_fields=True):
    """The request of a device with a token: its secret in hexadecimal digits, and a certificate request.

    `custody` is the key of the node's signed statements, `proof` its signature of `custody_form`.
    """

    secret: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    request: Pem
    custody: Custody = ""
    proof: Proof = ""


class Renew(Struct, forbid_unknown_fields=True):
    """The request of a device that shows its certificate in TLS."""

    request: Pem
    custody: Custody = ""
    proof: Proof = ""


class Credential(Struct):
    """The answer: the certificate with its authority's, the root, and the part of the agent's config.

    `mac_key` checks what collectors send to the node; an older site sends none.
    """

    certificate: Pem
    ca: Annotated[str, Meta(max_length=16_384)]
    broker_yaml: Pem
    mac_key: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""


class Refusal(Struct):
    """Why there is no certificate."""

    error: str
