"""The collector's YAML config: its structs, and the mistakes that types do not detect."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from collector.ingest.share_limits import Shares
from collector.store import retention
from collector.store.retention import Quota, RetentionRule
from collector.web.tls import ServerTls
from wire import config
from wire.broker import Broker
from wire.config import Marks, Mistake
from wire.errors import ConfigError
from wire.mac import read_secret
from wire.messages import is_id

_MIN_TOKEN = 16  # characters; a shorter token can be guessed over the network


class Http(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where the dashboard and the API are served."""

    host: Annotated[str, Meta(min_length=1, max_length=253, description="Address to listen on.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes any free one.")] = 8080
    token_file: Annotated[
        Path | None, Meta(description="File whose first line is a token for everything; for this release.")
    ] = None
    cert_file: Annotated[Path | None, Meta(description="PEM of the certificate of the page, for TLS.")] = None
    key_file: Annotated[
        Path | None, Meta(description="PEM of its key; both are taken again when renewed.")
    ] = None
    names: Annotated[
        list[str], Meta(max_length=50, description="Host names the page is reached by, besides localhost.")
    ] = []

    session_hours: Annotated[int, Meta(ge=1, le=720, description="How long a login lasts.")] = 12
    connections_per_address: Annotated[
        int, Meta(ge=10, le=450, description="Connections that one address may have open.")
    ] = 100
    proxies: Annotated[
        list[str],
        Meta(
            max_length=50,
            description="Addresses of reverse proxies: they may have 450 connections, and their "
            "X-Forwarded-For is believed.",
        ),
    ] = field(default_factory=lambda: ["127.0.0.1", "::1"])

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return _is_loopback(self.host)

    @property
    def is_private(self) -> bool:
        """Whether requests of other machines come with TLS, from here or from a proxy on another machine."""
        return self.is_loopback or self.cert_file is not None or not all(map(_is_loopback, self.proxies))

    def tls(self) -> ServerTls | None:
        """The certificate and key, read now; None without TLS.

        Raises:
            ConfigError: they cannot be used.
        """
        if self.cert_file is None or self.key_file is None:
            return None
        return ServerTls(self.cert_file, self.key_file)

    @property
    def token_is_readable(self) -> bool:
        """Whether other users of this machine can read the token."""
        try:
            return self.token_file is not None and bool(self.token_file.stat().st_mode & 0o007)
        except OSError:
            return False

    def token(self) -> str | None:
        """The access token, read from its file now; None when no file is named.

        Raises:
            ConfigError: the file cannot be read or has no token.
        """
        if self.token_file is None:
            return None
        try:
            lines = self.token_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"http.token_file {self.token_file} cannot be read: {reason}; "
                "make it a text file with the token in its first line"
            ) from error
        token = lines[0].strip() if lines else ""
        if len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or ";" in token:
            raise ConfigError(
                f"http.token_file {self.token_file}: its first line must be a token of at least "
                f"{_MIN_TOKEN} printable ASCII characters without ';'"
            )
        return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class CollectorConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole file; a relative path in it is relative to its folder."""

    id: Annotated[str, Meta(description="This collector's name: `by` in acks, and the MQTT client id.")] = (
        "collector-1"
    )
    broker: Annotated[Broker, Meta(description="Where messages come from.")] = field(
        default_factory=lambda: Broker(url="mqtt://127.0.0.1:1883")
    )
    store: Annotated[Path, Meta(description="Folder of the day files.")]
    http: Annotated[Http, Meta(description="Where the dashboard and the API are served.")] = field(
        default_factory=Http
    )
    mac_file: Annotated[
        Path | None,
        Meta(description="Secret of the site, to sign what is sent to nodes: enrolled ones refuse the rest."),
    ] = None
    enrolled_file: Annotated[
        Path | None,
        Meta(description="The site's nodes/enrolled: generations of keys, and keys of signed statements."),
    ] = None
    group_commit_ms: Annotated[
        int, Meta(ge=1, le=5000, description="How long messages are gathered for one commit.")
    ] = 100
    retention_days: Annotated[
        int, Meta(ge=0, le=36_500, description="Days of receipt to keep; 0 keeps all.")
    ] = 0
    retention: Annotated[
        list[RetentionRule],
        Meta(
            max_length=1_000,
            description="Other days for a tenant, a pilot or a class; the most exact rule applies.",
        ),
    ] = []
    quotas: Annotated[
        list[Quota], Meta(max_length=1_000, description="How much of a tenant may be stored in all.")
    ] = []
    models_mb: Annotated[
        int,
        Meta(ge=0, le=10**6, description="Megabytes of model packages that each tenant may push; 0: none."),
    ] = 2_000
    shares: Annotated[
        Shares,
        Meta(description="What nodes and tenants may use; more is refused and waits in their outboxes."),
    ] = field(default_factory=Shares)

    def mac_secret(self) -> bytes | None:
        """The secret of the site, read from its file now; None when no file is named.

        Raises:
            ConfigError: the file cannot be used.
        """
        return None if self.mac_file is None else read_secret(self.mac_file, "mac_file")


def load(path: Path) -> CollectorConfig:
    """Read and check a collector's config; this does not connect to a broker.

    Raises:
        ConfigError: every mistake.
    """
    try:
        return config.load(path, CollectorConfig, _check)
    except ConfigError as error:
        found = config.keys(path)
        if "devices" not in found or found & {"store", "http", "shares", "id"}:
            raise
        other = f"{path}: this is an agent's config: use `edgebed agent check {path}`"
        raise ConfigError(other) from error


def mistakes(found: CollectorConfig) -> Iterator[Mistake]:
    """The mistakes that types do not detect, as `(path of keys, sentence)`."""
    if not is_id(found.id):
        yield ("id",), f"{found.id!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"
    yield from found.broker.mistakes(("broker",))
    yield from retention.mistakes(found.retention, found.quotas)
    if (found.http.cert_file is None) != (found.http.key_file is None):
        yield ("http",), "cert_file and key_file need each other"
    for at, proxy in enumerate(found.http.proxies):
        try:
            ipaddress.ip_address(proxy)
        except ValueError:
            yield ("http", "proxies", at), f"{proxy!r} is not an IP address, such as 127.0.0.1"


def schema() -> dict[str, Any]:
    """JSON Schema of the config for editors."""
    return config.schema(CollectorConfig)


def _check(found: CollectorConfig, _marks: Marks) -> Iterator[Mistake]:
    yield from mistakes(found)
