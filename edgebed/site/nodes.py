"""The clients of a site: certificates that nodes got, and whose rights were taken away."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgebed.site.certificates import Authority, leaf, name_of, pem, read_certificates, read_key
from edgebed.site.files import PUBLIC, read, write
from edgebed.site.layout import Layout
from edgebed.site.settings import MAX_NAME
from wire.errors import ConfigError
from wire.topics import Address

NODES, REMOVED = "nodes", "nodes/removed"
NODE_DAYS = 365
Kind = Literal["viewer", "collector"]
KINDS: tuple[Kind, ...] = ("viewer", "collector")


def current(layout: Layout) -> dict[str, x509.Certificate]:
    """Name to certificate of each node, sorted."""
    return dict(sorted((name_of(one), one) for one in _certificates(layout.path(NODES))))


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
    """Make the certificate of a node and keep a copy; returns it as PEM, with the authority's.

    Its name is tenant/pilot/site/node, so that access rules can name the node's topics by a pattern.

    Raises:
        ConfigError: the name is too long, or the authority's files cannot be used.
    """
    if len(node.text) > MAX_NAME:
        raise ConfigError(
            f"{node} has {len(node.text)} characters, and a certificate takes {MAX_NAME}: use shorter ids"
        )
    authority = nodes_authority(layout)
    made = pem(leaf(node.text, key, authority, now, NODE_DAYS, "client"), authority.certificate)
    write(layout.path(NODES) / f"{node.client_id}.pem", made, PUBLIC)
    return made


def nodes_authority(layout: Layout) -> Authority:
    """The authority that signs nodes.

    Raises:
        ConfigError: the site has none, or its files cannot be used.
    """
    path, key_path = layout.path("authority/nodes.pem"), layout.path("authority/nodes.key")
    data, key = read(path), read(key_path)
    if data is None or key is None:
        raise ConfigError(f"{layout.folder} is not a complete site: run `edgebed site init {layout.folder}`")
    return Authority(read_certificates(data, path)[0], read_key(key, key_path))


def _certificates(folder: Path) -> Iterator[x509.Certificate]:
    for path in sorted(folder.glob("*.pem")):
        data = read(path)
        if data is not None:
            yield read_certificates(data, path)[0]
