"""What the errors of sockets and TLS mean, in words that name what to check."""

from __future__ import annotations

import errno
import re
import socket
import ssl

_WHY = {
    errno.ECONNREFUSED: "nothing listens there: is it on, are host and port right?",
    errno.EHOSTUNREACH: "the host cannot be reached: is it on, is the network up?",
    errno.ENETUNREACH: "the network cannot be reached: is it up?",
    errno.ETIMEDOUT: "no answer: is it on, is the address right?",
    errno.ENOENT: "the device does not exist: is it plugged in, is the name right?",
    errno.ENODEV: "the device does not exist: is it plugged in, is the name right?",
    errno.EACCES: "permission denied: is this user in its group (dialout for serial ports)?",
    errno.EPERM: "permission denied: is this user in its group (dialout for serial ports)?",
}

_CODES = {
    errno.ECONNREFUSED: "connection-refused",
    errno.EHOSTUNREACH: "host-unreachable",
    errno.ENETUNREACH: "host-unreachable",
    errno.ETIMEDOUT: "no-answer",
    errno.ENOENT: "device-missing",
    errno.ENODEV: "device-missing",
    errno.EACCES: "permission-denied",
    errno.EPERM: "permission-denied",
}

_NOT_TLS = "it does not use TLS: is the port right?"
_OLD_TLS = "it does not support TLS 1.2 or later: update it or its settings"
_OTHER_ROOT = (
    "see ca_file; if the site has got another root while this device was off, enrol with a new token"
)
_CERTIFICATES = {  # OpenSSL's X509_V_ERR -> what to do
    9: "set the clock of this machine",
    10: "renew it there, or set the clock of this machine",
    19: _OTHER_ROOT,
    20: _OTHER_ROOT,
    62: "see server_name",
    64: "see server_name",
}
_TLS_REASONS = {  # OpenSSL's reason -> text
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "NO_PROTOCOLS_AVAILABLE": _OLD_TLS,
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "HTTP_REQUEST": _NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": _NOT_TLS,
    "BAD_PACKET_LENGTH": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
}


def why_no_connection(error: BaseException) -> str:
    """The reason why something could not be opened, as a sentence that names what to check."""
    found = _cause(error)
    if isinstance(found, socket.gaierror) or isinstance(error, UnicodeError):  # of IDNA
        return "the host name is unknown: is it spelled right?"
    number = _number(error)
    plain = getattr(found, "strerror", None) or str(error) or type(error).__name__
    return _WHY.get(number, plain) if number is not None else plain


def why_no_tls(error: OSError) -> str:
    """The reason why a TLS handshake failed, as a sentence that names the key of the config to check."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        what_to_do = _CERTIFICATES.get(error.verify_code, "see ca_file")
        return f"its certificate is not accepted: {why}; {what_to_do}"
    reason = getattr(error, "reason", None) or ""
    if "ALERT" in reason:
        alert = reason.lower().partition("alert_")[2].replace("_", " ")
        return f"it ends the TLS handshake with {alert!r}: does it accept cert_file?"
    if reason in _TLS_REASONS:
        return _TLS_REASONS[reason]
    if isinstance(error, TimeoutError):
        return f"no answer to the TLS handshake: {_NOT_TLS.partition(': ')[2]}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return "it ended the TLS handshake without a reason: is the port right, does it accept cert_file?"
    return f"the TLS handshake failed: {reason.lower().replace('_', ' ') or error}"


def code_of(error: BaseException) -> str | None:
    """The code (`wire.reasons`) of a failed connection, None if the cause is unknown."""
    if isinstance(_cause(error), socket.gaierror) or isinstance(error, UnicodeError):
        return "host-unknown"
    number = _number(error)
    return None if number is None else _CODES.get(number)


def _cause(error: BaseException) -> BaseException | None:
    return error if isinstance(error, OSError) else error.__cause__


def _number(error: BaseException) -> int | None:
    """The errno of a failed connection."""
    found = _cause(error)
    if isinstance(found, ssl.SSLError):
        return None  # its numbers are OpenSSL's
    number: int | None = getattr(found, "errno", None)
    if number is None:  # a name with several addresses, such as localhost: the text lists each failure
        shown = re.search(r"\[Errno (\d+)\]", str(error))
        number = int(shown[1]) if shown else None
    if number is None and isinstance(found, TimeoutError):
        number = errno.ETIMEDOUT
    return number
