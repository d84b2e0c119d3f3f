"""MLLP over TLS as IHE ATNA requires: both sides present a certificate of an authority of the site."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from adapters.base import OptionsError

HANDSHAKE_S = 5.0  # a handshake takes two round trips


class Tls(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Files of a TLS connection, for both ways of connecting: TLS 1.2 or later, never plain text."""

    cert: Annotated[
        Path, Meta(description="The agent's certificate, PEM, with those between it and its authority.")
    ]
    key: Annotated[Path, Meta(description="The agent's private key, PEM, without a passphrase.")]
    ca: Annotated[Path, Meta(description="PEM of the authorities whose monitors may connect.")]
    name: Annotated[
        str,
        Meta(
            max_length=253, description="mllp://: name in the monitor's certificate; empty = the url's host."
        ),
    ] = ""


def context(tls: Tls, *, listening: bool) -> ssl.SSLContext:
    """The SSL context of connections to a monitor; blocks while it reads the files.

    Raises:
        OptionsError: one of the files cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listening else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_verify_locations(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise OptionsError(f"tls.ca {tls.ca} contains no usable certificate: {_text(error)}") from error
    try:
        # without this passphrase OpenSSL would ask for one on the terminal
        made.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise OptionsError(
            f"tls.cert {tls.cert} and tls.key {tls.key} are not a certificate and its key without a"
            f" passphrase: {_text(error)}"
        ) from error
    return made


def why_not_secured(error: OSError) -> str:
    """Why a handshake failed or a secured connection broke, and what to check, as one clause."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')} (see tls.ca, tls.name)"
    reason = getattr(error, "reason", None) or ""
    if "ALERT" in reason:
        alert = reason.lower().partition("alert_")[2].replace("_", " ")
        return f"it ends the handshake with {alert!r}: does it trust tls.cert?"
    if reason in _REASONS:
        return _REASONS[reason]
    if isinstance(error, ssl.SSLError):
        return f"the secured connection broke: {_text(error)}"
    if isinstance(error, ConnectionAbortedError):  # asyncio raises it for a handshake that takes too long
        return f"it did not finish the TLS handshake within {HANDSHAKE_S:g} s: is it set to plain MLLP?"
    return "it hung up during the TLS handshake: is it set to plain MLLP, does it trust tls.cert?"


_PLAIN = "it does not send TLS: is it set to plain MLLP?"
_OLD = "it does not support TLS 1.2 or later: update it or its settings"
_REASONS = {  # OpenSSL's reason -> text
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it presents no certificate, but both sides must present one",
    "UNSUPPORTED_PROTOCOL": _OLD,
    "NO_PROTOCOLS_AVAILABLE": _OLD,
    "WRONG_VERSION_NUMBER": _PLAIN,
    "HTTP_REQUEST": _PLAIN,
    "PACKET_LENGTH_TOO_LONG": _PLAIN,
    "BAD_PACKET_LENGTH": _PLAIN,
}


def _text(error: Exception) -> str:
    reason: str | None = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if reason else getattr(error, "strerror", None) or str(error)
