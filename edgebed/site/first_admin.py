"""The first administrator of a site's collector: a user with a password that is shown once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from collector.rights.accounts import Accounts
from collector.rights.passwords import hashed
from collector.rights.user import Grant
from collector.state.audit import audited
from collector.state.state_file import StateFile
from edgebed.site.files import make_folder
from wire.clock import Clock

EVERYTHING = "*"


def add_first_admin(store: Path, name: str, clock: Clock, warn: Callable[[str], None]) -> str:
    """Make the user in a collector's store; returns its password, "" if the store has users already.

    Raises:
        ConfigError: the store cannot be written.
        EdgebedError: the name is not one of a user.
    """
    if not store.exists():
        make_folder(store, 0o700)
    with closing(StateFile(store)) as state:
        accounts = Accounts(state, clock)
        if accounts.read().accounts:
            return ""
        password = secrets.token_urlsafe(15)
        with audited(state, clock, "user add", f"{name}: admin of {EVERYTHING}", warn):
            accounts.add(name, hashed(password), Grant("admin", (EVERYTHING,)))
        return password
