"""The authorities of a site that count: those that sign, and during a rotation the ones before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from cryptography import x509

from edgebed.site.certificates import Authority, is_key_of, is_signed_by, read_certificates, read_key
from edgebed.site.files import read
from edgebed.site.layout import CA, NEXT, OLD, Layout
from wire.errors import ConfigError, TryAgain

Name = Literal["nodes", "collectors"]
NAMES: tuple[Name, ...] = ("nodes", "collectors")
FINISHING = f"{OLD}/finishing"
INTERRUPTED = "a rotation of the authorities was interrupted: run `edgebed site rotate-ca` again"


def signing(layout: Layout, name: Name) -> Authority:
    """The authority that signs new certificates.

    Raises:
        ConfigError: the site has none, or its files cannot be used.
    """
    found = _pair(layout, f"authority/{name}")
    if found is None:
        why = INTERRUPTED if layout.path(NEXT).exists() else f"run `edgebed site init {layout.folder}`"
        raise ConfigError(f"{layout.folder} is not a complete site: {why}")
    return found


def accepted(layout: Layout, name: Name) -> list[Authority]:
    """The authorities whose certificates count now, the signing one first."""
    folders = ["authority", NEXT] if layout.path(FINISHING).exists() else ["authority", NEXT, OLD]
    found: dict[x509.Certificate, Authority] = {}
    for folder in folders:
        one = _pair(layout, f"{folder}/{name}")
        if one is not None:
            found.setdefault(one.certificate, one)
    return list(found.values())


def before(layout: Layout, name: Name) -> Authority | None:
    """The authority before the rotation that runs; None without one."""
    return _pair(layout, f"{OLD}/{name}")


def serving(layout: Layout) -> Authority:
    """The authority of the servers: all devices must trust it, so it is the one before until the end."""
    old = None if layout.path(FINISHING).exists() else before(layout, "nodes")
    return old or signing(layout, "nodes")


def roots(layout: Layout) -> list[x509.Certificate]:
    """What clients trust, the current root first.

    Raises:
        ConfigError: the site has none.
    """
    data = read(layout.path(CA))
    if data is None:
        raise ConfigError(f"{layout.folder} is not a complete site: run `edgebed site init {layout.folder}`")
    return read_certificates(data, layout.path(CA))


def serving_root(layout: Layout) -> x509.Certificate:
    """The root of the certificate that broker and enrolment service show now: a token names this one."""
    found, path = roots(layout), layout.path("broker/broker.pem")
    data = read(path)
    shown = read_certificates(data, path)[-1:] if data else []
    return next((one for one in found for each in shown if is_signed_by(each, one)), found[0])


def check_clock(layout: Layout, now: datetime) -> None:
    """Check that the clock is not before the authority.

    Raises:
        TryAgain: it is.
    """
    start = signing(layout, "nodes").certificate.not_valid_before_utc
    if start > now:
        raise TryAgain(
            f"the clock of this machine shows {now:%Y-%m-%d}, and the site's authority is valid from"
            f" {start:%Y-%m-%d}: set the clock"
        )


def old_root(layout: Layout) -> Iterator[x509.Certificate]:
    """The root before the rotation that runs, if one runs."""
    path = layout.path(f"{OLD}/root.pem")
    if (data := read(path)) is not None:
        yield read_certificates(data, path)[0]


def _pair(layout: Layout, stem: str) -> Authority | None:
    """A certificate with its key; None if one is missing, or a rotation has not replaced both yet."""
    path, key_path = layout.path(f"{stem}.pem"), layout.path(f"{stem}.key")
    data, key_data = read(path), read(key_path)
    if data is None or key_data is None:
        return None
    certificate, key = read_certificates(data, path)[0], read_key(key_data, key_path)
    if is_key_of(certificate, key):
        return Authority(certificate, key)
    if layout.path(NEXT).exists():
        return None
    raise ConfigError(f"{key_path} is not the key of its certificate: restore it from a copy")
