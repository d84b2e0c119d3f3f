"""TLS of the page: its certificate and key, taken again when they are renewed."""

from __future__ import annotations

import ssl
import stat
from datetime import datetime
from pathlib import Path

from cryptography import x509

from wire.errors import ConfigError

DAYS_LEFT = 7  # of a certificate, from when on it is a problem


class ServerTls:
    """The context that connections are accepted with; a connection keeps the certificate it began with."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Read both files.

        Raises:
            ConfigError: they cannot be used.
        """
        self._cert_file = cert_file
        self._key_file = key_file
        self._seen: object = None
        self._ends: datetime | None = None
        self.context = _context()
        self.refresh()

    def refresh(self) -> None:
        """Take the files if they changed; what was read before stays where they cannot be used.

        Raises:
            ConfigError: they cannot be used; the message names them.
        """
        try:
            seen = [_identity(path) for path in (self._cert_file, self._key_file)]
            if seen == self._seen:
                return
            _require_private(self._key_file)
            # another context tries them: half of a renewed pair must not replace half of the old one
            for context in (_context(), self.context):
                # without this empty passphrase OpenSSL would ask for one on the terminal and block
                context.load_cert_chain(self._cert_file, self._key_file, password=lambda: b"")
            self._ends = x509.load_pem_x509_certificate(self._cert_file.read_bytes()).not_valid_after_utc
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"http.cert_file {self._cert_file}, key_file {self._key_file}: {error}; "
                "are they PEM, of one pair, without a passphrase?"
            ) from error
        self._seen = seen

    def expiry(self, now: datetime) -> str:
        """The sentence for a certificate that ends soon, "" for others."""
        if self._ends is None or (self._ends - now).days >= DAYS_LEFT:
            return ""
        verb = "ended" if self._ends <= now else "ends"
        return f"the certificate in http.cert_file {verb} on {self._ends:%Y-%m-%d %H:%M} UTC: renew it"


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _require_private(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o037:
        raise ConfigError(
            f"http.key_file {path} has mode {mode:04o}: other users could read it; run chmod 600 {path}"
        )
