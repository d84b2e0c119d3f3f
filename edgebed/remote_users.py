"""The users of a collector on another machine, changed over its HTTP API."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from edgebed.collector_api import CollectorApi
from edgebed.secret_file import read_secret

PATH = "users"


class RemoteUsers:
    """The users that the administrator of a token may manage."""

    def __init__(self, url: str, token_file: Path | None) -> None:
        if token_file is None:
            raise click.UsageError("--url needs --token-file: an API token of an administrator")
        if url.startswith("http://") and not _is_here(url):
            raise click.UsageError(f"--url {url!r}: passwords and tokens need https://")
        read_secret(token_file, "--token-file", "token")
        self._api = CollectorApi(url, token_file)

    def all(self) -> list[dict[str, Any]]:
        """The users as the API lists them."""
        found: list[dict[str, Any]] = self._api.ask(PATH)["users"]
        return found

    def add(self, name: str, password: str, role: str, prefixes: tuple[str, ...]) -> None:
        """Add a user."""
        body = {"name": name, "password": password, "role": role, "prefixes": prefixes}
        self._api.change("POST", PATH, body)

    def change_password(self, name: str, password: str) -> None:
        """Change a password."""
        self._api.change("PUT", f"{_of(name)}/password", {"password": password})

    def remove(self, name: str) -> None:
        """Remove a user."""
        self._api.change("DELETE", _of(name))

    def add_token(
        self, name: str, label: str, role: str, prefixes: tuple[str, ...], days: int
    ) -> dict[str, Any]:
        """Make an API token; the answer has it, once."""
        body = {"label": label, "role": role, "prefixes": prefixes, "days": days}
        found: dict[str, Any] = self._api.change("POST", f"{_of(name)}/tokens", body)
        return found

    def remove_token(self, name: str, identity: str) -> None:
        """Remove an API token."""
        self._api.change("DELETE", f"{_of(name)}/tokens/{quote(identity, safe='')}")


def _of(name: str) -> str:
    return f"{PATH}/{quote(name, safe='')}"


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
