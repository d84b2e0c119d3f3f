"""What errors of sockets and TLS mean, in words that name what to check."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from wire.socket_errors import code_of, why_no_connection, why_no_tls


def tls_error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}] text")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            tls_error("TLSV1_ALERT_UNKNOWN_CA"),
            "it ends the TLS handshake with 'unknown ca': does it accept cert_file?",
        ),
        (tls_error("WRONG_VERSION_NUMBER"), "it does not use TLS: is the port right?"),
        (
            tls_error("UNSUPPORTED_PROTOCOL"),
            "it does not support TLS 1.2 or later: update it or its settings",
        ),
        (tls_error("UNEXPECTED_EOF", ssl.SSLEOFError), "it ended the TLS handshake without a reason"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "it ended the TLS handshake without a reason"),
        (TimeoutError(), "no answer to the TLS handshake: is the port right?"),
        (tls_error("BAD_SIGNATURE"), "the TLS handshake failed: bad signature"),
    ],
)
def test_a_failed_handshake_has_a_sentence(error: OSError, text: str) -> None:
    assert why_no_tls(error).startswith(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection-refused"),
        (socket.gaierror(-2, "x"), "host-unknown"),
        (TimeoutError(), "no-answer"),
        (OSError(errno.EMFILE, "x"), None),
        (ValueError("x"), None),
    ],
)
def test_a_failed_connection_has_a_code(error: BaseException, code: str | None) -> None:
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("code", "what_to_do"),
    [
        (9, "set the clock of this machine"),
        (10, "renew it there, or set the clock of this machine"),
        (18, "see ca_file"),
        (
            20,
            "see ca_file; if the site has got another root while this device was off, enrol with a new token",
        ),
        (62, "see server_name"),
        (64, "see server_name"),
    ],
)
def test_a_certificate_that_is_not_accepted_has_advice(code: int, what_to_do: str) -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = code, "why."
    assert why_no_tls(error) == f"its certificate is not accepted: why; {what_to_do}"


def test_a_name_that_cannot_exist_is_unknown() -> None:
    error = UnicodeError("label empty or too long")
    assert why_no_connection(error) == "the host name is unknown: is it spelled right?"
    assert code_of(error) == "host-unknown"
