"""The `broker:` section of every configuration: address, credentials and TLS context of the MQTT broker."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta, Struct

from wire.errors import ConfigError

PORTS = {"mqtt": 1883, "mqtts": 8883}
_MAX_SECRET = 4096  # bytes; a password file larger than this is the wrong file


class Broker(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Address of the broker, and the credentials of this client.

    Secrets are in separate files, never in the configuration. `wire.config` resolves file names relative to
    the folder of the configuration.
    """

    url: Annotated[str, Meta(max_length=300, description="mqtt://host[:port], or mqtts:// for TLS.")]
    username: Annotated[str, Meta(max_length=256, description="The client id if empty.")] = ""
    password_file: Annotated[Path | None, Meta(description="File whose first line is the password.")] = None
    ca_file: Annotated[Path | None, Meta(description="PEM of the authority; the system's if absent.")] = None
    cert_file: Annotated[Path | None, Meta(description="PEM of the client's certificate, for mTLS.")] = None
    key_file: Annotated[Path | None, Meta(description="PEM of the client's key.")] = None
    server_name: Annotated[
        str, Meta(max_length=253, description="Name in the broker's certificate; the url's host if empty.")
    ] = ""
    protocol: Annotated[
        Literal["auto", "3.1.1", "5", 5], Meta(description="auto tries MQTT 5 and falls back to 3.1.1.")
    ] = "auto"  # YAML reads a bare 5 as a number

    @property
    def host(self) -> str:
        """Host name or address, IPv6 without brackets."""
        return _split(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port: the one in the URL, else 1883, or 8883 with TLS."""
        split = _split(self.url)
        return split.port or PORTS[split.scheme]

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return _split(self.url).scheme == "mqtts"

    def mistakes(self, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], str]]:
        """Settings that cannot work, as `(path, sentence)`; `path` leads to this section. Opens no file."""
        try:
            _split(self.url)
        except ConfigError as error:
            yield (*path, "url"), str(error)
            return
        if self.cert_file and not self.key_file:
            yield (*path, "cert_file"), "cert_file needs key_file beside it"
        if self.key_file and not self.cert_file:
            yield (*path, "key_file"), "key_file needs cert_file beside it"
        for key in ("ca_file", "cert_file", "server_name"):
            if getattr(self, key) and not self.tls:
                yield (*path, key), f"{key} needs a url that starts with mqtts://"

    def password(self) -> str | None:
        """The password, read from the file at each call; None if no file is configured.

        Raises:
            ConfigError: the file cannot be read, or is not a password file.
        """
        if not self.password_file:
            return None
        try:
            with self.password_file.open("rb") as file:
                raw = file.read(_MAX_SECRET + 1)
            text = raw.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"broker.password_file {self.password_file}: {error}") from error
        lines = text.splitlines()
        if len(raw) > _MAX_SECRET or not lines or not lines[0]:
            raise ConfigError(
                f"broker.password_file {self.password_file}: its first line must be the password"
            )
        return lines[0]

    def ssl_context(self) -> ssl.SSLContext | None:
        """A TLS context that verifies the broker and presents the client certificate; None without TLS.

        Raises:
            ConfigError: a certificate or key cannot be used; the message names the file.
        """
        if not self.tls:
            return None
        try:
            context = _ServerNameContext(ssl.PROTOCOL_TLS_CLIENT)
            context.server_name = self.server_name
            if self.ca_file:
                context.load_verify_locations(cafile=self.ca_file)
            else:
                context.load_default_certs()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"broker.ca_file {self.ca_file}: {error}") from error
        if self.cert_file and self.key_file:
            try:
                # without this empty passphrase OpenSSL would ask for one on the terminal and block
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"broker.cert_file {self.cert_file}, key_file {self.key_file}: {error};"
                    " is it PEM, without a passphrase?"
                ) from error
        return context


class _ServerNameContext(ssl.SSLContext):
    """Verifies `server_name` instead of the host it connects to: they differ behind a tunnel or a proxy."""

    server_name = ""

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        if self.server_name:
            options["server_hostname"] = self.server_name
        return super().wrap_socket(*args, **options)


def _split(url: str) -> SplitResult:
    if "@" in url:  # first: the other errors show the url
        raise ConfigError("broker url contains a user or password; use the keys username and password_file")
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError as error:
        raise ConfigError(f"broker url {url!r}: {error}; write mqtt://host:port") from error
    if split.scheme not in PORTS or not split.hostname or port == 0:
        raise ConfigError(f"broker url {url!r} is not mqtt://host[:port] or mqtts://host[:port]")
    if split.path.strip("/") or split.query or split.fragment:
        raise ConfigError(f"broker url {url!r} has text after the host and port; remove it")
    return split
