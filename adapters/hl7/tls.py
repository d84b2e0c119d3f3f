"""MLLP over TLS as IHE ATNA asks for it: both sides show a certificate of an authority the site trusts."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from adapters.base import OptionsError

GREETING_S = 5.0  # a handshake takes two round trips


class Tls(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A secured line, both ways of connecting: TLS 1.2 or later, never back to plain text."""

    cert: Annotated[Path, Meta(description="Our certificate, PEM, with those between it and its authority.")]
    key: Annotated[Path, Meta(description="Our private key, PEM, without a passphrase.")]
    ca: Annotated[Path, Meta(description="PEM of the authorities whose monitors are trusted; no others are.")]
    name: Annotated[
        str, Meta(max_length=253, description="mllp://: name in its certificate; empty = the url's host.")
    ] = ""


def context(tls: Tls, *, listening: bool) -> ssl.SSLContext:
    """What secures the connections to a monitor; reads the files, which takes a moment.

    Raises:
        OptionsError: one of the files cannot be used; the text names it.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listening else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_verify_locations(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise OptionsError(
            f"tls.ca {tls.ca} holds no certificate that can be used: {_said(error)}"
        ) from error
    try:
        # without a passphrase of ours OpenSSL would ask the terminal for one
        made.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise OptionsError(
            f"tls.cert {tls.cert} and tls.key {tls.key} are no certificate and its key without a passphrase:"
            f" {_said(error)}"
        ) from error
    return made


def why_not_secured(error: OSError) -> str:
    """One clause for a handshake that failed or a secured line that broke, and what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')} (see tls.ca, tls.name)"
    reason = getattr(error, "reason", None) or ""
    if "ALERT" in reason:
        said = reason.lower().partition("alert_")[2].replace("_", " ")
        return f"it ends the handshake with {said!r}: does it trust our tls.cert?"
    if reason in _REASONS:
        return _REASONS[reason]
    if isinstance(error, ssl.SSLError):
        return f"the secured line broke: {_said(error)}"
    if isinstance(error, ConnectionAbortedError):  # asyncio's word for a handshake that takes too long
        return f"it ends no TLS handshake within {GREETING_S:g} s: is it set to plain MLLP?"
    return (
        "it hung up in the middle of the TLS handshake: is it set to plain MLLP, does it trust our tls.cert?"
    )


_PLAIN = "what it sends is no TLS: is it set to plain MLLP?"
_OLD = "it speaks no TLS of version 1.2 or later"
_REASONS = {  # OpenSSL's words
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate, and TLS here asks both sides for one",
    "UNSUPPORTED_PROTOCOL": _OLD,
    "NO_PROTOCOLS_AVAILABLE": _OLD,
    "WRONG_VERSION_NUMBER": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
    "PACKET_LENGTH_TOO_LONG": _PLAIN,
    "BAD_PACKET_LENGTH": _PLAIN,
}


def _said(error: Exception) -> str:
    reason: str | None = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if reason else getattr(error, "strerror", None) or str(error)
