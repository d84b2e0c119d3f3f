"""Signs frozen plans and finds out which trusted keys signed one.

On a device `signature_check` runs `signers` in a child process, as for model packages.
"""

from __future__ import annotations

from agent.inference.signing import signature
from agent.inference.signing.trust import Trust, fingerprint
from wire.errors import EdgebedError
from wire.pilot.frozen import Opened, pae


class PlanRefused(EdgebedError):
    """A plan that this node does not follow, with the reason."""


def sign(payload: bytes, private_pem: bytes) -> tuple[str, bytes]:
    """The fingerprint of a key, and its signature of a plan.

    Raises:
        ModelError: the key cannot sign.
    """
    return signature.sign_message(private_pem, pae(payload))


def signers(opened: Opened, trust: Trust) -> tuple[str, ...]:
    """The names of the trusted keys that signed a plan, sorted.

    A signature by a key that is not known here does not count, and one by a revoked key neither.

    Raises:
        PlanRefused: a signature is not that of the key that it names, or it is not known which keys count.
    """
    if trust.broken:
        raise bad(f"no signature counts: {trust.broken}")
    message = pae(opened.payload)
    keys = {fingerprint(pem): pem for pem in trust.trusted | trust.revoked}
    found = set()
    for keyid, made in opened.signatures:
        if (pem := keys.get(keyid)) is None:
            continue
        if not signature.is_by(pem, made, message):
            name = (trust.trusted | trust.revoked)[pem]
            raise bad(f"it is not a signature by the key {name}, which it names")
        if pem not in trust.revoked:
            found.add(trust.trusted[pem])
    return tuple(sorted(found))


def valid_keys(trust: Trust) -> dict[str, str]:
    """The names of the keys that count now, by their fingerprint."""
    return {fingerprint(pem): name for pem, name in trust.trusted.items() if pem not in trust.revoked}


def bad(why: str) -> PlanRefused:
    """The error for a signature that refuses its plan."""
    return PlanRefused(f"the signature of the plan is refused: {why}").coded(
        "pilot-signature-bad", detail=why
    )
