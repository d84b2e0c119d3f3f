"""The key of a node's signed statements at its enrolment: the device proves it, the site notes it."""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.custody.node_key import KEY_FILE, NodeKey
from agent.identity import CUSTODY_FILE
from edgebed.site.enrolment_wire import Enrol, Renew, custody_form
from edgebed.site.files import SECRET, Owner, write
from wire.errors import ConfigError, EdgebedError


def device_key(
    folder: Path, state: Path | None, user: Owner | None, *, is_new: bool = False
) -> NodeKey | None:
    """The key in the folder of the certificate; first that of the agent's state folder, or a new one.

    None where a folder of an earlier release has none, and no state folder is given.

    Raises:
        ConfigError: a key cannot be read or written.
    """
    path = folder / CUSTODY_FILE
    sources = [path, *([] if state is None else [state / KEY_FILE])]
    for source in sources:
        try:
            key = NodeKey.read(source)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"{source} is not a key: {error}; restore it, or move it away") from error
        break
    else:
        if not is_new:
            return None
        key = NodeKey(secrets.token_bytes(32))
    if not path.exists():
        write(path, key.content, SECRET, user)
    return key


def show(asked: Enrol | Renew, key: NodeKey | None, node: str) -> None:
    """Put the key and its proof into a request."""
    if key is not None:
        asked.custody, asked.proof = key.public, key.sign(custody_form(node, asked.request))


def proven(asked: Enrol | Renew, node: str) -> str:
    """The key in a request, in hexadecimal digits; "" where an older device sends none.

    Raises:
        EdgebedError: the device does not show that it has it.
    """
    if not asked.custody:
        return ""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(asked.custody))
        key.verify(bytes.fromhex(asked.proof), custody_form(node, asked.request))
    except (InvalidSignature, ValueError) as error:
        raise EdgebedError(
            f"the device does not show that it has key {asked.custody[:16]} of its signed statements"
        ) from error
    return asked.custody
