"""The folder that a device gets: its key, its certificate, the root, and the part of its config."""

from __future__ import annotations

import secrets
import shutil
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.custody.node_key import NodeKey
from agent.identity import CUSTODY_FILE, MAC_FILE
from edgebed.site.broker_config import agent
from edgebed.site.certificates import key_pem, new_key
from edgebed.site.enrolled import mac_key, note_node
from edgebed.site.files import PUBLIC, SECRET, make_folder, read, write
from edgebed.site.layout import CA, Layout
from edgebed.site.running import admit
from wire.errors import ConfigError, EdgebedError
from wire.printable import printable
from wire.topics import Address


def write_credential(
    layout: Layout, node: Address, out: Path, now: datetime, request: Path | None = None
) -> list[str]:
    """Make a certificate for a node in a new folder, with a key unless the device has made it.

    Returns what is left to do.

    Raises:
        ConfigError: the folder exists or cannot be written, the request does not fit, or the site is not
            complete.
        TryAgain: the disk is full.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: name a new folder, so that no key is overwritten")
    root = read(layout.path(CA))
    if root is None:
        raise ConfigError(f"{layout.folder} is not a complete site: run `edgebed site init {layout.folder}`")
    key, custody = None, ""
    if request is None:
        key = new_key()
        public = key.public_key()
    else:
        public = requested(read(request) or b"", str(request), node)
    make_folder(out, 0o700)
    try:
        if key is not None:
            write(out / "node.key", key_pem(key), SECRET)
            statements = NodeKey(secrets.token_bytes(32))
            custody = statements.public
            write(out / CUSTODY_FILE, statements.content, SECRET)
        write(out / CA, root, PUBLIC)
        write(out / "broker.yaml", agent(layout.site).encode(), PUBLIC)
        made, left = admit(layout, node, public, now)
        note_node(layout, node, custody)
        if found := mac_key(layout, node):
            write(out / MAC_FILE, f"{found}\n".encode(), SECRET)
        write(out / "node.pem", made, PUBLIC)
    except EdgebedError:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return left


def requested(data: bytes, what: str, node: Address) -> ec.EllipticCurvePublicKey:
    """The key of a certificate request for this node; all else that it asks for is ignored.

    Raises:
        ConfigError: it does not fit.
    """
    try:
        found = x509.load_pem_x509_csr(data)
        is_signed = found.is_signature_valid
        key = found.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{what} is not a certificate request in PEM: make it on the device again"
        ) from error
    if not is_signed:
        raise ConfigError(f"{what} is not signed with its own key: make it on the device again")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{what} is for a key that is not EC P-256: make it on the device again")
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [str(one.value) for one in names] != [node.text]:
        name = printable("".join(str(one.value) for one in names))
        raise ConfigError(f"{what} is for {name!r}, not for {node}: make it on the device again")
    return key
