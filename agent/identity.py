"""What the site gave this node at its enrolment, in the folder of its certificate."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from wire.broker import Broker
from wire.errors import ConfigError
from wire.mac import read_secret

ENROLMENT = "enrolment.json"  # where the certificate is renewed
MAC_FILE = "mac.key"
CUSTODY_FILE = "custody.key"  # signs the statements of the node
_MAX_BYTES = 4_096


class Enrolment(Struct):
    """The content of `enrolment.json`; `mac`: the site gave a key, so its file must be there."""

    url: str
    mac: bool = False


def folder_of(broker: Broker) -> Path | None:
    """The folder of the node's certificate; None without one."""
    return None if broker.cert_file is None else broker.cert_file.parent


def mac_key(folder: Path | None) -> bytes | None:
    """The key that `ack`, `cmd` and `desired` are checked with; None where the site gave none.

    Raises:
        ConfigError: it cannot be used.
    """
    if folder is None:
        return None
    path = folder / MAC_FILE
    if path.exists() or _has_key(folder / ENROLMENT):
        return read_secret(path, "the node's key")
    return None


def _has_key(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Enrolment).mac
    except FileNotFoundError:
        return False
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
