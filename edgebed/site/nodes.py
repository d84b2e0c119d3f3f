"""The clients of a site: certificates that nodes got, and whose rights were taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgebed.site.authorities import check_clock, signing
from edgebed.site.certificates import is_signed_by, leaf, name_of, pem, read_certificates
from edgebed.site.enrolled import note_removal
from edgebed.site.files import PUBLIC, read, write
from edgebed.site.layout import Layout
from edgebed.site.settings import MAX_NAME, ONE_COMPANY
from wire.config import did_you_mean
from wire.errors import ConfigError, EdgebedError, unwritable
from wire.folder_sync import sync_folder
from wire.topics import Address

NODES, REMOVED = "nodes", "nodes/removed"
NODE_DAYS = 365
Kind = Literal["viewer", "collector"]
KINDS: tuple[Kind, ...] = ("viewer", "collector")


def current(layout: Layout) -> dict[str, x509.Certificate]:
    """Name to newest certificate of each node, sorted."""
    newest: dict[str, x509.Certificate] = {}
    for one in _certificates(layout.path(NODES)):
        newest.setdefault(name_of(one), one)
    return dict(sorted(newest.items()))


def removed(layout: Layout) -> list[x509.Certificate]:
    """The certificates that are revoked."""
    return list(_certificates(layout.path(REMOVED)))


def removed_names(layout: Layout) -> list[str]:
    """The nodes that were removed and not added again."""
    return sorted({name_of(one) for one in removed(layout)} - current(layout).keys())


def dropped(layout: Layout, kind: Kind) -> dict[str, x509.Certificate]:
    """Folder to certificate of each viewer or collector that is not in `site.yaml` any more."""
    known = {each.name for each in layout.folders}
    found = {}
    for path in sorted(layout.folder.glob(f"{kind}s/*/{kind}.pem")):
        folder = f"{kind}s/{path.parent.name}"
        if folder not in known and (data := read(path)) is not None:
            found[folder] = read_certificates(data, path)[0]
    return found


def issue(layout: Layout, node: Address, key: ec.EllipticCurvePublicKey, now: datetime) -> bytes:
    """Make the certificate of a node and note it; returns it as PEM, with the authority's.

    Its name is tenant/pilot/site/node, so that access rules can name the node's topics by a pattern.

    Raises:
        ConfigError: the name is too long, a nats broker is of another company, or the authority's files
            cannot be used.
        TryAgain: the clock is before the authority.
    """
    check_name(layout, node)
    authority = signing(layout, "nodes")
    check_clock(layout, now)
    made = leaf(node.text, key, authority, now, NODE_DAYS, "client")
    # all that are still valid: a removal must revoke each of them
    valid = [one for one in issued(layout, node) if one.not_valid_after_utc > now]
    write(_path(layout, node), pem(made, *valid), PUBLIC)
    return pem(made, authority.certificate)


def check_name(layout: Layout, node: Address) -> None:
    """Check that this site can give this node a certificate.

    Raises:
        ConfigError: it cannot.
    """
    if len(node.text) > MAX_NAME:
        raise ConfigError(
            f"{node} has {len(node.text)} characters, and a certificate takes {MAX_NAME}: use shorter ids"
        )
    if layout.site.tenant not in ("", node.tenant):
        raise ConfigError(f"{node} is of another company than {layout.site.tenant}: {ONE_COMPANY}")


def issued(layout: Layout, node: Address) -> list[x509.Certificate]:
    """The certificates of a node that are not revoked, the newest first."""
    data = read(_path(layout, node))
    return read_certificates(data, _path(layout, node)) if data else []


def take_away(layout: Layout, node: Address, is_visible: Callable[[str], bool] = lambda _: True) -> None:
    """Move the certificates of a node to those that the next revocation list has.

    The error suggests visible nodes alone.

    Raises:
        EdgebedError: the node has none.
    """
    found = issued(layout, node)
    if not found:
        hint = did_you_mean(node.text, filter(is_visible, current(layout)))
        raise EdgebedError(f"{node} has no certificate of this site{hint}")
    note_removal(layout, node)  # first: a command that is cut off here can be repeated
    old = _path(layout, node)
    try:
        old.rename(layout.path(REMOVED) / f"{node.client_id}-{found[0].serial_number:x}.pem")
        for folder in (REMOVED, NODES):
            sync_folder(layout.path(folder))
    except OSError as error:
        raise unwritable(str(old), error) from error


def _path(layout: Layout, node: Address) -> Path:
    return layout.path(NODES) / f"{node.client_id}.pem"


def keep_issued(layout: Layout, issuer: x509.Certificate) -> None:
    """Forget the nodes' certificates that another authority signed, where a node has one of this one."""
    for path in sorted(layout.path(NODES).glob("*.pem")):
        data = read(path)
        found = read_certificates(data, path) if data is not None else []
        kept = [one for one in found if is_signed_by(one, issuer)]
        if kept and kept != found:
            write(path, pem(*kept), PUBLIC)


def _certificates(folder: Path) -> Iterator[x509.Certificate]:
    for path in sorted(folder.glob("*.pem")):
        data = read(path)
        if data is not None:
            yield from read_certificates(data, path)
